"""One false-alarm rate for the whole run."""

from __future__ import annotations

import pytest

from spectral.run_wide import adjust_p_values, count_traps
from spectral.traps import LayerTraps, TrapTest


def layer(*p_values: float) -> LayerTraps:
    """Return a layer of one slice whose eigenvalues have these p-values, each with an element that causes it."""
    test = TrapTest(
        p_value=p_values[0],
        bulk_p_value=1.0,
        element_p_value=p_values[0],
        element_p_values=p_values,
        statistic=5.0,
        eigenvalues=tuple(range(len(p_values), 0, -1)),
        eigenvalue_p_values=p_values,
        detectability_limit=1.0,
        is_calibrated=True,
    )
    return LayerTraps(p_value=p_values[0], slices=(test,))


def test_layers_without_a_test_do_not_count() -> None:
    run = adjust_p_values([0.004, None, 0.5], 0.01)
    assert run.adjusted == pytest.approx({0: 0.008, 2: 0.5})
    assert [run.is_alarm(place) for place in range(3)] == [True, False, False]


def test_a_layer_is_counted_at_its_share_of_the_rate() -> None:
    """Of two layers each has half of the rate: 0.004 counts, 0.007 does not."""
    run = adjust_p_values([0.001, 0.9], 0.01)
    assert run.level_of(0, 0.001) == pytest.approx(0.005)
    assert count_traps([layer(0.001, 0.004, 0.007), layer(0.9)], run) == [2, 0]


def test_a_layer_that_alarms_has_a_trap_however_many_layers_there_are() -> None:
    """Holm lets the second smallest p-value take more than Bonferroni's share; it has its trap all the same."""
    p_values = [1e-9, 0.0051]
    run = adjust_p_values(p_values, 0.01)
    assert run.is_alarm(1)
    assert run.level_of(1, 0.0051) == 0.0051
    assert count_traps([layer(1e-9), layer(0.0051, 0.5)], run) == [1, 1]


def test_no_tests_at_all() -> None:
    assert count_traps([None, None], adjust_p_values([None, None], 0.01)) == [None, None]
