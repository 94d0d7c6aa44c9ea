"""The separator as ONNX: the same output in onnxruntime, for any batch and length."""

import importlib.util

import pytest
import torch

from mossformer_sb import InputError, MossFormerMaskNet, MossFormerSeparator
from mossformer_sb.sharing.onnx import export_onnx


def separator(kernel_size=16):
    from speechbrain.lobes.models.dual_path import Decoder, Encoder

    torch.manual_seed(0)
    masknet = MossFormerMaskNet(in_channels=32, out_channels=16, num_blocks=1, num_spks=3, group_size=20)
    decoder = Decoder(in_channels=32, out_channels=1, kernel_size=kernel_size, stride=kernel_size // 2, bias=False)
    return MossFormerSeparator.from_modules(Encoder(kernel_size, out_channels=32), masknet, decoder).eval()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_any_batch_and_length(tmp_path):
    pytest.importorskip("onnxscript", reason="needs the extra 'onnx'")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    ours = separator()
    export_onnx(tmp_path / "x.onnx", ours.encoder, ours.masknet, ours.decoder)
    assert [path.name for path in tmp_path.iterdir()] == ["x.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx")
    less_than_a_group, whole_groups, one_frame_more = 16, 8 + 40 * 8, 8 + 41 * 8
    for batch_size in (1, 2, 5):
        for num_samples in (less_than_a_group, 100, whole_groups, one_frame_more, one_frame_more + 5, 20001):
            mixture = torch.randn(batch_size, num_samples)
            (found,) = session.run(["estimates"], {"mixture": mixture.numpy()})
            with torch.no_grad():
                torch.testing.assert_close(torch.from_numpy(found), ours(mixture), rtol=0, atol=1e-4)


def test_absent_packages(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    ours = separator()
    with pytest.raises(
        InputError, match=r"ONNX needs the packages onnx, onnxscript, .*pip install 'mossformer_sb\[onnx\]'"
    ):
        export_onnx(tmp_path / "x.onnx", ours.encoder, ours.masknet, ours.decoder)
