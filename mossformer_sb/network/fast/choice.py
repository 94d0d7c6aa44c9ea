"""The rules by which a call uses a fast implementation.

| reference call | rule | fast implementation |
|---|---|---|
| `MossFormerMaskNet.forward`, also of MossFormer2 | `takes_tiled` | `tiled.masks` |
| `ConvModule.forward` | `takes_conv_module` | `backward.conv_module` |
| `MossFormerBlock.queries_keys` | `takes_rotated_heads` | `backward.queries_keys` |
| `joint_attention` | `takes_custom_backward` | `backward.joint_attention` |
| `joint_attention` otherwise | `takes_unpadded` | `unpadded.joint_attention` |
| `gate` | `takes_custom_backward` | `backward.gate` |
| `depthwise_conv` | `takes_custom_backward`, `needs_gradient` | `depthwise.convolve` |
| `grouped_conv` | `takes_depthwise_filters` | `depthwise.grouped_conv` |
| `Linear.forward` | `takes_onednn` | `matmul.linear_layer` |
| `decode` | `takes_overlap_add` | `overlap_add.decode` |

`mossformer_sb.network.fast.register` registers these. The fast implementations use `matmul.linear` and `matmul.matmul`,
which use oneDNN by `takes_onednn`.

A fast implementation is used only if it differs from the reference in nothing but speed:

- The switch `mossformer_sb.network.fast.disabled` is off.
- Tensors are PyTorch's own, on a CPU: on other devices no gain was measured. (Attention without
  padding, `takes_unpadded`, consists of stock operations, and is for every device.)
- No compiler, exporter or tracer records the call: they optimise the reference operations themselves.
- No transform of ``torch.func`` and no forward-mode differentiation is active: these only support stock operations.
- Every module that is bypassed is unmodified: its exact class with that class's own methods, as are its submodules,
  with no hook of any kind on it or on all modules, and parameters that are neither parametrised nor of another class.
"""

from __future__ import annotations

import functools
import platform
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from speechbrain.lobes.models.dual_path import Decoder
from torch import nn
from torch.nn.modules import module as nn_module

from mossformer_sb.network.block import ConvModule, MossFormerBlock, OffsetScale
from mossformer_sb.network.fast import is_enabled
from mossformer_sb.network.layers import (
    Angles,
    DepthwiseConv,
    GlobalLayerNorm,
    GroupedConv,
    InstanceNorm,
    Linear,
    PositionEmbedding,
    ScaleNorm,
)
from mossformer_sb.network.masknet import MossFormerMaskNet
from mossformer_sb.network.mossformer2 import MossFormer2MaskNet
from mossformer_sb.network.recurrent import DenseMemory, DilatedFSMN, GatedConvUnit, MemoryLayer, RecurrentModule

if TYPE_CHECKING:
    from typing import Any

_ANY_LINEAR = (nn.Linear, Linear)
# The submodules that a fast implementation bypasses, by name, and their allowed classes.
_MASKNET_PARTS = {
    "norm": (GlobalLayerNorm,),
    "input_projection": _ANY_LINEAR,
    "position": (PositionEmbedding,),
    "rotary": (Angles,),
    "frame_norm": (nn.LayerNorm,),
    "output_norm": (GlobalLayerNorm,),
    "prelu": (nn.PReLU,),
    "speaker_projection": _ANY_LINEAR,
    "tanh_projection": _ANY_LINEAR,
    "gate_projection": _ANY_LINEAR,
    "mask_projection": _ANY_LINEAR,
}
_PARTS = {
    MossFormerMaskNet: _MASKNET_PARTS,
    MossFormer2MaskNet: _MASKNET_PARTS,
    PositionEmbedding: {"angles": (Angles,)},
    MossFormerBlock: {
        "to_values": (ConvModule,),
        "to_query_key": (ConvModule,),
        "offset_scale": (OffsetScale,),
        "to_output": (ConvModule,),
    },
    ConvModule: {
        "norm": (ScaleNorm, nn.LayerNorm),
        "linear": _ANY_LINEAR,
        "depthwise": (DepthwiseConv,),
        "dropout": (nn.Dropout,),
    },
    RecurrentModule: {
        "bottleneck": _ANY_LINEAR,
        "prelu": (nn.PReLU,),
        "input_norm": (nn.LayerNorm,),
        "unit": (GatedConvUnit,),
        "output_norm": (nn.LayerNorm,),
        "output": _ANY_LINEAR,
    },
    GatedConvUnit: {"to_u": (ConvModule,), "to_v": (ConvModule,), "fsmn": (DilatedFSMN,)},
    DilatedFSMN: {"linear": _ANY_LINEAR, "projection": _ANY_LINEAR, "memory": (DenseMemory,)},
    DenseMemory: {"first": (MemoryLayer,), "second": (MemoryLayer,)},
    MemoryLayer: {"conv": (GroupedConv,), "norm": (InstanceNorm,), "prelu": (nn.PReLU,)},
    Decoder: {},
    nn.ConvTranspose1d: {},  # its base class
}
_PLAIN_TENSORS = (torch.Tensor, nn.Parameter)
# All dictionaries of PyTorch's module hooks.
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = tuple(f"_global{name}" for name in _HOOKS)


