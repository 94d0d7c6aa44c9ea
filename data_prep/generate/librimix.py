"""LibriMix (Cosentino et al., 2020) from LibriSpeech, noise and published metadata; or a similar corpus of any speech.

Published metadata: `libri{N}mix_{train-clean-360,train-clean-100,dev-clean,test-clean}.csv`, in the given folder, or in
its `Libri{N}Mix/` or `metadata/Libri{N}Mix/`, as in a clone of github.com/JorisCos/LibriMix. Their paths are relative
to LibriSpeech and to wham_noise. The steps are the published ones: gains at 16 kHz, then the sample rate, then the
lengths, then sums; conversion to 16 bit as by libsndfile.

From any speech: `data_prep.generate.librimix_from_speech` first draws the metadata, in the same format, and stores it
in `OUTPUT_FOLDER/metadata/Libri{N}Mix`. The sources can be reverberated, unlike in LibriMix: then the folders are those
of WHAMR!, with the splits tr, cv and tt.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.choices import check_choice, check_num_spks, check_versions
from data_prep.generate.engine import (
    Plan,
    checksum,
    output_path,
    run,
)
from data_prep.generate.file_access import check_access
from data_prep.generate.librimix_from_speech import draw_metadata
from data_prep.generate.librimix_metadata import metadata_text, read_recipes
from data_prep.generate.librimix_samples import TYPES, make, plan_mixture
from data_prep.generate.librimix_tables import write_tables
from data_prep.generate.metadata import metadata_places
from data_prep.generate.reading import check_noise
from data_prep.generate.recordings import LAYOUTS, frames_of
from data_prep.generate.rooms import REVERBERATIONS
from data_prep.parallel import count_workers
from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import expanded

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from typing import Any

    from data_prep.generate.engine import Amount

logger = logging.getLogger(__name__)

VERSION = 1  # increase when the same metadata gives other samples


def generate(
    output_folder: str,
    num_spks: int = 2,
    metadata_folder: str | None = None,
    librispeech_folder: str | None = None,
    from_speech: str | None = None,
    noise: str | None = None,
    rooms: bool = False,
    resample: bool = False,
    sample_rates: Sequence[int] = (8000,),
    modes: Sequence[str] = ("min",),
    types: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
    workers: int | None = None,
    dry_run: bool = False,
    **drawing: Any,
) -> Amount:
    """Writes `output_folder/Libri{N}Mix/wav{8k,16k}/{min,max}/{split}/{s1,…,mix_clean,…,noise}/ID.wav`, 16-bit mono.

    Next to the splits, `metadata/` gets the published tables of files and of signal-to-noise ratios.

    Arguments
    ---------
    output_folder : str
        Folder of the corpus, the same for any number of speakers.
    num_spks : int
        2 or more.
    metadata_folder : str, optional
        Folder of published or drawn metadata, or of a clone of LibriMix. Alternative to `from_speech`.
    librispeech_folder : str, optional
        Folder of the metadata's relative paths of speech.
    from_speech : str, optional
        A folder of speech, or a CSV `path,spk`, to draw metadata for.
    noise : str, optional
        Folder of noise: wham_noise, or any other. Without it, only clean mixtures are generated.
    rooms : bool
        Whether the speakers are in rooms. With `metadata_folder`, the metadata must have them.
    resample : bool
        Whether to convert recordings of any sample rate. Otherwise rates other than 16 kHz are an error; with
        `from_speech`, only rates below that of the corpus.
    sample_rates : sequence of int
        Some of 8000 and 16000.
    modes : sequence of str
        "min": mixtures are cut to the shortest utterance; "max": padded to the longest one.
    types : sequence of str, optional
        Some of "mix_clean": all speakers; "mix_both": with noise; "mix_single": the first speaker and noise. Default:
        all possible ones.
    splits : sequence of str, optional
        Some of the splits. Default: all. LibriSpeech's names are accepted: "dev-clean" is "dev".
    workers : int, optional
        Number of processes. Default: one per CPU.
    dry_run : bool
        Whether only to report how much would be written.
    **drawing
        Arguments of `draw_metadata`, for `from_speech`.

    Returns
    -------
    amount : data_prep.generate.engine.Amount
        Amount of data that was written, or would be.

    Raises
    ------
    InputError
        If an argument, a metadata file or a recording is invalid, two mixtures have the same name, or the files can't
        be written.
    """
    types = _check_arguments(
        num_spks, metadata_folder, librispeech_folder, from_speech, noise, rooms, types, workers, drawing
    )
    check_versions(sample_rates, modes, splits=())  # the metadata determines the splits
    output_folder = output_path(output_folder)
    splits = None if splits is None else [_short(split) for split in splits]
    if from_speech is None:
        speech_folder = librispeech_folder
        tables = _find_tables(metadata_folder, num_spks, splits)
        recipes = {split: read_recipes(path, num_spks, rooms) for split, path in tables.items()}
        origin = {path.name: checksum(path) for path in tables.values()}
        rooms_of = [path.with_name(f"{path.stem}_rooms.csv") for path in tables.values()] if rooms else []
        origin |= {path.name: checksum(path) for path in rooms_of}
    else:
        options = dict(rooms=rooms, resample=resample, workers=workers, dry_run=dry_run) | drawing
        options["lowest_rate"] = resample = resample or max(sample_rates)
        speech_folder, recipes = draw_metadata(output_folder, num_spks, from_speech, noise, splits=splits, **options)
        origin = {f"libri{num_spks}mix_{split}.csv": _hash(metadata_text(recipes[split])) for split in recipes}
    speech_folder, noise = _expanded(speech_folder), _expanded(noise)
    rows = [(split, recipe) for split, table in recipes.items() for recipe in table]
    needed = {split: {path for recipe in table for path in recipe.sources} for split, table in recipes.items()}
    key = "librispeech_folder" if from_speech is None else "from_speech"
    frames = frames_of(
        speech_folder, [path for _, recipe in rows for path in recipe.sources], resample, key, splits=needed
    )
    if types != TYPES[:1]:
        _check_noise(recipes, noise, frames, resample)
    versions = [(sample_rate, mode) for sample_rate in sample_rates for mode in modes]
    items = [plan_mixture(split, recipe, versions, types, frames) for split, recipe in rows]
    folders = {"speech_folder": speech_folder, "noise_folder": noise}
    make_signals = functools.partial(make, **folders, resample=resample, types=types)
    parameters = {"version": VERSION, "rooms": rooms} | origin
    measured = {}
    plan = Plan(f"libri{num_spks}mix", items, make_signals, parameters, collect=measured.__setitem__)
    amount = run(plan, output_folder, workers, dry_run)
    if not dry_run:
        write_tables(output_folder, items, types, measured, make_signals, workers)
        logger.info("Train on it: %s", training_command(output_folder, num_spks, versions[0], types, rooms))
    return amount


def training_command(
    output_folder: str | Path, num_spks: int, version: tuple[int, str], types: Sequence[str], rooms: bool
) -> str:
    """The command that trains on a corpus.

    Example
    -------
    >>> training_command("out", 2, (16000, "min"), ("mix_clean",), rooms=True)
    'python train.py hparams/mossformer_whamr.yaml --corpus librimix_rooms --data_folder out --sample_rate 16000 --task
    separate_clean_reverb'
    """
    sample_rate, mode = version
    task = "separate_noisy" if "mix_both" in types else "separate_clean"
    words = ["hparams/mossformer_whamr.yaml --corpus librimix_rooms" if rooms else "hparams/mossformer_librimix.yaml"]
    words += ["--data_folder", shlex.quote(str(output_folder))]
    words += ["--num_spks", str(num_spks)] if num_spks != 2 else []
    words += ["--sample_rate", str(sample_rate)] if sample_rate != 8000 else []
    words += ["--mode", mode] if mode != "min" else []
    return " ".join(["python train.py", *words, "--task", f"{task}_reverb" if rooms else task])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `generate`, without those of every corpus."""
    parser.add_argument("--num_spks", type=int, help="2 (default) or more")
    parser.add_argument(
        "--metadata_folder",
        help="clone of github.com/JorisCos/LibriMix, or a folder of libri2mix_*.csv; this or --from_speech",
    )
    parser.add_argument("--librispeech_folder", help="folder of the metadata's relative paths of speech")
    parser.add_argument("--from_speech", help="folder of speech, or a CSV path,spk, to draw metadata for")
    parser.add_argument("--noise", help="folder of wham_noise, or of any noise; without it, mixtures are clean")
    parser.add_argument("--rooms", action="store_true", help="reverberate the speakers in rooms like those of WHAMR!")
    parser.add_argument(
        "--resample",
        action="store_true",
        help="convert recordings of any rate (with --from_speech, those of the corpus's rate or more are in any case)",
    )
    parser.add_argument("--sample_rates", type=int, nargs="+", help="some of 8000 (default) and 16000")
    parser.add_argument("--modes", nargs="+", help="some of min (default) and max")
    parser.add_argument("--types", nargs="+", help=f"some of {', '.join(TYPES)} (default: all possible ones)")
    parser.add_argument(
        "--splits", nargs="+", help="some of train-100, train-360, dev, test (default: all existing ones)"
    )
    drawing = parser.add_argument_group("with --from_speech")
    drawing.add_argument("--layout", help=f"layout of the folder: {' (default) or '.join(LAYOUTS)}, one folder each")
    drawing.add_argument(
        "--speaker_pattern", help="instead of a layout: regular expression whose group is the speaker in a file's path"
    )
    drawing.add_argument(
        "--max_seconds",
        type=float,
        help="cut longer recordings at their pauses, into utterances of at most this length (default: 40)",
    )
    drawing.add_argument(
        "--n_mixtures", type=int, nargs=3, help="mixtures of train-100, dev and test; reuses utterances"
    )
    drawing.add_argument("--speaker_shares", type=float, nargs=3, help="parts of the speakers (default: 0.8 0.1 0.1)")
    drawing.add_argument(
        "--extend_noise", action="store_true", help="repeat short noise, so that all noise can be used"
    )
    drawing.add_argument("--reverberation", help=f"with --rooms: {', '.join(REVERBERATIONS)} (default)")
    drawing.add_argument("--published", action="store_true", help="3,000 mixtures of dev and test; floor to hundreds")
    drawing.add_argument("--min_seconds", type=float, help="skip shorter recordings (default: 3)")
    drawing.add_argument("--seed", type=int, help="seed of the random generator (default: 72)")


