"""LoRA adapters as models of their own: the updates scale · B·A, alone or on top of the weights they adapt.

An :class:`AdapterSource` is a TensorSource, so everything that reads a model reads an adapter.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from spectral.adapter_config import CONFIG_FILE, parse_adapter_config, read_adapter_config
from spectral.errors import ModelError, ModelMismatchError, ModelNotFoundError, OptionError
from spectral.loaders.folder import INDEX_FILES
from spectral.loaders.folder import WEIGHT_FILES as MODEL_FILES
from spectral.loaders.locations import as_location
from spectral.loaders.opening import open_model
from spectral.loaders.protocol import TensorInfo
from spectral.loaders.spans import read_span
from spectral.loaders.torch_module import is_torch_module
from spectral.lora import FACTOR_PARTS, MAGNITUDE, PEFT_PREFIX, LoraUpdate, find_updates, unknown_parts
from spectral.pairing import match_names

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from spectral.adapter_config import AdapterConfig
    from spectral.loaders.protocol import TensorSource

AdapterMode = Literal["adapter_only", "with_base", "merged"]
"""What an adapter is analysed as: its updates; updates, updated and base weights; or the merged model."""

WEIGHT_FILES = ("adapter_model.safetensors", "adapter_model.bin")

_CONFIG_FIELDS = (
    "peft_type",
    "r",
    "lora_alpha",
    "use_rslora",
    "use_dora",
    "fan_in_fan_out",
    "rank_pattern",
    "alpha_pattern",
    "init_lora_weights",
    "target_parameters",
    "layer_replication",
    "use_qalora",
)
"""What is taken from a configuration that is an object, not a file."""

_BASE_LAYER = ".base_layer"
_SAVED_MODULE = ".modules_to_save."
_ORIGINAL = ".original_module."

SAVED_WHOLE = "saved whole beside the adapter (modules_to_save): a weight, not a low-rank update"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterTensor:
    """One tensor of an adapter's view: ``base`` + ``update``, where there are both.

    ``base`` is a name in the base model, or in the adapter itself where ``is_saved``.
    """

    info: TensorInfo
    update: LoraUpdate | None = None
    base: str | None = None
    is_saved: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSource:
    """A LoRA adapter; nothing is read before :meth:`load`.

    Attributes
    ----------
    label : str
        The adapter, and its base where that takes part.
    adapter : TensorSource
        Where the factors are.
    base : TensorSource or None
        Where the adapted weights are.
    entries : mapping of str to AdapterTensor
        How each tensor is made.
    """

    label: str
    adapter: TensorSource = field(repr=False)
    base: TensorSource | None = field(repr=False)
    entries: Mapping[str, AdapterTensor] = field(repr=False)

    def tensors(self) -> tuple[TensorInfo, ...]:
        return tuple(entry.info for entry in self.entries.values())

    def load(self, name: str) -> NDArray[Any]:
        import numpy as np

        entry = self._entry(name)
        if entry.update is None:
            return self._home(entry).load(entry.base or "")
        update = entry.update.product(self.adapter.load(entry.update.name_a), self.adapter.load(entry.update.name_b))
        if entry.base is None:
            return update
        with np.errstate(over="ignore", invalid="ignore"):
            update += self._home(entry).load(entry.base).astype(np.float64)
            return update.astype(entry.info.dtype, copy=False)

    def load_span(self, name: str, begin: int, end: int) -> NDArray[Any]:
        entry = self._entry(name)
        if entry.update is None:
            return read_span(self._home(entry), entry.base or "", begin, end)
        return self.load(name).reshape(-1)[begin:end]

    def factors(self, name: str) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Return (left, right) with left · right = the tensor, or None where it is no product of two matrices.

        Its few singular values then come from r x r matrices: see :func:`spectral.lora.product_singular_values`.
        """
        entry = self._entry(name)
        if entry.update is None or entry.base is not None or len(entry.info.shape) != 2:
            return None
        return entry.update.factors(self.adapter.load(entry.update.name_a), self.adapter.load(entry.update.name_b))

    def _entry(self, name: str) -> AdapterTensor:
        entry = self.entries[name]
        if entry.info.refusal is not None:
            raise ModelError(f"{self.label}: tensor {name!r}: {entry.info.refusal}")
        return entry

    def _home(self, entry: AdapterTensor) -> TensorSource:
        home = self.adapter if entry.is_saved else self.base
        assert home is not None  # whoever has a tensor from the base has the base
        return home


