"""What trainings leave beside the weights: data of known classes is read as data, everything else is refused."""

from __future__ import annotations

import argparse
import collections
import datetime as dt
import enum
import functools
import io
import operator
import os
import pathlib
import pickle
import sys
import uuid
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from spectral import describe
from spectral.errors import CorruptCheckpointError, UnsafeCheckpointError, UnsupportedModelError
from spectral.loaders import inert_names
from spectral.loaders.inert_names import INERT
from spectral.loaders.opening import open_model
from spectral.loaders.pickle_machine import ForbiddenPickleError, MalformedPickleError, Name, Record, read_pickle
from spectral.loaders.torch_pickle import TorchVocabulary
from tests.core.test_bad_files import Reduced, check_refused
from tests.core.test_torch_file import run_without_torch, save

if TYPE_CHECKING:
    from collections.abc import Iterator


def read(data: bytes) -> Any:
    return read_pickle(data, TorchVocabulary({}))


class Mode(enum.Enum):
    """An enumeration of the user's own."""

    FAST = "fast"


def lightning(hyper_parameters: Any, **others: Any) -> dict[str, Any]:
    """Return a checkpoint as ``dump_checkpoint`` of Lightning 2.6 makes it."""
    weights = collections.OrderedDict({"model.head.weight": torch.ones(6, 5), "model.head.bias": torch.ones(6)})
    return {
        "epoch": 3,
        "global_step": 30,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": weights,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 4}}}},
        "callbacks": {
            "ModelCheckpoint{'monitor': 'loss', 'mode': 'min'}": {
                "monitor": "loss",
                "best_model_score": torch.tensor(0.25),
                "best_model_path": "/run/epoch=3.ckpt",
                "dirpath": Path("/run"),
            }
        },
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(6, 5)}}, "param_groups": [{"lr": 0.1}]}],
        "lr_schedulers": [{"base_lrs": [0.1], "last_epoch": 3}],
        "hparams_name": "args",
        "hyper_parameters": hyper_parameters,
        **others,
    }


CONFIG = OmegaConf.create(
    {"lr": 0.1, "layers": [1, 2.5, None], "data": {"root": pathlib.Path("/d"), "on": True}, "again": "${lr}", "b": b"x"}
)

HARMLESS: dict[str, Any] = {
    "namespace": argparse.Namespace(lr=0.1, layers=[1, 2], nested=argparse.Namespace(a=1)),
    "omegaconf": CONFIG,
    "omegaconf list": OmegaConf.create([1, {"a": 2}]),
    "paths": [pathlib.Path("/run/a"), pathlib.PureWindowsPath("C:\\a"), pathlib.PurePosixPath("a/b")],
    "numpy": {"f": np.float32(3.5), "i": np.int64(3), "b": np.bool_(True), "dtype": np.dtype("float16")},
    "dates": [
        dt.datetime(2026, 1, 2, tzinfo=dt.timezone.utc),
        dt.timedelta(1),
        dt.date(2026, 1, 2),
    ],
    "containers": {"d": collections.defaultdict(list, {"a": [1]}), "q": collections.deque([1, 2], 5)},
    "others": [Decimal("1.5"), uuid.UUID(int=3), torch.float16, torch.Size((3, 4)), torch.device("cpu")],
    "versions": torch.torch_version.TorchVersion("2.13.0"),
    "types": [int, float, str, bool, dict, list, tuple],
}


@pytest.mark.parametrize("case", HARMLESS)
def test_hyperparameters_that_are_data(case: str, tmp_path: Path) -> None:
    path = save(lightning({"config": HARMLESS[case]}), tmp_path / "epoch=3.ckpt")
    infos = open_model(path).tensors()
    assert [info.name for info in infos if info.refusal is None] == ["model.head.weight", "model.head.bias"]
    assert describe(path).coverage == pytest.approx(30 / 37), "beside a bias and the score of a callback"
    program = (
        "import sys\nfrom spectral.loaders.opening import open_model\nprint(len(open_model(sys.argv[1]).tensors()))\n"
    )
    program += "assert not {'omegaconf', 'deepspeed', 'pytorch_lightning'} & set(sys.modules)"
    assert run_without_torch(program, path) == str(len(infos))


