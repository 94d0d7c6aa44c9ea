"""The model card of an exported folder: facts about the model and its training, its scores, and its use."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import speechbrain as sb
import torch

from mossformer_sb.network.separator import applies_masks
from mossformer_sb.sharing.record import conditions
from mossformer_sb.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mossformer_sb.sharing.record import TrainingRecord

EXAMPLES_FOLDER = "examples"


def model_card(
    modules: Mapping[str, torch.nn.Module],
    sample_rate: int,
    record: TrainingRecord,
    examples: Iterable[Path] = (),
    half: bool = False,
    notes: str = "",
    speechbrain: bool = True,
) -> str:
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
        "Weights": "half precision; converted to single precision when loaded" if half else "",
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
{"- speechbrain" if speechbrain else "- mossformer_sb"}
library_name: {"speechbrain" if speechbrain else "mossformer_sb"}
license: {record.licence or "unknown"}
---
# {masknet.network}: {num_spks} {"speaker" if num_spks == 1 else "speakers"}, {sample_rate} Hz

| | |
|---|---|
{rows}
{_score_section(record)}{_notes_section(notes)}{_example_section(examples)}
## Use

```python
from mossformer_sb.inference import MossFormerSeparation

model = MossFormerSeparation.from_hparams(source="path/to/this/folder")
estimates = model.separate_file("mixture.wav", output_folder="separated")
```

{_wrapped(_FILES)}

{_speechbrain_line(masknet, speechbrain)}

{_wrapped(f"The network follows {masknet.paper}.")}
"""


_FILES = (
    "`source` may be the id of this model on the Hugging Face hub. It is loaded from `config.json` and "
    "`model.safetensors`, which hold plain values and tensors: no code of this folder runs. "
    "`mossformer_sb.MossFormerSeparator.from_pretrained` loads only the network."
)


def _speechbrain_line(masknet, speechbrain):
    if speechbrain:
        return _wrapped(
            "SpeechBrain's own `SepformerSeparation.from_hparams` loads it too, if `mossformer_sb` is installed: "
            "from `hyperparams.yaml` and the `.ckpt` files."
        )
    if applies_masks(masknet):
        return "SpeechBrain's own classes can't load it: it was exported without the files for them."
    return _wrapped(
        "SpeechBrain's own classes can't load it: they multiply the network's output with the encoded mixture, and "
        "this network outputs the encoded estimates."
    )


def _wrapped(text):
    return textwrap.fill(text, width=120, break_on_hyphens=False)


def _notes_section(notes):
    return f"\n{notes.strip()}\n" if notes.strip() else ""


def _example_section(examples):
    if not examples:
        return ""
    rows = "\n".join(f"- [{path.name}]({EXAMPLES_FOLDER}/{path.name})" for path in map(Path, examples))
    return f"\n## Examples\n\nTest mixtures, their sources, and the model's estimates.\n\n{rows}\n"


def _score_section(record):
    if not record.scores:
        return "\n## Scores\n\nNot evaluated on a test set.\n" if record.command else ""
    names = {"si-snr_i": "SI-SNRi", "sdr_i": "SDRi", "si-snr": "SI-SNR", "sdr": "SDR"}
    rows = "\n".join(f"| {label} | {record.scores[key]:.2f} dB |" for key, label in names.items())
    return f"\n## Scores\n\nMean over {record.num_test} test mixtures.\n\n| | |\n|---|---|\n{rows}\n"