def _is_method(value):
    return callable(value) or isinstance(value, (property, staticmethod, classmethod))


# The original methods of each class, to detect a change.
_METHODS = {
    cls: {name: value for name, value in vars(cls).items() if _is_method(value)}
    for cls in {*_PARTS, *(kind for parts in _PARTS.values() for kinds in parts.values() for kind in kinds)}
}


# ---- rules


def takes_custom_backward(*tensors: torch.Tensor | None) -> bool:
    """Whether an operation uses its custom backward: if gradient mode is on, also where no gradient is needed."""
    return _may_be_fast(*tensors) and torch.is_grad_enabled()


def takes_conv_module(module: torch.nn.Module, x: torch.Tensor) -> bool:
    """Whether a `ConvModule` is computed as one operation with a custom backward, without calling its layers.

    A hook that gets its output may change it in place, which PyTorch refuses for the view that this operation returns.
    """
    return (
        takes_custom_backward(x)
        and not module._forward_hooks
        and _is_as_built(module, (ConvModule,), is_called=True)
        and type(module.norm) is ScaleNorm
    )


def takes_rotated_heads(block: torch.nn.Module, z: torch.Tensor) -> bool:
    """Whether a `MossFormerBlock` computes its queries and keys without calling its `OffsetScale`."""
    return (
        takes_custom_backward(z)
        and _is_original(block, (MossFormerBlock,))
        and not _has_global_hooks()
        and _is_as_built(block.offset_scale, (OffsetScale,))
    )


def takes_unpadded(*tensors: torch.Tensor | None) -> bool:
    """Whether local attention may have a last, shorter group instead of a padded one: eagerly, on any device."""
    return _may_be_fast(*tensors, devices=None)