def adapter_source(
    adapter: object,
    base_model: object | None = None,
    *,
    mode: AdapterMode = "adapter_only",
    config: Mapping[str, Any] | None = None,
    scaling: float | None = None,
    adapter_name: str | None = None,
) -> AdapterSource:
    """Open a LoRA adapter in the layout of Hugging Face PEFT.

    Parameters
    ----------
    adapter : path, torch.nn.Module, mapping or TensorSource
        A folder with ``adapter_config.json`` and ``adapter_model.safetensors`` or ``.bin``, one of these files, a
        module with LoRA layers (its ``peft_config`` is read), or a state dict.
    base_model : anything :func:`spectral.open_model` opens, optional
        The adapted model. A module or state dict that holds its base weights needs none.
    mode : {"adapter_only", "with_base", "merged"}
        ``adapter_only``: each update scale · B·A, named ``<layer>.lora_BA``, of rank r.
        ``with_base``: these, the updated weights W + scale · B·A as ``<layer>.lora_W_plus_AB``, and the weights
        of the base. ``merged``: the tuned model under the names of the base.
    config : mapping, optional
        The fields of ``adapter_config.json``, for a state dict, or instead of the file.
    scaling : float, optional
        Factor on B·A instead of the configuration's alpha/r (alpha/√r with ``use_rslora``). ``1.0`` is what
        ``weightwatcher`` does.
    adapter_name : str, optional
        Which adapter of a module that has several.

    Raises
    ------
    ModelNotFoundError
        No weights, or no configuration, where they should be.
    CorruptCheckpointError
        A configuration with impossible values; A without B; shapes that do not chain; a rank that differs from
        the configured one.
    UnsupportedModelError
        Another method than LoRA, or a variant whose update is not B·A (DoRA, ..).
    ModelMismatchError
        The base is needed and missing, or fits no layer of the adapter, or was changed by the adapter's
        initialisation (PiSSA, OLoRA, CorDA, LoftQ), or is merged with the adapter already.
    OptionError
        An impossible option, or several adapters and no name.
    """
    if mode not in get_args(AdapterMode):
        raise OptionError(f"mode must be one of {', '.join(get_args(AdapterMode))}, got {mode!r}")
    if scaling is not None and not (
        isinstance(scaling, (int, float)) and not isinstance(scaling, bool) and math.isfinite(scaling)
    ):
        raise OptionError(f"scaling must be a finite number, got {scaling!r}")
    source, settings = _open_adapter(adapter, config, adapter_name, needs_config=scaling is None)
    infos = source.tensors()
    updates = find_updates(infos, settings, label=source.label, adapter_name=adapter_name, scaling=scaling)
    parts = _take_apart(infos, updates, adapter_name)
    if mode == "adapter_only":
        entries = {entry.info.name: entry for entry in map(_update_alone, updates)}
        entries |= {info.name: _refused(info, SAVED_WHOLE) for info in parts.saved.values()}
        return AdapterSource(label=source.label, adapter=source, base=None, entries={**entries, **parts.unknown})
    _refuse_unfit_base(adapter, settings, source.label)
    base = source if base_model is None else open_model(base_model)
    base_infos = parts.base if base_model is None else {info.name: info for info in base.tensors()}
    if not base_infos:
        raise ModelMismatchError(f"{source.label}: mode {mode!r} needs the weights that were adapted: give base_model")
    label = f"{base.label} + {source.label}" if base_model is not None else source.label
    # What the adapter holds itself goes before the base: PEFT saves whole embeddings beside their updates.
    saved = parts.saved if base_model is None else {**parts.base, **parts.saved}
    entries = _with_base(base_infos, updates, saved, merge=mode == "merged", label=label)
    return AdapterSource(label=label, adapter=source, base=base, entries={**entries, **parts.unknown})


