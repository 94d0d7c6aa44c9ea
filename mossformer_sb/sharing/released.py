"""The models that the authors have released: names, sources, and facts about them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field

from mossformer_sb.errors import InputError
from mossformer_sb.pretrained import PACKAGED

HUGGING_FACE, MODELSCOPE = "Hugging Face", "ModelScope"
_NEAR = 0.75  # cutoff of `difflib` for mistyped names
_STANDALONE_FILES = ("config.json", "encoder.ckpt", "masknet.ckpt", "decoder.ckpt")


@dataclass(frozen=True)
class Released:
    """A released model.

    ``sizes`` (bytes) and ``sha256`` (hexadecimal digits) have the known values, by file; ``megabytes`` is the
    approximate download. ``published`` is the authors' result for this network or file, on the test set of ``corpus``
    unless stated otherwise.
    """

    name: str
    network: str  # "MossFormer" or "MossFormer2"
    hub: str
    hub_id: str
    files: tuple
    megabytes: int
    corpus: str
    task: str
    published: str
    licence: str = ""  # identifier on model hubs; empty if unknown
    sample_rate: int = 8000  # Hz
    num_spks: int = 2
    apply_masks: bool = True
    input_level: str | None = None
    channels: int = 512
    num_blocks: int = 24
    sizes: dict = field(default_factory=dict)
    sha256: dict = field(default_factory=dict)


_MODELS = (
    Released(
        name="mossformer-wsj0-2mix",
        network="MossFormer",
        hub=MODELSCOPE,
        hub_id="damo/speech_mossformer_separation_temporal_8k",
        files=("encoder.bin", "masknet.bin", "decoder.bin"),
        megabytes=168,
        corpus="WSJ0-2mix",
        task="separate_clean",
        published="22.8 dB SI-SNRi (paper, with dynamic mixing)",
        licence="apache-2.0",
    ),
    Released(
        name="mossformer2-wsj0-2mix",
        network="MossFormer2",
        hub=MODELSCOPE,
        hub_id="damo/speech_mossformer2_separation_temporal_8k",
        files=("pytorch_model.pt",),
        megabytes=223,
        corpus="WSJ0-2mix",
        task="separate_clean",
        published="24.1 dB SI-SDRi (paper)",
    ),
    Released(
        name="mossformer2-wsj0-3mix",
        network="MossFormer2",
        hub=HUGGING_FACE,
        hub_id="alibabasglab/mossformer2-wsj0mix-3spk",
        files=_STANDALONE_FILES,
        megabytes=224,
        corpus="WSJ0-3mix",
        task="separate_clean",
        published="22.2 dB SI-SDRi (paper)",
        licence="apache-2.0",
        num_spks=3,
    ),
    Released(
        name="mossformer2-whamr",
        network="MossFormer2",
        hub=HUGGING_FACE,
        hub_id="alibabasglab/mossformer2-whamr-2spk",
        files=_STANDALONE_FILES,
        megabytes=223,
        corpus="WHAMR!",
        task="separate_noisy_reverb",
        published="17.0 dB SI-SDRi (paper)",
        licence="mit",
        apply_masks=False,
    ),
    Released(
        name="mossformer2-libri2mix",
        network="MossFormer2",
        hub=HUGGING_FACE,
        hub_id="alibabasglab/mossformer2-librimix-2spk",
        files=_STANDALONE_FILES,
        megabytes=223,
        corpus="Libri2Mix",
        task="separate_clean",
        published="21.7 dB SI-SDRi (paper)",
    ),
    Released(
        name="mossformer2-16k",
        network="MossFormer2",
        hub=HUGGING_FACE,
        hub_id="alibabasglab/MossFormer2_SS_16K",
        files=("last_best_checkpoint", "last_best_checkpoint.pt"),
        megabytes=670,
        corpus="open and private data",
        task="",
        published="SI-SNRi: LRS2-2Mix 15.5 dB; at 8 kHz WSJ0-2mix 22.0, WHAM! 17.4, Libri2Mix 16.7 dB (its README)",
        licence="apache-2.0",
        sample_rate=16000,
        input_level="loud_rms",
        sizes={"last_best_checkpoint.pt": 670_353_271},
        sha256={"last_best_checkpoint.pt": "00a3a48bda492db1e829b85dd443f8f43a43039a3e90f1a24962ea9caf14a11a"},
    ),
)
RELEASED = {model.name: model for model in _MODELS}


def find_released(name: str) -> Released | None:
    """Find a released model by its name or its hub's id.

    Arguments
    ---------
    name : str

    Returns
    -------
    Released or None
        None if there is no model of this name.

    Raises
    ------
    InputError
        If it is probably a mistyped name of ours. Ids of a model hub, ``owner/name``, are never taken for one.

    Example
    -------
    >>> find_released("alibabasglab/MossFormer2_SS_16K").name, find_released("owner/model")
    ('mossformer2-16k', None)
    >>> find_released("mossformer2-wsj-2mix")
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: mossformer2-wsj-2mix: there is no local folder of this name, and no such \
model; did you mean mossformer2-wsj0-2mix or mossformer-wsj0-2mix? `mossformer-sb models` lists them all.
    """
    if name in RELEASED:
        return RELEASED[name]
    by_id = {model.hub_id.lower(): model for model in RELEASED.values()}
    by_id |= {key.replace("damo/", "iic/"): model for key, model in by_id.items() if key.startswith("damo/")}
    if name.lower() in by_id:
        return by_id[name.lower()]
    if "/" in name:  # an id of a model hub, where models of others have similar names
        return None
    near = difflib.get_close_matches(name.lower(), [*RELEASED, PACKAGED], n=2, cutoff=_NEAR)
    if near:
        raise InputError(
            f"{name}: there is no local folder of this name, and no such model; did you mean {' or '.join(near)}? "
            f"`mossformer-sb models` lists them all."
        )
    return None
