"""The programs on a device: an epoch of train.py, and separating a recording."""

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from mossformer_sb import MossFormerSeparator
from mossformer_sb.inference.bulk import separate_recordings
from mossformer_sb.inference.output_files import Output
from mossformer_sb.inference.separation import MossFormerSeparation
from mossformer_sb.sharing.folder import export
from tests.integration.corpora import write_easy_wham
from tests.integration.programs import train_in_turn, write_tiny_experiment

OPTIONS = "--segment 0.4 --batch_size 2 --lr 0.01 --num_workers 0 --number_of_epochs 1 --noprogressbar"
OPTIONS += " --speed_perturb none"


def test_an_epoch_of_train(tmp_path, device):
    """On a GPU in each precision, deterministic and compiled, one after the other in one process."""
    corpus = write_easy_wham(tmp_path / "wham", {"tr": 10, "cv": 2, "tt": 2}, seconds=(0.5, 0.7))
    experiment = write_tiny_experiment(tmp_path / "tiny.yaml")
    common = [experiment, "--data_folder", corpus, *OPTIONS.split(), "--device", device]
    more = [[]] if device == "cpu" else [[], ["--precision", "bf16"], ["--precision", "fp16"], ["--compile"]]
    more.append(["--deterministic"])
    runs = [[*common, "--output_folder", f"out{number}", *options] for number, options in enumerate(more)]
    result = train_in_turn(runs, cwd=tmp_path)
    assert result.returncode == 0, result.stdout
    for number in range(len(runs)):
        out = tmp_path / f"out{number}"
        assert np.isfinite(pd.read_csv(out / "epochs.csv")["valid_si-snr"]).all()
        assert len(pd.read_csv(out / "test_results.csv")) == 3
        assert (out / "export" / "model.safetensors").is_file()
    first, last = (pd.read_csv(tmp_path / f"out{number}" / "epochs.csv") for number in (0, len(runs) - 1))
    assert last["valid_si-snr"].item() == pytest.approx(first["valid_si-snr"].item(), abs=0.5)
    assert f"Computes on {device}" in result.stdout and "deterministic kernels: on" in result.stdout


@pytest.mark.parametrize("rate", [8000, 16000])
def test_a_recording_is_separated_as_on_the_cpu(tmp_path, device, rate):
    torch.manual_seed(0)
    folder = export(tmp_path / "model", dict(MossFormerSeparator.from_size("mini").named_children()), sample_rate=8000)
    samples = 0.1 * np.random.default_rng(0).standard_normal(2 * rate)
    soundfile.write(tmp_path / "talk.wav", samples, rate, subtype="FLOAT")
    expected = MossFormerSeparation.from_hparams(folder, device="cpu").separate(tmp_path / "talk.wav")
    model = MossFormerSeparation.from_hparams(folder, device=device)
    found = model.separate_file(tmp_path / "talk.wav", tmp_path)
    assert found.shape == expected.shape == (2 * rate, 2) and found.device.type == "cpu"
    assert (found - expected).norm() < 1e-4 * expected.norm()
    for number in (1, 2):
        written, written_rate = soundfile.read(tmp_path / f"talk_spk{number}.wav")
        assert written_rate == rate and len(written) == 2 * rate


def test_a_list_in_batches_is_separated_as_one_at_a_time_on_the_cpu(tmp_path, device):
    """The number at once is the default: on a GPU, by its memory."""
    torch.manual_seed(0)
    folder = export(tmp_path / "model", dict(MossFormerSeparator.from_size("mini").named_children()), sample_rate=8000)
    rng, paths = np.random.default_rng(0), [tmp_path / f"{number}.wav" for number in range(5)]
    for number, path in enumerate(paths):
        soundfile.write(path, 0.1 * rng.standard_normal(8000 + 1000 * number), 8000, subtype="FLOAT")
    one, model = (MossFormerSeparation.from_hparams(folder, device=name) for name in ("cpu", device))
    found = list(separate_recordings(model, [(path, tmp_path / "out", path.stem) for path in paths], Output()))
    for path, result in zip(paths, found, strict=True):
        expected = one.separate(path).numpy()
        written = np.stack([soundfile.read(track, dtype="float32")[0] for track in result.audio_paths], axis=1)
        assert np.linalg.norm(written - expected) < 1e-4 * np.linalg.norm(expected)
