"""Manifests to batches: reading audio, cutting crops, padding.

Shapes: B batch, T samples, S sources.
"""

import functools
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import replacing

DATA_ROOT = "$data_root"  # what every path in a manifest begins with
FINGERPRINT_SHOWN = 12  # digits of a fingerprint that people get to see
SAMPLED_RECORDINGS = 48  # of a dataset, of which a fingerprint has samples
SAMPLED_PLACES, SAMPLED_FRAMES = 4, 128  # in each of them, and frames at each place


def read_audio(path, start=0, num_frames=-1):
    """Read an audio file, or a part of it.

    Arguments
    ---------
    path : str or Path
        Any format that libsndfile reads.
    start : int
        First frame.
    num_frames : int
        How many; -1 for all that follow.

    Returns
    -------
    samples : numpy.ndarray
        [T] for one channel, [T, channels] for several; float32, full scale 1.
    sample_rate : int
        Hz.

    Raises
    ------
    InputError
        If the file is absent, can't be read as audio, or ends too early.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> write_audio(folder / "ramp.wav", np.arange(4) / 8, 8000)
    >>> read_audio(folder / "ramp.wav", start=1, num_frames=2)
    (array([0.125, 0.25 ], dtype=float32), 8000)
    """
    if not os.path.isfile(path):
        raise InputError(f"{path}: there is no such audio file.")
    try:
        samples, sample_rate = soundfile.read(path, frames=num_frames, start=start, dtype="float32")
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise InputError(f"{path}: can't be read as audio ({error}). Is it damaged, or another format?") from error
    if num_frames >= 0 and len(samples) < num_frames:
        raise InputError(
            f"{path}: has {start + len(samples)} frames where {start + num_frames} were expected. "
            f"Was it changed after the manifest was made? Prepare the data again."
        )
    return samples, sample_rate


def write_audio(path, samples, sample_rate):
    """Write a float32 WAV: under a temporary name first, so that a file of this name is always whole.

    Arguments
    ---------
    path : str or Path
        Its folder must exist.
    samples : numpy.ndarray or torch.Tensor
        [T] or [T, channels], full scale 1. Float files hold what exceeds it, so nothing is clipped.
    sample_rate : int
        Hz.
    """
    with replacing(path) as temporary:
        soundfile.write(temporary, np.asarray(samples, dtype=np.float32), sample_rate, subtype="FLOAT", format="WAV")


def read_manifest(path, data_root, num_spks=None):
    """Read a manifest.

    Arguments
    ---------
    path : str or Path
        A CSV with the columns ``ID, duration, sample_rate, mix_wav, s1_wav … sN_wav``; others are kept.
    data_root : str or Path
        What ``$data_root`` in its paths stands for.
    num_spks : int, optional
        How many sources there must be.

    Returns
    -------
    pandas.DataFrame
        One row a mixture, paths complete, and a column ``num_samples``.

    Raises
    ------
    InputError
        If the file is absent, empty, or lacks a column.

    Example
    -------
    >>> manifest = getfixture("tmp_path") / "tr.csv"
    >>> header = "ID,duration,sample_rate,mix_wav,s1_wav"
    >>> _ = manifest.write_text(header + "\\na,2.5,8000,$data_root/m.wav,$data_root/s.wav\\n")
    >>> read_manifest(manifest, "/data")[["mix_wav", "num_samples"]].iloc[0].to_list() == ["/data/m.wav", 20000]
    True
    """
    if not os.path.isfile(path):
        raise InputError(f"{path}: there is no such manifest. Prepare the data first (without --skip_prep).")
    table = pd.read_csv(path, dtype={"ID": str}, keep_default_na=False)
    needed = ["ID", "duration", "sample_rate", "mix_wav"] + [f"s{i + 1}_wav" for i in range(num_spks or 1)]
    missing = [column for column in needed if column not in table.columns]
    if missing:
        raise InputError(
            f"{path}: column {', '.join(missing)} is missing; found {', '.join(table.columns)}. "
            f"Does num_spks: {num_spks} fit this corpus?"
        )
    if num_spks is not None and f"s{num_spks + 1}_wav" in table.columns:
        raise InputError(
            f"{path}: has a column s{num_spks + 1}_wav, but num_spks is {num_spks}: set it to the corpus's."
        )
    if table.empty:
        raise InputError(f"{path}: has no rows.")
    for column in table.columns[table.columns.str.endswith("_wav")]:
        table[column] = table[column].str.replace(DATA_ROOT, str(data_root), n=1, regex=False)
    table["num_samples"] = (table["duration"] * table["sample_rate"]).round().astype(int)
    return table


