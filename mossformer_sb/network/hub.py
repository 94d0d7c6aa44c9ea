"""A separator as files for the Hugging Face hub: ``config.json`` and ``model.safetensors``.

`HubModel` is huggingface_hub's ``PyTorchModelHubMixin`` with stricter reading: ``config.json`` only holds plain values,
which become arguments of one class; weights are only read from safetensors, with exactly the network's names and
shapes. So loading untrusted files runs no code from them.
"""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import huggingface_hub
import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin
from safetensors.torch import save

from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import atomic_write, expanded, write_text
from mossformer_sb.utils.weights import check_no_pointer, check_state, read_state_dict

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"
NEEDED = ("network", "sample_rate", "num_spks")  # required keys of config.json
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # types of weights
LARGEST = 2**20  # maximum of a whole number in config.json, far above all rates and widths
MOST_BYTES = 2**16  # maximum size of config.json, which usually has some hundred
# Numbers of repeated layers: no network has more of them than tensors.
DEPTHS = ("num_blocks", "num_layers", "num_repeats", "num_intra_layers", "num_inter_layers")
# Sizes of tensors: none is greater than the largest dimension of all tensors.
WIDTHS = ("encoder_channels", "encoder_kernel_size", "num_spks", "out_channels", "query_key_dim", "expansion_factor")
WIDTHS += ("kernel_size", "recurrent_channels", "bottleneck_channels", "hidden_channels", "skip_channels")
WIDTHS += ("hidden_size", "num_heads", "ffn_dim")
BUILT_BY_RUNNING = ("Conv-TasNet",)  # SpeechBrain infers the shapes of its layers by running them, only on the CPU
USUAL_WIDTH, USUAL_DEPTH, USUAL_EXPANSION = 1024, 64, 8
# Exceptions of constructors for invalid values.
_BUILDING_ERRORS = (TypeError, ValueError, RuntimeError, ArithmeticError, AttributeError, MemoryError)


