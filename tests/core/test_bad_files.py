"""Hostile and damaged files: the right error, one sentence with the path, at once, and nothing runs."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
import time
import zipfile
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral.analysis import analyze
from spectral.errors import (
    CorruptCheckpointError,
    ModelError,
    ModelNotFoundError,
    UnsafeCheckpointError,
    UnsupportedModelError,
)
from spectral.loaders.opening import open_model
from tests.core.builders import entry, safetensors_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LONGEST_SECONDS = 5.0
LONGEST_MESSAGE = 2500


def check_refused(path: Path, kind: type[ModelError], match: str) -> None:
    """Demand that opening ends at once in one sentence that begins with the path."""
    begin = time.perf_counter()
    with pytest.raises(kind, match=match) as caught:
        open_model(path)
    assert time.perf_counter() - begin < LONGEST_SECONDS
    message = str(caught.value)
    assert type(caught.value) is kind
    assert message.startswith(f"{path}")
    assert message.isprintable()
    assert len(message) < LONGEST_MESSAGE


GOOD = safetensors_bytes({"a": entry(0, 16), "b": entry(16, 24)}, bytes(24))


def length(n: int, data: bytes = GOOD) -> bytes:
    """Return a file whose header length is replaced."""
    return n.to_bytes(8, "little") + data[8:]


def one(**changes: object) -> bytes:
    """Return a file of one tensor with a changed entry."""
    return safetensors_bytes({"w": entry(0, 16) | changes}, bytes(16))


HUGE = 10**4200

SAFETENSORS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", r"the file is empty"),
    "one byte": (b"\x01", r"truncated: 1 bytes"),
    "seven bytes": (GOOD[:7], r"truncated: 7 bytes"),
    "length alone": (GOOD[:8], r"its header claims \d+ bytes, the file has 0"),
    "half a header": (GOOD[:40], r"its header claims \d+ bytes, the file has 32"),
    "header alone": (GOOD[:-24], r"tensor 'a' ends at byte \d+, outside the file"),
    "half the data": (GOOD[:-12], r"tensor 'a' ends at byte|tensor 'b' ends at byte"),
    "last byte missing": (GOOD[:-1], r"tensor 'b' ends at byte \d+, outside the file"),
    "length 2^60": (length(2**60), r"its header claims 1152921504606846976 bytes"),
    "length 2^64-1": (length(2**64 - 1), r"its header claims 18446744073709551615 bytes"),
    "length beyond the file": (length(len(GOOD) - 7), r"its header claims \d+ bytes, the file has"),
    "length too short": (length(30), r"wrong header length, or a damaged header: the 30 bytes"),
    "length too long": (length(len(GOOD) - 10), r"wrong header length, or a damaged header"),
    "length zero": (length(0), r"the 0 bytes after the length are not valid JSON"),
    "random bytes": (np.random.default_rng(0).bytes(4000), r"its header claims"),
    "text": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 90\n", r"its header claims"),
    "not UTF-8": (safetensors_bytes(b'{"\xff": 3}'), r"not valid JSON \('utf-8' codec"),
    "UTF-16": (safetensors_bytes('{"a": 3}'.encode("utf-16")), r"not valid JSON \('utf-8' codec"),
    "byte order mark": (safetensors_bytes(b"\xef\xbb\xbf{}"), r"not valid JSON"),
    "nested too deeply": (safetensors_bytes(b"[" * 300_000), r"nested too deeply"),
    "objects nested too deeply": (safetensors_bytes(b'{"a":' * 300_000), r"nested too deeply"),
    "NaN": (safetensors_bytes(b'{"w": NaN}'), r"NaN is not JSON"),
    "infinite offset": (
        safetensors_bytes(b'{"w": {"dtype": "F32", "data_offsets": [0, Infinity]}}'),
        r"Infinity is not",
    ),
    "header is a list": (safetensors_bytes([]), r"the header is a JSON list, expected an object"),
    "header is a number": (safetensors_bytes(3), r"the header is a JSON int"),
    "header is null": (safetensors_bytes(None), r"the header is a JSON NoneType"),
    "trailing text": (safetensors_bytes(b"{} {}"), r"not valid JSON"),
    "no tensors": (safetensors_bytes({}), r"holds no tensors"),
    "metadata alone": (safetensors_bytes({"__metadata__": {}}), r"holds no tensors"),
    "name twice": (
        safetensors_bytes(b'{"w": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}, "w": 3}'),
        r"the name 'w' appears twice",
    ),
    "key twice": (
        safetensors_bytes(b'{"w": {"dtype": "F32", "dtype": "F64", "shape": [0], "data_offsets": [0, 0]}}'),
        r"the name 'dtype' appears twice",
    ),
    "entry is a list": (safetensors_bytes({"w": []}), r"tensor 'w': the header gives no dtype, shape and data_offsets"),
    "entry is null": (safetensors_bytes({"w": None}), r"tensor 'w': the header gives no dtype"),
    "entry without shape": (
        safetensors_bytes({"w": {"dtype": "F32", "data_offsets": [0, 0]}}),
        r"tensor 'w': the head",
    ),
    "shape of float": (one(shape=[4.0]), r"tensor 'w': the shape must be a list"),
    "shape of bool": (one(shape=[4, True]), r"tensor 'w': the shape must be a list"),
    "shape negative": (one(shape=[-2, -2]), r"tensor 'w': the shape must be a list"),
    "shape of text": (one(shape=["4"]), r"tensor 'w': the shape must be a list"),
    "shape a number": (one(shape=4), r"tensor 'w': the shape must be a list"),
    "shape an object": (one(shape={}), r"tensor 'w': the shape must be a list"),
    "shape too large for its bytes": (one(shape=[5]), r"shape \[5\] of F32 takes 20 bytes, data_offsets give 16"),
    "shape that overflows": (
        one(shape=[2**62, 2**62]),
        r"takes more than 9223372036854775807 bytes, data_offsets give 16",
    ),
    "no values and endless axes": (
        one(shape=[0, 2**62, 2**62], data_offsets=[0, 0]),
        r"a shape that no array has|follow",
    ),
    "shape above 2^63": (one(shape=[2**63]), r"tensor 'w': the shape must be a list"),
    "shape of endless digits": (
        safetensors_bytes(b'{"w": {"dtype": "F32", "shape": [%d, %d], "data_offsets": [0, 16]}}' % (HUGE, HUGE)),
        r"tensor 'w': the shape must be a list",
    ),
    "shape of endless product": (
        safetensors_bytes(
            b'{"w": {"dtype": "F32", "shape": [%s], "data_offsets": [0, 16]}}' % b",".join([b"%d" % HUGE] * 4000)
        ),
        r"tensor 'w': the shape must be a list",
    ),
    "shape of many dimensions": (one(shape=[1] * 65), r"tensor 'w': the shape must be a list of at most 64"),
    "digits without end": (safetensors_bytes(b'{"w": ' + b"9" * 10_000 + b"}"), r"not valid JSON"),
    "offsets of float": (one(data_offsets=[0.0, 16.0]), r"tensor 'w': data_offsets must be two integers"),
    "offsets of bool": (one(data_offsets=[False, 16]), r"tensor 'w': data_offsets must be two integers"),
    "offsets negative": (one(data_offsets=[-16, 0]), r"tensor 'w': data_offsets must be two integers"),
    "offsets reversed": (one(data_offsets=[16, 0]), r"tensor 'w': data_offsets must be two integers, begin <= end"),
    "offsets of three": (one(data_offsets=[0, 8, 16]), r"tensor 'w': data_offsets must be two integers"),
    "offsets of one": (one(data_offsets=[16]), r"tensor 'w': data_offsets must be two integers"),
    "offsets a text": (one(data_offsets="0:16"), r"tensor 'w': data_offsets must be two integers"),
    "offsets beyond 2^63": (one(data_offsets=[2**64, 2**64 + 16]), r"tensor 'w': data_offsets must be two integers"),
    "offsets outside the file": (one(data_offsets=[1000, 1016]), r"tensor 'w' ends at byte \d+, outside the file"),
    "offsets far outside": (one(data_offsets=[2**62, 2**62 + 16]), r"tensor 'w' ends at byte \d+, outside the file"),
    "dtype unknown": (one(dtype="F128"), r"tensor 'w': unknown dtype 'F128'"),
    "dtype lower case": (one(dtype="f32"), r"tensor 'w': unknown dtype 'f32'"),
    "dtype a number": (one(dtype=32), r"tensor 'w': unknown dtype '32'"),
    "dtype a list": (one(dtype=["F32"]), r"tensor 'w': unknown dtype"),
    "dtype very long": (one(dtype="F" * 100_000), r"tensor 'w': unknown dtype 'F{40}'"),
    "overlap": (safetensors_bytes({"a": entry(0, 16), "b": entry(8, 24)}, bytes(24)), r"'b' at byte \d+ overlaps"),
    "same bytes twice": (
        safetensors_bytes({"a": entry(0, 16), "b": entry(0, 16)}, bytes(16)),
        r"'b' at byte \d+ overlaps",
    ),
    "hole": (safetensors_bytes({"a": entry(0, 8), "b": entry(16, 24)}, bytes(24)), r"'b' at byte \d+ leaves a hole"),
    "hole at the start": (safetensors_bytes({"a": entry(8, 24)}, bytes(24)), r"'a' at byte \d+ leaves a hole"),
    "trailing bytes": (GOOD + b"\0", r"1 bytes follow the last tensor"),
    "name with half a surrogate": (
        safetensors_bytes({"\ud800": entry(0, 16)}, bytes(16)),
        r"tensor '\\ud800': its name is not valid Unicode",
    ),
    "overlap under an escape sequence": (
        safetensors_bytes({"\x1b[2J": entry(0, 16), "a\nb": entry(8, 24)}, bytes(24)),
        r"tensor 'a\\nb' at byte \d+ overlaps",
    ),
    "very long name": (safetensors_bytes({"x" * 100_000: entry(0, 16)}, bytes(12)), r"tensor 'x{200}' ends at byte"),
}


@pytest.mark.parametrize("case", SAFETENSORS)
def test_safetensors(case: str, tmp_path: Path) -> None:
    data, match = SAFETENSORS[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    check_refused(path, CorruptCheckpointError, match)


def test_the_good_file_is_good(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(GOOD)
    assert [info.name for info in open_model(path).tensors()] == ["a", "b"]


@pytest.mark.parametrize("name", ["\x1b[31mred", "two\nlines", "\u202ereversed", "a\0b", "\U0001f600", ""])
def test_odd_names_are_names(name: str, tmp_path: Path) -> None:
    # They are legal; whoever prints them escapes them.
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes({name: entry(0, 16)}, bytes(16)))
    assert [info.name for info in open_model(path).tensors()] == [name]


def test_a_header_beyond_the_format_s_limit(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as stream:
        stream.write((100_000_001).to_bytes(8, "little"))
        stream.truncate(200_000_000)
    check_refused(
        path, CorruptCheckpointError, r"wrong header length: 100000001 bytes, the format allows at most 100000000"
    )


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_damage_to_a_safetensors_header(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(GOOD) - 25))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(content)
    try:
        open_model(path)
    except ModelError as error:
        assert str(error).startswith(str(path))  # noqa: PT017 - a file that is still good is fine, too


class TestPlaces:
    """Paths that are no readable file."""

    def test_nothing_there(self, tmp_path: Path) -> None:
        check_refused(tmp_path / "gone.safetensors", ModelNotFoundError, r"gone\.safetensors: no such file or folder$")

    def test_a_file_as_folder(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ModelError, match=r"model\.safetensors': cannot be read: .*Not a directory"):
            open_model(tmp_path / "file" / "model.safetensors")

    @pytest.mark.parametrize("name", ["a\0b.safetensors", "x" * 300 + ".safetensors"])
    def test_impossible_names(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r": cannot be read: ") as caught:
            open_model(str(tmp_path / name))
        assert str(tmp_path) in str(caught.value)

    def test_a_circle_of_links(self, tmp_path: Path) -> None:
        (tmp_path / "m.safetensors").symlink_to("m.safetensors")
        with pytest.raises(ModelError, match=r"m\.safetensors': cannot be read: .*symbolic links"):
            open_model(tmp_path / "m.safetensors")

    @pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
    def test_a_pipe(self, suffix: str, tmp_path: Path) -> None:
        # Opening it would wait for ever.
        os.mkfifo(tmp_path / f"m{suffix}")
        check_refused(tmp_path / f"m{suffix}", UnsupportedModelError, r"not a regular file$")

    def test_a_device(self, tmp_path: Path) -> None:
        (tmp_path / "m.safetensors").symlink_to("/dev/zero")
        check_refused(tmp_path / "m.safetensors", UnsupportedModelError, r"not a regular file$")

    @pytest.mark.parametrize("name", ["model.tflite", "model.gguf.txt", "model", "model.tar.gz", ".safetensors"])
    def test_unknown_suffix(self, name: str, tmp_path: Path) -> None:
        (tmp_path / name).write_bytes(GOOD)
        check_refused(tmp_path / name, UnsupportedModelError, r"no loader for (\.\w+|a file without suffix); known are")

    def test_a_path_as_text_bytes_or_object(self, tmp_path: Path) -> None:
        class Place:
            def __fspath__(self) -> bytes:
                return os.fsencode(tmp_path / "model.safetensors")

        (tmp_path / "model.safetensors").write_bytes(GOOD)
        assert open_model(Place()).label == str(tmp_path / "model.safetensors")


def touch(path: str) -> None:
    """What the malicious pickles would have run: leave a trace."""
    with open(path, "w", encoding="utf-8"):  # noqa: PTH123 - the plainest call there is
        pass


class Reduced:
    """Unpickles by calling a function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