def fingerprint(table):
    """Tell whether two manifests list the same data, wherever it lies.

    Covered are: which kinds of signal there are (the ``…_wav`` columns), the ID, length and sample rate of every
    mixture, and, of all signals of a few mixtures, some samples. So another task or target, other speakers, noise or
    levels give another fingerprint, and so does another corpus with the same names. A change in a single recording may
    go unnoticed: the samples are of at most `SAMPLED_RECORDINGS` mixtures, so that the time doesn't grow with the
    corpus. The order of the rows and the format of the files are without effect; lossy formats count as they are
    decoded here.

    Arguments
    ---------
    table : pandas.DataFrame
        A manifest, from `read_manifest`.

    Returns
    -------
    str
        SHA-256, in hexadecimal digits.

    Raises
    ------
    InputError
        If one of the recordings that it takes samples of is missing, or no audio.

    Example
    -------
    >>> table = pd.DataFrame({"ID": ["b", "a"], "num_samples": [20000, 8000], "sample_rate": 8000})
    >>> fingerprint(table)[:FINGERPRINT_SHOWN]
    '36d64d76ce08'
    """
    columns = sorted(column for column in table.columns if column.endswith("_wav"))
    table = table.sort_values("ID")
    listed = zip(table["ID"], table["num_samples"], table["sample_rate"], strict=True)
    rows = table[["ID", "num_samples", *columns]].to_dict("records")
    sampled = [
        (row[column], row["num_samples"]) for row in _spread(rows, key=lambda row: row["ID"]) for column in columns
    ]
    return digest([columns, *listed], sampled)


