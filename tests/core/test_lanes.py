"""Lanes run every part once, at once or in turn, and hide no error."""

from __future__ import annotations

import threading

import pytest

from spectral.lanes import ASIDE_FROM, LANES_FROM, N_LANES, Lanes, aside


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


class TestAside:
    @pytest.mark.parametrize("cost", [0.0, ASIDE_FROM])
    def test_the_result(self, cost: float) -> None:
        with aside(lambda: 7, cost=cost) as result:
            pass
        assert result() == 7

    def test_much_work_begins_before_it_is_asked_for(self) -> None:
        meeting = threading.Barrier(2, timeout=30.0)
        with aside(meeting.wait, cost=ASIDE_FROM) as result:
            here = meeting.wait()
        assert sorted([here, result()]) == [0, 1]

    def test_little_work_is_not_done_unless_asked_for(self) -> None:
        done: list[int] = []
        with aside(lambda: done.append(1), cost=0.0):
            pass
        assert done == []

    @pytest.mark.parametrize("cost", [0.0, ASIDE_FROM])
    def test_an_error_is_that_of_the_result(self, cost: float) -> None:
        def fail() -> None:
            raise RuntimeError("as planned")

        with aside(fail, cost=cost) as result:
            pass
        with pytest.raises(RuntimeError, match=r"^as planned$"):
            result()
