"""Writing beside a run: one job after the other, errors told, an epoch told once it is written."""

from __future__ import annotations

from contextlib import closing
from threading import Event

import pytest

from rbnn.engine import Telling
from rbnn.writer import Writer


def test_jobs_are_done_in_order_and_the_last_is_finished_on_closing() -> None:
    done: list[int] = []
    with closing(Writer(beside=True)) as writer:
        for number in range(5):
            writer.do(lambda number=number: done.append(number))
    assert done == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("beside", [False, True])
def test_a_jobs_error_is_raised_to_whoever_waits(beside: bool) -> None:
    def failing() -> None:
        raise OSError("disk")

    with closing(Writer(beside)) as writer, pytest.raises(OSError, match="disk"):
        writer.do(failing)
        writer.wait()


def test_an_epoch_is_told_between_two_batches_once_its_checkpoint_is_there() -> None:
    may_go_on = Event()
    heard: list[int] = []
    with closing(Writer(beside=True)) as writer:
        telling = Telling(lambda metrics, path: heard.append(metrics["epoch"]), writer)
        writer.do(lambda: assert_set(may_go_on))
        telling.hear({"epoch": 0}, None)
        batches = iter(telling.between([(), (), ()]))  # type: ignore[list-item]
        next(batches)
        next(batches)
        assert heard == []
        may_go_on.set()
        writer.wait()
        next(batches)
        assert heard == [0]
        telling.hear({"epoch": 1}, None)
        assert heard == [0, 1]


def assert_set(event: Event) -> None:
    assert event.wait(60)
