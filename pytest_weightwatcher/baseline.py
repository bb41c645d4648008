"""What an accepted checkpoint looked like: a small text file that people review in git.

One entry per matrix: shape, content hash, metrics, the tail its alpha was fitted on, a sketch of its spectrum, random
projections of its weights, and its traps; and, learned from several accepted checkpoints, how far these lie apart.
Numbers are rounded, so that a new recording of the same model changes nothing. Every entry and the file as a whole
carry a seal: a file edited by hand, cut short or merged is refused, and a baseline is only ever made by recording.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_weightwatcher.checks import TENSORS
from pytest_weightwatcher.errors import BaselineError
from pytest_weightwatcher.files import FileChangedError, FileInUseError, replace_unchanged
from pytest_weightwatcher.records import TRAP_LEVEL, LayerRecord, Tail, TrapRecord, complete_metrics, stored_metrics
from pytest_weightwatcher.tensors import TensorRecord, read_tensor, tensor_payload
from spectral.fits import FitFailureReason
from spectral.loaders.naming import natural_order, unique_keys
from spectral.paired import sketch_counts
from spectral.projections import N_PROJECTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from spectral.analysis import AnalysisOptions

BASELINE_FORMAT = 2
MAX_BYTES = 200_000_000
"""Far above a baseline of 10,000 matrices; a guard against a file made to fill memory."""

SEAL = "seal"
_SEAL_LENGTH = 16
_SEPARATORS = (",", ":")
_LARGEST = 1e300
_LARGEST_COUNT = 2**62
_MIN_SHARE, _MAX_SHARE = 0.8, 1.001
"""Σ of the squared sketch over the norm: at most 1 but for rounding (Jensen), and hardly less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineEntry:
    """One matrix of the accepted state.

    Attributes
    ----------
    record : LayerRecord
        Of the recorded checkpoint.
    spread : mapping of str to float
        Quantity -> root mean square of how far the other accepted checkpoints lie from the recorded one; empty where
        only one was recorded.
    moved : mapping of str to float
        Distance from the baseline -> share of its allowance by which the ratchet has let it move, all updates since the
        entry was first recorded together; of alpha with its sign.
    origin : mapping of str to float
        Metric -> its value when the entry was first recorded, where the ratchet has let it move; and the largest
        eigenvalue of the permuted matrix then, as a share of all, under the name of the traps.
    """

    record: LayerRecord
    spread: Mapping[str, float] = field(default_factory=dict)
    moved: Mapping[str, float] = field(default_factory=dict)
    origin: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """An accepted state.

    Attributes
    ----------
    label : str
        Where it comes from, for messages.
    version : str
        Version of this tool that recorded it.
    options, environment : mapping
        What it was recorded with.
    checkpoints : tuple of str
        Names of the accepted checkpoints, the recorded one first.
    entries : mapping of str to BaselineEntry
        Layer name -> entry.
    tensors : mapping of str to TensorRecord, or None
        Tensor name -> what is known of one without a spectrum; None where these were not recorded.
    digest : str or None
        SHA-256 of the file as it was read; None where it was not read from one.
    """

    label: str
    version: str
    options: Mapping[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)
    checkpoints: tuple[str, ...] = ()
    entries: Mapping[str, BaselineEntry] = field(repr=False)
    tensors: Mapping[str, TensorRecord] | None = field(default=None, repr=False)
    digest: str | None = field(default=None, repr=False)


