"""The separator as ONNX: the same output in onnxruntime, for any batch and length."""

import importlib.util

import numpy as np
import pytest
import torch

from mossformer_sb import InputError, MossFormerMaskNet, MossFormerSeparator
from mossformer_sb.cli import main
from mossformer_sb.sharing.onnx import export_onnx, quantise


def separator(kernel_size=16):
    from speechbrain.lobes.models.dual_path import Decoder, Encoder

    torch.manual_seed(0)
    masknet = MossFormerMaskNet(in_channels=32, out_channels=16, num_blocks=1, num_spks=3, group_size=20)
    decoder = Decoder(in_channels=32, out_channels=1, kernel_size=kernel_size, stride=kernel_size // 2, bias=False)
    return MossFormerSeparator.from_modules(Encoder(kernel_size, out_channels=32), masknet, decoder).eval()


def exported(folder, ours):
    """The network in onnxruntime: a function of the mixture, and of another file than x.onnx in the folder."""
    pytest.importorskip("onnxscript", reason="needs the extra 'onnx'")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    path = export_onnx(folder / "x.onnx", ours.encoder, ours.masknet, ours.decoder)
    return lambda mixture, file=path: onnxruntime.InferenceSession(file).run(None, {"mixture": mixture.numpy()})[0]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A network, and the same in onnxruntime: an export takes some seconds."""
    folder, ours = tmp_path_factory.mktemp("onnx"), separator()
    run = exported(folder, ours)
    assert [path.name for path in folder.iterdir()] == ["x.onnx"]
    return ours, run


def level_of_difference(found, expected):
    """Decibels of the expected signal over the difference."""
    expected = expected.double().numpy()
    return 10 * np.log10(np.square(expected).sum() / np.square(found - expected).sum())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_any_batch_and_length(both):
    ours, run = both
    less_than_a_group, whole_groups, one_frame_more = 16, 8 + 40 * 8, 8 + 41 * 8
    for batch_size in (1, 2, 5):
        for num_samples in (less_than_a_group, 100, whole_groups, one_frame_more, one_frame_more + 5, 20001):
            mixture = torch.randn(batch_size, num_samples)
            found = run(mixture)
            with torch.no_grad():
                torch.testing.assert_close(torch.from_numpy(found), ours(mixture), rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_half_a_minute_is_as_exact_as_a_second(both):
    """Sums over 30,000 frames, which onnxruntime would add up one after the other in single precision."""
    ours, run = both
    for num_samples in (8000, 240000):
        mixture = torch.randn(1, num_samples)
        with torch.no_grad():
            assert level_of_difference(run(mixture), ours(mixture)) > 100


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_eight_bits(tmp_path):
    onnx = pytest.importorskip("onnx", reason="needs the extra 'onnx'")
    ours = MossFormerSeparator.from_size("mini").eval()
    del ours.masknet.blocks[1:]  # the exporter takes its time for each
    run = exported(tmp_path, ours)
    small = quantise(tmp_path / "x.onnx", tmp_path / "small.onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"x.onnx", "small.onnx"}
    assert small.stat().st_size < 0.35 * (tmp_path / "x.onnx").stat().st_size
    products = [node.op_type for node in onnx.load(small).graph.node if node.op_type.startswith("MatMul")]
    assert products.count("MatMulInteger") == 1 + 3  # before the block, and in it
    mixture = torch.randn(2, 12000)
    exact, found = run(mixture), run(mixture, small)
    assert found.shape == exact.shape and 25 < level_of_difference(found, torch.from_numpy(exact)) < 90


def test_eight_bits_need_onnxruntime(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    pytest.importorskip("onnxscript", reason="needs the extra 'onnx'")
    with pytest.raises(InputError, match=r"ONNX needs the packages onnxruntime, .*mossformer_sb\[onnx\]'"):
        quantise(tmp_path / "x.onnx", tmp_path / "small.onnx")


def test_eight_bits_are_of_an_onnx_model(capsys, tmp_path):
    assert main(["export", "nowhere", "--output_folder", str(tmp_path / "out"), "--int8"]) == 2
    assert "--int8: quantises the ONNX model, and needs --onnx. Add --onnx" in capsys.readouterr().err


def test_absent_packages(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    ours = separator()
    with pytest.raises(
        InputError, match=r"ONNX needs the packages onnx, onnxscript, .*pip install 'mossformer_sb\[onnx\]'"
    ):
        export_onnx(tmp_path / "x.onnx", ours.encoder, ours.masknet, ours.decoder)


def test_a_network_that_can_not_be_exported(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript", reason="needs the extra 'onnx'")

    def fail(*_, **__):
        raise RuntimeError("Failed to export the model with torch.export")

    monkeypatch.setattr(torch.onnx, "export", fail)
    ours = separator()
    with pytest.raises(InputError, match="PyTorch can't export a MossFormer to ONNX. Export the model without ONNX"):
        export_onnx(tmp_path / "x.onnx", ours.encoder, ours.masknet, ours.decoder)
    assert list(tmp_path.iterdir()) == []
