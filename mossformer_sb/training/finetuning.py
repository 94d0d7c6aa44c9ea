"""Fine-tuning: load the matching weights of a trained model, and freeze chosen parameters.

Weights are read as plain tensors, and a model's ``config.json`` or ``hyperparams.yaml`` as plain text: no code of a
model is run.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mossformer_sb.errors import InputError
from mossformer_sb.network.hub import CONFIG_FILE, WEIGHTS_FILE, read_config
from mossformer_sb.network.separator import applies_masks
from mossformer_sb.sharing.fetching import HUB_ID, ModelSource
from mossformer_sb.sharing.folder import HPARAMS_FILE, MODULES
from mossformer_sb.sharing.released_cache import resolve_source
from mossformer_sb.training.checkpoint_checks import is_from_stock_recipe
from mossformer_sb.training.checkpoints import BEST_KEY, Checkpointer, invisible_settings, scored_weights
from mossformer_sb.training.experiment_file import read_yaml
from mossformer_sb.training.growing import grow
from mossformer_sb.training.parameter_names import branches, closest, merge_numbers
from mossformer_sb.utils.files import expanded, locate
from mossformer_sb.utils.weights import find_weights, read_state_dict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

logger = logging.getLogger(__name__)

# Scalars, and tensors that depend only on the query/key width, fit any mask net, which is not enough to start from:
# between two published sizes they are at most 1 % of the values, and 2 % to the mini size.
LEAST_SHARE = 0.2


# ---- start from a model


@dataclass
class Comparison:
    """Comparison of the tensors of one module with those of the source model, by name."""

    loaded: list = field(default_factory=list)
    missing: list = field(default_factory=list)  # only in the module
    unexpected: list = field(default_factory=list)  # only in the source model
    reshaped: dict = field(default_factory=dict)  # name to the shapes in the source model and in the module
    renewed: list = field(default_factory=list)  # of another sample rate

    @classmethod
    def of(cls, here: Mapping, there: Mapping, renew: bool = False) -> Comparison:
        """Compare two state dicts; with ``renew``, tensors that fit are not loaded either."""
        comparison = cls(unexpected=[name for name in there if name not in here])
        for name, value in here.items():
            if name not in there:
                comparison.missing.append(name)
            elif there[name].shape != value.shape:
                comparison.reshaped[name] = (list(there[name].shape), list(value.shape))
            else:
                (comparison.renewed if renew else comparison.loaded).append(name)
        return comparison


def start_from(modules: Mapping, source: str | Path, sample_rate: int) -> dict:
    """Load the weights of a trained model into networks, as far as they fit, and log the others.

    Tensors with the same name and shape are loaded, the others keep their random weights: with another number of
    speakers the projection to the speakers. New blocks, and new recurrent modules, add nothing to their input at first,
    see `mossformer_sb.training.growing.grow`. With another sample rate the encoder and decoder are not loaded either,
    even if shapes fit, since their filters are for that rate.

    Arguments
    ---------
    modules : mapping
        ``encoder``, ``masknet`` and ``decoder``. Changed only if no error occurs.
    source : str or Path
        An exported folder; the output folder of a training, with this package or with one of SpeechBrain's own recipes,
        whose export or else best checkpoint is loaded, with the averaged weights if the run validated these; the name
        of a released model, see `mossformer_sb.sharing.released`; or the id of a model on the Hugging Face hub.
    sample_rate : int
        Sample rate of the new networks in Hz.

    Returns
    -------
    dict
        `Comparison` for each module's name.

    Raises
    ------
    InputError
        If there is no such model, it can't be read, its mask net is too different, or one of the two networks applies
        masks and the other one outputs the encoded estimates.

    Example
    -------
    >>> from mossformer_sb import MossFormerSeparator
    >>> from mossformer_sb.sharing.folder import export
    >>> two, three = (dict(MossFormerSeparator.from_size("mini", num_spks).named_children()) for num_spks in (2, 3))
    >>> folder = export(getfixture("tmp_path") / "model", two, sample_rate=8000)
    >>> list(start_from(three, folder, sample_rate=8000)["masknet"].reshaped)
    ['speaker_projection.weight', 'speaker_projection.bias']
    """
    settings_file, place, read = _find_model(source)
    model_rate = _read_sample_rate(settings_file)
    _check_computation(source, _invisible_settings(settings_file, place), modules["masknet"])
    comparisons, fitting = {}, {}
    for name in MODULES:
        there = read(name)
        renew = name != "masknet" and model_rate != sample_rate
        comparisons[name] = Comparison.of(modules[name].state_dict(), there, renew)
        fitting[name] = {key: there[key] for key in comparisons[name].loaded}
        if name == "masknet":
            _check_share(source, modules[name].state_dict(), there, comparisons[name])
    for name in MODULES:
        modules[name].load_state_dict(fitting[name], strict=False)
    grown = grow(modules["masknet"], set(comparisons["masknet"].missing))
    rates = f"{model_rate} Hz" if model_rate == sample_rate else f"{model_rate} Hz, for {sample_rate} Hz"
    logger.info("Starting from %s, %s\n%s", place, rates, _report(comparisons, grown))
    return comparisons


def _find_model(source):
    """Find a model: the file with its sample rate, its weights, and a function that reads those of a module."""
    source = resolve_source(source)
    folder = Path(expanded(source))
    if folder.is_dir():
        return _find_in_folder(folder)
    if HUB_ID.fullmatch(str(source)):
        return _find_on_hub(str(source))
    raise InputError(
        f"init_from '{source}': there is no such folder. Give an exported model, the output folder of a training, or "
        f"the id of a model on the Hugging Face hub, as owner/name."
    )


def _find_in_folder(folder):
    if _has_weights(folder):
        return _exported(folder)
    export_folder, save_folder = _folders_of_a_training(folder)
    if _has_weights(export_folder):
        return _exported(export_folder)
    checkpoint = _best_checkpoint(folder, save_folder) if save_folder.is_dir() else None
    if checkpoint and _has_weights(checkpoint.path):
        return folder / HPARAMS_FILE, checkpoint.path, functools.partial(scored_weights, checkpoint)
    raise InputError(
        f"init_from '{folder}': holds no model, neither {WEIGHTS_FILE} nor {', '.join(MODULES)} as .safetensors or "
        f".ckpt, nor these in {export_folder.name}/, nor checkpoints in {save_folder.name}/. Give an exported "
        f"model, or the output folder of a training."
    )


def _find_on_hub(hub_id):
    try:
        model = ModelSource(hub_id)
        settings_file = model.first_of([CONFIG_FILE, HPARAMS_FILE])
        if settings_file.name == CONFIG_FILE:
            path = model.file(WEIGHTS_FILE)
            return settings_file, path.parent, _of_one_file(path)
        files = {name: model.weights(name) for name in MODULES}
    except InputError as error:
        raise InputError(f"init_from: {error} Check the name and the connection.") from error
    return settings_file, files["masknet"].parent, lambda name: read_state_dict(files[name])


def _exported(folder):
    if (folder / WEIGHTS_FILE).is_file():
        return folder / CONFIG_FILE, folder, _of_one_file(folder / WEIGHTS_FILE)
    files = find_weights(folder, MODULES)
    return folder / HPARAMS_FILE, folder, lambda name: read_state_dict(files[name])


def _of_one_file(path):
    """Reader of one module's weights from a file of all modules."""
    state = functools.cache(lambda: read_state_dict(path))
    return lambda name: {
        key.removeprefix(f"{name}."): value for key, value in state().items() if key.startswith(f"{name}.")
    }


