"""Which implementation a call takes: every rule, in one place.

| asked by | question | fast way | plain way |
|---|---|---|---|
| `ConvModule.forward` | `takes_conv_module_step` | `training.ConvModuleStep` | its layers, one after the other |
| `MossFormerBlock.forward` | `takes_rotated_copies` | `training.RotatedCopies` | `OffsetScale`, `rotate` |
| `joint_attention`, `gate` | `takes_backward_by_hand` | `training.JointAttention`, `.Gate` | PyTorch's operations |
| `depthwise_filter` | `takes_backward_by_hand` | its gradient by blocks of time | that of ``conv2d`` |
| `MossFormerMaskNet.forward` | `takes_pieces` | `pieces.masks_by_pieces` | blocks, one after the other |
| `linear`, `product`, … | `takes_onednn` | oneDNN | PyTorch's own product |

A fast way is taken only where nobody could tell it from the plain one but by the clock:

- The switch `mossformer_sb.network.fast.disabled` is off.
- Tensors are PyTorch's own, on a CPU: on other devices nothing was measured that would speak for it.
- No compiler, exporter or tracer looks on: they make their own of the plain operations.
- No transform of ``torch.func`` and no forward-mode differentiation is at work: these know plain operations alone.
- Every module that would be passed by is as it was built: its exact class with that class's own methods, its parts
  likewise, no hook of any kind on it or on all modules, its parameters neither parametrised nor of another class.
"""

import functools
import platform
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.modules import module as nn_module

from mossformer_sb.network import fast

# Which parts a module has, by name, and which classes they are: those that its fast way takes the place of.
_PARTS = {
    "MossFormerMaskNet": {
        "norm": ("GlobalLayerNorm",),
        "input_projection": ("Linear", "torch.nn.Linear"),
        "position": ("PositionEmbedding",),
        "rotary": ("Angles",),
        "frame_norm": ("torch.nn.LayerNorm",),
        "output_norm": ("GlobalLayerNorm",),
        "prelu": ("torch.nn.PReLU",),
        "speaker_projection": ("Linear", "torch.nn.Linear"),
        "tanh_projection": ("Linear", "torch.nn.Linear"),
        "gate_projection": ("Linear", "torch.nn.Linear"),
        "mask_projection": ("Linear", "torch.nn.Linear"),
    },
    "PositionEmbedding": {"angles": ("Angles",)},
    "MossFormerBlock": {
        "to_values": ("ConvModule",),
        "to_query_key": ("ConvModule",),
        "offset_scale": ("OffsetScale",),
        "to_output": ("ConvModule",),
    },
    "ConvModule": {
        "norm": ("ScaleNorm",),
        "linear": ("torch.nn.Linear", "Linear"),
        "depthwise": ("DepthwiseConv",),
        "dropout": ("torch.nn.Dropout",),
    },
}
_PLAIN_TENSORS = (torch.Tensor, nn.Parameter)
# Every dictionary in which PyTorch keeps what is to be called along with a module.
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = tuple(f"_global{name}" for name in _HOOKS)


class _Known(NamedTuple):
    """A class, and the methods that it was defined with."""

    type: type
    methods: dict


_known = {}


def known(cls, name=None):
    """Class decorator: keep what a class is like, so that a change of it is noticed."""
    _known[name or cls.__name__] = _Known(cls, {key: value for key, value in vars(cls).items() if _is_method(value)})
    return cls


def _is_method(value):
    return callable(value) or isinstance(value, (property, staticmethod, classmethod))


for _class in (nn.Linear, nn.LayerNorm, nn.PReLU, nn.Dropout):
    known(_class, f"torch.nn.{_class.__name__}")


# ---- the questions


def takes_backward_by_hand(*tensors):
    """Whether an operation is to be one whose backward pass is written by hand: where gradients are recorded."""
    return _may_be_fast(*tensors) and torch.is_grad_enabled()


def takes_conv_module_step(module, x):
    """Whether a `ConvModule` is to be one step, without calling its layers."""
    return takes_backward_by_hand(x) and _is_as_built(module, ("ConvModule",), watched=True)


def takes_rotated_copies(block, z):
    """Whether a `MossFormerBlock` is to make its queries and keys without calling its `OffsetScale`."""
    return (
        takes_backward_by_hand(z)
        and _is_original(block, ("MossFormerBlock",))
        and not _has_global_hooks()
        and _is_as_built(block.offset_scale, ("OffsetScale",))
    )


