"""W_model - W_base as a model of its own: what training, fine-tuning or compression did to every weight.

A :class:`DeltaSource` is a TensorSource, so everything that reads a model reads a difference of two.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from spectral.alignment import align, shapes_of
from spectral.errors import ModelError
from spectral.loaders.opening import open_model
from spectral.loaders.spans import read_span
from spectral.pairing import pair_models

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from spectral.loaders.protocol import TensorInfo, TensorSource
    from spectral.pairing import ModelPairing

ONLY_IN_BASE = "only in the base model: the model has no tensor of this name"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaSource:
    """The differences of two models, tensor by tensor; nothing is read before :meth:`load`.

    Attributes
    ----------
    label : str
        ``<model> - <base>``.
    model, base : TensorSource
        What is subtracted from what.
    infos : mapping of str to TensorInfo
        Headers of the differences under the model's names, then those of the base that have no partner.
    partners : mapping of str to str
        Name in the model -> name in the base.
    """

    label: str
    model: TensorSource = field(repr=False)
    base: TensorSource = field(repr=False)
    infos: Mapping[str, TensorInfo] = field(repr=False)
    partners: Mapping[str, str] = field(repr=False)

    def tensors(self) -> tuple[TensorInfo, ...]:
        return tuple(self.infos.values())

    def load(self, name: str) -> NDArray[Any]:
        self._require_values(name)
        return self._subtract(name, self.model.load(name), self.base.load(self.partners[name]))

    def load_span(self, name: str, begin: int, end: int) -> NDArray[Any]:
        self._require_values(name)
        pieces = (
            read_span(source, tensor, begin, end)
            for source, tensor in ((self.model, name), (self.base, self.partners[name]))
        )
        return self._subtract(name, *pieces)

    def _require_values(self, name: str) -> None:
        refusal = self.infos[name].refusal
        if refusal is not None:
            raise ModelError(f"{self.label}: tensor {name!r}: {refusal}")

    def _subtract(self, name: str, values: NDArray[Any], base: NDArray[Any]) -> NDArray[Any]:
        import numpy as np

        dtype = np.dtype(self.infos[name].dtype)
        # The difference is made in place of the copy, so that no fourth matrix is in memory.
        difference = np.array(values, dtype=dtype, order="C")
        # An overflow, or inf - inf, is not finite either: it is a finding of the layer, not a warning here.
        with np.errstate(over="ignore", invalid="ignore"):
            difference -= base.astype(dtype, copy=False)
        return difference


def delta_source(model: object, base_model: object) -> DeltaSource:
    """Open the difference W_model - W_base of two models of one architecture.

    Parameters
    ----------
    model, base_model : anything :func:`spectral.open_model` opens
        The names may differ by one common prefix (``module.``, ``model.``, ``base_model.model.``, ..).

    Returns
    -------
    DeltaSource
        Tensors under the names of ``model``, or of ``base_model`` where a converter changed them. One without a
        partner, or with one of another shape, has a refusal that says so: it becomes a named row of
        :attr:`spectral.Analysis.unanalysed`.

    Raises
    ------
    ModelMismatchError
        The models are of different architectures; the message names the first layers that differ.
    ModelError
        A model cannot be read.

    Notes
    -----
    The subtraction is done in float32, or in float64 where one of the two is stored so. That is exact where the
    two values are within a factor of two of each other (Sterbenz, Floating-Point Computation, 1974, theorem
    4.3.1), and otherwise rounded by at most 6e-8 of the difference, which is what ``weightwatcher`` does, too.
    """
    first, second = open_model(model), open_model(base_model)
    first = align(first, shapes_of(second))
    pairing = pair_models(first, second)
    infos = {name: _difference(pairing, name) for name in pairing.infos_first}
    for name in pairing.only_second:
        lonely = pairing.infos_second[name]
        infos[name] = replace(lonely, refusal=lonely.refusal or ONLY_IN_BASE, max_rank=None)
    return DeltaSource(
        label=f"{first.label} - {second.label}", model=first, base=second, infos=infos, partners=dict(pairing.partners)
    )


def _difference(pairing: ModelPairing, name: str) -> TensorInfo:
    """Return the header of one difference."""
    info = pairing.infos_first[name]
    reason = pairing.mismatch(name)
    if reason is not None:
        return replace(info, refusal=reason, max_rank=None)
    other = pairing.infos_second[pairing.partners[name]]
    ranks = (info.max_rank, other.max_rank)
    return replace(
        info,
        dtype="float64" if "float64" in (info.dtype, other.dtype) else "float32",
        role=info.role or other.role,
        parts=info.parts or other.parts,
        # The rank of a difference is at most the sum of both ranks.
        max_rank=None if None in ranks else sum(rank for rank in ranks if rank is not None),
    )
