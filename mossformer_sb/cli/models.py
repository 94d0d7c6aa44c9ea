"""``mossformer-sb models``: list the packaged model and the authors' released ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

DESCRIPTION = """\
List the model of this package and those that the authors of MossFormer and MossFormer2 released, or describe one. Use
these names wherever a model is given; the first use of a released model downloads and converts it.

  mossformer-sb models
  mossformer-sb models mossformer2-whamr
  mossformer-sb models mossformer2-whamr --download     # now, for use offline
  mossformer-sb separate talk.wav --model mossformer2-16k
  python train.py hparams/mossformer_wham.yaml --init_from mossformer-wsj0-2mix ...

Released models are cached in $MOSSFORMER_SB_CACHE (default: ~/.cache/mossformer_sb). A folder of the same name in the
current directory takes precedence. Licences: see the authors' pages."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="name of one model (default: all)")
    parser.add_argument("--download", action="store_true", help="download and convert it, unless it is in the cache")


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from mossformer_sb.errors import InputError
    from mossformer_sb.pretrained import PACKAGED, has_packaged
    from mossformer_sb.sharing.released import RELEASED, find_released
    from mossformer_sb.sharing.released_cache import get_released

    if arguments.name is None:
        if arguments.download:
            raise InputError(f"--download needs the name of a model: give one of {', '.join(RELEASED)}.")
        packaged = [_packaged_summary()] if has_packaged() else []
        _print_table([*packaged, *map(_summary, RELEASED.values())])
        return
    if arguments.name == PACKAGED:
        _print_facts(_packaged_facts())
        return
    model = find_released(arguments.name)
    if model is None:
        names = ", ".join([PACKAGED, *RELEASED])
        raise InputError(f"{arguments.name}: is not one of these models. Choose one of {names}.")
    if arguments.download:
        get_released(model)
    _print_facts(_facts(model))


def _print_facts(facts):
    width = max(map(len, facts))
    for key, value in facts.items():
        print(f"{key:{width}}  {value}")


def _packaged_summary():
    from mossformer_sb.pretrained import PACKAGED, default_model
    from mossformer_sb.sharing.model_info import describe

    facts = describe(default_model())
    return {
        "name": PACKAGED,
        "network": facts["network"].removesuffix("MaskNet"),
        "trained on": facts.get("card: Corpus", "not stated"),
        "speakers": facts["speakers"],
        "rate": facts["sample rate"],
        "download": "in the package",
        "licence": facts.get("card: Licence", "not stated"),
    }


def _packaged_facts():
    from mossformer_sb.pretrained import default_model

    folder = default_model()
    return {**_packaged_summary(), "scores": folder / "README.md", "folder": folder}


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
