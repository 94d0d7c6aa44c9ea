"""Ways to run a separator: as PyTorch runs it, compiled, and by other engines.

A network of `benchmarks.separators` is named alone, ``ours``, or with a way after a plus sign, ``ours+onnx``. All ways
of a network have the same weights and the same number of threads.

Shapes: B batch, T samples, S speakers.
"""

import importlib.util
import shutil
import warnings
import zlib
from pathlib import Path

import torch

from mossformer_sb.errors import InputError
from mossformer_sb.network import fast
from mossformer_sb.sharing.onnx import _quiet, check_onnx, export_onnx, quantise
from mossformer_sb.utils.files import atomic_write

EAGER, COMPILE, PLAIN, PLAIN_COMPILE = "eager", "compile", "plain", "plain-compile"
ONNX, INT8, OPENVINO = "onnx", "onnx-int8", "openvino"
BY_TORCH = ("fp32", "tf32", "bf16")
WAYS = {  # way → its precisions
    EAGER: BY_TORCH,
    COMPILE: BY_TORCH,
    PLAIN: BY_TORCH,  # without network/fast/
    PLAIN_COMPILE: BY_TORCH,
    ONNX: ("fp32",),
    INT8: ("int8",),
    OPENVINO: ("fp32", "bf16"),
}
OPENVINO_PRECISIONS = {"fp32": "f32", "bf16": "bf16"}


class LeftOut(Exception):
    """A way that can't run here, and why."""


def split_name(name):
    """Network and way of a name.

    Raises
    ------
    InputError
        If the way is not known.

    Example
    -------
    >>> split_name("reference"), split_name("ours+onnx-int8")
    (('reference', 'eager'), ('ours', 'onnx-int8'))
    """
    network, _, way = name.partition("+")
    way = way or EAGER
    if way not in WAYS:
        raise InputError(f"network {name!r}: {way} is no way to run it; choose one of {', '.join(WAYS)}.")
    return network, way


def precisions_of(way, precisions):
    """The requested precisions that a way supports, in the order of `BY_TORCH`; for `INT8` always int8.

    Example
    -------
    >>> precisions_of("compile", ["bf16", "fp32"]), precisions_of("onnx", ["bf16"])
    (['fp32', 'bf16'], [])
    >>> precisions_of("onnx-int8", ["fp32"])
    ['int8']
    """
    if way == INT8:
        return ["int8"]
    return [precision for precision in BY_TORCH if precision in precisions and precision in WAYS[way]]


def prepare(separator, way, precision, task, mixture, folder):
    """Make a separator ready to run in a way.

    Arguments
    ---------
    separator : torch.nn.Module
        [B, T] → [B, T, S].
    way : str
        Of `WAYS`.
    precision : str
        fp32, tf32, bf16 or int8.
    task : str
        inference, or training (PyTorch only).
    mixture : torch.Tensor
        [B, T], the input of the benchmark.
    folder : Path
        Folder of exported models; existing ones are reused.

    Returns
    -------
    torch.nn.Module or callable
        [B, T] → [B, T, S].

    Raises
    ------
    LeftOut
        If this is not possible here.
    """
    if precision == "tf32" and mixture.device.type != "cuda":
        raise LeftOut("TF32 is of NVIDIA's GPUs")
    if way == EAGER:
        return separator
    if way == PLAIN:
        return Plain(separator)
    if way in (COMPILE, PLAIN_COMPILE):
        compiled = _compiled(separator, mixture)
        return compiled if way == COMPILE else Plain(compiled)
    if task == "training":
        raise LeftOut("runs inference only")
    if mixture.device.type != "cpu":
        raise LeftOut("is compared on CPUs only")
    if way == OPENVINO:
        return _openvino(exported(separator, mixture, folder), mixture.shape, precision)
    file = exported(separator, mixture, folder)
    if way == INT8:
        int8 = file.with_suffix(".int8.onnx")
        file = int8 if int8.is_file() else quantise(file, int8)
    return _onnxruntime(file)


class Plain(torch.nn.Module):
    """A separator without the fast implementations of `mossformer_sb.network.fast`.

    Example
    -------
    >>> Plain(torch.nn.Identity())(torch.ones(1)).item()
    1.0
    """

    def __init__(self, separator):
        super().__init__()
        self.separator = separator

    def forward(self, mixture):
        """[B, T] → [B, T, S]."""
        with fast.disabled():
            return self.separator(mixture)


def _compiled(separator, mixture):
    if mixture.device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise LeftOut("torch.compile needs a C++ compiler, and none was found: apt install g++")
    return torch.compile(separator, dynamic=False)


def exported(separator, mixture, folder):
    """A separator as ONNX, exported at its first use: ours for all lengths, others for the mixture's."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    ours = type(separator.masknet).__module__.startswith("mossformer_sb.network.mossformer")
    ours = ours or type(separator.masknet).__module__ == "mossformer_sb.network.masknet"
    shape = "" if ours else "-" + "x".join(map(str, mixture.shape))
    file = folder / f"{type(separator.masknet).__module__.partition('.')[0]}-{_checksum(separator):08x}{shape}.onnx"
    if file.is_file():
        return file
    try:
        check_onnx(int8=True)
    except InputError as error:
        raise LeftOut(str(error)) from error
    if ours:
        return export_onnx(file, separator.encoder, separator.masknet, separator.decoder)
    try:
        with torch.no_grad(), _quiet(), atomic_write(file) as temporary:
            program = torch.onnx.export(separator, (mixture,), dynamo=True, input_names=["mixture"], verbose=False)
            temporary.write_bytes(program.model_proto.SerializeToString())
    except Exception as error:  # any error of the exporter, for networks that were not written for it
        raise LeftOut(f"can't be exported: {str(error).strip().partition(chr(10))[0][:120]}") from error
    return file


def _checksum(separator):
    total = 0
    for value in separator.state_dict().values():
        total = zlib.crc32(value.detach().cpu().contiguous().numpy(), total)
    return total


def _onnxruntime(file):
    if importlib.util.find_spec("onnxruntime") is None:
        raise LeftOut('onnxruntime is missing: pip install "mossformer_sb[onnx]"')
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda mixture: torch.from_numpy(session.run(None, {"mixture": mixture.numpy()})[0])


def _openvino(file, shape, precision):
    if importlib.util.find_spec("openvino") is None:
        raise LeftOut("openvino is missing: pip install openvino")
    import openvino

    options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    options["INFERENCE_PRECISION_HINT"] = OPENVINO_PRECISIONS[precision]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        core = openvino.Core()
        model = core.read_model(str(file))
        model.reshape({model.inputs[0]: list(shape)})  # a third faster than with a dynamic shape
        compiled = core.compile_model(model, "CPU", options)
    return lambda mixture: torch.from_numpy(compiled({0: mixture.numpy()})[0].copy())
