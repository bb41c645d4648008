"""Apply a transform of weight matrices to every layer of a model, and write the result back.

The transform sees one layer at a time, as the analysis does; what it returns is rounded to the stored type and put
where the values came from. Everything else is copied as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from spectral.execution import run_all
from spectral.fits import FitFailure, FitFailureReason
from spectral.selection import Selection, select_matrices
from spectral.weights import MatrixSpec, UnanalysedTensor, WeightMatrix, as_weight_matrix, plan_matrices
from spectral.writable_models import WritableModel, open_for_writing

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Replacement:
    """New values of one layer.

    Attributes
    ----------
    slices : ndarray, shape (rf, rows, columns)
        In the order of :class:`~spectral.weights.WeightMatrix`, of any float type.
    n_changed : int
        What the transform counts over all slices: singular directions that were removed or clipped, or weights.
    reason : str, optional
        Why something that it might have changed stays as it is.
    """

    slices: NDArray[Any] = field(repr=False)
    n_changed: int
    reason: str | None = None


MatrixTransform = Callable[[WeightMatrix], "Replacement | FitFailure"]
"""New values for a layer, or why it stays as it is. Called from several threads at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerChange:
    """What became of one layer.

    Attributes
    ----------
    spec : MatrixSpec
        The layer.
    n_changed : int
        Singular directions that were removed or clipped, or weights, as the transform says; 0 in a layer that stayed
        as it was.
    relative_change : float
        ‖W' - W‖_F / ‖W‖_F after rounding.
    reason : str, optional
        Why the layer was left untouched, or in part. None where the transform applied, even if it had nothing to
        change.
    """

    spec: MatrixSpec
    n_changed: int = 0
    relative_change: float = 0.0
    reason: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class TransformedModel:
    """A model with new weights, and the account of them.

    Attributes
    ----------
    model : object
        Of the kind that was given: a deep copy, or the same object where ``inplace`` was asked for. Of a path the
        state dict, for the caller to save.
    changes : tuple of LayerChange
        One per chosen layer, in the order of the model.
    unanalysed : tuple of UnanalysedTensor
        Tensors of two or more dimensions that are no weight matrices: copied as they are.
    """

    model: Any = field(repr=False)
    changes: tuple[LayerChange, ...]
    unanalysed: tuple[UnanalysedTensor, ...]

    @cached_property
    def details(self) -> pd.DataFrame:
        """One row per chosen layer: layer_id, longname, layer_type, num_evals, n_changed, relative_change, reason."""
        import pandas as pd

        rows = [
            {
                "layer_id": change.spec.index,
                "longname": change.spec.name,
                "layer_type": change.spec.layer_type.value,
                "num_evals": change.spec.n_evals,
                "n_changed": change.n_changed,
                "relative_change": change.relative_change,
                "reason": change.reason or "",
            }
            for change in self.changes
        ]
        columns = ["layer_id", "longname", "layer_type", "num_evals", "n_changed", "relative_change", "reason"]
        return pd.DataFrame(rows, columns=columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class _TensorTask:
    """All layers that one tensor holds."""

    target: WritableModel = field(repr=False)
    transform: MatrixTransform = field(repr=False)
    specs: tuple[MatrixSpec, ...]


def transform_model(
    model: object,
    transform: MatrixTransform,
    *,
    layers: Iterable[int | str] = (),
    inplace: bool = False,
    n_workers: int | None = None,
) -> TransformedModel:
    """Apply a transform to the weight matrices of a model.

    Parameters
    ----------
    model : torch.nn.Module, keras.Model, mapping of str to torch tensor or ndarray, or path
        Left as it is, unless ``inplace``. A checkpoint on disk is read, nothing in it is executed, and no file written.
    transform : callable
        From a :class:`~spectral.weights.WeightMatrix` to a :class:`Replacement`, or to the reason for none.
    layers : iterable of int or str
        Which layers, as :class:`spectral.Selection` has it: ids, types, names, shell patterns; a leading ``-`` leaves
        out. Empty: all.
    inplace : bool
        Write to the caller's own tensors.
    n_workers : int, optional
        Number of threads; default one per core. The result does not depend on it.

    Returns
    -------
    TransformedModel
        Of weights that are tied, one is transformed and the others follow.

    Raises
    ------
    OptionError
        An entry matches no layer, or positive and negative ids are mixed.
    ModelError
        The model cannot be read, copied or written.
    """
    target = open_for_writing(model, inplace=inplace)
    plan = plan_matrices(target.source.tensors())
    chosen, _ = select_matrices(plan.matrices, Selection(layers=layers))  # type: ignore[arg-type]  # made a tuple there
    changes = transform_matrices(target, chosen, transform, n_workers=n_workers)
    return TransformedModel(model=target.model, changes=changes, unanalysed=plan.unanalysed)


def transform_matrices(
    target: WritableModel, specs: Iterable[MatrixSpec], transform: MatrixTransform, *, n_workers: int | None = None
) -> tuple[LayerChange, ...]:
    """Apply a transform to some matrices of a model that is open for writing.

    Parameters
    ----------
    target : WritableModel
        Is written to.
    specs : iterable of MatrixSpec
        Which of its matrices, as :func:`~spectral.weights.plan_matrices` or a plan of the caller's own has them.
    transform : callable
        From a :class:`~spectral.weights.WeightMatrix` to a :class:`Replacement`, or to the reason for none.
    n_workers : int, optional
        Number of threads; default one per core. The result does not depend on it.

    Returns
    -------
    tuple of LayerChange
        One per spec, in the order of their ``index``.
    """
    tasks, left_out = _tasks(target, transform, specs)
    costs = [float(sum(spec.rf * spec.N * spec.M**2 for spec in task.specs)) for task in tasks]
    changed = run_all(_transform_tensor, tasks, costs=costs, n_workers=n_workers)
    changes = [*left_out, *(change for changes in changed for change in changes)]
    return tuple(sorted(changes, key=lambda change: change.spec.index))


def _tasks(
    target: WritableModel, transform: MatrixTransform, specs: Iterable[MatrixSpec]
) -> tuple[list[_TensorTask], list[LayerChange]]:
    """Group layers by tensor; name those that cannot be written, and those that change with another."""
    groups: dict[str, list[MatrixSpec]] = {}
    leaders: dict[Any, str] = {}
    left_out: list[LayerChange] = []
    for spec in specs:
        reason = target.why_fixed(spec.tensor)
        if reason is not None:
            left_out.append(LayerChange(spec=spec, reason=reason))
            continue
        leader = leaders.setdefault(target.storage_key(spec.tensor), spec.tensor)
        if leader == spec.tensor:
            groups.setdefault(spec.tensor, []).append(spec)
        else:
            left_out.append(LayerChange(spec=spec, reason=f"tied to {leader}: changed with it"))
    tasks = [_TensorTask(target=target, transform=transform, specs=tuple(group)) for group in groups.values()]
    return tasks, left_out


def _transform_tensor(task: _TensorTask) -> list[LayerChange]:
    """Load one tensor, transform its layers, and write it back if any of them changed."""
    name = task.specs[0].tensor
    values = task.target.source.load(name)
    new_values = np.array(values, order="C")
    changes = [_transform_layer(spec, values, new_values, task.transform) for spec in task.specs]
    if any(change.n_changed for change in changes):
        task.target.write(name, new_values)
    return changes


def _transform_layer(
    spec: MatrixSpec, values: NDArray[Any], new_values: NDArray[Any], transform: MatrixTransform
) -> LayerChange:
    """Write one layer's new values to their place in ``new_values``."""
    matrix = as_weight_matrix(spec, values)
    replacement = transform(matrix)
    if isinstance(replacement, FitFailure):
        return LayerChange(spec=spec, reason=replacement.detail)
    if replacement.n_changed == 0:
        return LayerChange(spec=spec, reason=replacement.reason)
    with np.errstate(over="ignore"):
        rounded = replacement.slices.astype(values.dtype)
    if not np.isfinite(rounded).all():
        return LayerChange(spec=spec, reason=f"the new values exceed the range of {spec.dtype}")
    _put(spec, new_values, rounded)
    return LayerChange(
        spec=spec,
        n_changed=replacement.n_changed,
        relative_change=_relative_change(matrix.slices, rounded),
        reason=replacement.reason,
    )


def _put(spec: MatrixSpec, tensor: NDArray[Any], slices: NDArray[Any]) -> None:
    """Write the slices of one layer to where :func:`~spectral.weights.as_weight_matrix` takes them from."""
    destination = as_weight_matrix(spec, tensor).slices
    if np.may_share_memory(destination, tensor):
        destination.flags.writeable = True
        destination[...] = slices
        return
    # No view of the tensor has this order of elements: ask where each of them stands.
    positions = as_weight_matrix(spec, np.arange(tensor.size).reshape(tensor.shape)).slices
    tensor.reshape(-1)[positions] = slices


def _relative_change(old: NDArray[Any], new: NDArray[Any]) -> float:
    before = old.astype(np.float64)
    return float(np.linalg.norm(new.astype(np.float64) - before) / np.linalg.norm(before))


def no_spectrum(detail: str) -> FitFailure:
    """Return the reason for leaving a layer whose values have no spectrum."""
    return FitFailure(reason=FitFailureReason.NO_SPECTRUM, detail=detail)
