"""The model that comes with the package, in a folder beside this file: small, for two speakers at 8 kHz."""

from __future__ import annotations

from pathlib import Path

from mossformer_sb.errors import InputError

FOLDER = Path(__file__).parent
DEFAULT = "mossformer-small-8k"


def default_model() -> Path:
    """Find the model that is used where none is named; it needs no network.

    Returns
    -------
    Path
        An exported folder.

    Raises
    ------
    InputError
        If this version of the package has none.
    """
    folder = FOLDER / DEFAULT
    if not (folder / "config.json").is_file():
        raise InputError(
            f"no model is named, and this version of mossformer_sb comes without one ({folder} holds no "
            "config.json). Name one: a folder that `mossformer-sb export` or a training wrote (--model on the "
            "command line, source in Python), or a model hub's id."
        )
    return folder
