"""``mossformer-sb info``: describe a model folder or a manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

DESCRIPTION = """\
Describe a model folder or a manifest.

  mossformer-sb info mossformer-wham
  mossformer-sb info manifests/wham_tt.csv"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "path", metavar="PATH", help="model folder, released model's name, hub's id, or manifest (.csv)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from mossformer_sb.sharing.model_info import describe

    facts = describe(arguments.path)
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:{width}}  {value}")
