"""Which tensor of one model belongs to which tensor of another, and why some belong to none."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from spectral.errors import ModelMismatchError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from spectral.loaders.protocol import TensorInfo, TensorSource

MIN_SHARED = 0.5
"""Two models of one architecture share at least this part of the matrices of the larger one, by name and shape.
A fine-tune with a new head is above it by far; other depths, widths or families are below."""

_N_SHOWN = 3
"""Names of each kind that an error message gives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPairing:
    """The tensors of two models, side by side.

    Attributes
    ----------
    partners : mapping of str to str
        Tensor name of the first model -> the one of the second; shapes may differ.
    only_first, only_second : tuple of str
        Tensors without a partner, in the order of their model.
    infos_first, infos_second : mapping of str to TensorInfo
        The headers of both.
    """

    partners: Mapping[str, str]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    infos_first: Mapping[str, TensorInfo] = field(repr=False)
    infos_second: Mapping[str, TensorInfo] = field(repr=False)

    def mismatch(self, name: str) -> str | None:
        """Return why a tensor of the first model cannot be compared with its partner, or None where it can."""
        info = self.infos_first[name]
        if info.counted_in is not None and info.refusal is not None:
            return info.refusal
        if name not in self.partners:
            return "no tensor of this name in the other model"
        other = self.infos_second[self.partners[name]]
        if other.shape != info.shape:
            hint = ": perhaps it is stored transposed" if other.shape == info.shape[::-1] else ""
            return f"its shape is {info.shape} here and {other.shape} in the other model{hint}"
        if other.refusal is not None and info.refusal is None:
            return f"in the other model: {other.refusal}"
        return info.refusal


def match_names(first: Collection[str], second: Collection[str]) -> dict[str, str]:
    """Pair the names of two models: equal ones first, then those that one common prefix sets apart.

    Wrappers put a prefix before every name (``module.``, ``model.``, ``bert.``, ``base_model.model.``). The prefix
    that explains the most names of one side is taken, unless another explains as many: then none is.

    Parameters
    ----------
    first, second : collection of str
        Tensor names, all different on each side.

    Returns
    -------
    dict of str to str
        Name of the first side -> name of the second, one to one.
    """
    rest_first = [name for name in first if name not in second]
    rest_second = [name for name in second if name not in first]
    pairs = {name: name for name in first if name in second}
    longer_first, longer_second = (
        _by_prefix(rest_first, set(rest_second)),
        _by_prefix(rest_second, set(rest_first)),
    )
    candidates = [
        *(dict(found) for found in longer_first.values()),
        *({short: long for long, short in found.items()} for found in longer_second.values()),
    ]
    sizes = Counter(len(candidate) for candidate in candidates)
    if sizes and sizes[max(sizes)] == 1:
        pairs.update(next(candidate for candidate in candidates if len(candidate) == max(sizes)))
    return pairs


def pair_models(first: TensorSource, second: TensorSource) -> ModelPairing:
    """Pair the tensors of two models by name.

    Raises
    ------
    ModelMismatchError
        Fewer than half of the matrices of the larger model have a partner of the same shape: the models are of
        different architectures. The message gives counts and the first layers that differ.
    """
    infos_first = {info.name: info for info in first.tensors()}
    infos_second = {info.name: info for info in second.tensors()}
    partners = match_names(infos_first, infos_second)
    taken = set(partners.values())
    pairing = ModelPairing(
        partners=partners,
        only_first=tuple(name for name in infos_first if name not in partners),
        only_second=tuple(name for name in infos_second if name not in taken),
        infos_first=infos_first,
        infos_second=infos_second,
    )
    _require_one_architecture(pairing, first.label, second.label)
    return pairing


def _by_prefix(longer: Collection[str], shorter: set[str]) -> dict[str, dict[str, str]]:
    """Prefix, up to and with a dot -> the pairs (long name, short name) it explains."""
    found: dict[str, dict[str, str]] = {}
    for name in longer:
        parts = name.split(".")
        for n_dropped in range(1, len(parts)):
            rest = ".".join(parts[n_dropped:])
            if rest in shorter:
                found.setdefault(name[: len(name) - len(rest)], {})[name] = rest
    return found


def _require_one_architecture(pairing: ModelPairing, label_first: str, label_second: str) -> None:
    firsts, seconds = (
        # A file may leave out what is tied, and hold the product for its factors.
        [
            name
            for name, info in infos.items()
            if len(info.shape) >= 2 and (info.counted_in is None or info.refusal is None) and not info.is_state
        ]
        for infos in (pairing.infos_first, pairing.infos_second)
    )
    reshaped = [
        name
        for name in firsts
        if name in pairing.partners
        and pairing.infos_second[pairing.partners[name]].shape != pairing.infos_first[name].shape
    ]
    lonely_first = [name for name in firsts if name not in pairing.partners]
    n_shared = len(firsts) - len(lonely_first) - len(reshaped)
    if n_shared >= max(1.0, MIN_SHARED * max(len(firsts), len(seconds))):
        return
    lonely_second = [name for name in seconds if name in pairing.only_second]
    shapes = [
        f"{name} is {pairing.infos_first[name].shape} and {pairing.infos_second[pairing.partners[name]].shape}"
        for name in reshaped
    ]
    details = [
        f"{text}: {_first_few(names)}"
        for text, names in (
            ("only in the first", lonely_first),
            ("only in the second", lonely_second),
            ("of another shape", shapes),
        )
        if names
    ]
    raise ModelMismatchError(
        f"{label_first} and {label_second} are not of one architecture: they hold {len(firsts)} and {len(seconds)} "
        f"tensors of two or more dimensions, and {n_shared} agree in name and shape"
        + "".join(f"; {detail}" for detail in details)
    )


def _first_few(names: list[str]) -> str:
    shown = ", ".join(name[:200] for name in names[:_N_SHOWN])
    return f"{shown}, .. ({len(names)} in all)" if len(names) > _N_SHOWN else shown
