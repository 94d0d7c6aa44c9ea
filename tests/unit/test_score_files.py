"""Scores of files: equal to closed forms and to torchmetrics, for any order and layout of the files."""

import importlib.util
import itertools
import math
import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import soundfile
import torch
from torchmetrics.functional.audio import signal_distortion_ratio

from mossformer_sb import InputError
from mossformer_sb.cli import main
from mossformer_sb.evaluation.extra_metrics import extra_metric
from mossformer_sb.evaluation.results import ScoreTable
from mossformer_sb.evaluation.score_files import find_utterances, read_utterances, score
from tests.unit.fresh import in_fresh_process

RATE = 8000


def write(path, samples, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype="FLOAT")
    return path


def orthogonal(num_signals, num_samples=8000):
    """Zero-mean signals of unit power, orthogonal to each other: [S, T]."""
    signals = np.random.randn(num_signals + 1, num_samples)
    signals[0] = 1
    return np.linalg.qr(signals.T)[0].T[1:] * math.sqrt(num_samples)


def si_snr(signal, noise):
    return 10 * math.log10(signal**2 / noise**2)


@pytest.fixture
def signals():
    """Of two voices s and noise n: the mixture s1 + s2 / 2, and estimates with noise and a scale of their own."""
    s1, s2, n1, n2 = 0.1 * orthogonal(4)
    return {"mix": s1 + s2 / 2, "s1": s1, "s2": s2 / 2, "e1": 3 * (s1 + 0.1 * n1), "e2": 0.2 * (s2 / 2 + 0.25 * n2)}


@pytest.fixture
def corpus(tmp_path, signals):
    """Sources and mixture in folders as corpora have them, with an ID that has a folder in it."""
    for kind in ("mix", "s1", "s2"):
        write(tmp_path / "tt" / kind / "day" / "talk.wav", signals[kind])
    return tmp_path / "tt"


def estimates(tmp_path, signals, order=("e1", "e2"), name="est", pattern="day/talk_spk{}.wav"):
    for number, kind in enumerate(order, start=1):
        write(tmp_path / name / pattern.format(number), signals[kind])
    return tmp_path / name


@pytest.mark.parametrize("order", list(itertools.permutations(("e1", "e2"))))
def test_equals_closed_form_and_torchmetrics(corpus, tmp_path, signals, order):
    ((name, scores, others),) = score(find_utterances(estimates(tmp_path, signals, order), corpus))
    expected = (si_snr(1, 0.1) + si_snr(0.5, 0.25)) / 2
    assert (name, others) == ("day/talk", {})
    assert scores.si_snr == pytest.approx(expected, abs=1e-4)
    assert scores.si_snr_i == pytest.approx(expected - (si_snr(1, 0.5) + si_snr(0.5, 1)) / 2, abs=1e-4)
    sources = torch.tensor(np.stack([signals["s1"], signals["s2"]]))
    sdr = in_fresh_process(signal_distortion_ratio, torch.tensor(np.stack([signals["e1"], signals["e2"]])), sources)
    input_sdr = in_fresh_process(signal_distortion_ratio, torch.tensor(signals["mix"]).expand(2, -1), sources)
    assert scores.sdr == pytest.approx(sdr.mean().item(), abs=1e-4)
    assert scores.sdr_i == pytest.approx((sdr - input_sdr).mean().item(), abs=1e-4)


