"""From tensors to weight matrices: which tensors have a spectrum, and as which matrices."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from spectral.loaders.dtypes import INDEX_DTYPES
from spectral.loaders.protocol import LayerType, TensorInfo

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

EMBEDDING_WORDS = ("embed", "wte", "wpe", "lookup_table")
"""A two-dimensional tensor with one of these in its name is an embedding."""

MAX_KERNEL = 16
"""A trailing axis up to this length reads as a convolution kernel where nothing else tells."""

CONV2D_SCALE = math.sqrt(0.5)
"""``w_norm`` of a pooled 2-D convolution, as the incumbent has it."""

_KEPT_ROLES = (LayerType.EMBEDDING, LayerType.STACKED, LayerType.INTRA)
"""Two-dimensional tensors with another role than these are dense."""

_WEIGHT_SUFFIX = ".weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixSpec:
    """One weight matrix (or one pool of convolution slices) as the header describes it.

    Attributes
    ----------
    index : int
        Position among the matrices of the model, from 0.
    name : str
        Layer name: the tensor name without ``.weight``.
    tensor : str
        Tensor name inside the checkpoint.
    layer_type : LayerType
        Dense, embedding, conv1d or conv2d.
    shape : tuple of int
        Stored shape of the tensor.
    dtype : str
        Stored element type.
    rows, columns : int
        Stored orientation of each matrix.
    rf : int
        Receptive field: the number of slices, 1 for anything but a convolution.
    kernel_first : bool
        Keras order (k1, .., kd, in, out) instead of (out, in, k1, .., kd).
    slice_id : int, optional
        Only this slice of the convolution, from 0; None pools all of them.
    scale : float
        Factor on every slice before its spectrum is taken (``w_norm``).
    max_rank : int, optional
        What the rank cannot exceed; only so many eigenvalues are counted.
    """

    index: int
    name: str
    tensor: str
    layer_type: LayerType
    shape: tuple[int, ...]
    dtype: str
    rows: int
    columns: int
    rf: int = 1
    kernel_first: bool = False
    slice_id: int | None = None
    scale: float = 1.0
    max_rank: int | None = None

    @property
    def N(self) -> int:
        """The larger dimension of a slice."""
        return max(self.rows, self.columns)

    @property
    def M(self) -> int:
        """The smaller dimension of a slice."""
        return min(self.rows, self.columns)

    @property
    def Q(self) -> float:
        """Aspect ratio N / M, at least 1."""
        return self.N / self.M

    @property
    def n_slices(self) -> int:
        """Number of slices that are analysed together: rf, or 1 where the spec is one slice."""
        return self.rf if self.slice_id is None else 1

    @property
    def n_evals(self) -> int:
        """Number of eigenvalues of the pooled spectrum, M (or the largest possible rank) times the number of slices."""
        return min(self.M, self.max_rank or self.M) * self.n_slices

    @property
    def spectral_power(self) -> int:
        """Which power of the singular values is the spectrum: 2, but 1 for a product of two layers.

        Such a product is a correlation matrix already, as WᵀW is (parity).
        """
        return 1 if self.layer_type is LayerType.INTRA else 2


@dataclass(frozen=True, slots=True, kw_only=True)
class UnanalysedTensor:
    """A tensor of two or more dimensions that has no spectrum here, with the reason."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan:
    """What will be analysed of a model, known from its headers alone.

    Attributes
    ----------
    matrices : tuple of MatrixSpec
        In the order of the source.
    unanalysed : tuple of UnanalysedTensor
        Every other tensor of two or more dimensions.
    n_parameters : int
        Values of all tensors but masks and positions.
    n_analysed : int
        Values of the analysed matrices.
    """

    matrices: tuple[MatrixSpec, ...]
    unanalysed: tuple[UnanalysedTensor, ...]
    n_parameters: int
    n_analysed: int

    @property
    def coverage(self) -> float:
        """Analysed share of the parameters, 0 to 1 (0 for a model without parameters)."""
        return self.n_analysed / self.n_parameters if self.n_parameters else 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WeightMatrix:
    """The values of one :class:`MatrixSpec`, in their stored type.

    Attributes
    ----------
    spec : MatrixSpec
        What the values are.
    slices : ndarray, shape (n_slices, rows, columns)
        A read-only view of the stored tensor.
    """

    spec: MatrixSpec
    slices: NDArray[Any] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    layer_type: LayerType
    rows: int
    columns: int
    rf: int = 1
    kernel_first: bool = False


