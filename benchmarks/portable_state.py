"""The newest checkpoint of a training as one small file, so that another machine can resume from it.

    python -m benchmarks.portable_state pack results/run state.zip
    python -m benchmarks.portable_state unpack state.zip results/run

Large tensors are stored in 16 bits: weights and their averages in float16, the state of the optimizer in bfloat16.
Muon's momentum, which was a third of the file, is stored as zeros: it is an average over some twenty steps. A run
that resumes from it is close to the uninterrupted run, not equal to it.
"""

import argparse
import io
import sys
import zipfile
from pathlib import Path

import torch

from mossformer_sb.errors import InputError
from mossformer_sb.training.checkpoints import FILE_LIST, Checkpointer
from mossformer_sb.utils.files import atomic_folder, atomic_write

SAVE_FOLDER = "save"  # of an output folder of train.py
LARGE = 1024  # elements; smaller tensors are unchanged
OPTIMIZER = "optimizer.ckpt"
MOMENTUM = "momentum_buffer"  # Muon's
RANDOM = "random_state.ckpt"  # states of the random generators, not weights


def pack(folder, target):
    """Write the newest checkpoint of an output folder into one file.

    Arguments
    ---------
    folder : str or Path
        ``output_folder`` of a training.
    target : str or Path
        The file.

    Returns
    -------
    str
        Name of the checkpoint.

    Raises
    ------
    InputError
        If there is none.
    """
    save = Path(folder) / SAVE_FOLDER
    checkpoint = Checkpointer(save).find_checkpoint() if save.is_dir() else None
    if checkpoint is None:
        raise InputError(f"{save}: holds no checkpoint; needed the output_folder of a training that has saved one.")
    target = Path(target)
    with (
        atomic_write(target) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_LZMA) as archive,
    ):
        for path in sorted(checkpoint.path.iterdir()):
            if path.name != FILE_LIST:  # its checksums are those of the larger files
                archive.writestr(f"{checkpoint.path.name}/{path.name}", converted(path.read_bytes(), path.name))
    return checkpoint.path.name


def unpack(source, folder):
    """Write the checkpoint in a file into an output folder, from where ``train.py`` resumes.

    Arguments
    ---------
    source : str or Path
        A file that `pack` wrote.
    folder : str or Path
        ``output_folder``; it must have no checkpoint yet.

    Returns
    -------
    str
        Name of the checkpoint.

    Raises
    ------
    InputError
        If it is not such a file, or the folder has a checkpoint.
    """
    save = Path(folder) / SAVE_FOLDER
    if save.is_dir() and Checkpointer(save).find_checkpoint() is not None:
        raise InputError(f"{save}: holds a checkpoint already; unpack into another folder, or remove it.")
    try:
        archive = zipfile.ZipFile(source)
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{source}: can't be read ({error}); needed a file that `pack` wrote.") from error
    with archive:
        names = [Path(name) for name in archive.namelist()]
        folders = {name.parts[0] for name in names if len(name.parts) == 2 and ".." not in name.parts}
        if len(folders) != 1 or any(len(name.parts) != 2 for name in names):
            raise InputError(f"{source}: holds no checkpoint; needed a file that `pack` wrote.")
        (name,) = folders
        with atomic_folder(save / name) as temporary:
            for path in names:
                content = converted(archive.read(path.as_posix()), path.name, _full)
                (temporary / path.name).write_bytes(content)
    return name


def converted(content, name, convert=None):
    """A file of a checkpoint, with its tensors made small, or converted otherwise; other files unchanged."""
    if not content.startswith(b"PK") or name == RANDOM:
        return content
    value = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    result = io.BytesIO()
    torch.save(_mapped(value, convert or _small, torch.bfloat16 if name == OPTIMIZER else torch.float16), result)
    return result.getvalue()


def _mapped(value, convert, dtype):
    if isinstance(value, dict):
        return type(value)((key, _mapped(_kept(key, item), convert, dtype)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return type(value)(_mapped(item, convert, dtype) for item in value)
    return convert(value, dtype) if isinstance(value, torch.Tensor) else value


def _kept(key, value):
    """A value of a state, zero if it is momentum."""
    return torch.zeros_like(value) if key == MOMENTUM else value


def _small(tensor, dtype):
    return tensor.to(dtype) if tensor.dtype == torch.float32 and tensor.numel() >= LARGE else tensor


def _full(tensor, dtype):
    return tensor.float() if tensor.dtype == dtype else tensor


def main(arguments=None):
    """Pack or unpack; 0, or 2 after an error in the user's input."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.portable_state", description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for function, names in ((pack, ("folder", "target")), (unpack, ("source", "folder"))):
        command = commands.add_parser(function.__name__, help=function.__doc__.split("\n")[0])
        command.set_defaults(function=function)
        for name in names:
            command.add_argument(name)
    options = vars(parser.parse_args(arguments))
    function = options.pop("function")
    try:
        print(function(**options))
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