class TestLayouts:
    @pytest.mark.parametrize(
        "pattern",
        [
            *("day/talk_spk{}.wav", "day/talk_s{}.wav", "day/talk_estimate{}.flac", "s{}/day/talk.wav"),
            *("day/talk_est{}.wav", "day/talk-s{}.wav", "day/talk_S{}.wav", "day/talk_source{}hat.wav"),
            *(
                "spk{}/day/talk.wav",
                "S{}/day/talk.wav",
                "day/talk/spk{}.wav",
                "day/talk/s{}.wav",
                "day/talk/s{}_estimate.wav",
            ),
            *("day/talk_speaker{}.wav", "day/talk.spk{}.wav", "est{}/day/talk.wav"),
        ],
    )
    def test_of_estimates(self, corpus, tmp_path, signals, pattern):
        folder = estimates(tmp_path, signals, pattern=pattern.replace("flac", "wav"))
        (utterance,) = find_utterances(folder, corpus)
        assert utterance.id == "day/talk" and len(utterance.estimates) == 2

    def test_examples_of_speechbrain_recipes(self, tmp_path, signals):
        """Sources, estimates and mixture in one folder, with names that differ in their ends."""
        folder = tmp_path / "audio_results"
        write(folder / "item7_mix.wav", signals["mix"])
        estimates(tmp_path, signals, ("s1", "s2"), "audio_results", "item7_source{}.wav")
        estimates(tmp_path, signals, ("e1", "e2"), "audio_results", "item7_source{}hat.wav")
        (utterance,) = find_utterances(folder, folder)
        files = [utterance.mixture, *utterance.sources, *utterance.estimates]
        names = ("mix", "source1", "source2", "source1hat", "source2hat")
        assert [path.stem for path in files] == [f"item7_{name}" for name in names]

    def test_their_ids_are_those_of_the_manifest(self, corpus, tmp_path, signals):
        manifest = tmp_path / "tt.csv"
        files = ",".join(str(corpus / kind / "day" / "talk.wav") for kind in ("mix", "s1", "s2"))
        manifest.write_text(f"ID,mix_wav,s1_wav,s2_wav\n7,{files}\n")
        (utterance,) = find_utterances(estimates(tmp_path, signals, pattern="item7_source{}hat.wav"), manifest)
        assert utterance.id == "7"

    def test_a_folder_for_each_mixture(self, tmp_path, signals):
        for kind, name in (("mix", "mixture"), ("s1", "s1"), ("s2", "s2")):
            write(tmp_path / "tt" / "mix_00001" / f"{name}.wav", signals[kind])
        folder = estimates(tmp_path, signals, pattern="mix_00001/spk{}.wav")
        (utterance,) = find_utterances(folder, tmp_path / "tt")
        assert (utterance.id, utterance.mixture.name) == ("mix_00001", "mixture.wav")
        assert [path.name for path in utterance.sources] == ["s1.wav", "s2.wav"]

    def test_two_files_for_one_signal(self, corpus, tmp_path, signals):
        folder = estimates(tmp_path, signals)
        write(folder / "day" / "talk_spk1.flac.wav", signals["e1"])
        write(folder / "day" / "talk_SPK1.wav", signals["e1"])
        with pytest.raises(InputError, match="is the same signal as .*Remove one, or give a --table"):
            find_utterances(folder, corpus)

    @pytest.mark.parametrize("kind", ["mix", "s2"])
    def test_two_formats_of_one_signal(self, corpus, tmp_path, signals, kind):
        soundfile.write(corpus / kind / "day" / "talk.flac", signals["s1"], 8000)
        with pytest.raises(InputError, match="talk.wav: is the same signal as .*talk.flac. Remove one, or give"):
            find_utterances(estimates(tmp_path, signals), corpus)

    def test_all_in_one_folder(self, tmp_path, signals):
        """As training writes its examples."""
        write(tmp_path / "audio/x_mix.wav", signals["mix"])
        estimates(tmp_path, signals, ("s1", "s2"), "audio", "x_source{}.wav")
        estimates(tmp_path, signals, ("e1", "e2"), "audio", "x_estimate{}.wav")
        (utterance,) = find_utterances(tmp_path / "audio", tmp_path / "audio")
        files = [utterance.mixture, *utterance.sources, *utterance.estimates]
        assert [path.stem for path in files] == ["x_mix", "x_source1", "x_source2", "x_estimate1", "x_estimate2"]

    def test_a_manifest(self, corpus, tmp_path, signals):
        manifest = tmp_path / "tt.csv"
        manifest.write_text(
            "ID,duration,sample_rate,mix_wav,s1_wav,s2_wav,noise_wav\n"
            "day/talk,1.0,8000,$data_root/mix/day/talk.wav,$data_root/s1/day/talk.wav,$data_root/s2/day/talk.wav,\n"
        )
        folder = estimates(tmp_path, signals)
        assert find_utterances(folder, manifest, data_root=corpus) == find_utterances(folder, corpus)

    def test_data_root_is_a_path_like_any_other(self, corpus, tmp_path, signals, monkeypatch):
        """Relative to the working directory, not to the manifest."""
        (tmp_path / "manifests").mkdir()
        manifest = tmp_path / "manifests" / "tt.csv"
        manifest.write_text(
            "ID,mix_wav,s1_wav,s2_wav\n"
            "day/talk,$data_root/mix/day/talk.wav,$data_root/s1/day/talk.wav,$data_root/s2/day/talk.wav\n"
        )
        folder = estimates(tmp_path, signals)
        monkeypatch.chdir(tmp_path)
        root = corpus.relative_to(tmp_path)
        (found,) = find_utterances(folder, "manifests/tt.csv", data_root=root)
        assert found.mixture == root / "mix/day/talk.wav" and found.mixture.is_file()
        with pytest.raises(InputError, match="tt.csv: .*talk.wav does not exist, .* of the corpus with --data_root"):
            find_utterances(folder, "manifests/tt.csv")
        manifest.rename(corpus / "tt.csv")
        (found,) = find_utterances(folder, root / "tt.csv")
        assert found.mixture == root / "mix/day/talk.wav" and all(path.is_file() for path in found.sources)

    def test_a_table(self, corpus, tmp_path, signals):
        folder = estimates(tmp_path, signals)
        (tmp_path / "all.csv").write_text(
            "ID,mix_wav,s1_wav,s2_wav,est1_wav,est2_wav\n"
            "day/talk,tt/mix/day/talk.wav,tt/s1/day/talk.wav,tt/s2/day/talk.wav,"
            "est/day/talk_spk1.wav,est/day/talk_spk2.wav\n"
        )
        assert read_utterances(tmp_path / "all.csv") == find_utterances(folder, corpus)

    def test_linked_folders(self, corpus, tmp_path, signals):
        linked = tmp_path / "linked"
        linked.mkdir()
        for name in ("s1", "s2", "mix"):
            (linked / name).symlink_to(corpus / name, target_is_directory=True)
        (corpus / "s1" / "loop").symlink_to(corpus / "s1", target_is_directory=True)
        folder = estimates(tmp_path, signals)
        found, expected = (find_utterances(folder, references) for references in (linked, corpus))
        assert [utterance.id for utterance in found] == [utterance.id for utterance in expected] == ["day/talk"]

    def test_the_twelfth_speaker_comes_after_the_second(self, tmp_path, signals):
        for number in range(1, 13):
            write(tmp_path / "x" / f"s{number}" / "a.wav", signals["s1"])
        write(tmp_path / "x" / "mix" / "a.wav", signals["mix"])
        (utterance,) = find_utterances(tmp_path / "x", tmp_path / "x")
        assert [path.parent.name for path in utterance.sources] == [f"s{number}" for number in range(1, 13)]


