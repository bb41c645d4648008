"""SVD sharpness: take the correlation traps out of weight matrices.

A trap is a singular value that sticks out of the random bulk after the *elements* of the matrix were permuted: it is
due to a few large elements, not to structure across rows and columns (Martin and Mahoney, JMLR 22 (2021) 165). The
permuted matrix is clipped at the edge of its bulk and permuted back, which lowers the elements that made the trap
and leaves the matrix's own singular directions alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spectral.errors import OptionError
from spectral.fits import FitFailure, FitFailureReason
from spectral.marchenko_pastur import fit_marchenko_pastur
from spectral.permutation import generator_for
from spectral.spectrum import Spectrum, SpectrumFailure, compute_spectrum
from spectral.transforms import Replacement, TransformedModel, no_spectrum, transform_model
from spectral.truncation import clip_singular_values

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from spectral.weights import WeightMatrix


@dataclass(frozen=True, slots=True, kw_only=True)
class TrapEdge:
    """Where the traps of a permuted layer begin, and where its bulk ends.

    Attributes
    ----------
    above : float
        Eigenvalues λ above this are traps, in the scale of the spectrum.
    clip_to : float
        They are lowered to this, at most ``above``; 0 removes them.
    """

    above: float
    clip_to: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.above) and 0.0 <= self.clip_to <= self.above):
            raise OptionError(f"expected 0 <= clip_to <= above, got clip_to = {self.clip_to!r}, above = {self.above!r}")


PURPOSE = 0x7368_6172  # "shar"
"""Keeps these draws apart from all others of the same layer."""

TrapRule = Callable[[Spectrum], "TrapEdge | FitFailure"]
"""From the pooled spectrum of the permuted layer to its edge."""

Permute = Callable[[str, int, int], "NDArray[np.intp]"]
"""From layer name, number of the slice and number of its elements to a permutation of these."""


def marchenko_pastur_edge(spectrum: Spectrum) -> TrapEdge | FitFailure:
    """Return the spike threshold and the upper edge of the Marchenko-Pastur fit."""
    fit = fit_marchenko_pastur(spectrum.evals, N=spectrum.N, M=spectrum.M)
    return fit if isinstance(fit, FitFailure) else TrapEdge(above=fit.spike_threshold, clip_to=fit.bulk_max)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeededPermutation:
    """Permutations that depend on the seed, the layer's name and the slice, and on nothing else."""

    seed: int = 0

    def __call__(self, name: str, index: int, size: int) -> NDArray[np.intp]:
        return generator_for(self.seed, name, PURPOSE, index).permutation(size)


def clip_permuted(
    matrix: NDArray[Any],
    *,
    permutation: NDArray[np.intp],
    n_traps: int | None = None,
    threshold: float | None = None,
) -> NDArray[Any]:
    """Permute the elements, clip the leading singular values, permute back.

    Parameters
    ----------
    matrix : ndarray, shape (rows, columns)
        Finite values of any float type; not written to.
    permutation : ndarray of int, shape (rows * columns,)
        Element i of the permuted matrix, in C order, is element ``permutation[i]`` of ``matrix``.
    n_traps : int, optional
        How many of the largest singular values of the permuted matrix are traps. Default: all above ``threshold``.
    threshold : float, optional
        Edge of the bulk in units of σ, to which the traps are lowered. Default: the largest singular value that is no
        trap.

    Returns
    -------
    ndarray, shape (rows, columns)
        Of the type of ``matrix``; equal to it where there is no trap.

    Raises
    ------
    OptionError
        Neither ``n_traps`` nor ``threshold`` is given, one of them is impossible, ``n_traps`` alone leaves no
        singular value, or ``permutation`` is none of this size.
    ValueError
        ``matrix`` is not two-dimensional and finite.
    """
    permuted = permute_elements(matrix, permutation)
    if threshold is None:
        if n_traps is None:
            raise OptionError("give n_traps, threshold or both")
        threshold = _largest_beyond(permuted, n_traps)
    clipped = clip_singular_values(permuted, threshold, n_leading=n_traps)
    return restore_elements(clipped, permutation)


def permute_elements(matrix: NDArray[Any], permutation: NDArray[np.intp]) -> NDArray[Any]:
    """Return the matrix whose i-th element in C order is element ``permutation[i]`` of ``matrix``.

    Raises
    ------
    OptionError
        Not every element occurs once.
    """
    if not _is_permutation(permutation, matrix.size):
        raise OptionError(
            f"expected a permutation of {matrix.size} elements, got {permutation.dtype} of shape {permutation.shape} "
            "that does not hold every position once"
        )
    return matrix.reshape(-1)[permutation].reshape(matrix.shape)