def digest(facts, recordings):
    """SHA-256 over facts and over some samples of recordings.

    Arguments
    ---------
    facts : iterable of sequence
        Each is written as one line.
    recordings : iterable of tuple
        Path, and number of samples.

    Returns
    -------
    str
        Hexadecimal digits.
    """
    found = hashlib.sha256("".join("\t".join(map(str, line)) + "\n" for line in facts).encode())
    for path, num_samples in recordings:
        count = min(SAMPLED_FRAMES, num_samples)
        starts = [(num_samples - count) * place // (SAMPLED_PLACES - 1) for place in range(SAMPLED_PLACES)]
        for samples in _read_places(path, starts, count):
            found.update(np.ascontiguousarray(samples, dtype="<f4").tobytes())
    return found.hexdigest()


def _read_places(path, starts, count):
    """As `read_audio` for several places, with the file opened once, which is what takes time on network disks.

    A place that can't be read gives no samples: finding damage is left to the checks of the data, and to training.
    """
    if not os.path.isfile(path):
        raise InputError(f"{path}: there is no such audio file.")
    try:
        file = soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise InputError(f"{path}: can't be read as audio ({error}). Is it damaged, or another format?") from error
    with file:
        for start in starts:
            try:
                file.seek(start)
                yield file.read(count, dtype="float32")
            except (soundfile.LibsndfileError, RuntimeError):
                yield np.empty(0, np.float32)


def _spread(rows, key):
    """A few of many rows, the same whatever their order: those whose keys have the lowest hashes."""
    ranked = sorted(rows, key=lambda row: hashlib.sha256(str(key(row)).encode()).digest())
    return ranked[:SAMPLED_RECORDINGS]


def recordings_fingerprint(names, paths, num_samples, sample_rates):
    """As `fingerprint`, of recordings that dynamic mixing draws from.

    Arguments
    ---------
    names : sequence of str
        What is known of each recording besides: its speaker and its name without folder.
    paths, num_samples, sample_rates : sequence
        The file, its length, and its rate in Hz.

    Returns
    -------
    str
        SHA-256, in hexadecimal digits.
    """
    rows = sorted(zip(names, num_samples, sample_rates, paths, strict=True))
    sampled = [(row[3], row[1]) for row in _spread(rows, key=lambda row: row[:3])]
    return digest([row[:3] for row in rows], sampled)


def mixtures_are_sums(manifest):
    """Tell whether the mixtures of a manifest are the sum of its sources and noise, as its preparation noted beside it.

    Arguments
    ---------
    manifest : str or Path
        ``wham_tr.csv``; the facts are in ``wham_tr.json``.

    Returns
    -------
    bool

    Raises
    ------
    InputError
        If that file is absent, or says nothing about it.
    """
    facts = Path(manifest).with_suffix(".json")
    try:
        return json.loads(facts.read_text(encoding="utf-8"))["mixture_is_sum"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{facts}: does not say whether the mixtures are the sum of sources and noise (mixture_is_sum), which "
            "augmentation needs to know. Prepare the data again (without --skip_prep)."
        ) from error


@dataclass
class Mixture:
    """One item of a dataset."""

    id: str
    mixture: torch.Tensor  # [T]
    sources: torch.Tensor  # [T, S]


@dataclass
class SeparationBatch:
    """A padded batch."""

    ids: list
    mixture: torch.Tensor  # [B, T]
    sources: torch.Tensor  # [B, T, S]
    lengths: torch.Tensor  # [B], int64, samples; stays on the CPU
    is_padded: bool

    @classmethod
    def collate(cls, items):
        """Pad a list of `Mixture` with zeros to the longest.

        Example
        -------
        >>> items = [Mixture(str(n), torch.ones(n), torch.ones(n, 2)) for n in (3, 5)]
        >>> SeparationBatch.collate(items).lengths
        tensor([3, 5])
        """
        lengths = torch.tensor([len(item.mixture) for item in items])
        return cls(
            ids=[item.id for item in items],
            mixture=pad_sequence([item.mixture for item in items], batch_first=True),
            sources=pad_sequence([item.sources for item in items], batch_first=True),
            lengths=lengths,
            is_padded=bool((lengths != lengths[0]).any()),
        )

    @property
    def padded_lengths(self):
        """``lengths`` where some item is padded, None where none is: the network is faster without."""
        return self.lengths if self.is_padded else None

    def __len__(self):
        return len(self.ids)

    def select(self, chosen):
        """The items for which a mask [B] of booleans is true, as a batch of their own, padded as before."""
        chosen = chosen.cpu()
        device_mask = chosen.to(self.mixture.device)
        return SeparationBatch(
            ids=[item_id for item_id, is_chosen in zip(self.ids, chosen.tolist(), strict=True) if is_chosen],
            mixture=self.mixture[device_mask],
            sources=self.sources[device_mask],
            lengths=self.lengths[chosen],
            is_padded=self.is_padded,
        )

    def to(self, device):
        """Move the signals, in place as SpeechBrain's batches do."""
        self.mixture = self.mixture.to(device, non_blocking=True)
        self.sources = self.sources.to(device, non_blocking=True)
        return self

    def pin_memory(self):
        """Pin the signals, in place."""
        self.mixture = self.mixture.pin_memory()
        self.sources = self.sources.pin_memory()
        return self


class EpochDataset(Dataset):
    """A dataset whose items are pure functions of (seed, epoch, index).

    They are the same in whatever worker, rank or resumed run they are made.

    Arguments
    ---------
    seed : int
        Of everything random.

    Example
    -------
    >>> data = EpochDataset(seed=1)
    >>> first = data.rng(7).random()
    >>> data.set_epoch(2)
    >>> first == EpochDataset(seed=1).rng(7).random(), first == data.rng(7).random()
    (True, False)
    """

    def __init__(self, seed=0):
        self.seed = seed
        # In shared memory, so that workers which outlive an epoch see the next one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch):
        """Choose the epoch whose items come next."""
        self._epoch.fill_(epoch)

    def rng(self, index):
        """Where everything random in an item comes from: a numpy.random.Generator."""
        return np.random.default_rng((self.seed, int(self._epoch), index))


class MixtureDataset(EpochDataset):
    """The mixtures of a manifest, whole or as random crops.

    Arguments
    ---------
    manifest : str or Path
        See `read_manifest`.
    data_root : str or Path
        What ``$data_root`` stands for.
    num_spks : int
        S.
    sample_rate : int
        Hz that the recordings must have.
    segment : float, optional
        Length of the crops in seconds; shorter recordings are taken whole. Default: everything whole.
    seed : int
        Seed of the crops.

    Raises
    ------
    InputError
        If the manifest does not fit the other arguments.
    """

    def __init__(self, manifest, data_root, num_spks=2, sample_rate=8000, segment=None, seed=0):
        super().__init__(seed)
        self.table = read_manifest(manifest, data_root, num_spks)
        self.manifest, self.data_root = manifest, data_root
        rates = sorted(set(self.table["sample_rate"]))
        if rates != [sample_rate]:
            raise InputError(f"{manifest}: recordings have {rates} Hz, but sample_rate is {sample_rate}.")
        if segment is not None and round(segment * sample_rate) < 1:
            raise InputError(
                f"segment must be a length in seconds greater than zero, or null for none; found {segment}."
            )
        self.num_spks = num_spks
        self.sample_rate = sample_rate
        self.segment = None if segment is None else round(segment * sample_rate)

    @functools.cached_property
    def fingerprint(self):
        """Of the manifest and its recordings, see `fingerprint`."""
        return fingerprint(self.table)

    def write_manifest(self, path):
        """Write a copy of the manifest, such as beside the scores of its mixtures."""
        with replacing(path) as temporary:
            shutil.copyfile(self.manifest, temporary)

    def __len__(self):
        return len(self.table)

    def __getitem__(self, index):
        row = self.table.iloc[index]
        start, num_samples = self._crop(index, int(row["num_samples"]))
        paths = [row["mix_wav"]] + [row[f"s{i + 1}_wav"] for i in range(self.num_spks)]
        mixture, *sources = (torch.from_numpy(read_audio(path, start, num_samples)[0]) for path in paths)
        return Mixture(row["ID"], mixture, torch.stack(sources, dim=-1))

    def _crop(self, index, total):
        """First sample and number of samples."""
        if self.segment is None or total <= self.segment:
            return 0, total
        return int(self.rng(index).integers(total - self.segment + 1)), self.segment
