"""The harness refuses what it does not know, so that ``action.yml`` stays within what is tested."""

from __future__ import annotations

import pytest

from tests.action.expressions import Context, fill, is_true
from tests.action.harness import parse_orders, parse_outputs

CONTEXT = Context(inputs={"a": "x"}, github={"token": "t"}, steps={"gate": {"folder": "f"}}, is_failed=True)


def test_known_expressions() -> None:
    assert fill("a ${{ inputs.a }} ${{ steps.gate.outputs.folder }}${{ steps.no.outputs.no }}", CONTEXT) == "a x f"
    assert is_true("${{ !cancelled() && inputs.a == 'x' && inputs.a != 'y' }}", CONTEXT)
    assert not is_true("${{ !cancelled() && inputs.a != 'x' }}", CONTEXT)


def test_a_step_without_a_status_function_is_skipped_after_a_failure() -> None:
    assert not is_true("${{ inputs.a == 'x' }}", CONTEXT)


@pytest.mark.parametrize("text", ["${{ github.event.title && 'x' }}", "${{ format('x') }}", "${{ env.X }}"])
def test_unknown_expressions_raise(text: str) -> None:
    with pytest.raises((NotImplementedError, KeyError)):
        fill(text, CONTEXT)


def test_unknown_conditions_raise() -> None:
    with pytest.raises(NotImplementedError, match="always"):
        is_true("${{ always() }}", CONTEXT)
    with pytest.raises(NotImplementedError, match="success"):
        is_true("success()", CONTEXT)


def test_outputs_are_parsed_in_both_forms() -> None:
    assert parse_outputs("a=1\nb<<END\nx=y\n\nEN\nEND\n") == {"a": "1", "b": "x=y\n\nEN"}
    with pytest.raises(AssertionError, match="no end"):
        parse_outputs("b<<END\nx\n")


def test_orders_are_not_obeyed_while_stopped() -> None:
    text = "::stop-commands::t\n::error::no\n::t::\n::warning file=a%2Cb,line=3::two%0Alines\n"
    (order,) = parse_orders(text)
    assert (order.name, order.properties, order.message) == ("warning", {"file": "a,b", "line": "3"}, "two\nlines")
