"""One false-alarm rate over a run, decided layer by layer."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pytest_weightwatcher.rates import alarm_level
from spectral.tracy_widom import holm

p_values_of_a_run = st.lists(
    st.floats(0.0, 1.0) | st.sampled_from([0.0, 1e-12, 1e-4, 0.002, 0.004, 0.005, 0.01, 0.05, 1.0]),
    min_size=1,
    max_size=30,
)


@given(
    p_values=p_values_of_a_run,
    n_untested=st.integers(0, 5),
    rate=st.floats(1e-4, 0.5) | st.sampled_from([0.01, 0.05]),
)
def test_layers_alarm_exactly_where_holm_says(p_values: list[float], n_untested: int, rate: float) -> None:
    """A layer whose test could not be made counts, as if it had passed."""
    n_tests = len(p_values) + n_untested
    adjusted = holm([*p_values, *[1.0] * n_untested])
    assume(all(abs(value - rate) > 1e-9 * rate for value in adjusted))
    for p_value, value in zip(p_values, adjusted, strict=False):
        level = alarm_level(p_value, n_tests=n_tests, rate=rate, others=lambda: p_values)
        assert (level is not None) == (value <= rate)
        if level is not None:
            assert p_value <= level <= rate


@given(n_tests=st.integers(1, 10_000), rate=st.floats(1e-6, 0.5), share=st.floats(0.0, 1.0))
def test_the_others_are_asked_only_where_they_matter(n_tests: int, rate: float, share: float) -> None:
    def others() -> list[float]:
        raise AssertionError("not needed")

    clear = alarm_level(share * rate / n_tests, n_tests=n_tests, rate=rate, others=others)
    assert clear == rate / n_tests
    harmless = rate + (1.0 - rate) * share
    assume(harmless > rate)
    assert alarm_level(harmless, n_tests=n_tests, rate=rate, others=others) is None


def test_nan_is_no_alarm_level() -> None:
    assert alarm_level(float("nan"), n_tests=3, rate=0.01, others=list) is None


@pytest.mark.parametrize("n_tests", [1, 2])
def test_a_layer_alone_in_its_run(n_tests: int) -> None:
    level = alarm_level(0.01 / n_tests, n_tests=n_tests, rate=0.01, others=lambda: [0.01 / n_tests])
    assert level == 0.01 / n_tests
