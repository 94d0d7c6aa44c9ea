"""Checks of the checkpoints that a run starts from."""

from __future__ import annotations

from pathlib import Path

from speechbrain.utils import checkpoints as stock

from mossformer_sb.errors import InputError
from mossformer_sb.evaluation.results import RESULTS_FILE
from mossformer_sb.sharing.folder import HPARAMS_FILE, is_model_folder
from mossformer_sb.sharing.record import TrainingRecord
from mossformer_sb.sharing.settings import read_settings
from mossformer_sb.training.checkpoints import BEST_KEY, FILE_LIST, Checkpointer
from mossformer_sb.training.epoch_stats import TABLE_FILE

_OURS = "stage_loss"  # recoverable of `SeparationBrain` that SpeechBrain's recipes do not have
_THEIRS = "counter"  # the epoch counter in these recipes


def is_from_stock_recipe(checkpoint: stock.Checkpoint) -> bool:
    """Whether a checkpoint was saved by one of SpeechBrain's separation recipes.

    Their meta has the validation loss under the name of our score: lower is better.
    """
    if _OURS in checkpoint.paramfiles:
        return False
    return _THEIRS in checkpoint.paramfiles or not (checkpoint.path / FILE_LIST).exists()


def check_checkpoints(checkpointer: Checkpointer, test_only: bool = False) -> None:
    """Check the checkpoints that a run starts from, or that there is none.

    Arguments
    ---------
    checkpointer : Checkpointer
        Checkpointer of the run.
    test_only : bool
        Whether the run only evaluates.

    Raises
    ------
    InputError
        If they are from another program or another architecture, or there is none to evaluate.

    Example
    -------
    >>> from mossformer_sb.training.checkpoints import Checkpointer
    >>> check_checkpoints(Checkpointer(getfixture("tmp_path") / "save"), test_only=True)
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: .../save: holds no checkpoint to evaluate. Train first (without --test_only), or
    give the --output_folder of a finished training. An exported model is evaluated with: mossformer-sb evaluate MODEL
    --manifest CSV
    """
    check_origin(checkpointer)
    there = checkpointer.list_checkpoints()
    if test_only and not _is_scored(there, BEST_KEY):
        raise InputError(_nothing_to_evaluate(checkpointer.checkpoints_dir, there))
    checkpointer.check_architecture()


def check_no_results(checkpointer: Checkpointer, output_folder: str | Path, export_folder: str | Path) -> None:
    """Raise if a debug run would replace the results of a training with those of a few batches.

    It may replace those of an earlier debug run.

    Arguments
    ---------
    checkpointer : Checkpointer
        Checkpointer of the run.
    output_folder, export_folder : str or Path
        Folders of the run.

    Raises
    ------
    InputError
        If there are checkpoints, scores or an exported model.
    """
    found = [Path(checkpointer.checkpoints_dir)] if checkpointer.list_checkpoints() else []
    found += [path for path in (Path(output_folder) / name for name in (RESULTS_FILE, TABLE_FILE)) if path.exists()]
    found += [Path(export_folder)] if is_model_folder(export_folder) else []
    if found and not _of_debug_run(Path(output_folder)):
        raise InputError(
            f"{output_folder}: holds the results of a training ({', '.join(path.name for path in found)}), and a debug "
            f"run would replace them with those of a few batches: give another --output_folder."
        )


def _of_debug_run(folder):
    settings = read_settings(folder / HPARAMS_FILE) if (folder / HPARAMS_FILE).is_file() else {}
    command = TrainingRecord.read(folder).command or ""
    return bool(settings.get("debug")) or "--debug" in command.replace("=", " ").split()


def check_scored(checkpointer: Checkpointer, key: str | None = BEST_KEY) -> None:
    """Raise if no checkpoint can be evaluated, since none has been validated.

    The checkpoints within the first epoch have no score yet.

    Arguments
    ---------
    checkpointer : Checkpointer
        Checkpointer of the run.
    key : str, optional
        Key of the score in a checkpoint's meta. None: any checkpoint will do.

    Raises
    ------
    InputError
        If there is none.
    """
    there = checkpointer.list_checkpoints()
    if not _is_scored(there, key):
        raise InputError(_nothing_to_evaluate(checkpointer.checkpoints_dir, there))


def _is_scored(checkpoints, key):
    return any(key is None or key in checkpoint.meta for checkpoint in checkpoints)


def _nothing_to_evaluate(folder, checkpoints):
    if checkpoints:
        return (
            f"{folder}: holds no checkpoint to evaluate, since its training was interrupted within the first epoch. "
            f"Resume it (without --test_only): the first validation is at the end of the epoch."
        )
    return (
        f"{folder}: holds no checkpoint to evaluate. Train first (without --test_only), or give the --output_folder of "
        f"a finished training. An exported model is evaluated with: mossformer-sb evaluate MODEL --manifest CSV"
    )


def check_origin(checkpointer: Checkpointer) -> None:
    """Raise if a training would resume from one of SpeechBrain's own recipes, whose state is incompatible.

    Arguments
    ---------
    checkpointer : speechbrain.utils.checkpoints.Checkpointer

    Raises
    ------
    InputError
        If its folder holds such a checkpoint.
    """
    # SpeechBrain's own listing: ours treats a folder as damaged where a file that a training needs is missing.
    found = [
        checkpoint
        for checkpoint in stock.Checkpointer.list_checkpoints(checkpointer)
        if is_from_stock_recipe(checkpoint)
    ]
    if found:
        raise InputError(
            f"{checkpointer.checkpoints_dir}: holds checkpoints of one of SpeechBrain's own recipes "
            f"({found[0].path.name}), and a training here can only resume from its own. To start from their weights, "
            f"give another --output_folder, and --init_from with the folder of that recipe's run."
        )
