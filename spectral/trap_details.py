"""What a correlation trap consists of: which elements carry it, and how it lies to the rest of the matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spectral.lanczos import leading_eigenvalues
from spectral.noise import level_of_each
from spectral.permutation import generator_for, scrambled
from spectral.traps import MAX_TRAPS, PURPOSE, leading_of, permuted_slice, trap_test

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spectral.lanczos import LeadingEigenvalues

N_ELEMENTS = 10
"""Elements listed for each trap."""

N_DIRECTIONS = 10
"""Leading singular directions of W with which a trap is compared."""

MEAN_SHARE = 0.5
"""A trap with at least this share of its direction along the constant vectors is an offset of all elements."""

MIN_CARRIED = 0.05
"""An element without which the singular value of a trap would be lower by this share or more carries it."""

N_FEW, FEW_SHARE = 3, 0.5
"""A trap is carried by few where those that carry it, or its three heaviest elements, have half of its mass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrapElement:
    """One element that carries a trap.

    Attributes
    ----------
    row, column : int
        Where it stands in the stored matrix, from 0.
    value : float
        Its value as stored.
    share : float
        Its share of the trap's mass, 0 to 1.
    """

    row: int
    column: int
    value: float
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trap:
    """One eigenvalue outside the bulk of a permuted matrix.

    Attributes
    ----------
    slice_id : int
        Slice of the layer, 0 for anything but a convolution.
    eigenvalue : float
        Of the permuted matrix, in the scale of the spectrum.
    p_value : float
        Of the eigenvalue, the larger ones taken out.
    share_top5, share_top10 : float
        Share of the trap's mass in its 5 and 10 heaviest elements. The trap is σ·u·vᵀ in the permuted matrix, the mass
        of an element u_i²·v_j²; all sum to 1.
    inverse_participation_ratio : float
        Σ of the squared masses: 1 for a single element, 1/(N·M) for an even spread.
    mean_share : float
        Share of the trap along the constant matrix: near 1 where all elements share an offset.
    overlap : float
        Share of the trap, its elements put back, that lies in the leading N_DIRECTIONS singular directions of W.
    elements : tuple of TrapElement
        The heaviest elements, heaviest first.
    carriers : tuple of TrapElement
        Those that carry it by their own values, heaviest first: w_ij·u_i·v_j is at least MIN_CARRIED of
        σ = Σ w_ij·u_i·v_j. Equal large elements share their traps: then mass lies also where the row of one meets the
        column of another, on ordinary elements, which are no carriers. Empty where no few elements carry the trap.
    carried_share : float
        Share of the trap's mass in the rows and columns of the carriers; of a single one its own.
    """

    slice_id: int
    eigenvalue: float
    p_value: float
    share_top5: float
    share_top10: float
    inverse_participation_ratio: float
    mean_share: float
    overlap: float
    elements: tuple[TrapElement, ...] = field(repr=False)
    carriers: tuple[TrapElement, ...] = field(default=(), repr=False)
    carried_share: float = 0.0

    @property
    def is_carried_by_few(self) -> bool:
        """Whether a few elements carry most of it."""
        heaviest = sum(element.share for element in self.elements[:N_FEW])
        return self.cause == "elements" and max(heaviest, self.carried_share) >= FEW_SHARE

    @property
    def cause(self) -> str:
        """``offset`` where all elements share a mean, otherwise ``elements``."""
        return "offset" if self.mean_share >= MEAN_SHARE else "elements"

    def in_slice(self, slice_id: int) -> Trap:
        """Return the same trap under another number of its slice."""
        return replace(self, slice_id=slice_id)


def trap_table(slices: NDArray[Any], *, name: str, seed: int, level: float, scale: float = 1.0) -> tuple[Trap, ...]:
    """Describe every trap of a layer.

    Parameters
    ----------
    slices : ndarray of any float type, shape (n, rows, columns)
        Finite, none all zero. Not written to.
    name : str
        Layer name.
    seed : int
        With equal name and seed the permutation is that of :func:`spectral.traps.find_traps`.
    level : float
        Level of significance for the whole layer, in (0, 1).
    scale : float
        Factor on the slices (``w_norm``), so that the eigenvalues compare with the spectrum's.
    """
    per_slice = level_of_each(level, len(slices))
    traps: list[Trap] = []
    for index, block in enumerate(slices):
        permuted = permuted_slice(block, name=name, seed=seed, index=index)
        leading = leading_of(permuted)
        test = trap_test(permuted, leading)
        n_traps = min(test.n_traps(per_slice), MAX_TRAPS)
        if n_traps == 0:
            continue
        origin = scrambled(np.arange(block.size).reshape(block.shape), generator_for(seed, name, PURPOSE, index))
        basis = _leading_directions(block, generator_for(seed, name, PURPOSE, index, 1))
        traps.extend(
            _describe(
                block,
                _right_and_left(permuted.values, leading, rank),
                origin,
                basis,
                slice_id=index,
                eigenvalue=test.eigenvalues[rank],
                scale=scale,
                p_value=test.eigenvalue_p_values[rank],
            )
            for rank in range(n_traps)
        )
    return tuple(traps)


