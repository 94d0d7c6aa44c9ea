"""Speech of 3,600 people and real noise, free enough that weights trained on it can be published.

    python -m data_prep many_speakers --clips_folder clips --recorded_noise_folder noise \\
        --librispeech_folder /path/to/LibriSpeech --data_folder corpus --output_folder manifests

`many_speakers.csv.gz` lists 12,062 clips of LibriSpeech, Common Voice and speechocean762 (docs/pretrained_model.md says
where they come from and how they are cut), and 100 utterances of LibriSpeech's test-other. No recording comes along.
Training draws its mixtures dynamically; what is made beside that:

    DATA_FOLDER/lists/SPLIT.csv                           the clips of each split, to draw from: path,spk
    DATA_FOLDER/noise/{tr,cv,tt}/NUMBER.wav               synthesised noise, and babble of the same split's speech
    DATA_FOLDER/noise/tr/recorded/KIND/NAME.wav           the recorded noise, for training only
    DATA_FOLDER/rooms/{tr,cv,tt}/NUMBER.npy               responses of rooms, drawn as those of WHAMR! were
    DATA_FOLDER/{tr,cv,tt}/CONDITION/{mix,s1,s2}/ID.wav   fixed mixtures, as many of each condition
    DATA_FOLDER/tt_SOURCE/clean/{mix,s1,s2}/ID.wav        clean mixtures of other held-out speakers

The conditions are `clean`; `noisy`, with its noise in a folder beside the others; and `reverb`, in a room and in noise,
with sources that are free of both. The mixtures of one number have the same utterances in all conditions. Levels are
those of LibriMix. No speaker is in two splits.
"""

import csv
import functools
import gzip
import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.demo_corpus.synthetic_noise import make_noise
from data_prep.generate.engine import Item, Output, Plan, checksum, run
from data_prep.generate.recordings import frames_of, name_noise, read_recording
from data_prep.generate.room_cache import compute_rooms
from data_prep.generate.wsj0 import NUM_SHOWN, num_resampled, resample, to_int16
from data_prep.manifests.corpus_index import Listing, Mixture
from data_prep.manifests.manifest import SPLITS, check_choice, write_manifests
from data_prep.manifests.source_tables import NOISE_TABLE, SPEECH_TABLE, measure_noise, prepare_mixing
from mossformer_sb.data.audio_io import read_audio
from mossformer_sb.data.dynamic_mixing import DynamicMixtureDataset
from mossformer_sb.data.resampling import SpeedResampler
from mossformer_sb.errors import InputError

NAME, PREFIX = "the corpus of many speakers", "many_speakers"
LIST_FILE = Path(__file__).with_suffix(".csv.gz")
COLUMNS = ("clip", "speaker", "split", "source", "file")
LIBRISPEECH = "librispeech"  # the source whose files are taken as published, and copied at our rate
CLEAN_SPLITS = ("tt_commonvoice", "tt_so762")  # whose mixtures are clean; the others have all conditions
ALL_SPLITS = (*SPLITS, *CLEAN_SPLITS)
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
class Recording(Item):
    """One recording of noise, from its rate to ours.

    Attributes
    ----------
    source : str
        Its path.
    frames, sample_rate : int
        Its length in samples, and their rate in Hz.
    """

    source: str
    frames: int
    sample_rate: int


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


@dataclass(frozen=True)
class Clip:
    """A line of the list.

    Attributes
    ----------
    name : str
        Of the clip's file, without ending.
    speaker, split, source : str
        Who speaks, which split it belongs to, and which collection it is from.
    file : str
        Its recording in the published corpus.
    """

    name: str
    speaker: str
    split: str
    source: str
    file: str


