"""Many recordings at once: the same files as one at a time, for all batches and errors."""

import threading
import time

import numpy as np
import pytest
import soundfile
import torch

from mossformer_sb import InputError, MossFormerSeparator
from mossformer_sb.cli import main
from mossformer_sb.cli.progress import Progress
from mossformer_sb.inference import batches
from mossformer_sb.inference.batches import BatchLimit, separate_pieces
from mossformer_sb.inference.bulk import Ahead, separate_recordings, uses_io_threads
from mossformer_sb.inference.chunking import Chunking
from mossformer_sb.inference.output_files import Output
from mossformer_sb.inference.prepared import Piece
from mossformer_sb.inference.separation import MossFormerSeparation
from mossformer_sb.sharing.folder import export

RATE = 8000
CHUNKING = Chunking(seconds=0.5, overlap=0.2, above=1)
# seconds, Hz, channels: shorter and longer than a chunk, and of other rates
RECORDINGS = {"a": (0.3, 8000, 1), "b": (2.3, 8000, 1), "c": (0.7, 16000, 2), "d": (1.6, 11025, 1), "e": (0.3, 8000, 1)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    modules = dict(MossFormerSeparator.from_size("mini").named_children())
    return export(tmp_path_factory.mktemp("export") / "model", modules, RATE)


@pytest.fixture(scope="module")
def model(folder):
    return MossFormerSeparation.from_hparams(source=folder, device="cpu")


@pytest.fixture
def archive(tmp_path):
    return write_archive(tmp_path / "in")


def write_archive(folder):
    folder.mkdir()
    for name, (seconds, rate, channels) in RECORDINGS.items():
        soundfile.write(folder / f"{name}.wav", 0.1 * np.random.randn(round(seconds * rate), channels), rate)
    soundfile.write(folder / "silent.wav", np.zeros(4000), RATE)
    return folder


def tasks(archive, output):
    return [(path, output, path.stem) for path in sorted(archive.iterdir())]


def contents(folder):
    return {path.name: soundfile.read(path, dtype="float32")[0] for path in sorted(folder.iterdir())}


def piece(length, value=1.0):
    return Piece(np.full(length, value, dtype=np.float32), 1.0, 0, True)


@pytest.fixture(autouse=True, params=[True, False], ids=["threads", "sequential"])
def io_threads(request, monkeypatch):
    """Reading and writing in separate threads, or sequentially: the same results."""
    monkeypatch.setattr("mossformer_sb.inference.bulk.uses_io_threads", lambda device: request.param)


@pytest.mark.parametrize("device, threads, expected", [("cpu", 1, True), ("cpu", 2, False), ("cuda", 2, True)])
def test_several_threads_of_the_network_are_not_disturbed(monkeypatch, device, threads, expected):
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    assert uses_io_threads(device) == expected


class TestTheSameFiles:
    @pytest.fixture(scope="class")
    def separated(self, model, tmp_path_factory):
        """An archive, and its files by one recording after the other."""
        folder = tmp_path_factory.mktemp("single")
        for path in sorted(write_archive(folder / "in").iterdir()):
            model.separate_recording(path, folder / "out", chunking=CHUNKING, batch_size=1)
        return folder / "in", contents(folder / "out")

    @pytest.mark.parametrize("batch_size", [None, 2, 16])
    def test_as_one_at_a_time(self, model, separated, tmp_path, batch_size):
        archive, expected = separated
        found = list(
            separate_recordings(
                model, tasks(archive, tmp_path / "bulk"), Output(), chunking=CHUNKING, batch_size=batch_size
            )
        )
        assert [result.num_samples for result in found] == [
            *(round(seconds * rate) for seconds, rate, _ in RECORDINGS.values()),
            4000,
        ]
        written = contents(tmp_path / "bulk")
        assert written.keys() == expected.keys() and len(written) == 12
        for name, samples in expected.items():
            np.testing.assert_allclose(written[name], samples, atol=1e-6)

    def test_chunks_of_one_recording_go_together(self, model, monkeypatch):
        sizes, separate_batch = [], model.separate_batch

        def counted(mix, lengths=None):
            sizes.append(tuple(mix.shape) if lengths is None else "padded")
            return separate_batch(mix, lengths)

        monkeypatch.setattr(model, "separate_batch", counted)
        samples = 0.1 * np.random.randn(18400).astype(np.float32)  # seven chunks of one length
        expected = model.separate(samples, chunking=CHUNKING, batch_size=1)
        sizes.clear()
        found = model.separate(samples, chunking=CHUNKING, batch_size=4)
        assert sizes == [(4, 4000), (3, 4000)]
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)

    def test_the_same_list_gives_the_same_bits(self, model, archive, tmp_path):
        for name in ("first", "second"):
            list(separate_recordings(model, tasks(archive, tmp_path / name), Output(), batch_size=3))
        first, second = contents(tmp_path / "first"), contents(tmp_path / "second")
        assert all(np.array_equal(samples, second[name]) for name, samples in first.items())

    def test_levels_and_channels(self, model, archive, tmp_path):
        options = {"level": "peak", "channel": 1}
        (found,) = separate_recordings(model, [(archive / "c.wav", tmp_path / "bulk", "c")], Output(), **options)
        single = model.separate_recording(archive / "c.wav", tmp_path / "single", **options)
        assert found.speakers[0]["level_db"] == single.speakers[0]["level_db"]