def _has_weights(folder):
    """Whether a folder holds the weights of all modules; an error if it holds those of some."""
    if (folder / WEIGHTS_FILE).is_file():
        return True
    missing = [name for name in MODULES if name not in find_weights(folder, MODULES)]
    if missing and len(missing) < len(MODULES):
        raise InputError(
            f"init_from: {folder} holds no weights of {' and '.join(missing)}, only of the others. Required: "
            f"{', '.join(MODULES)}, each as .safetensors or .ckpt."
        )
    return not missing


def _folders_of_a_training(folder):
    """The folders of its export and its checkpoints, from the keys of its YAML."""
    settings = read_yaml(folder / HPARAMS_FILE) if (folder / HPARAMS_FILE).is_file() else {}
    named = {"export_folder": "export", "save_folder": "save"}
    # A value with a tag, such as an unresolved !ref, is no str.
    named.update({key: settings[key] for key in named if isinstance(settings.get(key), str)})
    return [locate(folder, path, settings.get("output_folder")) for path in named.values()]


def _best_checkpoint(folder, save_folder):
    """The checkpoint with the best score, or the newest if no epoch was completed."""
    checkpointer = Checkpointer(save_folder)
    from_recipes = {is_from_stock_recipe(checkpoint) for checkpoint in checkpointer.list_checkpoints()}
    if len(from_recipes) > 1:
        raise InputError(
            f"init_from '{folder}': {save_folder.name}/ holds checkpoints of this package and of one of SpeechBrain's "
            f"own recipes, whose scores can't be compared. Move those of one of them to another folder."
        )
    best = {"min_key": BEST_KEY} if True in from_recipes else {"max_key": BEST_KEY}  # recipes save a loss
    return checkpointer.find_checkpoint(**best) or checkpointer.find_checkpoint()