def takes_pieces(masknet, x):
    """Whether a `MossFormerMaskNet` is to go by pieces of time: no dropout, no gradient.

    No gradient is wanted where none is recorded, and none of a frozen network, which is what SpeechBrain's own
    interfaces run, whoever records.
    """
    return (
        _may_be_fast(x)
        and not any(module.training for module in masknet.modules())  # one layer's dropout may be on by itself
        and not needs_gradient(x, *masknet.parameters())
        and _is_as_built(masknet, ("MossFormerMaskNet",), watched=True)
        and type(masknet.blocks) is nn.ModuleList
        and all(_is_as_built(block, ("MossFormerBlock",)) for block in masknet.blocks)
        and masknet.mask_projection.bias is None
    )


def takes_onednn(a, b):
    """Whether a product is one that oneDNN has to be asked for."""
    return (
        _may_be_fast(a, b)
        and a.dtype == b.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")  # which would have to cast these
        and is_wide_amd()
    )


# ---- what they are made of


def needs_gradient(*tensors):
    """Whether an operation on these tensors, of which some may be None, has to keep what its gradient takes."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def private_operator(*path):
    """An operator of PyTorch that its documentation doesn't name, or None where this PyTorch has none.

    Example
    -------
    >>> private_operator("mkldnn", "no_such_operator") is None
    True
    """
    found = torch.ops
    for name in path:
        found = getattr(found, name, None)
        if found is None:
            return None
    return found


ONEDNN_LINEAR = private_operator("mkldnn", "_linear_pointwise", "default")
ONEDNN_LINEAR_BINARY = private_operator("mkldnn", "_linear_pointwise", "binary")
ONEDNN_REORDER = private_operator("mkldnn", "_reorder_linear_weight")


@functools.cache
def is_wide_amd():
    """Whether this is an AMD processor with AVX-512, and PyTorch has oneDNN with the operators that are asked for."""
    if None in (ONEDNN_LINEAR, ONEDNN_LINEAR_BINARY, ONEDNN_REORDER):
        return False
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    about = Path("/proc/cpuinfo")
    return "AuthenticAMD" in (about.read_text(errors="replace") if about.exists() else platform.processor())


def _may_be_fast(*tensors):
    """The rules that are about tensors and about what goes on around the call. The first must be about compilers."""
    return (
        not torch.compiler.is_compiling()
        and all(type(tensor) in _PLAIN_TENSORS and tensor.device.type == "cpu" for tensor in tensors)
        and fast.is_enabled()
        and not torch.jit.is_tracing()
        and not _transforms_at_work()
    )


def _transforms_at_work():
    """Whether ``torch.func`` or forward-mode differentiation looks at each operation."""
    functorch = getattr(torch._C, "_are_functorch_transforms_active", None)
    level = getattr(torch.autograd.forward_ad, "_current_level", -1)
    return level >= 0 or (functorch is not None and functorch())


def _has_global_hooks():
    return any(getattr(nn_module, name, True) for name in _GLOBAL_HOOKS)


def _is_as_built(module, kinds, watched=False):
    """Whether a module and all of its parts are what the constructor made; hooks on the module itself may be let be.

    Arguments
    ---------
    module : torch.nn.Module
    kinds : tuple of str
        Names of the classes that it may be of.
    watched : bool
        The module itself is being called, so its own hooks see it. They must not be on its parts.
    """
    if watched:
        if _has_global_hooks():
            return False
    elif any(getattr(module, name, True) for name in _HOOKS) or module.__dict__.get("_compiled_call_impl") is not None:
        return False
    if not _is_original(module, kinds):
        return False
    parts = _PARTS.get(type(module).__name__, {})
    return all(_is_as_built(getattr(module, name, None), kinds) for name, kinds in parts.items())


def _is_original(module, kinds):
    """Whether a module is of exactly one of these classes, whose methods are its own, with plain parameters."""
    for kind in kinds:
        cls, methods = _known[kind]
        if type(module) is cls:
            own, of_class = module.__dict__, vars(cls)
            return all(of_class.get(name) is method and name not in own for name, method in methods.items()) and all(
                parameter is None or type(parameter) in _PLAIN_TENSORS for parameter in module._parameters.values()
            )
    return False
