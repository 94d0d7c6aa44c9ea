"""Growing a mask net: new blocks that leave its output as it is until training changes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Collection

# The lists of residual modules of a mask net, and in each the layer that is added to the input.
OUTPUT_LAYERS = {"blocks": "to_output.linear", "recurrent": "output"}


def grow(masknet: nn.Module, missing: Collection[str]) -> list[str]:
    """Let new blocks begin as copies of the trained ones whose output is zero.

    A block is ``x + f(x)``. With f's last linear layer at zero it is the identity, so the network computes what it did
    with fewer blocks; the copied layers before it let it learn at once. Copies are in order: after eight trained
    blocks, the ninth is a copy of the first one. Recurrent modules of a MossFormer2 without any trained ones keep their
    random weights before the last layer.

    Source: Chen et al., "Net2Net", 2016, for growing without changing the function; Wu et al., "LLaMA Pro", 2024, for
    copies with an output of zero.

    Arguments
    ---------
    masknet : torch.nn.Module
        `MossFormerMaskNet` or `MossFormer2MaskNet`, changed in place; others are left unchanged.
    missing : collection of str
        Names of its tensors that no trained weights were found for. A block is new if all of its tensors are.

    Returns
    -------
    list of str
        The new blocks, such as "blocks.8".

    Example
    -------
    >>> import torch
    >>> from mossformer_sb import MossFormerMaskNet
    >>> small, large = (MossFormerMaskNet(16, 16, num_blocks=n, dropout=0) for n in (2, 3))
    >>> missing = large.load_state_dict(small.state_dict(), strict=False).missing_keys
    >>> grow(large, missing)
    ['blocks.2']
    >>> x = torch.rand(1, 16, 50)
    >>> torch.equal(small(x), large(x))
    True
    """
    grown = []
    for name, output_layer in OUTPUT_LAYERS.items():
        modules = list(getattr(masknet, name, ()))
        new = [index for index, module in enumerate(modules) if _is_new(f"{name}.{index}", module, missing)]
        trained = [module for index, module in enumerate(modules) if index not in new]
        for count, index in enumerate(new):
            if trained:
                modules[index].load_state_dict(trained[count % len(trained)].state_dict())
            layer = modules[index].get_submodule(output_layer)
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
            grown.append(f"{name}.{index}")
    return grown


def _is_new(prefix, module, missing):
    return all(f"{prefix}.{key}" in missing for key in module.state_dict())
