"""The output folder of a run of ``train.py``: when settings, log, environment and training record are written.

A run that fails its checks (of data, settings or options) leaves the folder unchanged: its files are written only when
it trains or evaluates. The manifests and empty folders are needed earlier, so they are restored or removed.

Settings, environment and training record describe the training. A run that trains no epoch, because of ``--test_only``
or because all epochs are done, does not change them.
"""

from __future__ import annotations

import contextlib
import filecmp
import logging
import logging.handlers
import os
import shutil
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import speechbrain as sb
from hyperpyyaml import resolve_references
from ruamel.yaml import YAML
from speechbrain.core import _logging_excepthook

from mossformer_sb.errors import InputError
from mossformer_sb.sharing.folder import HPARAMS_FILE
from mossformer_sb.sharing.record import TrainingRecord
from mossformer_sb.training import distributed
from mossformer_sb.utils.files import atomic_write, write_text

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from speechbrain import Stage

logger = logging.getLogger(__name__)

LOG_FILE = "log.txt"
ENVIRONMENT_FILE = "env.log"
BACKUP = ".manifests-before"
LOCK_FILE = ".lock"
MANIFEST_ENDINGS = (".csv", ".json", ".sha256")
# What the arrays beside the tables for dynamic mixing were measured of; the arrays are too large to be backed up.
MEASUREMENT_ENDINGS = (".energies.sha256", ".pitch.sha256")
# Libraries with many messages at the level DEBUG, which is logged to log.txt.
CHATTY = ("matplotlib", "PIL", "fsspec", "urllib3", "asyncio", "h5py", "numba")


