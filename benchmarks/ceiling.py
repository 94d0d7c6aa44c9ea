"""Time of MossFormer's matrix multiplications alone: a lower bound of its time.

All matrix multiplications (matmuls) of a call are run alone, in the same precision and with the same threads, each by
the faster of two implementations. A call can't take less than their sum. Convolutions, norms and gates add to it.

Shapes: C matmuls in a batch, each M × K by K × N.
"""

import time
from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mossformer_sb.network import fast
from mossformer_sb.network.fast.matmul import linear
from mossformer_sb.network.separator import num_frames
from mossformer_sb.network.sizes import build_masknet, get_size

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}
TRAINING_FACTOR = 3  # a matmul, and the two of its gradients
SECONDS = 0.2  # for which each matmul is repeated


def products_of(size, num_samples, batch=1):
    """Matrix multiplications of a call of MossFormer's mask net, without running it.

    Arguments
    ---------
    size : str
        One of `mossformer_sb.SIZES`.
    num_samples, batch : int
        Shape of the mixtures.

    Returns
    -------
    collections.Counter
        (C, M, K, N) → number of matmuls.

    Example
    -------
    >>> products = products_of("mini", 8000)
    >>> products[1, 499, 256, 128]  # the output projections of four blocks
    4
    """
    config = get_size(size)
    kernel = config.encoder_kernel_size
    frames = num_frames(num_samples, kernel, kernel // 2)
    with torch.device("meta"):
        masknet, encoded = build_masknet(size).eval(), torch.rand(batch, config.channels, frames)
    with torch.no_grad(), fast.disabled(), _MatmulCounter() as found:
        masknet(encoded)
    return found.products


class _MatmulCounter(TorchDispatchMode):
    """Counts the matmuls of the code that runs within it."""

    def __init__(self):
        super().__init__()
        self.products = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in ("mm", "addmm", "bmm", "baddbmm"):
            left, right = args[1:3] if name in ("addmm", "baddbmm") else args[:2]
            count = left.shape[0] if left.dim() == 3 else 1
            self.products[count, left.shape[-2], left.shape[-1], right.shape[-1]] += 1
        return function(*args, **(kwargs or {}))


def seconds_of(products, precision, device="cpu", at_least=SECONDS):
    """Time of some matmuls, one after the other.

    Arguments
    ---------
    products : collections.Counter
        From `products_of`.
    precision : str
        fp32, tf32, bf16, or int8, in which attention stays in fp32.
    device : str
        As torch writes it.
    at_least : float
        Seconds for which each is repeated; the fastest time counts.

    Returns
    -------
    float
    """
    allow_tf32(precision == "tf32")
    return sum(number * _fastest(shape, precision, device, at_least) for shape, number in products.items())


def allow_tf32(allowed):
    """Turn TF32 in float32 matmuls on NVIDIA GPUs on or off; importing SpeechBrain turns it on."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def _fastest(shape, precision, device, at_least):
    count, rows, inner, columns = shape
    dtype = DTYPES["fp32" if precision == "int8" and count > 1 else precision]
    if dtype is torch.int8:
        left, right = (
            torch.randint(-99, 99, sizes, dtype=dtype, device=device) for sizes in ((rows, inner), (inner, columns))
        )
        functions = [lambda: torch._int_mm(left, right)]
    elif count > 1:
        left = torch.randn(count, rows, inner, device=device).to(dtype)
        right = torch.randn(count, inner, columns, device=device).to(dtype)
        functions = [lambda: torch.bmm(left, right)]
    else:
        left, weight = (torch.randn(*sizes, device=device).to(dtype) for sizes in ((rows, inner), (columns, inner)))
        functions = [lambda: torch.nn.functional.linear(left, weight), lambda: linear(left, weight)]
    with torch.no_grad():
        return min(_time(function, device, at_least) for function in functions)


def _time(function, device, at_least):
    found, begin = [], time.perf_counter()
    while len(found) < 3 or time.perf_counter() - begin < at_least:
        start = time.perf_counter()
        function()
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - start)
    return min(found)
