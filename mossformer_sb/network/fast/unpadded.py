"""Joint attention that computes the last, shorter group separately, where the reference pads it with zeros.

It needs no copies. The graph depends on the length, so compilers and exporters use the reference.

Shapes: B batch, L frames, K query/key width, E value width, P group size, G groups.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from mossformer_sb.network.attention import drop
from mossformer_sb.network.fast.matmul import matmul
from mossformer_sb.network.lengths import over_length

if TYPE_CHECKING:
    from mossformer_sb.network.attention import QueriesKeys


def joint_attention(
    queries_keys: QueriesKeys,
    values: torch.Tensor,
    group_size: int,
    lengths: torch.Tensor | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """As `mossformer_sb.network.attention.joint_attention`.

    Example
    -------
    >>> from mossformer_sb.network.attention import QueriesKeys
    >>> queries_keys = QueriesKeys(*torch.randn(4, 2, 70, 16))
    >>> joint_attention(queries_keys, torch.randn(2, 70, 32), group_size=32).shape
    torch.Size([2, 70, 32])
    """
    local_query, global_query, local_key, global_key = queries_keys
    num_frames = values.shape[1]
    context = matmul(over_length(global_key, num_frames, lengths).mT, values)  # [B, K, E]
    in_whole_groups = num_frames - num_frames % group_size
    spans = [span for span in (slice(0, in_whole_groups), slice(in_whole_groups, None)) if values[:, span].shape[1]]
    outputs = []
    for span in spans:
        attended = matmul(global_query[:, span], context)
        local = local_attention(local_query[:, span], local_key[:, span], values[:, span], group_size, dropout)
        outputs.append(attended + local)
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)


def local_attention(
    query: torch.Tensor, key: torch.Tensor, values: torch.Tensor, group_size: int, dropout: float = 0.0
) -> torch.Tensor:
    """ReLU(Q Kᵀ / P)² V within complete groups of P frames, or within a single shorter group.

    Arguments
    ---------
    query, key : torch.Tensor
        [B, L, K], where L is a multiple of P, or less than P for a single short group.
    values : torch.Tensor
        [B, L, E].
    group_size : int
        P, also the divisor of a shorter group.
    dropout : float
        Probability of dropping an attention weight.

    Returns
    -------
    torch.Tensor
        [B, L, E].
    """
    frames = min(group_size, values.shape[1])
    query, key, groups = (x.unflatten(1, (-1, frames)) for x in (query, key, values))  # [B, G, P, ·]
    scores = matmul(query / group_size, key.mT)  # [B, G, P, P]
    return matmul(drop(F.relu(scores).square(), dropout), groups).flatten(1, 2)