def _check_arguments(num_spks, metadata_folder, librispeech_folder, from_speech, noise, rooms, types, workers, drawing):
    """Checks for conflicting arguments, and returns the types of mixtures to make."""
    count_workers(workers)  # refuses invalid numbers
    check_num_spks(num_spks, 2)
    if (metadata_folder is None) == (from_speech is None):
        raise InputError("Give either metadata_folder, for published metadata, or from_speech, to draw it, not both.")
    if from_speech is None:
        if librispeech_folder is None:
            raise InputError("librispeech_folder is missing: give the folder of the metadata's relative paths.")
        if drawing:
            key = next(iter(drawing))
            raise InputError(f"{key} has no effect on existing metadata: remove it, or give from_speech.")
    elif librispeech_folder is not None:
        raise InputError("librispeech_folder has no effect with from_speech, which is the folder of speech: remove it.")
    if "reverberation" in drawing and not rooms:
        raise InputError("reverberation has no effect without rooms: remove it, or give rooms.")
    if "extend_noise" in drawing and noise is None:
        raise InputError("extend_noise has no effect without noise: remove it, or give noise.")
    possible = TYPES if noise is not None else TYPES[:1]
    for name in types or ():
        check_choice("type", name, TYPES)
        if name not in possible:
            raise InputError(f"type '{name}' has noise, and none is given: give noise, or only the type 'mix_clean'.")
    return tuple(types or possible)


