"""A checkpoint as one small file: unpacked elsewhere, training resumes close to its state."""

import io

import pytest
import torch

from benchmarks import portable_state
from benchmarks.portable_state import main
from mossformer_sb.training.optimizers import MuonWithAdamW
from tests.unit.brains import parameters
from tests.unit.test_optimizers import needs_muon
from tests.unit.test_resume import train


def test_training_resumes_elsewhere(tmp_path, capsys):
    whole = train(tmp_path / "whole", epochs=2)
    train(tmp_path / "begun", epochs=1)
    assert main(["pack", str(tmp_path / "begun"), str(tmp_path / "state.zip")]) == 0
    assert main(["unpack", str(tmp_path / "state.zip"), str(tmp_path / "elsewhere")]) == 0
    first, second = capsys.readouterr().out.split()
    assert first == second and first.startswith("CKPT+")
    resumed = train(tmp_path / "elsewhere", epochs=2)
    assert resumed.optimizer_step == whole.optimizer_step and len(resumed.hparams.train_logger.entries) == 1
    torch.testing.assert_close(parameters(resumed), parameters(whole), rtol=0, atol=2e-3)
    assert not torch.equal(parameters(resumed), parameters(train(tmp_path / "begun", epochs=1)))


def test_large_tensors_take_half_the_room(tmp_path):
    train(tmp_path / "run", epochs=1)
    assert main(["pack", str(tmp_path / "run"), str(tmp_path / "state.zip")]) == 0
    main(["unpack", str(tmp_path / "state.zip"), str(tmp_path / "other")])
    (before,), (after,) = ((tmp_path / name / "save").glob("CKPT*") for name in ("run", "other"))
    for name in ("masknet", "optimizer", "averaged_weights", "random_state"):
        one, other = (torch.load(folder / f"{name}.ckpt", weights_only=True) for folder in (before, after))
        compare(one, other, 2**-8 if name == "optimizer" else 2**-11)
    tensors = torch.load(after / "masknet.ckpt", weights_only=True)
    large = tensors["blocks.0.to_values.linear.weight"]
    assert large.numel() >= 1024 and large.dtype == torch.float32 and torch.equal(large, large.half().float())


@needs_muon
def test_momentum_takes_no_room():
    layer = torch.nn.Linear(64, 64)
    optimizer = MuonWithAdamW(layer.parameters(), lr=0.01)
    layer(torch.ones(1, 64)).sum().backward()
    optimizer.step()
    content = io.BytesIO()
    torch.save(optimizer.state_dict(), content)
    kept = torch.load(io.BytesIO(portable_state.converted(content.getvalue(), "optimizer.ckpt")), weights_only=True)
    before, after = optimizer.state_dict()["state"], kept["state"]
    assert before[0]["momentum_buffer"].any() and not after[0]["momentum_buffer"].any()
    assert after[0]["momentum_buffer"].shape == (64, 64) and torch.equal(after[1]["exp_avg"], before[1]["exp_avg"])
    optimizer.load_state_dict(kept)
    optimizer.step()


def compare(one, other, precision):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            compare(one[key], other[key], precision)
    elif isinstance(one, list | tuple):
        for pair in zip(one, other, strict=True):
            compare(*pair, precision)
    elif isinstance(one, torch.Tensor) and one.is_floating_point():
        torch.testing.assert_close(other, one, rtol=precision, atol=1e-7)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def test_messages(tmp_path, capsys):
    assert main(["pack", str(tmp_path), str(tmp_path / "state.zip")]) == 2
    assert "holds no checkpoint; needed the output_folder of a training" in capsys.readouterr().err
    (tmp_path / "text.zip").write_text("text")
    assert main(["unpack", str(tmp_path / "text.zip"), str(tmp_path / "a")]) == 2
    assert "can't be read" in capsys.readouterr().err
    train(tmp_path / "run", epochs=1)
    main(["pack", str(tmp_path / "run"), str(tmp_path / "state.zip")])
    assert main(["unpack", str(tmp_path / "state.zip"), str(tmp_path / "run")]) == 2
    assert "holds a checkpoint already" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../evil/a.ckpt", "deep/er/a.ckpt", "a.ckpt"])
def test_no_file_is_written_elsewhere(tmp_path, name, capsys):
    import zipfile

    with zipfile.ZipFile(tmp_path / "state.zip", "w") as archive:
        archive.writestr(name, b"x")
    assert main(["unpack", str(tmp_path / "state.zip"), str(tmp_path / "run")]) == 2
    assert "holds no checkpoint; needed a file that `pack` wrote" in capsys.readouterr().err
    assert not list(tmp_path.rglob("a.ckpt"))
