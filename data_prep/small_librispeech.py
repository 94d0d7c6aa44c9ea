"""A small corpus of real speech, of which anybody can make the same: 351 utterances of LibriSpeech, listed here.

    python -m data_prep small_librispeech --librispeech_folder /path/to/LibriSpeech --data_folder corpus \\
        --output_folder manifests

`small_librispeech.csv` says which utterances: one each of 231 speakers of train-clean-100 for training and of 20 others
for validation, and 100 of 10 speakers of test-other for the test. No recording comes along. What is made:

    DATA_FOLDER/speech/{tr,cv,tt}/UTTERANCE.wav           the utterances at 8 kHz, to draw from
    DATA_FOLDER/noise/{tr,cv,tt}/NUMBER.wav               synthesised noise, and babble of the same split's speech
    DATA_FOLDER/rooms/{tr,cv,tt}/NUMBER.npy               responses of rooms, drawn as those of WHAMR! were
    DATA_FOLDER/{tr,cv,tt}/CONDITION/{mix,s1,s2}/ID.wav   fixed mixtures, as many of each condition

The conditions are `clean`; `noisy`, with its noise in a folder beside the others; and `reverb`, in a room and in noise,
with sources that are free of both. The mixtures of one number have the same utterances in all conditions. Levels are
those of LibriMix.
"""

import csv
import functools
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.generate.engine import Item, Output, Plan, checksum, run
from data_prep.generate.recordings import frames_of, read_recording
from data_prep.generate.room_cache import compute_rooms
from data_prep.generate.wsj0 import NUM_SHOWN, num_resampled, resample, to_int16
from data_prep.listing import Listing, Mixture
from data_prep.manifest import SPLITS, check_choice, write_manifests
from data_prep.mixing_tables import NOISE_TABLE, SPEECH_TABLE, prepare_mixing
from data_prep.synthetic_noise import make_noise
from mossformer_sb.dataio import read_audio
from mossformer_sb.dynamic_mixing import DynamicMixtureDataset
from mossformer_sb.errors import InputError
from mossformer_sb.stretches import Stretching

NAME, PREFIX = "the small LibriSpeech corpus", "small_librispeech"
LIST_FILE = Path(__file__).with_suffix(".csv")
COLUMNS = ("utterance", "part", "split")
SAMPLE_RATE = 8000  # Hz, of all that is made
VERSION = 1  # to be increased when the same list gives other samples
NOISE_SECONDS = 30  # of a clip
NOISE_PEAK = 0.9
BABBLE_UTTERANCES = 24  # that the people of one clip take turns with
TRAIN_SECONDS = 5.0  # of a fixed training mixture; those of validation and test last as long as their utterances
WORTH_WORKERS = 30  # files or mixtures; fewer are made before the processes have started
HELD_OUT_SHARE = 5  # validation and test have so many times fewer rooms and noises
# Condition → whether there is a room, and noise.
CONDITIONS = {"clean": (False, False), "noisy": (False, True), "reverb": (True, True)}


@dataclass(frozen=True)
class Speech(Item):
    """One utterance, from LibriSpeech's rate to ours.

    Attributes
    ----------
    path : str
        Of the recording.
    """

    path: str


@dataclass(frozen=True)
class Noise(Item):
    """One clip of noise.

    Attributes
    ----------
    split : str
        Whose speech babble is made of.
    number : int
        Of the clip, from 0.
    """

    split: str
    number: int


@dataclass(frozen=True)
class FixedMixture(Item):
    """One mixture.

    Attributes
    ----------
    split, condition : str
        Which dataset draws it.
    number : int
        Of the dataset's item.
    speakers : tuple of str
        In the order of the sources.
    """

    split: str
    condition: str
    number: int
    speakers: tuple


