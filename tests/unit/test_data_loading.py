"""Every example once, the same batches for any number of ranks, and the right position to resume from."""

import contextlib
import gc
import multiprocessing
import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from mossformer_sb import InputError
from mossformer_sb.data.audio_reader import DamagedAudio
from mossformer_sb.training import distributed
from mossformer_sb.training.data_loading import GlobalBatches, RankLoader, _IntoSharedMemory, in_runs


def deal(num_items, batch_size, world_size, epoch=1, **options):
    """The batches of each rank."""
    dealt = []
    for rank in range(world_size):
        batches = GlobalBatches(num_items, batch_size, rank=rank, world_size=world_size, **options)
        batches.set_epoch(epoch)
        dealt.append(list(batches))
        assert len(dealt[-1]) == len(batches)
    return dealt


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("num_items", [4, 7, 12, 13, 25])
def test_every_item_is_on_one_rank_once(num_items, world_size, even):
    dealt = deal(num_items, 3, world_size, shuffle=True, seed=5, even=even)
    items = [item for batches in dealt for batch in batches for item in batch]
    assert sorted(items) == list(range(num_items))
    if even:
        assert len({len(batches) for batches in dealt}) == 1 and all(batch for batches in dealt for batch in batches)


def test_ranks_share_the_batches_of_one_process():
    whole = deal(28, 8, 1, shuffle=True)[0]
    dealt = deal(28, 2, 4, shuffle=True)
    for number, batch in enumerate(whole):
        assert sorted(item for batches in dealt for item in batches[number]) == sorted(batch)


def test_a_remainder_too_small_for_the_ranks_joins_the_batch_before():
    assert deal(9, 2, 2) == [[[0, 2], [4, 6, 8]], [[1, 3], [5, 7]]]
    assert deal(9, 2, 2, even=False) == [[[0, 2], [4, 6], [8]], [[1, 3], [5, 7]]]


def test_the_order_is_of_seed_and_epoch():
    first = deal(50, 5, 1, shuffle=True, seed=1)
    assert deal(50, 5, 1, shuffle=True, seed=1) == first
    assert deal(50, 5, 1, shuffle=True, seed=2) != first
    assert deal(50, 5, 1, shuffle=True, seed=1, epoch=2) != first


def test_without_shuffling_the_order_is_the_manifests():
    assert deal(5, 2, 1) == deal(5, 2, 1, epoch=2) == [[[0, 1], [2, 3], [4]]]


def test_limit_takes_the_first_batches():
    assert deal(9, 2, 1, limit=2) == [[[0, 1], [2, 3]]]
    assert deal(9, 2, 1, limit=99) == deal(9, 2, 1)


