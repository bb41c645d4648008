"""What the gate asks of the core beyond an analysis: known matrices, a second way to the spectrum, levels of traps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spectral import analyze, describe
from spectral.analysis import LayerAnalysis
from spectral.pipeline import KnownMatrix, analyze_matrix, analyze_unless_known
from spectral.spectrum import Spectrum
from spectral.trap_report import describe_layer_traps

RNG = np.random.default_rng(0)
PLAIN = RNG.normal(size=(128, 96)).astype(np.float32)


def with_elements(*values: float) -> np.ndarray:
    matrix = PLAIN.copy()
    for index, value in enumerate(values):
        matrix[7 * index + 3, 11 * index + 5] = value
    return matrix


def test_a_known_matrix_is_not_computed() -> None:
    (task,) = describe({"w": PLAIN}).tasks()
    (layer,) = analyze({"other": PLAIN}).layers
    called: list[bool] = []
    found = analyze_unless_known(task, {layer.content_hash}, before=lambda: called.append(True))
    assert found == KnownMatrix(spec=task.spec, content_hash=layer.content_hash)
    assert not called
    computed = analyze_unless_known(task, {"another"}, before=lambda: called.append(True))
    assert isinstance(computed, LayerAnalysis)
    assert called == [True]
    assert dict(computed.metrics) == dict(analyze_matrix(task).metrics)


@pytest.mark.parametrize("shape", [(128, 96), (96, 128), (32, 16, 3, 3)])
def test_a_full_svd_gives_the_same_numbers(shape: tuple[int, ...]) -> None:
    (task,) = describe({"w": RNG.normal(size=shape)}).tasks()
    by_gram, by_svd = analyze_matrix(task), analyze_matrix(replace(task, by_svd=True))
    assert isinstance(by_svd.spectrum, Spectrum)
    assert by_svd.spectrum.method == "svd"
    assert isinstance(by_gram.spectrum, Spectrum)
    assert by_gram.spectrum.method == "gram"
    assert by_svd.metrics == pytest.approx(dict(by_gram.metrics), rel=1e-9)


@pytest.mark.parametrize("values", [(), (40.0,), (40.0, -60.0), (15.0, 40.0, 90.0)])
def test_levels_count_what_n_traps_counts(values: tuple[float, ...]) -> None:
    (layer,) = analyze({"w": with_elements(*values)}, traps=True).layers
    assert layer.traps is not None
    levels = layer.traps.levels(0.05)
    assert list(levels) == sorted(levels)
    for level in (1e-30, 1e-12, 1e-6, 1e-4, 0.01, 0.05):
        assert sum(each <= level for each in levels) == layer.traps.n_traps(level)


def test_traps_of_one_layer_name_their_elements() -> None:
    matrix = with_elements(40.0, -60.0)
    (task,) = describe({"w": matrix}, traps=True).tasks()
    traps = describe_layer_traps(task, 1e-4)
    heaviest = [trap.elements[0] for trap in traps]
    assert [(element.row, element.column, element.value) for element in heaviest] == [(10, 16, -60.0), (3, 5, 40.0)]
    (quiet,) = describe({"w": PLAIN}, traps=True).tasks()
    assert describe_layer_traps(quiet, 1e-4) == ()
