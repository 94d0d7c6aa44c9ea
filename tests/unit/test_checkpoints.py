"""Checkpoints: atomic, of the right architecture, and a resumed run equal to an uninterrupted one."""

import logging
import os
import random
import shutil

import numpy
import pytest
import speechbrain as sb
import torch
from speechbrain.utils import checkpoints as stock
from speechbrain.utils.epoch_loop import EpochCounter

from mossformer_sb.errors import InputError
from mossformer_sb.sharing.record import TrainingRecord
from mossformer_sb.training import checkpoints
from mossformer_sb.training.checkpoint_checks import check_no_results, check_origin
from mossformer_sb.training.checkpoints import FILE_LIST, SETTINGS_FILE, TEMPORARY_PREFIX, Checkpointer
from mossformer_sb.training.epoch_stats import StageStats
from mossformer_sb.training.random_state import RandomState


class Model(torch.nn.Module):
    def __init__(self, value=0.0, size=1):
        super().__init__()
        self.value = torch.nn.Parameter(torch.full((size,), float(value)))

    def set(self, value):
        self.value.data.fill_(value)


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def checkpointer(tmp_path, model):
    return Checkpointer(tmp_path, {"model": model})


def save(checkpointer, model, value, **kwargs):
    model.set(value)
    return checkpointer.save_checkpoint(**kwargs)


def recovered(checkpointer, model, **kwargs):
    """Recover, and return the value that the model has then."""
    model.set(-1)
    checkpointer.recover_if_possible(**kwargs)
    return model.value.item()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# ---- saving


def test_saved_checkpoint_is_listed_and_loads_in_speechbrain(tmp_path, checkpointer, model):
    checkpoint = save(checkpointer, model, 3, meta={"si-snr": numpy.float64(5.0)})
    assert names(tmp_path) == [checkpoint.path.name]
    assert names(checkpoint.path) == ["CKPT.yaml", FILE_LIST, "model.ckpt", SETTINGS_FILE]
    assert checkpoint.paramfiles == {"model": checkpoint.path / "model.ckpt"}
    assert checkpointer.list_checkpoints() == [checkpoint]
    assert recovered(stock.Checkpointer(tmp_path, {"model": model}), model, max_key="si-snr") == 3


def test_killed_while_saving(tmp_path, checkpointer, model, monkeypatch):
    save(checkpointer, model, 1)

    def kill(path):
        raise SystemExit  # as far as the code can tell; nothing is cleaned up then

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "_write_file_list", kill)
        patch.setattr(checkpointer, "_remove_leftovers", lambda: None)
        with pytest.raises(SystemExit):
            save(checkpointer, model, 2)
    assert [name for name in names(tmp_path) if name.startswith(TEMPORARY_PREFIX)]
    assert len(stock.Checkpointer(tmp_path).list_checkpoints()) == 1
    assert recovered(checkpointer, model) == 1
    save(checkpointer, model, 3)
    assert not [name for name in names(tmp_path) if name.startswith(TEMPORARY_PREFIX)]


@pytest.mark.parametrize("where", ["saver", "list", "rename", "torch"])
def test_disk_full(tmp_path, checkpointer, model, monkeypatch, where):
    before = save(checkpointer, model, 1)

    def fail(*args, **kwargs):
        if where == "torch":
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")
        raise OSError(28, "No space left on device")

    if where in ("saver", "torch"):
        checkpointer.custom_save_hooks["model"] = fail
    elif where == "list":
        monkeypatch.setattr(checkpoints.json, "dump", fail)
    else:
        monkeypatch.setattr(checkpoints.pathlib.Path, "rename", fail)
    reason = "PyTorch could not write" if where == "torch" else "No space left"
    with pytest.raises(InputError, match=f"a checkpoint can't be written .{reason}.* MB are free there.*is kept"):
        save(checkpointer, model, 2)
    assert names(tmp_path) == [before.path.name]
    assert recovered(checkpointer, model) == 1


