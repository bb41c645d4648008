"""The traps of whole models: found, and named by the elements that carry them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from spectral.errors import OptionError
from spectral.trap_analysis import analyze_traps
from spectral.trap_details import trap_table

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def noise(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def planted() -> dict[str, NDArray[Any]]:
    """Return three noise layers: one with two traps, one convolution with one in its fourth slice, one without."""
    two, conv = noise(120, 90), noise(40, 36, 3, 3, seed=1)
    two[7, 11], two[100, 3] = 80.0, -60.0
    conv[5, 6, 1, 0] = 55.0
    return {"two.weight": two, "conv.weight": conv, "clean.weight": noise(80, 80, seed=2)}


class TestTable:
    def test_elements_are_named(self) -> None:
        found = analyze_traps(planted())
        assert list(found.traps) == ["two", "conv"]
        first, second = found.traps["two"]
        assert (first.elements[0].row, first.elements[0].column, first.elements[0].value) == (7, 11, 80.0)
        assert (second.elements[0].row, second.elements[0].column, second.elements[0].value) == (100, 3, -60.0)
        assert first.eigenvalue > second.eigenvalue > 0.0
        assert all(trap.cause == "elements" and trap.p_value < 1e-6 for trap in (first, second))

    @pytest.mark.parametrize("size", [1e10, 1e20, 1e30, 1e50, 1e150])
    def test_an_element_beside_which_the_others_vanish(self, size: float) -> None:
        weights = noise(120, 90).astype(np.float64)
        weights[7, 11] = -size
        (trap,) = analyze_traps({"w": weights}).traps["w"]
        assert (trap.elements[0].row, trap.elements[0].column, trap.elements[0].value) == (7, 11, -size)
        assert trap.elements[0].share == pytest.approx(1.0)
        assert trap.overlap == pytest.approx(1.0)
        assert trap.cause == "elements"

    def test_a_trap_in_a_slice(self) -> None:
        (trap,) = analyze_traps(planted()).traps["conv"]
        assert trap.slice_id == 3
        assert (trap.elements[0].row, trap.elements[0].column, trap.elements[0].value) == (5, 6, 55.0)
        # In the scale of the spectrum: λ = (55·√½)² at least, since the element alone has that norm.
        assert trap.eigenvalue == pytest.approx(0.5 * 55.0**2, rel=0.1)

    def test_slices_that_are_zero_do_not_shift_the_count(self) -> None:
        tensors = planted()
        tensors["conv.weight"][:, :, 0, 0] = 0.0
        (trap,) = analyze_traps(tensors).traps["conv"]
        assert trap.slice_id == 3
        assert trap.elements[0].value == 55.0

    def test_shares(self) -> None:
        (first, _) = analyze_traps(planted()).traps["two"]
        shares = [element.share for element in first.elements]
        assert shares == sorted(shares, reverse=True)
        assert first.share_top5 == pytest.approx(sum(shares[:5]))
        assert first.share_top10 == pytest.approx(sum(shares[:10]))
        assert 0.9 < shares[0] <= first.share_top5 <= first.share_top10 <= 1.0
        assert shares[0] ** 2 <= first.inverse_participation_ratio <= 1.0
        assert first.mean_share < 0.01

    def test_the_heaviest_elements_by_the_obvious_way(self) -> None:
        """The table looks at the heaviest rows and columns only; every product of all of them says the same."""
        weights = planted()["two.weight"]
        (trap, *_) = trap_table(weights[None], name="x", seed=3, level=0.001)
        masses = _masses_by_svd(weights, seed=3)
        heaviest = np.argsort(-masses.ravel())[:10]
        assert [element.share for element in trap.elements] == pytest.approx(
            masses.ravel()[heaviest].tolist(), rel=1e-3
        )
        assert [(element.row, element.column) for element in trap.elements[:3]] == [
            divmod(int(place), 90) for place in heaviest[:3]
        ]

    def test_equal_elements_carry_their_traps_together(self) -> None:
        """Half of the mass lies where the row of one meets the column of the other: on elements that carry nothing."""
        weights = noise(120, 90)
        weights[7, 11] = weights[100, 3] = 80.0
        for trap in analyze_traps({"x.weight": weights}).traps["x"]:
            assert {(element.row, element.column) for element in trap.carriers} == {(7, 11), (100, 3)}
            assert sum(element.share for element in trap.carriers) < 0.75
            assert trap.carried_share > 0.9
            assert trap.is_carried_by_few

    def test_carriers_by_the_obvious_way(self) -> None:
        """Σ w_ij·u_i·v_j over all elements is the singular value; those with 5% of it and more are the carriers."""
        weights = noise(120, 90)
        weights[7, 11], weights[100, 3], weights[50, 60] = 30.0, -29.0, 28.5
        (trap, *_) = trap_table(weights[None], name="x", seed=3, level=0.001)
        origin, (left, sizes, right) = _permuted_svd(weights, seed=3)
        carried = np.empty(weights.size)
        carried[origin.ravel()] = (np.outer(left[:, 0], right[0]) * weights.ravel()[origin]).ravel() / sizes[0]
        assert carried.sum() == pytest.approx(1.0)
        expected = [divmod(int(place), 90) for place in np.argsort(-carried) if carried[place] >= 0.05]
        assert 1 <= len(expected) <= 3
        assert [(element.row, element.column) for element in trap.carriers] == expected

    def test_an_offset_is_told_from_elements(self) -> None:
        (trap,) = analyze_traps({"x.weight": noise(150, 100) + np.float32(0.5)}).traps["x"]
        assert not trap.is_carried_by_few
        assert trap.carriers == ()
        assert trap.cause == "offset"
        assert trap.mean_share > 0.9
        assert trap.share_top10 < 0.05

    def test_overlap(self) -> None:
        """A lone huge element is a singular direction of W itself; one that hides behind a stronger signal is not."""
        alone = noise(120, 90)
        alone[7, 11] = 80.0
        rng = np.random.default_rng(9)
        left, right = (np.linalg.qr(rng.standard_normal((n, 12)))[0] for n in (120, 90))
        hidden = (alone + 400.0 * left @ right.T).astype(np.float32)
        assert analyze_traps({"x.weight": alone}).traps["x"][0].overlap > 0.9
        hidden_trap = trap_table(hidden[None], name="x", seed=0, level=0.999999)
        assert all(trap.overlap < 0.6 for trap in hidden_trap)

    def test_details(self) -> None:
        found = analyze_traps(planted())
        assert found.details[["longname", "slice_id", "row", "column", "value"]].to_numpy().tolist() == [
            ["two", 0, 7, 11, 80.0],
            ["two", 0, 100, 3, -60.0],
            ["conv", 3, 5, 6, 55.0],
        ]
        empty = analyze_traps({"x.weight": noise(60, 60)}).details
        assert len(empty) == 0
        assert list(empty.columns) == list(found.details.columns)

    def test_same_bits_for_the_same_seed(self) -> None:
        assert analyze_traps(planted(), n_workers=1).traps == analyze_traps(planted(), n_workers=2).traps
        assert analyze_traps(planted(), seed=1).traps != analyze_traps(planted()).traps

    def test_real_traps(self, minilm: Path) -> None:
        """Column 99 of the output layers of all-MiniLM-L6-v2 has elements a hundred times larger than the others."""
        found = analyze_traps(minilm, layers=["encoder.layer.0.*"], seed=1)
        (trap,) = found.traps["encoder.layer.0.output.dense"]
        assert (trap.elements[0].row, trap.elements[0].column) == (99, 856)
        assert trap.elements[0].value == pytest.approx(7.9148, abs=1e-3)
        # The other one's largest elements are at the edge: it is found with most seeds, and nothing else is with any.
        assert set(found.traps) <= {"encoder.layer.0.output.dense", "encoder.layer.0.attention.output.dense"}


def _permuted_svd(weights: NDArray[Any], *, seed: int) -> tuple[NDArray[np.intp], Any]:
    from spectral.permutation import generator_for, scrambled
    from spectral.traps import PURPOSE

    indices = np.arange(weights.size).reshape(weights.shape)
    origin = scrambled(indices, generator_for(seed, "x", PURPOSE, 0))
    return origin, np.linalg.svd(weights.ravel()[origin].astype(np.float64))


def _masses_by_svd(weights: NDArray[Any], *, seed: int) -> NDArray[np.float64]:
    origin, (left, _, right) = _permuted_svd(weights, seed=seed)
    masses = np.empty(weights.size)
    masses[origin.ravel()] = np.outer(left[:, 0] ** 2, right[0] ** 2).ravel()
    return masses.reshape(weights.shape)


def test_misuse() -> None:
    with pytest.raises(OptionError, match=r"^false_alarm_rate must lie between 0 and 1"):
        analyze_traps(planted(), false_alarm_rate=2.0)
