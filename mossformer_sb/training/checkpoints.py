"""Atomic checkpoints.

A checkpoint is written under a temporary name, flushed to the disk, listed file by file with sizes and checksums, and
then renamed; deletion renames first. So a folder with a checkpoint's name was complete when it got that name, however a
run was interrupted, and the list shows whether it still is.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import pathlib
import pickle
import shutil
import time
import zlib
from typing import TYPE_CHECKING

import torch
import yaml
from speechbrain.utils import checkpoints as stock
from speechbrain.utils.distributed import ddp_barrier, if_main_process, main_process_only

from mossformer_sb.errors import InputError
from mossformer_sb.utils.weights import differences, read_state_dict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import Any

logger = logging.getLogger(__name__)

# SpeechBrain treats every folder whose name begins with CKPT as a checkpoint, so temporary names begin otherwise.
TEMPORARY_PREFIX = "incomplete-"
FILE_LIST = "files.json"
_FAILED_WRITE = "inline_container"  # in PyTorch's message where torch.save could not write, as on a full disk
SETTINGS_FILE = "settings.json"
# Settings of a network that change what it computes, and no name or shape of its parameters.
INVISIBLE_SETTINGS = ("apply_masks", "group_size")
BEST_KEY = "si-snr"  # validation score, in a checkpoint's meta, by which the best is chosen
AVERAGED_WEIGHTS = "averaged_weights"  # the recoverable of a run with ema_decay


class Checkpointer(stock.Checkpointer):
    """SpeechBrain's Checkpointer, safe against interrupted runs, damaged files and other architectures.

    - Saving and deleting are atomic. What an interrupted run left behind is deleted at the next save.
    - Checkpoints with missing, shortened or altered files are skipped, with a warning, and the next one is used. If all
      are damaged, it is an error: training would otherwise start again from the beginning.
    - Loading first compares names and shapes of all modules, and the settings that these don't show, and changes none
      if one differs.
    - The newest checkpoint is the last one that was saved, also if the clock has been set back in between.
    - Deleting old checkpoints keeps a complete one, even if the ones to keep are damaged.

    The ranks of a distributed run need to see the same folder. Checkpoints written by SpeechBrain's own class have no
    list of files: they load, with a warning that they could not be verified.

    Arguments
    ---------
    *args, **kwargs
        As for ``speechbrain.utils.checkpoints.Checkpointer``.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> model = torch.nn.Linear(1, 1)
    >>> checkpointer = Checkpointer(folder, {"model": model})
    >>> older = checkpointer.save_checkpoint()
    >>> newer = checkpointer.save_checkpoint()
    >>> os.truncate(newer.paramfiles["model"], 10)
    >>> checkpointer.recover_if_possible().path == older.path
    True
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._verified = set()  # folders that this process has written or verified

    def add_recoverables(self, recoverables: Mapping[str, object]) -> None:
        """Register several recoverables, as ``add_recoverable`` does for one."""
        super().add_recoverables(recoverables)
        # SpeechBrain looks these up for a file that is missing, but only add_recoverable sets them.
        for name in recoverables:
            self.optional_recoverables.setdefault(name, False)

    # ---- saving

    def save_checkpoint(
        self,
        meta: dict | None = None,
        end_of_epoch: bool = True,
        name: str | None = None,
        verbosity: int = logging.INFO,
    ) -> stock.Checkpoint:
        """Save a checkpoint. Arguments and return value as in SpeechBrain.

        Raises
        ------
        InputError
            If it can't be written, as on a full disk. Those that were there are kept.
        """
        if if_main_process():
            self._remove_leftovers()
        try:
            checkpoint = super().save_checkpoint(meta or {}, end_of_epoch, name, verbosity=logging.NOTSET)
            ddp_barrier()  # all ranks together save some recoverables
            if checkpoint is not None:
                checkpoint = self._publish(checkpoint)
                kind = "end-of-epoch" if end_of_epoch else "intra-epoch"
                logger.log(verbosity, "Saved an %s checkpoint in %s", kind, checkpoint.path)
        except BaseException as error:
            if if_main_process():
                self._remove_leftovers()
            if isinstance(error, OSError) or (isinstance(error, RuntimeError) and _FAILED_WRITE in str(error)):
                raise InputError(self._not_written(error)) from error
            raise
        ddp_barrier()
        return checkpoint

    def save_and_keep_only(
        self,
        meta: dict | None = None,
        end_of_epoch: bool = True,
        name: str | None = None,
        num_to_keep: int = 1,
        keep_recent: bool = True,
        importance_keys: Sequence[Callable] | None = (),
        **kwargs: Any,
    ) -> None:
        """Save a checkpoint, then delete the least important ones. Arguments as in SpeechBrain."""
        # SpeechBrain appends to the list that it gets, its own default included: pass a new one.
        super().save_and_keep_only(meta, end_of_epoch, name, num_to_keep, keep_recent, list(importance_keys), **kwargs)

    def _new_checkpoint_dirpath(self):
        return _temporary(super()._new_checkpoint_dirpath())

    def _custom_checkpoint_dirpath(self, name):
        return _temporary(super()._custom_checkpoint_dirpath(name))

    def _save_checkpoint_metafile(self, fpath, meta_to_include, end_of_epoch=True):
        # A NumPy number would be written as an object, which the safe reader of this file then refuses.
        plain = {key: value.item() if hasattr(value, "item") else value for key, value in meta_to_include.items()}
        yaml.safe_dump(plain)
        # Age decides which one is kept and resumed: with a clock that is behind, the new one would be deleted at once.
        newest = max((checkpoint.meta["unixtime"] for checkpoint in super().list_checkpoints()), default=0.0)
        plain.setdefault("unixtime", max(time.time(), math.nextafter(newest, math.inf)))
        return super()._save_checkpoint_metafile(fpath, plain, end_of_epoch)

    def _publish(self, checkpoint):
        """Flush and list the files of a checkpoint with a temporary name, and rename it to its final name."""
        folder = checkpoint.path
        found = {name: _invisible_settings(obj) for name, obj in self.recoverables.items()}
        settings = {name: values for name, values in found.items() if values}
        (folder / SETTINGS_FILE).write_text(json.dumps(settings), encoding="utf-8")
        _write_file_list(folder)
        final = folder.with_name(folder.name.removeprefix(TEMPORARY_PREFIX))
        replaced = _set_aside(final) if final.exists() else None  # the caller reuses a name
        folder.rename(final)
        _flush_folder(final.parent)
        if replaced:
            shutil.rmtree(replaced)
        self._verified.add(final)
        paramfiles = {name: final / path.name for name, path in checkpoint.paramfiles.items()}
        return checkpoint._replace(path=final, paramfiles=paramfiles)

    def _not_written(self, error):
        reason = getattr(error, "strerror", None) or "PyTorch could not write all of a file"
        free = shutil.disk_usage(self.checkpoints_dir).free / 1e6
        return (
            f"{self.checkpoints_dir}: a checkpoint can't be written ({reason}; {free:.0f} MB are free there). The last "
            f"one is kept: make room, and the same command resumes."
        )

    def _remove_leftovers(self):
        for folder in self.checkpoints_dir.glob(f"{TEMPORARY_PREFIX}*"):
            shutil.rmtree(folder, ignore_errors=True)

    # ---- finding

    def list_checkpoints(self) -> list:
        """List the checkpoints whose files exist in full length. ``find_checkpoints`` verifies checksums."""
        return [checkpoint for checkpoint in super().list_checkpoints() if not self._damage(checkpoint.path)]

    def find_checkpoints(
        self,
        importance_key: Callable | None = None,
        max_key: str | None = None,
        min_key: str | None = None,
        ckpt_predicate: Callable | None = None,
        max_num_checkpoints: int | None = None,
    ) -> list[stock.Checkpoint]:
        """Find complete checkpoints, the most important first. Arguments as in SpeechBrain.

        All that are returned have been read and verified. Where the value of a key is NaN, it counts as the worst.

        Raises
        ------
        InputError
            When all the candidates are damaged.
        """
        # A folder whose meta can't be read can't be ranked, so it is always reported.
        damaged = {folder: f"{stock.METAFNAME} can't be read" for folder in self._folders() if not _has_meta(folder)}
        complete = []
        for checkpoint in _rank(super().list_checkpoints(), importance_key, max_key, min_key, ckpt_predicate):
            if len(complete) == max_num_checkpoints:
                break
            if damage := self._damage(checkpoint.path, read=True):
                damaged[checkpoint.path] = damage
            else:
                complete.append(checkpoint)
        if damaged and not complete:
            found = "; ".join(f"{folder.name} ({damage})" for folder, damage in damaged.items())
            raise InputError(
                f"{self.checkpoints_dir} holds no complete checkpoint that fits, only damaged ones: {found}. Restore a "
                f"backup, or remove them to start from the beginning."
            )
        if if_main_process():
            for folder, damage in damaged.items():
                logger.warning("Skipping the checkpoint %s: %s. Using %s instead.", folder, damage, complete[0].path)
            for checkpoint in complete:
                if not (checkpoint.path / FILE_LIST).exists():
                    logger.warning("The checkpoint %s has no %s: it is not verified.", checkpoint.path, FILE_LIST)
        return complete

    def find_checkpoint(
        self,
        importance_key: Callable | None = None,
        max_key: str | None = None,
        min_key: str | None = None,
        ckpt_predicate: Callable | None = None,
    ) -> stock.Checkpoint | None:
        """Find the most important complete checkpoint, or None. Arguments as in SpeechBrain."""
        found = self.find_checkpoints(importance_key, max_key, min_key, ckpt_predicate, max_num_checkpoints=1)
        return found[0] if found else None

    def _folders(self):
        folders = (path for path in self.checkpoints_dir.iterdir() if path.is_dir())
        return sorted(folder for folder in folders if folder.name.startswith(stock.CKPT_PREFIX))

    def _list_checkpoint_dirs(self):
        return [folder for folder in self._folders() if _has_meta(folder)]

    def _damage(self, folder, read=False):
        """The damage of a checkpoint; None if its files exist, in full length and, if read, unaltered."""
        try:
            for name, expected in self._expected_files(folder).items():
                size = (folder / name).stat().st_size
                if expected and size != expected["size"]:
                    return f"{name} has {size} bytes, not {expected['size']}"
                if expected and read and _checksum(folder / name) != expected["crc32"]:
                    return f"{name} has been altered (its checksum differs)"
        except FileNotFoundError as error:
            return f"{pathlib.Path(error.filename).name} is missing"
        except (OSError, ValueError) as error:
            return f"it can't be read ({error})"
        if read:
            self._verified.add(folder)
        return None

    def _expected_files(self, folder):
        """Read the list of files: from name to size and checksum."""
        if (folder / FILE_LIST).exists():
            return json.loads((folder / FILE_LIST).read_text(encoding="utf-8"))
        # SpeechBrain's own class writes the meta first: an interrupted save leaves a meta and only some of the files.
        return {f"{name}{stock.PARAMFILE_EXT}": None for name in self._required()}

    def _required(self):
        """Name the recoverables that must have a file; SpeechBrain warns when a data loader has none."""
        if self.allow_partial_load:
            return []
        return [n for n in self.recoverables if not self.optional_recoverables.get(n) and "dataloader" not in n]

    # ---- loading

    def load_checkpoint(self, checkpoint: stock.Checkpoint) -> None:
        """Load a checkpoint, unless it was saved with other settings.

        Raises
        ------
        InputError
            When a recoverable has no file, averaged weights would be ignored, the parameters of a module have other
            names or shapes, it would compute something else, or those of an optimizer are grouped differently. Nothing
            has been changed then.
        """
        missing = [name for name in self._required() if name not in checkpoint.paramfiles]
        if missing:
            raise InputError(
                f"The checkpoint {checkpoint.path} holds no {', '.join(missing)}: it was saved with other settings. "
                "Use those, or another output folder."
            )
        if AVERAGED_WEIGHTS in checkpoint.paramfiles and AVERAGED_WEIGHTS not in self.recoverables:
            raise InputError(
                f"The checkpoint {checkpoint.path} holds averaged weights, by which it was chosen, and this run has no "
                "ema_decay: give the training's, or another output folder."
            )
        for name, module in self._plain_modules(checkpoint):
            _check_architecture(name, module, checkpoint)
            _check_settings(name, module, checkpoint)
        for name, obj in self.recoverables.items():
            if isinstance(obj, torch.optim.Optimizer) and name in checkpoint.paramfiles:
                _check_parameter_groups(obj, checkpoint.paramfiles[name])
        super().load_checkpoint(checkpoint)

    def check_architecture(self) -> None:
        """Raise InputError if the newest checkpoint is of other modules; nothing is loaded.

        A file that can't be read is skipped: loading then uses the next checkpoint.
        """
        for checkpoint in sorted(self.list_checkpoints(), key=stock.ckpt_recency)[-1:]:
            for name, module in self._plain_modules(checkpoint):
                with contextlib.suppress(RuntimeError, OSError, EOFError, pickle.UnpicklingError):
                    _check_architecture(name, module, checkpoint)
                _check_settings(name, module, checkpoint)

    def _plain_modules(self, checkpoint):
        """Names of the modules with a state dict in the checkpoint, and the modules."""
        for name, obj in self.recoverables.items():
            hook = self.custom_load_hooks.get(name) or stock.get_default_hook(obj, stock.DEFAULT_LOAD_HOOKS)
            is_plain = isinstance(obj, torch.nn.Module) and hook is stock.torch_recovery
            if is_plain and name in checkpoint.paramfiles:
                yield name, obj

    # ---- deleting

    def delete_checkpoints(
        self,
        *,
        num_to_keep: int = 1,
        min_keys: Sequence[str] | None = None,
        max_keys: Sequence[str] | None = None,
        importance_keys: Sequence[Callable] = (stock.ckpt_recency,),
        ckpt_predicate: Callable | None = None,
        verbosity: int = logging.INFO,
    ) -> None:
        """Delete the least important checkpoints. Arguments as in SpeechBrain.

        Unless ``num_to_keep`` is 0, a complete one is kept. Damaged ones are kept for inspection.
        """
        if num_to_keep < 0:
            raise ValueError(f"num_to_keep has to be 0 or more, found {num_to_keep}.")
        orders: list[dict] = [{"min_key": key} for key in min_keys or ()]
        orders += [{"max_key": key} for key in max_keys or ()]
        orders += [{"importance_key": key} for key in importance_keys]
        # Only on the main process: another rank could list the folder while checkpoints are written and deleted.
        self._delete_all_but(num_to_keep, orders, ckpt_predicate, verbosity)
        ddp_barrier()

    @main_process_only
    def _delete_all_but(self, num_to_keep, orders, ckpt_predicate, verbosity):
        candidates, kept = set(), set()
        for order in orders:
            ranked = _rank(self.list_checkpoints(), **order, ckpt_predicate=ckpt_predicate)
            candidates.update(ranked)
            kept.update(ranked[:num_to_keep])
        doomed = sorted(candidates - kept, key=stock.ckpt_recency, reverse=True)
        survivors = [checkpoint for checkpoint in self.list_checkpoints() if checkpoint not in doomed]
        if num_to_keep > 0 and not any(map(self._is_complete, survivors)):
            spared = next(filter(self._is_complete, doomed), None)
            doomed = [checkpoint for checkpoint in doomed if checkpoint is not spared]
        for checkpoint in doomed:
            shutil.rmtree(_set_aside(checkpoint.path))
            logger.log(verbosity, "Deleted checkpoint in %s", checkpoint.path)

    def _is_complete(self, checkpoint):
        return checkpoint.path in self._verified or not self._damage(checkpoint.path, read=True)


