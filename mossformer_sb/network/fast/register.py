"""Registers the fast implementations of the replaceable calls of the network; `choice` has the rules.

Importing this module registers them: `mossformer_sb.network` does it.
"""

import torch
from torch.utils.checkpoint import checkpoint

from mossformer_sb.network import attention, block, layers, masknet, separator
from mossformer_sb.network.dispatch import register
from mossformer_sb.network.fast import as_now, backward, choice, depthwise, matmul, overlap_add, tiled, unpadded


@register(masknet.MossFormerMaskNet.forward)
def _mask_net(network, x, lengths=None):
    return tiled.masks if choice.takes_tiled(network, x) else None


@register(block.ConvModule.forward)
def _conv_module(module, x, padding=None):
    return backward.conv_module if choice.takes_conv_module(module, x) else None


@register(block.MossFormerBlock.queries_keys)
def _queries_keys(module, z, rotation, dtype):
    return backward.queries_keys if choice.takes_rotated_heads(module, z) else None


@register(attention.joint_attention)
def _joint_attention(queries_keys, values, *others, **keywords):
    if choice.takes_custom_backward(*queries_keys, values):
        return backward.joint_attention
    return unpadded.joint_attention if choice.takes_unpadded(*queries_keys, values) else None


@register(block.gate)
def _gate(attended, values):
    return backward.gate if choice.takes_custom_backward(attended, values) else None


@register(layers.depthwise_conv)
def _depthwise_conv(x, weight):
    if choice.takes_custom_backward(x, weight) and choice.needs_gradient(x, weight):
        return depthwise.convolve
    return None


@register(layers.grouped_conv)
def _grouped_conv(x, weight, dilation=1):
    return depthwise.grouped_conv if choice.takes_depthwise_filters(x, weight) else None


@register(layers.Linear.forward)
def _linear(layer, x):
    return matmul.linear_layer if choice.takes_onednn(x, layer.weight) else None


@register(separator.decode)
def _decode(decoder, encoded):
    return overlap_add.decode if choice.takes_overlap_add(decoder, encoded) else None


@register(masknet.run_checkpointed)
def _run_checkpointed(module, *inputs):
    return None if torch.compiler.is_compiling() else _run_checkpointed_as_now


def _run_checkpointed_as_now(module, *inputs):
    """Recompute a block in the backward pass with the implementation of the forward pass, despite the switch."""
    return checkpoint(as_now(module), *inputs, use_reentrant=False)
