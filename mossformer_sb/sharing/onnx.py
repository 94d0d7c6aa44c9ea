"""A separator as an ONNX model, for programs without PyTorch.

Shapes: B batch, T samples, S speakers; B and T are dynamic.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from mossformer_sb.errors import InputError
from mossformer_sb.network.separator import MossFormerSeparator
from mossformer_sb.utils.files import atomic_write

if TYPE_CHECKING:
    import onnx

PACKAGES = ("onnx", "onnxscript")
ONNX_FILE, INT8_FILE = "separator.onnx", "separator-int8.onnx"
_SUMS = ("ReduceSum", "ReduceMean")
_LARGE = 1000  # minimum number of values of a quantised weight


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
        If the packages for ONNX are not installed, or PyTorch can't export the network, such as a DPRNN.
    """
    check_onnx()
    path = Path(path)
    separator = MossFormerSeparator.from_modules(encoder, masknet, _Decoder(decoder)).eval()
    # Not batch 1, which an exporter would treat as a constant, and longer than a group of the mask net.
    example = torch.randn(2, 8000, device=next(encoder.parameters()).device)
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    try:
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
    except RuntimeError as error:  # the exporter's, of networks that are no graph for all lengths, such as DPRNN
        name = getattr(masknet, "network", type(masknet).__name__)
        raise InputError(f"PyTorch can't export a {name} to ONNX. Export the model without ONNX.") from error
    model = program.model_proto
    split_sums(model.graph)
    _drop_notes(model.graph)
    with atomic_write(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
    return path


def split_sums(graph: onnx.GraphProto) -> None:
    """Make sums and means over several axes accurate, in place: over the last axis first, then in double precision.

    onnxruntime adds up all axes at once, sequentially in single precision: over a minute of audio a norm would have an
    error of 1e-3.

    Arguments
    ---------
    graph : onnx.GraphProto
    """
    from onnx import TensorProto, helper, numpy_helper

    axes_of = {value.name: numpy_helper.to_array(value) for value in graph.initializer}
    nodes = []
    for node in graph.node:
        axes = axes_of.get(node.input[1]) if node.op_type in _SUMS and len(node.input) == 2 else None
        if axes is None or axes.size < 2:
            nodes.append(node)
            continue
        (x, all_axes), (result,), name = node.input, node.output, node.name
        last = f"{name}_last_axis"
        graph.initializer.append(numpy_helper.from_array(axes[-1:], last))
        nodes += [
            helper.make_node(node.op_type, [x, last], [f"{name}_rows"], keepdims=1),
            helper.make_node("Cast", [f"{name}_rows"], [f"{name}_double"], to=TensorProto.DOUBLE),
            helper.make_node(node.op_type, [f"{name}_double", all_axes], [f"{name}_all"]),
            helper.make_node("Cast", [f"{name}_all"], [result], to=TensorProto.FLOAT),
        ]
        nodes[-2].attribute.extend(node.attribute)
    del graph.node[:]
    graph.node.extend(nodes)


def _drop_notes(graph):
    """Remove the source location of each node, which is a tenth of a small network's file."""
    for entry in [*graph.node, *graph.value_info]:
        del entry.metadata_props[:]
    del graph.value_info[:], graph.metadata_props[:]


def quantise(source: str | Path, target: str | Path) -> Path:
    """Write a separator's ONNX model with weights of 8 bits, by onnxruntime.

    Linear layers compute in 8 bits: each column of a weight has its own scale, and activations are scaled at run time
    ("dynamic quantisation"), without calibration. Convolutions, which are more sensitive and not faster in 8 bits, and
    the layers that compute the masks from the last norm's output only store their weights in 8 bits, and compute in
    float32: otherwise a speaker 40 dB below the other would have 27 dB SI-SNR against float32 instead of 37.

    Arguments
    ---------
    source : str or Path
        ONNX file from `export_onnx`.
    target : str or Path

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        If the packages for it are not installed.
    """
    check_onnx(int8=True)
    from onnxruntime.quantization import QuantType, quantize_dynamic

    target = Path(target)
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # its advice goes to the root logger
    try:
        with atomic_write(target) as temporary:
            quantize_dynamic(
                source,
                temporary,
                op_types_to_quantize=["MatMul"],
                nodes_to_exclude=_after_last_norm(source),
                per_channel=True,
                weight_type=QuantType.QInt8,
            )
            _store_in_8_bits(temporary)
    finally:
        root.setLevel(level)
    return target


def _after_last_norm(path):
    """Names of the matrix multiplications after the last norm."""
    import onnx

    nodes = onnx.load(path).graph.node
    norms = [number for number, node in enumerate(nodes) if node.op_type in (*_SUMS, "LayerNormalization")]
    return [node.name for node in nodes[max(norms, default=len(nodes)) :] if node.op_type == "MatMul"]


def _store_in_8_bits(path):
    """Store the remaining large float32 weights in 8 bits, with a scale for each entry of the first axis."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(path)
    graph = model.graph
    for value in [value for value in graph.initializer if value.data_type == onnx.TensorProto.FLOAT]:
        weight = numpy_helper.to_array(value)
        if weight.ndim < 2 or weight.size < _LARGE:
            continue
        name = value.name
        scale = np.abs(weight).reshape(len(weight), -1).max(1) / 127
        scale = np.where(scale > 0, scale, 1).astype(np.float32)
        small = np.round(weight / scale.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.int8)
        graph.initializer.remove(value)
        graph.initializer.extend(
            [numpy_helper.from_array(small, f"{name}_int8"), numpy_helper.from_array(scale, f"{name}_scale")]
        )
        node = helper.make_node("DequantizeLinear", [f"{name}_int8", f"{name}_scale"], [name], axis=0)
        graph.node.insert(0, node)
    onnx.save(model, path)


def check_onnx(int8: bool = False) -> None:
    """Raise InputError if the packages for ONNX, or for ONNX in 8 bits, are not installed."""
    needed = (*PACKAGES, "onnxruntime") if int8 else PACKAGES
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
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
    """Context: suppress the exporter's progress, and its notes on missing packages."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
