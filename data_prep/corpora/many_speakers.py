"""Speech of 3,600 speakers and real noise, with licences that permit publishing the trained weights.

    python -m data_prep many_speakers --clips_folder clips --recorded_noise_folder noise \\
        --librispeech_folder /path/to/LibriSpeech --data_folder corpus --output_folder manifests

`many_speakers.csv.gz` lists 12,062 clips of LibriSpeech, Common Voice and speechocean762 (docs/pretrained_model.md says
where they come from and how they are cut), and 100 utterances of LibriSpeech's test-other. Recordings are not included.
Training uses dynamic mixing. The corpus also has:

    DATA_FOLDER/lists/SPLIT.csv                           the clips of each split, to draw from: path,spk
    DATA_FOLDER/noise/{tr,cv,tt}/NUMBER.wav               synthesised noise, and babble of the same split's speech
    DATA_FOLDER/noise/tr/recorded/KIND/NAME.wav           the recorded noise, for training only
    DATA_FOLDER/rooms/{tr,cv,tt}/NUMBER.npy               room impulse responses, drawn as those of WHAMR! were
    DATA_FOLDER/{tr,cv,tt}/CONDITION/{mix,s1,s2}/ID.wav   fixed mixtures, as many of each condition
    DATA_FOLDER/tt_SOURCE/clean/{mix,s1,s2}/ID.wav        clean mixtures of other held-out speakers

The conditions are `clean`; `noisy`, with an additional folder of the noise; and `reverb`, in a room and in noise, with
dry, clean sources. Mixtures with the same number have the same utterances in all conditions. Levels are those of
LibriMix. No speaker is in two splits.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from data_prep.choices import SPLITS, check_choice
from data_prep.corpora.many_speakers_list import ALL_SPLITS, CLEAN_SPLITS, LIST_FILE, read_list
from data_prep.corpora.many_speakers_sources import (
    PREFIX,
    SAMPLE_RATE,
    VERSION,
    check_noise,
    copy_librispeech,
    copy_noise,
    find_clips,
    run_plan,
    share_of,
    synthesise_noise,
    write_list,
)
from data_prep.generate.engine import Item, Output, Plan, checksum
from data_prep.generate.room_cache import compute_rooms
from data_prep.manifests.corpus_index import CorpusIndex, MixtureFiles
from data_prep.manifests.manifest import write_manifests
from data_prep.manifests.source_tables import prepare_mixing
from mossformer_sb.data.dynamic_mixing import DynamicMixtureDataset
from mossformer_sb.data.resampling import SpeedResampler
from mossformer_sb.data.source_pools import NOISE_TABLE, SPEECH_TABLE
from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import expanded

NAME = "the corpus of many speakers"
TRAIN_SECONDS = 5.0  # length of fixed training mixtures; for validation and test it is that of the utterances
# Condition → whether there are reverberation and noise.
CONDITIONS = {"clean": (False, False), "noisy": (False, True), "reverb": (True, True)}


@dataclass(frozen=True)
class MixtureItem(Item):
    """One mixture.

    Attributes
    ----------
    split, condition : str
        Split and condition of the dataset that draws it.
    number : int
        Index in the dataset.
    speakers : tuple of str
        Speakers in the order of the sources.
    """

    split: str
    condition: str
    number: int
    speakers: tuple


def prepare_many_speakers(
    data_folder: str,
    output_folder: str,
    clips_folder: str | None = None,
    recorded_noise_folder: str | None = None,
    librispeech_folder: str | None = None,
    sample_rate: int = SAMPLE_RATE,
    num_train: int = 300,
    num_valid: int = 90,
    num_test: int = 300,
    num_rooms: int = 500,
    num_noises: int = 100,
    seed: int = 1234,
    list_file: str | None = None,
    check_samples: bool = False,
    on_invalid: str = "error",
    workers: int | None = None,
) -> dict:
    """Generates the missing parts of the corpus, and writes its manifests, `many_speakers_{tr,cv,tt}.csv` and others.

    The others are for the test mixtures of each condition, `…_tt_clean.csv` and so on, and for the held-out speakers of
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
        Recordings of noise for training, in addition to the synthesised noise, `KIND/NAME.wav`. Default: none.
    librispeech_folder : str, optional
        Folder that has `test-other/`, of which only the listed utterances are needed. Default: their copies already
        exist in `data_folder`.
    sample_rate : int
        8000 Hz.
    num_train, num_valid, num_test : int
        Numbers of fixed mixtures, a third of each condition. Dynamic mixing doesn't use those for training. Held-out
        speakers of other sources get a third of `num_test`, clean.
    num_rooms, num_noises : int
        Numbers of rooms and of synthesised clips of noise for training; a fifth of these for validation and test.
    seed : int
        Seed of all random numbers in the corpus.
    list_file : str, optional
        CSV with the columns `clip,speaker,split,source,file`, optionally compressed by gzip. Default: the one in this
        package.
    check_samples, on_invalid
        As for `data_prep.manifests.manifest.write_manifests`.
    workers : int, optional
        Number of processes. Default: one per CPU. The files don't depend on it.

    Returns
    -------
    manifests : dict
        For each split, the path of its manifest.

    Raises
    ------
    InputError
        If an argument is invalid, clips are missing, or the folder holds another corpus.
    """
    check_choice("sample_rate", sample_rate, (SAMPLE_RATE,))
    counts = {"num_train": num_train, "num_valid": num_valid, "num_test": num_test}
    for key, count in counts.items():
        if count < len(CONDITIONS) or count % len(CONDITIONS):
            raise InputError(
                f"{key} is {count}: give a multiple of {len(CONDITIONS)}, since there are equally many mixtures of "
                f"each condition ({', '.join(CONDITIONS)})."
            )
    for key, count in (("num_rooms", num_rooms), ("num_noises", num_noises)):
        if count < 1:
            raise InputError(f"{key} is {count}: give at least 1.")
    data_folder = Path(expanded(data_folder))
    clips_folder = data_folder / "clips" if clips_folder is None else Path(expanded(clips_folder))
    list_file = LIST_FILE if list_file is None else Path(list_file)
    splits = read_list(list_file)
    paths = find_clips(splits, clips_folder, data_folder)
    check_noise(recorded_noise_folder)
    parameters = {"version": VERSION, "seed": seed, "clips": checksum(list_file)}
    copy_librispeech(splits, librispeech_folder, data_folder, parameters, workers)
    for split in splits:
        write_list(data_folder, split, splits[split], paths)
    parameters |= {"num_noises": num_noises}
    synthesise_noise(splits, paths, data_folder, seed, num_noises, parameters, workers)
    copy_noise(recorded_noise_folder, data_folder, parameters, workers)

    items, datasets = [], {}
    for split, count in zip(ALL_SPLITS, [*counts.values(), *[num_test] * len(CLEAN_SPLITS)], strict=True):
        conditions = ["clean"] if split in CLEAN_SPLITS else CONDITIONS
        datasets[split] = _datasets(split, conditions, data_folder, count // len(CONDITIONS), num_rooms, seed, workers)
        items += [item for condition, data in datasets[split].items() for item in _plan(split, condition, data)]
    parameters |= {"num_rooms": num_rooms}
    run_plan(Plan(PREFIX, items, functools.partial(_mix, datasets), parameters), data_folder, workers)
    return write_manifests(_listing(items, data_folder), output_folder, check_samples, on_invalid)


# Mixtures


def _datasets(split, conditions, data_folder, count, num_rooms, seed, workers):
    """Computes the rooms, and returns the datasets that draw the fixed mixtures of each condition."""
    rooms = data_folder / "rooms" / split
    if "reverb" in conditions:
        # Different rooms in each split: those for training have the seed of dynamic mixing.
        compute_rooms(rooms, share_of(num_rooms, split), 2, SAMPLE_RATE, None, seed + SPLITS.index(split), workers)
    tables = data_folder / "tables" / split
    prepare_mixing(
        True,
        manifest=None,
        data_root=None,
        output_folder=tables,
        speech_folder=data_folder / "lists" / f"{split}.csv",
        noise_folder=data_folder / "noise" / ("tt" if split in CLEAN_SPLITS else split),
        workers=workers,
        noise_energies=False,  # for the same samples as in earlier versions
    )
    return {
        condition: DynamicMixtureDataset(
            manifest=None,
            data_root=None,
            speech_table=tables / SPEECH_TABLE,
            noise_table=tables / NOISE_TABLE if CONDITIONS[condition][1] else None,
            rir_folder=rooms if CONDITIONS[condition][0] else None,
            level_distribution="librimix",
            sample_rate=SAMPLE_RATE,
            segment=TRAIN_SECONDS if split == "tr" else None,
            mixtures_per_epoch=count,
            seed=seed,
        )
        for condition in conditions
    }


def _plan(split, condition, data):
    """The mixtures of a split and condition. Their utterances are drawn first."""
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
        yield MixtureItem(name, outputs, split, condition, number, speakers)


def _mix(datasets, item):
    parts = datasets[item.split][item.condition].draw(item.number)
    signals = (parts.mixture, *parts.targets, parts.noise)
    return {output.path: signal for output, signal in zip(item.outputs, signals, strict=False)}


def _listing(items, data_folder):
    """The index for the manifests: the splits, and the test mixtures of each condition."""
    splits = {split: {} for split in (*ALL_SPLITS, *(f"tt_{condition}" for condition in CONDITIONS))}
    for item in sorted(items, key=lambda item: item.name):
        files = [output.path for output in item.outputs]
        # A reverberant mixture isn't the sum of its sources, and their images are not saved.
        parts = () if item.condition == "reverb" else files[1:]
        columns = dict(zip(("mix_wav", "s1_wav", "s2_wav"), files, strict=False))
        mixture = MixtureFiles(columns, tuple(parts), item.speakers)
        splits[item.split][item.name] = mixture
        if item.split == "tt":
            splits[f"tt_{item.condition}"][item.name] = mixture
    return CorpusIndex(NAME, PREFIX, SAMPLE_RATE, data_folder, splits=splits)