def test_another_error_while_saving_is_itself(checkpointer, model):
    checkpointer.custom_save_hooks["model"] = lambda *args: {}["key"]
    with pytest.raises(KeyError):
        save(checkpointer, model, 2)


def test_name_used_again(tmp_path, checkpointer, model):
    for value in (1, 2):
        save(checkpointer, model, value, name="best")
        assert names(tmp_path) == ["CKPT+best"]
        assert recovered(checkpointer, model) == value


def test_meta_that_could_not_be_read_again_is_refused(tmp_path, checkpointer):
    with pytest.raises(Exception, match="cannot represent an object"):
        checkpointer.save_checkpoint(meta={"metric": object()})
    assert names(tmp_path) == []


def test_importance_keys_do_not_pile_up(checkpointer):
    # SpeechBrain's own list of importance keys remembers the recent one from call to call.
    for _ in range(2):
        checkpointer.save_and_keep_only(meta={"si-snr": 1.0})
    for value in (3.0, 2.0):
        checkpointer.save_and_keep_only(meta={"si-snr": value}, keep_recent=False, max_keys=["si-snr"])
    assert [checkpoint.meta["si-snr"] for checkpoint in checkpointer.list_checkpoints()] == [3.0]


# ---- finding


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "shortened": (lambda c: os.truncate(c.paramfiles["model"], 10), "model.ckpt has 10 bytes, not"),
    "missing": (lambda c: c.paramfiles["model"].unlink(), "model.ckpt is missing"),
    "altered": (lambda c: flip_a_byte(c.paramfiles["model"]), "model.ckpt has been altered"),
    "no meta": (lambda c: (c.path / "CKPT.yaml").unlink(), "CKPT.yaml can't be read"),
    "empty meta": (lambda c: (c.path / "CKPT.yaml").write_text(""), "CKPT.yaml can't be read"),
    "altered meta": (lambda c: flip_a_byte(c.path / "CKPT.yaml"), "CKPT.yaml"),
    "bad list": (lambda c: (c.path / FILE_LIST).write_text("{"), "it can't be read"),
    "neither list nor file": (
        lambda c: ((c.path / FILE_LIST).unlink(), c.paramfiles["model"].unlink()),
        "model.ckpt is missing",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_checkpoint_is_skipped(checkpointer, model, caplog, damage, message):
    older, newer = save(checkpointer, model, 1), save(checkpointer, model, 2)
    damage(newer)
    with caplog.at_level(logging.WARNING):
        assert recovered(checkpointer, model) == 1
    (record,) = caplog.records
    assert str(newer.path) in record.message and message in record.message and f"Using {older.path}" in record.message


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_only_damaged_checkpoints(tmp_path, checkpointer, model, damage, message):
    checkpoint = save(checkpointer, model, 1)
    damage(checkpoint)
    with pytest.raises(InputError, match=message) as error:
        recovered(checkpointer, model)
    assert str(tmp_path) in str(error.value) and checkpoint.path.name in str(error.value)
    assert model.value.item() == -1


def test_damaged_checkpoint_of_lower_rank_is_not_read(checkpointer, model, caplog):
    older = save(checkpointer, model, 1)
    save(checkpointer, model, 2)
    flip_a_byte(older.paramfiles["model"])
    with caplog.at_level(logging.WARNING):
        assert recovered(checkpointer, model) == 2
    assert not caplog.records


def test_no_checkpoint_is_no_error(checkpointer):
    assert checkpointer.recover_if_possible() is None


def test_several_are_found_whole(checkpointer, model):
    saved = [save(checkpointer, model, value) for value in range(4)]
    flip_a_byte(saved[2].paramfiles["model"])
    assert checkpointer.find_checkpoints(max_num_checkpoints=2) == [saved[3], saved[1]]
    assert checkpointer.find_checkpoints() == [saved[3], saved[1], saved[0]]


def test_best_by_key(checkpointer, model):
    for value, score in enumerate([2.0, 5.0, 5.0, float("nan"), 1.0]):
        save(checkpointer, model, value, meta={"si-snr": score})
    save(checkpointer, model, 9, end_of_epoch=False)
    assert recovered(checkpointer, model) == 9
    assert recovered(checkpointer, model, max_key="si-snr") == 2  # the newer of two equal ones
    assert recovered(checkpointer, model, min_key="si-snr") == 4
    assert recovered(checkpointer, model, max_key="si-snr", ckpt_predicate=lambda c: c.meta["si-snr"] < 3) == 0
    with pytest.raises(ValueError, match="only one"):
        checkpointer.find_checkpoint(max_key="si-snr", min_key="si-snr")


def test_speechbrains_own_checkpoint_loads_with_a_warning(tmp_path, checkpointer, model, caplog):
    save(stock.Checkpointer(tmp_path, {"model": model}), model, 1)
    with caplog.at_level(logging.WARNING):
        assert recovered(checkpointer, model) == 1
    assert "not verified" in caplog.text


# ---- deleting


def test_old_ones_are_deleted(tmp_path, checkpointer, model):
    for value, score in enumerate([1.0, 3.0, 2.0, 2.5]):
        model.set(value)
        checkpointer.save_and_keep_only(meta={"si-snr": score}, max_keys=["si-snr"])
    assert sorted(c.meta["si-snr"] for c in checkpointer.list_checkpoints()) == [2.5, 3.0]
    assert len(names(tmp_path)) == 2
    checkpointer.delete_checkpoints(num_to_keep=0)
    assert names(tmp_path) == []


@pytest.mark.parametrize("backwards", [3600, 0])
def test_the_last_one_is_kept_and_resumed_though_the_clock_was_set_back(checkpointer, model, monkeypatch, backwards):
    now = [1e9]
    monkeypatch.setattr(checkpoints.time, "time", lambda: now[0])
    for epoch, score in enumerate([10.0, 9.0, 9.5, 9.6], start=1):
        now[0] -= backwards
        model.set(epoch)
        checkpointer.save_and_keep_only(meta={"score": score, "epoch": epoch}, max_keys=["score"])
        assert recovered(checkpointer, model) == epoch
    assert sorted(checkpoint.meta["epoch"] for checkpoint in checkpointer.list_checkpoints()) == [1, 4]


def test_last_whole_one_is_not_deleted(tmp_path, model):
    first = Checkpointer(tmp_path, {"model": model})
    best = save(first, model, 1, meta={"si-snr": 9.0})
    whole = save(first, model, 2, meta={"si-snr": 1.0})
    flip_a_byte(best.paramfiles["model"])
    # Another process, which has not written them.
    checkpointer = Checkpointer(tmp_path, {"model": model})
    checkpointer.delete_checkpoints(max_keys=["si-snr"], importance_keys=[])
    assert whole.path.exists()
    assert recovered(checkpointer, model) == 2


def test_damaged_ones_count_for_nothing(checkpointer, model):
    older, newer = save(checkpointer, model, 1), save(checkpointer, model, 2)
    os.truncate(newer.paramfiles["model"], 10)
    assert checkpointer.list_checkpoints() == [older]
    checkpointer.delete_checkpoints()
    assert older.path.exists() and newer.path.exists()


def test_killed_while_deleting(tmp_path, checkpointer, model, monkeypatch):
    save(checkpointer, model, 1)
    save(checkpointer, model, 2)

    def kill(path, **kwargs):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda path, **kwargs: kwargs or kill(path))
        with pytest.raises(SystemExit):
            checkpointer.delete_checkpoints()
    assert len(names(tmp_path)) == 2 and len(stock.Checkpointer(tmp_path).list_checkpoints()) == 1
    assert recovered(checkpointer, model) == 2
    checkpointer.save_and_keep_only()
    assert len(names(tmp_path)) == 1