def prepare_many_speakers(
    data_folder,
    output_folder,
    clips_folder=None,
    recorded_noise_folder=None,
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
    """Makes the corpus, as far as it is absent, and writes its manifests, `many_speakers_{tr,cv,tt}.csv` and others.

    Others are those of the test mixtures of each condition, `…_tt_clean.csv` and so on, and of the held-out speakers of
    Common Voice and speechocean762, `…_tt_commonvoice.csv` and `…_tt_so762.csv`.

    Arguments
    ---------
    data_folder : str
        Folder of the corpus, created if absent.
    output_folder : str
        Folder for the manifests, created if absent.
    clips_folder : str, optional
        Folder with the listed clips at 8 kHz, `SPEAKER/CLIP.wav`. Default: `data_folder`/clips.
    recorded_noise_folder : str, optional
        Recordings of noise for training, beside the synthesised noise, `KIND/NAME.wav`. Default: none.
    librispeech_folder : str, optional
        Folder that has `test-other/`, of which only the listed utterances are needed. Default: their copies are in
        `data_folder` already.
    sample_rate : int
        8000 Hz is the only one.
    num_train, num_valid, num_test : int
        Numbers of fixed mixtures, a third of each condition. Dynamic mixing doesn't use those for training. Held-out
        speakers of other sources get a third of `num_test`, clean.
    num_rooms, num_noises : int
        How many rooms and synthesised clips of noise there are for training; a fifth of that for validation and test.
    seed : int
        Seed of everything random in the corpus.
    list_file : str, optional
        CSV with the columns `clip,speaker,split,source,file`, compressed by gzip or not. Default: the one that lies
        beside this module.
    deep, on_bad
        As for `data_prep.manifests.manifest.write_manifests`.
    workers : int, optional
        Number of processes; one a processor if None. The files don't depend on it.

    Returns
    -------
    manifests : dict
        From the split to the path of its manifest.

    Raises
    ------
    InputError
        If an argument can't be used, clips are missing, or the folder holds something else.
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
    clips_folder = data_folder / "clips" if clips_folder is None else Path(clips_folder).expanduser()
    list_file = LIST_FILE if list_file is None else Path(list_file)
    splits = read_list(list_file)
    paths = _find_clips(splits, clips_folder, data_folder)
    _check_noise(recorded_noise_folder)
    parameters = {"version": VERSION, "seed": seed, "clips": checksum(list_file)}
    _copy_librispeech(splits, librispeech_folder, data_folder, parameters, workers)
    for split in splits:
        _write_list(data_folder, split, splits[split], paths)
    parameters |= {"num_noises": num_noises}
    _synthesise_noise(splits, paths, data_folder, seed, num_noises, parameters, workers)
    _copy_noise(recorded_noise_folder, data_folder, parameters, workers)

    items, datasets = [], {}
    for split, count in zip(ALL_SPLITS, [*counts.values(), *[num_test] * len(CLEAN_SPLITS)], strict=True):
        conditions = ["clean"] if split in CLEAN_SPLITS else CONDITIONS
        datasets[split] = _datasets(split, conditions, data_folder, count // len(CONDITIONS), num_rooms, seed, workers)
        items += [item for condition, data in datasets[split].items() for item in _plan(split, condition, data)]
    parameters |= {"num_rooms": num_rooms}
    _run(Plan(PREFIX, items, functools.partial(_mix, datasets), parameters), data_folder, workers)
    return write_manifests(_listing(items, data_folder), output_folder, deep, on_bad)


def _run(plan, data_folder, workers):
    run(plan, data_folder, 1 if len(plan.items) < WORTH_WORKERS else workers)


def read_list(path=LIST_FILE):
    """Reads which clips belong to which split.

    Arguments
    ---------
    path : str or Path
        CSV with the columns `clip,speaker,split,source,file`.

    Returns
    -------
    splits : dict
        split → list of `Clip`.

    Raises
    ------
    InputError
        If it can't be read, or a line of it is not as needed.

    Example
    -------
    >>> {split: len({clip.speaker for clip in clips}) for split, clips in read_list().items()}
    {'tr': 3548, 'cv': 20, 'tt': 10, 'tt_commonvoice': 40, 'tt_so762': 20}
    """
    try:
        content = Path(path).read_bytes()
        text = (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"list_file '{path}' can't be read ({error}): give a CSV {','.join(COLUMNS)}.") from error
    rows = csv.DictReader(io.StringIO(text))
    if tuple(rows.fieldnames or ()) != COLUMNS:
        raise InputError(f"{path}: has the columns {rows.fieldnames}; needed {','.join(COLUMNS)} in the first line.")
    splits, home = {split: [] for split in ALL_SPLITS}, {}
    for row in rows:
        where = f"{path}:{rows.line_num}"
        clip = Clip(*(row[column] for column in COLUMNS))
        if not re.fullmatch(r"[\w-]+", clip.name or "") or not re.fullmatch(r"[\w-]+", clip.speaker or ""):
            raise InputError(f"{where}: found the clip {clip.name!r} of {clip.speaker!r}; needed names of a file each.")
        check_choice(f"{where}: split", clip.split, ALL_SPLITS)
        if home.setdefault(clip.speaker, clip.split) != clip.split:
            raise InputError(
                f"{where}: speaker {clip.speaker} is in the splits '{home[clip.speaker]}' and '{clip.split}'; needed "
                "in one."
            )
        splits[clip.split].append(clip)
    for split, clips in splits.items():
        if len({clip.speaker for clip in clips}) < 2:
            raise InputError(f"{path}: split '{split}' has fewer than two speakers, and a mixture has two. Add some.")
    return splits


# Speech


def _find_clips(splits, clips_folder, data_folder):
    """Where each clip lies, by its name; those of LibriSpeech as published lie where they are copied to."""
    paths = {
        clip.name: _copy_of(clip, data_folder)
        if clip.source == LIBRISPEECH
        else clips_folder / clip.speaker / f"{clip.name}.wav"
        for clips in splits.values()
        for clip in clips
    }
    sources = {clip.name: clip.source for clips in splits.values() for clip in clips}
    missing = [path for name, path in paths.items() if sources[name] != LIBRISPEECH and not path.is_file()]
    if missing:
        raise InputError(
            f"clips_folder '{clips_folder}' lacks {len(missing)} of {len(paths)} clips, the first of them "
            f"{missing[0].relative_to(clips_folder)}: docs/pretrained_model.md says how the clips are cut."
        )
    return paths


def _copy_of(clip, data_folder):
    return data_folder / "speech" / clip.split / f"{clip.name}.wav"


def _write_list(data_folder, split, clips, paths):
    """The clips of a split, as dynamic mixing takes them."""
    target = data_folder / "lists" / f"{split}.csv"
    target.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("path", "spk"))
    writer.writerows((paths[clip.name].absolute(), clip.speaker) for clip in clips)
    content = text.getvalue().encode()
    if target.is_file() and target.read_bytes() == content:
        return
    unfinished = target.with_suffix(".tmp")
    unfinished.write_bytes(content)
    unfinished.replace(target)


def _copy_librispeech(splits, librispeech_folder, data_folder, parameters, workers):
    """Writes the utterances that are taken as published at our rate; nothing is asked where all of them are there."""
    clips = [clip for clips in splits.values() for clip in clips if clip.source == LIBRISPEECH]
    if librispeech_folder is None:
        missing = [path for path in (_copy_of(clip, data_folder) for clip in clips) if not path.is_file()]
        if missing:
            raise InputError(
                f"librispeech_folder is not given, and data_folder '{data_folder}' lacks {len(missing)} of "
                f"{len(clips)} utterances, the first of them {missing[0].relative_to(data_folder)}: give the folder "
                "that has test-other."
            )
        return
    root = Path(librispeech_folder).expanduser()
    missing = [clip.file for clip in clips if not (root / clip.file).is_file()]
    if missing:
        shown = ", ".join(missing[:NUM_SHOWN]) + (" …" if len(missing) > NUM_SHOWN else "")
        raise InputError(
            f"librispeech_folder '{root}' lacks {len(missing)} of {len(clips)} utterances: {shown}. Give the folder "
            "that has test-other, as it is unpacked from LibriSpeech's archive."
        )
    frames = frames_of(root, [clip.file for clip in clips])
    items = []
    for clip in clips:
        path = _copy_of(clip, data_folder).relative_to(data_folder).as_posix()
        output = Output(path, num_resampled(frames[clip.file], SAMPLE_RATE), SAMPLE_RATE, "int16")
        items.append(Speech(path, (output,), str(root / clip.file)))
    _run(Plan(f"{PREFIX}_speech", items, _read_speech, parameters), data_folder, workers)


def _read_speech(item):
    return {item.outputs[0].path: _rounded(resample(read_recording(item.path), SAMPLE_RATE))}


def _rounded(samples):
    """As 16 bit; resampling may have lifted a peak above full scale, which would wrap around."""
    return to_int16(np.clip(samples, -1, 1 - 2**-15))


# Noise


def _check_noise(folder):
    if folder is not None:
        name_noise(folder, "recorded_noise_folder")


def _copy_noise(folder, data_folder, parameters, workers):
    """Writes recorded noise at our rate beside the synthesised noise for training."""
    if folder is None:
        return
    root = Path(folder).expanduser()
    items = []
    for name in name_noise(folder, "recorded_noise_folder"):
        source, frames, sample_rate = measure_noise((str(root / name), None))
        path = Path("noise/tr/recorded", name).with_suffix(".wav").as_posix()
        output = Output(path, _to_our_rate(sample_rate).num_out(frames), SAMPLE_RATE, "int16")
        items.append(Recording(path, (output,), source, frames, sample_rate))
    _run(Plan(f"{PREFIX}_recorded_noise", items, _read_noise, parameters), data_folder, workers)


def _to_our_rate(sample_rate):
    return SpeedResampler.between(sample_rate, SAMPLE_RATE)


def _read_noise(item):
    (output,) = item.outputs
    noise = _to_our_rate(item.sample_rate).read(item.source, item.frames, 0, output.frames)
    return {output.path: _rounded(noise)}


def _synthesise_noise(splits, paths, data_folder, seed, num_noises, parameters, workers):
    items = []
    for split in SPLITS:
        for number in range(_share(num_noises, split)):
            output = Output(f"noise/{split}/{number:04d}.wav", NOISE_SECONDS * SAMPLE_RATE, SAMPLE_RATE, "int16")
            items.append(Noise(f"noise {number} of {split}", (output,), split, number))
    speech = {split: [str(paths[clip.name]) for clip in splits[split]] for split in SPLITS}
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


def _datasets(split, conditions, data_folder, count, num_rooms, seed, workers):
    """For each condition, what its fixed mixtures are drawn with; computes the rooms."""
    rooms = data_folder / "rooms" / split
    if "reverb" in conditions:
        # Other rooms in each split: those for training have the seed that dynamic mixing has, too.
        compute_rooms(rooms, _share(num_rooms, split), 2, SAMPLE_RATE, None, seed + SPLITS.index(split), workers)
    tables = data_folder / "tables" / split
    prepare_mixing(
        True,
        manifest=None,
        data_root=None,
        output_folder=tables,
        speech_folder=data_folder / "lists" / f"{split}.csv",
        noise_folder=data_folder / "noise" / ("tt" if split in CLEAN_SPLITS else split),
        workers=workers,
    )
    return {
        condition: DynamicMixtureDataset(
            manifest=None,
            data_root=None,
            speech_table=tables / SPEECH_TABLE,
            noise_table=tables / NOISE_TABLE if CONDITIONS[condition][1] else None,
            rooms_folder=rooms if CONDITIONS[condition][0] else None,
            levels="librimix",
            sample_rate=SAMPLE_RATE,
            segment=TRAIN_SECONDS if split == "tr" else None,
            mixtures_per_epoch=count,
            seed=seed,
        )
        for condition in conditions
    }


def _plan(split, condition, data):
    """The mixtures of a split and condition. Which utterances they have is the first thing that is drawn of each."""
    for number in range(len(data)):
        chosen = data.speech.draw(data.rng(number), data.num_spks)
        lengths = [
            SpeedResampler.between(data.speech.sample_rates[index], SAMPLE_RATE).num_out(data.speech.num_samples[index])
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
    splits = {split: {} for split in (*ALL_SPLITS, *(f"tt_{condition}" for condition in CONDITIONS))}
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
