"""Every layer of a tuned model against its base: how much it changed, and whether its directions did."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from spectral.alignment import shapes_of
from spectral.analysis import Description, describe
from spectral.description import describe_as
from spectral.errors import OptionError
from spectral.execution import by_layer_name, run_all
from spectral.model_distances import pair_matrices
from spectral.pairing import pair_models
from spectral.spectrum import SpectrumFailure
from spectral.subspaces import INTRUDER_COSINE, N_LEADING, SubspaceComparison, compare_subspaces
from spectral.weights import MatrixSpec, WeightMatrix, load_matrix

if TYPE_CHECKING:
    from concurrent.futures import Executor
    from typing import Any

    import pandas as pd
    from numpy.typing import NDArray

    from spectral.execution import Progress
    from spectral.loaders.protocol import TensorSource

_COLUMNS = (
    "layer_id",
    "name",
    "longname",
    "layer_type",
    "N",
    "M",
    "relative_change",
    "left_overlap",
    "right_overlap",
    "num_intruders",
    "min_left_cosine",
    "min_right_cosine",
    "relative_gap",
    "k",
    "reason",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerComparison:
    """One layer of both models.

    Attributes
    ----------
    name : str
        Layer name in the model, or in the base where only that has it.
    spec : MatrixSpec or None
        The matrix in the model.
    comparison : SubspaceComparison or None
        What was found.
    reason : str
        Why there is no comparison; empty where there is one.
    """

    name: str
    spec: MatrixSpec | None = None
    comparison: SubspaceComparison | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class ModelComparison:
    """The comparison of two models.

    Attributes
    ----------
    layers : tuple of LayerComparison
        One per matrix of the model, then what cannot be compared.
    """

    layers: tuple[LayerComparison, ...] = field(repr=False)

    @cached_property
    def details(self) -> pd.DataFrame:
        """A row per layer: identity, relative_change, overlaps, num_intruders, smallest cosines, gap, k, reason."""
        import pandas as pd

        frame = pd.DataFrame([_row(layer) for layer in self.layers], columns=list(_COLUMNS))
        return frame.astype(dict.fromkeys(("layer_id", "N", "M", "num_intruders", "k"), "Int64"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _ComparisonTask:
    model: TensorSource = field(repr=False)
    base: TensorSource = field(repr=False)
    spec: MatrixSpec
    partner: MatrixSpec
    k: int


def compare_models(
    model: object,
    base_model: object,
    *,
    k: int = N_LEADING,
    executor: Executor | None = None,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> ModelComparison:
    """Compare the leading singular directions of every layer with those of a base model.

    Parameters
    ----------
    model, base_model : anything :func:`spectral.analyze` takes
        Two models of one architecture. A convolution is compared as the matrix (out, in·rf) of all its slices.
    k : int
        Number of leading vectors, at least 1.
    executor, n_workers, progress
        As for :func:`spectral.analyze`.

    Returns
    -------
    ModelComparison
        ``.details`` (a DataFrame), ``.layers``.

    Raises
    ------
    ModelMismatchError
        The models are of different architectures.
    OptionError
        ``k`` is below 1.
    """
    if type(k) is not int or k < 1:
        raise OptionError(f"k must be an integer of at least 1, got {k!r}")
    first, second = (given if isinstance(given, Description) else describe(given) for given in (model, base_model))
    if not isinstance(model, Description):
        first = describe_as(first, shapes_of(second.source))
    pairs, alone = pair_matrices(first, second, pair_models(first.source, second.source))
    tasks = [
        _ComparisonTask(model=first.source, base=second.source, spec=spec, partner=partner, k=k)
        for spec, partner in pairs
    ]
    # A convolution of m rows costs what a dense matrix of m rows does.
    costs = [float(spec.N * spec.n_slices * spec.M**2) for spec, _ in pairs]
    found = run_all(
        _compare_layer,
        tasks,
        costs=costs,
        executor=executor,
        n_workers=n_workers,
        progress=by_layer_name(progress),
    )
    missing = [LayerComparison(name=name, spec=spec, reason=reason) for name, spec, reason in alone]
    ordered = sorted([*found, *missing], key=lambda row: math.inf if row.spec is None else row.spec.index)
    return ModelComparison(layers=tuple(ordered))


def _compare_layer(task: _ComparisonTask) -> LayerComparison:
    tuned = unfold(load_matrix(task.model, task.spec))
    base = unfold(load_matrix(task.base, task.partner))
    found = compare_subspaces(tuned, base, task.k)
    if isinstance(found, SpectrumFailure):
        return LayerComparison(name=task.spec.name, spec=task.spec, reason=found.detail)
    return LayerComparison(name=task.spec.name, spec=task.spec, comparison=found)


def unfold(matrix: WeightMatrix) -> NDArray[Any]:
    """Return the slices of a matrix side by side, shape (rows, rf·columns): one matrix per layer."""
    slices = matrix.slices
    if len(slices) == 1:
        return np.asarray(slices[0])
    n_slices, n_rows, n_columns = slices.shape
    return slices.transpose(1, 0, 2).reshape(n_rows, n_slices * n_columns)


def _row(layer: LayerComparison) -> dict[str, object]:
    row: dict[str, object] = {"name": layer.name.rpartition(".")[2], "longname": layer.name, "reason": layer.reason}
    if layer.spec is not None:
        spec = layer.spec
        row |= {"layer_id": spec.index, "layer_type": spec.layer_type.value, "N": spec.N, "M": spec.M}
    found = layer.comparison
    if found is not None:
        row |= {
            "relative_change": found.relative_change,
            "left_overlap": found.left_overlap,
            "right_overlap": found.right_overlap,
            "num_intruders": found.n_intruders(INTRUDER_COSINE),
            "min_left_cosine": float(found.left_cosines.min()),
            "min_right_cosine": float(found.right_cosines.min()),
            "relative_gap": found.relative_gap,
            "k": found.k,
        }
    return row
