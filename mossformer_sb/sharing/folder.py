"""A trained separator as a folder that others load."""

import dataclasses
import json
import logging
import os
import shutil
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import speechbrain as sb
import torch
from safetensors.torch import save

import mossformer_sb
from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import temporary_name, write_text
from mossformer_sb.version import __version__

logger = logging.getLogger(__name__)

MODULES = ("encoder", "masknet", "decoder")
HPARAMS_FILE = "hyperparams.yaml"
RECORD_FILE = "training_record.json"
EXAMPLES_FOLDER = "examples"
WEIGHT_FORMATS = ("safetensors", "ckpt")


def conditions(task, target=None, noise=None, mixture_is_sum=None):
    """Say which recordings a model is for, and what its estimates are to be free of.

    Arguments
    ---------
    task : str
        As the experiments have it.
    target : str, optional
        Of tasks with reverberation: "anechoic", or "reverb" for targets that keep it. Default: as the experiments,
        "anechoic". Not known: "".
    noise : bool, optional
        For the task "separate" of one's own data: whether there are noise files.
    mixture_is_sum : bool, optional
        For the same: whether mixtures are the sum of sources and noise.

    Returns
    -------
    str
        Empty for a task that is not known.

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
    """Of one's own data, of which only is known what the experiment says."""
    if noise is None:
        return ""
    heard = "speech in noise; the estimates are to be free of it" if noise else "speech without noise"
    if mixture_is_sum is False:
        parts = "sources and noise" if noise else "sources"
        return f"{heard}; the mixtures are not the sum of {parts}, as where only the mixtures are reverberant"
    return heard


@dataclass
class TrainingRecord:
    """What a model card tells of how a model came about; empty fields are left out."""

    task: str = ""
    corpus: str = ""
    conditions: str = ""  # see `conditions`
    data: str = ""  # fingerprints of the training, validation and test sets: "train ..., valid ..., test ..."
    experiment: str = ""
    command: str = ""  # of the training
    best_epoch: int | None = None
    num_test: int | None = None
    scores: dict = field(default_factory=dict)  # column of the results table to its mean in dB
    test_command: str = ""  # of the evaluation, where that isn't the training's
    test_set: dict = field(default_factory=dict)  # data_root, and the corpus whose published scores are comparable
    checkpoint: str = ""  # where it isn't the best one
    licence: str = ""  # as model hubs call it, such as cc-by-4.0

    def write(self, folder):
        """Keep it in a training's output folder, for exports that come later."""
        write_text(Path(folder) / RECORD_FILE, json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, folder):
        """Read it from a training's output folder; an empty one if there is none.

        Fields that are not known, as of a later version, are passed over.

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
                f"{path}: can't be read ({error}). Put back a copy, or remove it: only the model card needs it."
            ) from error

    @classmethod
    def of_experiment(cls, hparams, experiment, command, data=""):
        """Gather what is known before training: what is trained, on what, with which command.

        Arguments
        ---------
        hparams : mapping
            Of the experiment: ``task``, ``corpus``, and, where they are there, the other arguments of `conditions`.
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
            corpus=hparams["corpus"],
            conditions=conditions_of(hparams),
            data=data,
            experiment=Path(experiment).name,
            command=command,
        )

    def of_training(self, new):
        """This record, when training goes on as a new one says: the scores stay until the next evaluation."""
        names = ("task", "corpus", "conditions", "experiment", "command")
        data = new.data if not self.scores else _with_test(new.data, self.data)
        return dataclasses.replace(self, data=data, **{name: getattr(new, name) for name in names})

    def of_evaluation(self, brain, new, test_set):
        """This record with the results of a `SeparationBrain` that has just evaluated its best checkpoint.

        Arguments
        ---------
        brain : SeparationBrain
        new : TrainingRecord
            Of the run that evaluated. What it says of the training counts only if nothing is known of that.
        test_set : dict
            See the field.

        Returns
        -------
        TrainingRecord
        """
        record = self if self.command else dataclasses.replace(new, data="")
        return dataclasses.replace(
            record,
            data=_with_test(record.data, new.data),
            best_epoch=brain.hparams.epoch_counter.current,  # as the best checkpoint has it
            num_test=len(brain.scores),
            scores=brain.scores.average(),
            test_command="" if new.command == record.command else new.command,
            test_set=test_set,
        )


