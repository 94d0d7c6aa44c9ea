"""Manifests of one's own data: any number of speakers, with or without noise, in any format that soundfile reads.

Either from folders, in which the files of one mixture have the same name (extensions may differ):

    DATA_FOLDER/{tr,cv,tt}/{mix,s1,…,sN[,noise]}/ID.{wav,flac,ogg,…}

or from a CSV with one row a mixture, whose paths are absolute or relative to `data_folder`:

    ID,split,mix_wav,s1_wav,…,sN_wav[,noise_wav][,s1_spk,…,sN_spk]

`tr` is for training, `cv` for validation, `tt` for test.
"""

import csv
import os
from pathlib import Path

from data_prep.choices import SPLITS, check_choice
from data_prep.manifests.corpus_index import MIXTURE, CorpusIndex, MixtureFiles, Problem
from data_prep.manifests.folders import CorpusLayout, existing_folder, list_mixtures
from data_prep.manifests.manifest import write_manifests
from mossformer_sb.data.audio_io import AUDIO_ENDINGS
from mossformer_sb.errors import InputError

NAME, PREFIX = "custom data", "custom"


def prepare_custom(
    data_folder,
    output_folder,
    csv_file=None,
    num_spks=2,
    sample_rate=8000,
    noise=False,
    mixture_is_sum=True,
    splits=SPLITS,
    check_samples=False,
    on_invalid="error",
):
    """Checks one's own data and writes its manifests, `custom_{split}.csv`.

    Arguments
    ---------
    data_folder : str
        Folder of the data.
    output_folder : str
        Folder for the manifests, created if absent.
    csv_file : str, optional
        List of the files. Default: they lie in folders as the module says.
    num_spks : int
        Number of sources, 1 or more.
    sample_rate : int
        Sample rate of the files in Hz.
    noise : bool
        Whether there are noise files.
    mixture_is_sum : bool
        Whether the mixtures are the sum of sources and noise, which `check_samples` checks. False where they are
        not, such as reverberant mixtures with dry sources.
    splits : sequence of str
        Which of "tr", "cv" and "tt".
    check_samples, on_invalid
        As for `data_prep.manifests.manifest.write_manifests`.

    Returns
    -------
    manifests : dict
        For each split, the path of its manifest.

    Raises
    ------
    InputError
        If an argument, a folder or a file is not as needed.
    """
    for key, value in (("num_spks", num_spks), ("sample_rate", sample_rate)):
        if not isinstance(value, int) or value < 1:
            raise InputError(f"{key} is {value}: give a whole number, at least 1.")
    for split in splits:
        check_choice("split", split, SPLITS)
    sources = [f"s{i}" for i in range(1, num_spks + 1)] + (["noise"] if noise else [])
    columns = {MIXTURE: "mix"} | {f"{source}_wav": source for source in sources}
    if csv_file is None:
        listing = _from_folders(data_folder, columns, sample_rate, mixture_is_sum, splits)
    else:
        listing = _from_csv(csv_file, data_folder, columns, sample_rate, mixture_is_sum, splits)
    return write_manifests(listing, output_folder, check_samples, on_invalid)


def _from_folders(data_folder, columns, sample_rate, mixture_is_sum, splits):
    folders = {split: {column: f"{split}/{folder}" for column, folder in columns.items()} for split in splits}
    parts = None if mixture_is_sum else dict.fromkeys(splits, ())
    corpus = CorpusLayout(NAME, PREFIX, sample_rate, folders, parts=parts, extensions=AUDIO_ENDINGS)
    return list_mixtures(corpus, data_folder)


def _from_csv(csv_file, data_folder, columns, sample_rate, mixture_is_sum, splits):
    """Lists the mixtures of a CSV, as `data_prep.manifests.folders.list_mixtures` does those of folders."""
    root = existing_folder(data_folder)
    listing = CorpusIndex(NAME, PREFIX, sample_rate, root, splits={split: {} for split in splits})
    for line, row in enumerate(_read_csv(csv_file, columns), 2):
        where = f"line {line} of {csv_file}"
        empty = [column for column in ("ID", "split", *columns) if not row[column]]
        if empty:
            raise InputError(f"{where}: {', '.join(empty)} is empty or missing; give every row a value for each.")
        check_choice(f"{where}: split", row["split"], SPLITS)
        if row["split"] not in splits:
            continue
        mixtures = listing.splits[row["split"]]
        files = {column: _relative(row[column], root) for column in columns}
        if row["ID"] in mixtures:
            text = f"is the second mixture of this ID ({where}); needed one ID for each"
            listing.problems.append(Problem("IDs given twice", row["split"], row["ID"], files[MIXTURE], text))
            continue
        parts = [file for column, file in files.items() if column != MIXTURE] if mixture_is_sum else []
        mixtures[row["ID"]] = MixtureFiles(files, tuple(parts), _speakers(row, columns))
    for split, mixtures in listing.splits.items():
        listing.splits[split] = dict(sorted(mixtures.items()))
        if not mixtures:
            listing.problems.append(Problem("no mixtures", split, "", str(csv_file), f"has no row of split '{split}'"))
    return listing


def _read_csv(csv_file, columns):
    """The rows as dicts; an InputError unless the columns are those that are needed."""
    try:
        with open(Path(csv_file).expanduser(), newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            rows, found = list(reader), reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"csv_file '{csv_file}' can't be read ({error}): give the path of a CSV in UTF-8.") from error
    needed = ["ID", "split", *columns]
    missing = [column for column in needed if column not in found]
    if missing:
        raise InputError(
            f"csv_file '{csv_file}' lacks the columns {', '.join(missing)}; found {', '.join(found) or 'none'}. Do "
            "num_spks and noise fit this data?"
        )
    speakers = [column.replace("_wav", "_spk") for column in columns if column not in (MIXTURE, "noise_wav")]
    unknown = [name for name in found if name.endswith(("_wav", "_spk")) and name not in (*needed, *speakers)]
    if unknown:
        raise InputError(
            f"csv_file '{csv_file}' has columns that would not be used: {', '.join(unknown)}; needed "
            f"{', '.join(needed)}, and if known {', '.join(speakers)}. Do num_spks and noise fit this data?"
        )
    return rows


def _relative(file, root):
    """A path as seen from the corpus, so that the manifest's `$data_root` can stand before it."""
    path = os.path.expanduser(file)
    return Path(os.path.relpath(path, root) if os.path.isabs(path) else path).as_posix()


def _speakers(row, columns):
    """Names of the speakers, or None unless all are given."""
    names = [row.get(column.replace("_wav", "_spk")) for column in columns if column not in (MIXTURE, "noise_wav")]
    return tuple(names) if all(names) else None
