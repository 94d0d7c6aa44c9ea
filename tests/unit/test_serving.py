"""Limits, turns and temporary files of a program that separates recordings for others."""

import threading
import time

import numpy as np
import pytest
import soundfile

from mossformer_sb import InputError
from mossformer_sb.inference.serving import Full, Limits, TemporaryFolder, TooLong, Turns
from mossformer_sb.web.models import Models


def wait_until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


class TestLimits:
    @pytest.mark.parametrize("name", ["megabytes", "minutes", "parallel", "upload_seconds", "upload_minutes"])
    def test_nothing_is_no_limit(self, name):
        with pytest.raises(InputError, match=rf"^(max_)?{name} must be greater than 0; found -1\.$"):
            Limits(**{name: -1})

    @pytest.mark.parametrize("number", [float("nan"), float("inf")])
    def test_megabytes_that_are_no_number(self, number):
        with pytest.raises(InputError, match=f"^max_megabytes must be .*; found {number}"):
            Limits(megabytes=number)
        assert Limits(minutes=float("inf")).minutes == float("inf")

    def test_none_need_wait(self):
        assert Turns(2, Limits(waiting=0).waiting).number == 2
        with pytest.raises(InputError, match="^max_waiting must be 0 or more; found -1"):
            Limits(waiting=-1)

    @pytest.mark.parametrize("ending", ["wav", "ogg"])
    def test_length(self, tmp_path, ending):
        path = tmp_path / f"talk.{ending}"
        soundfile.write(path, 0.1 * np.random.randn(16000), 8000)
        assert Limits(minutes=2 / 60).check_length(path) == pytest.approx(2.0)
        with pytest.raises(TooLong, match=r"talk.\w+: lasts 2 seconds; the maximum is 1.5 seconds. Cut .* --max_min"):
            Limits(minutes=1.5 / 60).check_length(path)

    def test_a_high_rate_is_no_longer_time(self, tmp_path):
        """A rate is only a number in the header, and each sample takes memory."""
        path = tmp_path / "talk.flac"
        soundfile.write(path, np.zeros(96_000), 96_000)
        assert Limits(minutes=2.001 / 60).check_length(path) == 1.0
        with pytest.raises(TooLong, match="lasts 1 seconds; the maximum at 96000 Hz is 0.75 seconds"):
            Limits(minutes=1.5 / 60).check_length(path)

    def test_both_servers_count_megabytes_alike(self):
        from mossformer_sb.web.server import Settings

        assert Settings(max_megabytes=1).limits.bytes == Limits(megabytes=1).bytes == 1_000_000


class TestTurns:
    def test_one_too_many(self):
        turns = Turns(parallel=1, waiting=1)
        with turns.place(), turns.place():
            with pytest.raises(Full, match="^2 recordings are being separated or waiting"), turns.place():
                pass
            assert turns.taken == 2
        assert turns.taken == 0

    @pytest.mark.parametrize("parallel", [1, 2])
    def test_those_who_came_first_go_first(self, parallel):
        turns, ends = Turns(parallel), [threading.Event() for _ in range(5)]
        begun, waits = [], [[] for _ in range(5)]

        def work(number):
            with turns.turn(waits[number].append):
                begun.append(number)
                ends[number].wait(30)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
        for number, thread in enumerate(threads):
            thread.start()
            wait_until(lambda number=number: number in begun or waits[number])
        assert sorted(begun) == [*range(parallel)]
        assert [wait[0] for wait in waits[parallel:]] == [*range(1, 6 - parallel)]
        for number in range(5):
            ends[number].set()
            wait_until(lambda number=number: len(begun) == min(5, parallel + number + 1))
        for thread in threads:
            thread.join()
        assert begun[parallel:] == [*range(parallel, 5)]

    def test_who_leaves_while_waiting_is_not_waited_for(self):
        turns = Turns()

        def leave(num_ahead):
            raise KeyError(num_ahead)

        with turns.turn():
            with pytest.raises(KeyError, match="1"), turns.turn(leave):
                pytest.fail("it was not its turn")
        with turns.turn(leave):
            pass


def test_a_folder_goes_with_what_is_in_it(tmp_path):
    with pytest.raises(KeyError), TemporaryFolder("begins-so-", tmp_path) as path:
        (path / "deep" / "er").mkdir(parents=True)
        (path / "deep" / "er" / "x.wav").touch()
        assert path.name.startswith("begins-so-")
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_the_service_and_the_page_use_it(tmp_path):
    pytest.importorskip("fastapi_offline")
    from mossformer_sb.service.app import create_app

    app = create_app(None, Limits(parallel=2, waiting=3))
    assert isinstance(app.state.turns, Turns) and app.state.turns.number == 5
    models = Models([tmp_path])
    with models.turn(models.labels[0]):
        assert [type(turns) for turns in models._turns.values()] == [Turns]
