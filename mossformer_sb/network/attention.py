"""Joint local and global single-head self-attention (MossFormer, section 2.3; after FLASH's mixed chunk attention).

Local: full attention within groups of P frames, with squared ReLU in place of softmax. Global: linear attention over
the whole sequence. Both attend with the same z, through four affine copies of it, to the same values.

Shapes: B batch, L frames, K query/key width, E value width, P group size, R rotated channels.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from mossformer_sb.network.fast import backward, choice
from mossformer_sb.network.fast.matmul import product
from mossformer_sb.network.lengths import over_length


class QueriesKeys(NamedTuple):
    """The four affine, rotated copies of z, each [B, L, K], in the order of the reference's parameters."""

    local_query: torch.Tensor
    global_query: torch.Tensor
    local_key: torch.Tensor
    global_key: torch.Tensor


def joint_attention(queries_keys, values, group_size, lengths=None, dropout=0.0):
    """Local plus global attention.

    Arguments
    ---------
    queries_keys : QueriesKeys
        Four tensors [B, L, K].
    values : torch.Tensor
        [B, L, E]; zero past each item's length, which is all that keeps padding out of both attentions: neither is
        normalised by its weights.
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
    if choice.takes_backward_by_hand(*queries_keys, values):
        return backward.JointAttention.apply(*queries_keys, values, lengths, group_size, dropout)
    context = global_context(queries_keys.global_key, values, lengths)  # [B, K, E]
    if torch.compiler.is_compiling():  # or exporting: one program for all lengths
        attended = torch.matmul(queries_keys.global_query, context)
        return attended + _in_padded_groups(queries_keys, values, group_size, dropout)
    num_frames = values.shape[1]
    in_whole_groups = num_frames - num_frames % group_size
    # The last, shorter group goes by itself: padding it to P frames would mean to copy everything.
    spans = [span for span in (slice(0, in_whole_groups), slice(in_whole_groups, None)) if values[:, span].shape[1]]
    outputs = []
    for span in spans:
        attended = product(queries_keys.global_query[:, span], context)
        local = local_attention(
            queries_keys.local_query[:, span],
            queries_keys.local_key[:, span],
            values[:, span],
            group_size,
            dropout,
        )
        outputs.append(attended + local)
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)


def _in_padded_groups(queries_keys, values, group_size, dropout=0.0):
    """Local attention with the last group padded: the same numbers, in one program for all lengths."""
    batch_size, num_frames, _ = values.shape
    # A compiler makes another program for an axis of size one, and for a slice that is all there is. So items and
    # groups share an axis, and there is always some padding, a whole group where no frame is missing.
    missing = group_size - num_frames % group_size
    query, key, values = (
        F.pad(x, (0, 0, 0, missing)).flatten(0, 1).unflatten(0, (-1, group_size))
        for x in (queries_keys.local_query, queries_keys.local_key, values)
    )  # [B·G, P, ·]
    weights = _dropped(F.relu(torch.bmm(query / group_size, key.mT)).square(), dropout)
    attended = torch.bmm(weights, values).flatten(0, 1)  # [B·G·P, E]
    return attended.unflatten(0, (batch_size, -1))[:, :num_frames]


def _dropped(weights, dropout):
    # Not `training=dropout > 0`: of a float, a compiler for all lengths makes a symbol, which that argument can't be.
    return F.dropout(weights, dropout) if dropout > 0 else weights


def local_attention(query, key, values, group_size, dropout=0.0):
    """ReLU(Q Kᵀ / P)² V within groups of P frames.

    Arguments
    ---------
    query, key : torch.Tensor
        [B, L, K], where L is a multiple of P, or less than P for a single short group.
    values : torch.Tensor
        [B, L, E].
    group_size : int
        P, the divisor also where a group is shorter.
    dropout : float
        Probability of dropping an attention weight.

    Returns
    -------
    torch.Tensor
        [B, L, E].
    """
    frames = min(group_size, values.shape[1])
    query, key, groups = (x.unflatten(1, (-1, frames)) for x in (query, key, values))  # [B, G, P, ·]
    scores = product(query / group_size, key.transpose(-1, -2))  # [B, G, P, P]
    weights = _dropped(F.relu(scores).square(), dropout)
    return product(weights, groups).flatten(1, 2)


def global_context(key, values, lengths=None):
    """Kᵀ V / L: the sequence summed up in one [K, E] matrix per item, L being its true length.

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
    # The key is divided before the product is summed: a sum over the frames of minutes would leave float16's range.
    return product(over_length(key, key.shape[1], lengths).transpose(1, 2), values)


def rotate(x, cos, sin):
    """Rotary position embedding of the first R channels, by pairs of neighbours (2i, 2i+1).

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