def is_adapter(path: Path) -> bool:
    """Tell whether a path is that of a LoRA adapter: its folder, which holds no whole model, or its file of weights."""
    if path.name in WEIGHT_FILES:
        return (path.parent / CONFIG_FILE).is_file()
    if not path.is_dir() or not (path / CONFIG_FILE).is_file():
        return False
    has_model = any((path / name).is_file() for name in (*INDEX_FILES, *MODEL_FILES))
    return not has_model and any((path / name).is_file() for name in WEIGHT_FILES)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """The tensors of an adapter that are no factors, by the name that the adapted model would give them."""

    saved: Mapping[str, TensorInfo]
    base: Mapping[str, TensorInfo]
    unknown: Mapping[str, AdapterTensor]


def _open_adapter(
    adapter: object, config: Mapping[str, Any] | None, adapter_name: str | None, *, needs_config: bool
) -> tuple[TensorSource, AdapterConfig | None]:
    """Open the tensors and the configuration, wherever these are."""
    if isinstance(adapter, (str, os.PathLike)):
        path = as_location(adapter)
        file = _weight_file(path)
        source, config_path = open_model(file), file.parent / CONFIG_FILE
        if config is None and (needs_config or config_path.is_file()):
            return source, read_adapter_config(config_path)
    else:
        source = open_model(adapter)
        if config is None and is_torch_module(adapter):
            config = _config_of_module(adapter, adapter_name)
    label = f"configuration of {source.label}"
    return source, None if config is None else parse_adapter_config(config, label)


def _weight_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in WEIGHT_FILES:
        if (path / name).is_file():
            return path / name
    raise ModelNotFoundError(f"{path}: the folder holds no adapter (looked for {', '.join(WEIGHT_FILES)})")


def _config_of_module(module: Any, adapter_name: str | None) -> Mapping[str, Any] | None:
    """Return the fields of PEFT's own configuration of a module, None where it has none."""
    configs = getattr(module, "peft_config", None)
    if not isinstance(configs, Mapping) or not configs:
        return None
    name = next(iter(configs)) if adapter_name is None else adapter_name
    if name not in configs or (adapter_name is None and len(configs) > 1):
        raise OptionError(
            f"{type(module).__name__}: adapter_name must be one of {', '.join(map(str, configs))}, got {adapter_name!r}"
        )
    config = configs[name]
    if isinstance(config, Mapping):
        return config
    return {key: getattr(config, key) for key in _CONFIG_FIELDS if hasattr(config, key)}


def _take_apart(infos: tuple[TensorInfo, ...], updates: tuple[LoraUpdate, ...], adapter_name: str | None) -> _Parts:
    """Sort what is no factor: modules saved whole, weights of the base, parts of other variants."""
    reasons = unknown_parts([info.name for info in infos], updates)
    adapted = {f"{update.path}{end}.weight" for update in updates for end in ("", _BASE_LAYER)}
    # An adapter file holds no adapted weight; a model with its adapter inside holds them all.
    is_whole_model = any(info.name in adapted for info in infos)
    factors = {name for update in updates for name in (update.name_a, update.name_b)}
    saved, base = {}, {}
    for info in infos:
        if info.name in factors or info.name in reasons:
            continue
        path, marker, rest = info.name.partition(_SAVED_MODULE)
        if marker:
            name, _, tensor = rest.partition(".")
            if adapter_name in (None, name):
                saved[f"{path}.{tensor}"] = info
        elif is_whole_model:
            base[info.name.replace(f"{_BASE_LAYER}.", ".").replace(_ORIGINAL, ".")] = info
        else:
            saved[info.name] = info
    # The magnitude vector of a DoRA layer needs no row of its own: its update has one.
    unknown = {info.name: _refused(info, reasons[info.name]) for info in infos if info.name in reasons}
    return _Parts(saved=saved, base=base, unknown={name: row for name, row in unknown.items() if MAGNITUDE not in name})