def _find_tables(metadata_folder, num_spks, splits):
    """Finds the tables of mixtures: split → path."""
    folder = Path(expanded(metadata_folder))
    prefix, tables = f"libri{num_spks}mix_", {}
    for place in metadata_places(folder, ("", f"Libri{num_spks}Mix")):
        check_access(place)
        for path in sorted(place.glob(f"{prefix}*.csv")) if not tables else ():
            if not path.stem.endswith(("_info", "_rooms")):
                tables[_short(path.stem.removeprefix(prefix))] = path
    if not tables:
        raise InputError(
            f"metadata_folder '{folder}' has no {prefix}*.csv, nor has Libri{num_spks}Mix in it or in its metadata/: "
            "give a clone of github.com/JorisCos/LibriMix, or the folder of its metadata files."
        )
    for split in splits or ():
        if split not in tables:
            raise InputError(
                f"split '{split}': there is no metadata file {prefix}{split}.csv or alike in '{folder}'; "
                f"found {', '.join(tables)}."
            )
    return {split: path for split, path in tables.items() if splits is None or split in splits}


def _short(split):
    """Short name of a split, from that of LibriSpeech's subset.

    Example
    -------
    >>> _short("train-clean-100"), _short("dev-clean"), _short("dev")
    ('train-100', 'dev', 'dev')
    """
    return re.sub("-clean(?=-|$)", "", split)


def _check_noise(recipes, folder, frames, resample):
    """Raises an InputError unless every mixture has a usable noise, judging by the headers."""
    for split, rows in recipes.items():
        if any(recipe.noise is None for recipe in rows):
            raise InputError(f"The metadata of split '{split}' has no noise: remove noise, or use other metadata.")
    needed = {split: {recipe.noise for recipe in rows} for split, rows in recipes.items()}
    noise_frames = frames_of(folder, [path for paths in needed.values() for path in paths], resample, "noise", needed)
    for recipe in (recipe for rows in recipes.values() for recipe in rows):
        longest = max(frames[path] for path in recipe.sources)
        check_noise(os.path.join(folder, recipe.noise), noise_frames[recipe.noise], longest)


def _expanded(folder):
    return None if folder is None else str(Path(expanded(folder)))


def _hash(text):
    return hashlib.sha256(text.encode()).hexdigest()
