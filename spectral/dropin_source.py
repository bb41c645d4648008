"""A model as ``weightwatcher`` 0.7.7 cuts it into matrices: one for every layer that it has a row for.

A view of the core's own source. Fused and tied weights are whole there and stand twice, grouped kernels are one, and
what it passes over (recurrent gates, attention projections, ..) is refused with a reason, so that it stays listed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from spectral.loaders.protocol import LayerType, TensorInfo, TensorSource, as_little_endian
from spectral.loaders.ties import is_tied, is_transposed
from spectral.parts import channels_last_kernel, kernel, matrix
from spectral.weights import ModelPlan, plan_matrices

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from spectral.dropin_layers import CountedLayer, LayerTable

NOT_COUNTED = "weightwatcher has no row for such a layer; WeightWatcher(model, extra_layers=True) has one where it can"


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedSource:
    """The tensors of another source, cut as weightwatcher cuts them.

    Attributes
    ----------
    inner : TensorSource
        The model.
    infos : mapping of str to TensorInfo
        The weights of its rows in their order, then all other tensors.
    tied : mapping of str to str
        Second names of weights -> the first.
    transposed : frozenset of str
        Those of them that are the transpose of the first.
    """

    inner: TensorSource = field(repr=False)
    infos: Mapping[str, TensorInfo] = field(repr=False)
    tied: Mapping[str, str] = field(repr=False)
    transposed: frozenset[str] = field(repr=False)

    @property
    def label(self) -> str:
        return self.inner.label

    @property
    def values(self) -> Mapping[str, Any]:
        """What the model in memory holds; empty for files."""
        return getattr(self.inner, "values", {})

    def tensors(self) -> tuple[TensorInfo, ...]:
        return tuple(self.infos.values())

    def load(self, name: str) -> NDArray[Any]:
        values = self.inner.load(self.tied.get(name, name))
        return as_little_endian(values.T) if name in self.transposed else values


def counted_source(source: TensorSource, table: LayerTable, *, kernel_first: bool = False) -> CountedSource:
    """View a source as weightwatcher does.

    Parameters
    ----------
    source : TensorSource
        The model.
    table : LayerTable
        Its layers.
    kernel_first : bool
        Kernels are stored as Keras does.
    """
    known = {info.name: info for info in source.tensors()}
    infos: dict[str, TensorInfo] = {}
    tied: dict[str, str] = {}
    for tensor, layer in table.by_tensor.items():
        if tensor in known:
            if is_tied(known[tensor]):
                tied[tensor] = str(known[tensor].counted_in)
            infos[tensor] = _as_counted(known[tensor], layer, kernel_first)
    for name, info in known.items():
        if name not in infos:
            is_weight = len(info.shape) >= 2 and info.refusal is None
            infos[name] = replace(info, refusal=NOT_COUNTED) if is_weight else info
    transposed = frozenset(name for name in tied if is_transposed(known[name]))
    return CountedSource(inner=source, infos=infos, tied=tied, transposed=transposed)


def counted_plan(source: TensorSource, table: LayerTable) -> ModelPlan:
    """Return the plan of a source with the layers' numbers; of parts that have none, that of the module they are in."""
    plan = plan_matrices(source.tensors())
    owners = [table.owner(spec.tensor) for spec in plan.matrices]
    unowned = dict.fromkeys(spec.tensor for spec, owner in zip(plan.matrices, owners, strict=True) if owner is None)
    free = {tensor: number for number, tensor in enumerate(unowned, table.next_id)}
    matrices = tuple(
        replace(spec, index=free[spec.tensor] if owner is None else owner.layer_id)
        for spec, owner in zip(plan.matrices, owners, strict=True)
    )
    return replace(plan, matrices=matrices)


def _as_counted(info: TensorInfo, layer: CountedLayer, kernel_first: bool) -> TensorInfo:
    """Give a weight the one matrix, or the slices, of its row."""
    if is_tied(info):
        info = replace(info, refusal=None, counted_in=None)
    assert layer.layer_type is not None
    if len(info.shape) == 2 and layer.layer_type is not LayerType.CONV2D:
        return replace(info, parts=matrix(layer.layer_type, *info.shape))
    if len(info.shape) == 4 and layer.layer_type is LayerType.CONV2D:
        cut = channels_last_kernel if kernel_first else kernel
        return replace(info, parts=cut(LayerType.CONV2D, info.shape))
    return replace(info, refusal=info.refusal or NOT_COUNTED)
