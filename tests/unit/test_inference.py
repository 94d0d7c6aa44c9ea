"""Recordings of every kind through a model: rate, length, level, chunks, files, and errors."""

import contextlib
import io
import os
import subprocess

import numpy as np
import pytest
import soundfile
import torch
from speechbrain.utils.run_opts import RunOptions

from mossformer_sb import InputError, MossFormerSeparator
from mossformer_sb.data.audio_io import BLOCK
from mossformer_sb.data.audio_writing import check_format
from mossformer_sb.inference.chunking import Chunking
from mossformer_sb.inference.input_level import normalise
from mossformer_sb.inference.load_options import with_device
from mossformer_sb.inference.separation import MossFormerSeparation
from mossformer_sb.sharing.folder import export
from mossformer_sb.sharing.record import TrainingRecord
from mossformer_sb.utils.devices import choose_device

RATE = 8000
FORMATS = ["wav", "flac", "ogg", "mp3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    modules = dict(MossFormerSeparator.from_size("mini", num_spks=3).named_children())
    return export(tmp_path_factory.mktemp("export") / "model", modules, RATE)


@pytest.fixture(scope="module")
def model(folder):
    return MossFormerSeparation.from_hparams(source=folder, device="cpu")


def noise(num_samples, *channels):
    return (0.1 * np.random.randn(num_samples, *channels)).astype(np.float32)


def write(path, samples, rate=RATE, **options):
    soundfile.write(path, samples, rate, **options)
    return path


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("extension", FORMATS)
def test_round_trip_keeps_rate_and_length(model, tmp_path, rate, channels, extension):
    path = write(tmp_path / f"talk.{extension}", noise(rate + 17, channels), rate)
    estimates = model.separate_file(path, output_folder=tmp_path / "out" / "deep", format=extension)
    assert estimates.shape == (rate + 17, 3)
    for number in range(3):
        info = soundfile.info(tmp_path / "out" / "deep" / f"talk_spk{number + 1}.{extension}")
        assert (info.samplerate, info.frames, info.channels) == (rate, rate + 17, 1)


@pytest.mark.parametrize("rate", [7350, 11025, 22050, 44101, 48000])
def test_odd_rates(model, rate):
    assert model.separate(noise(rate // 2), sample_rate=rate).shape == (rate // 2, 3)


def test_a_rate_without_a_common_factor(model):
    """Its filter would take a gigabyte."""
    with pytest.raises(InputError, match="^the given samples: its 999983 Hz can't be converted to 8000 Hz in little"):
        model.separate(noise(1000), sample_rate=999_983)


def test_output_is_aligned_with_the_input(model, monkeypatch):
    """A network that passes its input on: what comes out lies where it was, also at another rate and in chunks."""
    monkeypatch.setattr(model, "separate_batch", lambda mix: mix[..., None].expand(-1, -1, 3))
    time = np.arange(66150) / 22050
    slow = (0.3 * np.sin(2 * np.pi * 440 * time) * np.hanning(len(time))).astype(np.float32)
    for chunking in (Chunking(), Chunking(seconds=0.5, overlap=0.1, above=0.5)):
        estimates = model.separate(slow, sample_rate=22050, level="none", chunking=chunking)
        np.testing.assert_allclose(estimates.numpy(), np.stack([slow] * 3, 1), atol=1e-3)


def test_progress_can_be_reported_to_a_function(model, monkeypatch, capsys):
    """After each part, to the end; what the function raises ends the separation."""
    monkeypatch.setattr(MossFormerSeparation, "separate_batch", lambda self, mix: torch.stack([mix, mix], dim=2))
    recording, chunking = torch.randn(5 * RATE), Chunking(seconds=1.0, overlap=0.25, above=1.0)
    reports = []
    model.separate(recording, chunking=chunking, progress=lambda *report: reports.append(report))
    done = [num_done for num_done, _ in reports]
    assert len(done) > 3 and done == sorted(done) and reports[-1] == (5 * RATE, 5 * RATE)
    assert capsys.readouterr().err == ""  # no bar

    def stop(num_done, num_samples):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.separate(recording, chunking=chunking, progress=stop)


class TestKindsOfInput:
    def test_all_give_the_same(self, model, tmp_path):
        samples = noise(4000)
        path = write(tmp_path / "talk.wav", samples, subtype="FLOAT")
        expected = model.separate(path)
        content = path.read_bytes()
        with open(path, "rb") as file:
            for recording in (str(path), content, io.BytesIO(content), file):
                assert torch.equal(model.separate(recording), expected)
        for recording in (samples, samples[:, None], torch.from_numpy(samples), samples.astype(np.float64)):
            assert torch.equal(model.separate(recording), expected)

    def test_a_pipe(self, model, tmp_path):
        path = write(tmp_path / "talk.flac", noise(4000))
        with subprocess.Popen(["cat", path], stdout=subprocess.PIPE) as process:
            assert torch.equal(model.separate(process.stdout), model.separate(path))

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
    def test_a_named_pipe(self, model, tmp_path):
        """As the shell's <(…) is one."""
        path = write(tmp_path / "talk.flac", noise(4000))
        os.mkfifo(tmp_path / "pipe")
        with subprocess.Popen(["cp", path, tmp_path / "pipe"]):
            assert torch.equal(model.separate(tmp_path / "pipe"), model.separate(path))

    def test_folders_in_the_home_folder(self, model, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("USERPROFILE", str(tmp_path))
        path = write(tmp_path / "talk.wav", noise(4000))
        model.separate_file(path, "~/one")
        model.separate_file(path, "~/two", return_estimates=False)
        found = model.separate_recording(path, "~/three").audio_paths
        assert found == [tmp_path / "three" / f"talk_spk{n}.wav" for n in (1, 2, 3)]
        assert all((tmp_path / folder / "talk_spk1.wav").is_file() for folder in ("one", "two", "three"))

    def test_a_file_object_or_a_pipe_into_files(self, model, tmp_path):
        path = write(tmp_path / "talk.wav", noise(4000))
        expected = model.separate(path)
        with open(path, "rb") as file, subprocess.Popen(["cat", path], stdout=subprocess.PIPE) as process:
            for name, source in (("bytes", io.BytesIO(path.read_bytes())), ("open", file), ("pipe", process.stdout)):
                found = model.separate_file(source, tmp_path / "out", name=name, channel=0)
                assert torch.equal(found, expected)
                assert (tmp_path / "out" / f"{name}_spk2.wav").is_file()

    def test_a_file_object_is_read_from_where_it_stands(self, model, tmp_path):
        path = write(tmp_path / "talk.wav", noise(4000))
        file = io.BytesIO(b"header" + path.read_bytes())
        file.seek(6)
        assert torch.equal(model.separate(file), model.separate(path))

    def test_integers_have_their_types_full_scale(self, model):
        samples = (noise(4000) * 2**15).astype(np.int16)
        assert torch.equal(model.separate(samples), model.separate(samples / np.float32(2**15)))

    @pytest.mark.parametrize("channel", [None, 1])
    @pytest.mark.parametrize(
        "dtype", ["int8", "int16", "int32", "int64", ">i2", "float16", "float32", "float64", ">f4"]
    )
    def test_every_type_of_samples(self, model, dtype, channel):
        """As its values in float32, at the type's full scale, with and without a channel."""
        full = 2.0 ** (8 * np.dtype(dtype).itemsize - 1) if np.dtype(dtype).kind == "i" else 1.0
        samples = (noise(4000, 2) * full).astype(dtype)
        expected = model.separate((samples / np.longdouble(full)).astype(np.float32), channel=channel)
        found = model.separate(samples, channel=channel)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("channel", [None, 1])
    @pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64, torch.bfloat16, torch.float64])
    def test_every_type_of_tensor(self, model, dtype, channel):
        full = 1.0 if dtype.is_floating_point else float(2 ** (torch.iinfo(dtype).bits - 1))
        samples = (torch.from_numpy(noise(4000, 2)).double() * full).to(dtype)
        expected = model.separate((samples.double() / full).float(), channel=channel)
        torch.testing.assert_close(model.separate(samples, channel=channel), expected, rtol=1e-4, atol=1e-5)

    def test_unsigned_integers_have_zero_in_the_middle(self, model):
        for dtype, middle in ((np.uint8, 128), (np.uint16, 32768)):
            samples = (middle + 100 * np.sign(noise(4000))).astype(dtype)
            expected = (samples.astype(np.float32) - middle) / middle
            assert torch.equal(model.separate(samples), model.separate(expected))
            assert torch.equal(model.separate(torch.from_numpy(samples)), model.separate(expected))

    def test_wherever_the_samples_lie(self, model):
        """Views with gaps, of negative steps or other orders, read-only ones, lists, tensors with a gradient."""
        samples = noise(4000, 2)
        expected = model.separate(samples)
        wide = np.zeros((8000, 6), dtype=np.float32)
        wide[::2, ::3] = samples
        backwards = samples[::-1].copy()[::-1]
        read_only = samples.copy()
        read_only.flags.writeable = False
        tensor = torch.from_numpy(samples)
        for given in (
            wide[::2, ::3],
            backwards,
            np.asfortranarray(samples),
            read_only,
            np.ma.masked_array(samples),
            samples.tolist(),
            tensor.clone().requires_grad_(),
            torch.from_numpy(wide)[::2, ::3],
        ):
            assert torch.equal(model.separate(given), expected)

    def test_channels_first(self, model):
        """As torchaudio reads files."""
        stereo = noise(4000, 2)
        assert torch.equal(model.separate(torch.from_numpy(stereo.T)), model.separate(stereo))
        assert torch.equal(model.separate(stereo.T, channel=1), model.separate(stereo[:, 1]))
        assert torch.equal(model.separate(stereo[None, :, 0]), model.separate(stereo[:, 0]))

    def test_a_rate_that_is_whole(self, model):
        samples = noise(4000)
        for rate in (16000.0, np.int64(16000), torch.tensor(16000)):
            assert torch.equal(model.separate(samples, rate), model.separate(samples, 16000))

    @pytest.mark.parametrize(
        "kind", ["int16", "uint8", "float64", "float16", ">f4", "tensor", "bfloat16", "list", "view"]
    )
    def test_every_kind_of_batch(self, model, kind):
        given = np.round(noise(2, 4000) * 100) / 128  # exact in each of them
        expected = model.separate_batch(torch.from_numpy(given))
        converted = {
            "int16": lambda: (given * 2**15).astype(np.int16),
            "uint8": lambda: (given * 128 + 128).astype(np.uint8),
            "tensor": lambda: (torch.from_numpy(given) * 2**15).short(),
            "bfloat16": lambda: torch.from_numpy(given).bfloat16().requires_grad_(),
            "list": given.tolist,
            "view": lambda: given[:, ::-1].copy()[:, ::-1],
        }.get(kind, lambda: given.astype(kind))()
        assert torch.equal(model.separate_batch(converted), expected)

    def test_stereo_is_one_recording(self, model):
        stereo = noise(4000, 2)
        assert model.separate(stereo).shape == (4000, 3)
        torch.testing.assert_close(model.separate(stereo), model.separate(stereo.mean(1)))

    def test_a_channel_of_numpy(self, model):
        stereo = np.stack((noise(4000), noise(4000)), 1)
        assert torch.equal(model.separate(stereo, channel=np.int64(1)), model.separate(stereo, channel=1))

    def test_one_channel_of_several(self, model):
        stereo = noise(4000, 2)
        assert torch.equal(model.separate(stereo, channel=1), model.separate(stereo[:, 1]))


class TestLevel:
    def at_one_level(self, model, samples):
        """What the network gives at the level at which it gets recordings, and the gain to that level."""
        normalised, gain = normalise(samples - samples.mean(dtype=np.float64).astype(np.float32))
        return model.separate_batch(torch.from_numpy(normalised)[None])[0], gain

    def test_mixture_is_one_gain_by_least_squares(self, model):
        samples = noise(RATE)
        estimates = model.separate(samples, level="mixture")
        ratio = estimates / self.at_one_level(model, samples)[0]
        torch.testing.assert_close(ratio, torch.full_like(ratio, ratio.median().item()), rtol=1e-3, atol=1e-3)
        total = estimates.sum(1)
        assert total @ torch.from_numpy(samples - samples.mean()) == pytest.approx((total @ total).item(), rel=1e-4)

    def test_each_speaker_has_a_gain_of_its_own_by_default(self, model):
        """One that is constant, and what is left of the mixture has nothing in common with any of the estimates."""
        samples = noise(RATE)
        estimates = model.separate(samples)
        ratio = estimates / self.at_one_level(model, samples)[0]
        torch.testing.assert_close(ratio, ratio.median(0).values.expand_as(ratio), rtol=1e-3, atol=1e-3)
        rest = torch.from_numpy(samples - samples.mean()) - estimates.sum(1)
        assert (rest @ estimates).abs().max() <= 1e-3 * estimates.square().sum()

    def test_none_is_the_networks_output(self, model):
        """At the level that it gets recordings at, taken back."""
        samples = noise(RATE)
        estimates, gain = self.at_one_level(model, samples)
        assert torch.equal(model.separate(samples, level="none"), estimates / np.float32(gain))

    def test_peak_is_full_scale_over_all_estimates(self, model):
        samples = noise(RATE)
        estimates, raw = model.separate(samples, level="peak"), model.separate(samples, level="none")
        assert estimates.abs().max() == pytest.approx(1)
        torch.testing.assert_close(estimates, raw / raw.abs().max())

    @pytest.mark.parametrize("level", ["mixture", "none", "peak"])
    @pytest.mark.parametrize("rate", [8000, 16000])
    def test_silence_comes_out_as_silence(self, model, level, rate):
        assert (model.separate(np.zeros(rate), sample_rate=rate, level=level) == 0).all()

    def test_formats_that_clip_get_softer_estimates(self, model, tmp_path, caplog):
        path = write(tmp_path / "loud.wav", 400 * noise(RATE), subtype="FLOAT")
        for return_estimates in (False, True):
            model.separate_file(path, tmp_path / "out", format="flac", return_estimates=return_estimates)
            written = np.stack([soundfile.read(tmp_path / "out" / f"loud_spk{n}.flac")[0] for n in (1, 2, 3)], 1)
            estimates = model.separate(path).numpy()
            np.testing.assert_allclose(written, estimates / abs(estimates).max(), atol=1e-5)
        assert "times full scale, which flac would clip" in caplog.text

    def test_unknown(self, model):
        with pytest.raises(InputError, match="level 'loud' is not known: choose one of speakers, mixture, none, peak"):
            model.separate(noise(4000), level="loud")


class TestFiles:
    @pytest.mark.parametrize("chunking", [None, Chunking(seconds=0.5, overlap=0.2, above=1)])
    @pytest.mark.parametrize("rate", [8000, 44100])
    def test_by_blocks_is_the_same_as_in_one_piece(self, model, tmp_path, rate, chunking):
        path = write(tmp_path / "talk.wav", noise(2 * rate + 5, 2), rate, subtype="FLOAT")
        paths = model.separate_file(path, tmp_path / "out", chunking=chunking, return_estimates=False)
        assert [path.name for path in paths] == ["talk_spk1.wav", "talk_spk2.wav", "talk_spk3.wav"]
        written = np.stack([soundfile.read(path, dtype="float32")[0] for path in paths], 1)
        np.testing.assert_allclose(written, model.separate(path, chunking=chunking), atol=1e-6)

    def test_the_gain_is_that_of_the_whole_recording(self, model, tmp_path, monkeypatch):
        """Three times the recording, the third of it each time, over several blocks."""
        monkeypatch.setattr(model, "separate_batch", lambda mix: mix[..., None].expand(-1, -1, 3))
        samples = noise(2 * BLOCK + 1000)
        path = write(tmp_path / "talk.wav", samples, subtype="FLOAT")
        paths = model.separate_file(path, tmp_path / "out", return_estimates=False)
        for path in paths:
            np.testing.assert_allclose(soundfile.read(path)[0], (samples - samples.mean()) / 3, atol=1e-6)

    def test_names(self, model, tmp_path):
        content = write(tmp_path / "talk.wav", noise(4000)).read_bytes()
        (first, *_) = model.separate_file(content, tmp_path, name="call.1", return_estimates=False)
        assert first == tmp_path / "call.1_spk1.wav" and first.is_file()
        model.separate_file(content, tmp_path, name="call.2")
        # Samples, not bytes: the header of a floating-point WAV file has the time of day in it.
        np.testing.assert_array_equal(soundfile.read(tmp_path / "call.2_spk1.wav")[0], soundfile.read(first)[0])
        for return_estimates in (True, False):
            with pytest.raises(InputError, match="the recording has no name for the files"):
                model.separate_file(content, tmp_path, return_estimates=return_estimates)

    def test_paths_need_a_folder(self, model, tmp_path):
        with pytest.raises(InputError, match="return_estimates=False needs output_folder"):
            model.separate_file(write(tmp_path / "talk.wav", noise(4000)), return_estimates=False)

    def test_nothing_is_written_without_an_output_folder(self, model, tmp_path):
        model.separate_file(write(tmp_path / "talk.wav", noise(4000)))
        assert [path.name for path in tmp_path.iterdir()] == ["talk.wav"]


class TestBadInput:
    """Each has a message of its own, and leaves nothing behind."""

    def fails(self, model, path, tmp_path, message, **options):
        for return_estimates in (True, False):
            with pytest.raises(InputError, match=message):
                model.separate_file(path, tmp_path / "out", return_estimates=return_estimates, **options)
        assert not [*tmp_path.glob("out/*")]

    def test_absent(self, model, tmp_path):
        self.fails(model, tmp_path / "none.wav", tmp_path, "none.wav: there is no such audio file")

    def test_not_audio(self, model, tmp_path):
        (tmp_path / "notes.wav").write_text("Tuesday: buy bread. " * 100)
        self.fails(model, tmp_path / "notes.wav", tmp_path, r"notes.wav: can't be read as audio \(.*It is damaged")

    def test_no_samples(self, model, tmp_path):
        path = write(tmp_path / "empty.wav", np.zeros(0))
        self.fails(model, path, tmp_path, "empty.wav: holds no samples")

    def test_not_a_number(self, model, tmp_path):
        samples = noise(RATE)
        samples[6000] = np.nan
        path = write(tmp_path / "bad.wav", samples, subtype="FLOAT")
        self.fails(model, path, tmp_path, r"bad.wav: sample 6000 \(at 0.750 s\) is NaN or infinite")

    def test_shorter_than_the_encoders_kernel(self, model, tmp_path):
        path = write(tmp_path / "click.wav", np.ones(10), 16000)
        self.fails(model, path, tmp_path, "click.wav: has 5 samples at the model's 8000 Hz; at least 32")

    def test_cut_off(self, model, tmp_path):
        path = write(tmp_path / "talk.flac", noise(200000))
        path.write_bytes(path.read_bytes()[:200000])
        self.fails(model, path, tmp_path, "talk.flac: is truncated: it has at most .* of the 200000 samples")

    def test_no_such_channel(self, model, tmp_path):
        with pytest.raises(InputError, match="has no channel 2: it has 2, counted from 0"):
            model.separate(noise(4000, 2), channel=2)

    def test_something_else(self, model):
        with pytest.raises(InputError, match="a recording is a path, bytes, .* found int"):
            model.separate(3)
        with pytest.raises(InputError, match=r"found shape \[1, 2, 3\]"):
            model.separate(np.zeros((1, 2, 3)))
        for samples, found in (
            (np.zeros(4000, dtype=bool), "floating point or integers; found bool"),
            (np.zeros(4000, dtype=complex), "floating point or integers; found complex128"),
            (np.array(["a", "b"]), "floating point or integers; found <U1"),
            ([0, 1, 2], "a list of integers has no full scale: give an array of their type"),
            ([[0.1, 0.2], [0.3]], "the given list is not an array of samples"),
            (torch.zeros(4000).to_sparse(), "the given Tensor is not an array of samples"),
            (np.float32(1), r"found shape \[\]"),
        ):
            with pytest.raises(InputError, match=found):
                model.separate(samples)
        with pytest.raises(InputError, match="a whole number of Hz, for samples; found 8000.5"):
            model.separate(noise(4000), sample_rate=8000.5)

    def test_nothing(self, model):
        for samples in (np.zeros(0), np.zeros((0, 2)), np.zeros((2, 0)), torch.zeros(0)):
            with pytest.raises(InputError, match=r"the given samples have the shape \[.*there is nothing to separate"):
                model.separate(samples)

    def test_a_batch_of_something_else(self, model):
        for batch, found in (
            (
                "talk.wav",
                "mix must be an array or a tensor, .*; found str. For one recording of any kind, use `separate`",
            ),
            (np.zeros((1, 4000), dtype=bool), "floating point or integers; found bool"),
            (torch.zeros(4000), r"\[batch, samples\], of one channel; found shape \[4000\]"),
            (torch.zeros(1, 0), "at least 32 samples, the encoder's kernel; found 0"),
            (torch.zeros(0, 4000), "a batch must have at least one mixture; found none"),
        ):
            with pytest.raises(InputError, match=found):
                model.separate_batch(batch)
        with pytest.raises(InputError, match="lengths must be an int64 tensor of samples, not list"):
            model.separate_batch(torch.zeros(2, 4000), [4000, 2000])
        with pytest.raises(InputError, match="a batch must have at least one mixture"):
            model.separate_batch(torch.zeros(0, 4000), torch.zeros(0, dtype=torch.int64))

    def test_a_network_that_overflows(self, folder, tmp_path):
        model = MossFormerSeparation.from_hparams(folder, device="cpu")
        with torch.no_grad():
            model.mods.encoder.conv1d.weight.mul_(1e15)
            model.mods.decoder.weight.mul_(1e30)
        with pytest.raises(InputError, match="the network's output is NaN or infinite, and the mixture is not"):
            model.separate_batch(torch.randn(1, 4000))
        with pytest.raises(InputError, match="the network's output is NaN or infinite"):
            model.separate_file(write(tmp_path / "talk.wav", noise(4000)), tmp_path / "out")
        assert not list((tmp_path / "out").glob("*"))

    def test_the_recording_is_not_replaced(self, model, tmp_path):
        path = write(tmp_path / "talk_spk1.wav", noise(4000))
        before = path.read_bytes()
        for options in ({}, {"return_estimates": False}):
            with pytest.raises(InputError, match="talk_spk1.wav: is also a file of its output"):
                model.separate_file(path, tmp_path, name="talk", **options)
        assert path.read_bytes() == before

    def test_the_recording_in_the_home_folder_is_not_replaced(self, model, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("USERPROFILE", str(tmp_path))
        path = write(tmp_path / "talk_spk1.wav", noise(4000))
        before = path.read_bytes()
        with pytest.raises(InputError, match="~/talk_spk1.wav: is also a file of its output"):
            model.separate_recording("~/talk_spk1.wav", "~", name="talk")
        assert path.read_bytes() == before

    @pytest.mark.parametrize("seconds", [0.002, 1e-5])
    def test_chunks_shorter_than_the_encoders_kernel(self, model, seconds):
        chunking = Chunking(seconds=seconds, overlap=seconds / 2, above=0.2)
        with pytest.raises(InputError, match=r"chunks of .* s have .*Give longer ones \(--chunk_seconds"):
            model.separate(noise(4000), chunking=chunking)

    @pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
    def test_a_batch_with_nan_or_infinity(self, model, wrong):
        batch = torch.from_numpy(noise(3 * 4000)).view(3, 4000)
        batch[1, 3000] = wrong
        with pytest.raises(InputError, match="mix: items 1 of the batch hold NaN or infinity"):
            model.separate_batch(batch)
        lengths = torch.tensor([4000, 2000, 4000])
        assert model.separate_batch(batch, lengths).isfinite().all()  # in the padding it makes no difference
        batch[2, 0] = wrong
        with pytest.raises(InputError, match="mix: items 2 of the batch hold"):
            model.separate_batch(batch, lengths)

    def test_samples_beyond_single_precision(self, model):
        with pytest.raises(InputError, match="sample 0 .* is NaN or infinite"):
            model.separate(np.full(4000, 1e300))

    def test_files_that_are_not_here(self, model):
        """As SpeechBrain's class would fetch them."""
        hub = r"If it is on the Hugging Face hub, .*hf_hub_download\('owner/name', 'a/mixture.wav'\) returns its"
        with pytest.raises(InputError, match=hub):
            model.separate_file("owner/name/a/mixture.wav")
        with pytest.raises(InputError, match="there is no such audio file. Download it, and give the path"):
            model.separate("https://host/mixture.wav")
        with pytest.raises(InputError, match="savedir keep: has no effect here, since only local files are separated"):
            model.separate_file("talk.wav", savedir="keep")

    def test_the_output_folder_of_a_training(self, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "hyperparams.yaml").write_text("seed: !apply:os.abort\n")
        TrainingRecord().write(tmp_path / "out")
        for trust in (False, True):
            with pytest.raises(InputError, match="out: is the output folder of a training. Its model is in .*export"):
                MossFormerSeparation.from_hparams(tmp_path / "out", trust=trust)

    def test_a_rate_for_a_file(self, model, tmp_path):
        path = write(tmp_path / "talk.wav", noise(4000))
        with pytest.raises(InputError, match="sample_rate 16000 is given for a file, which has its own"):
            model.separate(path, sample_rate=16000)

    def test_output_folder(self, model, tmp_path):
        path = write(tmp_path / "talk.wav", noise(4000))
        (tmp_path / "out").write_text("a file is in the way")
        for return_estimates in (True, False):
            with pytest.raises(InputError, match=r"out: can't write to this folder \(File exists\)"):
                model.separate_file(path, tmp_path / "out", return_estimates=return_estimates)

    def test_formats(self, model, tmp_path):
        path = write(tmp_path / "talk.wav", noise(4000))
        self.fails(model, path, tmp_path, "format 'wma' is not known: choose one of wav, flac, ogg, mp3", format="wma")
        path = write(tmp_path / "fast.wav", noise(96000), 96000)
        self.fails(model, path, tmp_path, "mp3 files can't have 96000 Hz: choose another format", format="mp3")

    def test_a_rate_at_which_the_library_ends_the_process(self, model, tmp_path):
        path = write(tmp_path / "fast.wav", noise(96000), 384000)
        self.fails(model, path, tmp_path, "ogg files can't have 384000 Hz: choose another format", format="ogg")
        check_format("ogg", 200_000)

    @pytest.mark.parametrize("extension", FORMATS)
    def test_full_disk(self, model, tmp_path, extension):
        """No file may grow beyond a limit: writing fails as on a full disk, in the temporary file or in the outputs."""
        path = write(tmp_path / "talk.wav", noise(3 * RATE), subtype="FLOAT")
        for return_estimates in (False, True):
            with largest_file(2000), pytest.raises(InputError, match=r"can't be written \(.+\). Is the disk full"):
                model.separate_file(path, tmp_path / "out", extension, return_estimates=return_estimates)
            assert list((tmp_path / "out").iterdir()) == []

    def test_an_encoder_that_loses_samples(self, model, tmp_path, monkeypatch):
        path = write(tmp_path / "talk.wav", noise(4000))
        write_all = soundfile.SoundFile.write
        monkeypatch.setattr(soundfile.SoundFile, "write", lambda file, samples: write_all(file, samples[:-1]))
        self.fails(model, path, tmp_path, "can't be written .the file is shorter than the written data")


@contextlib.contextmanager
def largest_file(num_bytes):
    resource = pytest.importorskip("resource", reason="needs limits as Unix has them")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


class TestDevices:
    @pytest.fixture
    def machine(self, monkeypatch):
        def have(cuda, mps):
            monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
            monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
            monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

        return have

    def test_auto_is_the_best_there_is(self, machine):
        for cuda, mps, best in ((2, True, "cuda"), (0, True, "mps"), (0, False, "cpu")):
            machine(cuda, mps)
            assert choose_device("auto") == best

    def test_one_of_several(self, machine):
        machine(2, False)
        assert choose_device("cuda:1") == "cuda:1"
        with pytest.raises(InputError, match="'cuda:2' is not available; available: 2 of kind cuda, 1 of kind cpu"):
            choose_device("cuda:2")

    @pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
    def test_however_the_device_is_named(self, folder, device):
        for options in (
            {"device": device},
            {"run_opts": {"device": device}},
            {"run_opts": RunOptions.from_dictionary({"device": device})},
            {"device": device, "run_opts": {"device": "cuda"}},
        ):
            model = MossFormerSeparation.from_hparams(folder, **options)
            assert (model.device, model.device_type) == ("cpu", "cpu")

    def test_every_way_to_name_a_device_that_is_absent(self, folder, machine):
        machine(0, False)
        for options in (
            {"device": "cuda"},
            {"device": torch.device("cuda", 1)},
            {"run_opts": {"device": "cuda"}},
            {"run_opts": RunOptions.from_dictionary({"device": "cuda:0"})},
        ):
            for trust in (False, True):
                with pytest.raises(InputError, match="device 'cuda.*' is not available; available: 1 of kind cpu"):
                    MossFormerSeparation.from_hparams(folder, trust=trust, **options)

    def test_a_gpu_without_a_number_is_the_current_one(self, machine, monkeypatch):
        """SpeechBrain would warn that it can't find a number in the name."""
        machine(2, False)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
        for run_opts in (None, {"device": "cuda"}, RunOptions.from_dictionary({"device": "cuda"})):
            assert with_device(run_opts, None)["device"] == "cuda:1"

    @pytest.mark.parametrize("option", ["jit", "data_parallel_backend"])
    def test_options_of_training(self, folder, option):
        with pytest.raises(InputError, match=f"run_opts: {option} is not supported for inference. Remove it"):
            MossFormerSeparation.from_hparams(folder, device="cpu", run_opts={option: True})

    def test_unknown_and_absent(self, machine):
        machine(0, False)
        with pytest.raises(InputError, match="device 'gpu' is not known: choose auto, cpu, mps, cuda"):
            choose_device("gpu")
        with pytest.raises(InputError, match="device 'cuda' is not available; available: 1 of kind cpu"):
            choose_device("cuda")
