"""From tensors to weight matrices: which tensors have a spectrum, and as which matrices."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from spectral.layouts import parts_of
from spectral.loaders.dtypes import INDEX_DTYPES
from spectral.loaders.protocol import LayerType, SpanSource, TensorInfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from spectral.loaders.protocol import TensorSource
    from spectral.parts import Part

_WEIGHT_SUFFIXES = (".weight", "/kernel", "/embeddings")
"""What a tensor's name has beyond its layer's: torch, Keras, and Keras's embeddings."""

CONV2D_SCALE = math.sqrt(0.5)
"""``w_norm`` of a pooled 2-D convolution, as the incumbent has it."""

_VECTORS = "only vectors: each slice has a single row or column, so no spectrum"


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixSpec:
    """One weight matrix (or one pool of convolution slices) as the header describes it.

    Attributes
    ----------
    index : int
        Position among the matrices of the model, from 0.
    name : str
        Layer name: the tensor name without ``.weight``, and the name of the part where there are several
        (``lstm.weight_ih_l0.i``, ``attn.in_proj_weight.q``, ``experts.down_proj.3``).
    tensor : str
        Tensor name inside the checkpoint.
    layer_type : LayerType
        What the matrix does.
    shape : tuple of int
        Stored shape of the tensor.
    dtype : str
        Stored element type.
    rows, columns : int
        Stored orientation of each matrix.
    rf : int
        The number of slices: the receptive field of a convolution (times its groups), the outputs of a bilinear
        layer, otherwise 1.
    part : Part
        How the slices are cut out of the tensor.
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
    part: Part = field(repr=False)
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
    def kernel_first(self) -> bool:
        """Whether the kernel's axes come before those of rows and columns, as in Keras."""
        return bool(self.part.slice_axes) and self.part.slice_axes[0] == 0 and self.part.fold == self.shape

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
    """A tensor of two or more dimensions, or a part of one, that has no spectrum here.

    Attributes
    ----------
    name : str
        Tensor name.
    shape : tuple of int
        Stored shape of the tensor.
    dtype : str
        Stored element type.
    reason : str
        Why there is no spectrum.
    part : str
        Name of the part that the reason is about, where others of the tensor are analysed; empty for the whole.
    layer : str
        Name of the layer, where the options leave it out; otherwise empty.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    reason: str
    part: str = ""
    layer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan:
    """What will be analysed of a model, known from its headers alone.

    Attributes
    ----------
    matrices : tuple of MatrixSpec
        In the order of the source.
    unanalysed : tuple of UnanalysedTensor
        Every other tensor (and part of a tensor) of two or more dimensions.
    n_parameters : int
        Values of all tensors but masks and positions; tied tensors and factors of others are not counted again.
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
        Read-only; a view of the stored tensor where numpy can make one (of all but grouped and interleaved kinds).
    values : ndarray
        The same values C-ordered: the tensor as stored, or the matrix or matrices of one part of it. Equal
        matrices have equal bytes and shapes here, whether they were fused with others or not. Of one slice
        (``slice_id``) it is the slice alone.
    """

    spec: MatrixSpec
    slices: NDArray[Any] = field(repr=False)
    values: NDArray[Any] = field(repr=False)


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
    infos = {info.name: info for info in tensors}
    layouts = {
        name: parts_of(info, infos) for name, info in infos.items() if len(info.shape) >= 2 and not info.is_state
    }
    divided = {tensor: _divide(layout) for tensor, layout in layouts.items()}
    names = _layer_names(infos, {tensor: fitting for tensor, (fitting, _) in divided.items()})
    matrices: list[MatrixSpec] = []
    unanalysed: list[UnanalysedTensor] = []
    for tensor, (fitting, reasons) in divided.items():
        info = infos[tensor]
        unanalysed.extend(
            UnanalysedTensor(name=tensor, shape=info.shape, dtype=info.dtype, reason=reason, part=part)
            for part, reason in reasons.items()
        )
        for part in fitting:
            spec = MatrixSpec(
                index=len(matrices),
                name=names[tensor, part.name],
                tensor=tensor,
                layer_type=part.layer_type,
                shape=info.shape,
                dtype=info.dtype,
                rows=part.rows,
                columns=part.columns,
                rf=part.rf,
                part=part,
                scale=CONV2D_SCALE if part.layer_type is LayerType.CONV2D else 1.0,
                max_rank=info.max_rank,
            )
            matrices.append(spec)
    counted = (
        info
        for info in infos.values()
        if info.dtype not in INDEX_DTYPES and info.counted_in is None and not info.is_state
    )
    return ModelPlan(
        matrices=tuple(matrices),
        unanalysed=tuple(unanalysed),
        n_parameters=sum(info.n_values for info in counted),
        n_analysed=sum(spec.part.n_values for spec in matrices),
    )


def load_matrix(source: TensorSource, spec: MatrixSpec) -> WeightMatrix:
    """Load one matrix, and no more of its tensor than the matrix where it lies in one run and the source can."""
    span = spec.part.span
    if span is not None and isinstance(source, SpanSource):
        return _cut(spec, source.load_span(spec.tensor, *span))
    return as_weight_matrix(spec, source.load(spec.tensor))


def as_weight_matrix(spec: MatrixSpec, values: NDArray[Any]) -> WeightMatrix:
    """Cut a matrix out of a loaded tensor, as its spec describes.

    Raises
    ------
    ValueError
        The values do not have the shape that the header announced.
    """
    if values.shape != spec.shape:
        raise ValueError(f"{spec.tensor}: expected shape {spec.shape}, got {values.shape}")
    return _cut(spec, values)


def _cut(spec: MatrixSpec, values: NDArray[Any]) -> WeightMatrix:
    import numpy as np

    slices = spec.part.cut(values).view()
    if spec.slice_id is not None:
        slices = slices[spec.slice_id : spec.slice_id + 1]
    slices.flags.writeable = False
    if spec.part.window is not None or spec.slice_id is not None:
        # Not the tensor's shape, but the matrix's own: Q is then the same matrix as a Q that was stored alone.
        values = np.ascontiguousarray(slices[0] if len(slices) == 1 else slices)
    return WeightMatrix(spec=spec, slices=slices, values=values)


def _divide(layout: tuple[Part, ...] | str) -> tuple[tuple[Part, ...], dict[str, str]]:
    """Return the parts that are matrices, and for the others their names (empty: the whole) with the reason."""
    if isinstance(layout, str):
        return (), {"": layout}
    fitting = tuple(part for part in layout if min(part.rows, part.columns) > 1)
    if not fitting:
        return (), {"": _VECTORS}
    return fitting, {part.name: _VECTORS for part in layout if min(part.rows, part.columns) <= 1}


def _layer_names(infos: Mapping[str, TensorInfo], parts: Mapping[str, tuple[Part, ...]]) -> dict[tuple[str, str], str]:
    """(Tensor name, part name) -> layer name, all different.

    Where two tensors would have one short name, or a tensor has it in full, the long one stays. Where a layer is
    called as a part would be, the part has a dash more.
    """
    short = {tensor: _short_name(tensor, fitting) for tensor, fitting in parts.items()}
    counts = Counter(short.values())
    layers = {tensor: tensor if layer in infos or counts[layer] > 1 else layer for tensor, layer in short.items()}
    taken = {*infos, *layers.values()}
    names: dict[tuple[str, str], str] = {}
    for tensor, fitting in parts.items():
        for part in fitting:
            name = f"{layers[tensor]}.{part.name}" if part.name else layers[tensor]
            while part.name and name in taken:
                name += "_"
            taken.add(name)
            names[tensor, part.name] = name
    return names


def _short_name(tensor: str, fitting: tuple[Part, ...]) -> str:
    if any(part.layer_type is LayerType.RECURRENT for part in fitting):
        return tensor  # A cell has two kernels: the names of the gates alone would not tell which.
    suffix = next((suffix for suffix in _WEIGHT_SUFFIXES if tensor.endswith(suffix)), "")
    return tensor.removesuffix(suffix) or tensor
