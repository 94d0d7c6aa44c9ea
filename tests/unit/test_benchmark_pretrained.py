"""The checks of the packaged model: their figures, and the output of the command."""

import json

import numpy as np
import pytest
import soundfile
import torch

from benchmarks import pretrained, trials
from benchmarks.conversations import conversation, count_clicks, count_swaps, separate_conversations
from benchmarks.pretrained import RECORDED, compare_levels, conditions, level_between, main, read_speakers
from data_prep.corpora.many_speakers import prepare_many_speakers
from mossformer_sb import InputError, MossFormerSeparator
from mossformer_sb.inference.chunking import Chunking, joins, separate_in_chunks
from mossformer_sb.inference.separation import MossFormerSeparation
from mossformer_sb.sharing.folder import export
from tests.unit.small_corpus import NUMBERS, write_source

RATE = 8000


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The options that name a corpus."""
    root = tmp_path_factory.mktemp("corpus")
    prepare_many_speakers(root / "data", root / "manifests", **write_source(root), **NUMBERS)
    return ["--data_folder", str(root / "data"), "--manifest_folder", str(root / "manifests")]


def make_model(folder, num_spks=2, sample_rate=RATE):
    torch.manual_seed(0)
    modules = dict(MossFormerSeparator.from_size("mini", num_spks=num_spks).named_children())
    return export(folder, modules, sample_rate)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("export") / "model")


@pytest.fixture
def threads():
    """The command sets their number for its process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def noise(tmp_path):
    """Recorded noise at a rate of its own, with two channels."""
    folder = tmp_path / "nonspeech" / "rain"
    folder.mkdir(parents=True)
    soundfile.write(folder / "n1.wav", np.random.default_rng(3).standard_normal((4000, 2)) * 0.01, 20000)
    return str(folder.parent)


def test_command(model, corpus, noise, tmp_path, capsys, monkeypatch, threads):
    monkeypatch.setattr(pretrained, "TIMED_SECONDS", 1.0)
    monkeypatch.setattr(pretrained, "CONVERSATION_SECONDS", 3.0)
    files = ["--markdown", str(tmp_path / "scores.md"), "--json", str(tmp_path / "scores.json")]
    options = ["--limit", "1", "--conversations", "1", "--threads", "1", "--noise_folder", noise, *files]
    assert main([str(model), *corpus, *options]) == 1  # an untrained network misses much
    printed = capsys.readouterr().out
    assert "0.63 M parameters" in printed and "| SI-SNRi, recorded noise | " in printed and "| missed |" in printed
    assert (tmp_path / "scores.md").read_text() in printed
    found = json.loads((tmp_path / "scores.json").read_text())
    assert list(found["scores"]) == ["clean", "noisy", "reverb", RECORDED, "commonvoice", "so762"]
    assert found["scores"]["noisy"]["number"] == 1 and found["single"]["number"] == 1 and found["seconds"] > 0
    assert found["levels"] > 50 and len(found["conversations"]["swaps"]) == 1


def test_scores_are_those_of_the_condition(model, corpus, monkeypatch, threads):
    """A model that gives the mixture for each speaker improves nothing, and the input is worse in noise."""
    monkeypatch.setattr(
        MossFormerSeparation, "separate_batch", lambda self, mix, lengths=None: mix[..., None].expand(-1, -1, 2)
    )
    found = pretrained.check_model(model, *corpus[1::2], conversations=0, threads=1)["scores"]
    assert all(abs(row["si_snr_i"]) < 1e-6 and abs(row["standard_error"]) < 1e-6 for row in found.values())
    assert found["clean"]["input_si_snr"] > found["noisy"]["input_si_snr"] > found["reverb"]["input_si_snr"]


def test_recorded_noise_is_as_loud_as_the_synthetic_one(corpus, noise):
    found = conditions(corpus[1], corpus[3], noise)
    synthetic, recorded = found["noisy"][0], found[RECORDED][0]
    assert torch.equal(synthetic.sources, recorded.sources)
    parts = [item.mixture - item.sources.sum(1) for item in (synthetic, recorded)]
    assert parts[0].square().mean().item() == pytest.approx(parts[1].square().mean().item(), rel=1e-3)
    correlation = torch.corrcoef(torch.stack(parts))[0, 1]
    assert abs(correlation) < 0.1 and len(found[RECORDED]) == len(found["noisy"])
    with pytest.raises(InputError, match="holds no WAV file; needed recordings of noise"):
        conditions(corpus[1], corpus[3], corpus[3])