def takes_depthwise_filters(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether a convolution of groups of channels is computed by depthwise filters."""
    return _may_be_fast(x, weight)


def takes_tiled(masknet: torch.nn.Module, x: torch.Tensor) -> bool:
    """Whether a `MossFormerMaskNet` is computed in tiles of time: no dropout, no gradient.

    No gradient is needed if none is recorded, or if the network is frozen and its input needs none, as in SpeechBrain's
    own interfaces, which also run while gradients are recorded.
    """
    return (
        _may_be_fast(x)
        and not any(module.training for module in masknet.modules())  # a single layer's dropout may be on
        and not needs_gradient(x, *masknet.parameters())
        and _is_as_built(masknet, (MossFormerMaskNet, MossFormer2MaskNet), is_called=True)
        and type(masknet.blocks) is nn.ModuleList
        and all(_is_as_built(block, (MossFormerBlock,)) and _may_tile_block(block) for block in masknet.blocks)
        and _may_tile_recurrent(getattr(masknet, "recurrent", None))
        and masknet.mask_projection.bias is None
    )


def takes_packing(weight: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies with a weight in its own layout, once the weight has this dtype."""
    if dtype == torch.bfloat16:
        return _may_be_fast(weight) and has_onednn_bfloat16()
    return _may_be_fast(weight) and dtype == torch.float32 and is_wide_amd()


def takes_onednn(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether oneDNN multiplies two matrices, instead of PyTorch's default, MKL."""
    return (
        _may_be_fast(a, b)
        and a.dtype == b.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")  # which would have to cast these
        and is_wide_amd()
    )


def takes_overlap_add(decoder: torch.nn.Module, encoded: torch.Tensor) -> bool:
    """Whether SpeechBrain's ``Decoder`` is computed by overlap-add: without a gradient, whole strides in its kernel."""
    return (
        _may_be_fast(encoded)
        and encoded.dim() == 3
        and not _has_global_hooks()
        and _is_as_built(decoder, (Decoder,))
        and not needs_gradient(encoded, *decoder.parameters())
        and encoded.dtype == decoder.weight.dtype
        and encoded.dtype in ((torch.float32,) if torch.is_autocast_enabled("cpu") else (torch.float32, torch.float64))
        and decoder.kernel_size[0] % decoder.stride[0] == 0
        and (decoder.out_channels, decoder.groups) == (1, 1)
        and (decoder.padding, decoder.output_padding, decoder.dilation) == ((0,), (0,), (1,))
    )


# ---- conditions of the rules


def needs_gradient(*tensors: torch.Tensor | None) -> bool:
    """Whether an operation on these tensors, of which some may be None, has to save tensors for its gradient."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def private_operator(*path: str) -> Any:
    """An undocumented operator of PyTorch, or None if this PyTorch has none.

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


def has_onednn() -> bool:
    """Whether PyTorch has oneDNN with the required operators."""
    return None not in (ONEDNN_LINEAR, ONEDNN_LINEAR_BINARY, ONEDNN_REORDER)


@functools.cache
def has_onednn_bfloat16() -> bool:
    """Whether oneDNN multiplies in bfloat16 on this CPU."""
    is_supported = private_operator("mkldnn", "_is_mkldnn_bf16_supported")
    return has_onednn() and is_supported is not None and is_supported()


@functools.cache
def is_wide_amd() -> bool:
    """Whether this is an AMD CPU with AVX-512, and PyTorch has oneDNN with the required operators."""
    if not has_onednn():
        return False
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    about = Path("/proc/cpuinfo")
    return "AuthenticAMD" in (about.read_text(errors="replace") if about.exists() else platform.processor())


def _may_be_fast(*tensors, devices=("cpu",)):
    """The rules on tensors and on recording of the call. The first one must be that on compilers.

    Arguments
    ---------
    *tensors : torch.Tensor
    devices : tuple of str, optional
        Allowed types of the tensors' devices. None: any.
    """
    return (
        not torch.compiler.is_compiling()
        and all(type(tensor) in _PLAIN_TENSORS for tensor in tensors)
        and (devices is None or all(tensor.device.type in devices for tensor in tensors))
        and is_enabled()
        and not torch.jit.is_tracing()
        and not _transforms_are_active()
    )


def _transforms_are_active():
    """Whether ``torch.func`` or forward-mode differentiation intercepts the operations."""
    functorch = getattr(torch._C, "_are_functorch_transforms_active", None)
    level = getattr(torch.autograd.forward_ad, "_current_level", -1)
    return level >= 0 or (functorch is not None and functorch())


def _may_tile_block(block):
    """Whether a `MossFormerBlock` has its original norms, and its two projections differ only in their weights."""
    modules = block.to_values, block.to_query_key, block.to_output
    projections = modules[:2]
    return (
        all(type(module.norm) is ScaleNorm and module.linear.bias is not None for module in modules)
        and len({(module.norm.scale, module.norm.eps) for module in projections}) == 1
        and len({module.depthwise.weight.shape[1] for module in projections}) == 1
    )


def _may_tile_recurrent(modules):
    """Whether the recurrent modules of a mask net, None for a MossFormer, are unmodified and of even width."""
    return modules is None or (
        type(modules) is nn.ModuleList
        and all(_is_as_built(module, (RecurrentModule,)) and _is_published(module) for module in modules)
    )


def _is_published(module):
    """Whether a `RecurrentModule` has the published norms and filters, and an even inner width."""
    unit, memory = module.unit, module.unit.fsmn.memory
    norms = module.input_norm, module.output_norm, unit.to_u.norm, unit.to_v.norm
    filters = memory.first.conv, memory.second.conv
    branches = unit.to_u, unit.to_v
    return (
        all(type(norm) is nn.LayerNorm and norm.weight is not None and norm.bias is not None for norm in norms)
        and len({(branch.norm.eps, branch.depthwise.weight.shape[1]) for branch in branches}) == 1
        and unit.fsmn.projection.bias is None
        and [(conv.weight.shape[1], conv.dilation) for conv in filters] == [(1, 1), (2, 2)]
        and len(memory.first.conv.weight) % 2 == 0
    )


def _has_global_hooks():
    return any(getattr(nn_module, name, True) for name in _GLOBAL_HOOKS)


def _is_as_built(module, kinds, is_called=False):
    """Whether a module and all its submodules are as the constructor built them.

    Arguments
    ---------
    module : torch.nn.Module
    kinds : tuple of type
        Allowed classes.
    is_called : bool
        Whether the module itself is called, so that its own hooks run. Its submodules must have none.
    """
    if is_called:
        if _has_global_hooks():
            return False
    elif any(getattr(module, name, True) for name in _HOOKS) or module.__dict__.get("_compiled_call_impl") is not None:
        return False
    if not _is_original(module, kinds):
        return False
    parts = _PARTS.get(type(module), {})
    return all(_is_as_built(getattr(module, name, None), kinds) for name, kinds in parts.items())


def _is_original(module, kinds):
    """Whether a module is of exactly one of these classes, with unmodified methods and plain parameters."""
    if type(module) not in kinds:
        return False
    own = module.__dict__
    return all(
        vars(cls).get(name) is method and name not in own
        for cls in type(module).__mro__
        for name, method in _METHODS.get(cls, {}).items()
    ) and all(parameter is None or type(parameter) in _PLAIN_TENSORS for parameter in module._parameters.values())