def _with_base(
    base_infos: Mapping[str, TensorInfo],
    updates: tuple[LoraUpdate, ...],
    saved: Mapping[str, TensorInfo],
    *,
    merge: bool,
    label: str,
) -> dict[str, AdapterTensor]:
    """Lay updates and saved modules over the tensors of the base."""
    wanted = [_in_base(f"{update.path}.weight", base_infos) for update in updates]
    replaced = {_in_base(name, base_infos): info for name, info in saved.items()}
    partners = match_names([*wanted, *(name for name in replaced if name not in wanted)], base_infos)
    updated = [
        replace(_update_on(update, replaced[name]), is_saved=True)
        if name in replaced
        else _update_on(update, base_infos.get(partners.get(name, "")))
        for update, name in zip(updates, wanted, strict=True)
    ]
    if all(entry.base is None for entry in updated):
        raise ModelMismatchError(
            f"{label}: the base fits none of the {len(updated)} adapted layers: {_first_trouble(updated)}"
        )
    entries = {name: AdapterTensor(info=replace(info, name=name), base=info.name) for name, info in base_infos.items()}
    for name, info in replaced.items():
        target = partners.get(name, name)
        entries[target] = AdapterTensor(info=replace(info, name=target), base=info.name, is_saved=True)
    for update, name, entry in zip(updates, wanted, updated, strict=True):
        if merge:
            target = partners.get(name, name)
            entries[target] = replace(entry, info=replace(entry.info, name=target))
        else:
            alone = _update_alone(update)
            entries[alone.info.name] = alone
            entries[entry.info.name] = entry
    return entries


def _in_base(name: str, base_infos: Mapping[str, TensorInfo]) -> str:
    """Return the name without the prefix that PEFT puts before every name of an adapter file."""
    return name if name in base_infos else name.removeprefix(PEFT_PREFIX)


def _first_trouble(entries: list[AdapterTensor]) -> str:
    return "; ".join(f"{entry.info.name}: {entry.info.refusal}" for entry in entries[:3])


def _update_alone(update: LoraUpdate) -> AdapterTensor:
    info = TensorInfo(
        name=_renamed(update.name_a, "BA"),
        shape=update.shape,
        dtype="float64",
        role=update.role,
        refusal=update.refusal,
        max_rank=update.rank,
    )
    return AdapterTensor(info=info, update=update)


def _update_on(update: LoraUpdate, base: TensorInfo | None) -> AdapterTensor:
    """Return W + scale · B·A; without ``base`` and with a reason where there is no W of its shape."""
    refusal = update.refusal
    if base is None:
        refusal = f"the base model has no weight of the adapted layer {update.path!r}"
    elif base.shape != update.shape:
        refusal = f"its update is {update.shape} and the weight of the base {base.shape}"
    fits = base is not None and base.shape == update.shape
    info = TensorInfo(
        name=_renamed(update.name_b, "W_plus_AB"),
        shape=update.shape,
        dtype="float64" if base is not None and base.dtype == "float64" else "float32",
        role=base.role if base is not None else update.role,
        parts=base.parts if fits and base is not None else None,
        refusal=refusal or (base.refusal if base is not None else None),
    )
    return AdapterTensor(info=info, update=update, base=base.name if fits and base is not None else None)


def _renamed(factor: str, end: str) -> str:
    """Put ``lora_BA`` or ``lora_W_plus_AB`` for the last part of a name that is a factor."""
    parts = factor.split(".")
    position = max(index for index, part in enumerate(parts) if part in FACTOR_PARTS)
    parts[position] = f"{parts[position][:-1]}{end}"
    return ".".join(parts)


def _refused(info: TensorInfo, reason: str) -> AdapterTensor:
    return AdapterTensor(info=replace(info, refusal=info.refusal or reason))


def _refuse_unfit_base(adapter: object, settings: AdapterConfig | None, label: str) -> None:
    if settings is not None and settings.changes_base is not None:
        raise ModelMismatchError(
            f"{label}: init_lora_weights is {settings.changes_base!r}, which changed the base weights as well: "
            "base + B·A is not the tuned model"
        )
    if is_torch_module(adapter):
        for name, child in adapter.named_modules():
            if getattr(child, "merged", False) is True:
                raise ModelMismatchError(f"{label}: {name!r} is merged with its adapter already: unmerge it first")
