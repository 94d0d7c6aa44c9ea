"""The list of the clips of the corpus of many speakers.

`many_speakers.csv.gz` lists 12,062 clips of LibriSpeech, Common Voice and speechocean762, and 100 utterances of
LibriSpeech's test-other: `clip,speaker,split,source,file`.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
from dataclasses import dataclass
from pathlib import Path

from data_prep.choices import SPLITS, check_choice
from mossformer_sb.errors import InputError

LIST_FILE = Path(__file__).with_name("many_speakers.csv.gz")
COLUMNS = ("clip", "speaker", "split", "source", "file")
LIBRISPEECH = "librispeech"  # the source whose files are only resampled
CLEAN_SPLITS = ("tt_commonvoice", "tt_so762")  # splits with clean mixtures; the others have all conditions
ALL_SPLITS = (*SPLITS, *CLEAN_SPLITS)


@dataclass(frozen=True)
class ListedClip:
    """A line of the list.

    Attributes
    ----------
    name : str
        Name of the clip's file, without extension.
    speaker, split, source : str
        Its speaker, split, and source corpus.
    file : str
        Its recording in the published corpus.
    """

    name: str
    speaker: str
    split: str
    source: str
    file: str


def read_list(path: str | Path = LIST_FILE) -> dict:
    """Reads the list of clips.

    Arguments
    ---------
    path : str or Path
        CSV with the columns `clip,speaker,split,source,file`.

    Returns
    -------
    splits : dict
        split → list of `ListedClip`.

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
        clip = ListedClip(*(row[column] for column in COLUMNS))
        if not re.fullmatch(r"[\w-]+", clip.name or "") or not re.fullmatch(r"[\w-]+", clip.speaker or ""):
            raise InputError(f"{where}: found the clip {clip.name!r} of {clip.speaker!r}; needed valid file names.")
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
