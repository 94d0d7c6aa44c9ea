"""Advice on the problems of a corpus, if they have a common cause."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from data_prep.manifests.checks import Header
from mossformer_sb.data.audio_io import LITTLE
from mossformer_sb.data.tables import likely_cause

if TYPE_CHECKING:
    from data_prep.manifests.corpus_index import CorpusIndex, Problem

REPAIR = (
    "Repair these files, or copy or generate them again, then start again; or exclude these mixtures with --on_invalid "
    "skip."
)


def advice(listing: CorpusIndex, headers: dict, problems: list[Problem]) -> str:
    """Advice on the problems of a corpus.

    Arguments
    ---------
    listing : CorpusIndex
        The checked corpus.
    headers : dict
        file → Header or Fault, from `data_prep.manifests.checks.check`.
    problems : list of Problem
        The problems found.

    Returns
    -------
    text : str
        The likely cause and its remedy; without one, to repair the files.
    """
    return _rate(listing, headers) or _lengths(listing, headers, problems) or _place(listing, problems) or REPAIR


def _rate(listing, headers):
    """Advice if all files have the same rate: to set it, unless the folder is named after another rate."""
    rates = {header.sample_rate for header in headers.values() if isinstance(header, Header)}
    in_name = any(re.search(r"(^|/)wav\d+k/", file) for file in headers)
    if len(rates) != 1 or rates == {listing.sample_rate} or in_name:
        return ""
    (rate,) = rates
    return f"All files have {rate} Hz, and sample_rate is {listing.sample_rate}: give --sample_rate {rate}."


def _lengths(listing, headers, problems):
    if {problem.kind for problem in problems} != {"different lengths"}:
        return ""
    bad = {(problem.split, problem.mixture_id) for problem in problems}
    frames = [
        [headers[file].frames for file in mixture.all_files]
        for split, mixture_id, mixture in listing.rows
        if (split, mixture_id) in bad
    ]
    most = max(max(counts) - min(counts) for counts in frames)
    if most > LITTLE * listing.sample_rate:
        return ""
    return f"The files of a mixture differ by {most} samples at most: --trim {most} cuts all to the shortest. {REPAIR}"


def _place(listing, problems):
    """Advice if files don't exist: their paths are from another machine, or they were moved."""
    absent = [problem.file for problem in problems if problem.kind == "missing files"]
    first = os.path.normpath(listing.root / absent[0]) if absent else ""
    cause = likely_cause(first, listing.root) if absent else ""
    return f"{cause.strip()} {REPAIR}" if cause else ""