class TestOneBadRecording:
    """It fails alone: before, within and after the network."""

    def results(self, model, archive, tmp_path, **options):
        found = separate_recordings(
            model, tasks(archive, tmp_path / "out"), Output(), chunking=CHUNKING, batch_size=4, **options
        )
        return {path.stem: result for (path, *_), result in zip(tasks(archive, tmp_path), found, strict=True)}

    def failed(self, results):
        return {name: str(found) for name, found in results.items() if isinstance(found, Exception)}

    def test_that_is_no_audio(self, model, archive, tmp_path):
        (archive / "b.wav").write_text("no audio")
        failed = self.failed(self.results(model, archive, tmp_path))
        assert failed.keys() == {"b"} and "b.wav: can't be read as audio" in failed["b"]
        assert len(list((tmp_path / "out").iterdir())) == 10

    def test_that_breaks_off_after_some_chunks(self, model, archive, tmp_path):
        samples = 0.1 * np.random.randn(5 * RATE).astype(np.float32)
        samples[-10] = np.nan
        soundfile.write(archive / "b.wav", samples, RATE, subtype="FLOAT")
        failed = self.failed(self.results(model, archive, tmp_path))
        assert failed.keys() == {"b"} and "b.wav: sample 39990" in failed["b"]
        assert not list((tmp_path / "out").glob("*b*"))

    def test_that_the_network_fails_with(self, model, archive, tmp_path, monkeypatch):
        separate_batch = model.separate_batch
        wrong = len(soundfile.read(archive / "e.wav")[0])

        def failing(mix, lengths=None):
            if wrong in (lengths.tolist() if lengths is not None else [mix.shape[1]]):
                raise RuntimeError("no")
            return separate_batch(mix, lengths)

        (archive / "a.wav").unlink()  # of the same length
        monkeypatch.setattr(model, "separate_batch", failing)
        assert self.failed(self.results(model, archive, tmp_path)) == {"e": "no"}

    def test_that_can_not_be_written(self, model, archive, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "b_spk1.wav").mkdir()  # in the way
        failed = self.failed(self.results(model, archive, tmp_path))
        assert failed.keys() == {"b"} and "can't be written" in failed["b"]
        assert not (tmp_path / "out" / "b_spk2.wav").exists()

    def test_a_bug_is_reported_with_its_traceback(self, folder, archive, tmp_path, monkeypatch, caplog, capsys):
        def failing(self, mix, lengths=None):
            raise ValueError("a fault")

        monkeypatch.setattr(MossFormerSeparation, "separate_batch", failing)
        words = ["--model", str(folder), "--output_folder", str(tmp_path / "out"), "--batch-size", "2"]
        assert main(["separate", str(archive), *words]) == 1
        assert "1 of 6 recordings separated, 5 failed" in capsys.readouterr().out  # silence needs no network
        assert caplog.text.count("ValueError: a fault") == 5

    def test_resumes(self, folder, archive, tmp_path, capsys):
        content = (archive / "b.wav").read_bytes()
        (archive / "b.wav").write_text("no audio")
        words = ["separate", str(archive), "--model", str(folder), "--output_folder", str(tmp_path / "out")]
        assert main([*words, "--batch-size", "4"]) == 1
        assert "5 of 6 recordings separated, 1 failed" in capsys.readouterr().out
        (archive / "b.wav").write_bytes(content)
        assert main([*words, "--batch-size", "4"]) == 0
        assert "1 of 6 recordings separated, 5 were already there (" in capsys.readouterr().out


