"""Joint local and global single-head self-attention (MossFormer, section 2.3; after FLASH's mixed chunk attention).

Local: full attention within groups of P frames, with squared ReLU instead of softmax. Global: linear attention over the
complete sequence. Both use the same values, and queries and keys from four affine heads of the same z.

Shapes: B batch, L frames, K query/key width, E value width, P group size, G groups, R rotated channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from mossformer_sb.network.dispatch import replaceable
from mossformer_sb.network.lengths import over_length


class QueriesKeys(NamedTuple):
    """The four affine, rotated heads of z, each [B, L, K], in the order of the reference's parameters."""

    local_query: torch.Tensor
    global_query: torch.Tensor
    local_key: torch.Tensor
    global_key: torch.Tensor


@replaceable
def joint_attention(
    queries_keys: QueriesKeys,
    values: torch.Tensor,
    group_size: int,
    lengths: torch.Tensor | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Local plus global attention.

    Arguments
    ---------
    queries_keys : QueriesKeys
        Four tensors [B, L, K].
    values : torch.Tensor
        [B, L, E]; zero past each item's length. This excludes padding from both attentions, since neither is normalised
        by its weights.
    group_size : int
        P.
    lengths : torch.Tensor, optional
        [B], frames of each item. Default: all L.
    dropout : float
        Probability of dropping a local attention weight.

    Returns
    -------
    torch.Tensor
        [B, L, E].

    Example
    -------
    >>> queries_keys = QueriesKeys(*torch.randn(4, 2, 70, 16))
    >>> joint_attention(queries_keys, torch.randn(2, 70, 32), group_size=32).shape
    torch.Size([2, 70, 32])
    """
    local_query, global_query, local_key, global_key = queries_keys
    attended = torch.matmul(global_query, global_context(global_key, values, lengths))
    return attended + local_attention(local_query, local_key, values, group_size, dropout)


def local_attention(
    query: torch.Tensor, key: torch.Tensor, values: torch.Tensor, group_size: int, dropout: float = 0.0
) -> torch.Tensor:
    """ReLU(Q Kᵀ / P)² V within groups of P frames, the last of which is zero-padded.

    Arguments
    ---------
    query, key : torch.Tensor
        [B, L, K].
    values : torch.Tensor
        [B, L, E].
    group_size : int
        P.
    dropout : float
        Probability of dropping an attention weight.

    Returns
    -------
    torch.Tensor
        [B, L, E].

    Example
    -------
    >>> query, key = torch.randn(2, 2, 70, 16)
    >>> local_attention(query, key, torch.randn(2, 70, 32), group_size=32).shape
    torch.Size([2, 70, 32])
    """
    batch_size, num_frames, _ = values.shape
    # Compilers and exporters specialise on an axis of size one, and on a slice that covers an axis. So items and groups
    # share an axis, and zeros are always appended, a complete group if no frame is missing: this gives one graph for
    # all lengths.
    missing = group_size - num_frames % group_size
    query, key, values = (
        F.pad(x, (0, 0, 0, missing)).flatten(0, 1).unflatten(0, (-1, group_size)) for x in (query, key, values)
    )  # [B·G, P, ·]
    weights = F.relu(torch.bmm(query / group_size, key.mT)).square()  # [B·G, P, P]
    attended = torch.bmm(drop(weights, dropout), values).flatten(0, 1)  # [B·G·P, E]
    return attended.unflatten(0, (batch_size, -1))[:, :num_frames]


def drop(weights: torch.Tensor, dropout: float) -> torch.Tensor:
    """Attention weights after dropout, of any shape."""
    # Not `training=dropout > 0`: with dynamic shapes, a compiler makes a symbol of a float, which that argument can't
    # be.
    return F.dropout(weights, dropout) if dropout > 0 else weights


def global_context(key: torch.Tensor, values: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
    """Kᵀ V / L: one [K, E] matrix per item as the context of its sequence, with its true length L.

    Arguments
    ---------
    key : torch.Tensor
        [B, L, K].
    values : torch.Tensor
        [B, L, E], zero past each item's length.
    lengths : torch.Tensor, optional
        [B], frames of each item. Default: all L.

    Returns
    -------
    torch.Tensor
        [B, K, E].
    """
    # The key is divided before the product is summed: a sum over minutes of frames would overflow float16.
    return torch.matmul(over_length(key, key.shape[1], lengths).transpose(1, 2), values)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding of the first R channels, in adjacent pairs (2i, 2i+1).

    Source: Su et al., "RoFormer", equation 34.

    Arguments
    ---------
    x : torch.Tensor
        [..., L, K], K ≥ R.
    cos, sin : torch.Tensor
        [L, R/2].

    Returns
    -------
    torch.Tensor
        Same shape and dtype as x.

    Example
    -------
    >>> quarter_turn = torch.zeros(1, 1), torch.ones(1, 1)
    >>> rotate(torch.tensor([[1.0, 2.0, 3.0]]), *quarter_turn).tolist()
    [[-2.0, 1.0, 3.0]]
    """
    rotated, passed = x.split([2 * cos.shape[-1], x.shape[-1] - 2 * cos.shape[-1]], dim=-1)
    even, odd = rotated.unflatten(-1, (-1, 2)).unbind(-1)
    rotated = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)
    return torch.cat((rotated.to(x.dtype), passed), dim=-1)
