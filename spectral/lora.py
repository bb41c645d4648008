"""Pairs of LoRA factors among the tensors of an adapter: which belong together, and what they multiply to.

Conventions are those of Hugging Face PEFT: ``lora_A`` is (r, in), ``lora_B`` (out, r); for an embedding
``lora_embedding_A`` is (r, rows), ``lora_embedding_B`` (columns, r), and the update is (B·A)ᵀ; for a convolution
A is (r, in, k1, ..) and B (out, r, 1, ..).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from spectral.errors import CorruptCheckpointError, OptionError
from spectral.loaders.protocol import LayerType, TensorInfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from spectral.adapter_config import AdapterConfig
    from spectral.spectrum import Spectrum
    from spectral.weights import MatrixSpec

FACTOR_PARTS = {"lora_A": "A", "lora_B": "B", "lora_embedding_A": "A", "lora_embedding_B": "B"}
"""Name part of a factor -> which factor it is."""

_CONVOLUTIONS = {3: LayerType.CONV1D, 4: LayerType.CONV2D, 5: LayerType.CONV3D}
"""Number of dimensions of A -> what the layer is."""

PEFT_PREFIX = "base_model.model."

MAGNITUDE = "lora_magnitude_vector"
"""What a DoRA layer has beside A and B."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorName:
    """The name of a LoRA tensor, taken apart: ``<path>.lora_A[.<adapter>][.weight]``."""

    path: str
    part: str
    end: str
    adapter: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraUpdate:
    """One update scale · B·A.

    Attributes
    ----------
    path : str
        The adapted layer as the adapter names it.
    name_a, name_b : str
        Tensor names of the factors.
    rank : int
        r, the number of rows of A.
    scaling : float
        Factor on B·A.
    shape : tuple of int
        Shape of the update, which is that of the adapted weight.
    is_transposed : bool
        The weight is stored (in, out): the update is (B·A)ᵀ.
    role : LayerType
        ``lora``, or ``embedding`` or a convolution where the shape decides how it is sliced.
    refusal : str, optional
        Why the values cannot be taken.
    """

    path: str
    name_a: str
    name_b: str
    rank: int
    scaling: float
    shape: tuple[int, ...]
    is_transposed: bool
    role: LayerType
    refusal: str | None = None

    def factors(self, a: NDArray[Any], b: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return (left, right) in float64 with left · right = the update, kernels flattened into the columns."""
        import numpy as np

        # 2-D views: a trailing (.., 1, 1) of B vanishes, the kernel of A joins its columns.
        flat_a = np.asarray(a, dtype=np.float64).reshape(self.rank, -1)
        flat_b = np.asarray(b, dtype=np.float64).reshape(-1, self.rank)
        left, right = (flat_a.T, flat_b.T) if self.is_transposed else (flat_b, flat_a)
        # An update beyond the range of float64 is a finding of its layer, not a warning here.
        with np.errstate(over="ignore", invalid="ignore"):
            return left * self.scaling, right

    def product(self, a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
        """Return scale · B·A in float64, in the shape of the adapted weight."""
        import numpy as np

        with np.errstate(over="ignore", invalid="ignore"):
            left, right = self.factors(a, b)
            return np.ascontiguousarray((left @ right).reshape(self.shape))


def parse_factor_name(name: str) -> FactorName | None:
    """Take the name of a LoRA factor apart; None where it is not one."""
    parts = name.split(".")
    for position in reversed(range(len(parts))):
        if parts[position] in FACTOR_PARTS:
            rest = parts[position + 1 :]
            if rest and rest[-1] == "weight":
                rest = rest[:-1]
            if len(rest) > 1 or rest == ["bias"]:
                return None
            return FactorName(
                path=".".join(parts[:position]),
                part=parts[position],
                end=FACTOR_PARTS[parts[position]],
                adapter=rest[0] if rest else "",
            )
    return None


def find_updates(
    infos: Iterable[TensorInfo],
    config: AdapterConfig | None,
    *,
    label: str,
    adapter_name: str | None = None,
    scaling: float | None = None,
) -> tuple[LoraUpdate, ...]:
    """Pair the factors of an adapter.

    Parameters
    ----------
    infos : iterable of TensorInfo
        All tensors of the adapter, others than LoRA factors among them.
    config : AdapterConfig or None
        The configuration; it may be missing only where ``scaling`` is given.
    label : str
        What to call the adapter in messages.
    adapter_name : str, optional
        Which of several adapters.
    scaling : float, optional
        Factor on B·A instead of the one of the configuration.

    Returns
    -------
    tuple of LoraUpdate
        In the order of the first factor of each.

    Raises
    ------
    CorruptCheckpointError
        There is no LoRA factor, A without B or B without A, shapes that do not chain, or a rank other than the
        configuration says.
    OptionError
        Several adapters and no name, a name that none has, or neither configuration nor scaling.
    """
    if config is None and scaling is None:
        raise OptionError(f"{label}: no configuration: without lora_alpha the scale of B·A is not known")
    tensors = {info.name: info for info in infos}
    names = {name: factor for name in tensors if (factor := parse_factor_name(name)) is not None}
    if not names:
        raise CorruptCheckpointError(f"{label}: holds no tensor named lora_A or lora_B, so it is no LoRA adapter")
    chosen = _choose_adapter({factor.adapter for factor in names.values()}, adapter_name, label)
    magnitudes = [name.rpartition(f".{MAGNITUDE}")[0] for name in tensors if f".{MAGNITUDE}" in name]
    pairs: dict[tuple[str, str], dict[str, str]] = {}
    for name, factor in names.items():
        if factor.adapter == chosen:
            kind = factor.part[:-1]
            ends = pairs.setdefault((factor.path, kind), {})
            if factor.end in ends:
                raise CorruptCheckpointError(f"{label}: {ends[factor.end]!r} and {name!r} are the same factor")
            ends[factor.end] = name
    updates = []
    for (path, kind), ends in pairs.items():
        if len(ends) < 2:
            (present,) = ends.values()
            missing = "lora_B" if "A" in ends else "lora_A"
            raise CorruptCheckpointError(f"{label}: {present!r} has no partner {missing}")
        update = _pair_up(
            path, kind, tensors[ends["A"]], tensors[ends["B"]], config=config, scaling=scaling, label=label
        )
        updates.append(_refuse_dora(update) if path in magnitudes else update)
    return tuple(updates)


def _choose_adapter(present: set[str], wanted: str | None, label: str) -> str:
    listed = ", ".join(sorted(name or "(unnamed)" for name in present))
    # A saved adapter has no names inside; asking for one by the name it was loaded under is no mistake.
    if wanted is not None and present != {""}:
        if wanted not in present:
            raise OptionError(f"{label}: has no adapter named {wanted!r}; there are {listed}")
        return wanted
    if len(present) > 1:
        raise OptionError(f"{label}: holds several adapters ({listed}): choose one by adapter_name")
    return next(iter(present))


def _pair_up(
    path: str,
    kind: str,
    info_a: TensorInfo,
    info_b: TensorInfo,
    *,
    config: AdapterConfig | None,
    scaling: float | None,
    label: str,
) -> LoraUpdate:
    a, b = info_a.shape, info_b.shape
    where = f"{label}: {info_a.name} {a} and {info_b.name} {b}"
    chains = len(a) == len(b) >= 2 and 0 not in a + b and a[0] == b[1] and set(b[2:]) <= {1} and len(a) <= 5
    if not chains or (kind == "lora_embedding_" and len(a) != 2):
        raise CorruptCheckpointError(f"{where} do not chain: expected (r, in, ..) and (out, r, ..)")
    rank = a[0]
    short_path = path.removeprefix(PEFT_PREFIX)
    expected = config.rank_of(short_path) if config is not None else None
    if expected is not None and expected != rank:
        raise CorruptCheckpointError(f"{where} have rank {rank}, but the configuration says {expected}")
    is_embedding = kind == "lora_embedding_"
    is_transposed = is_embedding or (len(a) == 2 and config is not None and config.is_transposed)
    shape = (b[0], *a[1:])
    if scaling is None:
        assert config is not None  # find_updates has seen to it
        scaling = config.scaling_of(short_path, rank)
    return LoraUpdate(
        path=path,
        name_a=info_a.name,
        name_b=info_b.name,
        rank=rank,
        scaling=scaling,
        shape=shape[::-1] if is_transposed else shape,
        is_transposed=is_transposed,
        role=LayerType.EMBEDDING if is_embedding else _CONVOLUTIONS.get(len(a), LayerType.LORA),
        refusal=info_a.refusal or info_b.refusal,
    )


def _refuse_dora(update: LoraUpdate) -> LoraUpdate:
    return replace(
        update, refusal="a DoRA layer: its magnitude vector rescales the base as well, so the update is not B·A"
    )


def product_singular_values(left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.float64]:
    """Return the singular values of left · right, ascending, without forming the product.

    With QR factors left = Q₁R₁ and rightᵀ = Q₂R₂ the product is Q₁(R₁R₂ᵀ)Q₂ᵀ, so they are those of the r x r
    matrix R₁R₂ᵀ.

    Parameters
    ----------
    left : ndarray, shape (rows, r)
    right : ndarray, shape (r, columns)

    Returns
    -------
    ndarray of float64, shape (min(rows, columns, r),)
    """
    import numpy as np

    triangles = [
        np.asarray(np.linalg.qr(np.asarray(tall, dtype=np.float64), mode="r"), dtype=np.float64)
        for tall in (left, right.T)
    ]
    return np.sort(np.linalg.svd(triangles[0] @ triangles[1].T, compute_uv=False))


SAFE_RANGE = (1e-150, 1e150)
"""Where the norm of a product lies between these, its squares stay in the range of float64."""


def product_spectrum(spec: MatrixSpec, left: NDArray[Any], right: NDArray[Any]) -> Spectrum | None:
    """Return the spectrum of left · right at its largest possible rank, from the two factors alone.

    Parameters
    ----------
    spec : MatrixSpec
        Of the product: one slice, ``max_rank`` at least the number of columns of ``left``.
    left : ndarray, shape (rows, r)
    right : ndarray, shape (r, columns)

    Returns
    -------
    Spectrum or None
        None where the product is not finite or zero: what is wrong with it can only be said from its values.
    """
    import numpy as np

    from spectral.spectrum import Spectrum

    with np.errstate(over="ignore", invalid="ignore"):
        bound = float(np.linalg.norm(left)) * float(np.linalg.norm(right)) * spec.scale
    if not SAFE_RANGE[0] < bound < SAFE_RANGE[1]:
        return None
    singular = product_singular_values(left, right) * spec.scale
    if not float(singular[-1]) ** 2 > np.finfo(np.float64).tiny:
        return None
    dead_rows = ~np.any(left, axis=1)
    dead_columns = ~np.any(right, axis=0)
    return Spectrum(
        evals=singular * singular,
        N=spec.N,
        M=spec.M,
        rf=1,
        sv_max=float(singular[-1]),
        sv_min=float(singular[0]),
        rank_loss=int(np.count_nonzero(singular <= singular[-1] * (spec.N * np.finfo(np.float64).eps))),
        n_dead_rows=int(np.count_nonzero(dead_rows)),
        n_dead_columns=int(np.count_nonzero(dead_columns)),
        method="svd",
    )


def unknown_parts(names: Iterable[str], updates: Iterable[LoraUpdate]) -> Mapping[str, str]:
    """Return the tensors that are part of some LoRA variant but of no update, each with the reason."""
    used = {name for update in updates for name in (update.name_a, update.name_b)}
    reasons = {}
    for name in names:
        if name in used or not any(part.startswith("lora_") for part in name.split(".")):
            continue
        is_other = parse_factor_name(name) is not None
        reasons[name] = (
            "a factor of another adapter"
            if is_other
            else "part of a LoRA variant that is more than B·A, and is not analysed"
        )
    return reasons
