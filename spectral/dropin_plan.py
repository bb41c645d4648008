"""What the drop-in class analyses: the model as weightwatcher counts it, its filters and its limits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from spectral import dropin_names as ww
from spectral.adapters import adapter_source
from spectral.deltas import delta_source
from spectral.description import Description, describe_plan
from spectral.dropin_layers import CountedLayer, LayerTable, count_layers
from spectral.dropin_source import counted_plan, counted_source
from spectral.errors import ModelMismatchError, OptionError
from spectral.loaders.keras_model import is_keras_layer
from spectral.loaders.opening import open_model
from spectral.selection import Selection, select_matrices
from spectral.writable_models import open_for_writing

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from spectral.adapters import AdapterMode
    from spectral.loaders.protocol import TensorSource
    from spectral.options import AnalysisOptions
    from spectral.weights import MatrixSpec, ModelPlan
    from spectral.writable_models import WritableModel

_TYPES = (*ww.LAYER_TYPES_SUPPORTED, ww.LAYER_TYPE.STACKED, ww.LAYER_TYPE.FLATTENED, ww.LAYER_TYPE.BIDIRECTIONAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedModel:
    """A model (or a difference, or an adapter) and its layers, as weightwatcher counts them."""

    source: TensorSource
    table: LayerTable
    plan: ModelPlan


def open_counted(
    model: object,
    *,
    base_model: object = None,
    peft: AdapterMode | None = None,
    lora_scaling: float | None = 1.0,
    start_ids: int = 0,
    extra_layers: bool = False,
) -> CountedModel:
    """Open a model and count its layers.

    Parameters
    ----------
    model, base_model : anything :func:`spectral.open_model` opens
        With ``base_model`` the differences are what is analysed.
    peft : {"adapter_only", "with_base"}, optional
        The model is a LoRA adapter.
    lora_scaling : float, optional
        Factor on B·A; None takes that of the adapter's configuration.
    start_ids : int
        Number of the first layer.
    extra_layers : bool
        Every matrix of the core's own plan, instead of the rows that weightwatcher has.
    """
    own = open_model(model)
    table = count_layers(model, own, start_ids)
    source = own
    if peft is not None:
        source = adapter_source(model, base_model, mode=peft, scaling=lora_scaling)
        table = _adapter_table(table, {info.name for info in source.tensors()})
    elif base_model is not None:
        source = delta_source(own, base_model)
    if not extra_layers:
        source = counted_source(source, table, kernel_first=is_keras_layer(model))
    return CountedModel(source=source, table=table, plan=counted_plan(source, table))


def counted_description(
    counted: CountedModel, options: AnalysisOptions, *, layers: Any = (), min_evals: int = 0
) -> Description:
    """Apply the filters and the limits.

    Parameters
    ----------
    counted : CountedModel
        The model.
    options : AnalysisOptions
        Without ``layers``.
    layers : iterable of int and str, int, str or ndarray
        Ids and names by the table, types, and negations of these.
    min_evals : int
        Layers with fewer eigenvalues have no row.

    Raises
    ------
    OptionError
        An id or a name that no layer of the model has.
    """
    entries, names_none = _entries(layers, counted)
    matrices = (
        () if names_none else tuple(spec for spec in counted.plan.matrices if _is_counted(spec, options, min_evals))
    )
    if not names_none and entries:
        chosen, _ = select_matrices(counted.plan.matrices, Selection(layers=entries))
        names = {(spec.tensor, spec.name) for spec in chosen}
        matrices = tuple(spec for spec in matrices if (spec.tensor, spec.name) in names)
    if options.conv2d_fft and options.pool:
        options = options.changed({"max_evals": None, "min_evals": 2})
    return describe_plan(counted.source, replace(counted.plan, matrices=matrices), options)


def _is_counted(spec: MatrixSpec, options: AnalysisOptions, min_evals: int) -> bool:
    if options.conv2d_fft and options.pool:
        return True  # No layer is too small or too large there, then: dense ones neither.
    return (spec.n_evals if options.pool else spec.M) >= min_evals


def _entries(layers: Any, counted: CountedModel) -> tuple[tuple[int | str, ...], bool]:
    """Return the filters that name matrices, and whether those that keep name layers without any."""
    wanted = Selection(layers=layers).layers
    found = tuple(entry for entry in wanted if _matches(entry, counted.plan.matrices))
    for entry in wanted:
        if entry not in found and not _is_known(entry, counted.table.layers):
            raise OptionError(f"layers: {entry!r} is neither number, name nor type of a layer of this model")
    keeps = [entry for entry in wanted if not _drops(entry)]
    return found, bool(keeps) and not any(entry in found for entry in keeps)


def _matches(entry: int | str, specs: Sequence[MatrixSpec]) -> bool:
    try:
        select_matrices(specs, Selection(layers=(entry,)))
    except OptionError:
        return False
    return True


def _is_known(entry: int | str, layers: Iterable[CountedLayer]) -> bool:
    """Tell whether an entry names a layer that has no matrix (an activation, a norm), or a type."""
    if isinstance(entry, int):
        return any(layer.layer_id == abs(entry) for layer in layers)
    text = entry.removeprefix("-")
    return text in _TYPES or any(fnmatchcase(name, text) for layer in layers for name in (layer.name, layer.longname))


def _drops(entry: int | str) -> bool:
    return entry.startswith("-") if isinstance(entry, str) else entry < 0


def _adapter_table(table: LayerTable, tensors: set[str]) -> LayerTable:
    """Put the products of an adapter in the places of their factors: W + B·A, then B·A, at that of B (parity)."""
    layers: list[CountedLayer] = []
    factor_a: CountedLayer | None = None
    for layer in table.layers:
        if layer.tensor is None:
            layers.append(layer)
        elif "lora_A" in layer.tensor:
            factor_a = layer
        elif "lora_B" in layer.tensor:
            renamed = [_renamed(layer, "lora_B", "lora_W_plus_AB")]
            renamed += [] if factor_a is None else [_renamed(factor_a, "lora_A", "lora_BA")]
            layers += [product for product in renamed if product.tensor in tensors]
        else:
            layers.append(replace(layer, tensor=layer.tensor.replace(".base_layer.", ".")))
    if not any(layer.tensor is not None and "lora_BA" in layer.tensor for layer in layers):
        raise ModelMismatchError("peft: the model has no pair of lora_A and lora_B weights")
    return LayerTable(layers=tuple(layers))


def _renamed(layer: CountedLayer, factor: str, product: str) -> CountedLayer:
    assert layer.tensor is not None
    return replace(
        layer,
        name=layer.name.replace(factor, product),
        longname=layer.longname.replace(factor, product),
        tensor=layer.tensor.replace(factor, product),
    )


def counted_target(model: object, counted: CountedModel) -> WritableModel:
    """Open a model for writing in place, cut as it was counted."""
    return replace(open_for_writing(model, inplace=True), source=counted.source)