class TestGroupsOfOneLength:
    GROUPS = np.random.default_rng(0).integers(0, 2, 101)

    def deal(self, batch_size, world_size, groups=GROUPS):
        dealt = []
        for rank in range(world_size):
            batches = GlobalBatches(len(groups), batch_size, True, seed=5, rank=rank, world_size=world_size)
            batches.dataset = SimpleNamespace(length_groups=lambda: groups)
            batches.set_epoch(3)
            dealt.append(list(batches))
        return dealt

    @pytest.mark.parametrize(("batch_size", "world_size"), [(1, 1), (4, 1), (1, 2), (3, 2)])
    def test_a_global_batch_is_of_one_group(self, batch_size, world_size):
        """All but two: the remainders of the groups."""
        dealt = self.deal(batch_size, world_size)
        together = [[item for batch in parts for item in batch] for parts in zip(*dealt, strict=True)]
        assert sorted(item for batch in together for item in batch) == list(range(101))
        assert sum(len(set(self.GROUPS[batch])) > 1 for batch in together) <= 2

    def test_groups_take_turns(self):
        """In the proportion of the epoch, from the first batches to the last."""
        groups = np.random.default_rng(1).random(2000) < 0.3
        halves = np.array_split([groups[batch[0]] for batch in self.deal(4, 1, groups)[0]], 2)
        assert all(0.2 < half.mean() < 0.4 for half in halves)

    @pytest.mark.parametrize(("rate", "run"), [(0.02, 32), (0.1, 64), (0.3, 4)])
    def test_the_beginning_of_an_epoch_has_the_proportions_of_the_whole(self, rate, run):
        """Epochs may be ended early, by batches_per_epoch or epoch_minutes; a rare group has less than a batch."""
        found = []
        for epoch in range(400):
            rng = np.random.default_rng(epoch)
            groups = rng.random(1000) < rate
            order = in_runs(rng.permutation(1000), groups, run, rng)
            assert sorted(order) == list(range(1000))
            found.append(groups[order[: 4 * run]].mean())
        assert abs(np.mean(found) - rate) < 4 * np.std(found) / 20

    def test_without_groups_the_order_is_unchanged(self):
        batches = GlobalBatches(101, 4, True, seed=5, world_size=2)
        batches.dataset = SimpleNamespace(length_groups=lambda: None)
        batches.set_epoch(3)
        assert list(batches) == deal(101, 4, 2, shuffle=True, seed=5, epoch=3)[0]

    def test_other_groups_are_refused_within_an_epoch(self, tmp_path):
        batches = [GlobalBatches(101, 4, True, seed=5) for _ in range(2)]
        batches[0].dataset = SimpleNamespace(grouping="those with turns (turn_rate 0.5)")
        batches[0].save(tmp_path / "data_order.ckpt")
        batches[1].load(tmp_path / "data_order.ckpt", end_of_epoch=True)
        message = r"in batches of their own those with turns \(turn_rate 0.5\) there, none now"
        with pytest.raises(InputError, match=message):
            batches[1].load(tmp_path / "data_order.ckpt", end_of_epoch=False)

    def test_an_epoch_resumes_in_its_order(self, tmp_path):
        """With batches of another size too: no example is lost or repeated."""
        whole = [item for batch in self.deal(4, 1)[0] for item in batch]
        batches = GlobalBatches(101, 4, True, seed=5)
        batches.save(tmp_path / "data_order.ckpt")
        resumed = GlobalBatches(101, 5, True, seed=5)
        resumed.dataset = SimpleNamespace(length_groups=lambda: self.GROUPS)
        resumed.load(tmp_path / "data_order.ckpt", end_of_epoch=False)
        resumed.set_epoch(3, items_done=40, batches_done=10)
        assert [item for batch in resumed for item in batch] == whole[40:]
        resumed.set_epoch(4)  # the next epoch has batches of five examples of one group
        assert sum(len(set(self.GROUPS[batch])) > 1 for batch in resumed) <= 2

    def test_earlier_checkpoints_did_not_group(self, tmp_path):
        torch.save({"num_items": 101, "seed": 5, "shuffle": True}, tmp_path / "data_order.ckpt")
        resumed = GlobalBatches(101, 4, True, seed=5)
        resumed.dataset = SimpleNamespace(length_groups=lambda: self.GROUPS)
        resumed.load(tmp_path / "data_order.ckpt", end_of_epoch=False)
        resumed.set_epoch(3, items_done=40, batches_done=10)
        assert list(resumed) == deal(101, 4, 1, shuffle=True, seed=5, epoch=3)[0][10:]


class Noted(Dataset):
    """Keeps which items were made."""

    def __init__(self):
        self.made = []

    def __len__(self):
        return 10

    def __getitem__(self, index):
        self.made.append(index)
        return index


def test_starting_in_mid_epoch_makes_no_item_before():
    batches = GlobalBatches(10, 2, shuffle=True)
    expected = [item for batch in list(batches)[3:] for item in batch]
    dataset = Noted()
    loader = DataLoader(dataset, batch_sampler=batches)
    batches.set_epoch(0, items_done=6, batches_done=3)
    assert len(list(loader)) == 2
    assert dataset.made == expected
    assert len(list(loader)) == len(loader) == 5  # the next one is whole


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_size": 2.0}, {"batch_size": 2, "limit": 0}])
def test_numbers_that_make_no_batches(options):
    name = "batches_per_epoch" if "limit" in options else "batch_size"
    with pytest.raises(InputError, match=f"{name} must be a whole number of at least 1; found"):
        GlobalBatches(10, **options)


