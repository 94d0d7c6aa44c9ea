"""The authors' mask net from the `modelscope` package, with random weights, next to ours with the same ones."""

import contextlib

import pytest
import torch

from mossformer_sb.network import fast
from mossformer_sb.network.fast import tiled, tiled_block
from mossformer_sb.network.masknet import MossFormerMaskNet
from mossformer_sb.network.mossformer2 import MossFormer2MaskNet
from mossformer_sb.sharing.modelscope import masknet_from_modelscope


def random_reference(channels, num_blocks, num_spks, group_size, query_key_dim, recurrent_channels=None, seed=0):
    """The authors' mask net, MossFormer2's with ``recurrent_channels``; every parameter random, so that no two could be
    swapped unnoticed.
    """
    torch.manual_seed(seed)
    sizes = channels, num_blocks, num_spks, group_size, query_key_dim
    if recurrent_channels is None:
        network = _mossformer(*sizes)
    else:
        network = _mossformer2(*sizes, recurrent_channels)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("rotary_pos_emb.freqs"):
                continue
            noise = torch.randn_like(parameter)
            if recurrent_channels is None:
                parameter.add_(0.05 * noise)
            elif parameter.dim() == 1 or "qk_offset_scale" in name:
                parameter.copy_(0.5 + 0.3 * noise)  # gains, biases and slopes, all different
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
    return network.eval()


def _mossformer(channels, num_blocks, num_spks, group_size, query_key_dim):
    from modelscope.models.audio.separation import mossformer

    attention = mossformer.MossFormerM(num_blocks, channels, 0.1, group_size, query_key_dim, 4.0, False)
    return mossformer.MossFormerMaskNet(channels, channels, attention, norm="ln", num_spks=num_spks)


def _mossformer2(channels, num_blocks, num_spks, group_size, query_key_dim, recurrent_channels):
    """Of sizes that their constructor doesn't offer, made of their modules."""
    from modelscope.models.audio.separation.m2 import mossformer, mossformer_block

    network = mossformer.MossFormerMaskNet(channels, channels, num_blocks, norm="ln", num_spks=num_spks)
    inner = mossformer.MossFormerM(num_blocks, channels, False, group_size, query_key_dim, 4.0, 0.1)
    inner.mossformerM.fsmn = torch.nn.ModuleList(
        mossformer_block.GatedFSMNBlockDilated(channels, recurrent_channels) for _ in range(num_blocks)
    )
    network.mdl.intra_mdl = inner
    return network


def same_in_ours(reference, channels, num_blocks, num_spks, group_size, query_key_dim, recurrent_channels=None):
    """Our mask net with the reference's weights."""
    sizes = channels, channels, num_blocks, num_spks, group_size, query_key_dim
    if recurrent_channels is None:
        ours = MossFormerMaskNet(*sizes)
    else:
        ours = MossFormer2MaskNet(*sizes, recurrent_channels=recurrent_channels)
    ours.load_state_dict(masknet_from_modelscope(reference.state_dict()))
    return ours.eval()


def output_and_gradients(network, x, weights):
    """Output for x, and the gradients of ``(output * weights).sum()`` by parameter name and for the input."""
    x = x.clone().requires_grad_()
    output = network(x)
    (output * weights).sum().backward()
    gradients = {
        name.removeprefix("_orig_mod."): p.grad for name, p in network.named_parameters() if p.grad is not None
    }
    return output.detach(), gradients, x.grad


@contextlib.contextmanager
def computed(network, path):
    """Our network with its output and gradients computed by one of the paths, which is checked to have been taken."""
    if path == "plain":
        with fast.disabled():
            network.register_forward_hook(lambda *given: _assert_custom_backward(given[-1], False))
            yield network
    elif path == "fast":
        network.register_forward_hook(lambda *given: _assert_custom_backward(given[-1], True))
        yield network
    elif path == "compiled":
        graphs = []

        def backend(graph, inputs):
            graphs.append(graph)
            return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

        torch._dynamo.reset()
        yield torch.compile(network, backend=backend, dynamic=False, fullgraph=True)
        torch._dynamo.reset()
        assert len(graphs) == 1
    else:
        raise ValueError(path)


def _assert_custom_backward(output, expected):
    """That custom backward functions are in the graph, or that they aren't."""
    found, queue = set(), [output.grad_fn]
    while queue:
        node = queue.pop()
        if node is not None and node not in found:
            found.add(node)
            queue += [following for following, _ in node.next_functions]
    names = {type(node).__name__ for node in found}
    custom = {f"{name}FunctionBackward" for name in ("ConvModule", "RotatedHeads", "JointAttention", "Gate")}
    assert names & custom == (custom if expected else set())


def tiled_output(network, x, tile_frames):
    """Our network's output in inference, in tiles of so many frames."""
    items, masks_of_item = [], tiled.masks_of_item
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(tiled_block, "TILE_FRAMES", tile_frames)
        patch.setattr(tiled, "masks_of_item", lambda *given: items.append(1) or masks_of_item(*given))
        output = network(x)
    assert len(items) == len(x)
    return output


def loss_weights(output):
    """Random weights for a scalar loss, zero where the output's ReLU is so near to its kink that rounding decides."""
    return torch.randn_like(output) * (output > 1e-3 * output.max())


def relative_error(found, expected):
    """‖found − expected‖ / ‖expected‖."""
    return ((found - expected).norm() / expected.norm()).item()


def flat(tensors, names):
    """The named tensors as one vector."""
    return torch.cat([tensors[name].flatten() for name in names])
