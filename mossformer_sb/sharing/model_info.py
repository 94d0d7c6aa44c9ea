"""Facts about a model folder or a manifest."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from mossformer_sb.data.manifests import FINGERPRINT_SHOWN, fingerprint, read_manifest
from mossformer_sb.errors import InputError
from mossformer_sb.sharing.loading import find_model, load_model


def describe(path: str | Path) -> dict:
    """Describe a model folder or a manifest.

    Arguments
    ---------
    path : str or Path
        A model folder, a model hub's id, or a manifest, ``.csv``.

    Returns
    -------
    dict
        Facts, from name to value, for display.

    Raises
    ------
    InputError
        If the path is neither.

    Example
    -------
    >>> from mossformer_sb import MossFormerSeparator
    >>> from mossformer_sb.sharing.folder import export
    >>> separator = MossFormerSeparator.from_size("mini")
    >>> folder = export(getfixture("tmp_path") / "model", dict(separator.named_children()), sample_rate=8000)
    >>> describe(folder)["parameters"]
    '0.63 M'
    """
    if str(path).endswith(".csv"):
        return _describe_manifest(path)
    if Path(path).is_file():
        raise InputError(f"{path}: is neither a model folder nor a manifest, whose name would end in .csv.")
    return _describe_model(path)


def _describe_model(path):
    source = find_model(path)
    model = load_model(source)
    masknet = model.masknet
    num_parameters = sum(value.numel() for value in model.parameters())
    facts = {
        "model": source.name,
        "network": type(masknet).__name__,
        "speakers": masknet.num_spks,
        "sample rate": f"{model.sample_rate} Hz",
        "parameters": f"{num_parameters / 1e6:.2f} M",
        "shifts": model.shifts,
    }
    facts |= getattr(masknet, "config", {})
    card = source.folder / "README.md" if source.folder else None
    if card is not None and card.is_file():
        lines = card.read_text(encoding="utf-8", errors="replace").splitlines()
        rows = [line.strip("|").split("|") for line in lines if line[:2] == "| "]
        # Tables of more columns are to be read in the card.
        facts |= {f"card: {row[0].strip()}": row[1].strip() for row in rows if len(row) == 2 and row[0].strip()}
    return facts


def _describe_manifest(path):
    folder = Path(path).parent
    table = read_manifest(path, folder)
    sources = [column for column in table if column.startswith("s") and column.endswith("_wav")]
    rates = sorted(set(table["sample_rate"]))
    facts = {
        "manifest": str(path),
        "mixtures": len(table),
        "speakers": len(sources),
        "sample rate": ", ".join(f"{rate} Hz" for rate in rates),
        "hours": f"{table['duration'].sum() / 3600:.2f}",
        "shortest, longest": f"{table['duration'].min():.2f} s, {table['duration'].max():.2f} s",
        "noise": "yes" if "noise_wav" in table else "no column",
        "fingerprint": _fingerprint(path, table),
    }
    speakers = [column for column in table if column.startswith("s") and column.endswith("_spk")]
    if speakers:
        facts["voices"] = pd.concat([table[column] for column in speakers]).nunique()
    return facts


def _fingerprint(path, table):
    """Fingerprint of the recordings or, if these aren't in the manifest's folder, the one noted in preparation."""
    try:
        return fingerprint(table)[:FINGERPRINT_SHOWN]
    except InputError:
        facts = Path(path).with_suffix(".json")
        try:
            return json.loads(facts.read_text(encoding="utf-8"))["fingerprint"][:FINGERPRINT_SHOWN]
        except (OSError, ValueError, KeyError, TypeError):
            return f"unknown: the recordings aren't in {Path(path).parent}, and {facts.name} is missing"
