"""Files of speech activity: RTTM for diarisation tools, JSON for programs, labels for Audacity."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# Endings of the files of `activity_texts`, in their order.
ENDINGS = ("rttm", "json", "txt")


def activity_texts(segments: list[list[tuple[float, ...]]], recording: str, paths: Mapping, speakers: Mapping) -> dict:
    """The content of the files.

    Arguments
    ---------
    segments : list of list of tuple of float
        As from `mossformer_sb.inference.activity.speech_activity`, of all speakers.
    recording : str
        Name of the recording in the files. RTTM allows no blanks in it: they become underscores.
    paths : mapping
        Ending → path of the file.
    speakers : mapping
        Number of each written speaker, from 1 → path of the audio.

    Returns
    -------
    dict
        Path → str.

    Example
    -------
    >>> segments = [[(0.5, 1.25)], [(1.0, 2.0)]]
    >>> texts = activity_texts(segments, "a talk", {"rttm": "r", "txt": "l"}, {1: "s1.wav", 2: "s2.wav"})
    >>> print(texts["r"] + texts["l"].expandtabs(6), end="")
    SPEAKER a_talk 1 0.500 0.750 <NA> <NA> spk1 <NA> <NA>
    SPEAKER a_talk 1 1.000 1.000 <NA> <NA> spk2 <NA> <NA>
    0.500 1.250 spk1
    1.000 2.000 spk2
    """
    found = sorted((start, end, number) for number in speakers for start, end in segments[number - 1])
    name = re.sub(r"\s", "_", recording)
    texts = {
        "rttm": "".join(
            f"SPEAKER {name} 1 {start:.3f} {end - start:.3f} <NA> <NA> spk{number} <NA> <NA>\n"
            for start, end, number in found
        ),
        "json": _json(segments, recording, speakers),
        "txt": "".join(f"{start:.3f}\t{end:.3f}\tspk{number}\n" for start, end, number in found),
    }
    return {path: texts[ending] for ending, path in paths.items()}


def _json(segments, recording, speakers):
    content = {
        "recording": recording,
        "speakers": [
            {
                "speaker": number,
                "path": str(path),
                "segments": [{"start": start, "end": end} for start, end in segments[number - 1]],
            }
            for number, path in speakers.items()
        ],
    }
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    # A file's name that is not UTF-8 has lone surrogates, here as JSON's \udc80 to \udcff, so that the file is UTF-8.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
