"""The packaged model, in a subfolder: small, for two speakers at 8 kHz."""

from __future__ import annotations

from pathlib import Path

from mossformer_sb.errors import InputError

FOLDER = Path(__file__).parent
PACKAGED = "mossformer-small-8k"  # its name, wherever a model is given


def has_packaged() -> bool:
    """Whether this version of the package has a model."""
    return (FOLDER / PACKAGED / "config.json").is_file()


def default_model() -> Path:
    """The default model, which is part of the package, so that no download is needed.

    Returns
    -------
    Path
        An exported folder.

    Raises
    ------
    InputError
        If this version of the package has no model.
    """
    folder = FOLDER / PACKAGED
    if not has_packaged():
        raise InputError(
            f"no model is given, and this version of mossformer_sb has no packaged model ({folder} holds no "
            "config.json). Give one: a folder that `mossformer-sb export` or a training wrote (--model on the "
            "command line, source in Python), or a model hub's id."
        )
    return folder
