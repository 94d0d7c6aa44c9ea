"""The decoder as one matrix multiplication and an overlap-add.

oneDNN's transposed convolution is 8 to 18 times slower. For many lengths its first call also takes long, to choose
among its kernels: 2.4 s for a minute of audio and filters of 64 samples.

Shapes: B batch, N channels, L frames, K kernel size, R stride, T' = (L - 1) · R + K samples.
"""

import torch


def decode(decoder: torch.nn.ConvTranspose1d, encoded: torch.Tensor) -> torch.Tensor:
    """As `mossformer_sb.network.separator.decode`, in at least single precision, also in autocast.

    Example
    -------
    >>> from speechbrain.lobes.models.dual_path import Decoder
    >>> decode(Decoder(in_channels=4, out_channels=1, kernel_size=16, stride=8), torch.randn(2, 4, 10)).shape
    torch.Size([2, 88])
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else encoded.dtype
    stride, num_frames = decoder.stride[0], encoded.shape[-1]
    overlaps = decoder.kernel_size[0] // stride
    with torch.autocast("cpu", enabled=False):
        frames = encoded.mT @ decoder.weight[:, 0]  # [B, L, K]
        parts = frames.unflatten(-1, (overlaps, stride))  # [B, L, K/R, R]
        samples = frames.new_zeros(len(frames), num_frames + overlaps - 1, stride)  # [B, T'/R, R]
        for number in range(overlaps):
            samples[:, number : number + num_frames] += parts[:, :, number]
        if decoder.bias is not None:
            samples += decoder.bias
    return samples.flatten(1).to(dtype)  # [B, T']