def options_payload(options: AnalysisOptions, plugin_metrics: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the options that a baseline records: those on which its numbers depend.

    Parameters
    ----------
    options : AnalysisOptions
        Of the gate.
    plugin_metrics : mapping of str to str, optional
        Metrics of plugins -> their versions.
    """
    extras = {name: True for name in EXTRA_ANALYSES if getattr(options, name)}
    return {
        "fit": options.fit,
        "min_evals": options.min_evals,
        "seed": options.seed,
        **extras,
        **({PLUGIN_METRICS: dict(plugin_metrics)} if plugin_metrics else {}),
        "exclude": list(options.exclude),
    }


PLUGIN_METRICS = "plugin_metrics"
"""Key of the recorded options: the metrics of plugins, with their versions."""


EXTRA_ANALYSES = ("mp_fit", "randomize", "detX", "vectors", "farms")
"""Options of ``analysis:`` in ww.yaml that add metrics."""


def environment_payload() -> dict[str, str]:
    """Return the versions on which the last digits of numbers depend."""
    import platform

    import scipy

    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "machine": platform.machine(),
    }


def entry_payload(entry: BaselineEntry) -> dict[str, Any]:
    """Return an entry as plain data for JSON, without its seal."""
    record = entry.record
    payload: dict[str, Any] = {
        "shape": list(record.shape),
        "dtype": record.dtype,
        "hash": record.content_hash,
        "num_evals": record.n_evals,
        "metrics": stored_metrics(record.metrics),
    }
    if record.fit_failure is not None:
        payload["no_fit"] = [str(record.fit_failure[0]), record.fit_failure[1]]
    if record.reasons:
        payload["reasons"] = dict(record.reasons)
    if record.tail is not None:
        payload["tail"] = [record.tail.n, record.tail.alpha]
    if record.traps is not None:
        traps = record.traps
        payload["traps"] = [traps.p_value, traps.limit, list(traps.levels), list(traps.eigenvalues)]
    if record.noise_p_value is not None:
        payload["noise"] = record.noise_p_value
    if entry.spread:
        payload["spread"] = dict(entry.spread)
    if entry.moved:
        payload["moved"] = dict(entry.moved)
    if entry.origin:
        payload["origin"] = dict(entry.origin)
    payload["projections"] = list(record.projections)
    payload["singular_values"] = list(record.sketch)
    return payload


def read_baseline(path: Path) -> Baseline:
    """Read and check a baseline file.

    Raises
    ------
    BaselineError
        Not there, not readable, not a baseline, of another format, edited, or damaged; the message names the entry.
    """
    try:
        if path.exists() and not path.is_file():
            raise BaselineError(f"{path}: not a regular file")
        with path.open("rb") as stream:
            text = stream.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise BaselineError(f"{path}: larger than {MAX_BYTES} bytes, which no baseline is")
        payload = json.loads(text.decode("utf-8-sig"), parse_constant=_refuse_constant, object_pairs_hook=unique_keys)
    except FileNotFoundError as error:
        raise BaselineError(f"{path}: no such baseline; make it with --ww-update-baseline") from error
    except OSError as error:
        raise BaselineError(f"{path}: cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise BaselineError(f"{path}: nested too deeply") from error
    except ValueError as error:
        raise BaselineError(f"{path}: not a baseline, its JSON is damaged ({error})") from error
    _check_header(path, payload)
    entries = {name: read_entry(path, name, entry) for name, entry in payload["matrices"].items()}
    if payload.get(SEAL) != _seal_of_file(payload):
        raise BaselineError(
            f"{path}: edited or merged since it was recorded (its seal does not fit); record it anew with "
            "--ww-update-baseline"
        )
    return Baseline(
        label=str(path),
        version=str(payload["tool"].get("version")),
        options=payload["options"],
        environment=payload["environment"],
        checkpoints=tuple(payload["checkpoints"]),
        entries=entries,
        tensors=_read_tensors(path, payload.get(TENSORS)),
        digest=hashlib.sha256(text).hexdigest(),
    )


def write_baseline(path: Path, baseline: Baseline, tool: Mapping[str, str]) -> bool:
    """Write a baseline atomically, a matrix per few lines, in natural order of names.

    Parameters
    ----------
    path : Path
        The target.
    baseline : Baseline
        Its ``digest`` says what the file must be now: None for no file.
    tool : mapping
        Name and version of this tool.

    Returns
    -------
    bool
        False where the file had this very content.

    Raises
    ------
    BaselineError
        The target cannot be written, or another run has changed it since it was read, or is writing it; the older file
        there is as it was.
    """
    payload: dict[str, Any] = {
        "format": BASELINE_FORMAT,
        "tool": dict(tool),
        "environment": dict(baseline.environment),
        "options": dict(baseline.options),
        "checkpoints": list(baseline.checkpoints),
        "matrices": {
            name: sealed(entry_payload(baseline.entries[name])) for name in sorted(baseline.entries, key=natural_order)
        },
    }
    if baseline.tensors is not None:
        payload[TENSORS] = {
            name: tensor_payload(baseline.tensors[name]) for name in sorted(baseline.tensors, key=natural_order)
        }
    payload[SEAL] = _seal_of_file(payload)
    try:
        return replace_unchanged(path, _as_text(payload), expected=baseline.digest)
    except FileInUseError as error:
        raise BaselineError(f"{path}: another run is recording this baseline (it holds {error.lock})") from error
    except FileChangedError as error:
        raise BaselineError(
            f"{path}: not recorded: another run has changed this baseline meanwhile; run again to record over it"
        ) from error
    except OSError as error:
        raise BaselineError(f"{path}: the baseline cannot be written: {error.strerror}") from error


def sealed(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry with its seal as last key."""
    return {**payload, SEAL: _seal(payload)}


def read_entry(path: Path, name: str, entry: Any) -> BaselineEntry:
    """Read one sealed entry.

    Raises
    ------
    BaselineError
        The entry is incomplete, was edited, or a value in it is impossible.
    """

    def refuse(problem: str) -> BaselineError:
        return BaselineError(f"{path}: matrix {name[:200]!r}: {problem}")

    if not isinstance(entry, dict):
        raise refuse("incomplete entry (not an object)")
    content = {key: value for key, value in entry.items() if key != SEAL}
    found = _read_content(name, content, refuse)
    if entry.get(SEAL) != _seal(content):
        raise refuse("edited since it was recorded (its seal does not fit); record it anew with --ww-update-baseline")
    return found


def reuse(entry: BaselineEntry, name: str, rows: int, columns: int) -> LayerRecord:
    """Return the record of a layer whose content is that of an entry."""
    return replace(entry.record, name=name, rows=rows, columns=columns)


def _check_header(path: Path, payload: Any) -> None:
    if not isinstance(payload, dict) or "format" not in payload or "matrices" not in payload:
        raise BaselineError(f"{path}: not a baseline: no format and matrices in it")
    if type(payload["format"]) is not int or payload["format"] != BASELINE_FORMAT:
        raise BaselineError(
            f"{path}: baseline format {str(payload['format'])[:40]!r}, this version reads {BASELINE_FORMAT}; "
            "record it anew with --ww-update-baseline, or update pytest-weightwatcher"
        )
    for key in ("matrices", "tool", "options", "environment"):
        if not isinstance(payload.get(key), dict):
            raise BaselineError(f"{path}: not a baseline: {key} must be an object")
    if not _are_texts(list(payload["environment"].values())):
        raise BaselineError(f"{path}: not a baseline: environment must be names and versions")
    checkpoints = payload.get("checkpoints")
    if not isinstance(checkpoints, list) or not all(isinstance(name, str) for name in checkpoints):
        raise BaselineError(f"{path}: not a baseline: checkpoints must be a list of names")


def _read_content(name: str, entry: dict[str, Any], refuse: Callable[[str], BaselineError]) -> BaselineEntry:
    try:
        shape, sketch, projections = entry["shape"], entry["singular_values"], entry["projections"]
        n_evals, metrics = entry["num_evals"], entry["metrics"]
        strings = (entry["dtype"], entry["hash"])
    except KeyError as error:
        raise refuse(f"incomplete entry ({error})") from error
    if not isinstance(shape, list) or not all(type(size) is int and size > 0 for size in shape):
        raise refuse("the shape must be a list of positive integers")
    if not all(isinstance(text, str) for text in strings):
        raise refuse("dtype and hash must be text")
    if type(n_evals) is not int or not 1 <= n_evals <= math.prod(shape) or math.prod(shape) > _LARGEST_COUNT:
        raise refuse("num_evals must be a positive integer that fits the shape")
    if not _is_text((name, *strings)):
        raise refuse("names must be text that can be written as UTF-8")
    if not _are_numbers(sketch) or not all(value >= 0 for value in sketch):
        raise refuse("singular_values must be a list of non-negative numbers")
    if len(sketch) != len(sketch_counts(n_evals)):
        raise refuse(f"{len(sketch)} singular_values, expected {len(sketch_counts(n_evals))} for {n_evals} eigenvalues")
    if not _are_numbers(projections) or len(projections) != N_PROJECTIONS:
        raise refuse(f"projections must be {N_PROJECTIONS} numbers")
    if not isinstance(metrics, dict) or not all(_is_number(value) for value in metrics.values()):
        raise refuse("metrics must be names and numbers")
    if not metrics.get("norm", 0) > 0 or not metrics.get("spectral_norm", 0) > 0:
        raise refuse("metrics must give a norm and a spectral_norm above zero")
    energy = float(np.sum(sketch_counts(n_evals) * np.square(sketch)))
    if list(sketch) != sorted(sketch, reverse=True) or not _MIN_SHARE * metrics["norm"] <= energy <= (
        _MAX_SHARE * metrics["norm"]
    ):
        # Means of blocks keep nearly all of Σσ²; anything else was edited, and would make displacements look small.
        raise refuse("the singular_values do not descend, or contradict the norm")
    record = LayerRecord(
        name=name,
        shape=tuple(shape),
        dtype=strings[0],
        content_hash=strings[1],
        n_evals=n_evals,
        rows=0,
        columns=0,
        metrics=complete_metrics(metrics, n_evals),
        fit_failure=_read_failure(entry.get("no_fit"), refuse),
        reasons=_read_texts(entry.get("reasons", {}), refuse),
        tail=_read_tail(entry.get("tail"), n_evals, refuse),
        sketch=tuple(float(value) for value in sketch),
        projections=tuple(float(value) for value in projections),
        traps=_read_traps(entry.get("traps"), refuse),
        noise_p_value=_read_p_value(entry.get("noise"), refuse),
    )
    return BaselineEntry(
        record=record,
        spread=MappingProxyType(_read_spread(entry.get("spread", {}), refuse)),
        moved=MappingProxyType(_read_numbers("moved", entry, refuse)),
        origin=MappingProxyType(_read_numbers("origin", entry, refuse)),
    )


def _read_tail(tail: Any, n_evals: int, refuse: Callable[[str], BaselineError]) -> Tail | None:
    if tail is None:
        return None
    if not isinstance(tail, list) or len(tail) != 2 or type(tail[0]) is not int or not 2 <= tail[0] <= n_evals:
        raise refuse(f"the tail must have between 2 and {n_evals} eigenvalues")
    if not _is_number(tail[1]) or not tail[1] > 1:
        raise refuse("the tail must have an alpha above 1")
    return Tail(n=tail[0], alpha=float(tail[1]))


def _read_failure(failure: Any, refuse: Callable[[str], BaselineError]) -> tuple[FitFailureReason, str] | None:
    if failure is None:
        return None
    known = [str(reason) for reason in FitFailureReason]
    if not _are_texts(failure) or len(failure) != 2 or failure[0] not in known:
        raise refuse("no_fit must be a known reason and a sentence")
    return FitFailureReason(failure[0]), failure[1]


def _read_texts(texts: Any, refuse: Callable[[str], BaselineError]) -> dict[str, str]:
    if not isinstance(texts, dict) or not _are_texts(list(texts.values())):
        raise refuse("reasons must be names and sentences")
    return texts


def _read_traps(traps: Any, refuse: Callable[[str], BaselineError]) -> TrapRecord | None:
    if traps is None:
        return None
    if not isinstance(traps, list) or len(traps) != 4 or not all(map(_are_numbers, (traps[:2], *traps[2:]))):
        raise refuse("traps must be a p-value, a limit, a list of levels and a list of eigenvalues")
    p_value, limit, levels, eigenvalues = traps
    if not eigenvalues or eigenvalues != sorted(eigenvalues, reverse=True) or not eigenvalues[-1] >= 0:
        raise refuse("the eigenvalues of traps must descend and not be negative")
    if not 0 <= p_value <= 1 or levels != sorted(levels) or not all(0 <= level <= TRAP_LEVEL for level in levels):
        raise refuse("p-values and levels of traps must lie in their ranges")
    return TrapRecord(
        p_value=float(p_value),
        levels=tuple(map(float, levels)),
        eigenvalues=tuple(map(float, eigenvalues)),
        limit=float(limit),
    )


def _read_p_value(value: Any, refuse: Callable[[str], BaselineError]) -> float | None:
    if value is None:
        return None
    if not _is_number(value) or not 0 <= value <= 1:
        raise refuse("noise must be a p-value")
    return float(value)


def _read_spread(spread: Any, refuse: Callable[[str], BaselineError]) -> dict[str, float]:
    if not isinstance(spread, dict) or not _are_numbers(list(spread.values())):
        raise refuse("spread must be names and numbers")
    if not all(value >= 0 for value in spread.values()):
        raise refuse("a spread must not be negative")
    return {name: float(value) for name, value in spread.items()}


def _read_numbers(key: str, entry: dict[str, Any], refuse: Callable[[str], BaselineError]) -> dict[str, float]:
    numbers = entry.get(key, {})
    if not isinstance(numbers, dict) or not _are_numbers(list(numbers.values())):
        raise refuse(f"{key} must be names and numbers")
    return {name: float(value) for name, value in numbers.items()}


def _read_tensors(path: Path, payload: Any) -> Mapping[str, TensorRecord] | None:
    def refuse(problem: str) -> BaselineError:
        return BaselineError(f"{path}: {problem}")

    if payload is None:
        return None
    if not isinstance(payload, dict) or not _is_text(payload):
        raise refuse(f"{TENSORS} must be names and records")
    return {name: read_tensor(name, record, refuse) for name, record in payload.items()}


def _as_text(payload: Mapping[str, Any]) -> str:
    """Return the file: a line for each fact of the whole and each tensor, three for each matrix."""
    facts_of_file = {key: value for key, value in payload.items() if key not in ("matrices", TENSORS)}
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}," for key, value in facts_of_file.items()]
    tensors = [f"    {json.dumps(name)}: {_compact(record)}" for name, record in payload.get(TENSORS, {}).items()]
    if TENSORS in payload:
        lines += [f"  {json.dumps(TENSORS)}: {{", ",\n".join(tensors), "  },"]
    matrices = []
    for name, entry in payload["matrices"].items():
        facts = dict(entry)
        rows = [f"{json.dumps(key)}:{_compact(facts.pop(key))}" for key in ("projections", "singular_values")]
        inside = ",\n      ".join([_compact(facts)[1:-1], *rows])
        matrices.append(f"    {json.dumps(name)}: {{{inside}}}")
    return "\n".join(["{", *lines, '  "matrices": {', ",\n".join(matrices), "  }", "}", ""])


def _compact(value: Any) -> str:
    return json.dumps(value, separators=_SEPARATORS, allow_nan=False)


def _seal(payload: Mapping[str, Any]) -> str:
    """Return the seal of plain data: it finds mistakes, and keeps nobody out who wants to record another model."""
    text = json.dumps(payload, separators=_SEPARATORS, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_SEAL_LENGTH]


def _seal_of_file(payload: Mapping[str, Any]) -> str:
    header = {key: value for key, value in payload.items() if key not in (SEAL, "matrices")}
    return _seal({**header, "matrices": {name: entry[SEAL] for name, entry in payload["matrices"].items()}})


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _is_text(values: Iterable[str]) -> bool:
    """Tell whether strings hold no half of a surrogate pair, which JSON can write and no file can."""
    return not any("\ud800" <= character <= "\udfff" for value in values for character in value)


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values) and _is_text(values)


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(_is_number(value) for value in values)


def _is_number(value: Any) -> bool:
    # json reads 1e999 as infinity and takes integers of any length; neither is a number of ours.
    return type(value) in (int, float) and abs(value) < _LARGEST