class HubModel(PyTorchModelHubMixin):
    """Mixin to save, push and load a network, whose ``config`` must hold its arguments as plain values.

    ``save_pretrained`` and ``push_to_hub`` are those of huggingface_hub.
    """

    _card = None  # text, and the checksum of the weights that it describes

    def _save_pretrained(self, save_directory):
        write_model(save_directory, self.config, self.state_dict())
        if self._card is not None and self._card[1] == _checksum(self.state_dict()):
            write_text(Path(save_directory) / CARD_FILE, self._card[0])

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Write ``config.json``, ``model.safetensors`` and a model card, ``README.md``, into a folder.

        The card is the one that the model was loaded with, if the weights have not changed; else an existing one is
        kept; else it describes the network.

        Arguments
        ---------
        save_directory : str or Path
            Created if it does not exist.
        **options
            Options of huggingface_hub's ``save_pretrained``: ``push_to_hub``, ``repo_id`` and so on.

        Returns
        -------
        str or None
            URL of the commit, with ``push_to_hub``.

        Raises
        ------
        InputError
            If the network can't be described by plain values; then no file is written.
        """
        return super().save_pretrained(expanded(save_directory), **{"config": self.config, **options})

    def generate_model_card(self, *_: Any, **__: Any) -> ModelCard:
        """A card that describes the network, for a model without one."""
        rows = "\n".join(f"| {key} | {value} |" for key, value in self.config.items())
        name = self.config["network"]
        return ModelCard(
            f"---\nlibrary_name: mossformer_sb\ntags:\n- speech-separation\n- {name.lower()}\n---\n# {name}\n\n"
            f"| | |\n|---|---|\n{rows}\n\n## Use\n\n```python\nfrom mossformer_sb import MossFormerSeparation\n\n"
            f'model = MossFormerSeparation.from_hparams(source="owner/name")\n'
            f'estimates = model.separate_file("mixture.wav", output_folder="separated")\n```\n'
        )

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        map_location: str | torch.device = "cpu",
        **overrides: Any,
    ) -> HubModel:
        """Load a model from a folder or from the Hugging Face hub, in evaluation mode, without running its code.

        Arguments
        ---------
        pretrained_model_name_or_path : str or Path
            A folder with ``config.json`` and ``model.safetensors``, or the id of a model on the hub, as owner/name.
        force_download, token, cache_dir, local_files_only, revision
            As for ``huggingface_hub.hf_hub_download``.
        map_location : str or torch.device
            Device of the weights.
        **overrides
            New values for keys of ``config.json``, such as ``dropout=0.0``.

        Returns
        -------
        HubModel
            Model of this class.

        Raises
        ------
        InputError
            If there is no such model, or one of its files is refused, missing, or inconsistent.
        """
        download = {
            "force_download": force_download,
            "token": token,
            "cache_dir": cache_dir,
            "local_files_only": local_files_only,
            "revision": revision,
        }
        files = [_find_file(pretrained_model_name_or_path, name, download) for name in (CONFIG_FILE, WEIGHTS_FILE)]
        model = cls.from_files(*files, **overrides)
        card = _read_card(pretrained_model_name_or_path, download)
        model._card = None if card is None else (card, _checksum(model.state_dict()))
        return model.to(map_location)

    @classmethod
    def from_files(cls, config_file: str | Path, weights_file: str | Path, **overrides: Any) -> HubModel:
        """Build the network that ``config.json`` describes, with its weights, in evaluation mode.

        Arguments
        ---------
        config_file, weights_file : str or Path
            ``config.json`` and ``model.safetensors``, untrusted.
        **overrides
            New values for keys of ``config.json``.

        Returns
        -------
        HubModel
            Model of this class.

        Raises
        ------
        InputError
            If a file can't be read, or they belong to different networks.
        """
        config, state = {**read_config(config_file), **overrides}, read_state_dict(weights_file)
        _check_sizes(config, state, config_file)
        if _is_large(config) and config["network"] not in BUILT_BY_RUNNING:
            # First without memory, to detect wrong sizes before they are allocated. Not for the usual sizes, since it
            # needs a second of PyTorch's imports.
            with torch.device("meta"):
                check_state(cls._from_config(config, config_file), state, weights_file, "separator", config_file)
        model = cls._from_config(config, config_file)
        check_state(model, state, weights_file, "separator", config_file)
        _check_values(state, model.state_dict(), weights_file)
        model.load_state_dict(state)
        return model.eval()

    @classmethod
    def _from_config(cls, config, config_file):
        try:
            return cls(**config)
        except InputError as error:
            raise InputError(f"{config_file}: {error}") from error
        except _BUILDING_ERRORS as error:
            reason = str(error).strip().partition("\n")[0]
            raise InputError(f"{config_file}: the network can't be built: {reason}") from error


def write_model(folder: str | Path, config: dict, state: Mapping) -> None:
    """Write ``config.json`` and ``model.safetensors``.

    Arguments
    ---------
    folder : str or Path
        An existing folder.
    config : dict
        Plain values.
    state : mapping
        Name to tensor.
    """
    with atomic_write(Path(folder) / WEIGHTS_FILE) as temporary:
        # Readable for others, unlike the file of safetensors' save_file.
        temporary.write_bytes(save({key: value.detach().cpu().contiguous() for key, value in state.items()}, _FORMAT))
    write_text(Path(folder) / CONFIG_FILE, json.dumps(config, indent=2) + "\n")


_FORMAT = {"format": "pt"}  # metadata that tells other programs that the weights are PyTorch's


def read_config(path: str | Path) -> dict:
    """Read the ``config.json`` of an untrusted model.

    Arguments
    ---------
    path : str or Path

    Returns
    -------
    dict
        Key to str, int, float, bool or None; numbers are finite.

    Raises
    ------
    InputError
        If the file is invalid, or does not describe a separator.

    Example
    -------
    >>> path = getfixture("tmp_path") / "config.json"
    >>> _ = path.write_text('{"network": "MossFormer", "sample_rate": 8000, "num_spks": NaN}')
    >>> read_config(path)
    Traceback (most recent call last):
        ...
    mossformer_sb.errors.InputError: ...config.json: can't be read as JSON (NaN is not a number). Download it again.
    """
    try:
        check_no_pointer(path)
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror}). Copy the complete folder.") from error
    if len(content) > MOST_BYTES:
        raise InputError(f"{path}: has more than {MOST_BYTES} bytes, so it does not describe a separator.")
    try:
        config = json.loads(content.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: can't be read as JSON ({error}). Download it again.") from error
    config = config if isinstance(config, dict) else {}
    missing = [key for key in NEEDED if key not in config]
    if missing:
        hint = "does not describe a separator of mossformer_sb: give a model folder that `mossformer-sb export` wrote"
        if "model_type" in config:
            hint = "is of another program: a checkpoint of the authors is converted by `mossformer-sb convert`"
        raise InputError(f"{path}: has no {', '.join(missing)}, so it {hint}.")
    for key, value in config.items():
        _check_plain(path, key, value)
    return config


def _unique(pairs):
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return dict(pairs)


def _refuse_constant(name):
    raise ValueError(f"{name} is not a number")


def _check_plain(path, key, value):
    if not isinstance(value, (str, int, float, bool, type(None))):
        raise InputError(f"{path}: {key} must be a plain value; found {type(value).__name__}.")
    if isinstance(value, int) and abs(value) > LARGEST or isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{path}: {key} must be a number up to {LARGEST}; found {str(value)[:40]}.")


def _check_sizes(config, state, path):
    """Raise InputError for more layers than there are tensors, and for widths greater than those of all tensors."""
    widest = max((max(value.shape, default=1) for value in state.values()), default=0)
    limits = {**dict.fromkeys(WIDTHS, widest), **dict.fromkeys(DEPTHS, len(state))}
    for key in limits.keys() & config.keys():
        if isinstance(config[key], (int, float)) and config[key] > limits[key]:
            what = "tensors" if key in DEPTHS else "as the largest dimension of a tensor"
            raise InputError(f"{path}: {key} is {config[key]}, and {WEIGHTS_FILE} has only {limits[key]} {what}.")


def _is_large(config):
    """Whether a network may be larger than all published ones, which have at most 512 channels and 25 blocks."""
    limits = {**dict.fromkeys(WIDTHS, USUAL_WIDTH), **dict.fromkeys(DEPTHS, USUAL_DEPTH)}
    limits["expansion_factor"] = USUAL_EXPANSION
    return any(isinstance(config.get(key), (int, float)) and config[key] > limit for key, limit in limits.items())


def _check_values(state, needed, path):
    """Raise InputError for weights of a wrong type, or with non-finite values."""
    for key, value in state.items():
        if value.is_floating_point() and value.dtype not in FLOATS:
            raise InputError(f"{path}: {key} has the type {value.dtype}, expected {needed[key].dtype}.")
        if not value.to(needed[key].dtype).isfinite().all():
            raise InputError(f"{path}: {key} holds NaN or infinity. The file is damaged, or its training failed.")


def _find_file(source, name, download):
    """The path of one of a model's files, local or in the hub's cache."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        if (folder / name).is_file():
            return folder / name
        raise InputError(missing_file(source, name))
    try:
        return Path(huggingface_hub.hf_hub_download(str(source), name, **download))
    except Exception as error:  # httpx's exceptions have no common base with those of requests
        if isinstance(error, huggingface_hub.errors.EntryNotFoundError) and not isinstance(
            error, huggingface_hub.errors.LocalEntryNotFoundError
        ):
            raise InputError(missing_file(source, name)) from error
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(
            f"{source}: there is no local folder of this name, and its {name} can't be fetched from the Hugging Face "
            f"hub ({reason})."
        ) from error


