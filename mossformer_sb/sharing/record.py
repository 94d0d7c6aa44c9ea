"""The training record: the facts for a model card, and the file that stores them in a training's output folder."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mossformer_sb.data.corpora import corpus_name
from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import write_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

RECORD_FILE = "training_record.json"


@dataclass
class TrainingRecord:
    """Facts about a training for the model card; empty fields are not shown."""

    task: str = ""
    corpus: str = ""
    conditions: str = ""  # see `conditions`
    data: str = ""  # fingerprints of the training, validation and test sets: "train ..., valid ..., test ..."
    experiment: str = ""
    command: str = ""  # command line of the training
    best_epoch: int | None = None
    num_test: int | None = None
    scores: dict = field(default_factory=dict)  # column of the results table to its mean in dB
    test_command: str = ""  # command line of the evaluation, if it isn't the training's
    test_set: dict = field(default_factory=dict)  # data_root, and the corpus whose published scores are comparable
    checkpoint: str = ""  # if it isn't the best one
    licence: str = ""  # identifier on model hubs, such as cc-by-4.0

    def write(self, folder: str | Path) -> None:
        """Write the record into a training's output folder, for later exports."""
        write_text(Path(folder) / RECORD_FILE, json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, folder: str | Path) -> TrainingRecord:
        """Read the record from a training's output folder; an empty one if there is none.

        Unknown fields, as from a later version, are ignored.

        Example
        -------
        >>> folder = getfixture("tmp_path")
        >>> TrainingRecord(task="separate_clean").write(folder)
        >>> TrainingRecord.read(folder).task
        'separate_clean'
        """
        path = Path(folder) / RECORD_FILE
        if not path.is_file():
            return cls()
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            known = {item.name for item in dataclasses.fields(cls)}
            return cls(**{key: value for key, value in facts.items() if key in known})
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(
                f"{path}: can't be read ({error}). Restore a backup, or remove it: only the model card needs it."
            ) from error

    @classmethod
    def of_experiment(cls, hparams: Mapping, experiment: str | Path, command: str, data: str = "") -> TrainingRecord:
        """Collect the facts before training: network, data and command.

        Arguments
        ---------
        hparams : mapping
            Hyperparameters of the experiment: ``task``, ``corpus``, and, if present, the other arguments of
            `conditions`.
        experiment : str or Path
            The YAML file.
        command : str
            The command line.
        data : str
            Fingerprints of the datasets.

        Returns
        -------
        TrainingRecord
        """
        return cls(
            task=hparams["task"],
            corpus=corpus_name(hparams),
            conditions=conditions_of(hparams),
            data=data,
            experiment=Path(experiment).name,
            command=command,
        )

    def of_training(self, new: TrainingRecord) -> TrainingRecord:
        """The new record of a resumed training, with the scores of this one until the next evaluation."""
        names = ("task", "corpus", "conditions", "experiment", "command")
        data = new.data if not self.scores else _with_test(new.data, self.data)
        return dataclasses.replace(self, data=data, **{name: getattr(new, name) for name in names})

    def of_evaluation(self, brain: Any, new: TrainingRecord, test_set: dict) -> TrainingRecord:
        """This record with the results of a `SeparationBrain` that has just evaluated its best checkpoint.

        Arguments
        ---------
        brain : SeparationBrain
        new : TrainingRecord
            Record of the evaluation run. Its facts about the training are used only if this record has none.
        test_set : dict
            See the field ``test_set``.

        Returns
        -------
        TrainingRecord
        """
        record = self if self.command else dataclasses.replace(new, data="")
        return dataclasses.replace(
            record,
            data=_with_test(record.data, new.data),
            best_epoch=brain.hparams.epoch_counter.current,  # that of the best checkpoint
            num_test=len(brain.scores),
            scores=brain.scores.average(),
            test_command="" if new.command == record.command else new.command,
            test_set=test_set,
        )

    def without_evaluation(self, brain: Any, new: TrainingRecord) -> TrainingRecord:
        """This record after a `SeparationBrain` has loaded its best checkpoint, without a test set."""
        record = self if self.command else new
        epoch = brain.hparams.epoch_counter.current
        return dataclasses.replace(record, best_epoch=epoch, num_test=None, scores={}, test_command="", test_set={})


def conditions_of(hparams: Mapping) -> str:
    """The `conditions` of an experiment: ``task`` and, if present, the other arguments."""
    options = {key: hparams[key] for key in ("target", "noise", "mixture_is_sum") if key in hparams}
    return conditions(hparams["task"], **options)


def conditions(
    task: str, target: str | None = None, noise: bool | None = None, mixture_is_sum: bool | None = None
) -> str:
    """Describe the recordings that a model is for, and its training targets.

    Arguments
    ---------
    task : str
        Task, as in the experiments.
    target : str, optional
        Target of tasks with reverberation: "anechoic", or "reverb" for reverberant targets. Default: as in the
        experiments, "anechoic". "" if unknown.
    noise : bool, optional
        For the task "separate" of custom data: whether there are noise files.
    mixture_is_sum : bool, optional
        For the task "separate" of custom data: whether mixtures are the sum of sources and noise.

    Returns
    -------
    str
        Description, empty for an unknown task.

    Example
    -------
    >>> conditions("separate_noisy_reverb", "anechoic")
    'speech in rooms, in noise; the estimates are to be free of both'
    >>> conditions("separate_clean_reverb", "reverb")
    'speech in rooms, without noise; the estimates keep the reverberation'
    """
    if task == "separate_mixed":
        return "speech alone, in noise, or in rooms and in noise; the estimates are to be free of both"
    if task == "separate":
        return _own_conditions(noise, mixture_is_sum)
    kind, _, room = task.rpartition("_") if task.endswith(("_anechoic", "_reverb")) else (task, "", "")
    if kind not in ("separate_clean", "separate_noisy", "enhance_single"):
        return ""
    speech = "one speaker" if kind == "enhance_single" else "speech"
    estimates = "the estimate is" if kind == "enhance_single" else "the estimates are"
    noisy = kind != "separate_clean"
    if room != "reverb":
        if not noisy:
            return f"{speech} alone, without noise or reverberation"
        return f"{speech} in noise; {estimates} to be free of it"
    where = f"{speech} in rooms, {'in' if noisy else 'without'} noise"
    if target == "":
        return where
    if target == "reverb":
        keep = "keeps the reverberation" if kind == "enhance_single" else "keep the reverberation"
        if not noisy:
            return f"{where}; the estimates {keep}"
        return f"{where}; {estimates} to be free of noise and {keep}"
    return f"{where}; {estimates} to be free of {'both' if noisy else 'reverberation'}"


def _own_conditions(noise, mixture_is_sum):
    """Conditions of custom data, as far as the experiment states them."""
    if noise is None:
        return ""
    heard = "speech in noise; the estimates are to be free of it" if noise else "speech without noise"
    if mixture_is_sum is False:
        parts = "sources and noise" if noise else "sources"
        return f"{heard}; the mixtures are not the sum of {parts}, as where only the mixtures are reverberant"
    return heard


def _with_test(data, other):
    """Fingerprints, with the test set's from another record."""
    parts = [part for part in data.split(", ") if part and not part.startswith("test ")]
    return ", ".join(parts + [part for part in other.split(", ") if part.startswith("test ")])
