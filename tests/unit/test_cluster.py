"""Maps on a Dask cluster: the same files as without one, also if workers are killed; and errors."""

import functools
import logging
import os
import signal
import sys
import threading
import time

import numpy as np
import pytest
import soundfile
import torch

pytest.importorskip("distributed")

import dask  # noqa: E402
from distributed import Client, LocalCluster  # noqa: E402
from distributed.utils import get_mp_context  # noqa: E402

from data_prep.__main__ import main as prepare_main  # noqa: E402
from data_prep.generate.__main__ import main as generate_main  # noqa: E402
from data_prep.generate.engine import run  # noqa: E402
from data_prep.parallel import on_cluster, process_map  # noqa: E402
from mossformer_sb import InputError, MossFormerSeparator  # noqa: E402
from mossformer_sb.cli import main, separate_cluster  # noqa: E402
from mossformer_sb.cli.separate_cluster import ModelChoice  # noqa: E402
from mossformer_sb.sharing.folder import export  # noqa: E402
from mossformer_sb.utils import cluster as cluster_module  # noqa: E402
from mossformer_sb.utils.cluster import Cluster  # noqa: E402
from tests.forked import LIBRARIES  # noqa: E402
from tests.unit import cluster_items  # noqa: E402
from tests.unit.generate_items import plan, tree  # noqa: E402
from tests.unit.small_corpus import NUMBERS, write_source  # noqa: E402
from tests.unit.test_generate_librimix import write_noise, write_speech  # noqa: E402

RATE = 8000


@pytest.fixture(scope="module")
def processes():
    """A cluster of two worker processes on this machine, which are forked when PyTorch has been imported once."""
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        get_mp_context().set_forkserver_preload([*LIBRARIES, "distributed", "mossformer_sb.inference.separation"])
        with LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=logging.CRITICAL
        ) as made:
            yield made


@pytest.fixture(scope="module")
def threads():
    """A cluster whose one worker is a thread of this process: it starts at once."""
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0", silence_logs=logging.CRITICAL
    ) as made:
        yield made


def fails(*parts, address, folder, **options):
    with pytest.raises(InputError) as caught, Cluster(address, folder, **options):
        pass
    for part in parts:
        assert part in str(caught.value)


class TestMap:
    def test_one_worker_does_all_the_work(self, threads, tmp_path):
        with Cluster(threads.scheduler_address, tmp_path) as cluster:
            found = list(cluster.map(cluster_items.where, range(20)))
        assert [item for item, *_ in found] == list(range(20))
        assert threading.get_ident() not in {thread for *_, thread in found}
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("bundle", [None, 1, 7])
    def test_order(self, processes, tmp_path, bundle):
        with Cluster(processes.scheduler_address, tmp_path) as cluster:
            assert list(cluster.map(cluster_items.uneven, range(20), bundle=bundle)) == list(range(20))
            assert sorted(cluster.map(cluster_items.uneven, range(20), False, bundle)) == list(range(20))
            assert list(cluster.map(cluster_items.uneven, [])) == []

    def test_errors_of_items_are_raised_as_without_a_cluster(self, threads, tmp_path):
        with (
            Cluster(threads.scheduler_address, tmp_path) as cluster,
            pytest.raises(InputError, match="item [0-2] is wrong. Give another one."),
        ):
            list(cluster.map(cluster_items.fail, range(3)))

    def test_an_item_that_kills_all_workers(self, processes, tmp_path):
        allowed, processes.scheduler.allowed_failures = processes.scheduler.allowed_failures, 0
        try:
            with (
                Cluster(processes.scheduler_address, tmp_path) as cluster,
                pytest.raises(InputError, match="were killed by one item, probably out of memory"),
            ):
                list(cluster.map(cluster_items.die, [0]))
        finally:
            processes.scheduler.allowed_failures = allowed

    def test_a_cluster_that_ends(self, tmp_path):
        with LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0", silence_logs=logging.CRITICAL
        ) as made:
            with Cluster(made.scheduler_address, tmp_path) as cluster:
                found = cluster.map(cluster_items.uneven, [0] * 100, bundle=1)
                next(found)
                made.close()
                with pytest.raises(InputError, match="has shut down. Finished files are kept"):
                    list(found)


