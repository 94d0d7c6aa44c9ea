"""train.py as torchrun starts it."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.forked import Program
from tests.integration.corpora import write_easy_wham
from tests.integration.programs import ENVIRONMENT, ROOT, SMALL, WHAM, train

LONGEST = 300  # seconds, many times as long as it takes
MOSSFORMER2 = ROOT / "hparams" / "mossformer2_wham.yaml"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_easy_wham(tmp_path_factory.mktemp("data") / "wham", {"tr": 24, "cv": 3, "tt": 3})


class TestTwoProcesses:
    """As torchrun starts them, on the CPU."""

    OPTIONS = ["--distributed_backend", "gloo", "--number_of_epochs", 1, "--batches_per_epoch", 3]
    OPTIONS += ["--valid_batch_size", 1, "--n_audio_to_save", 2]

    def torchrun(self, *arguments, cwd):
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        words = [*launcher, str(ROOT / "train.py"), *map(str, arguments)]
        printed = Path(cwd) / "printed.txt"  # a pipe would be kept open by processes that were left behind
        with open(printed, "wb") as file:
            process = subprocess.Popen(words, cwd=cwd, env=ENVIRONMENT, stdout=file, stderr=subprocess.STDOUT)
            try:
                process.wait(LONGEST)
            except subprocess.TimeoutExpired:
                process.terminate()  # torchrun then ends the ranks
                process.wait()
        return subprocess.CompletedProcess(words, process.returncode, printed.read_text(errors="replace"))

    def ranks(self, *arguments, cwd):
        """Two processes with the environment that torchrun gives; whether torchrun itself starts one is tested once."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        common = {**ENVIRONMENT, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        common |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        places = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
        programs = [Program([ROOT / "train.py", *arguments], cwd, {**common, **place}) for place in places]
        end = time.monotonic() + LONGEST
        while None in (codes := [program.poll() for program in programs]) and not any(codes):
            time.sleep(0.05)
            if time.monotonic() > end:
                codes = [-signal.SIGKILL]
                break
        if any(codes):  # as torchrun does, instead of leaving the other one waiting
            for program in programs:
                program.kill()
        printed = "".join(program.wait().stdout for program in programs)
        return subprocess.CompletedProcess(arguments, next(filter(None, codes), 0), printed)

    @pytest.mark.parametrize(
        ("hparams", "size", "start"), [(WHAM, "mini", "torchrun"), (MOSSFORMER2, "2mini", "ranks")]
    )
    def test_train_evaluate_and_export_as_one(self, corpus, tmp_path, hparams, size, start):
        small = [size if word == "mini" else word for word in SMALL]
        options = [hparams, "--data_folder", corpus, "--output_folder", "out", *small, *self.OPTIONS]
        result = getattr(self, start)(*options, cwd=tmp_path)
        assert result.returncode == 0, result.stdout
        both = pd.read_csv(tmp_path / "out" / "test_results.csv")
        assert len(list((tmp_path / "out" / "audio").glob("*_mix.wav"))) == 2
        assert (tmp_path / "out" / "export" / "masknet.ckpt").is_file()
        assert (tmp_path / "out" / "train_log.txt").read_text().count("epoch: ") == 1
        table = pd.read_csv(tmp_path / "out" / "epochs.csv")
        assert len(table) == 1 and (tmp_path / "out" / "training_curves.png").is_file()

        alone = train(*options, "--test_only", cwd=tmp_path)
        assert alone.returncode == 0, alone.stdout
        pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "out" / "test_results.csv"), both, atol=1e-4)

    @pytest.mark.parametrize("limit", [(), ("--max_batch_grad_norm", 1000000)])
    def test_frozen_parts_and_checkpointed_blocks(self, corpus, tmp_path, limit):
        """No process waits for gradients that never come; the results are those of one process with the global
        batch, also where gradients are added up without DDP, for a limit of those of each batch."""
        options = [
            WHAM,
            "--data_folder",
            corpus,
            *SMALL,
            "--number_of_epochs",
            1,
            "--dropout",
            0,
            "--valid_batch_size",
            1,
        ]
        options += ["--freeze", "[encoder.*, masknet.blocks.0.*]", "--checkpoint_blocks", "--n_audio_to_save", 0]
        both = self.ranks(
            *options,
            *limit,
            "--output_folder",
            "both",
            "--distributed_backend",
            "gloo",
            "--batches_per_epoch",
            3,
            cwd=tmp_path,
        )
        assert both.returncode == 0, both.stdout
        assert "Frozen: " in both.stdout and "not used in producing loss" not in both.stdout
        at = options.index("--batch_size")
        options[at : at + 2] = ["--batch_size", 8]
        alone = train(*options, "--output_folder", "alone", "--batches_per_epoch", 3, cwd=tmp_path)
        assert alone.returncode == 0, alone.stdout
        tables = [pd.read_csv(tmp_path / name / "epochs.csv") for name in ("both", "alone")]
        columns = ["train_si-snr", "train_grad-norm", "train_dropped", "valid_si-snr", "lr"]
        pd.testing.assert_frame_equal(tables[0][columns], tables[1][columns], rtol=1e-3)

    def test_an_error_in_the_data_is_shown_once(self, tmp_path):
        result = self.torchrun(WHAM, "--data_folder", "nowhere", *SMALL, *self.OPTIONS, cwd=tmp_path)
        assert result.returncode != 0
        assert result.stdout.count("data_folder 'nowhere' does not exist") == 1
        assert "Going into epoch" not in result.stdout
