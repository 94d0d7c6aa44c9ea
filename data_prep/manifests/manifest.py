"""Writing the manifests of a corpus, the same for every corpus.

A manifest is a CSV with one row per mixture, sorted by ID:

    ID,duration,sample_rate,mix_wav,s1_wav,…,sN_wav[,noise_wav][,s1_spk,…,sN_spk]

Durations are seconds, read from the files. Paths start with `$data_root`, so that a manifest moves with its data. The
column names are SpeechBrain's. `wham_tr.json` next to `wham_tr.csv` holds its fingerprint.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.choices import check_choice
from data_prep.generate.file_access import check_name
from data_prep.manifests.advice import REPAIR, advice
from data_prep.manifests.checks import check, shared_speakers, spoiled, summary
from data_prep.manifests.corpus_index import MIXTURE, Problem
from data_prep.messages import first_of
from mossformer_sb.data.manifests import DATA_ROOT, FINGERPRINT_SHOWN, fingerprint, read_manifest
from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import expanded, write_text

if TYPE_CHECKING:
    from data_prep.manifests.corpus_index import CorpusIndex

logger = logging.getLogger(__name__)

ON_INVALID = ("error", "skip")


def write_manifests(
    listing: CorpusIndex, output_folder: str, check_samples: bool = False, on_invalid: str = "error", trim: int = 0
) -> dict:
    """Checks every file of a corpus and writes one manifest per split.

    All problems are collected, written to `{prefix}_problems.csv`, and summarised in the error or the log.

    Arguments
    ---------
    listing : CorpusIndex
        The mixtures.
    output_folder : str
        Folder for the manifests, created if absent.
    check_samples : bool
        Whether to check samples too; otherwise only headers are read.
    on_invalid : str
        "error": problems are an error, and no manifest is written; "skip": mixtures with problems are excluded.
    trim : int
        Maximum difference in samples between the lengths of a mixture's files, which are cut to the shortest.

    Returns
    -------
    manifests : dict
        For each split, the path of its manifest.

    Raises
    ------
    InputError
        If a file is missing or invalid, or all mixtures of a split are excluded.
    """
    check_choice("on_invalid", on_invalid, ON_INVALID)
    if not isinstance(trim, int) or trim < 0:
        raise InputError(f"trim is {trim!r}: give a number of samples, 0 or more.")
    output_folder = _make_folder(expanded(output_folder))
    headers, problems = check(listing, check_samples, trim)
    report = output_folder / f"{listing.prefix}_problems.csv"
    report.unlink(missing_ok=True)  # from an earlier run
    if problems:
        rows = [{key: _printable(str(cell)) for key, cell in problem._asdict().items()} for problem in problems]
        _write_csv(report, rows, Problem._fields)
        text = f"{_printable(summary(listing, problems))}\nAll of them are in {report}."
        what_to_do = advice(listing, headers, problems)
        if on_invalid == "error":
            raise InputError(f"{text} No manifest was written. {what_to_do}")
        logger.warning("%s", text)
        listing = _without(listing, spoiled(problems), "" if what_to_do == REPAIR else what_to_do)
    _warn_of_shared_speakers(listing)
    return {split: _write_manifest(listing, split, headers, output_folder) for split in listing.splits}


def _make_folder(output_folder):
    """Creates the folder, before the checks, which may take minutes."""
    try:
        os.makedirs(output_folder, exist_ok=True)
        if not os.access(output_folder, os.W_OK):
            raise PermissionError("no permission to write")
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"output_folder '{output_folder}' can't be written ({reason}): give another one.") from error
    return Path(output_folder)


def _without(listing, bad, what_to_do=""):
    """The listing without the mixtures with problems; no split may become empty."""
    splits = {}
    for split, mixtures in listing.splits.items():
        splits[split] = {key: mixture for key, mixture in mixtures.items() if (split, key) not in bad}
        logger.warning(
            "Excluded %d of %d mixtures of split '%s'", len(mixtures) - len(splits[split]), len(mixtures), split
        )
        if not splits[split]:
            raise InputError(
                f"{listing.name} in '{listing.root}': no mixture of split '{split}' can be used, so no manifest was "
                f"written. {what_to_do or 'Check the folder, sample_rate and task.'}"
            )
    return replace(listing, splits=splits)


def _warn_of_shared_speakers(listing):
    shared = shared_speakers(listing)
    if shared:
        logger.warning(
            "%s: %d speakers are both in training and in split '%s' (%s): scores on it will be too high.",
            listing.name,
            len(shared),
            listing.test,
            first_of(shared),
        )


def _write_manifest(listing, split, headers, output_folder):
    """Writes the manifest of one split, and a JSON file with facts about it."""
    path = output_folder / f"{listing.prefix}_{split}.csv"
    rows = _rows(listing.splits[split], headers)
    _write_csv(path, rows, rows[0])
    table = read_manifest(path, listing.root)
    facts = {
        "fingerprint": fingerprint(table),
        "mixtures": len(rows),
        "hours": round(table["duration"].sum() / 3600, 3),
        "mixture_is_sum": all(_is_sum(mixture) for mixture in listing.splits[split].values()),
    }
    write_text(path.with_suffix(".json"), json.dumps(facts, indent=2) + "\n")
    logger.info(
        "%s: %d mixtures, %.2f hours of split '%s' in %s, fingerprint %s",
        listing.name,
        len(rows),
        facts["hours"],
        split,
        path,
        facts["fingerprint"][:FINGERPRINT_SHOWN],
    )
    return str(path)


def _is_sum(mixture):
    """Whether a mixture is the sum of the other files in its row."""
    others = {file for column, file in mixture.files.items() if column != MIXTURE}
    return set(mixture.parts) == others


def _rows(mixtures, headers):
    """The rows of one manifest, as dicts."""
    speakers_known = all(mixture.speakers for mixture in mixtures.values())
    rows = []
    for mixture_id, mixture in mixtures.items():
        for file in mixture.files.values():
            check_name(file)
        sample_rate = headers[mixture.files[MIXTURE]].sample_rate
        frames = min(headers[file].frames for file in mixture.files.values())
        row = {"ID": mixture_id, "duration": frames / sample_rate, "sample_rate": sample_rate}
        # Absolute paths come from a list of files without a common folder.
        row |= {key: file if os.path.isabs(file) else f"{DATA_ROOT}/{file}" for key, file in mixture.files.items()}
        if speakers_known:
            names = enumerate(mixture.speakers, 1)
            row |= {f"s{i}_spk": name for i, name in names if f"s{i}_wav" in mixture.files}
        rows.append(row)
    return rows


def _printable(text):
    """A text with file names that may not be UTF-8, which are escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _write_csv(path, rows, columns):
    """Writes rows as a CSV, atomically."""
    with io.StringIO(newline="") as text:
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(path, text.getvalue())
