"""The arguments of `MossFormerSeparation.from_hparams`, in the form of SpeechBrain's ``Pretrained``."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

import torch
from speechbrain.utils.run_opts import RunOptions

from mossformer_sb.errors import InputError
from mossformer_sb.network.hub import CONFIG_FILE, read_config
from mossformer_sb.sharing.fetching import NoSuchFile
from mossformer_sb.sharing.folder import HPARAMS_FILE, MODULES
from mossformer_sb.sharing.loading import load_model
from mossformer_sb.utils.devices import choose_device

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from speechbrain.utils.fetching import FetchConfig

    from mossformer_sb.sharing.fetching import ModelSource


def with_device(run_opts: Mapping | RunOptions | None, device: str | torch.device | None) -> dict | RunOptions:
    """SpeechBrain's run options with an available device.

    Arguments
    ---------
    run_opts : mapping or RunOptions, optional
        Run options.
    device : str or torch.device, optional
        Default: that of the run options, or "auto".

    Returns
    -------
    dict or RunOptions
        As given.

    Raises
    ------
    InputError
        If the device is not available, or an option is not supported.

    Example
    -------
    >>> with_device({"precision": "bf16"}, "cpu")
    {'precision': 'bf16', 'device': 'cpu'}
    """
    for option in ("jit", "data_parallel_backend"):
        if getattr(run_opts, option, False) if isinstance(run_opts, RunOptions) else (run_opts or {}).get(option):
            raise InputError(f"run_opts: {option} is not supported for inference. Remove it.")
    if device is None:
        device = run_opts.device if isinstance(run_opts, RunOptions) else (run_opts or {}).get("device")
    device = choose_device("auto" if device is None else device)
    if device == "cuda":  # SpeechBrain reads the number from the name, and warns if there is none
        device = f"cuda:{torch.cuda.current_device()}"
    if isinstance(run_opts, RunOptions):
        return dataclasses.replace(run_opts, device=device, overridden_args={*run_opts.overridden_args, "device"})
    return {**(run_opts or {}), "device": device}


def fetch_config_from(config: FetchConfig, kwargs: dict[str, Any]) -> FetchConfig:
    """Move the arguments that SpeechBrain had before ``FetchConfig`` from ``kwargs`` into one."""
    if kwargs.pop("pymodule_file", None) is not None:
        raise InputError("pymodule_file is not supported: no code of a model folder is loaded. Remove it.")
    earlier = {"use_auth_token": "token", "revision": "revision", "huggingface_cache_dir": "huggingface_cache_dir"}
    given = {new: kwargs.pop(old, None) for old, new in earlier.items()}
    return dataclasses.replace(config, **{name: value for name, value in given.items() if value is not None})


def model_hparams(source: ModelSource, overrides: Mapping, overrides_must_match: bool) -> dict[str, Any]:
    """The hparams of SpeechBrain's ``Pretrained`` for a model that is not trusted."""
    more = {}
    if not overrides_must_match:
        known = read_config(source.file(CONFIG_FILE)) if overrides else {}
        more = {key: value for key, value in overrides.items() if key not in known}
        overrides = {key: value for key, value in overrides.items() if key in known}
    separator = load_model(source, overrides)
    level = {} if separator.input_level is None else {"input_level": separator.input_level}
    modules = dict(separator.named_children())
    facts = {"sample_rate": separator.sample_rate, "num_spks": separator.masknet.num_spks, "shifts": separator.shifts}
    return {**facts, **level, **modules, **more, "modules": modules}


def has_yaml(source: ModelSource, hparams_file: str) -> bool:
    """Whether a trusted model has its YAML file; without one it is loaded as an untrusted one."""
    try:
        source.file(hparams_file)
    except NoSuchFile:
        if hparams_file != HPARAMS_FILE:
            raise
        return False
    return True


def prepared_for_speechbrain(source: ModelSource, hparams_file: str) -> dict[str, Any]:
    """Arguments for SpeechBrain's loading, after a check that the files in ``savedir`` are this model's."""
    source.file(hparams_file)
    for name in MODULES:
        with contextlib.suppress(NoSuchFile):  # a trusted YAML file may have other modules, and other names for them
            source.file(f"{name}.ckpt")
    return source.for_speechbrain()