def prepare_small_librispeech(
    data_folder,
    output_folder,
    librispeech_folder=None,
    sample_rate=SAMPLE_RATE,
    num_train=300,
    num_valid=90,
    num_test=300,
    num_rooms=500,
    num_noises=100,
    seed=1234,
    list_file=None,
    deep=False,
    on_bad="fail",
    workers=None,
):
    """Makes the corpus, as far as it is absent, and writes its manifests, `small_librispeech_{split}.csv`.

    Besides the three splits there are manifests of the test mixtures of each condition, `…_tt_clean.csv` and so on.

    Arguments
    ---------
    data_folder : str
        Folder of the corpus, created if absent.
    output_folder : str
        Folder for the manifests, created if absent.
    librispeech_folder : str, optional
        Folder that has `train-clean-100/` and `test-other/`, of which only the listed utterances are needed. Default:
        their copies are in `data_folder` already.
    sample_rate : int
        8000 Hz is the only one.
    num_train, num_valid, num_test : int
        Numbers of fixed mixtures, a third of each condition. Dynamic mixing doesn't use those for training.
    num_rooms, num_noises : int
        How many rooms and clips of noise there are for training; a fifth of that for validation and for the test.
    seed : int
        Seed of everything random in the corpus.
    list_file : str, optional
        CSV with the columns `utterance,part,split`. Default: the one that lies beside this module.
    deep, on_bad
        As for `data_prep.manifest.write_manifests`.
    workers : int, optional
        Number of processes; one a processor if None. The files don't depend on it.

    Returns
    -------
    manifests : dict
        For each split, and for the test mixtures of each condition, the path of the manifest.

    Raises
    ------
    InputError
        If an argument can't be used, utterances are missing, or the folder holds something else.
    """
    check_choice("sample_rate", sample_rate, (SAMPLE_RATE,))
    counts = {"num_train": num_train, "num_valid": num_valid, "num_test": num_test}
    for key, count in counts.items():
        if count < len(CONDITIONS) or count % len(CONDITIONS):
            raise InputError(
                f"{key} is {count}: give a multiple of {len(CONDITIONS)}, for there are as many mixtures of each "
                f"condition ({', '.join(CONDITIONS)})."
            )
    for key, count in (("num_rooms", num_rooms), ("num_noises", num_noises)):
        if count < 1:
            raise InputError(f"{key} is {count}: give at least 1.")
    data_folder = Path(data_folder).expanduser()
    list_file = LIST_FILE if list_file is None else Path(list_file)
    splits = read_list(list_file)
    parameters = {"version": VERSION, "seed": seed, "utterances": checksum(list_file)}
    _copy_speech(splits, librispeech_folder, data_folder, parameters, workers)
    parameters |= {"num_noises": num_noises}
    _synthesise_noise(splits, data_folder, seed, num_noises, parameters, workers)

    items = []
    datasets = {}
    for split, count in zip(SPLITS, counts.values(), strict=True):
        datasets[split] = _datasets(split, data_folder, count // len(CONDITIONS), num_rooms, seed, workers)
        items += [item for condition, data in datasets[split].items() for item in _plan(split, condition, data)]
    parameters |= {"num_rooms": num_rooms}
    _run(Plan(PREFIX, items, functools.partial(_mix, datasets), parameters), data_folder, workers)
    return write_manifests(_listing(items, data_folder), output_folder, deep, on_bad)


def _run(plan, data_folder, workers):
    run(plan, data_folder, 1 if len(plan.items) < WORTH_WORKERS else workers)


def read_list(path=LIST_FILE):
    """Reads which utterances belong to which split.

    Arguments
    ---------
    path : str or Path
        CSV with the columns `utterance,part,split`.

    Returns
    -------
    splits : dict
        split → utterance → its path in LibriSpeech, without ending.

    Raises
    ------
    InputError
        If it can't be read, or a line of it is not as needed.

    Example
    -------
    >>> splits = read_list()
    >>> {split: len(utterances) for split, utterances in splits.items()}
    {'tr': 231, 'cv': 20, 'tt': 100}
    >>> splits["tr"]["19-198-0000"]
    'train-clean-100/19/198/19-198-0000'
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"list_file '{path}' can't be read ({error}): give a CSV {','.join(COLUMNS)}.") from error
    rows = csv.DictReader(text.splitlines())
    if tuple(rows.fieldnames or ()) != COLUMNS:
        raise InputError(f"{path}: has the columns {rows.fieldnames}; needed {','.join(COLUMNS)} in the first line.")
    splits = {split: {} for split in SPLITS}
    for row in rows:
        utterance, part, split = (row[column] for column in COLUMNS)
        where = f"{path}:{rows.line_num}"
        if not re.fullmatch(r"\w+-\w+-\w+", utterance or "") or not part:
            raise InputError(
                f"{where}: found utterance {utterance!r} of part {part!r}; needed an ID such as 19-198-0000, and its "
                "part of LibriSpeech."
            )
        check_choice(f"{where}: split", split, SPLITS)
        speaker, chapter, _ = utterance.split("-")
        splits[split][utterance] = f"{part}/{speaker}/{chapter}/{utterance}"
    for split, utterances in splits.items():
        if len({name.split("-")[0] for name in utterances}) < 2:
            raise InputError(f"{path}: split '{split}' has fewer than two speakers, and a mixture has two. Add some.")
    return splits


# Speech


def _copy_speech(splits, librispeech_folder, data_folder, parameters, workers):
    """Writes every utterance at our rate; nothing is asked of LibriSpeech where all of them are there."""
    names = {f"speech/{split}/{name}.wav": f"{path}.flac" for split in splits for name, path in splits[split].items()}
    if librispeech_folder is None:
        missing = [name for name in names if not (data_folder / name).is_file()]
        if missing:
            raise InputError(
                f"librispeech_folder is not given, and data_folder '{data_folder}' lacks {len(missing)} of "
                f"{len(names)} utterances, the first of them {missing[0]}: give the folder that has train-clean-100 "
                "and test-other."
            )
        return
    root = Path(librispeech_folder).expanduser()
    missing = [path for path in names.values() if not (root / path).is_file()]
    if missing:
        shown = ", ".join(missing[:NUM_SHOWN]) + (" …" if len(missing) > NUM_SHOWN else "")
        raise InputError(
            f"librispeech_folder '{root}' lacks {len(missing)} of {len(names)} utterances: {shown}. Give the folder "
            "that has train-clean-100 and test-other, as they are unpacked from LibriSpeech's archives."
        )
    frames = frames_of(root, names.values())
    items = []
    for name, path in names.items():
        output = Output(name, num_resampled(frames[path], SAMPLE_RATE), SAMPLE_RATE, "int16")
        items.append(Speech(path, (output,), str(root / path)))
    _run(Plan(f"{PREFIX}_speech", items, _read_speech, parameters), data_folder, workers)


def _read_speech(item):
    return {item.outputs[0].path: _rounded(resample(read_recording(item.path), SAMPLE_RATE))}


def _rounded(samples):
    """As 16 bit; resampling may have lifted a peak above full scale, which would wrap around."""
    return to_int16(np.clip(samples, -1, 1 - 2**-15))


# Noise


def _synthesise_noise(splits, data_folder, seed, num_noises, parameters, workers):
    items = []
    for split in splits:
        for number in range(_share(num_noises, split)):
            output = Output(f"noise/{split}/{number:04d}.wav", NOISE_SECONDS * SAMPLE_RATE, SAMPLE_RATE, "int16")
            items.append(Noise(f"noise {number} of {split}", (output,), split, number))
    speech = {split: [str(data_folder / f"speech/{split}/{name}.wav") for name in splits[split]] for split in splits}
    _run(Plan(f"{PREFIX}_noise", items, functools.partial(_make_noise, speech, seed), parameters), data_folder, workers)


def _share(number, split):
    return number if split == "tr" else max(1, number // HELD_OUT_SHARE)


def _make_noise(speech, seed, item):
    rng = np.random.default_rng([VERSION, seed, SPLITS.index(item.split), item.number])
    paths = speech[item.split]
    utterances = [read_audio(paths[index])[0] for index in rng.integers(len(paths), size=BABBLE_UTTERANCES)]
    noise = make_noise(item.number, utterances, rng, NOISE_SECONDS * SAMPLE_RATE, SAMPLE_RATE)
    return {item.outputs[0].path: _rounded(noise * (NOISE_PEAK / np.abs(noise).max()))}


# Mixtures


def _datasets(split, data_folder, count, num_rooms, seed, workers):
    """For each condition, what its fixed mixtures are drawn with; computes the rooms."""
    rooms = data_folder / "rooms" / split
    # Other rooms in each split: those for training have the seed that dynamic mixing has, too.
    compute_rooms(rooms, _share(num_rooms, split), 2, SAMPLE_RATE, None, seed + SPLITS.index(split), workers)
    tables = data_folder / "tables" / split
    speech, noise = data_folder / "speech" / split, data_folder / "noise" / split
    prepare_mixing(
        True,
        manifest=None,
        data_root=None,
        output_folder=tables,
        speech_folder=speech,
        speech_layout="librispeech",
        noise_folder=noise,
        workers=workers,
    )
    return {
        condition: DynamicMixtureDataset(
            manifest=None,
            data_root=None,
            speech_table=tables / SPEECH_TABLE,
            noise_table=tables / NOISE_TABLE if has_noise else None,
            rooms_folder=rooms if has_room else None,
            levels="librimix",
            sample_rate=SAMPLE_RATE,
            segment=TRAIN_SECONDS if split == "tr" else None,
            mixtures_per_epoch=count,
            seed=seed,
        )
        for condition, (has_room, has_noise) in CONDITIONS.items()
    }


def _plan(split, condition, data):
    """The mixtures of a split and condition. Which utterances they have is the first thing that is drawn of each."""
    for number in range(len(data)):
        chosen = data.speech.draw(data.rng(number), data.num_spks)
        lengths = [
            Stretching.between(data.speech.sample_rates[index], SAMPLE_RATE).num_out(data.speech.num_samples[index])
            for index in chosen
        ]
        frames = min(*lengths, data.segment or min(lengths))
        name = "_".join([condition, f"{number:04d}", *(data.speech.names[index] for index in chosen)])
        signals = ("mix", "s1", "s2", *(["noise"] if condition == "noisy" else []))
        outputs = tuple(
            Output(f"{split}/{condition}/{signal}/{name}.wav", frames, SAMPLE_RATE, "float32") for signal in signals
        )
        speakers = tuple(data.speech.speakers[index] for index in chosen)
        yield FixedMixture(name, outputs, split, condition, number, speakers)


def _mix(datasets, item):
    parts = datasets[item.split][item.condition].draw(item.number)
    signals = (parts.mixture, *parts.targets, parts.noise)
    return {output.path: signal for output, signal in zip(item.outputs, signals, strict=False)}


def _listing(items, data_folder):
    """What the manifests list: the splits, and the test mixtures of each condition."""
    splits = {split: {} for split in (*SPLITS, *(f"tt_{condition}" for condition in CONDITIONS))}
    for item in sorted(items, key=lambda item: item.name):
        files = [output.path for output in item.outputs]
        # A reverberant mixture isn't the sum of its sources, and their images are not kept.
        parts = () if item.condition == "reverb" else files[1:]
        columns = dict(zip(("mix_wav", "s1_wav", "s2_wav"), files, strict=False))
        mixture = Mixture(columns, tuple(parts), item.speakers)
        splits[item.split][item.name] = mixture
        if item.split == "tt":
            splits[f"tt_{item.condition}"][item.name] = mixture
    return Listing(NAME, PREFIX, SAMPLE_RATE, data_folder, splits=splits)
