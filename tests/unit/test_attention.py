"""Joint attention against a literal computation, frame by frame."""

import contextlib
import math

import pytest
import torch

from mossformer_sb.network import fast
from mossformer_sb.network.attention import QueriesKeys, joint_attention, rotate


def literal_attention(queries_keys, values, group_size):
    """Both attentions written out for one item: [L, K] four times and [L, E] → [L, E]."""
    num_frames = len(values)
    output = torch.zeros_like(values)
    for t in range(num_frames):
        for s in range(num_frames):
            if s // group_size == t // group_size:
                score = queries_keys.local_query[t] @ queries_keys.local_key[s] / group_size
                output[t] += max(score, torch.zeros_like(score)) ** 2 * values[s]
            output[t] += queries_keys.global_query[t] @ queries_keys.global_key[s] / num_frames * values[s]
    return output


PATHS = {"plain": fast.disabled, "unpadded": torch.no_grad, "custom backward": contextlib.nullcontext}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("num_frames", [1, 5, 8, 9, 16, 21])
def test_equals_the_definition(num_frames, path):
    queries_keys = QueriesKeys(*(4 * torch.randn(4, 2, num_frames, 6, dtype=torch.float64)))
    values = torch.randn(2, num_frames, 10, dtype=torch.float64)
    with PATHS[path]():
        found = joint_attention(queries_keys, values, group_size=8)
    for item in range(2):
        one = QueriesKeys(*(x[item] for x in queries_keys))
        torch.testing.assert_close(found[item], literal_attention(one, values[item], group_size=8))


def test_dropout_acts_on_local_weights_only():
    queries_keys = QueriesKeys(*torch.randn(4, 1, 32, 6))
    values = torch.randn(1, 32, 10)
    no_local = queries_keys._replace(local_query=torch.zeros(1, 32, 6))
    torch.testing.assert_close(
        joint_attention(no_local, values, 8, dropout=0.5), joint_attention(no_local, values, 8, dropout=0.0)
    )
    assert not torch.allclose(
        joint_attention(queries_keys, values, 8, dropout=0.5), joint_attention(queries_keys, values, 8, dropout=0.0)
    )


def test_rotation_makes_products_depend_on_distance_only():
    positions = torch.arange(20.0)[:, None] * torch.tensor([1.0, 0.1])
    query, key = torch.randn(2, 4).expand(20, 2, 4).unbind(1)
    products = rotate(query, positions.cos(), positions.sin()) @ rotate(key, positions.cos(), positions.sin()).T
    torch.testing.assert_close(products[5, 2], products[15, 12])
    assert not math.isclose(products[5, 2], products[5, 3], rel_tol=1e-3)


def test_rotation_passes_the_other_channels():
    x = torch.randn(3, 7, 10)
    angles = torch.rand(7, 2)
    rotated = rotate(x, angles.cos(), angles.sin())
    assert torch.equal(rotated[..., 4:], x[..., 4:])
    assert not torch.allclose(rotated[:, 1:, :4], x[:, 1:, :4])