def conditions_of(hparams):
    """The `conditions` of an experiment: ``task`` and, where they are there, the other arguments."""
    options = {key: hparams[key] for key in ("target", "noise", "mixture_is_sum") if key in hparams}
    return conditions(hparams["task"], **options)


def _with_test(data, other):
    """Fingerprints, with that of the test set from others."""
    parts = [part for part in data.split(", ") if part and not part.startswith("test ")]
    return ", ".join(parts + [part for part in other.split(", ") if part.startswith("test ")])


def export(folder, modules, sample_rate, record=None, examples=(), half=False, formats=WEIGHT_FORMATS, notes=""):
    """Write a folder that `MossFormerSeparation.from_hparams` loads, and SpeechBrain's ``SepformerSeparation`` too.

    It holds ``hyperparams.yaml``, the weights of each module as ``.safetensors`` for ours and as ``.ckpt`` (a plain
    state dict) for SpeechBrain's, and a model card, ``README.md``. It is written under a temporary name and then
    renamed; a folder of this name is replaced only if it is an earlier export.

    Arguments
    ---------
    folder : str or Path
        Where to.
    modules : mapping
        ``encoder``, ``masknet`` and ``decoder``, wrapped for several GPUs or not. The mask net says what it is:
        ``config``, its arguments; ``num_spks``; ``network`` and ``paper``, for the model card.
    sample_rate : int
        Hz.
    record : TrainingRecord, optional
        For the model card.
    examples : iterable of Path
        Audio files to copy into ``examples``.
    half : bool
        Whether to round the weights to half precision. Whoever loads them computes in single precision.
    formats : sequence of str
        Which copies of the weights to write, of `WEIGHT_FORMATS`: ours loads either, SpeechBrain's "ckpt" only.
    notes : str
        Markdown to add to the model card.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        If the folder exists and is something else, or a weight is too large for half precision.

    Example
    -------
    >>> from mossformer_sb import MossFormerSeparator
    >>> separator = MossFormerSeparator.from_size("mini")
    >>> folder = export(getfixture("tmp_path") / "model", dict(separator.named_children()), sample_rate=8000)
    >>> sorted(path.name for path in folder.iterdir())
    ['README.md', 'decoder.ckpt', 'decoder.safetensors', 'encoder.ckpt', 'encoder.safetensors', 'hyperparams.yaml',
    'masknet.ckpt', 'masknet.safetensors']
    """
    folder = Path(folder)
    if folder.exists() and not (folder / HPARAMS_FILE).is_file():
        raise InputError(
            f"{folder}: exists and is no exported model, so it is not replaced. Choose another export folder."
        )
    modules = {name: getattr(modules[name], "module", modules[name]) for name in MODULES}  # out of DDP's wrapping
    states = {name: _state(module, name, half) for name, module in modules.items()}
    record = record or TrainingRecord()
    temporary = temporary_name(folder)
    try:
        temporary.mkdir(parents=True)
        for name, state in states.items():
            if "ckpt" in formats:
                torch.save(state, temporary / f"{name}.ckpt")
            if "safetensors" in formats:
                (temporary / f"{name}.safetensors").write_bytes(save(state))  # readable for others, as save_file is not
        for path in examples:
            (temporary / EXAMPLES_FOLDER).mkdir(exist_ok=True)
            shutil.copyfile(path, temporary / EXAMPLES_FOLDER / Path(path).name)
        (temporary / HPARAMS_FILE).write_text(_hyperparams(modules, sample_rate), encoding="utf-8")
        card = _model_card(modules, sample_rate, record, examples, half, notes)
        (temporary / "README.md").write_text(card, encoding="utf-8")
        _replace_folder(folder, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    logger.info("Exported the model to %s", folder)
    return folder


def _state(module, name, half):
    state = {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
    if not half:
        return state
    largest = torch.finfo(torch.half).max
    for key, value in state.items():
        if not (value.abs() <= largest).all():
            raise InputError(
                f"{name}.{key}: has a value that half precision can't hold, which ends at {largest:g}. Export without "
                "half, or another checkpoint."
            )
    return {key: value.half() if value.is_floating_point() else value for key, value in state.items()}


def _replace_folder(folder, new):
    """Put a folder in the place of another, which is deleted last and put back if that fails."""
    if not folder.exists():
        os.replace(new, folder)
        return
    aside = new.with_suffix(".old")
    os.replace(folder, aside)
    try:
        os.replace(new, folder)
    except OSError:
        os.replace(aside, folder)
        raise
    shutil.rmtree(aside)


def _hyperparams(modules, sample_rate):
    """The YAML that builds the three modules again and loads their weights."""
    encoder, masknet, decoder = (modules[name] for name in MODULES)
    masknet_arguments = "\n".join(f"    {key}: {value}" for key, value in masknet.config.items())
    return f"""\
# {masknet.network} separator, exported by mossformer_sb {__version__}.
sample_rate: {sample_rate}
num_spks: {masknet.num_spks}

encoder: !new:speechbrain.lobes.models.dual_path.Encoder
    kernel_size: {encoder.conv1d.kernel_size[0]}
    out_channels: {encoder.conv1d.out_channels}
masknet: !new:{_class_path(masknet)}
{masknet_arguments}
decoder: !new:speechbrain.lobes.models.dual_path.Decoder
    in_channels: {decoder.in_channels}
    out_channels: {decoder.out_channels}
    kernel_size: {decoder.kernel_size[0]}
    stride: {decoder.stride[0]}
    bias: {decoder.bias is not None}

modules:
    encoder: !ref <encoder>
    masknet: !ref <masknet>
    decoder: !ref <decoder>

pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        encoder: !ref <encoder>
        masknet: !ref <masknet>
        decoder: !ref <decoder>
"""


def _class_path(module):
    """Name a module's class: by the package where the package offers it, for files are split and joined."""
    name = type(module).__name__
    offered = getattr(mossformer_sb, name, None) is type(module)
    return f"mossformer_sb.{name}" if offered else f"{type(module).__module__}.{name}"


def _model_card(modules, sample_rate, record, examples=(), half=False, notes=""):
    masknet = modules["masknet"]
    num_spks = masknet.num_spks
    num_parameters = sum(p.numel() for module in modules.values() for p in module.parameters())
    facts = {
        "Task": record.task,
        "Corpus": record.corpus,
        "Data fingerprint": record.data,
        "Conditions": record.conditions or conditions(record.task, target=""),
        "Speakers": num_spks,
        "Sample rate": f"{sample_rate} Hz",
        "Parameters": f"{num_parameters / 1e6:.2f} M",
        "Weights": "half precision; they are computed with in single precision" if half else "",
        "Experiment": record.experiment,
        "Command": f"`{record.command}`" if record.command else "",
        "Evaluated by": f"`{record.test_command}`" if record.scores and record.test_command else "",
        "Epoch": record.best_epoch,
        "Checkpoint": record.checkpoint,
        "Licence": record.licence or "not stated",
        "Versions": f"mossformer_sb {__version__}, speechbrain {sb.__version__}, torch {torch.__version__}, "
        f"Python {sys.version.split()[0]}",
    }
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items() if value not in ("", None))
    return f"""\
---
tags:
- speech-separation
- {masknet.network.lower()}
- speechbrain
library_name: speechbrain
license: {record.licence or "unknown"}
---
# {masknet.network}: {num_spks} speakers, {sample_rate} Hz

| | |
|---|---|
{rows}
{_score_section(record)}{_notes_section(notes)}{_example_section(examples)}
## Use

```python
from mossformer_sb.inference.separation import MossFormerSeparation

model = MossFormerSeparation.from_hparams(source="path/to/this/folder")
estimates = model.separate_file("mixture.wav", output_folder="separated")
```

SpeechBrain's own `SepformerSeparation.from_hparams` loads it too, where `mossformer_sb` is installed.

{_wrapped(f"The network follows {masknet.paper}.")}
"""


def _wrapped(text):
    return textwrap.fill(text, width=120, break_on_hyphens=False)


def _notes_section(notes):
    return f"\n{notes.strip()}\n" if notes.strip() else ""


def _example_section(examples):
    if not examples:
        return ""
    rows = "\n".join(f"- [{path.name}]({EXAMPLES_FOLDER}/{path.name})" for path in map(Path, examples))
    return f"\n## Examples\n\nTest mixtures, their sources, and what the model made of them.\n\n{rows}\n"


def _score_section(record):
    if not record.scores:
        return ""
    names = {"si-snr_i": "SI-SNRi", "sdr_i": "SDRi", "si-snr": "SI-SNR", "sdr": "SDR"}
    rows = "\n".join(f"| {label} | {record.scores[key]:.2f} dB |" for key, label in names.items())
    return f"\n## Scores\n\nMean over {record.num_test} test mixtures.\n\n| | |\n|---|---|\n{rows}\n"
