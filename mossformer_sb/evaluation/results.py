"""The test stage's products: a table of scores, and examples to listen to."""

import itertools
import math
from pathlib import Path

import pandas as pd

from mossformer_sb.data.audio_io import write_audio
from mossformer_sb.evaluation.si_snr import reorder
from mossformer_sb.inference.output_gain import mixture_gain, peak_gain
from mossformer_sb.utils.files import replacing

RESULTS_FILE = "test_results.csv"
AUDIO_FOLDER = "audio"  # of examples, in the output folder
AVERAGE = "avg"  # the snt_id of the last row


class ScoreTable:
    """Scores of every utterance of a test set.

    Arguments
    ---------
    metrics : iterable of str
        Columns beside those of `mossformer_sb.evaluation.metrics.Scores`.

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

    def __init__(self, metrics=()):
        self.columns = (*self.COLUMNS, *metrics)
        self._rows = []

    def __len__(self):
        return len(self._rows)

    def add(self, utterance_id, scores, **others):
        """Add an utterance's `Scores` and other metrics; NaN where all its sources are silent."""
        self._rows.append((utterance_id, *scores, *(others[column] for column in self.columns[len(self.COLUMNS) :])))

    @classmethod
    def interleaved(cls, tables):
        """Unite the tables of several ranks, each of which scored every n-th utterance, in the order of the manifest.

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
    def num_silent(self):
        """Number of utterances without scores, which the average leaves out."""
        return sum(math.isnan(row[len(self.COLUMNS) - 1]) for row in self._rows)

    def average(self):
        """Mean of each score over the utterances that have one: dict, column to dB."""
        return self._frame().mean(numeric_only=True).to_dict()

    def to_frame(self):
        """One row an utterance, and the average as the last."""
        average = pd.DataFrame([{"snt_id": AVERAGE, **self.average()}])
        return pd.concat([self._frame(), average], ignore_index=True)

    def write(self, path):
        """Write the table as a CSV, under a temporary name first."""
        with replacing(path) as temporary:
            self.to_frame().to_csv(temporary, index=False, float_format="%.6f")

    def summary(self):
        """A few lines for the screen."""
        frame = self._frame().drop(columns="snt_id")
        lines = [f"{len(self)} utterances, scores in dB", f"{'':10}{'mean':>8}{'median':>8}{'10 %':>8}"]
        for column in frame:
            mean, median, low = frame[column].mean(), frame[column].median(), frame[column].quantile(0.1)
            lines.append(f"{column:10}{mean:8.2f}{median:8.2f}{low:8.2f}")
        if len(self.columns) > len(self.COLUMNS):
            lines.append(f"{', '.join(self.columns[len(self.COLUMNS) :])}: not in dB")
        if self.num_silent:
            lines.append(f"{self.num_silent} utterances with nothing but silent sources are left out")
        return "\n".join(lines)

    def _frame(self):
        return pd.DataFrame(self._rows, columns=self.columns)


def save_example(folder, utterance_id, mixture, sources, estimates, permutation, sample_rate):
    """Write an utterance's mixture, sources and estimates as WAV files.

    The estimates share one gain, which fits their sum to the mixture, and all files share one that keeps them from
    clipping, so that relative levels are heard as they are.

    Arguments
    ---------
    folder : str or Path
        Made if it is not there. Files are ``<id>_mix.wav``, ``<id>_source1.wav``, ``<id>_estimate1.wav`` and so on.
    utterance_id : str
        The mixture's ID; separators of paths in it become underscores.
    mixture : torch.Tensor
        [T].
    sources, estimates : torch.Tensor
        [T, S].
    permutation : torch.Tensor
        [S], which estimate belongs to each source.
    sample_rate : int
        Hz.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    estimates = reorder(estimates[None], permutation[None].to(estimates.device))[0]
    estimates = estimates * mixture_gain(estimates, mixture)
    gain = peak_gain(mixture, sources, estimates)
    stem = example_stem(utterance_id)
    write_audio(folder / f"{stem}_mix.wav", gain * mixture.cpu(), sample_rate)
    for name, signals in (("source", sources), ("estimate", estimates)):
        for number, signal in enumerate(signals.cpu().unbind(-1), start=1):
            write_audio(folder / f"{stem}_{name}{number}.wav", gain * signal, sample_rate)


def example_stem(utterance_id):
    """What the names of an example's files begin with.

    Example
    -------
    >>> example_stem("tt/a")
    'tt_a'
    """
    return str(utterance_id).replace("/", "_").replace("\\", "_")