def _read_sample_rate(settings_file):
    read = read_config if settings_file.name == CONFIG_FILE else read_yaml
    value = read(settings_file).get("sample_rate")
    if not isinstance(value, int):
        found = "nothing" if value is None else repr(getattr(value, "value", value))  # without its YAML tag
        raise InputError(f"{settings_file}: sample_rate has to be a whole number in Hz, found {found}. Write it there.")
    return value


def _invisible_settings(settings_file, place):
    """The mask net's settings that its tensors don't show, as far as they are known."""
    if settings_file.name == CONFIG_FILE:
        return {"apply_masks": True, **read_config(settings_file)}
    known = {key: value for key, value in read_yaml(settings_file).items() if key == "apply_masks"}
    return {**known, **invisible_settings(place, "masknet")}


def _check_computation(source, there, masknet):
    """Compare what the tensors don't show: whether masks are applied (InputError), and the group size (warning)."""
    here = getattr(masknet, "config", {})
    masks_here = applies_masks(masknet)
    masks_there = there.get("apply_masks", masks_here)
    if masks_there != masks_here:
        raise InputError(
            f"init_from '{source}': was trained with apply_masks {masks_there}, and apply_masks is {masks_here} here, "
            f"so its weights would compute something else. Give --apply_masks {masks_there}, or another model."
        )
    sizes = there.get("group_size"), here.get("group_size")
    if None not in sizes and sizes[0] != sizes[1]:
        logger.warning(
            "init_from '%s': was trained with groups of %d frames, and group_size is %d here.", source, *sizes
        )


def _check_share(source, here, there, comparison):
    """Raise InputError unless a minimum share of the mask net fits."""
    values = sum(here[name].numel() for name in comparison.loaded)
    share = values / max(1, min(_count(here), _count(there)))
    if share >= LEAST_SHARE:
        return
    example = ""
    if comparison.reshaped:
        name, (shape_there, shape_here) = max(
            comparison.reshaped.items(), key=lambda item: torch.Size(item[1][1]).numel()
        )
        example = f": for example, {name} has shape {shape_there} in the model and {shape_here} here"
    raise InputError(
        f"init_from '{source}' is of another network: {share:.0%} of its mask net fits, needed {LEAST_SHARE:.0%}"
        f"{example}. Choose its size (and experiment file), or another model."
    )


def _count(state):
    return sum(value.numel() for value in state.values())


# ---- the report of what was loaded


