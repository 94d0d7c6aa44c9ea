"""Names of output files by a pattern."""

from pathlib import Path

import pytest

from mossformer_sb import InputError
from mossformer_sb.inference.output_names import check_pattern, companion_path, speaker_path


@pytest.mark.parametrize(
    ("pattern", "speaker", "rest"),
    [
        ("{stem}_spk{n}", "talk_spk2.wav", "talk_rest.wav"),
        ("{stem}_s{n}", "talk_s2.wav", "talk_rest.wav"),
        ("{stem}/spk{n}", "talk/spk2.wav", "talk/rest.wav"),
        ("{n}_{stem}", "2_talk.wav", "rest_talk.wav"),
        ("voice{n:03d}-{stem}", "voice002-talk.wav", "rest-talk.wav"),
        ("{stem}.{n}", "talk.2.wav", "talk.rest.wav"),
    ],
)
def test_patterns(pattern, speaker, rest):
    check_pattern(pattern)
    assert speaker_path("out", "talk", 2, "wav", pattern) == Path("out") / speaker
    assert companion_path("out", "talk", "rest", "wav", pattern) == Path("out") / rest


def test_braces_in_a_recordings_name_are_no_fields():
    assert speaker_path("out", "{n}{stem}", 1, "wav").name == "{n}{stem}_spk1.wav"
    assert companion_path("out", "{n}\\1{x}", "rest", "wav").name == "{n}\\1{x}_rest.wav"


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{stem}", r"has no \{n\}, so that all speakers would have the same file"),
        ("", r"has no \{n\}"),
        ("{stem}_{track}_{n}", r"has the field \{track\}, which is not known: possible are \{stem\}"),
        ("{stem}_{n.real}", r"has the field \{n.real\}"),
        ("{stem!r}_{n}", r"has the field \{stem!r\}"),
        ("{stem:>1000000000}_{n}", r"has the field \{stem:>1000000000\}"),
        ("{stem}_{n:9999999d}", r"has the field \{n:9999999d\}"),
        ("{}_{n}", r"has the field \{\}"),
        ("{stem}_{n", "can't be read"),
        ("/tmp/{stem}_{n}", "leads out of the output folder"),
        ("../{stem}_{n}", "leads out of the output folder"),
        ("a/../../{stem}_{n}", "leads out of the output folder"),
        ("C:\\{stem}_{n}", "leads out of the output folder"),
        ("~/{stem}_{n}", "leads out of the output folder"),
        ("{stem}_{n}/", "ends with a folder"),
    ],
)
def test_what_is_refused(pattern, message):
    with pytest.raises(InputError, match=message):
        check_pattern(pattern)


def test_a_recordings_name_does_not_lead_out_either():
    """As that of the file `...wav`, whose stem is two dots."""
    with pytest.raises(InputError, match="leads out of the output folder"):
        speaker_path("out", "..", 1, "wav", "{stem}/spk{n}")


@pytest.mark.parametrize(("stem", "name"), [("~backup", "_backup"), ("A: intro", "A_ intro"), ("~", "_"), ("C:", "C_")])
def test_a_recordings_name_that_looks_like_a_path(stem, name):
    assert speaker_path("out", stem, 1, "wav") == Path("out") / f"{name}_spk1.wav"
    assert companion_path("out", stem, "rest", "wav", "{stem}/{n}") == Path("out") / name / "rest.wav"


@pytest.mark.parametrize("stem", ["~/talk", "C:\\talk", "/talk", "\\talk", "../talk"])
def test_a_path_is_no_name(stem):
    with pytest.raises(InputError, match="leads out of the output folder"):
        speaker_path("out", stem, 1, "wav")
