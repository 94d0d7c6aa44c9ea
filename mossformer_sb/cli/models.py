"""``mossformer-sb models``: list the authors' released models."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

DESCRIPTION = """\
List the models that the authors of MossFormer and MossFormer2 released, or describe one. Use these names wherever a
model is given; the first use downloads and converts the model.

  mossformer-sb models
  mossformer-sb models mossformer2-whamr
  mossformer-sb models mossformer2-whamr --download     # now, for use offline
  mossformer-sb separate talk.wav --model mossformer2-16k
  python train.py hparams/mossformer_wham.yaml --init_from mossformer-wsj0-2mix ...

They are cached in $MOSSFORMER_SB_CACHE (default: ~/.cache/mossformer_sb). A folder of the same name in the current
directory takes precedence. Licences: see the authors' pages."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="name of one model (default: all)")
    parser.add_argument("--download", action="store_true", help="download and convert it, unless it is in the cache")


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from mossformer_sb.errors import InputError
    from mossformer_sb.sharing.released import RELEASED, find_released
    from mossformer_sb.sharing.released_cache import get_released

    if arguments.name is None:
        if arguments.download:
            raise InputError(f"--download needs the name of a model: give one of {', '.join(RELEASED)}.")
        _print_table(_summary(model) for model in RELEASED.values())
        return
    model = find_released(arguments.name)
    if model is None:
        raise InputError(f"{arguments.name}: is not a released model. Choose one of {', '.join(RELEASED)}.")
    if arguments.download:
        get_released(model)
    facts = _facts(model)
    width = max(map(len, facts))
    for key, value in facts.items():
        print(f"{key:{width}}  {value}")


def _summary(model):
    from mossformer_sb.sharing.released_cache import is_cached

    return {
        "name": model.name,
        "network": model.network,
        "trained on": model.corpus,
        "speakers": model.num_spks,
        "rate": f"{model.sample_rate} Hz",
        "download": "in the cache" if is_cached(model.name) else f"{model.megabytes} MB",
        "licence": model.licence or "not stated",
    }


def _facts(model):
    from mossformer_sb.sharing.hubs import web_page
    from mossformer_sb.sharing.released_cache import is_cached, model_folder

    folder = model_folder(model.name)
    return {
        **_summary(model),
        "masks": "applied" if model.apply_masks else "not applied: the network outputs the encoded estimates",
        "published": model.published,
        "from": web_page(model.hub, model.hub_id),
        "files": ", ".join(model.files),
        "sha256": "; ".join(f"{file} {digest}" for file, digest in model.sha256.items()) or "unknown",
        "folder": folder if is_cached(model.name) else f"{folder} (does not exist yet)",
    }


def _print_table(rows):
    rows = [list(row.items()) for row in rows]
    lines = [[key for key, _ in rows[0]], *([str(value) for _, value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(map(str.ljust, line, widths)).rstrip())