# ---- architectures


def test_other_architecture(tmp_path):
    first, second = torch.nn.Linear(1, 1), torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.PReLU())
    saved = Checkpointer(tmp_path, {"first": first, "second": second}).save_checkpoint()
    other = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU())
    state = {name: value.clone() for name, value in first.state_dict().items()}
    torch.nn.init.zeros_(first.weight)
    state["weight"] = torch.zeros(1, 1)
    checkpointer = Checkpointer(tmp_path, {"first": first, "second": other})
    with pytest.raises(InputError) as error:
        checkpointer.recover_if_possible()
    assert str(saved.path) in str(error.value)
    assert "3 parameters of 'second' differ" in str(error.value)
    assert "0.weight: [3, 2] in the checkpoint, [4, 2] in the model" in str(error.value)
    assert "1.weight: [1] in the checkpoint, nothing in the model" in str(error.value)
    torch.testing.assert_close(dict(first.state_dict()), state)  # not even the module that fits has been changed


@pytest.mark.parametrize(("key", "there", "here"), [("apply_masks", False, True), ("group_size", 256, 128)])
def test_settings_that_names_and_shapes_do_not_show(tmp_path, key, there, here):
    def checkpointer(value):
        masknet = Model(1)
        masknet.config = {key: value, "dropout": 0.0}
        return Checkpointer(tmp_path, {"masknet": masknet})

    saved = checkpointer(there).save_checkpoint()
    message = f"trained with {key} {there}, and {key} of 'masknet' is {here} now"
    with pytest.raises(InputError, match=message):
        checkpointer(here).recover_if_possible()
    with pytest.raises(InputError, match=message):
        checkpointer(here).check_architecture()
    assert checkpointer(there).recover_if_possible().path == saved.path
    assert SETTINGS_FILE in Checkpointer(tmp_path)._expected_files(saved.path)