def _report(comparisons, grown):
    """A table of counts, one line per name, or group of names, that was not loaded, and one for the new blocks."""
    kinds = [*Comparison.__dataclass_fields__]
    rows = [["", *kinds]]
    rows += [[name, *(str(len(getattr(c, kind))) for kind in kinds)] for name, c in comparisons.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    for module, comparison in comparisons.items():
        lines += _not_loaded(module, comparison)
    if grown:
        lines.append(f"{', '.join(merge_numbers(f'masknet.{name}.*' for name in grown))} add nothing at first")
    return "\n".join(lines)


def _not_loaded(module, comparison):
    common = [*comparison.loaded, *comparison.reshaped, *comparison.renewed]
    missing = branches(comparison.missing, [*common, *comparison.missing])
    unexpected = branches(comparison.unexpected, [*common, *comparison.unexpected])
    yield from (f"missing: {module}.{group}, new" for group in merge_numbers(missing))
    yield from (f"unexpected: {module}.{group}, skipped" for group in merge_numbers(unexpected))
    yield from (f"renewed: {module}.{group}, of another sample rate" for group in merge_numbers(comparison.renewed))
    same_shapes = {}
    for name, (there, here) in comparison.reshaped.items():
        same_shapes.setdefault(f"{there} there, {here} here", []).append(name)
    for shapes, names in same_shapes.items():
        yield from (f"reshaped: {module}.{group}, {shapes}, new" for group in merge_numbers(names))


# ---- freezing parameters


def freeze(modules: Mapping, patterns: str | Sequence[str]) -> list[str]:
    """Freeze parameters by name.

    They get no gradient, so the optimizer skips them, including weight decay and momentum. Dropout in frozen modules
    stays active.

    Arguments
    ---------
    modules : mapping
        Module's name to module.
    patterns : str or sequence of str
        Shell wildcards for full names: ``masknet.blocks.*`` matches all parameters of the blocks.

    Returns
    -------
    list of str
        Full names of the frozen parameters.

    Raises
    ------
    InputError
        If a pattern matches nothing, all parameters are frozen, or the patterns are no text.

    Example
    -------
    >>> from mossformer_sb import MossFormerSeparator
    >>> freeze(dict(MossFormerSeparator.from_size("mini").named_children()), ["encoder.*", "masknet.norm.*"])
    ['encoder.conv1d.weight', 'masknet.norm.weight', 'masknet.norm.bias']
    """
    if isinstance(patterns, str):
        patterns = [patterns]
    elif not isinstance(patterns, (list, tuple)):
        raise InputError(f"freeze is {patterns!r}: give names of parameters, one or a list, such as masknet.blocks.*.")
    parameters = {
        f"{module_name}.{name}": parameter
        for module_name, module in modules.items()
        for name, parameter in module.named_parameters()
    }
    for pattern in patterns:
        if not isinstance(pattern, str) or not any(fnmatchcase(name, pattern) for name in parameters):
            raise InputError(_matches_nothing(pattern, parameters))
    frozen = [name for name in parameters if any(fnmatchcase(name, pattern) for pattern in patterns)]
    if len(frozen) == len(parameters):
        raise InputError(f"freeze {patterns} matches all {len(parameters)} parameters: leave some to train.")
    for name in frozen:
        parameters[name].requires_grad_(False)
    total = sum(parameter.numel() for parameter in parameters.values())
    trained = total - sum(parameters[name].numel() for name in frozen)
    logger.info(
        "Frozen: %d of %d parameters. %.3f M of %.3f M values train.",
        len(frozen),
        len(parameters),
        trained / 1e6,
        total / 1e6,
    )
    return frozen


def _matches_nothing(pattern, names):
    close = closest(str(pattern), names)
    hint = f"did you mean {' or '.join(close)}?" if close else f"names are such as {', '.join([*names][:3])}."
    return f"freeze: {pattern!r} matches no parameter; {hint} Give names as module.parameter, * for anything."
