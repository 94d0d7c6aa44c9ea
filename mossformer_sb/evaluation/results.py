"""The scores of a test set: computing them with a model, and the table of scores."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import pandas as pd

from mossformer_sb.errors import InputError
from mossformer_sb.evaluation.extra_metrics import check_metrics
from mossformer_sb.evaluation.metrics import score_signals
from mossformer_sb.utils.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from pathlib import Path
    from typing import Any

    from mossformer_sb.data.datasets import MixtureDataset
    from mossformer_sb.evaluation.metrics import Scores

RESULTS_FILE = "test_results.csv"
TEST_MANIFEST = "test_manifest.csv"  # manifest of the mixtures in the table of scores
AVERAGE = "avg"  # the snt_id of the last row


class ScoreTable:
    """Scores of all utterances of a test set.

    Arguments
    ---------
    metrics : iterable of str
        Columns in addition to those of `mossformer_sb.evaluation.metrics.Scores`.

    Example
    -------
    >>> from mossformer_sb.evaluation.metrics import Scores
    >>> table = ScoreTable()
    >>> table.add("a", Scores(sdr=10.0, sdr_i=9.0, si_snr=8.0, si_snr_i=7.0))
    >>> table.add("silent", Scores(*[float("nan")] * 4))
    >>> table.to_frame().to_csv(index=False).splitlines()
    ['snt_id,sdr,sdr_i,si-snr,si-snr_i', 'a,10.0,9.0,8.0,7.0', 'silent,,,,', 'avg,10.0,9.0,8.0,7.0']
    >>> table.num_silent
    1
    """

    COLUMNS = ("snt_id", "sdr", "sdr_i", "si-snr", "si-snr_i")

    def __init__(self, metrics: Iterable[str] = ()) -> None:
        self.columns = (*self.COLUMNS, *metrics)
        self._rows = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, utterance_id: str, scores: Scores, **others: float) -> None:
        """Add an utterance's `Scores` and other metrics; NaN if all its sources are silent."""
        self._rows.append((utterance_id, *scores, *(others[column] for column in self.columns[len(self.COLUMNS) :])))

    @classmethod
    def interleaved(cls, tables: Iterable[ScoreTable]) -> ScoreTable:
        """Merge the tables of several ranks, each of which scored every n-th utterance, in the order of the manifest.

        Example
        -------
        >>> from mossformer_sb.evaluation.metrics import Scores
        >>> tables = [ScoreTable(), ScoreTable()]
        >>> for index, name in enumerate("abc"):
        ...     tables[index % 2].add(name, Scores(0.0, 0.0, 0.0, 0.0))
        >>> ScoreTable.interleaved(tables).to_frame()["snt_id"].to_list()
        ['a', 'b', 'c', 'avg']
        """
        united = cls()
        for rows in itertools.zip_longest(*(table._rows for table in tables)):
            united._rows.extend(row for row in rows if row is not None)
        return united

    @property
    def num_silent(self) -> int:
        """Number of utterances without scores, which the average excludes."""
        return sum(math.isnan(row[len(self.COLUMNS) - 1]) for row in self._rows)

    def average(self) -> dict:
        """Mean of each score over the utterances that have one: dict, column to dB."""
        return self._frame().mean(numeric_only=True).to_dict()

    def to_frame(self) -> pd.DataFrame:
        """One row per utterance, and the average as the last."""
        average = pd.DataFrame([{"snt_id": AVERAGE, **self.average()}])
        return pd.concat([self._frame(), average], ignore_index=True)

    def write(self, path: str | Path) -> None:
        """Write the table as a CSV, atomically."""
        with atomic_write(path) as temporary:
            self.to_frame().to_csv(temporary, index=False, float_format="%.6f")

    def summary(self) -> str:
        """A summary in a few lines."""
        frame = self._frame().drop(columns="snt_id")
        lines = [f"{len(self)} utterances, scores in dB", f"{'':10}{'mean':>8}{'median':>8}{'10 %':>8}"]
        for column in frame:
            mean, median, low = frame[column].mean(), frame[column].median(), frame[column].quantile(0.1)
            lines.append(f"{column:10}{mean:8.2f}{median:8.2f}{low:8.2f}")
        if len(self.columns) > len(self.COLUMNS):
            lines.append(f"{', '.join(self.columns[len(self.COLUMNS) :])}: not in dB")
        if self.num_silent:
            lines.append(f"{self.num_silent} utterances with only silent sources are excluded")
        return "\n".join(lines)

    def _frame(self):
        return pd.DataFrame(self._rows, columns=self.columns)


def evaluate(model: Any, data: MixtureDataset, metrics: Collection[str] = ()) -> Iterator[tuple]:
    """Separate and score a test set, as at the end of training.

    Arguments
    ---------
    model : mossformer_sb.inference.separation.MossFormerSeparation
    data : mossformer_sb.data.datasets.MixtureDataset
        Test set with the model's sample rate and number of speakers.
    metrics : collection of str
        Further metrics in addition to SI-SNR and SDR: "stoi", "pesq".

    Yields
    ------
    tuple
        As `mossformer_sb.evaluation.score_files.score`.

    Raises
    ------
    InputError
        If a metric can't be computed, or a recording can't be read.
    """
    check_metrics(metrics)
    for index in range(len(data)):
        item = data[index]
        try:
            estimates = model.separate_batch(item.mixture[None])[0].float().cpu()
        except InputError as error:
            raise InputError(f"{item.id}: {error}") from error
        yield score_signals(item.id, item.mixture, item.sources, estimates, data.sample_rate, metrics)


def scored(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of `ScoreTable.to_frame`, or some of them, with scores: without the average and silent utterances."""
    is_average = scores["snt_id"].tail(1).eq(AVERAGE).any()  # it is the last one
    return (scores.iloc[:-1] if is_average else scores).dropna(subset=["si-snr_i"])