@pytest.mark.parametrize(
    "groups",
    [
        lambda net: [{"params": [net.weight]}, {"params": [net.bias], "weight_decay": 0.0}],  # other groups
        lambda net: [net.weight],  # less parameters, as after freeze
    ],
)
def test_optimizer_with_other_parameter_groups(tmp_path, groups):
    net = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    Checkpointer(tmp_path, {"net": net, "optimizer": optimizer}).save_checkpoint()
    other = torch.nn.Linear(2, 2)
    before = other.weight.clone()
    checkpointer = Checkpointer(tmp_path, {"net": other, "optimizer": torch.optim.Adam(groups(other))})
    with pytest.raises(InputError, match=r"optimizer.ckpt: the optimizer has 2 parameters there, and 1.* Resume with"):
        checkpointer.recover_if_possible()
    assert torch.equal(other.weight, before)


def test_recoverable_without_a_file(tmp_path, checkpointer, model):
    saved = save(checkpointer, model, 1)
    more = Checkpointer(tmp_path, {"model": model, "random_state": RandomState()})
    with pytest.raises(InputError, match="holds no random_state"):
        more.recover_if_possible()
    more = Checkpointer(tmp_path, {"model": model, "random_state": RandomState()}, allow_partial_load=True)
    assert more.recover_if_possible().path == saved.path


# ---- random state


def draw():
    return [random.random(), random.gauss(0, 1), numpy.random.randn(), torch.rand(2).tolist()]


def test_random_state_round_trip(tmp_path):
    checkpointer = Checkpointer(tmp_path, {"random_state": RandomState()})
    draw()  # leaves a half-used pair of Gaussian numbers, which belongs to the state
    checkpointer.save_checkpoint()
    expected = [draw(), draw()]
    state = RandomState()
    Checkpointer(tmp_path, {"random_state": state}).recover_if_possible()
    assert draw() not in expected  # loading alone changes nothing
    state.apply_pending()
    assert [draw(), draw()] == expected
    state.apply_pending()
    assert draw() not in expected  # applied once


def test_pending_state_is_saved_again(tmp_path):
    RandomState().save(tmp_path / "first")
    expected = draw()
    resumed, resumed_again = RandomState(), RandomState()
    resumed.load(tmp_path / "first", end_of_epoch=False)
    resumed.save(tmp_path / "second")  # after a batch that was the last of its epoch, before the next
    resumed_again.load(tmp_path / "second", end_of_epoch=True)
    resumed_again.apply_pending()
    assert draw() == expected


