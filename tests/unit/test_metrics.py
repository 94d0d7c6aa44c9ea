"""Scores of an utterance, and the table of a test set."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.signal
import soundfile
import torch
from torchmetrics.functional.audio import scale_invariant_signal_noise_ratio, signal_distortion_ratio

from mossformer_sb.errors import InputError
from mossformer_sb.evaluation.examples import mixture_gain, save_example, saved_example
from mossformer_sb.evaluation.metrics import Scores, score_signals, separation_scores
from mossformer_sb.evaluation.results import ScoreTable, scored
from tests.unit.fresh import in_fresh_process


@pytest.fixture
def utterance():
    sources = torch.randn(6000, 2, dtype=torch.float64)
    mixture = sources.sum(1) + 0.5 * torch.randn(6000)
    return mixture, sources, sources + 0.4 * torch.randn(6000, 2)


def test_equals_torchmetrics(utterance):
    mixture, sources, estimates = utterance
    scores, _ = separation_scores(*utterance)
    twice = mixture.expand(2, -1)
    si_snr = scale_invariant_signal_noise_ratio(estimates.T, sources.T).mean()
    sdr = in_fresh_process(signal_distortion_ratio, estimates.T, sources.T).mean()
    assert scores.si_snr == pytest.approx(si_snr.item(), abs=1e-6)
    assert scores.sdr == pytest.approx(sdr.item(), abs=1e-6)
    improvement = si_snr - scale_invariant_signal_noise_ratio(twice, sources.T).mean()
    assert scores.si_snr_i == pytest.approx(improvement.item(), abs=1e-6)
    assert scores.sdr_i == pytest.approx(
        (sdr - in_fresh_process(signal_distortion_ratio, twice, sources.T).mean()).item(), abs=1e-6
    )


def test_arrays_are_as_good_as_tensors(utterance):
    assert separation_scores(*(signals.numpy() for signals in utterance))[0] == separation_scores(*utterance)[0]


def test_reversed_arrays(utterance):
    views = [signals.numpy()[::-1] for signals in utterance]
    assert separation_scores(*views)[0] == separation_scores(*(view.copy() for view in views))[0]


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize(
    ("kind", "top"), [("lowpass", 0.5), ("lowpass", 0.25), ("resampled", 1 / 6), ("resampled", 0.5)]
)
def test_sources_with_an_empty_band(kind, top, single):
    """Their filters' equations are ill-conditioned, also where the sources fade in and out."""
    rng = np.random.default_rng(0)
    fade = np.pad(np.hanning(10000), 3000)[:, None]
    sources = fade * rng.standard_normal((16000, 2)) * 0.1
    if kind == "lowpass":
        sources = scipy.signal.sosfilt(scipy.signal.butter(8, top, output="sos"), sources, axis=0)
    else:
        ratio = round(1 / top)
        sources = scipy.signal.resample_poly(sources[::ratio], ratio, 1, window=("kaiser", 14))[:16000]
    sources = sources.astype(np.float32 if single else np.float64)
    mixture, estimates = sources.sum(1), sources + 0.1 * sources[:, ::-1] + 1e-4 * rng.standard_normal(sources.shape)
    scores = separation_scores(mixture, sources, estimates)[0]
    references, doubles = (torch.from_numpy(x.T).double() for x in (sources, estimates))
    expected = signal_distortion_ratio(doubles, references).mean().item()
    unprocessed = signal_distortion_ratio(references.sum(0).expand(2, -1), references).mean().item()
    assert scores.sdr == pytest.approx(expected, abs=0.05)
    assert scores.sdr_i == pytest.approx(expected - unprocessed, abs=0.05)


@pytest.mark.parametrize("factor", [1e-9, 1e-20, 1e9])
def test_levels_do_not_matter(utterance, factor):
    mixture, sources, estimates = utterance
    expected, found = (separation_scores(mixture, sources, scale * estimates)[0] for scale in (1.0, factor))
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize("change", [lambda x: x[:-1], lambda x: x[:, None], lambda x: x[0]])
def test_shapes_that_differ(utterance, part, change):
    signals = [*utterance]
    signals[part] = change(signals[part])
    with pytest.raises(InputError, match=r"the mixture must be \[samples\], .*all of one length; found \["):
        separation_scores(*signals)


@pytest.mark.parametrize("part, name", enumerate(["mixture", "sources", "estimates"]))
def test_signals_that_are_not_finite(utterance, part, name):
    utterance[part][7] = math.nan
    with pytest.raises(InputError, match=f"talk7: NaN or infinity in its {name}, so it has no scores"):
        score_signals("talk7", *utterance, rate=8000)