@pytest.mark.parametrize("limit", [None, 3])
@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [1, 3, 5])
@pytest.mark.parametrize("items_done", [4, 8, 15, 19])
def test_an_epoch_resumes_with_other_batches(items_done, batch_size, world_size, limit):
    """Every item that is left comes once, on one rank, in equally many batches on all; batches before are counted."""
    options = {"shuffle": True, "seed": 5, "world_size": world_size, "limit": limit}
    order = [item for batch in GlobalBatches(25, 1, shuffle=True, seed=5) for item in batch]
    end = 25 if limit is None else min(25, limit * batch_size * world_size)
    dealt = []
    for rank in range(world_size):
        batches = GlobalBatches(25, batch_size, rank=rank, **options)
        batches.set_epoch(0, items_done=items_done, batches_done=7)
        before = len(batches)
        dealt.append(list(batches))
        assert len(batches) == before == 7 + len(dealt[-1])
    assert sorted(item for share in dealt for batch in share for item in batch) == sorted(
        order[items_done : max(end, items_done)]
    )
    assert len({len(share) for share in dealt}) == 1 and all(batch for share in dealt for batch in share)


def test_an_epoch_that_was_complete_resumes_with_nothing():
    batches = GlobalBatches(10, 4, rank=1, world_size=2)
    batches.set_epoch(0, items_done=10, batches_done=3)
    assert list(batches) == [] and len(batches) == 3


def test_fewer_items_left_than_ranks():
    batches = GlobalBatches(10, 1, world_size=4)
    with pytest.raises(InputError, match="has 2 examples left, too few for 4 processes: .* Start 2 processes or fewer"):
        batches.set_epoch(0, items_done=8, batches_done=8)


class TestAnotherOrder:
    def check(self, tmp_path, end_of_epoch, **changes):
        settings = {"num_items": 10, "batch_size": 2, "shuffle": True, "seed": 1}
        GlobalBatches(**settings).save(tmp_path / "data_order.ckpt")
        GlobalBatches(**{**settings, **changes}).load(tmp_path / "data_order.ckpt", end_of_epoch=end_of_epoch)

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"num_items": 12}, "examples of the training data 10 there, 12 now"),
            ({"seed": 2}, "seed 1 there, 2 now"),
            ({"shuffle": False}, "shuffle True there, False now"),
        ],
    )
    def test_is_refused_within_an_epoch(self, tmp_path, changes, told):
        with pytest.raises(
            InputError,
            match=f"data_order.ckpt: was saved within an epoch.*{told}.*Resume with the settings that it was",
        ):
            self.check(tmp_path, False, **changes)
        self.check(tmp_path, True, **changes)

    @pytest.mark.parametrize(
        ("there", "now", "is_refused"),
        [("a" * 64, "b" * 64, True), ("a" * 64, "a" * 64, False), (None, "b" * 64, False), ("a" * 64, None, False)],
    )
    def test_other_data_is_refused(self, tmp_path, there, now, is_refused):
        """Data with as many examples. Earlier checkpoints, and some datasets, have no fingerprint."""
        batches = [GlobalBatches(10, 2, shuffle=True, seed=1) for _ in range(2)]
        for sampler, fingerprint in zip(batches, (there, now), strict=True):
            data = Noted()
            if fingerprint is not None:
                data.fingerprint = fingerprint
            RankLoader(data, batch_sampler=sampler)
        batches[0].save(tmp_path / "data_order.ckpt")
        batches[1].load(tmp_path / "data_order.ckpt", end_of_epoch=True)
        message = "fingerprint of the training data aaaaaaaaaaaa there, bbbbbbbbbbbb now"
        with pytest.raises(InputError, match=message) if is_refused else contextlib.nullcontext():
            batches[1].load(tmp_path / "data_order.ckpt", end_of_epoch=False)

    def test_an_earlier_checkpoint_has_no_fingerprint(self, tmp_path):
        torch.save({"num_items": 10, "seed": 1, "shuffle": True}, tmp_path / "data_order.ckpt")
        sampler = GlobalBatches(10, 2, shuffle=True, seed=1)
        sampler.dataset = SimpleNamespace(fingerprint="a" * 64)
        sampler.load(tmp_path / "data_order.ckpt", end_of_epoch=False)

    @pytest.mark.parametrize("changes", [{}, {"batch_size": 3}, {"world_size": 2, "rank": 1}, {"limit": 2}])
    def test_is_not_what_other_batches_are(self, tmp_path, changes):
        self.check(tmp_path, False, **changes)


