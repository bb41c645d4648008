"""Names beside torch's own that a training framework leaves in a checkpoint, and that hold data alone.

Hyperparameters, paths, dates and the scalers of losses stand beside the weights of a Lightning or a DeepSpeed file.
Reading one of these names makes a :class:`~spectral.loaders.pickle_machine.Record` of its arguments or a plain
container, here as everywhere: nothing is looked up. But a file that this package reads may be loaded by Python
afterwards, so a name is on the list only if **Python itself could call it with any arguments and would do no more than
build a value**: nothing is opened, imported, looked up, evaluated or called back. That keeps out ``functools.partial``
and ``operator.getitem``, enumerations and data classes of the user's own, every ``nn.Module``, and classes whose
``__setstate__`` or ``__new__`` does more than keep what it is given. What is not on the list is refused as unsafe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spectral.loaders.pickle_machine import ForbiddenPickleError, MalformedPickleError, Name, Record, checked_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_RECORDS: Mapping[str, tuple[str, ...]] = {
    "argparse": ("Namespace",),
    "datetime": ("date", "datetime", "time", "timedelta", "timezone"),
    "decimal": ("Decimal",),
    "uuid": ("UUID",),
    # Paths are texts until somebody opens them. The second module is that of Python 3.13.
    **dict.fromkeys(
        ("pathlib", "pathlib._local"),
        ("Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"),
    ),
    "numpy": ("dtype",),
    # Numbers and arrays of numpy before and since its second version.
    **dict.fromkeys(("numpy.core.multiarray", "numpy._core.multiarray"), ("_reconstruct", "scalar")),
    # OmegaConf resolves what its nodes refer to when they are asked for a value, not when they are made.
    "omegaconf.base": ("ContainerMetadata", "Metadata"),
    "omegaconf.dictconfig": ("DictConfig",),
    "omegaconf.listconfig": ("ListConfig",),
    "omegaconf.nodes": (
        "AnyNode",
        "BooleanNode",
        "BytesNode",
        "FloatNode",
        "IntegerNode",
        "PathNode",
        "StringNode",
    ),
    # DeepSpeed's scalers of the loss, its enumeration of stages, and where a parameter lies in a flat group.
    "deepspeed.runtime.fp16.loss_scaler": ("DynamicLossScaler", "LossScaleConfig", "LossScaleProfile", "LossScaler"),
    "deepspeed.runtime.zero.config": ("ZeroStageEnum",),
    "deepspeed.utils.tensor_fragment": ("fragment_address",),
}

_PLAIN_TYPES = ("bool", "dict", "float", "int", "list", "long", "str", "tuple", "unicode")

_NAMED_ONLY: Mapping[str, tuple[str, ...]] = {
    # Element types and factories, in the descriptions of other values.
    **dict.fromkeys(("builtins", "__builtin__"), _PLAIN_TYPES),
    "typing": ("Any",),
    "numpy": ("ndarray",),
    # Lightning before 1.5 keeps the state of a callback under its class, and since then the class of hyperparameters.
    **dict.fromkeys(
        ("pytorch_lightning.callbacks.model_checkpoint", "lightning.pytorch.callbacks.model_checkpoint"),
        ("ModelCheckpoint",),
    ),
    **dict.fromkeys(
        ("pytorch_lightning.callbacks.early_stopping", "lightning.pytorch.callbacks.early_stopping"),
        ("EarlyStopping",),
    ),
}
"""Names that a file may hold and not call."""

_ATTRIBUTE_DICTS = (
    "pytorch_lightning.utilities.parsing",
    "lightning.pytorch.utilities.parsing",
    "lightning_fabric.utilities.data",
    "lightning.fabric.utilities.data",
)


def _named_only(*_: Any) -> Any:
    raise ForbiddenPickleError("a call of a class that is only named in files")


def _recorded(name: Name) -> Callable[..., Record]:
    return lambda *arguments: Record(name, arguments)


def _dictionary(*_: Any) -> dict[Any, Any]:
    # The items of a defaultdict come after the call; its factory has nothing to make.
    return {}


def _attribute_dictionary(content: Any = ()) -> dict[Any, Any]:
    if type(content) is not dict and content != ():
        raise MalformedPickleError("a dictionary of what is none")
    return {checked_key(key): value for key, value in dict(content).items()}


def _deque(values: Any = (), _longest: Any = None) -> list[Any]:
    if type(values) not in (list, tuple):
        raise MalformedPickleError("a list of what is none")
    return list(values)


def _version(text: Any) -> str:
    if type(text) is not str:
        raise MalformedPickleError("a version that is no text")
    return text


INERT: Mapping[tuple[str, str], Callable[..., Any]] = {
    **{(module, name): _named_only for module, names in _NAMED_ONLY.items() for name in names},
    **{(module, name): _recorded(Name(module, name)) for module, names in _RECORDS.items() for name in names},
    **{(module, "AttributeDict"): _attribute_dictionary for module in _ATTRIBUTE_DICTS},
    ("collections", "defaultdict"): _dictionary,
    ("collections", "deque"): _deque,
    ("torch.torch_version", "TorchVersion"): _version,
}
"""Name -> what a call of it stands for."""