class TestMismatches:
    def fails(self, message, *arguments, **options):
        with pytest.raises(InputError, match=message):
            list(score(find_utterances(*arguments, **options)))

    def test_wrong_number_of_references(self, corpus, tmp_path, signals):
        folder = estimates(tmp_path, signals, ("e1", "e2", "e1"))
        self.fails("day/talk: has 3 estimates for 2 references", folder, corpus)

    def test_all_problems_come_in_one_message(self, corpus, tmp_path, signals):
        for number in range(12):
            estimates(tmp_path, signals, pattern=f"other{number:02}_spk{{}}.wav")
        message = "other00: has estimates, but no references(.|\n)*and 3 more\nEach ID needs one mixture"
        self.fails(message, tmp_path / "est", corpus)

    def test_references_without_estimates(self, corpus, tmp_path, signals):
        for kind in ("mix", "s1", "s2"):
            write(corpus / kind / "other.wav", signals[kind])
        folder = estimates(tmp_path, signals)
        self.fails("other: has references, but no estimates", folder, corpus)
        assert [item.id for item in find_utterances(folder, corpus, subset=True)] == ["day/talk"]

    def test_no_mixture(self, corpus, tmp_path, signals):
        folder = estimates(tmp_path, signals)
        (corpus / "mix" / "day" / "talk.wav").unlink()
        self.fails("day/talk: has no mixture", folder, corpus)
        (corpus / "mix_clean").mkdir()
        self.fails("must hold one folder of mixtures; found mix, mix_clean. Give it with --mixtures", folder, corpus)
        self.fails("no such folder of mixtures", folder, corpus, mixtures=tmp_path / "none")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--references", "m.csv", "--mixtures", "mix"], "is a manifest, which lists its mixtures: leave out"),
            (["--references", "tt", "--data_root", "."], "--data_root is for a manifest or a table"),
            (["--table", "m.csv", "--subset"], "--subset is for folders"),
        ],
    )
    def test_options_without_effect(self, corpus, tmp_path, monkeypatch, capsys, options, message):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "m.csv").write_text("ID,mix_wav,s1_wav,est1_wav\nx,a,b,c\n")
        estimates = [] if "--table" in options else ["--estimates", "est"]
        assert main(["score", *estimates, *options]) == 2
        assert message in capsys.readouterr().err

    def test_nothing(self, corpus, tmp_path):
        (tmp_path / "est").mkdir()
        self.fails("holds neither subfolders s1, s2 and so on, nor files <ID>_estimate1.wav", tmp_path / "est", corpus)
        self.fails("there is no such folder. Give that of the estimates", tmp_path / "none", corpus)

    def test_nothing_in_common(self, corpus, tmp_path, signals):
        (tmp_path / "t.csv").write_text("ID,mix_wav,s1_wav,est1_wav\n")
        with pytest.raises(InputError, match="there is nothing to score"):
            read_utterances(tmp_path / "t.csv")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("name\na\n", "column ID is missing; found name"),
            ("ID,mix_wav,s1_wav\na,b,c\n", "column est1_wav is missing; found ID, mix_wav, s1_wav"),
            ("ID,s1_wav,est1_wav\na,b,c\n", "column mix_wav is missing"),
        ],
    )
    def test_tables(self, tmp_path, content, message):
        (tmp_path / "t.csv").write_text(content)
        with pytest.raises(InputError, match=message):
            read_utterances(tmp_path / "t.csv")
        with pytest.raises(InputError, match="there is no such table"):
            read_utterances(tmp_path / "none.csv")

    def test_a_stated_difference_in_length(self, corpus, tmp_path, signals, caplog):
        caplog.set_level("INFO")
        folder = estimates(tmp_path, signals)
        ((_, whole, _),) = score(find_utterances(folder, corpus))
        write(folder / "day" / "talk_spk1.wav", signals["e1"][:7995])
        write(folder / "day" / "talk_spk2.wav", np.append(signals["e2"], np.zeros(2)))
        self.fails(
            "They have to be the same. --trim 7 cuts the signals of an utterance to the shortest", folder, corpus
        )
        with pytest.raises(InputError, match="--trim 7"):
            list(score(find_utterances(folder, corpus), trim=6))
        assert "were cut" not in caplog.text
        ((_, scores, _),) = score(find_utterances(folder, corpus), trim=7)
        assert scores.si_snr == pytest.approx(whole.si_snr, abs=0.01)
        assert "The signals of 1 utterances were cut to the shortest, by 7 samples at most" in caplog.text
        with pytest.raises(InputError, match="trim is 1.5: give a number of samples"):
            list(score([], trim=1.5))

    def test_an_id_given_twice(self, tmp_path):
        (tmp_path / "t.csv").write_text("ID,mix_wav,s1_wav,est1_wav\na,b,c,d\na,b,c,d\n")
        with pytest.raises(InputError, match="the ID 'a' occurs 2 times"):
            read_utterances(tmp_path / "t.csv")

    @pytest.mark.parametrize(
        ("samples", "rate", "message"),
        [
            (np.zeros(7999), RATE, "talk_spk1.wav: has 7999 samples at 8000 Hz, and its mixture .* 8000 at 8000 Hz"),
            (np.zeros(8000), 16000, "talk_spk1.wav: has 8000 samples at 16000 Hz"),
            (np.zeros((8000, 2)), RATE, "talk_spk1.wav: has 2 channels"),
            (np.full(8000, np.nan), RATE, "talk_spk1.wav: has NaN or infinite samples"),
            (np.zeros(0), RATE, "talk_spk1.wav: has no samples, so it has no score"),
        ],
    )
    def test_signals(self, corpus, tmp_path, signals, samples, rate, message):
        folder = estimates(tmp_path, signals)
        write(folder / "day" / "talk_spk1.wav", samples, rate)
        self.fails(message, folder, corpus)