class TestChecks:
    def test_without_the_extra(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "distributed", None)
        fails("pip install 'mossformer_sb[cluster]'", address="tcp://127.0.0.1:1", folder=tmp_path)

    @pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense://x", "no address"])
    def test_no_scheduler_responds(self, tmp_path, monkeypatch, address):
        monkeypatch.setattr(cluster_module, "CONNECT_SECONDS", 0.5)
        fails(f"no cluster responds at {address}", "dask scheduler", address=address, folder=tmp_path)

    def test_no_worker(self, tmp_path, monkeypatch):
        monkeypatch.setattr(cluster_module, "CONNECT_SECONDS", 0.5)
        with LocalCluster(n_workers=0, dashboard_address=":0") as made:
            fails("has no worker", "dask worker ADDRESS", address=made.scheduler_address, folder=tmp_path)

    def test_another_version(self, processes, tmp_path, monkeypatch):
        monkeypatch.setattr(cluster_module, "__version__", "99.1")
        fails("has mossformer_sb 0.", "and 99.1 is needed", address=processes.scheduler_address, folder=tmp_path)

    def test_a_worker_without_the_clone(self, processes, tmp_path):
        options = {"address": processes.scheduler_address, "folder": tmp_path, "package": "no_such_package"}
        fails("can't import no_such_package", "in PYTHONPATH", **options)

    def test_an_output_folder_that_workers_do_not_see(self, processes, tmp_path, monkeypatch):
        monkeypatch.setattr(cluster_module, "_look", cluster_items.look_elsewhere)
        fails(
            f"does not have the same folders: {tmp_path} (No such file",
            address=processes.scheduler_address,
            folder=tmp_path,
        )
        assert not list(tmp_path.iterdir())

    def test_an_input_that_is_another_one_there(self, processes, tmp_path, monkeypatch):
        (tmp_path / "in").mkdir()
        monkeypatch.setattr(cluster_module, "_content", lambda path: "as it is here")
        options = {"address": processes.scheduler_address, "folder": tmp_path, "paths": [tmp_path / "in"]}
        fails(f"{tmp_path / 'in'} does not exist there, or is another one. Mount them under the same paths", **options)

    def test_a_worker_that_comes_later_and_sees_nothing(self, processes, tmp_path):
        with Cluster(processes.scheduler_address, tmp_path) as cluster:
            next(tmp_path.glob(".cluster-*")).unlink()
            with pytest.raises(InputError, match="does not have the same .* as the others"):
                list(cluster.map(cluster_items.uneven, [1]))

    def test_under_torchrun(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert main(["separate", str(tmp_path), "--cluster", "tcp://x:1"]) == 2
        assert "--cluster is given under torchrun" in capsys.readouterr().err
        words = ["librimix", "--output_folder", str(tmp_path / "out"), "--cluster", "tcp://x:1"]
        assert generate_main(words) == 2
        assert "--cluster is given under torchrun" in capsys.readouterr().err

    def test_with_workers(self, tmp_path, capsys):
        words = ["--data_folder", str(tmp_path), "--output_folder", str(tmp_path / "out"), "--workers", "2"]
        assert prepare_main(["many_speakers", *words, "--cluster", "tcp://x:1"]) == 2
        assert "--workers 2 and --cluster are given" in capsys.readouterr().err

    def test_with_the_standard_streams(self, capsys):
        assert main(["separate", "-", "--cluster", "tcp://x:1"]) == 2
        assert "the standard input (-) can't be read by the workers" in capsys.readouterr().err
        assert main(["separate", "x", "--output_folder", "-", "--only", "1", "--cluster", "tcp://x:1"]) == 2
        assert "remove --cluster" in capsys.readouterr().err


class TestCorpora:
    def test_the_same_tree_with_a_worker_killed_in_the_middle(self, processes, tmp_path):
        run(plan(), tmp_path / "whole", workers=1)
        make = functools.partial(cluster_items.make_killed_once, tmp_path / "marker")
        with on_cluster(processes.scheduler_address, tmp_path / "out"):
            run(plan(make=make), tmp_path / "out")
        assert (tmp_path / "marker").exists()
        assert tree(tmp_path / "out") == tree(tmp_path / "whole")

    def test_a_list_of_one_stays_here(self, processes, tmp_path):
        with on_cluster(processes.scheduler_address, tmp_path):
            with process_map(cluster_items.where, workers=1) as mapped:
                assert next(iter(mapped([1])))[1] == os.getpid()
            with process_map(cluster_items.where) as mapped:
                assert next(iter(mapped([1])))[1] != os.getpid()
        with process_map(cluster_items.where, workers=1) as mapped:
            assert next(iter(mapped([1])))[1] == os.getpid()

    def test_the_corpus_of_many_speakers(self, processes, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        source = {key: os.path.relpath(path) for key, path in write_source(tmp_path).items()}
        numbers = {key: number for key, number in NUMBERS.items() if key != "workers"}
        words = [str(word) for key, value in (source | numbers).items() for word in (f"--{key}", value)]
        words = ["many_speakers", *words, "--output_folder", "manifests", "--data_folder"]
        assert prepare_main([*words, "here", "--workers", "1"]) == 0
        assert prepare_main([*words, "there", "--cluster", processes.scheduler_address]) == 0
        here, there = tree(tmp_path / "here"), tree(tmp_path / "there")
        audio = {path for path in here if path.endswith((".wav", ".npy"))}
        assert there.keys() == here.keys() and len(audio) > 40
        assert all(there[path] == here[path] for path in audio)

    def test_librimix_of_own_speech(self, processes, tmp_path, monkeypatch):
        """Relative paths mean the same on a worker, whose working directory is another one."""
        monkeypatch.chdir(tmp_path)
        write_speech(tmp_path / "speech", speakers=10, each=2)
        write_noise(tmp_path / "noise")
        words = ["librimix", "--from_speech", "speech", "--noise", "noise", "--min_seconds", "0.5", "--output_folder"]
        assert generate_main([*words, "here", "--workers", "1"]) == 0
        assert generate_main([*words, "there", "--cluster", processes.scheduler_address]) == 0
        here, there = tree(tmp_path / "here"), tree(tmp_path / "there")
        audio = {path for path in here if path.endswith(".wav")}
        assert there.keys() == here.keys() and audio
        assert all(there[path] == here[path] for path in audio)
        assert generate_main([*words, "here", "--cluster", processes.scheduler_address]) == 0  # nothing is left to do


class TestSeparate:
    @pytest.fixture(scope="class")
    def model(self, tmp_path_factory):
        torch.manual_seed(0)
        modules = dict(MossFormerSeparator.from_size("mini").named_children())
        return export(tmp_path_factory.mktemp("export") / "model", modules, RATE)

    @pytest.fixture
    def archive(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "in").mkdir()
        for number in range(12):
            soundfile.write(tmp_path / "in" / f"{number:02d}.wav", 0.1 * np.random.randn(4000), RATE)
        (tmp_path / "in" / "bad.wav").write_text("no audio")
        return tmp_path / "in"

    def contents(self, folder):
        """Samples: the headers of floating-point WAV files have the time of day in them."""
        return {path.name: soundfile.read(path, dtype="float32")[0].tobytes() for path in folder.iterdir()}

    def test_the_same_files_with_a_worker_killed_in_the_middle(
        self, processes, model, archive, tmp_path, capsys, caplog
    ):
        killed = []

        def kill():
            with Client(processes.scheduler_address, set_as_default=False) as client:
                pids = list(client.run(os.getpid).values())
                end = time.time() + 100  # otherwise a program that writes nothing would be waited for forever
                while not any((tmp_path / "out").glob("*.wav")) and time.time() < end:
                    time.sleep(0.01)
                os.kill(pids[0], signal.SIGKILL)
                killed.append(pids[0])

        words = ["separate", "in", "--model", os.path.relpath(model), "--device", "cpu", "--output_folder"]
        assert main([*words, "single"]) == 1
        thread = threading.Thread(target=kill)
        thread.start()
        capsys.readouterr()
        caplog.clear()
        assert main([*words, "out", "--cluster", processes.scheduler_address]) == 1
        thread.join()
        shown = capsys.readouterr()
        assert killed and "12 of 13 recordings separated, 1 failed" in shown.out
        assert caplog.text.count("bad.wav: can't be read as audio") == 1
        assert "s of audio per second" in shown.err
        assert self.contents(tmp_path / "out") == self.contents(tmp_path / "single")
        # What is there is left alone, and nobody is asked for it.
        (archive / "bad.wav").unlink()
        assert main([*words, "out", "--cluster", "tcp://127.0.0.1:1"]) == 0
        assert "0 of 12 recordings separated, 12 were already there" in capsys.readouterr().out


def test_the_packaged_model_is_that_of_each_worker():
    """Not a path on this machine."""
    model = separate_cluster._model(ModelChoice(None, "cpu", False, None))
    assert model.hparams.num_spks == 2


def test_a_worker_loads_what_the_folder_holds_now(tmp_path):
    """It lives on when the program has ended, and the model may be exported again."""
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        networks = MossFormerSeparator.from_size("mini").named_children()
        export(tmp_path / "model", dict(networks), sample_rate=RATE)
        choice = ModelChoice(str(tmp_path / "model"), "cpu", False, None)
        models.append(separate_cluster._model(choice))
        assert separate_cluster._model(choice) is models[-1]
    first, second = (model.mods.encoder.conv1d.weight for model in models)
    assert not torch.equal(first, second)