def missing_file(source: str | Path, name: str) -> str:
    """The message for a model without one of its two files."""
    return (
        f"{source}: holds no {name}. A model is loaded from {CONFIG_FILE} and {WEIGHTS_FILE}; files that can hold "
        f"code, such as hyperparams.yaml, pytorch_model.bin and .ckpt, are not read. `mossformer-sb export FOLDER "
        f"--output_folder MODEL` converts a training, or an export of an earlier version, to such a folder."
    )


def _read_card(source, download):
    """The text of a model's card, if there is one in its own folder."""
    folder = Path(source).expanduser()
    try:
        if not folder.is_dir():
            return Path(_find_file(source, CARD_FILE, download)).read_text(encoding="utf-8")
        return (folder / CARD_FILE).read_text(encoding="utf-8") if is_own_file(folder, CARD_FILE) else None
    except (InputError, OSError, UnicodeDecodeError):
        return None


def is_own_file(folder: str | Path, name: str) -> bool:
    """Whether a file is in a folder, and not a link to a file elsewhere, which a copy would disclose.

    The hub's cache has links from each snapshot into its own ``blobs``.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "README.md").symlink_to("/etc/hostname")
    >>> is_own_file(folder, "README.md")
    False
    """
    folder = Path(folder).resolve()
    path = (folder / name).resolve()
    homes = [folder, folder.parents[1] / "blobs"] if folder.parent.name == "snapshots" else [folder]
    return path.is_file() and any(path.is_relative_to(home) for home in homes)


def _checksum(state):
    """Checksum of all weights, independent of their device."""
    total = 0
    for key, value in state.items():
        total = zlib.crc32(key.encode(), total)
        total = zlib.crc32(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy(), total)
    return total
