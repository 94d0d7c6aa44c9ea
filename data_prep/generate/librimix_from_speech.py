"""Metadata in LibriMix's format, drawn for any speech."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.choices import check_choice
from data_prep.generate.engine import (
    differences,
    remove_temporaries,
    write_text,
)
from data_prep.generate.librimix_drawing import Drawing, draw_levels
from data_prep.generate.librimix_metadata import Recipe, info_text, metadata_text, read_recipes
from data_prep.generate.librimix_splits import SPLITS, split_noises, split_speakers
from data_prep.generate.recordings import (
    find_noise,
    find_speech,
    fingerprint,
    warn_of_single_utterances,
)
from data_prep.generate.rooms import REVERBERATIONS, rooms_text
from data_prep.generate.utterances import cut_long
from data_prep.parallel import process_map
from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import expanded

if TYPE_CHECKING:
    from collections.abc import Sequence


logger = logging.getLogger(__name__)

MAX_SECONDS = 40.0  # default maximum length of an utterance: LibriSpeech has none above 36


def draw_metadata(
    output_folder: Path,
    num_spks: int,
    from_speech: str,
    noise: str | None = None,
    rooms: bool = False,
    resample: bool = False,
    splits: Sequence[str] | None = None,
    layout: str = "librispeech",
    speaker_pattern: str | None = None,
    reverberation: str = "any",
    n_mixtures: Sequence[int] | None = None,
    speaker_shares: Sequence[float] = (0.8, 0.1, 0.1),
    extend_noise: bool = False,
    published: bool = False,
    min_seconds: float = 3.0,
    max_seconds: float | None = None,
    seed: int = 72,
    workers: int | None = None,
    dry_run: bool = False,
    lowest_rate: int | None = None,
) -> tuple[Path, dict]:
    """Draws metadata for a folder of speech, and writes it to `output_folder/metadata/Libri{N}Mix`.

    Existing metadata with the same arguments is read instead.

    Arguments
    ---------
    output_folder : Path
        Folder of the corpus.
    num_spks, from_speech, noise, rooms, resample, splits, workers, dry_run
        As for `data_prep.generate.librimix.generate`. A dry run writes nothing, and has gains of 1.
    layout, speaker_pattern : str
        Layout of the folder of speech, or pattern; see `find_speech`.
    reverberation : str
        As for `data_prep.generate.rooms.draw_room`.
    n_mixtures : sequence of int, optional
        Numbers of mixtures of train-100, dev and test; utterances are reused to reach them. Default: those of one pass
        over the utterances.
    speaker_shares : sequence of float
        Shares of the speakers for train-100, dev and test; a split with a share of zero is omitted.
    extend_noise, published, min_seconds, seed
        As for `Drawing`.
    max_seconds : float, optional
        Longer recordings are cut at their pauses; see `data_prep.generate.utterances`. Default: 40, or twice
        `min_seconds` if that is more.
    lowest_rate : int, optional
        Minimum sample rate in Hz of recordings that are converted without `resample`. Default: none are converted.

    Returns
    -------
    folder : Path
        Folder of the relative paths of speech.
    recipes : dict
        split → list of Recipe.

    Raises
    ------
    InputError
        If there are too few recordings, or the folder holds metadata that was drawn with other arguments.
    """
    check_choice("reverberation", reverberation, REVERBERATIONS)
    if seed < 0:
        raise InputError(f"seed is {seed}: give 0 or more.")
    if n_mixtures is not None and (len(n_mixtures) != len(SPLITS) or min(n_mixtures) < 1):
        raise InputError(f"n_mixtures {n_mixtures}: give three numbers of at least 1, for {', '.join(SPLITS)}.")
    accepted = resample or lowest_rate or False
    max_seconds = max(MAX_SECONDS, 2 * min_seconds) if max_seconds is None else max_seconds
    cut = functools.partial(cut_long, max_seconds=max_seconds, min_seconds=min_seconds)
    folder, utterances = find_speech(from_speech, layout, accepted, speaker_pattern, cut)
    noises = [] if noise is None else find_noise(noise, accepted)
    warn_of_single_utterances(utterances)
    drawing = Drawing(
        speech_folder=str(folder),
        noise_folder=None if noise is None else str(Path(expanded(noise))),
        num_spks=num_spks,
        seed=seed,
        min_seconds=min_seconds,
        extend_noise=extend_noise,
        reverberation=reverberation if rooms else None,
        published=published,
        resample=accepted,
    )
    parts = split_speakers(utterances, num_spks, speaker_shares, seed)
    noise_parts = split_noises(noises, parts, speaker_shares, seed)
    for split in splits or ():
        check_choice("split", split, tuple(parts))
    counts = dict(zip(SPLITS, n_mixtures or [None] * len(SPLITS), strict=True))
    wanted = [split for split in parts if splits is None or split in splits]
    record = asdict(drawing) | {"speaker_shares": list(speaker_shares), "layout": layout, "resample": resample}
    record |= {} if speaker_pattern is None else {"speaker_pattern": speaker_pattern}
    record |= {"speech": fingerprint(utterances), "noise": fingerprint(noises)}
    del record["speech_folder"], record["noise_folder"]  # they may have been moved
    target = output_folder / "metadata" / f"Libri{num_spks}Mix"
    if dry_run:
        recipes = {split: _existing(target, drawing, split, counts[split], record) for split in wanted}
        for split in (split for split in wanted if recipes[split] is None):
            pairs = drawing.plan(split, parts[split], noise_parts[split], counts[split])
            recipes[split] = [_dry_recipe(pair) for pair in pairs]
        return folder, recipes
    remove_temporaries(target)
    with _removed_on_error(target) as written, process_map(functools.partial(draw_levels, drawing), workers) as mapped:
        given = (parts, noise_parts, counts)
        return folder, {
            split: _draw_once(target, drawing, split, *(of[split] for of in given), record, mapped, written)
            for split in wanted
        }


def _dry_recipe(pair):
    speech, noise = pair
    path, gain = (None, None) if noise is None else (noise.path, 1.0)
    sources = tuple(clip.path for clip in speech)
    return Recipe("_".join(clip.name for clip in speech), sources, (1.0,) * len(speech), path, gain)


@contextlib.contextmanager
def _removed_on_error(folder):
    """Context: gives a list; its files are removed after an error, so that a run with other arguments finds none."""
    written, absent = [], [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield written
    except InputError:
        for path in written:
            path.unlink(missing_ok=True)
        for path in absent:
            with contextlib.suppress(OSError):  # another file was added to it
                path.rmdir()
        raise


def _existing(folder, drawing, split, count, record):
    """Existing metadata of a split, drawn with the same arguments; None if there is none."""
    prefix, record = f"libri{drawing.num_spks}mix_{split}", record | {"n_mixtures": count}
    recorded = folder / f"{prefix}.json"
    if not recorded.is_file():
        return None
    found = json.loads(recorded.read_text(encoding="utf-8"))
    different = sorted(key for key in record | found if record.get(key) != found.get(key))
    if different:
        raise InputError(
            f"{recorded}: the metadata was drawn with {differences(found, record, different)}: give the same or "
            "another output_folder, or delete this one."
        )
    return read_recipes(folder / f"{prefix}.csv", drawing.num_spks, drawing.reverberation is not None)


def _draw_once(folder, drawing, split, utterances, noises, count, record, mapped, written):
    """Reads existing metadata of a split, or draws and writes it."""
    existing = _existing(folder, drawing, split, count, record)
    if existing is not None:
        return existing
    prefix, record = f"libri{drawing.num_spks}mix_{split}", record | {"n_mixtures": count}
    recorded, table = folder / f"{prefix}.json", folder / f"{prefix}.csv"
    recipes, _ = drawing.draw(split, utterances, noises, count, mapped)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"output_folder '{folder}' can't be written ({error}): give a writable folder.") from error
    texts = {table: metadata_text(recipes), folder / f"{prefix}_info.csv": info_text(recipes)}
    if drawing.reverberation is not None:
        texts[folder / f"{prefix}_rooms.csv"] = rooms_text({recipe.name: recipe.room for recipe in recipes})
    texts[recorded] = json.dumps(record, indent=2, sort_keys=True) + "\n"  # last: it marks the others as complete
    for path, text in texts.items():
        written.append(path)
        write_text(path, text)
    logger.info("Drew %d mixtures of split '%s': %s", len(recipes), split, table)
    return recipes