GOOD = {
    "parameters": 1,
    "scores": {
        name: {"input_si_snr": 0.0, "si_snr_i": bar, "standard_error": 0.1, "sdr_i": bar, "number": 2}
        for name, bar in zip(
            ("clean", "noisy", RECORDED, "reverb", "commonvoice", "so762"), (8.0, 5.0, 5.0, 4.0, 7.0, 7.0), strict=True
        )
    },
    "single": {"below": 15.0, "share": 1.0, "si_snr": 30.0, "number": 2},
    "levels": 50.0,
    "seconds": 10.0,
    "conversations": {"swaps": [0, 1], "windows": 9, "clicks": 0, "edges": 12},
}
WORSE = {
    **{f"scores/{name}": {**row, "si_snr_i": row["si_snr_i"] - 0.01} for name, row in GOOD["scores"].items()},
    "single": {**GOOD["single"], "below": 14.9},
    "levels": 49.9,
    "seconds": 10.1,
    "conversations": {**GOOD["conversations"], "swaps": [0, 2]},
}


def test_all_that_is_wanted_can_be_reached(corpus, capsys, monkeypatch):
    monkeypatch.setattr(pretrained, "check_model", lambda *_: {**GOOD})
    assert main(["model", *corpus]) == 0 and "missed" not in capsys.readouterr().out


@pytest.mark.parametrize("key", WORSE)
def test_missed_targets_are_reported(key, corpus, capsys, monkeypatch):
    found = {**GOOD, "scores": {**GOOD["scores"]}}
    place, _, name = key.partition("/")
    if name:
        found[place][name] = WORSE[key]
    else:
        found[place] = WORSE[key]
    monkeypatch.setattr(pretrained, "check_model", lambda *_: found)
    assert main(["model", *corpus]) == 1 and capsys.readouterr().out.count("| missed |") == 1


def test_unmeasured_targets_are_not_missed(corpus, capsys, monkeypatch):
    scores = {name: row for name, row in GOOD["scores"].items() if name != RECORDED}
    monkeypatch.setattr(pretrained, "check_model", lambda *_: {**GOOD, "scores": scores})
    assert main(["model", *corpus]) == 0 and RECORDED not in capsys.readouterr().out


def test_levels(model):
    """An output that depends on the level is found out."""
    recording = np.random.default_rng(0).standard_normal(4000).astype(np.float32) * 0.05

    class Clipping:
        def separate(self, samples):
            return torch.from_numpy(samples).clamp(-0.1, 0.1)[:, None]

    assert compare_levels(MossFormerSeparation.from_hparams(model, device="cpu"), recording) > 50
    assert compare_levels(Clipping(), recording) < 40