class TestMoreMetrics:
    @pytest.mark.skipif(importlib.util.find_spec("pystoi") is None, reason="needs the extra 'score'")
    @pytest.mark.skipif(importlib.util.find_spec("pesq") is None, reason="needs the extra 'score'")
    def test_better_estimates_score_better(self, tmp_path):
        time = np.arange(3 * RATE) / RATE
        rng = np.random.default_rng(0)
        for name, noise in (("good", 0.01), ("bad", 0.3)):
            voices = [
                sum(np.sin(2 * np.pi * f0 * k * time) / k for k in range(1, 12)) * (np.sin(2 * np.pi * 3 * time) > -0.3)
                for f0 in (110, 170)
            ]
            voices = [0.1 * voice for voice in voices]
            write(tmp_path / f"{name}_mix.wav", sum(voices))
            for number, voice in enumerate(voices, start=1):
                write(tmp_path / f"{name}_source{number}.wav", voice)
                write(tmp_path / f"{name}_estimate{3 - number}.wav", voice + noise * rng.standard_normal(len(time)))
        metrics = ("stoi", "pesq")
        table = ScoreTable(metrics)
        for utterance_id, scores, others in score(find_utterances(tmp_path, tmp_path), metrics):
            table.add(utterance_id, scores, **others)
        frame = table.to_frame().set_index("snt_id")
        assert frame["stoi"]["good"] > 0.9 > frame["stoi"]["bad"] + 0.1
        assert frame["pesq"]["good"] > frame["pesq"]["bad"] + 0.05 > 1
        assert "stoi, pesq: not in dB" in table.summary()

    def test_what_is_too_short_for_stoi_has_none(self, monkeypatch):
        """pystoi's value for it says nothing about the estimates, and would lower the mean."""
        returned = iter((torch.tensor([0.5, 1e-5]), torch.tensor([0.5, -0.01], dtype=torch.float64)))
        stoi = SimpleNamespace(short_time_objective_intelligibility=lambda estimates, sources, rate: next(returned))
        monkeypatch.setitem(sys.modules, "torchmetrics.functional.audio.stoi", stoi)
        monkeypatch.setitem(sys.modules, "torchmetrics.functional.audio.pesq", MagicMock())
        found = [extra_metric("stoi", torch.zeros(2, 9), torch.zeros(2, 9), RATE, "x") for _ in range(2)]
        assert math.isnan(found[0]) and found[1] == pytest.approx(0.245)

    @pytest.mark.skipif(importlib.util.find_spec("pesq") is None, reason="needs the extra 'score'")
    def test_pesq_finds_no_speech(self, tmp_path):
        for name, scale in (("mix", 0.1), ("source1", 0.1), ("estimate1", 0)):
            write(tmp_path / f"x_{name}.wav", scale * np.random.randn(RATE))
        ((_, _, others),) = score(find_utterances(tmp_path, tmp_path), ["pesq"])
        assert math.isnan(others["pesq"])

    def test_absent_packages(self, monkeypatch):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(InputError, match=r"PESQ needs the package pesq, .*pip install 'mossformer_sb\[score\]'"):
            list(score([], ["pesq"]))

    @pytest.mark.skipif(importlib.util.find_spec("pesq") is None, reason="needs the extra 'score'")
    def test_pesq_has_two_rates(self, tmp_path, signals):
        for kind, name in (("mix", "mix"), ("s1", "source1"), ("e1", "estimate1")):
            write(tmp_path / f"x_{name}.wav", signals[kind], 44100)
        with pytest.raises(InputError, match="x: has 44100 Hz; PESQ is defined for 8000 and 16000 Hz"):
            list(score(find_utterances(tmp_path, tmp_path), ["pesq"]))
