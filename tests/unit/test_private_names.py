"""What is used of other packages though it is private there: the next version may have it no more, or otherwise.

So each has a test here, and the versions of these packages are bounded in setup.cfg until something public takes its
place. A test that fails names what to look at before the bound is raised.
"""

import configparser
import inspect
import os
import re
from pathlib import Path

import pytest
import torch
from speechbrain import Brain
from speechbrain.core import _logging_excepthook
from speechbrain.utils import checkpoints as stock
from speechbrain.utils.run_opts import RunOptions

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkpointer(tmp_path):
    return stock.Checkpointer(tmp_path, {"model": torch.nn.Linear(1, 1)})


def required(package):
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    texts = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    (line,) = re.findall(rf"(?m)^{package}([<>=]\S*)$", "\n".join(texts))
    return set(line.split(","))


class TestSpeechBrainsCheckpointer:
    """`mossformer_sb.training.checkpoints.Checkpointer` overrides them, so they must be there and be called."""

    def called(self, monkeypatch, checkpointer, name):
        calls = []
        original = getattr(stock.Checkpointer, name)

        def noting(self, *args, **kwargs):
            calls.append((args, kwargs))
            return original(self, *args, **kwargs)

        monkeypatch.setattr(stock.Checkpointer, name, noting)
        return calls

    def test_new_checkpoint_dirpath_names_the_folder(self, monkeypatch, checkpointer, tmp_path):
        calls = self.called(monkeypatch, checkpointer, "_new_checkpoint_dirpath")
        path = checkpointer.save_checkpoint().path
        assert calls == [((), {})] and path.parent == tmp_path and path.name.startswith(stock.CKPT_PREFIX)

    def test_custom_checkpoint_dirpath_names_the_folder(self, monkeypatch, checkpointer, tmp_path):
        calls = self.called(monkeypatch, checkpointer, "_custom_checkpoint_dirpath")
        assert checkpointer.save_checkpoint(name="best").path == tmp_path / "CKPT+best"
        assert calls == [(("best",), {})]

    def test_save_checkpoint_metafile_gets_the_meta(self, monkeypatch, checkpointer):
        written = []
        original = stock.Checkpointer._save_checkpoint_metafile

        def noting(self, fpath, meta_to_include=None, end_of_epoch=True):
            written.append((fpath.name, dict(meta_to_include), end_of_epoch))
            return original(self, fpath, meta_to_include, end_of_epoch)

        monkeypatch.setattr(stock.Checkpointer, "_save_checkpoint_metafile", noting)
        meta = checkpointer.save_checkpoint(meta={"a": 1}, end_of_epoch=False).meta
        assert written == [(stock.METAFNAME, {"a": 1}, False)]
        assert {"unixtime", "end-of-epoch", "a"} <= meta.keys()

    def test_list_checkpoint_dirs_is_what_list_checkpoints_asks(self, monkeypatch, checkpointer):
        path = checkpointer.save_checkpoint().path
        assert [item.path for item in checkpointer.list_checkpoints()] == [path]
        monkeypatch.setattr(stock.Checkpointer, "_list_checkpoint_dirs", lambda self: [])
        assert checkpointer.list_checkpoints() == []

    def test_list_checkpoints_of_the_class_takes_another_instance(self, checkpointer):
        """`check_origin` calls it so."""
        path = checkpointer.save_checkpoint().path
        assert [item.path for item in stock.Checkpointer.list_checkpoints(checkpointer)] == [path]

    def test_optional_recoverables_is_a_dict_by_name(self, checkpointer):
        checkpointer.add_recoverable("more", torch.nn.Linear(1, 1), optional_load=True)
        assert checkpointer.optional_recoverables == {"more": True} and set(checkpointer.recoverables) == {
            "model",
            "more",
        }

    def test_checkpoint_has_its_files_by_name(self, checkpointer):
        checkpoint = checkpointer.save_checkpoint()
        assert checkpoint.paramfiles == {"model": checkpoint.path / f"model{stock.PARAMFILE_EXT}"}
        assert checkpoint._replace(meta={}).meta == {}

    def test_hooks_of_a_module(self, checkpointer):
        hook = stock.get_default_hook(torch.nn.Linear(1, 1), stock.DEFAULT_LOAD_HOOKS)
        assert hook is stock.torch_recovery
        assert stock.hook_on_loading_state_dict_checkpoint({"a": 1}) == {"a": 1}