def test_random_state_of_other_devices_and_processes(tmp_path, caplog, monkeypatch):
    state = RandomState()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [torch.zeros(16, dtype=torch.uint8)] * 2)
    state.save(tmp_path / "state")
    expected = draw()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    state.load(tmp_path / "state", True)
    state.apply_pending()
    assert draw() == expected
    assert "is from a run with 2 CUDA devices, not 0" in caplog.text

    set_states = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: set_states.update({device: state.tolist()}))
    state.load(tmp_path / "state", True)
    state.apply_pending()
    assert set_states == {0: [0] * 16}

    torch.save(torch.load(tmp_path / "state") * 2, tmp_path / "state")
    state.load(tmp_path / "state", True)
    assert "2 processes" not in caplog.text  # an evaluation, which goes no further, is not warned
    state.apply_pending()
    assert draw() == expected
    assert "from a run with 2 processes, not 1" in caplog.text

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    state.load(tmp_path / "state", True)
    state.apply_pending()  # a rank that the saved run did not have keeps its own state
    assert draw() != expected


# ---- a resumed run


class Killed(Exception):
    pass


class DropoutBrain(sb.Brain):
    """Calls `RandomState.apply_pending` where it has to be called, and can be killed at any batch."""

    killed_at = None
    batches = 0
    losses = ()

    def compute_forward(self, batch, stage):
        return self.modules.model(batch)

    def compute_objectives(self, predictions, batch, stage):
        return predictions.square().mean()

    def on_fit_batch_start(self, batch, should_step):
        if self.batches == self.killed_at:
            raise Killed
        self.batches += 1
        self.hparams.random_state.apply_pending()

    def on_stage_end(self, stage, stage_loss, epoch=None):
        self.losses += (stage_loss,)
        if stage == sb.Stage.VALID:
            self.checkpointer.save_and_keep_only(meta={"loss": stage_loss}, min_keys=["loss"])


def fit(folder, killed_at=None, workers=0):
    """Train for three epochs of five batches, or until killed; return the brain."""
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
    counter, state = EpochCounter(3), RandomState()
    brain = DropoutBrain(
        modules={"model": model},
        opt_class=lambda parameters: torch.optim.Adam(parameters, 0.01),
        hparams={"random_state": state},
        run_opts={"device": "cpu", "ckpt_interval_steps": 1},
        checkpointer=Checkpointer(folder, {"model": model, "counter": counter, "random_state": state}),
    )
    brain.killed_at = killed_at
    data = torch.arange(40.0).reshape(10, 4) / 40
    loader = {"batch_size": 2, "num_workers": workers, "generator": torch.Generator()}
    try:
        brain.fit(counter, data, data, False, {**loader, "shuffle": True}, dict(loader))
    except Killed:
        pass
    return brain


def weights(brain):
    return dict(brain.modules.state_dict())


@pytest.mark.parametrize("killed_at", [2, 5, 7, 10])
def test_resumed_run_equals_an_uninterrupted_one(tmp_path, killed_at):
    uninterrupted = fit(tmp_path / "whole")
    killed = fit(tmp_path / "killed", killed_at)
    resumed = fit(tmp_path / "killed")
    torch.testing.assert_close(weights(resumed), weights(uninterrupted), rtol=0, atol=0)
    assert killed.batches + resumed.batches == uninterrupted.batches == 15
    assert (*killed.losses, *resumed.losses) == uninterrupted.losses
    kept = [checkpoint.meta for checkpoint in resumed.checkpointer.list_checkpoints()]
    assert all("loss" in meta for meta in kept)  # no intra-epoch checkpoint is left


def test_killed_after_the_last_batch_of_an_epoch(tmp_path, monkeypatch):
    uninterrupted = fit(tmp_path / "whole")

    def kill(self, stage, loss, epoch=None):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(DropoutBrain, "on_stage_end", kill)
        fit(tmp_path / "killed")
    resumed = fit(tmp_path / "killed")
    assert resumed.batches == 10
    assert resumed.losses == uninterrupted.losses
    torch.testing.assert_close(weights(resumed), weights(uninterrupted), rtol=0, atol=0)


