"""What is said of traps: the weights by their place in the user's own tensor, and no ordinary weight as a culprit."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import spectral
from pytest_weightwatcher import assert_metric, assert_no_correlation_traps
from pytest_weightwatcher.console.cells import format_cell
from pytest_weightwatcher.meanings import Meaning
from pytest_weightwatcher.trap_text import FEW, OFFSET, SPREAD, explain_traps, name_carriers
from pytest_weightwatcher.wording import format_p_value
from spectral import analyze_traps
from spectral.trap_details import Trap
from spectral.weights import MatrixSpec
from tests.gate.conftest import MakeModel, healthy_tensors

PLANTED: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "l.weight": ((128, 96), (101, 33)),
    "wide.weight": ((96, 128), (33, 101)),
    "emb.weight": ((300, 64), (277, 33)),
    "conv1d.weight": ((96, 64, 5), (41, 7, 3)),
    "conv2d.weight": ((64, 48, 3, 3), (41, 7, 2, 1)),
    "in_proj_weight": ((288, 96), (146, 33)),
    "h.0.attn.c_attn.weight": ((96, 288), (33, 242)),
    "weight_hh_l0": ((384, 96), (242, 33)),
    "experts.gate_up_proj": ((4, 64, 96), (2, 33, 80)),
    "bilinear.weight": ((3, 64, 64), (2, 33, 50)),
}
"""Tensor -> its shape, and where one weight is out of place."""


def noise(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return (0.1 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def with_planted(tensor: str, value: float = 6.0) -> dict[str, NDArray[Any]]:
    shape, index = PLANTED[tensor]
    values = noise(*shape)
    values[index] = value
    return {tensor: values}


def traps_of(values: NDArray[Any]) -> tuple[tuple[Trap, ...], MatrixSpec]:
    found = analyze_traps({"w": values})
    return found.traps["w"], found.analysis.layers[0].spec


def explain(traps: tuple[Trap, ...]) -> Meaning:
    return explain_traps(traps, len(traps), "CALL")


def named_in(text: str) -> dict[tuple[str, tuple[int, ...]], float]:
    """(Tensor, index) -> value, of every weight that a text names."""
    found = re.findall(r"(\S+)\[([\d, ]+)\] = (\S+?)(?=[\s,;)]|$)", text)
    return {(name, tuple(map(int, index.split(", ")))): float(value) for name, index, value in found}


@pytest.mark.parametrize("tensor", PLANTED)
def test_a_weight_is_read_back_where_the_text_says(tensor: str) -> None:
    model = with_planted(tensor)
    with pytest.raises(AssertionError) as failure:
        assert_no_correlation_traps(model, min_coverage=None)
    (((name, index), value),) = named_in(str(failure.value).replace("\n    ", " ")).items()
    assert (name, index) == (tensor, PLANTED[tensor][1])
    assert model[name][index] == value == 6.0


@pytest.mark.parametrize("tensor", PLANTED)
def test_the_largest_weight_too(tensor: str) -> None:
    model = with_planted(tensor, -6.0)
    with pytest.raises(AssertionError) as failure:
        assert_metric(model, "largest_weight", max=5.0, min_coverage=None)
    (((name, index), value),) = named_in(str(failure.value).replace("\n    ", " ")).items()
    assert (name, index, value) == (tensor, PLANTED[tensor][1], -6.0)


@pytest.mark.parametrize("tensor", PLANTED)
def test_the_table_of_traps_too(tensor: str) -> None:
    model = with_planted(tensor)
    (row,) = analyze_traps(model).details.to_dict("records")
    assert (row["tensor"], row["tensor_index"]) == (tensor, PLANTED[tensor][1])
    assert model[row["tensor"]][row["tensor_index"]] == row["value"] == 6.0


@pytest.mark.parametrize("values", [(8.0, 8.0), (8.0, -8.0, 8.0, 8.0), (8.0, 7.9), (3.0, 3.0, 3.0)])
def test_equal_weights_are_named_once_each_and_no_ordinary_one_beside_them(values: tuple[float, ...]) -> None:
    """Their traps are mixtures: as much of each lies where the row of one meets the column of another."""
    matrix = noise(120, 90)
    places = {(7 + 20 * number, 11 + 13 * number): value for number, value in enumerate(values)}
    for place, value in places.items():
        matrix[place] = value
    traps, spec = traps_of(matrix)
    assert all(trap.is_carried_by_few for trap in traps)
    text = name_carriers(traps, spec)
    assert {index: value for (_, index), value in named_in(text).items()} == pytest.approx(places, rel=1e-3)
    assert re.search(rf"\(at least [5-9]\d% of each of {len(values)} traps\)$", text)
    assert explain(traps).above == FEW


def test_one_weight() -> None:
    matrix = noise(120, 90)
    matrix[7, 11] = 8.0
    traps, spec = traps_of(matrix)
    assert name_carriers(traps, spec) == "carried by w[7, 11] = 8 (97% of a trap)"
    action = explain(traps).action
    assert "Look at the weights named above" in action
    assert "save what CALL returns: " in action
    assert "that the baseline knows" not in action
    assert "that the baseline knows are among them" in explain_traps(traps, 0, "CALL").action


def test_a_weight_that_is_only_just_seen() -> None:
    """Most of its trap is that of the others; it is what makes it, all the same."""
    matrix = noise(120, 90)
    matrix[7, 11] = 1.5
    traps, spec = traps_of(matrix)
    assert not traps[0].is_carried_by_few
    assert re.fullmatch(r"carried by w\[7, 11\] = 1.5 \([1-4]\d% of a trap\)", name_carriers(traps, spec))
    assert explain(traps).above == FEW


def test_many_weights_are_counted() -> None:
    matrix = noise(120, 90)
    for number in range(8):
        matrix[7 + 10 * number, 11 + 9 * number] = 8.0 + number
    traps, spec = traps_of(matrix)
    text = name_carriers(traps, spec)
    assert text.startswith("carried by w[77, 74] = 15, w[67, 65] = 14, ")
    assert "and 3 more (at least" in text


def test_what_no_few_weights_carry() -> None:
    """A weak offset: no weight is out of place, and none may look like a culprit."""
    traps, spec = traps_of(noise(120, 90) + np.float32(0.015))
    (trap,) = traps
    assert not trap.carriers
    assert 0.1 < trap.mean_share < 0.5
    text = name_carriers(traps, spec)
    assert re.fullmatch(
        r"spread over many weights: the heaviest is w\[\d+, \d+\] = \S+ with 0\.\d\d% of the trap, "
        r"an offset of all weights makes up \d\d%",
        text,
    )
    assert f"{trap.mean_share:.0%}" in text
    meaning = explain(traps)
    assert meaning.above == SPREAD
    assert "far larger" not in meaning.above
    assert "no weight that could be put right by itself" in meaning.action
    assert "CALL" not in meaning.action


def test_an_offset() -> None:
    traps, spec = traps_of(noise(120, 90) + np.float32(0.05))
    assert re.fullmatch(r"all weights of the layer share an offset \(9\d% of a trap\)", name_carriers(traps, spec))
    assert explain(traps).above == OFFSET
    assert "mean of the weights" in explain(traps).action
    assert "CALL" not in explain(traps).action


def test_an_offset_beside_a_weight() -> None:
    matrix = noise(120, 90) + np.float32(0.05)
    matrix[7, 11] = 8.0
    traps, spec = traps_of(matrix)
    text = name_carriers(traps, spec)
    assert text.startswith("carried by w[7, 11] = 8 (9")
    assert "; all weights of the layer share an offset (" in text


def test_nothing_to_name() -> None:
    _, spec = traps_of(with_planted("l.weight")["l.weight"])
    assert name_carriers((), spec) == "no weight is larger than the others of this layer make likely"
    assert explain(()).above == SPREAD


@pytest.mark.parametrize(
    ("p_value", "words", "cell"),
    [
        (0.0, "p < 1e-300", "<1e-300"),
        (1e-310, "p < 1e-300", "<1e-300"),
        (4.3e-19, "p = 4.3e-19", "4.300e-19"),
        (0.25, "p = 0.25", "0.2500"),
    ],
)
def test_no_p_value_is_zero(p_value: float, words: str, cell: str) -> None:
    assert format_p_value(p_value) == words
    assert format_cell("trap_p_value_run", p_value) == cell


def test_other_columns_may_be_zero() -> None:
    assert format_cell("alpha", 0.0) == "0"
    assert format_cell("p_value", None) == "-"


RECORD = ("--ww-model=model.safetensors", "--ww-baseline=b.ww.json", "--ww-update-baseline")
COMPARE = ("--ww-model=model.safetensors", "--ww-baseline=b.ww.json")


def with_stray(**places: tuple[int, int]) -> dict[str, NDArray[Any]]:
    """Return layers of the healthy model with one weight out of place in each."""
    layers = {}
    for name, place in places.items():
        layers[name] = healthy_tensors()[f"{name.replace('__', '.')}.weight"].copy()
        layers[name][place] = 2.0
    return layers


def call_in(text: str) -> str:
    calls: list[str] = re.findall(r"spectral\.remove_traps\(.*?\)\.model", text, re.DOTALL)
    assert len(calls) == 1
    return calls[0]


def test_the_gate_says_it(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model()
    pytester.runpytest(*RECORD)
    head = healthy_tensors()["head.weight"].copy()
    head[3, 17] = 1e6
    make_model(head=head)
    result = pytester.runpytest(*COMPARE, "-k", "head and correlation_traps")
    result.stdout.fnmatch_lines(["*carried by head.weight?3, 17? = 1e+06 (100% of a trap)*"])
    result.stdout.fnmatch_lines(["*What it means: A few weights are far larger than the others make likely*"])


def test_the_advice_is_pasted_and_the_gate_passes(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    """A known outlier of another layer stays as it is: the baseline accepts it, and the model may need it."""
    from safetensors.numpy import save_file

    make_model(**with_stray(encoder__0__key=(5, 6)))
    pytester.runpytest(*RECORD)
    make_model(**with_stray(encoder__0__key=(5, 6), head=(3, 17)))
    failed = pytester.runpytest(*COMPARE)
    assert failed.ret == pytest.ExitCode.TESTS_FAILED
    call = call_in(failed.stdout.str())
    assert " ".join(call.split()) == 'spectral.remove_traps("model.safetensors", layers=["head"]).model'
    cleaned = eval(call, {"spectral": spectral})
    assert cleaned["encoder.0.key.weight"][5, 6] == 2.0
    save_file(cleaned, pytester.path / "model.safetensors")
    again = pytester.runpytest(*COMPARE)
    assert again.ret == pytest.ExitCode.OK


def test_the_call_survives_any_name_and_the_wrapping_of_lines(pytester: pytest.Pytester) -> None:
    from safetensors.numpy import load_file, save_file

    folder = pytester.mkdir("a folder with-hyphens and quotes ' \" " + "x-y " * 20)
    layer = "block-with-hyphens and a quote' " + "long-" * 10
    tensors = {f"{layer}.weight": with_planted("l.weight")["l.weight"], "other.weight": noise(80, 70, seed=3)}
    save_file(tensors, folder / "m.safetensors")
    with pytest.raises(AssertionError) as failure:
        assert_no_correlation_traps(folder / "m.safetensors", min_coverage=None)
    cleaned = eval(call_in(str(failure.value)), {"spectral": spectral})
    before = load_file(folder / "m.safetensors")
    assert np.argwhere(cleaned[f"{layer}.weight"] != before[f"{layer}.weight"]).tolist() == [[101, 33]]


@pytest.mark.parametrize("name", ["dense", "-other", "head", "h[0]"])
def test_a_name_that_selects_something_else_gives_way_to_the_number(name: str) -> None:
    model = {
        "other.weight": noise(80, 70, seed=3),
        f"{name}.weight": with_planted("l.weight")["l.weight"],
        "decoder.head.weight": noise(90, 80, seed=4),
    }
    with pytest.raises(AssertionError) as failure:
        assert_no_correlation_traps(model)
    call = call_in(str(failure.value))
    cleaned = eval(call, {"spectral": spectral, "model": model})
    assert {key for key, values in model.items() if not np.array_equal(values, cleaned[key])} == {f"{name}.weight"}
    assert ("layers=[1]" in call) == (name != "h[0]")


def test_options_that_matter_are_in_the_call() -> None:
    model = with_planted("l.weight")
    with pytest.raises(AssertionError) as failure:
        assert_no_correlation_traps(model, seed=3, false_alarm_rate=0.001)
    call = " ".join(call_in(str(failure.value)).split())
    assert call == 'spectral.remove_traps(model, layers=["l"], seed=3, false_alarm_rate=0.001).model'