def plan_matrices(tensors: Iterable[TensorInfo]) -> ModelPlan:
    """Decide for every tensor whether and as what it is analysed, reading no values.

    Parameters
    ----------
    tensors : iterable of TensorInfo
        All tensors of a model.

    Returns
    -------
    ModelPlan
        Tensors of no or one dimension (biases, norms, scalars) are in neither list: they have no spectrum.
    """
    infos = tuple(tensors)
    layer_names = _layer_names(infos)
    matrices: list[MatrixSpec] = []
    unanalysed: list[UnanalysedTensor] = []
    n_analysed = 0
    for info in infos:
        if len(info.shape) < 2:
            continue
        layout = _layout_of(info)
        if isinstance(layout, str):
            unanalysed.append(UnanalysedTensor(name=info.name, shape=info.shape, dtype=info.dtype, reason=layout))
            continue
        matrices.append(
            MatrixSpec(
                index=len(matrices),
                name=layer_names[info.name],
                tensor=info.name,
                layer_type=layout.layer_type,
                shape=info.shape,
                dtype=info.dtype,
                rows=layout.rows,
                columns=layout.columns,
                rf=layout.rf,
                kernel_first=layout.kernel_first,
                scale=CONV2D_SCALE if layout.layer_type is LayerType.CONV2D else 1.0,
                max_rank=info.max_rank,
            )
        )
        n_analysed += info.n_values
    return ModelPlan(
        matrices=tuple(matrices),
        unanalysed=tuple(unanalysed),
        n_parameters=sum(info.n_values for info in infos if info.dtype not in INDEX_DTYPES),
        n_analysed=n_analysed,
    )


def as_weight_matrix(spec: MatrixSpec, values: NDArray[Any]) -> WeightMatrix:
    """View a loaded tensor as the slices that its spec describes.

    Raises
    ------
    ValueError
        The values do not have the shape that the header announced.
    """
    import numpy as np

    if values.shape != spec.shape:
        raise ValueError(f"{spec.tensor}: expected shape {spec.shape}, got {values.shape}")
    if spec.rf == 1:
        slices = values.reshape(1, spec.rows, spec.columns)
    elif spec.kernel_first:
        slices = values.reshape(spec.rf, spec.rows, spec.columns)
    else:
        slices = np.moveaxis(values.reshape(spec.rows, spec.columns, spec.rf), 2, 0)
    if spec.slice_id is not None:
        slices = slices[spec.slice_id : spec.slice_id + 1]
    slices = slices.view()
    slices.flags.writeable = False
    return WeightMatrix(spec=spec, slices=slices)


def _layer_names(infos: tuple[TensorInfo, ...]) -> dict[str, str]:
    """Tensor name -> layer name, all different: where a tensor has the short name already, the long one stays."""
    names = {info.name for info in infos}
    short = {name: name.removesuffix(_WEIGHT_SUFFIX) or name for name in names}
    return {name: name if layer in names else layer for name, layer in short.items()}


def _layout_of(info: TensorInfo) -> _Layout | str:
    """Return how a tensor of two or more dimensions splits into matrices, or why it does not."""
    if info.refusal is not None:
        return info.refusal
    if info.n_values == 0:
        return "an empty tensor"
    last_part = info.name.lower().rpartition(".")[2]
    if last_part.endswith("bias") or "mask" in last_part:
        return "named as a bias or a mask, not as a weight"
    layout = _by_shape(info)
    if not isinstance(layout, str) and min(layout.rows, layout.columns) == 1:
        return "only vectors: each slice has a single row or column, so no spectrum"
    return layout


def _by_shape(info: TensorInfo) -> _Layout | str:
    shape = info.shape
    if len(shape) == 2:
        return _Layout(layer_type=_two_dimensional_type(info), rows=shape[0], columns=shape[1])
    if len(shape) == 3:
        return _three_dimensional_layout(info)
    if len(shape) == 4:
        return _conv2d_layout(info)
    return f"tensors of {len(shape)} dimensions are not analysed yet"


def _two_dimensional_type(info: TensorInfo) -> LayerType:
    if info.role is not None:
        return info.role if info.role in _KEPT_ROLES else LayerType.DENSE
    is_embedding = any(word in info.name.lower() for word in EMBEDDING_WORDS)
    return LayerType.EMBEDDING if is_embedding else LayerType.DENSE


def _three_dimensional_layout(info: TensorInfo) -> _Layout | str:
    first, second, third = info.shape
    name = info.name.lower()
    if info.role is LayerType.CONV1D:
        return _Layout(layer_type=LayerType.CONV1D, rows=first, columns=second, rf=third)
    if "expert" in name:
        return "fused experts are not analysed yet"
    if name.endswith("kernel") and first <= min(second, third):
        return _Layout(layer_type=LayerType.CONV1D, rows=second, columns=third, rf=first, kernel_first=True)
    if first == 1 and third > MAX_KERNEL and "conv" not in name:
        return _Layout(layer_type=_two_dimensional_type(info), rows=second, columns=third)
    is_short = third <= MAX_KERNEL or third <= min(first, second) // 2
    if info.role is None and ("conv" in name or is_short):
        return _Layout(layer_type=LayerType.CONV1D, rows=first, columns=second, rf=third)
    return "three dimensions whose meaning neither the name nor the shape tells"


def _conv2d_layout(info: TensorInfo) -> _Layout:
    first, second, third, fourth = info.shape
    # Channels are many, kernels are small: the rule by which the incumbent tells the two orders apart.
    if info.role is LayerType.CONV2D or first + second >= third + fourth:
        return _Layout(layer_type=LayerType.CONV2D, rows=first, columns=second, rf=third * fourth)
    return _Layout(layer_type=LayerType.CONV2D, rows=third, columns=fourth, rf=first * second, kernel_first=True)