class Stateful:
    """Unpickles by running its own ``__setstate__``."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __setstate__(self, state: dict[str, str]) -> None:
        touch(state["path"])


def _lines(*parts: str) -> bytes:
    return "\n".join(parts).encode()


def _raw_pickles(trace: str) -> dict[str, bytes]:
    """Pickles by opcode, each of which leaves a trace where Python's own unpickler reads it."""
    command, code = f"touch {trace}", f"open({trace!r}, 'w').close()"
    return {
        "reduce os.system": _lines("cos", "system", f"(S'{command}'", "tR."),
        "reduce posix.system": _lines("cposix", "system", f"(S'{command}'", "tR."),
        "reduce builtins.eval": _lines("cbuiltins", "eval", f'(S"{code}"', "tR."),
        "reduce __builtin__.eval": _lines("c__builtin__", "eval", f'(S"{code}"', "tR."),
        "inst": _lines(f"(S'{command}'", "ios", "system", "."),
        "obj": _lines("(cos", "system", f"S'{command}'", "o."),
        "stack_global": pickle.dumps(Reduced(os.system, command), protocol=4),
        "protocol 5": pickle.dumps(Reduced(os.system, command), protocol=5),
        "build with __setstate__": pickle.dumps(Stateful(trace), protocol=2),
        "a partial": pickle.dumps(Reduced(partial(touch, trace)), protocol=2),
        "second pickle": pickle.dumps({"a": 1}, protocol=2) + pickle.dumps(Reduced(os.system, command), protocol=2),
        "inside a dict": pickle.dumps({"w": Reduced(os.system, command)}, protocol=2),
    }


