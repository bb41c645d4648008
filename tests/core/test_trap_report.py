"""The traps of a whole analysis: as many as it counts, where they were planted, on any number of workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spectral.analysis import analyze
from spectral.errors import OptionError
from spectral.trap_report import describe_traps
from tests.core.builders import write_safetensors


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    planted = rng.normal(size=(80, 60)).astype(np.float32)
    planted[11, 22], planted[33, 44] = 90.0, -50.0
    conv = rng.normal(size=(50, 40, 2, 2)).astype(np.float32)
    conv[:, :, 0, 0] = 0.0  # a slice that no test looks at
    conv[3, 4, 1, 0] = 70.0
    tensors = {
        "a.clean.weight": rng.normal(size=(80, 60)).astype(np.float32),
        "b.planted.weight": planted,
        "c.conv.weight": conv,
        "d.offset.weight": (rng.normal(size=(80, 60)) + 3.0).astype(np.float32),
        "e.small.weight": np.ones((9, 5), np.float32),
    }
    return write_safetensors(tmp_path_factory.mktemp("model") / "m.safetensors", tensors)


@pytest.mark.parametrize("pool", [True, False])
def test_planted_traps_are_found_where_they_are(model: Path, pool: bool) -> None:
    analysis = analyze(model, traps=True, pool=pool)
    found = describe_traps(analysis)
    names = {analysis.layers[place].name: traps for place, traps in found.items()}
    assert set(names) == {"b.planted", "c.conv", "d.offset"}
    heaviest = [(trap.elements[0].row, trap.elements[0].column, trap.elements[0].value) for trap in names["b.planted"]]
    assert heaviest[:2] == [(11, 22, 90.0), (33, 44, -50.0)]
    assert [trap.cause for trap in names["d.offset"]] == ["offset"]
    (trap,) = names["c.conv"]
    # Slices are counted in C order of the kernel, the empty one among them.
    assert (trap.slice_id, trap.elements[0].row, trap.elements[0].column) == (2, 3, 4)
    assert {place: len(traps) for place, traps in found.items()} == {
        place: number for place, number in enumerate(analysis.n_traps) if number
    }


def test_the_same_on_any_number_of_workers_with_progress(model: Path) -> None:
    analysis = analyze(model, traps=True)
    calls: list[tuple[int, int, str]] = []
    one = describe_traps(analysis, n_workers=1)
    two = describe_traps(analysis, n_workers=2, progress=lambda *call: calls.append(call))
    assert one == two
    assert [call[:2] for call in calls] == [(1, 3), (2, 3), (3, 3)]
    assert {call[2] for call in calls} == {"b.planted", "c.conv", "d.offset"}


@pytest.mark.parametrize(("layer", "scale"), [("b.planted", 1.0), ("c.conv", 0.5**0.5)])
def test_eigenvalues_are_those_of_the_test_in_the_scale_of_the_spectrum(model: Path, layer: str, scale: float) -> None:
    analysis = analyze(model, traps=True, layers=(layer,))
    (traps,) = describe_traps(analysis).values()
    tested = analysis.layers[0].traps
    assert tested is not None
    largest = max(test.eigenvalues[0] for test in tested.slices)
    assert max(trap.eigenvalue for trap in traps) == pytest.approx(scale**2 * largest, rel=1e-12)


def test_no_traps_asked_for(model: Path) -> None:
    with pytest.raises(OptionError, match="analyze with traps=True"):
        describe_traps(analyze(model))
