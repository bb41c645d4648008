"""From a model and its options to the tensors and matrices that are analysed, reading no values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from spectral.errors import OptionError
from spectral.forms import FormOptions, expand_specs
from spectral.intra import IntraSource, UnalignedPair, intra_source
from spectral.selection import LeftOut, Selection, select_matrices
from spectral.stacking import stacked_source
from spectral.weights import plan_matrices

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from spectral.loaders.protocol import TensorSource
    from spectral.weights import MatrixSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """What will be analysed.

    Attributes
    ----------
    source : TensorSource
        Where the tensors of the specs come from: the model, or a view of it (stacked, intra).
    specs : tuple of MatrixSpec
        The matrices, in the form that is asked for.
    left_out : tuple of LeftOut
        Matrices of the model that are not analysed, with reasons.
    unaligned : tuple of UnalignedPair
        With ``intra``, successive layers that have no product.
    without_product : tuple of LeftOut
        With ``intra``, the layers that are in no product at all, with the reason.
    longnames : mapping of str to str
        With ``intra``, names of the two layers of each product by its name.
    """

    source: TensorSource = field(repr=False)
    specs: tuple[MatrixSpec, ...]
    left_out: tuple[LeftOut, ...]
    unaligned: tuple[UnalignedPair, ...] = ()
    without_product: tuple[LeftOut, ...] = ()
    longnames: Mapping[str, str] = field(default_factory=dict)


def prepare_matrices(
    source: TensorSource, specs: Iterable[MatrixSpec], selection: Selection, forms: FormOptions, *, seed: int = 0
) -> Preparation:
    """Orient, slice, select, and stack or multiply: in this order.

    Parameters
    ----------
    source : TensorSource
        The model.
    specs : iterable of MatrixSpec
        Its plan (:func:`~spectral.weights.plan_matrices`).
    selection : Selection
        Filters and limits; with ``stacked`` and ``intra`` they decide over the layers, not over what becomes of them.
    forms : FormOptions
        The form.
    seed : int
        Of the random matrices of ``sparsify``.

    Raises
    ------
    OptionError
        A filter that matches nothing, or too few layers to stack or multiply.
    """
    expanded, no_matrices = expand_specs(specs, forms)
    kept, left_out = select_matrices(expanded, selection, forms)
    if forms.stacked:
        stacked = stacked_source(source, kept)
        return Preparation(source=stacked, specs=_specs_of(stacked, forms), left_out=no_matrices + left_out)
    if forms.intra:
        intra = intra_source(source, kept, sparsify=forms.sparsify, seed=seed)
        return Preparation(
            source=intra,
            specs=_specs_of(intra, forms),
            left_out=no_matrices + left_out,
            unaligned=intra.unaligned,
            without_product=_without_product(kept, intra),
            longnames=intra.longnames,
        )
    return Preparation(source=source, specs=kept, left_out=no_matrices + left_out)


def _without_product(specs: tuple[MatrixSpec, ...], intra: IntraSource) -> tuple[LeftOut, ...]:
    """Return the layers that no product holds; at least one product there must be."""
    paired = {spec.index for pair in intra.pairs for spec in (pair.first, pair.second)}
    reasons = {index: pair.reason for pair in intra.unaligned for index in map(int, pair.name.strip().split(" X "))}
    left_out = tuple(
        LeftOut(spec=spec, reason=f"in no product of successive layers: {reasons.get(spec.index, 'none beside it')}")
        for spec in specs
        if spec.index not in paired
    )
    if not intra.pairs:
        raise OptionError(f"{intra.source.label}: no two successive layers have a product: {left_out[0].reason}")
    return left_out


def _specs_of(view: TensorSource, forms: FormOptions) -> tuple[MatrixSpec, ...]:
    return expand_specs(plan_matrices(view.tensors()).matrices, forms)[0]