class TestConversations:
    def test_turns(self):
        """Both speak for 30 % of the time, each turn takes 3 to 8 s, and no sample of a turn is lost."""
        first, second = np.arange(1, 30 * RATE), np.arange(1, 40 * RATE)
        sources = conversation([first], [second], seconds=180, seed=3)
        active = sources != 0
        assert sources.shape == (180 * RATE, 2) and active.any(axis=1).all()
        assert active.all(axis=1).mean() == pytest.approx(0.3, abs=0.02)
        for speaker in (0, 1):
            edges = np.flatnonzero(np.diff(active[:, speaker].astype(int)))
            lengths = np.diff(edges)[0 if not active[0, speaker] else 1 :: 2] / RATE
            assert len(lengths) > 10 and lengths.min() >= 3 and lengths.max() <= 8
        assert not np.array_equal(sources, conversation([first], [second], seconds=180, seed=4))

    def test_speakers_that_change_places(self):
        sources = torch.randn(12 * RATE, 2).numpy()
        estimates = sources.copy()
        estimates[4 * RATE : 8 * RATE] = sources[4 * RATE : 8 * RATE, ::-1]
        assert count_swaps(estimates, sources) == (2, 6)
        assert count_swaps(3 * sources[:, ::-1], sources) == (0, 6)

    def test_pauses_decide_nothing(self):
        sources = torch.randn(8 * RATE, 2).numpy()
        sources[2 * RATE : 6 * RATE, 1] = 0
        assert count_swaps(sources, sources) == (0, 2)

    def test_a_hard_join_is_a_click_and_a_fade_is_none(self):
        """Chunks of a tone, each at a phase of its own."""
        time, rng = np.arange(4 * RATE), np.random.default_rng(0)

        def separate(chunk):
            tone = np.sin(time[: len(chunk)] / 5 + rng.uniform(0, 6)).astype(np.float32)
            return np.stack([tone, -tone], axis=1)

        blocks = [np.zeros(4 * RATE, np.float32)]
        estimates = np.concatenate(list(separate_in_chunks(separate, blocks, RATE, RATE // 4)))
        fades = joins(4 * RATE, RATE, RATE // 4)
        assert count_clicks(estimates, fades) == (0, 4 * len(fades))
        hard = estimates.copy()
        for start, _ in fades:
            hard[start:] += 0.5
        assert count_clicks(hard, fades) == (2 * len(fades), 4 * len(fades))

    def test_joins_are_where_the_chunks_are(self):
        """Each chunk is a constant of its own, so the output changes in the fades and nowhere else."""
        values = iter(range(100))
        blocks = [np.zeros(10_500, np.float32)]
        chunks = separate_in_chunks(lambda chunk: np.full((len(chunk), 2), next(values), np.float32), blocks, 3000, 500)
        steps = np.flatnonzero(np.diff(np.concatenate(list(chunks))[:, 0]))
        inside = [place for start, end in joins(10_500, 3000, 500) for place in range(start - 1, end)]
        assert set(steps) == set(inside)

    def test_counts_are_of_all_conversations(self, model, corpus):
        separator = MossFormerSeparation.from_hparams(model, device="cpu")
        found = separate_conversations(separator, read_speakers(corpus[1]), 2, 3.0, Chunking(1.0, 0.4, 1.0))
        assert found.edges == 2 * 2 * 2 * len(joins(3 * RATE, RATE, 3200)) and found.clicks == 0
        assert len(found.swaps) == 2


def test_level_of_a_silent_channel():
    assert level_between(torch.tensor([[1.0, 0.0]])) == 120.0


class TestTrials:
    """`benchmarks.trials`: what tells trials from each other, and what they reached."""

    @pytest.fixture
    def trials_folder(self, tmp_path):
        for name, rate, scores in (("slow", 0.001, (1.0, 2.5)), ("fast", 0.004, (3.0, 4.5, 4.0))):
            folder = tmp_path / "trials" / name
            folder.mkdir(parents=True)
            text = f"seed: 1\nlr: {rate}\noutput_folder: {name}\nencoder: !apply:mossformer_sb.build_encoder [mini]\n"
            (folder / "hyperparams.yaml").write_text(text)
            rows = [f"{epoch},{score},10" for epoch, score in enumerate(scores, start=1)]
            (folder / "epochs.csv").write_text("\n".join(["epoch,valid_si-snr,train_seconds", *rows]) + "\n")
        return tmp_path / "trials"

    def test_table(self, trials_folder):
        text = trials.table(sorted(trials_folder.iterdir()), unprocessed=0.5)
        assert text.splitlines()[2:] == [
            "| fast | lr 0.004 | 3 | 30 | 4.00 |",
            "| slow | lr 0.001 | 2 | 20 | 2.00 |",
        ]

    def test_command(self, trials_folder, corpus, capsys):
        """Improvements are over the validation mixtures themselves."""
        manifest = f"{corpus[3]}/many_speakers_cv.csv"
        words = ["--manifest", manifest, *corpus[:2]]
        assert trials.main([str(trials_folder / "fast"), *words]) == 0
        printed = capsys.readouterr().out
        assert "| fast | as in the file | 3 | 30 | " in printed
        unprocessed = trials.input_si_snr(manifest, corpus[1])
        assert float(printed.split("|")[-2]) == pytest.approx(4.5 - unprocessed, abs=0.01)
        assert trials.main([corpus[1], *words]) == 2
        assert "data: holds no hyperparams.yaml; needed the output_folder of a training" in capsys.readouterr().err


class TestMessages:
    def test_a_model_with_another_rate_or_number_of_speakers(self, corpus, tmp_path, capsys, threads):
        folder = make_model(tmp_path / "three", num_spks=3)
        assert main([str(folder), *corpus]) == 2
        assert "three: separates 3 speakers at 8000 Hz; needed 2 at 8000 Hz" in capsys.readouterr().err

    def test_no_corpus(self, tmp_path):
        with pytest.raises(InputError, match="tt: holds utterances of 0 speakers; needed two or more"):
            read_speakers(tmp_path)