UNKNOWN: dict[str, tuple[Any, str]] = {
    "a function": (Reduced(os.system, "false"), r"\w+\.system"),
    "a partial": (functools.partial(print, "x"), r"functools\.partial"),
    "an enumeration": (Mode.FAST, r"tests\.core\.test_inert_names\.Mode"),
    "a class": (Mode, r"tests\.core\.test_inert_names\.Mode"),
    "a module": (torch.nn.ReLU(), r"torch\.nn\.modules\.activation\.ReLU"),
    "a class of modules": (torch.nn.ReLU, r"torch\.nn\.modules\.activation\.ReLU"),
    "a getter": (operator.attrgetter("a"), r"operator\.attrgetter"),
    "getattr": (getattr, r"\w+\.getattr"),
    "an open file's class": (io.StringIO("x"), r"_io\.StringIO"),
    "inside a namespace": (argparse.Namespace(f=os.system), r"\w+\.system"),
    "inside a config": ({"a": [CONFIG, os.system]}, r"\w+\.system"),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_hyperparameters_that_could_run(case: str, tmp_path: Path) -> None:
    value, name = UNKNOWN[case]
    path = save(lightning({"config": value}), tmp_path / "epoch=3.ckpt")
    check_refused(
        path, UnsafeCheckpointError, rf"unsafe: its pickle asks for {name}, which is code .* Save the state di"
    )


@pytest.fixture
def old_lightning() -> Iterator[type]:
    """A class that is pickled as a callback of Lightning, under which its first versions kept a state."""
    place = "pytorch_lightning.callbacks.model_checkpoint"
    kind = type("ModelCheckpoint", (), {"__module__": place, "__qualname__": "ModelCheckpoint"})
    parts = place.split(".")
    names = [".".join(parts[:n]) for n in range(1, 4)]
    for name in names:
        sys.modules[name] = ModuleType(name)
    setattr(sys.modules[place], "ModelCheckpoint", kind)  # noqa: B010 (a module has no such attribute for mypy)
    yield kind
    for name in names:
        del sys.modules[name]


def test_callbacks_of_the_first_versions(old_lightning: type, tmp_path: Path) -> None:
    path = save(lightning({}, callbacks={old_lightning: {"best": 1}}), tmp_path / "m.ckpt")
    assert len(open_model(path).tensors()) == 2
    path = save(lightning({}, callbacks={1: old_lightning()}), tmp_path / "m.ckpt")
    check_refused(path, UnsafeCheckpointError, r"unsafe: its pickle does more than hold weights")


def test_tensors_and_arrays_in_hyperparameters_are_listed(tmp_path: Path) -> None:
    hidden = argparse.Namespace(weights=torch.ones(3, 3), classes=np.ones((4, 4), np.float32))
    path = save(lightning({"config": hidden}), tmp_path / "m.ckpt")
    reasons = {info.name: (info.shape, info.dtype, info.refusal) for info in open_model(path).tensors() if info.refusal}
    outside = "lies outside the state dict that is analysed"
    assert reasons["hyper_parameters.config.weights"] == ((3, 3), "float32", outside)
    assert reasons["hyper_parameters.config.classes"] == ((4, 4), "float32", outside)


def test_arrays_of_numpy_as_weights_are_listed(tmp_path: Path) -> None:
    path = save({"w": torch.ones(3, 3), "a": np.ones((4, 5)), "s": np.array(["x"])}, tmp_path / "m.pt")
    refused = {info.name: (info.shape, info.dtype, info.refusal) for info in open_model(path).tensors() if info.refusal}
    assert refused == {"a": ((4, 5), "float64", "a numpy array inside the pickle is not read: save a tensor")}


def test_a_whole_namespace(tmp_path: Path) -> None:
    path = save(argparse.Namespace(w=torch.ones(3, 3)), tmp_path / "m.pt")
    check_refused(path, UnsupportedModelError, r"holds a argparse\.Namespace, expected a state dict")


@pytest.mark.parametrize("place", sorted(INERT))
def test_no_name_is_looked_up(place: tuple[str, str]) -> None:
    """A call of each makes a record or plain data, or is refused; nothing is imported for it."""
    before = set(sys.modules)
    module, name = place
    try:
        found = read(f"c{module}\n{name}\n)R.".encode())
    except (ForbiddenPickleError, MalformedPickleError):
        found = None
    assert found is None or type(found) in (Record, dict, list, str)
    assert read(f"c{module}\n{name}\n.".encode()) == Name(module, name)
    assert set(sys.modules) == before


def test_what_the_list_must_never_hold() -> None:
    """Names through which Python would run, import, open or look up something."""
    modules = {module for module, _ in INERT}
    names = {name for _, name in INERT}
    assert not modules & {"os", "posix", "nt", "sys", "subprocess", "functools", "operator", "importlib", "runpy", "io"}
    assert not names & {"eval", "exec", "compile", "open", "getattr", "setattr", "partial", "__import__", "attrgetter"}
    assert not any(module.startswith("torch.nn") or module == "" for module in modules)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"cargparse\nNamespace\n)R)R.", "a call of what is no name"),
        (b"cargparse\nNamespace\n}b.", "a state for what takes none"),
        (b"cbuiltins\nint\n(K\x01tR.", "a call of a class that is only named in files"),
        (b"ctyping\nAny\n)R.", "a call of a class that is only named in files"),
        (b"cnumpy\nndarray\n)R.", "a call of a class that is only named in files"),
        (b"ccollections\nOrderedDict\n(cargparse\nNamespace\n)RtR.", None),
    ],
)
def test_records_are_not_called_and_names_take_no_state(data: bytes, match: str | None) -> None:
    with pytest.raises((ForbiddenPickleError, MalformedPickleError), match=match):
        read(data)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_records_keep_what_they_were_made_of(protocol: int) -> None:
    found = read(pickle.dumps(argparse.Namespace(a=1, b=[2]), protocol))
    assert (str(found), found.attributes) == ("argparse.Namespace", {"a": 1, "b": [2]})
    found = read(pickle.dumps(pathlib.PurePosixPath("/a/b"), protocol))
    assert found.name.name == "PurePosixPath"
    assert "/".join(found.arguments).endswith("a/b")
    assert read(pickle.dumps(collections.defaultdict(list, {"a": [1]}), protocol)) == {"a": [1]}
    assert read(pickle.dumps(collections.deque([1, 2], 5), protocol)) == [1, 2]


