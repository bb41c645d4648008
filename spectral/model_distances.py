"""How far the weights of two models are apart, layer by layer.

The definitions are those of ``weightwatcher.WeightWatcher.distances``: *raw* ‖W₁-W₂‖_F of whole tensors and of
biases, *euclidean* its mean over the slices of a convolution, and *cka* ‖W₁ᵀW₂‖_F / √(‖W₁ᵀW₁‖_F ‖W₂ᵀW₂‖_F), a
similarity (uncentred linear CKA: Kornblith et al., ICML 2019, eq. 1 without the centring), meaned over slices, too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from spectral.alignment import shapes_of
from spectral.analysis import Description, describe
from spectral.description import describe_as
from spectral.errors import OptionError
from spectral.execution import by_layer_name, run_all, single_threaded_blas
from spectral.loaders.protocol import LayerType
from spectral.pairing import pair_models
from spectral.selection import Selection, select_matrices
from spectral.spectrum import BLOCK_VALUES
from spectral.weights import MatrixSpec, UnanalysedTensor, load_matrix, plan_matrices

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Executor

    import pandas as pd
    from numpy.typing import NDArray

    from spectral.execution import Progress
    from spectral.loaders.protocol import TensorSource
    from spectral.pairing import ModelPairing

DistanceMethod = Literal["raw", "euclidean", "cka"]

ONLY_IN_SECOND = "only in the second model"

_CONVOLUTIONS = (LayerType.CONV1D, LayerType.CONV2D, LayerType.CONV3D)

_COLUMNS = ("method", "layer_id", "name", "delta_W", "delta_b", "M", "N", "b_shape", "longname", "reason")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerDistance:
    """The distance of one layer in two models.

    Attributes
    ----------
    name : str
        Layer name in the first model, or in the second where only that has it.
    layer_id : int or None
        Index of the matrix in the first model.
    N, M : int or None
        Larger and smaller dimension of a slice.
    delta_W : float or None
        The distance (raw, euclidean: >= 0) or similarity (cka: 0 to 1); None where there is none.
    delta_b : float or None
        ‖b₁-b₂‖ (raw only); None where a model has no bias of this layer, or one of another shape.
    b_shape : tuple of int or None
        Shape of the bias.
    reason : str
        Why a number is missing; empty where ``delta_W`` exists.
    """

    name: str
    layer_id: int | None = None
    N: int | None = None
    M: int | None = None
    delta_W: float | None = None  # noqa: N815  # the column users know
    delta_b: float | None = None
    b_shape: tuple[int, ...] | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Distances:
    """The distances of all layers.

    Attributes
    ----------
    method : {"raw", "euclidean", "cka"}
        What was computed.
    layers : tuple of LayerDistance
        One per matrix of the first model, then the layers that cannot be compared.
    """

    method: DistanceMethod
    layers: tuple[LayerDistance, ...] = field(repr=False)

    @property
    def mean_delta_W(self) -> float | None:
        """Mean of ``delta_W`` over the layers that have one; None where none has."""
        return _mean(layer.delta_W for layer in self.layers)

    @property
    def mean_delta_b(self) -> float | None:
        """Mean of ``delta_b`` over the layers that have one; None where none has."""
        return _mean(layer.delta_b for layer in self.layers)

    @cached_property
    def details(self) -> pd.DataFrame:
        """A row per layer: method, layer_id, name, delta_W, delta_b, M, N, b_shape, longname, reason.

        A number that does not exist is NaN (``pd.NA`` for counts), never 0.
        """
        import pandas as pd

        rows = [
            {
                "method": self.method,
                "layer_id": layer.layer_id,
                "name": layer.name.rpartition(".")[2],
                "delta_W": math.nan if layer.delta_W is None else layer.delta_W,
                "delta_b": math.nan if layer.delta_b is None else layer.delta_b,
                "M": layer.M,
                "N": layer.N,
                "b_shape": "unknown" if layer.b_shape is None else layer.b_shape,
                "longname": layer.name,
                "reason": layer.reason,
            }
            for layer in self.layers
        ]
        frame = pd.DataFrame(rows, columns=list(_COLUMNS))
        return frame.astype({"layer_id": "Int64", "M": "Int64", "N": "Int64", "delta_W": float, "delta_b": float})


@dataclass(frozen=True, slots=True, kw_only=True)
class _DistanceTask:
    """One matrix of each model, and their biases."""

    first: TensorSource = field(repr=False)
    second: TensorSource = field(repr=False)
    spec: MatrixSpec
    partner: MatrixSpec
    biases: tuple[str, str] | None
    method: DistanceMethod


def distances(
    model_1: object,
    model_2: object,
    *,
    method: DistanceMethod = "raw",
    layers: int | str | Iterable[int | str] = (),
    executor: Executor | None = None,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> Distances:
    """Compare the weights of two models of one architecture.

    Parameters
    ----------
    model_1, model_2 : anything :func:`spectral.analyze` takes
        A :class:`spectral.Description` restricts the comparison to its matrices.
    method : {"raw", "euclidean", "cka"}
        Frobenius norm of the difference of whole tensors (and of the biases), its mean over slices, or the
        similarity cka.
    layers : int, str, or iterable of these
        Ids, types, names and patterns of the layers to compare, as for :class:`spectral.selection.Selection`;
        default all.
    executor, n_workers, progress
        As for :func:`spectral.analyze`.

    Returns
    -------
    Distances
        ``.details`` (a DataFrame), ``.mean_delta_W``, ``.mean_delta_b``, ``.layers``.

    Raises
    ------
    ModelMismatchError
        The models are of different architectures.
    OptionError
        An unknown method, or an entry of ``layers`` that names no layer.

    Notes
    -----
    Dense layers are taken as stored, so that ``cka`` contracts over their rows; slices of convolutions are turned
    tall first, as in ``weightwatcher``. Neither scales a convolution (no ``conv2d_norm``).
    """
    if method not in get_args(DistanceMethod):
        raise OptionError(f"method must be one of {', '.join(get_args(DistanceMethod))}, got {method!r}")
    first, second = (model if isinstance(model, Description) else describe(model) for model in (model_1, model_2))
    if not isinstance(model_1, Description):
        first = describe_as(first, shapes_of(second.source))
    pairing = pair_models(first.source, second.source)
    selection = Selection(layers=(layers,) if isinstance(layers, (str, int)) else tuple(layers))
    wanted = set(select_matrices(first.matrices, selection)[0])
    pairs, alone = pair_matrices(first, second, pairing)
    tasks = [
        _DistanceTask(
            first=first.source, second=second.source, spec=spec, partner=partner, biases=biases, method=method
        )
        for (spec, partner), biases in zip(pairs, _biases([spec for spec, _ in pairs], pairing), strict=True)
        if spec in wanted
    ]
    costs = [float(task.spec.rows * task.spec.columns * task.spec.n_slices) for task in tasks]
    found = run_all(
        _compare,
        tasks,
        costs=costs,
        executor=executor,
        n_workers=n_workers,
        progress=by_layer_name(progress),
    )
    missing = [
        LayerDistance(name=name, layer_id=None if spec is None else spec.index, reason=reason)
        for name, spec, reason in alone
        # Filters choose matrices of the first model: what is none of them is listed only where nothing is filtered.
        if spec in wanted or (spec is None and not selection.layers)
    ]
    ordered = sorted([*found, *missing], key=lambda row: math.inf if row.layer_id is None else row.layer_id)
    return Distances(method=method, layers=tuple(ordered))


def pair_matrices(
    first: Description, second: Description, pairing: ModelPairing
) -> tuple[list[tuple[MatrixSpec, MatrixSpec]], list[tuple[str, MatrixSpec | None, str]]]:
    """Pair the matrices of two models.

    Returns
    -------
    pairs : list of (MatrixSpec, MatrixSpec)
        Matrices of the first model, and where the same lies in the second.
    alone : list of (name, MatrixSpec or None, reason)
        What cannot be compared: a matrix of the first model (with its spec), or a tensor of either.
    """
    left_out = _left_out(second)
    pairs: list[tuple[MatrixSpec, MatrixSpec]] = []
    alone: list[tuple[str, MatrixSpec | None, str]] = []
    for spec in first.matrices:
        reason = pairing.mismatch(spec.tensor)
        if reason is None:
            tensor = pairing.partners[spec.tensor]
            reason = left_out.get((tensor, spec.part.name))
            if reason is None:
                # Cut as in the first model, also where the second is a file that tells less of its tensors.
                pairs.append((spec, replace(spec, tensor=tensor, dtype=pairing.infos_second[tensor].dtype)))
                continue
            reason = f"in the other model: {reason}"
        alone.append((spec.name, spec, reason))
    alone.extend((_full_name(item), None, item.reason) for item in first.unanalysed)
    lonely = set(pairing.only_second)
    alone.extend((spec.name, None, ONLY_IN_SECOND) for spec in second.matrices if spec.tensor in lonely)
    alone.extend((_full_name(item), None, ONLY_IN_SECOND) for item in second.unanalysed if item.name in lonely)
    return pairs, alone


def _left_out(description: Description) -> dict[tuple[str, str], str]:
    """(Tensor, part) -> why the description does not have it although it could."""
    kept = {(spec.tensor, spec.part.name) for spec in description.matrices}
    reasons = {(item.name, item.part): item.reason for item in description.unanalysed}
    planned = [(spec.tensor, spec.part.name) for spec in plan_matrices(description.source.tensors()).matrices]
    return {key: reasons.get(key, "left out by the options") for key in planned if key not in kept}


def _full_name(item: UnanalysedTensor) -> str:
    return f"{item.name}.{item.part}" if item.part else item.name


def _compare(task: _DistanceTask) -> LayerDistance:
    """Load one matrix of each model and compare them; the unit of work of every executor."""
    spec = task.spec
    with single_threaded_blas(), np.errstate(over="ignore", invalid="ignore"):
        one = load_matrix(task.first, spec).slices
        two = load_matrix(task.second, task.partner).slices
        value: float
        if task.method == "raw":
            value = math.hypot(*(_distance(*pair) for pair in zip(one, two, strict=True)))
        elif task.method == "euclidean":
            value = float(np.mean([_distance(*pair) for pair in zip(one, two, strict=True)]))
        else:
            # Only kernels have slices to turn: transformers' Conv1D is of that type, too, and a plain matrix.
            is_kernel = spec.layer_type in _CONVOLUTIONS and bool(spec.part.slice_axes)
            turn = is_kernel and spec.rows < spec.columns
            pairs = [(a.T, b.T) if turn else (a, b) for a, b in zip(one, two, strict=True)]
            value = float(np.mean([cka_similarity(*pair) for pair in pairs]))
        delta_b, b_shape = _bias_distance(task)
    is_finite = math.isfinite(value)
    return LayerDistance(
        name=spec.name,
        layer_id=spec.index,
        N=spec.N,
        M=spec.M,
        delta_W=value if is_finite else None,
        delta_b=delta_b,
        b_shape=b_shape,
        reason=_missing_bias(delta_b, b_shape) if is_finite else _why_not_finite(one, two),
    )


def _missing_bias(delta_b: float | None, b_shape: tuple[int, ...] | None) -> str:
    return "delta_b: the biases hold NaN or infinite values" if delta_b is None and b_shape is not None else ""


def cka_similarity(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Return ‖W₁ᵀW₂‖_F / √(‖W₁ᵀW₁‖_F ‖W₂ᵀW₂‖_F), in [0, 1], NaN where a matrix is zero.

    1 for W₂ = c·W₁·R with an orthogonal R. For wide matrices ‖W₁ᵀW₂‖_F² = Σ (W₁W₁ᵀ)∘(W₂W₂ᵀ), so that only
    matrices of the smaller side are formed.

    Parameters
    ----------
    first, second : ndarray, shape (n, m)
        Two matrices of one shape.
    """
    n_rows, n_columns = first.shape
    if n_rows <= n_columns:
        one, two = (_sum_of_products(values.T, values.T) for values in (first, second))
        cross = math.sqrt(max(0.0, float(np.vdot(one, two))))
    else:
        one, two = (_sum_of_products(values, values) for values in (first, second))
        cross = float(np.linalg.norm(_sum_of_products(first, second)))
    norms = math.sqrt(float(np.linalg.norm(one))) * math.sqrt(float(np.linalg.norm(two)))
    return cross / norms if norms > 0.0 else math.nan