def _describe(
    block: NDArray[Any],
    directions: tuple[NDArray[np.float64], NDArray[np.float64]],
    origin: NDArray[np.intp],
    basis: tuple[NDArray[np.float64], NDArray[np.float64]],
    *,
    slice_id: int,
    eigenvalue: float,
    scale: float,
    p_value: float,
) -> Trap:
    left, right = directions
    elements = _heaviest(block, left**2, right**2, origin)
    carriers, carried_share = _carriers(block, directions, origin, math.sqrt(eigenvalue))
    masses = [element.share for element in elements]
    put_back = np.empty(block.size)
    put_back[origin.ravel()] = np.outer(left, right).ravel()
    inside = basis[0].T @ put_back.reshape(block.shape) @ basis[1]
    return Trap(
        slice_id=slice_id,
        eigenvalue=eigenvalue * scale**2,
        p_value=p_value,
        share_top5=sum(masses[:5]),
        share_top10=sum(masses[:10]),
        inverse_participation_ratio=float(np.sum(left**4) * np.sum(right**4)),
        mean_share=float(np.sum(left) ** 2 / len(left) * np.sum(right) ** 2 / len(right)),
        overlap=float(np.sum(inside**2)),
        elements=elements,
        carriers=carriers,
        carried_share=carried_share,
    )


def _carriers(
    block: NDArray[Any],
    directions: tuple[NDArray[np.float64], NDArray[np.float64]],
    origin: NDArray[np.intp],
    singular_value: float,
) -> tuple[tuple[TrapElement, ...], float]:
    """Return the elements that make up the singular value, and the share of the mass in their rows and columns."""
    left, right = directions
    rows, columns = (np.argsort(-np.abs(vector), kind="stable")[:N_ELEMENTS] for vector in directions)
    places = origin[np.ix_(rows, columns)]
    values = block[np.unravel_index(places, block.shape)].astype(np.float64)
    carried = values / singular_value * np.outer(left[rows], right[columns])
    masses = np.outer(left[rows] ** 2, right[columns] ** 2)
    found = np.argwhere(carried >= MIN_CARRIED)
    order = sorted(found.tolist(), key=lambda place: -float(carried[place[0], place[1]]))
    elements = tuple(_element(block, int(places[i, j]), float(masses[i, j])) for i, j in order)
    share = np.sum(left[rows[np.unique(found[:, 0])]] ** 2) * np.sum(right[columns[np.unique(found[:, 1])]] ** 2)
    return elements, float(share)


def _element(block: NDArray[Any], place: int, share: float) -> TrapElement:
    row, column = divmod(place, block.shape[1])
    return TrapElement(row=row, column=column, value=float(block[row, column]), share=share)


def _heaviest(
    block: NDArray[Any], row_mass: NDArray[np.float64], column_mass: NDArray[np.float64], origin: NDArray[np.intp]
) -> tuple[TrapElement, ...]:
    """Return the elements with the largest u_i²·v_j²: they lie in the rows and columns that are heaviest themselves."""
    rows = np.argsort(-row_mass, kind="stable")[:N_ELEMENTS]
    columns = np.argsort(-column_mass, kind="stable")[:N_ELEMENTS]
    masses = np.outer(row_mass[rows], column_mass[columns])
    order = np.argsort(-masses.ravel(), kind="stable")[:N_ELEMENTS]
    found = []
    for place in order.tolist():
        i, j = divmod(place, len(columns))
        found.append(_element(block, int(origin[rows[i], columns[j]]), float(masses[i, j])))
    return tuple(found)


def _right_and_left(
    matrix: NDArray[Any], leading: LeadingEigenvalues, rank: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the singular vectors of one leading eigenvalue, for rows and for columns."""
    small = leading.vectors[:, rank].astype(np.float64)
    small /= np.linalg.norm(small)
    wide = matrix.shape[0] < matrix.shape[1]
    large = (matrix.T if wide else matrix).astype(np.float64) @ small
    large /= np.linalg.norm(large)
    return (small, large) if wide else (large, small)


def _leading_directions(
    block: NDArray[Any], generator: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the leading singular vectors of W itself, as columns, for rows and for columns."""
    values = block.astype(np.float64)
    # By a power of two, which changes no digit: the squares of 1e80 are beyond float64 after two products.
    values = np.ldexp(values, -math.frexp(float(np.max(np.abs(values))))[1])
    kept = min(N_DIRECTIONS, *values.shape)
    leading = leading_eigenvalues(
        values,
        enough=lambda found: len(found.values) == kept and bool(np.all(found.errors < 1e-6 * found.values[0])),
        start=generator.standard_normal(min(values.shape)),
        n_values=kept,
        max_steps=min(values.shape),
    )
    small = np.linalg.qr(leading.vectors)[0]
    wide = values.shape[0] < values.shape[1]
    large = np.linalg.qr((values.T if wide else values) @ small)[0]
    return (small, large) if wide else (large, small)
