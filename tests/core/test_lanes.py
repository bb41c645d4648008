"""Lanes run every part once, at once or in turn, and hide no error."""

from __future__ import annotations

import threading

import pytest

from spectral.lanes import LANES_FROM, N_LANES, Lanes


@pytest.mark.parametrize("cost", [0.0, LANES_FROM])
def test_every_part_once(cost: float) -> None:
    seen: list[int] = []
    with Lanes(cost) as lanes:
        lanes.run(seen.append)
        lanes.run(seen.append)
    assert sorted(seen) == sorted([*range(N_LANES)] * 2)


def test_parts_of_large_work_run_at_once() -> None:
    meeting, met = threading.Barrier(N_LANES, timeout=30.0), list[int]()
    with Lanes(LANES_FROM) as lanes:
        lanes.run(lambda _: met.append(meeting.wait()))
    assert sorted(met) == [*range(N_LANES)]


def test_parts_of_small_work_stay_on_one_thread() -> None:
    threads = set()
    with Lanes(0.0) as lanes:
        lanes.run(lambda _: threads.add(threading.get_ident()))
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize("cost", [0.0, LANES_FROM])
@pytest.mark.parametrize("broken", range(N_LANES))
def test_an_error_is_raised_once_all_have_ended(cost: float, broken: int) -> None:
    def work(lane: int) -> None:
        if lane == broken:
            raise RuntimeError(f"lane {lane}")

    with Lanes(cost) as lanes, pytest.raises(RuntimeError, match=f"^lane {broken}$"):
        lanes.run(work)
