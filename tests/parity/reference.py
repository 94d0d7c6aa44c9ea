"""The authors' mask net from the `modelscope` package, with random weights, next to ours with the same ones."""

import torch

from mossformer_sb.network.masknet import MossFormerMaskNet
from mossformer_sb.sharing.modelscope import masknet_from_modelscope


def random_reference(channels, num_blocks, num_spks, group_size, query_key_dim, seed=0):
    """The authors' mask net; every parameter random, so that no two could be swapped unnoticed."""
    from modelscope.models.audio.separation import mossformer

    torch.manual_seed(seed)
    attention = mossformer.MossFormerM(num_blocks, channels, 0.1, group_size, query_key_dim, 4.0, False)
    network = mossformer.MossFormerMaskNet(channels, channels, attention, norm="ln", num_spks=num_spks)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if not name.endswith("rotary_pos_emb.freqs"):
                parameter.add_(0.05 * torch.randn_like(parameter))
    return network.eval()


def same_in_ours(reference, channels, num_blocks, num_spks, group_size, query_key_dim):
    """Our mask net with the reference's weights."""
    ours = MossFormerMaskNet(channels, channels, num_blocks, num_spks, group_size, query_key_dim)
    ours.load_state_dict(masknet_from_modelscope(reference.state_dict()))
    return ours.eval()


def output_and_gradients(network, x, weights):
    """Output for x, and the gradients of ``(output * weights).sum()`` by parameter name and for the input."""
    x = x.clone().requires_grad_()
    output = network(x)
    (output * weights).sum().backward()
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return output.detach(), gradients, x.grad


def loss_weights(output):
    """Random weights for a scalar loss, zero where the output's ReLU is so near to its kink that rounding decides."""
    return torch.randn_like(output) * (output > 1e-3 * output.max())


def relative_error(found, expected):
    """‖found − expected‖ / ‖expected‖."""
    return ((found - expected).norm() / expected.norm()).item()


def flat(tensors, names):
    """The named tensors as one vector."""
    return torch.cat([tensors[name].flatten() for name in names])