def restore_elements(permuted: NDArray[Any], permutation: NDArray[np.intp]) -> NDArray[Any]:
    """Undo :func:`permute_elements`."""
    restored = np.empty(permuted.size, dtype=permuted.dtype)
    restored[permutation] = permuted.reshape(-1)
    return restored.reshape(permuted.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharpenLayer:
    """Take the traps out of one layer; a :data:`~spectral.transforms.MatrixTransform`.

    Parameters
    ----------
    edge : callable
        From the pooled spectrum of the permuted slices to the edge of their bulk.
    permute : callable
        Which permutation each slice gets.
    """

    edge: TrapRule
    permute: Permute

    def __call__(self, matrix: WeightMatrix) -> Replacement | FitFailure:
        spec = matrix.spec
        permutations = [self.permute(spec.name, index, block.size) for index, block in enumerate(matrix.slices)]
        permuted = [permute_elements(*pair) for pair in zip(matrix.slices, permutations, strict=True)]
        spectrum = compute_spectrum(replace(matrix, slices=np.stack(permuted)))
        if isinstance(spectrum, SpectrumFailure):
            return no_spectrum(spectrum.detail)
        edge = self.edge(spectrum)
        if isinstance(edge, FitFailure):
            return edge
        try:
            traps = [_count_traps(block, edge.above, spec.scale) for block in permuted]
            clip_to = math.sqrt(edge.clip_to) / spec.scale
            clipped = [
                clip_singular_values(block, clip_to, n_leading=n_traps)
                for block, n_traps in zip(permuted, traps, strict=True)
            ]
        except np.linalg.LinAlgError as error:
            return FitFailure(reason=FitFailureReason.NO_CONVERGENCE, detail=f"LAPACK found no vectors: {error}")
        slices = np.stack([restore_elements(*pair) for pair in zip(clipped, permutations, strict=True)])
        return Replacement(slices=slices, n_changed=sum(traps))


def sharpen_model(
    model: object,
    *,
    seed: int = 0,
    edge: TrapRule = marchenko_pastur_edge,
    permute: Permute | None = None,
    layers: Iterable[int | str] = (),
    inplace: bool = False,
    n_workers: int | None = None,
) -> TransformedModel:
    """Take the correlation traps out of every weight matrix of a model.

    Parameters
    ----------
    model : torch.nn.Module, keras.Model or mapping of str to torch tensor or ndarray
        Left as it is, unless ``inplace``.
    seed : int
        Of the permutations; each layer and slice has its own, whatever their order.
    edge : callable
        From the :class:`~spectral.spectrum.Spectrum` of the permuted layer to its :class:`TrapEdge`, or to the reason
        why it has none. Default: the Marchenko-Pastur fit.
    permute : callable, optional
        Other permutations than :class:`SeededPermutation`'s, for example those in which traps were found.
    layers, inplace, n_workers
        As for :func:`~spectral.transforms.transform_model`.

    Returns
    -------
    TransformedModel
        ``n_changed`` is the number of traps of a layer.

    Raises
    ------
    OptionError, ModelError
        As :func:`~spectral.transforms.transform_model`.
    """
    if type(seed) is not int or seed < 0:
        raise OptionError(f"seed must be an integer of at least 0, got {seed!r}")
    transform = SharpenLayer(edge=edge, permute=permute or SeededPermutation(seed=seed))
    return transform_model(model, transform, layers=layers, inplace=inplace, n_workers=n_workers)


def _is_permutation(positions: NDArray[Any], size: int) -> bool:
    if positions.shape != (size,) or positions.dtype.kind not in "iu":
        return False
    if size > 0 and not (positions.min() >= 0 and positions.max() < size):
        return False
    is_taken = np.zeros(size, dtype=bool)
    is_taken[positions] = True
    return bool(is_taken.all())


def _count_traps(block: NDArray[Any], above: float, scale: float) -> int:
    """Return how many singular values of one slice have a scaled λ = (σ scale)² above the edge."""
    singular = np.linalg.svd(block.astype(np.float64), compute_uv=False)
    return int(np.count_nonzero((singular * scale) ** 2 > above))


def _largest_beyond(matrix: NDArray[Any], n_traps: int) -> float:
    """Return the singular value that follows the ``n_traps`` largest."""
    if not 0 <= n_traps < min(matrix.shape):
        raise OptionError(
            f"n_traps must be from 0 to {min(matrix.shape) - 1} for shape {matrix.shape}, got {n_traps!r}"
        )
    return float(np.linalg.svd(matrix.astype(np.float64), compute_uv=False)[n_traps])