def test_a_record_that_holds_itself(tmp_path: Path) -> None:
    loop = argparse.Namespace()
    loop.own = loop
    path = save({"w": torch.ones(3, 3), "args": loop}, tmp_path / "m.pt")
    assert [info.name for info in open_model(path).tensors()] == ["w"]


def test_records_as_keys() -> None:
    found = read(b"}cargparse\nNamespace\n)RK\x01scargparse\nNamespace\n)RK\x02s.")
    assert sorted(found.values()) == [1, 2], "two records are two keys"
    assert read(b"}cargparse\nNamespace\nK\x01scargparse\nNamespace\nK\x02s.") == {Name("argparse", "Namespace"): 2}


def test_the_list_is_written_once() -> None:
    named = {(module, name) for module, names in inert_names._NAMED_ONLY.items() for name in names}
    recorded = {(module, name) for module, names in inert_names._RECORDS.items() for name in names}
    assert not named & recorded


def test_names_without_end(tmp_path: Path) -> None:
    """One key of a megabyte before a hundred thousand names."""
    tensor = torch.ones(1)
    path = save({"x" * 1_000_000: {str(index): tensor for index in range(100_000)}}, tmp_path / "m.pt")
    check_refused(path, CorruptCheckpointError, r"the names in it have more than 50000000 characters together")
