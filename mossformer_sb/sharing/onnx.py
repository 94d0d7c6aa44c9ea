"""A separator as an ONNX model, for programs without PyTorch.

Shapes: B batch, T samples, S speakers, both B and T free.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from pathlib import Path

import torch
from torch import nn

from mossformer_sb.errors import InputError
from mossformer_sb.network.separator import MossFormerSeparator
from mossformer_sb.utils.files import atomic_write

PACKAGES = ("onnx", "onnxscript")
ONNX_FILE = "separator.onnx"


def export_onnx(path: str | Path, encoder: torch.nn.Module, masknet: torch.nn.Module, decoder: torch.nn.Module) -> Path:
    """Write a separator as ONNX: ``mixture`` [B, T] → ``estimates`` [B, T, S], float32, of any batch and length.

    Arguments
    ---------
    path : str or Path
    encoder, masknet, decoder : torch.nn.Module
        As for `mossformer_sb.network.separator.separate`.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        If the packages for it are not installed.
    """
    check_onnx()
    path = Path(path)
    separator = MossFormerSeparator.from_modules(encoder, masknet, _Decoder(decoder)).eval()
    # Not of batch 1, which an exporter would treat as a constant, and longer than a group of the mask net.
    example = torch.randn(2, 8000, device=next(encoder.parameters()).device)
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            separator,
            (example,),
            dynamo=True,
            input_names=["mixture"],
            output_names=["estimates"],
            dynamic_shapes={"mixture": free},
            verbose=False,
        )
        with atomic_write(path) as temporary:
            program.save(temporary, external_data=False)
    return path


def check_onnx() -> None:
    """Raise InputError if the packages for ONNX are not installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"ONNX needs the packages {', '.join(missing)}, which are not installed: pip install 'mossformer_sb[onnx]'."
        )


class _Decoder(nn.Module):
    """SpeechBrain's decoder without squeezing every axis of size one, which in ONNX would affect the batch too."""

    def __init__(self, decoder):
        super().__init__()
        self.decoder = decoder

    def forward(self, x):
        return nn.ConvTranspose1d.forward(self.decoder, x).squeeze(1)


@contextlib.contextmanager
def _quiet():
    """Context: without the exporter's progress, and its notes on missing packages."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