class RunFolder:
    """Context: the output folder of a run.

    Arguments
    ---------
    hparams_file : str or Path
        The experiment's YAML file.
    overrides : dict
        New values for its keys.
    script : str or Path
        The program, of which a copy is saved.
    log_config : str, optional
        YAML file that configures the logging. Default: SpeechBrain's.

    Attributes
    ----------
    record : TrainingRecord
        Training record, to be set before training. It is written when the first epoch begins.
    trained : bool
        Whether this run has trained.

    Raises
    ------
    InputError
        If the output folder can't be written, another run uses its checkpoints, or ``log_config`` does not exist.
    """

    def __init__(
        self, hparams_file: str | Path, overrides: dict, script: str | Path, log_config: str | None = None
    ) -> None:
        with open(hparams_file, encoding="utf-8") as file:
            self._settings = resolve_references(file, overrides).read()
        if log_config is not None and not os.path.isfile(log_config):
            raise InputError(
                f"log_config '{log_config}': there is no such file. Give another one, or remove the option."
            )
        self._hparams_file, self._script = hparams_file, script
        self._log_config = log_config or sb.core.DEFAULT_LOG_CONFIG
        values = YAML().load(self._settings)
        self.folder = Path(str(values["output_folder"]))
        self._parts = [Path(str(values[key])) for key in ("save_folder", "manifest_folder") if values.get(key)]
        self._save_folder = Path(str(values["save_folder"])) if values.get("save_folder") else None
        self._lock = None  # descriptor of the file that is locked
        self._manifests = Path(str(values["manifest_folder"])) if values.get("manifest_folder") else None
        self.record = TrainingRecord()
        self.trained = self.evaluated = False
        self._made, self._buffer = [], None
        self._before = self._new = None  # names of manifests before the preparation, and those that it added
        self._log = None  # the handler of the log file, once it is open

    def __enter__(self) -> RunFolder:
        distributed.run_on_main(self._open)
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if distributed.rank() == 0:
            if kind is not None and self._log is not None:
                where = (logger.name, logging.ERROR, __file__, 0)
                self._log.handle(logging.LogRecord(*where, "The run was ended by", None, (kind, error, trace)))
            self._close()

    def stage_begins(self, stage: Stage) -> None:
        """Start writing the files about the run, when training or evaluation begins."""
        if stage == sb.Stage.TRAIN and not self.trained:
            self.trained = True
            distributed.run_on_main(self._write_settings)
        if stage == sb.Stage.TEST:
            self.evaluated = True
        if distributed.rank() == 0:
            self._open_log()

    def prepared(self) -> None:
        """Note which manifests the preparation has changed: files written later are results, in the same folder too."""
        if distributed.rank() == 0 and self._before is not None:
            self._note_changes()

    # ---- opening and closing

    def _open(self):
        self._make_folder()
        self._lock_checkpoints()
        if self._manifests is not None and self._is_inside(self._manifests):
            self._restore_manifests()  # after a run that was killed before training
            self._before = set(self._manifest_files())
            self._back_up_manifests()
        self._start_logging()

    def _is_inside(self, path):
        """Whether it is in the output folder; other runs may use a folder of manifests elsewhere."""
        return path.resolve().is_relative_to(self.folder.resolve())

    def _make_folder(self):
        absent = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        absent += [path for path in self._parts if not path.exists()]
        self._made = sorted(set(absent), key=lambda path: len(path.parts), reverse=True)
        try:
            os.makedirs(self.folder, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            self._remove_empty()
            raise InputError(
                f"output_folder '{self.folder}' can't be written ({error.strerror or error}): give another one."
            ) from error

    def _lock_checkpoints(self):
        """Lock the folder of checkpoints: two runs would delete what the other one is writing.

        The system releases the lock when the process ends, however it ends. Workers, which may live a few seconds
        longer, don't inherit it.
        """
        if fcntl is None or self._save_folder is None:
            return
        path = self._save_folder / LOCK_FILE
        try:
            self._save_folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            self._remove_empty()
            raise InputError(
                f"save_folder '{self._save_folder}' can't be written ({error.strerror or error}): give another one."
            ) from error
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:  # it depends on the system which one
            os.close(descriptor)
            raise InputError(
                f"{self._save_folder}: another run is using this folder of checkpoints. Wait for its end, or give "
                f"another --output_folder."
            ) from error
        except OSError as error:  # a disk without locks
            logger.debug("%s can't be locked (%s)", path, error)
        self._lock = descriptor

    def _unlock_checkpoints(self):
        if self._lock is not None:
            with contextlib.suppress(OSError):
                (self._save_folder / LOCK_FILE).unlink()
            os.close(self._lock)
            self._lock = None

    def _remove_empty(self):
        for path in self._made:
            with contextlib.suppress(OSError):  # not empty, or does not exist
                path.rmdir()

    def _close(self):
        if self._buffer is not None:
            self._stop_buffering()
        if self._log is not None:  # later messages of the process, as in a notebook, are not part of this run
            logging.getLogger().removeHandler(self._log)
            self._log.close()
            self._log = None
        if self._before is not None and not self.trained:
            if self._new is None:  # the preparation has failed
                self._note_changes()
            self._restore_manifests()
            self._remove_new_manifests()
        self._remove_backup()
        self._unlock_checkpoints()
        if not (self.trained or self.evaluated):
            self._remove_empty()

    # ---- manifests

    def _manifest_files(self):
        if not self._manifests.is_dir():
            return []
        return [path.name for path in self._manifests.iterdir() if path.suffix in MANIFEST_ENDINGS and path.is_file()]

    @property
    def _backup(self):
        return self.folder / BACKUP

    def _back_up_manifests(self):
        if not self._before:
            return
        unfinished = self.folder / f"{BACKUP}.tmp"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        for name in self._before:
            shutil.copy2(self._manifests / name, unfinished / name)
        os.replace(unfinished, self._backup)

    def _note_changes(self):
        """Note new manifests, and keep only changed ones in the backup."""
        now = set(self._manifest_files())
        self._new = now - self._before
        for name in now & self._before:
            if filecmp.cmp(self._backup / name, self._manifests / name, shallow=False):
                (self._backup / name).unlink()

    def _restore_manifests(self):
        """Restore the manifests from the backup, if there is one; it is kept until all are restored."""
        if not self._backup.is_dir():
            return
        self._manifests.mkdir(parents=True, exist_ok=True)
        for path in self._backup.iterdir():
            if path.name.endswith(MEASUREMENT_ENDINGS):
                self._discard_measurements(path)
                continue
            with atomic_write(self._manifests / path.name) as temporary:
                shutil.copy2(path, temporary)
        self._remove_backup()

    def _discard_measurements(self, before):
        """Delete an array of other recordings than before: it is measured again where it is needed."""
        note = self._manifests / before.name
        if not note.is_file() or note.read_bytes() != before.read_bytes():
            note.unlink(missing_ok=True)
            note.with_suffix(".npy").unlink(missing_ok=True)

    def _remove_new_manifests(self):
        """Keep files that the next run can reuse: lists of problems, and levels of recordings, which are slow."""
        for name in self._new & set(self._manifest_files()):
            if not (name.endswith("_problems.csv") or name.startswith("mixing_")):
                (self._manifests / name).unlink()

    def _remove_backup(self):
        if self._backup.is_dir():
            unfinished = self.folder / f"{BACKUP}.tmp"
            shutil.rmtree(unfinished, ignore_errors=True)
            os.replace(self._backup, unfinished)
            shutil.rmtree(unfinished)

    # ---- settings and log

    def _write_settings(self):
        header = f"# Generated {date.today()} from:\n# {os.path.abspath(self._hparams_file)}\n# yamllint disable\n"
        write_text(self.folder / HPARAMS_FILE, header + self._settings)
        with atomic_write(self.folder / Path(self._script).name) as temporary:
            shutil.copy(self._script, temporary)
        write_text(self.folder / ENVIRONMENT_FILE, sb.utils.logger.get_environment_description())
        TrainingRecord.read(self.folder).of_training(self.record).write(self.folder)
        self._remove_backup()

    def _start_logging(self):
        """As SpeechBrain does, but buffer the messages for the log file in memory until the run begins."""
        options = {"filename": str(self.folder / LOG_FILE), "delay": True}
        sb.utils.logger.setup_logging(self._log_config, {"handlers": {"file_handler": options}})
        sys.excepthook = _logging_excepthook
        for name in CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
        root = logging.getLogger()
        for handler in root.handlers:
            if isinstance(handler, logging.FileHandler):
                never = logging.CRITICAL + 1
                self._buffer = logging.handlers.MemoryHandler(sys.maxsize, never, handler, flushOnClose=False)
                self._buffer.setLevel(handler.level)
                root.removeHandler(handler)
                root.addHandler(self._buffer)
        sb.utils.quirks.log_applied_quirks()
        logger.info("Output folder: %s", self.folder)

    def _open_log(self):
        if self._buffer is not None:
            self._log = self._buffer.target
            self._buffer.flush()
            self._stop_buffering()
            logging.getLogger().addHandler(self._log)

    def _stop_buffering(self):
        logging.getLogger().removeHandler(self._buffer)
        self._buffer.close()
        self._buffer = None