class TestBatches:
    def shapes(self, lengths, limit):
        seen = []

        def network(signals):
            seen.append([len(signal) for signal in signals])
            return [signal[:, None] for signal in signals]

        found = list(separate_pieces(network, [(n, piece(n)) for n in lengths], limit))
        assert [(n, len(estimates)) for n, _, estimates in found] == [(n, n) for n in lengths]
        return seen

    def test_neighbours_in_length_go_together(self):
        assert self.shapes([10, 100, 11, 101, 9], BatchLimit(2)) == [[101, 100], [11, 10], [9]]

    def test_one_at_a_time_in_their_order(self):
        assert self.shapes([10, 100, 11], BatchLimit(1)) == [[10], [100], [11]]

    def test_results_are_passed_on_before_the_next_batch(self):
        calls = []
        found = separate_pieces(
            lambda batch: calls.append(len(batch)) or batch, [(n, piece(10)) for n in range(8)], BatchLimit(2)
        )
        assert [next(found)[0] for _ in range(3)] == [0, 1, 2] and calls == [2, 2]

    def test_windows_are_bounded(self, monkeypatch):
        """Of ten thousand pieces, never more are taken than four batches."""
        taken = 0

        def pieces():
            nonlocal taken
            for number in range(10000):
                taken += 1
                yield number, piece(10)

        next(separate_pieces(lambda signals: signals, pieces(), BatchLimit(8)))
        assert taken == 32
        monkeypatch.setattr(batches, "WINDOW_SAMPLES", 5)
        taken = 0
        next(separate_pieces(lambda signals: signals, pieces(), BatchLimit(8)))
        assert taken == 16

    def test_silence_needs_no_network(self):
        (found,) = separate_pieces(None, [("a", piece(10, 0.0))], BatchLimit(4))
        assert found[2] is None

    def test_out_of_memory_batches_are_repeated_in_smaller_ones(self, caplog):
        seen = []

        def network(signals):
            if len(signals) > 2:
                raise torch.OutOfMemoryError("out of memory")
            seen.append(len(signals))
            return signals

        limit = BatchLimit(8)
        assert len(list(separate_pieces(network, [(n, piece(10)) for n in range(12)], limit))) == 12
        assert seen == [2] * 6 and limit.most == 2
        assert "a batch of 8 does not fit into memory: the batch size is now at most 4" in caplog.text

    @pytest.mark.parametrize("wrong", [0, -1, 2.5])
    def test_a_size_that_is_none(self, wrong):
        with pytest.raises(InputError, match=f"batch size {wrong}: give an integer of at least 1"):
            BatchLimit(wrong)

    def test_a_gpu_is_measured_with_the_first_piece(self, monkeypatch):
        """10 samples took 1000 bytes, and half of 8000 is free for a batch: 40 samples."""
        memory = {"reset_peak_memory_stats": None, "memory_allocated": 500, "max_memory_allocated": 1500}
        memory |= {"mem_get_info": (7000, 9999), "memory_reserved": 1500}
        for name, value in memory.items():
            monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
        limit = BatchLimit(device="cuda:0")
        assert self.shapes([10] * 5, limit) == [[10], [10, 10, 10, 10]]
        assert limit.allows(2, 20) and not limit.allows(2, 21) and limit.allows(1, 1000)

    def test_on_a_cpu_one_is_the_default(self):
        assert BatchLimit(device="cpu").most == batches.CPU_BATCH


class TestAhead:
    def test_no_more_than_may_wait(self):
        taken = []
        items = Ahead((taken.append(number) or number for number in range(100)), 3)
        assert next(items) == 0
        time.sleep(0.3)
        assert len(taken) <= 5  # one given, three waiting, one in hand
        items.close()

    def test_errors_come_in_their_place(self):
        def failing():
            yield 1
            raise ValueError("two")

        items = Ahead(failing(), 1)
        assert next(items) == 1
        with pytest.raises(ValueError, match="two"):
            next(items)
        assert list(items) == []

    def test_no_thread_is_left_when_work_is_cancelled(self, model, archive, tmp_path):
        before = set(threading.enumerate())
        found = separate_recordings(model, tasks(archive, tmp_path / "out"), Output(), batch_size=2)
        next(found)
        found.close()
        assert set(threading.enumerate()) <= before


def test_progress_shows_speed_and_time_left_by_size(tmp_path):
    jobs = []
    for name, size in (("a", 100), ("b", 300)):
        (tmp_path / name).write_bytes(b"0" * size)
        jobs.append(type("Job", (), {"path": tmp_path / name})())
    now = [0.0]
    with Progress(jobs, hidden=True, clock=lambda: now[0]) as progress:
        now[0] = 10.0
        progress.add(0, 80000, 80000, RATE)
        progress.finish(0)
        assert progress.text() == "1.0 s of audio per second, 0:30 left"
        now[0] = 20.0
        progress.add(1, 120000, 240000, RATE)
        assert progress.text() == "1.2 s of audio per second, 0:12 left"


def test_progress_is_shown(folder, archive, tmp_path, capsys):
    assert main(["separate", str(archive), "--model", str(folder), "--output_folder", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().err
    assert "6/6 recordings" in shown and "s of audio per second" in shown and "left" in shown