def test_fewer_items_than_ranks():
    with pytest.raises(InputError, match="has 3 examples, too few for 4 processes"):
        GlobalBatches(3, 1, world_size=4)


class Ends(Dataset):
    """Its only item ends the worker that reads it, or fails."""

    def __init__(self, how):
        self.how = how

    def __len__(self):
        return 1

    def __getitem__(self, index):
        if isinstance(self.how, int):
            os.kill(os.getpid(), self.how)
        raise self.how


@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are killed as on Unix")
class TestWorkersThatEnd:
    @pytest.fixture(autouse=True)
    def short_waits(self, monkeypatch):
        """After an error PyTorch waits five seconds for the worker, when the loader's iterator is freed."""
        monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.2)
        yield
        gc.collect()

    @pytest.mark.parametrize(
        ("how", "message"),
        [
            (
                signal.SIGBUS,
                "The 1 processes that load data have used up the shared memory .*--num_workers 0 needs none",
            ),
            (RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2>: No space left"), "used up the"),
            (
                signal.SIGKILL,
                "One of the 1 processes that load data was killed, probably by the operating system, out of memory",
            ),
        ],
    )
    def test_out_of_memory(self, how, message):
        with pytest.raises(InputError, match=message):
            list(RankLoader(Ends(how), num_workers=1, multiprocessing_context="fork"))

    @pytest.mark.parametrize("how", [InputError("a.wav: is empty.\nCopy it again."), DamagedAudio("a.wav: ends.")])
    @pytest.mark.parametrize("ranks", [1, 2])
    def test_invalid_input(self, how, ranks, monkeypatch):
        """The message is the same as without workers: its traceback in the worker is of no use."""
        monkeypatch.setattr(distributed, "world_size", lambda: ranks)
        loader = RankLoader(Ends(how), num_workers=1, multiprocessing_context="fork")
        with pytest.raises(InputError) as error:
            list(loader)
            loader.check()
        assert str(error.value) == str(how)

    @pytest.mark.parametrize("how", [signal.SIGSEGV, RuntimeError("shapes don't fit"), KeyError("x")])
    def test_for_another_reason(self, how):
        """Which is no wrong input: its traceback is to be seen."""
        with pytest.raises((RuntimeError, KeyError)) as error:
            list(RankLoader(Ends(how), num_workers=1, multiprocessing_context="fork"))
        assert not isinstance(error.value, InputError)


@pytest.mark.parametrize("num_workers, pauses", [(0, 0), (2, 1)])
def test_the_backend_may_finish_before_workers_are_forked(monkeypatch, num_workers, pauses):
    """Otherwise a worker may wait forever for a lock of the interpreter."""
    paused, before = [], set(multiprocessing.active_children())
    monkeypatch.setattr(distributed, "is_distributed_initialized", lambda: True)
    clock = SimpleNamespace(sleep=lambda seconds: paused.append(set(multiprocessing.active_children()) - before))
    monkeypatch.setattr(distributed, "time", clock)
    context = "fork" if num_workers else None
    assert len(list(RankLoader([1, 2, 3], num_workers=num_workers, multiprocessing_context=context))) == 3
    assert paused == [set()] * pauses


def test_batches_are_in_shared_memory_before_pytorch_takes_them():
    """Which it does in a thread, whose errors reach nobody."""

    def collate(items):
        return SimpleNamespace(items=torch.tensor(items), shared=[])

    class Noting(_IntoSharedMemory):
        def __call__(self, items):
            batch = super().__call__(items)
            batch.shared = batch.items.is_shared()
            return batch

    loader = RankLoader([1, 2, 3], batch_size=3, num_workers=1, collate_fn=collate, multiprocessing_context="fork")
    assert isinstance(loader.collate_fn, _IntoSharedMemory)
    loader = DataLoader([1, 2], batch_size=2, num_workers=1, collate_fn=Noting(collate), multiprocessing_context="fork")
    (batch,) = loader
    assert batch.shared and batch.items.tolist() == [1, 2]
    assert not _IntoSharedMemory(collate)([1]).items.is_shared()  # not in the main process