def test_an_utterance_may_be_called_avg():
    table = ScoreTable()
    for name, value in (("avg", 1.0), ("b", 2.0)):
        table.add(name, Scores(*[value] * 4))
    assert scored(table.to_frame())["snt_id"].tolist() == ["avg", "b"]


def test_order_of_the_estimates_does_not_matter(utterance):
    mixture, sources, estimates = utterance
    straight, permutation = separation_scores(mixture, sources, estimates)
    crossed, crossed_permutation = separation_scores(mixture, sources, estimates.flip(1))
    assert crossed == pytest.approx(straight)
    assert (permutation.tolist(), crossed_permutation.tolist()) == ([0, 1], [1, 0])


def test_the_mixture_itself_improves_nothing(utterance):
    mixture, sources, _ = utterance
    scores, _ = separation_scores(mixture, sources, mixture[:, None].expand(-1, 2))
    assert scores.si_snr_i == pytest.approx(0, abs=1e-9)
    assert scores.sdr_i == pytest.approx(0, abs=1e-9)


def test_a_silent_source_is_excluded(utterance):
    mixture, sources, estimates = utterance
    sources[:, 1] = 0
    scores, _ = separation_scores(mixture, sources, estimates)
    only, _ = separation_scores(mixture, sources[:, :1], estimates[:, :1])
    assert scores == pytest.approx(only)


def test_no_source_at_all_gives_no_scores(utterance):
    mixture, sources, estimates = utterance
    scores, _ = separation_scores(mixture, torch.zeros_like(sources), estimates)
    assert all(math.isnan(value) for value in scores)


def test_silent_and_perfect_estimates_stay_finite(utterance):
    mixture, sources, _ = utterance
    assert separation_scores(mixture, sources, torch.zeros_like(sources))[0].sdr == -120
    assert separation_scores(mixture, sources, sources)[0].sdr > 100


class TestTable:
    def table(self):
        table = ScoreTable()
        table.add("a", Scores(1.0, 2.0, 3.0, 4.0))
        table.add("silent", Scores(*[float("nan")] * 4))
        table.add("b", Scores(3.0, 4.0, 5.0, 6.0))
        return table

    def test_file(self, tmp_path):
        self.table().write(tmp_path / "test_results.csv")
        lines = (tmp_path / "test_results.csv").read_text().splitlines()
        assert lines[0] == "snt_id,sdr,sdr_i,si-snr,si-snr_i"
        assert lines[2] == "silent,,,,"
        assert lines[-1] == "avg,2.000000,3.000000,4.000000,5.000000"
        assert len(pd.read_csv(tmp_path / "test_results.csv")) == 4
        assert [path.name for path in tmp_path.iterdir()] == ["test_results.csv"]

    def test_summary_counts_the_silent(self):
        summary = self.table().summary()
        assert "3 utterances" in summary and "1 utterances with only silent sources" in summary
        assert "si-snr_i      5.00" in summary


def test_the_gain_of_very_soft_estimates():
    assert mixture_gain(torch.full((100, 2), 1e-22), torch.full((100,), 1e-22)).item() == pytest.approx(0.5)


def test_examples_keep_relative_levels(tmp_path):
    """Estimates at any scale of the network's come out at the level of the sources, unclipped."""
    sources = torch.rand(800, 2) * torch.tensor([1.6, 0.2])
    mixture = sources.sum(1)
    save_example(tmp_path / "audio", "a/b", mixture, sources, 37.0 * sources.flip(1), torch.tensor([1, 0]), 8000)
    read = {path.stem: soundfile.read(path, dtype="float32")[0] for path in (tmp_path / "audio").iterdir()}
    assert set(read) == {"a_b_mix", "a_b_source1", "a_b_source2", "a_b_estimate1", "a_b_estimate2"}
    assert max(abs(samples).max() for samples in read.values()) == pytest.approx(1.0)
    for number in "12":
        assert read[f"a_b_estimate{number}"] == pytest.approx(read[f"a_b_source{number}"], abs=1e-5)


def test_examples_of_long_ids(tmp_path):
    """Two that differ at their end, in letters of several bytes."""
    mixture, sources = torch.rand(80), torch.rand(80, 2)
    ids = [f"{'é' * 130}{end}" for end in "ab"]
    for name in ids:
        save_example(tmp_path, name, mixture, sources, sources, torch.tensor([0, 1]), 8000)
    assert len(list(tmp_path.iterdir())) == 2 * 5
    assert saved_example("x", tmp_path, ids[1]).estimates.shape == (80, 2)


def test_nothing_to_score():
    with pytest.raises(InputError, match="the mixture has no samples"):
        separation_scores(torch.zeros(0), torch.zeros(0, 2), torch.zeros(0, 2))
