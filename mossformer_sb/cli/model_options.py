"""Options of all commands that load a model to separate with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from typing import Any


MODEL_SOURCES = (  # what --model takes
    "folder of an exported model or of a training, name of a released model (see: mossformer-sb models), or a model "
    "hub's id"
)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--shifts`` and ``--trust``."""
    parser.add_argument(
        "--shifts",
        type=int,
        metavar="N",
        help="average the estimates for N delayed copies of the input: better, in N times the time (default: the "
        "model's, 1 for most)",
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="load the model's hyperparams.yaml, which runs the code that it refers to",
    )


def model_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The values of these options, as arguments of `MossFormerSeparation.from_hparams`.

    Example
    -------
    >>> import argparse
    >>> parser = argparse.ArgumentParser()
    >>> add_model_options(parser)
    >>> model_options(parser.parse_args(["--shifts", "4"]))
    {'shifts': 4, 'trust': False}
    """
    return {"shifts": arguments.shifts, "trust": arguments.trust}