# ---- which weights were scored


def scored_weights(checkpoint: stock.Checkpoint, name: str | None) -> dict:
    """State dict of one module as it was validated: the averaged weights if the run has them."""
    state = read_state_dict(checkpoint.paramfiles[name])
    if AVERAGED_WEIGHTS in checkpoint.paramfiles:
        saved = torch.load(checkpoint.paramfiles[AVERAGED_WEIGHTS], map_location="cpu", weights_only=True)
        averages = {
            key.partition(".")[2]: value for key, value in saved["averages"].items() if key.startswith(f"{name}.")
        }
        state.update(averages)
    return state


# ---- files and folders


def _temporary(folder):
    return folder.with_name(TEMPORARY_PREFIX + folder.name)


def _set_aside(folder):
    """Rename a checkpoint before it is deleted, so that an interrupted deletion leaves nothing that looks complete."""
    aside = folder.with_name(f"{TEMPORARY_PREFIX}deleted-{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    return folder.rename(aside)


def _write_file_list(folder):
    """Flush all the files of a folder to the disk, and list them with their sizes and checksums."""
    listed = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
        listed[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "crc32": _checksum(path)}
    with open(folder / FILE_LIST, "w", encoding="utf-8") as file:
        json.dump(listed, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    _flush_folder(folder)


def _flush_folder(folder):
    """Flush a folder's entries to the disk, where the system supports it."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _checksum(path):
    # CRC-32 is not secure, but detects damage by disks and copies, at the speed of reading the files.
    value = 0
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            value = zlib.crc32(chunk, value)
    return f"{value:08x}"


# ---- ranks and architectures


def _has_meta(folder):
    try:
        meta = yaml.safe_load((folder / stock.METAFNAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(meta, dict) and {"unixtime", "end-of-epoch"} <= meta.keys()


def _rank(checkpoints, importance_key=None, max_key=None, min_key=None, ckpt_predicate=None):
    """Sort by one of the keys, highest, lowest or most important first, ties by age; without a key, by age."""
    if sum(bool(key) for key in (importance_key, max_key, min_key)) > 1:
        raise ValueError("Must specify only one of 'importance_key', 'max_key', and 'min_key'.")
    key = max_key or min_key
    if key:
        checkpoints = [checkpoint for checkpoint in checkpoints if key in checkpoint.meta]
        sign = 1 if max_key else -1

        def importance_key(checkpoint):
            value = sign * checkpoint.meta[key]
            return -math.inf if math.isnan(value) else value

    newest_first = sorted(filter(ckpt_predicate, checkpoints), key=stock.ckpt_recency, reverse=True)
    return sorted(newest_first, key=importance_key or stock.ckpt_recency, reverse=True)


def _check_architecture(name, module, checkpoint):
    path = checkpoint.paramfiles[name]
    saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    saved = stock.hook_on_loading_state_dict_checkpoint(saved)
    number, shown = differences(saved, module.state_dict(), "in the checkpoint", "in the model")
    if number:
        raise InputError(
            f"The checkpoint {checkpoint.path} has another architecture: {number} parameters of '{name}' differ "
            f"({shown}). Use the settings that it was trained with, or another output folder."
        )


def invisible_settings(folder: str | Path, name: str) -> dict:
    """The settings of a module in a checkpoint, out of `INVISIBLE_SETTINGS`; none in those of earlier versions.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "settings.json").write_text('{"masknet": {"apply_masks": false}}')
    >>> invisible_settings(folder, "masknet"), invisible_settings(folder, "encoder")
    ({'apply_masks': False}, {})
    """
    try:
        found = json.loads((pathlib.Path(folder) / SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # missing, or damaged: the checksums are for that
        return {}
    return found.get(name, {})


def _invisible_settings(module):
    config = getattr(module, "config", None)
    config = config if isinstance(module, torch.nn.Module) and isinstance(config, dict) else {}
    return {key: config[key] for key in INVISIBLE_SETTINGS if key in config}


def _check_settings(name, module, checkpoint):
    here = _invisible_settings(module)
    for key, there in invisible_settings(checkpoint.path, name).items():
        if key in here and here[key] != there:
            raise InputError(
                f"The checkpoint {checkpoint.path} was trained with {key} {there}, and {key} of '{name}' is "
                f"{here[key]} now, with which its weights would compute something else. Set {key} as it was, or give "
                "another output folder."
            )


def _check_parameter_groups(optimizer, path):
    saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["param_groups"]
    there, here = ([len(group["params"]) for group in groups] for groups in (saved, optimizer.param_groups))
    if there != here:
        raise InputError(
            f"{path}: the optimizer has {_listed(there)} parameters there, and {_listed(here)} with the present "
            "settings. Resume with those that it was saved with (optimizer, freeze, remove_vector_weight_decay); or "
            "start from its weights, with --init_from and another --output_folder."
        )


def _listed(sizes):
    return " + ".join(map(str, sizes))
