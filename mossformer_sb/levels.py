"""The level of estimates. SI-SNR does not see it, so a network's outputs have none of their own."""

import torch


def mixture_gain(estimates, mixture):
    """The one gain, common to all estimates, with which their sum comes closest to the mixture (least squares).

    A gain of its own for each estimate would lose how loud the speakers were against each other.

    Arguments
    ---------
    estimates : torch.Tensor
        [..., T, S].
    mixture : torch.Tensor
        [..., T].

    Returns
    -------
    torch.Tensor
        [...]; 1 where the estimates' sum is silent.

    Example
    -------
    >>> estimates = torch.randn(8000, 2)
    >>> round(mixture_gain(estimates, 0.5 * estimates.sum(-1)).item(), 4)
    0.5
    """
    total = estimates.sum(-1)
    energy = total.square().sum(-1)
    return torch.where(energy > 0, (total * mixture).sum(-1) / energy.clamp(min=torch.finfo(energy.dtype).tiny), 1.0)


def peak_gain(*signals):
    """The one gain, at most 1, with which none of the signals exceeds full scale.

    Example
    -------
    >>> peak_gain(torch.tensor([0.5, -2.0]), torch.tensor([1.0]))
    0.5
    """
    return 1 / max(1.0, *(signal.abs().max().item() for signal in signals))