def test_resumed_run_with_workers(tmp_path):
    uninterrupted = fit(tmp_path / "whole", workers=1)
    fit(tmp_path / "killed", 7, workers=1)
    torch.testing.assert_close(weights(fit(tmp_path / "killed", workers=1)), weights(uninterrupted), rtol=0, atol=0)


# ---- two ranks


def two_ranks(rank, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    os.environ["RANK"] = str(rank)  # where SpeechBrain looks
    try:
        torch.manual_seed(rank)
        model, state = Model(rank), RandomState()
        checkpointer = Checkpointer(folder / "save", {"model": model, "random_state": state})
        for _ in range(3):
            checkpointer.save_and_keep_only()
        expected = torch.rand(3)
        assert len(checkpointer.list_checkpoints()) == 1
        checkpointer.recover_if_possible()
        state.apply_pending()
        assert torch.equal(torch.rand(3), expected)
        assert model.value.item() == 0  # the main process's
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_each_rank_gets_its_own_random_state_back(tmp_path):
    torch.multiprocessing.start_processes(two_ranks, (tmp_path,), nprocs=2, start_method="forkserver")
    (checkpoint,) = Checkpointer(tmp_path / "save").list_checkpoints()
    first, second = torch.load(checkpoint.paramfiles["random_state"])
    assert not torch.equal(first["torch"], second["torch"])
    assert len(names(tmp_path / "save")) == 1


# ---- SpeechBrain's own recipes


class TestOrigin:
    """A training can't go on where one of SpeechBrain's recipes stood."""

    def recipe(self, folder, kind=stock.Checkpointer):
        modules = {name: Model() for name in ("encoder", "masknet", "decoder")}
        return kind(folder, {**modules, "counter": EpochCounter(3)}).save_checkpoint(meta={"si-snr": -5.0})

    @pytest.mark.parametrize("kind", [stock.Checkpointer, Checkpointer])
    def test_of_a_recipe_is_refused(self, tmp_path, kind):
        name = self.recipe(tmp_path / "save", kind).path.name
        with pytest.raises(InputError) as caught:
            check_origin(Checkpointer(tmp_path / "save"))
        message = str(caught.value)
        assert message.startswith(
            f"{tmp_path / 'save'}: holds checkpoints of one of SpeechBrain's own recipes ({name})"
        )
        assert "another --output_folder, and --init_from with the folder of that recipe's run" in message

    @pytest.mark.parametrize("kind", [stock.Checkpointer, Checkpointer])
    def test_of_a_training_here_is_not(self, tmp_path, kind):
        """Whichever Checkpointer its YAML names."""
        check_origin(Checkpointer(tmp_path / "save"))
        kind(tmp_path / "save", {"masknet": Model(), "stage_loss": StageStats()}).save_checkpoint()
        check_origin(Checkpointer(tmp_path / "save"))
        check_origin(stock.Checkpointer(tmp_path / "save"))


class TestDebugRun:
    """Its results are those of a few batches: they replace no training's."""

    def check(self, folder):
        check_no_results(Checkpointer(folder / "save"), folder, folder / "export")

    @pytest.mark.parametrize("name", ["test_results.csv", "epochs.csv", "export/config.json", "save"])
    def test_replaces_no_results(self, tmp_path, name):
        self.check(tmp_path)
        if name == "save":
            Checkpointer(tmp_path / name, {"model": Model()}).save_checkpoint()
        else:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text('{"network": "MossFormer", "sample_rate": 8000, "num_spks": 2}')
        with pytest.raises(InputError, match="holds the results of a training .*, and a debug run would replace them"):
            self.check(tmp_path)

    @pytest.mark.parametrize("command", ["train.py x.yaml --debug", "train.py x.yaml --debug=True --lr 1", ""])
    def test_replaces_those_of_another_debug_run(self, tmp_path, command):
        (tmp_path / "epochs.csv").touch()
        TrainingRecord(command=command).write(tmp_path)
        if not command:
            (tmp_path / "hyperparams.yaml").write_text("debug: True\n")
        self.check(tmp_path)