RAW_PICKLES = tuple(_raw_pickles("/nowhere"))


@pytest.fixture
def trace(tmp_path: Path) -> Iterator[Path]:
    """A file that appears when a pickle has run something; none may, whatever else the test says."""
    path = tmp_path / "trace"
    yield path
    assert not path.exists(), "the file was executed"


class TestMaliciousPickles:
    @pytest.mark.parametrize("case", RAW_PICKLES)
    def test_they_are_malicious(self, case: str, tmp_path: Path) -> None:
        # Python's own unpickler does run them: otherwise the tests below would prove nothing.
        path = tmp_path / "proof"
        stream = io.BytesIO(_raw_pickles(str(path))[case])
        while stream.tell() < len(stream.getvalue()):
            pickle.load(stream)
        assert path.exists()

    @pytest.mark.parametrize("suffix", [".pt", ".bin"])
    @pytest.mark.parametrize("case", RAW_PICKLES)
    def test_bare(self, case: str, suffix: str, tmp_path: Path, trace: Path) -> None:
        path = tmp_path / f"model{suffix}"
        path.write_bytes(_raw_pickles(str(trace))[case])
        check_refused(path, UnsafeCheckpointError, r"unsafe: its pickle")

    @pytest.mark.parametrize("case", [case for case in RAW_PICKLES if case != "second pickle"])
    def test_as_the_content_of_a_legacy_file(self, case: str, tmp_path: Path, trace: Path) -> None:
        path = tmp_path / "model.pt"
        torch.save({}, path, _use_new_zipfile_serialization=False)
        stream = io.BytesIO(path.read_bytes())
        for _ in range(3):
            pickle.load(stream)
        path.write_bytes(stream.getvalue()[: stream.tell()] + _raw_pickles(str(trace))[case] + pickle.dumps([]))
        check_refused(path, UnsafeCheckpointError, r"unsafe: its pickle")

    @pytest.mark.parametrize("case", [case for case in RAW_PICKLES if case != "second pickle"])
    def test_as_the_content_of_a_zip_file(self, case: str, tmp_path: Path, trace: Path) -> None:
        path = tmp_path / "model.pt"
        rewrite(path, {"model/data.pkl": _raw_pickles(str(trace))[case]})
        check_refused(path, UnsafeCheckpointError, r"unsafe: its pickle")

    @pytest.mark.parametrize("is_zip", [True, False])
    def test_among_weights(self, is_zip: bool, tmp_path: Path, trace: Path) -> None:
        path = tmp_path / "model.pt"
        content = {"w": torch.ones(3, 3), "extra": Reduced(touch, str(trace))}
        torch.save(content, path, _use_new_zipfile_serialization=is_zip)
        check_refused(
            path, UnsafeCheckpointError, r"unsafe: its pickle asks for tests\.core\.test_bad_files\.touch, which"
        )

    def test_a_whole_module(self, tmp_path: Path) -> None:
        path = tmp_path / "model.pt"
        torch.save(torch.nn.Linear(3, 3), path)
        check_refused(
            path, UnsafeCheckpointError, r"unsafe: its pickle asks for torch\.nn\.modules\.linear\.Linear, which"
        )

    def test_as_a_shard(self, tmp_path: Path, trace: Path) -> None:
        torch.save({"w": Reduced(touch, str(trace))}, tmp_path / "one.bin")
        (tmp_path / "pytorch_model.bin.index.json").write_text('{"weight_map": {"w": "one.bin"}}')
        check_refused(tmp_path, UnsafeCheckpointError, r"one\.bin: unsafe: its pickle asks for")

    def test_in_a_tar_file(self, tmp_path: Path, trace: Path) -> None:
        path = tmp_path / "model.pt"
        data = _raw_pickles(str(trace))["reduce os.system"]
        with tarfile.open(path, "w") as archive:
            for name in ("storages", "tensors", "pickle", "sys_info"):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        check_refused(
            path, UnsupportedModelError, r"a tar archive, the format of torch before 0\.1\.10, is not read: save"
        )

    def test_analyze_does_not_run_them_either(self, tmp_path: Path, trace: Path) -> None:
        path = tmp_path / "model.pth"
        torch.save({"w": Reduced(touch, str(trace))}, path)
        with pytest.raises(UnsafeCheckpointError, match=r"model\.pth: unsafe: its pickle"):
            analyze(path)


