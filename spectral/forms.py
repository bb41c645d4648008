"""In what form a matrix is analysed: pooled or slice by slice, normalised, transformed, inverted.

Three pure steps around the spectrum: :func:`expand_specs` decides slices, orientation and scale from headers alone,
:func:`form_matrix` transforms values, :func:`form_spectrum` transforms eigenvalues.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from spectral.convolution_operator import conv2d_operator_spectrum, without_copies
from spectral.errors import OptionError
from spectral.loaders.protocol import LayerType
from spectral.parts import channels_last_kernel, kernel
from spectral.selection import LeftOut
from spectral.spectrum import Spectrum, SpectrumFailure, compute_spectrum

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from spectral.weights import MatrixSpec, WeightMatrix

_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True, kw_only=True)
class FormOptions:
    """In what form matrices are analysed; the defaults are those of the incumbent.

    Parameters
    ----------
    pool : bool
        The slices of a convolution give one spectrum; otherwise each slice is a matrix of its own.
    conv2d_norm : bool
        2-D convolutions are multiplied by √(1/2), slices of their own by √(rf/2).
    conv2d_fft : bool
        2-D convolutions are analysed as operators on an image: see :mod:`spectral.convolution_operator`.
    fft : bool
        Each slice is replaced by the real part of its 2-D Fourier transform.
    glorot_fix : bool
        Each slice is divided by κ = √(2 / ((N + M)·rf)), the standard deviation with which Glorot and Bengio (AISTATS
        2010, eq. 12) start a layer of this shape, in place of ``conv2d_norm``.
    inverse : bool
        The spectrum is 1/λ.
    channels : {None, "first", "last"}
        Orientation of 4-D kernels: ``"last"`` (out, in, k1, k2) as in torch, ``"first"`` (k1, k2, in, out) as in
        Keras (the incumbent's words, which say where the kernel axes are not). None: told from role and shape.
    stacked, intra, sparsify : bool
        Analyse all layers stacked into one matrix (:mod:`spectral.stacking`), or the products of successive
        layers (:mod:`spectral.intra`), with a random 0/1 matrix between where ``sparsify``.

    Raises
    ------
    OptionError
        A value of another type, or options that contradict each other.
    """

    pool: bool = True
    conv2d_norm: bool = True
    conv2d_fft: bool = False
    fft: bool = False
    glorot_fix: bool = False
    inverse: bool = False
    channels: Literal["first", "last"] | None = None
    stacked: bool = False
    intra: bool = False
    sparsify: bool = True

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name != "channels" and not isinstance(value, bool):
                raise OptionError(f"{option.name} must be True or False, got {value!r}")
        if not isinstance(self.channels, (str, type(None))) or self.channels not in (None, "first", "last"):
            raise OptionError(f"channels must be 'first', 'last' or None, got {self.channels!r}")
        for is_set, first, second in self._contradictions():
            if is_set:
                raise OptionError(f"{first} and {second} contradict each other")

    def _contradictions(self) -> Iterator[tuple[bool, str, str]]:
        yield self.conv2d_fft and not self.pool, "conv2d_fft", "pool=False"
        yield self.conv2d_fft and self.fft, "conv2d_fft", "fft"
        yield self.stacked and self.intra, "stacked", "intra"
        for is_set, name in ((self.stacked, "stacked"), (self.intra, "intra")):
            yield is_set and not self.pool, name, "pool=False"
            yield is_set and self.conv2d_fft, name, "conv2d_fft"


def expand_specs(
    specs: Iterable[MatrixSpec], options: FormOptions
) -> tuple[tuple[MatrixSpec, ...], tuple[LeftOut, ...]]:
    """Decide orientation, slices and scale, reading no values.

    Parameters
    ----------
    specs : iterable of MatrixSpec
        As planned, pooled.
    options : FormOptions
        ``channels``, ``pool``, ``conv2d_norm`` and ``glorot_fix`` count here.

    Returns
    -------
    specs : tuple of MatrixSpec
        With ``pool=False`` one spec per slice: they share ``index`` and ``name`` and differ in ``slice_id``, which is 0
        for every matrix that has no other slice.
    left_out : tuple of LeftOut
        Kernels that the forced orientation turns into mere vectors.
    """
    expanded: list[MatrixSpec] = []
    left_out: list[LeftOut] = []
    for spec in specs:
        oriented = _oriented(spec, options.channels)
        if oriented.M == 1:
            reason = f"only vectors under channels={options.channels!r}: each slice has a single row or column"
            left_out.append(LeftOut(spec=spec, reason=reason))
            continue
        # The real part of a transform has up to twice the rank.
        max_rank = None if options.fft else oriented.max_rank
        scaled = replace(oriented, scale=_scale(oriented, options), max_rank=max_rank)
        if options.pool:
            expanded.append(scaled)
        else:
            expanded.extend(replace(scaled, slice_id=slice_id) for slice_id in range(scaled.rf))
    return tuple(expanded), tuple(left_out)


def _oriented(spec: MatrixSpec, channels: str | None) -> MatrixSpec:
    kernel_first = channels == "first"
    is_kernel = spec.layer_type is LayerType.CONV2D and spec.part.fold == spec.shape
    if channels is None or not is_kernel or kernel_first == spec.kernel_first:
        return spec
    cut = channels_last_kernel if kernel_first else kernel
    (part,) = cut(spec.layer_type, spec.shape)
    return replace(spec, part=part, rows=part.rows, columns=part.columns, rf=part.rf)


def _scale(spec: MatrixSpec, options: FormOptions) -> float:
    if options.glorot_fix:
        return math.sqrt((spec.N + spec.M) * spec.rf / 2.0)
    if spec.layer_type is not LayerType.CONV2D:
        return spec.scale
    if not options.conv2d_norm:
        return 1.0
    return math.sqrt((1 if options.pool else spec.rf) / 2.0)


def form_slices(slices: NDArray[Any], options: FormOptions) -> NDArray[Any]:
    """Transform the values of each slice.

    Parameters
    ----------
    slices : ndarray, shape (n, rows, columns)
        Any float type.
    options : FormOptions
        Only ``fft`` changes values; the scale of the other options belongs to the spec.

    Returns
    -------
    ndarray, shape (n, rows, columns)
        The slices themselves without ``fft``; with it float64, read-only. A slice that is not finite stays as it is, so
        that its spectrum can say where.
    """
    if not options.fft:
        return slices
    formed = np.empty(slices.shape)
    for index, block in enumerate(slices):
        is_finite = bool(np.all(np.isfinite(block)))
        with np.errstate(over="ignore", invalid="ignore"):
            formed[index] = np.fft.fft2(block.astype(np.float64)).real if is_finite else block
    formed.flags.writeable = False
    return formed


def form_matrix(matrix: WeightMatrix, options: FormOptions) -> WeightMatrix:
    """Return the matrix in the form that is analysed (and randomised, and fitted)."""
    return replace(matrix, slices=form_slices(matrix.slices, options))


def compute_formed_spectrum(matrix: WeightMatrix, options: FormOptions) -> Spectrum | SpectrumFailure:
    """Compute the spectrum of a matrix that :func:`form_matrix` returned, in the form that is asked for."""
    if options.conv2d_fft and matrix.spec.layer_type is LayerType.CONV2D:
        spectrum = conv2d_operator_spectrum(matrix)
    else:
        spectrum = compute_spectrum(matrix, resolve_small=options.inverse)
    if isinstance(spectrum, SpectrumFailure):
        return spectrum
    return form_spectrum(spectrum, matrix.spec, options)


def fitted_evals(spectrum: Spectrum, spec: MatrixSpec, options: FormOptions) -> NDArray[np.float64]:
    """Return the eigenvalues that a tail is fitted to: all, but of an operator on images each once."""
    is_operator = options.conv2d_fft and spec.layer_type is LayerType.CONV2D
    return without_copies(spectrum.evals) if is_operator else spectrum.evals


def form_spectrum(spectrum: Spectrum, spec: MatrixSpec, options: FormOptions) -> Spectrum | SpectrumFailure:
    """Cut the spectrum at the largest possible rank, take σ for λ where the spec says so, and invert where asked.

    Returns
    -------
    Spectrum or SpectrumFailure
        With ``inverse``, ``evals`` holds 1/λ ascending, while ``sv_max``, ``sv_min`` and ``rank_loss`` remain those
        of the matrix (parity). A failure of kind ``singular`` where σ <= max σ·N·eps for some σ: what is zero to
        rounding has no inverse, and 1/λ would be the largest eigenvalue of all.
    """
    formed = spectrum if spec.max_rank is None else _cut_at_rank(spectrum, spec.n_evals)
    if options.inverse and formed.rank_loss > 0:
        detail = f"{formed.rank_loss} of {len(formed.evals)} singular values are zero to rounding: no inverse"
        return SpectrumFailure(kind="singular", detail=detail)
    if spec.spectral_power == 1:
        formed = _as_correlation(formed)
    return _inverted(formed) if options.inverse else formed


def _cut_at_rank(spectrum: Spectrum, n_evals: int) -> Spectrum:
    """Drop the eigenvalues that are zero by construction; they are no loss of rank."""
    n_cut = max(0, len(spectrum.evals) - n_evals)
    evals = spectrum.evals[n_cut:].copy()
    return replace(spectrum, evals=evals, sv_min=math.sqrt(evals[0]), rank_loss=max(0, spectrum.rank_loss - n_cut))


def _as_correlation(spectrum: Spectrum) -> Spectrum:
    """Take the σ of a product of two layers for its λ, and √σ for its singular values (parity)."""
    evals = np.sqrt(spectrum.evals)
    singular = np.sqrt(evals)
    tolerance = singular[-1] * (spectrum.N * _EPS)
    return replace(
        spectrum,
        evals=evals,
        sv_max=math.sqrt(spectrum.sv_max),
        sv_min=math.sqrt(spectrum.sv_min),
        rank_loss=int(np.count_nonzero(singular <= tolerance)),
    )


def _inverted(spectrum: Spectrum) -> Spectrum | SpectrumFailure:
    with np.errstate(over="ignore", divide="ignore"):
        evals = np.divide(1.0, spectrum.evals[::-1])
    if not np.isfinite(evals[-1]):
        return SpectrumFailure(kind="overflow", detail="the inverses of the eigenvalues exceed the range of float64")
    return replace(spectrum, evals=evals)
