"""Which matrices of a model are analysed: layer filters and limits of size, nothing skipped in silence."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from numbers import Integral
from typing import TYPE_CHECKING, Any

from spectral.errors import OptionError
from spectral.loaders.protocol import LayerType
from spectral.weights import UnanalysedTensor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from spectral.forms import FormOptions
    from spectral.weights import MatrixSpec

_WILDCARDS = frozenset("*?[")

_TYPES = frozenset(layer_type.value for layer_type in LayerType)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which matrices to analyse.

    Parameters
    ----------
    layers : tuple of int and str
        Empty for all. An entry is one of

        - an id (the position among the matrices, ``MatrixSpec.index``); a negative id drops that layer,
        - a layer type (a :class:`~spectral.loaders.LayerType` value such as ``"dense"``),
        - a name: the last part (``"query"``), the whole (``"encoder.layer.0.query"``) or the tensor's own,
        - a shell pattern on the last part or on the whole (``"encoder.*"``);

        a leading ``-`` makes a text drop what it names. What is kept is the union of the entries that keep (all
        layers, where none does) without the union of those that drop. The order does not matter. A text that is
        a layer type means the type, even where a layer has the same name.
    min_evals, max_evals : int, optional
        Fewest and most eigenvalues (M of a slice, M·rf of a pool). None or 0: no limit.
    max_N : int, optional
        Largest N. None: no limit.

    Raises
    ------
    OptionError
        Ids of both signs, entries of another type, or limits that exclude each other.
    """

    layers: tuple[int | str, ...] = ()
    min_evals: int | None = None
    max_evals: int | None = None
    max_N: int | None = None  # noqa: N815  N is the name of the field

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", _entries(self.layers))
        _check_ids([entry for entry in self.layers if isinstance(entry, int)])
        for name, least in (("min_evals", 0), ("max_evals", 0), ("max_N", 1)):
            _check_limit(name, getattr(self, name), least)
        if self.min_evals and self.max_evals and self.min_evals >= self.max_evals:
            raise OptionError(f"min_evals ({self.min_evals}) must be below max_evals ({self.max_evals})")


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A matrix that is not analysed, with the reason.

    Attributes
    ----------
    spec : MatrixSpec
        The matrix.
    reason : str
        One sentence for the report.
    by_choice : bool
        The filters name it: no gap in coverage. A limit of size is not such a choice.
    """

    spec: MatrixSpec
    reason: str
    by_choice: bool = False

    def as_unanalysed(self) -> UnanalysedTensor:
        """Return the record that the list of unanalysed tensors takes."""
        return UnanalysedTensor(name=self.spec.tensor, shape=self.spec.shape, dtype=self.spec.dtype, reason=self.reason)


def select_matrices(
    specs: Iterable[MatrixSpec], selection: Selection, forms: FormOptions | None = None
) -> tuple[tuple[MatrixSpec, ...], tuple[LeftOut, ...]]:
    """Apply filters and limits.

    Parameters
    ----------
    specs : iterable of MatrixSpec
        After :func:`~spectral.forms.expand_specs`, so that slices are counted as slices.
    selection : Selection
        What to keep.
    forms : FormOptions, optional
        With ``conv2d_fft`` the limits on eigenvalues do not apply to 2-D convolutions (parity): there are M of
        them at each of n·n frequencies.

    Returns
    -------
    kept : tuple of MatrixSpec
        In the order given.
    left_out : tuple of LeftOut
        Everything else, in the order given.

    Raises
    ------
    OptionError
        An entry of ``selection.layers`` matches no layer; the message suggests names that are close.
    """
    known = tuple(specs)
    chosen = _chosen(known, selection.layers)
    kept: list[MatrixSpec] = []
    left_out: list[LeftOut] = []
    for spec, is_chosen in zip(known, chosen, strict=True):
        reason = _beyond_limit(spec, selection, forms) if is_chosen else "excluded by the layer filters"
        if reason is None:
            kept.append(spec)
        else:
            left_out.append(LeftOut(spec=spec, reason=reason, by_choice=not is_chosen))
    return tuple(kept), tuple(left_out)


def _entries(layers: Any) -> tuple[int | str, ...]:
    """Return the entries as plain ints and strings; one entry need not be in a list."""
    if layers is None:
        return ()
    if isinstance(layers, (str, Integral)):
        layers = (layers,)
    try:
        found = tuple(layers)
    except TypeError:
        raise OptionError(f"layers must be ids and names, got {layers!r}") from None
    return tuple(_entry(item) for item in found)


def _entry(item: Any) -> int | str:
    if isinstance(item, str) and item.removeprefix("-"):
        return str(item.value) if isinstance(item, LayerType) else str(item)
    if not isinstance(item, bool) and isinstance(item, Integral):
        return int(item)
    raise OptionError(f"layers must hold ids and names, got {item!r} ({type(item).__name__})")


def _check_ids(ids: list[int]) -> None:
    if ids and max(ids) >= 0 > min(ids):
        raise OptionError(
            f"layer ids must be all kept (0 and above) or all dropped (negative), got {ids}; "
            "a name with a leading '-' drops in any mixture"
        )


def _check_limit(name: str, value: Any, least: int) -> None:
    if value is not None and (type(value) is bool or not isinstance(value, Integral) or int(value) < least):
        raise OptionError(f"{name} must be an integer of at least {least} or None, got {value!r}")


def _chosen(specs: tuple[MatrixSpec, ...], entries: tuple[int | str, ...]) -> list[bool]:
    keeps = [entry for entry in entries if not _drops(entry)]
    kept = {place for entry in keeps for place in _places(specs, entry)} if keeps else set(range(len(specs)))
    dropped = {place for entry in entries if _drops(entry) for place in _places(specs, entry)}
    return [place in kept and place not in dropped for place in range(len(specs))]


def _drops(entry: int | str) -> bool:
    return entry.startswith("-") if isinstance(entry, str) else entry < 0


def _places(specs: tuple[MatrixSpec, ...], entry: int | str) -> set[int]:
    """Return the positions of the specs that an entry names, keeping or dropping."""
    if isinstance(entry, int):
        found = {place for place, spec in enumerate(specs) if spec.index == abs(entry)}
    else:
        wanted = entry.removeprefix("-")
        found = {place for place, spec in enumerate(specs) if _names(spec, wanted)}
        if not found and _WILDCARDS.intersection(wanted):
            found = {place for place, spec in enumerate(specs) if _matches(spec, wanted)}
    if not found:
        raise OptionError(_explain_no_match(specs, entry))
    return found


def _names(spec: MatrixSpec, wanted: str) -> bool:
    if wanted in _TYPES:
        return spec.layer_type.value == wanted
    return wanted in (spec.name, spec.tensor, _last_part(spec))


def _matches(spec: MatrixSpec, pattern: str) -> bool:
    return fnmatchcase(spec.name, pattern) or fnmatchcase(_last_part(spec), pattern)


def _last_part(spec: MatrixSpec) -> str:
    return spec.name.rpartition(".")[2]


def _explain_no_match(specs: tuple[MatrixSpec, ...], entry: int | str) -> str:
    if isinstance(entry, int):
        ids = sorted({spec.index for spec in specs})
        known = f"ids from {ids[0]} to {ids[-1]}" if ids else "no layers"
        return f"layers: no layer has the id {abs(entry)}; the model has {known}"
    wanted = entry.removeprefix("-")
    types = sorted({spec.layer_type.value for spec in specs})
    if wanted in _TYPES:
        return f"layers: {entry!r} matches no layer; the model has the types {', '.join(types) or '(none)'}"
    names = dict.fromkeys([*(spec.name for spec in specs), *map(_last_part, specs), *types])
    close = get_close_matches(wanted, names, n=3)
    return f"layers: {entry!r} matches no layer" + (f"; close to it: {', '.join(close)}" if close else "")


def _beyond_limit(spec: MatrixSpec, selection: Selection, forms: FormOptions | None) -> str | None:
    """Return which limit a matrix breaks, or None."""
    is_operator = forms is not None and forms.conv2d_fft and spec.layer_type is LayerType.CONV2D
    if not is_operator and selection.min_evals and spec.n_evals < selection.min_evals:
        return f"{spec.n_evals} eigenvalues, fewer than min_evals = {selection.min_evals}"
    if not is_operator and selection.max_evals and spec.n_evals > selection.max_evals:
        return f"{spec.n_evals} eigenvalues, more than max_evals = {selection.max_evals}"
    if selection.max_N is not None and selection.max_N < spec.N:
        return f"N = {spec.N} is above max_N = {selection.max_N}"
    return None