class TestSpeechBrainsBrain:
    """`mossformer_sb.training.brain.SeparationBrain` overrides one and relies on the order of the others."""

    def test_should_save_intra_epoch_ckpt_takes_two_arguments_and_is_called(self):
        assert list(inspect.signature(Brain._should_save_intra_epoch_ckpt).parameters) == [
            "self",
            "last_ckpt_time",
            "steps_since_ckpt",
        ]
        assert "self._should_save_intra_epoch_ckpt(" in inspect.getsource(Brain._fit_train)

    def test_fit_train_counts_before_it_fits_and_resets_after_the_stage(self):
        """Window ends and the position within an epoch hang on ``step``."""
        source = inspect.getsource(Brain._fit_train)
        order = [
            "on_stage_start(",
            "self.step += 1",
            "self.fit_batch(",
            "self._save_intra_epoch_ckpt()",
            "self.step = 0",
        ]
        assert [source.index(part) for part in order] == sorted(source.index(part) for part in order)

    def test_save_intra_epoch_ckpt_has_no_arguments_and_is_called(self):
        """It is overridden, since the time that it takes is no time of training."""
        assert list(inspect.signature(Brain._save_intra_epoch_ckpt).parameters) == ["self"]
        assert "self._save_intra_epoch_ckpt()" in inspect.getsource(Brain._fit_train)

    def test_logging_excepthook_takes_what_an_excepthook_takes(self):
        """`mossformer_sb.training.run_folder` installs it, as SpeechBrain's own `create_experiment_directory` does."""
        assert len(inspect.signature(_logging_excepthook).parameters) == 3

    def test_step_and_optimizer_step_are_recovered(self):
        source = inspect.getsource(Brain._save)
        assert '"step"' in source and '"optimizer_step"' in source

    def test_on_fit_start_wraps_then_makes_the_optimiser_then_recovers(self):
        source = inspect.getsource(Brain.on_fit_start)
        order = ["_compile()", "_wrap_distributed()", "init_optimizers()", "recover_if_possible()"]
        assert [source.index(part) for part in order] == sorted(source.index(part) for part in order)


class TestSpeechBrainsRunOptions:
    def test_create_parser_gives_an_argument_parser(self):
        """Its actions tell the names and kinds of all options; `argparse` has no public way to ask."""
        parser = RunOptions._create_parser()
        actions = {flag: action for action in parser._actions for flag in action.option_strings}
        assert actions["--debug"].nargs == 0 and actions["--device"].nargs is None
        assert {"--test_only", "--precision", "--distributed_backend"} <= set(actions)

    def test_from_command_line_args_gives_three(self):
        file, options, overrides = RunOptions.from_command_line_args(["x.yaml", "--device=cpu"])
        assert (file, options["device"]) == ("x.yaml", "cpu")


class TestTorch:
    def test_modules_have_their_hooks_where_they_are_looked_for(self):
        """`mossformer_sb.network.fast.choice` looks there."""
        module = torch.nn.Linear(1, 1)
        module.register_forward_hook(lambda *_: None)
        module.register_forward_pre_hook(lambda *_: None)
        module.register_full_backward_hook(lambda *_: None)
        module.register_full_backward_pre_hook(lambda *_: None)
        for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
            assert len(getattr(module, name)) == 1, name

    def test_onednn_products(self):
        """`fast.matmul` tells for itself whether they are there; here is what they have to give."""
        if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
            pytest.skip("torch was built without oneDNN")
        x, weight = torch.randn(5, 8), torch.randn(6, 8)
        packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        found = torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
        torch.testing.assert_close(found, torch.nn.functional.linear(x, weight), rtol=1e-4, atol=1e-5)


def test_pyloudnorm_filters():
    """`mossformer_sb.data.loudness` filters as its meter does, for signals that are too short for a meter."""
    pyloudnorm = pytest.importorskip("pyloudnorm")
    filters = list(pyloudnorm.Meter(8000)._filters.values())
    assert len(filters) == 2 and all(hasattr(one, name) for one in filters for name in ("a", "b", "passband_gain"))


def test_joblibs_processes_can_be_terminated():
    """`data_prep.parallel` ends them with the work; otherwise they would wait for more work for some minutes."""
    joblib = pytest.importorskip("joblib")
    from joblib.externals.loky import get_reusable_executor

    (worker,) = joblib.Parallel(2, initializer=abs, initargs=(1,))([joblib.delayed(os.getpid)()])
    os.kill(worker, 0)  # it is there
    get_reusable_executor(reuse=True).shutdown(wait=True)
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_ctypes_unloads_a_library():
    """`data_prep.demo_corpus.voices` lets go of a library that keeps a state."""
    ctypes = pytest.importorskip("_ctypes")
    assert hasattr(ctypes, "dlclose") or hasattr(ctypes, "FreeLibrary")


@pytest.mark.parametrize(
    ("package", "bound"), [("speechbrain", "<1.2"), ("torch", "<2.11.1"), ("pyloudnorm", "<0.3"), ("joblib", "<2")]
)
def test_versions_are_bounded(package, bound):
    assert bound in required(package)