def rewrite(path: Path, replaced: dict[str, bytes | None], *, compression: int = zipfile.ZIP_STORED) -> None:
    """Write a torch zip file with some records replaced, added, or (None) left out."""
    good = io.BytesIO()
    torch.save({"w": torch.ones(30, 30)}, good)
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(path, "w", compression) as new:
        records: dict[str, bytes | None] = {
            name.replace("archive/", "model/"): old.read(name) for name in old.namelist()
        }
        for name, data in (records | replaced).items():
            if data is not None:
                new.writestr(name, data)


def _torch_bytes(*, is_zip: bool) -> bytes:
    stream = io.BytesIO()
    torch.save({"w": torch.ones(30, 30)}, stream, _use_new_zipfile_serialization=is_zip)
    return stream.getvalue()


class TestDamagedTorchFiles:
    @pytest.mark.parametrize(
        ("data", "match"),
        [
            (b"", r"the file is empty"),
            (b"\x80", r"not a readable torch file"),
            (b"PK\x03\x04", r"not a readable torch file"),
            (np.random.default_rng(1).bytes(4000), r"not a readable torch file"),
            (bytes(4000), r"not a readable torch file"),
            (b"version https://git-lfs.github.com/spec/v1\n", r"not a readable torch file"),
            (pickle.dumps(3), r"not a readable torch file"),
            (pickle.dumps({"w": [1.0, 2.0]}, protocol=2), r"not a readable torch file"),
            (b"\x80\x02X\xff\xff\xff\x7fabc.", r"not a readable torch file"),
            (b"\x80\x02X\x01", r"not a readable torch file"),
            (b"\x80\x02}" + b"(" * 100_000 + b".", r"not a readable torch file"),
        ],
        ids=[
            "empty",
            "one byte",
            "magic alone",
            "random",
            "zeros",
            "lfs",
            "pickled 3",
            "pickled dict",
            "long",
            "half a length",
            "marks",
        ],
    )
    def test_content(self, data: bytes, match: str, tmp_path: Path) -> None:
        path = tmp_path / "model.pt"
        path.write_bytes(data)
        check_refused(path, CorruptCheckpointError, match)

    @pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
    @pytest.mark.parametrize("share", [0.01, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.98, 0.999])
    def test_truncated(self, share: float, is_zip: bool, tmp_path: Path) -> None:
        data = _torch_bytes(is_zip=is_zip)
        path = tmp_path / "model.pt"
        path.write_bytes(data[: int(len(data) * share)])
        if is_zip:
            check_refused(path, CorruptCheckpointError, r"not a readable torch file")
        else:
            check_refused(
                path, UnsupportedModelError, r"the format of torch before 1\.6 is not read: save it again with"
            )

    @pytest.mark.parametrize(
        "replaced",
        [
            {"model/data.pkl": None},
            {"model/data.pkl": b""},
            {"model/data.pkl": b"no pickle"},
            {"model/version": None},
            {"model/data/0": None},
            {"model/data/0": b"short"},
            {"elsewhere/data.pkl": b"."},
        ],
        ids=["no pickle", "empty pickle", "text", "no version", "no storage", "short storage", "two archives"],
    )
    def test_records(self, replaced: dict[str, bytes | None], tmp_path: Path) -> None:
        path = tmp_path / "model.pt"
        rewrite(path, replaced)
        try:
            source = open_model(path)
        except ModelError as error:
            check_refused(path, type(error), r"not a readable torch file|unsafe")
            assert type(error) in (CorruptCheckpointError, UnsafeCheckpointError)  # noqa: PT017 - torch forgives some
        else:
            # What torch forgives must at least be readable.
            assert source.load("w").shape == (30, 30)

    @pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_compressed_records(self, compression: int, tmp_path: Path) -> None:
        # Mapped as they stand they would be read as weights, and a small file could claim any amount of memory.
        path = tmp_path / "model.pt"
        rewrite(path, {"model/data/1": bytes(10_000_000)}, compression=compression)
        assert path.stat().st_size < 100_000
        check_refused(
            path, CorruptCheckpointError, r"not a readable torch file \(entry 'model/\S+' is compressed or encrypted\)"
        )

    def test_a_plain_zip(self, tmp_path: Path) -> None:
        path = tmp_path / "model.pt"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("README.md", "hello")
        check_refused(path, CorruptCheckpointError, r"not a readable torch file")

    @pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
    def test_any_damage(self, is_zip: bool, tmp_path: Path) -> None:
        data = _torch_bytes(is_zip=is_zip)
        rng = np.random.default_rng(7)
        path = tmp_path / "model.pt"
        n_refused = 0
        for _ in range(400):
            content = bytearray(data)
            for position in rng.integers(0, min(len(data), 900), size=int(rng.integers(1, 4))):
                content[position] = rng.integers(256)
            path.write_bytes(content)
            try:
                analyze(path, n_workers=1)
            except ModelError as error:
                n_refused += 1
                assert str(error).startswith(f"{path}: ")  # noqa: PT017 - a file that is still good is fine, too
        assert n_refused > 50

    def test_shapes_beyond_the_storage(self, tmp_path: Path) -> None:
        path = tmp_path / "model.pt"
        stream = io.BytesIO()
        torch.save({"w": torch.ones(30, 30)}, stream)
        with zipfile.ZipFile(stream) as archive:
            content = archive.read("archive/data.pkl")
        (position,) = [i for i in range(len(content)) if content[i : i + 4] == b"K\x1eK\x1e"][:1]
        forged = content[:position] + b"M" + struct.pack("<H", 60_000) + b"K\x1e" + content[position + 4 :]
        rewrite(path, {"model/data.pkl": forged})
        check_refused(path, CorruptCheckpointError, r"not a readable torch file")