def _sum_of_products(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float64]:
    """Return firstᵀ · second in float64, over row blocks."""
    total = np.zeros((first.shape[1], second.shape[1]))
    for one, two in _blocks(first, second):
        total += one.T @ two
    return total


def _distance(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Return ‖first - second‖_F, block by block, so scaled that no square leaves the range of float64."""
    largest, total = 0.0, 0.0
    for one, two in _blocks(first, second):
        difference = np.abs(one - two)
        peak = float(np.max(difference, initial=0.0))
        if not math.isfinite(peak):
            return peak
        if peak > largest:
            total *= (largest / peak) ** 2
            largest = peak
        if largest > 0.0:
            total += float(np.sum(np.square(difference / largest)))
    return largest * math.sqrt(total)


def _blocks(first: NDArray[Any], second: NDArray[Any]) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Yield rows of both as float64, so that no large matrix is converted as a whole."""
    n_rows = max(1, BLOCK_VALUES // first.shape[1])
    for start in range(0, len(first), n_rows):
        part = slice(start, start + n_rows)
        yield first[part].astype(np.float64), second[part].astype(np.float64)


def _bias_distance(task: _DistanceTask) -> tuple[float | None, tuple[int, ...] | None]:
    if task.method != "raw" or task.biases is None:
        return None, None
    one, two = (source.load(name) for source, name in zip((task.first, task.second), task.biases, strict=True))
    value = _distance(one.reshape(1, -1), two.reshape(1, -1))
    return (value if math.isfinite(value) else None), one.shape


def _biases(specs: list[MatrixSpec], pairing: ModelPairing) -> list[tuple[str, str] | None]:
    """Return the names of both biases of each matrix; a tensor split in several has it at the first of them."""
    found: list[tuple[str, str] | None] = []
    seen: set[str] = set()
    for spec in specs:
        path, dot, last = spec.tensor.rpartition(".")
        bias = f"{path}{dot}{last.replace('weight', 'bias').replace('kernel', 'bias')}"
        is_bias = (
            spec.tensor not in seen
            and bias != spec.tensor
            and bias in pairing.partners
            and pairing.mismatch(bias) is None
        )
        found.append((bias, pairing.partners[bias]) if is_bias else None)
        seen.add(spec.tensor)
    return found


def _why_not_finite(first: NDArray[Any], second: NDArray[Any]) -> str:
    for values, which in ((first, "first"), (second, "second")):
        n_bad = int(np.count_nonzero(~np.isfinite(values)))
        if n_bad:
            return f"{n_bad} of {values.size} values of the {which} model are NaN or infinite"
        if not all(np.any(block) for block in values):
            return f"all values of a slice of the {which} model are zero"
    return "the squares of the values leave the range of float64"


def _mean(values: Iterable[float | None]) -> float | None:
    existing = [value for value in values if value is not None]
    return math.fsum(existing) / len(existing) if existing else None
