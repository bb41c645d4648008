"""What an accepted checkpoint looked like: a small text file that people review in git.

One entry per matrix: shape, content hash, metrics, the tail its alpha was fitted on, and a sketch of its
spectrum. Numbers have six significant digits, so that a new recording of the same model changes nothing.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_weightwatcher.errors import BaselineError
from pytest_weightwatcher.files import write_atomically
from spectral.loaders.naming import natural_order, unique_keys
from spectral.paired import sketch_counts, sketch_spectrum
from spectral.power_law import PowerLawFit, alpha_at_tail
from spectral.spectrum import Spectrum

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from spectral.analysis import AnalysisOptions, LayerAnalysis

BASELINE_FORMAT = 1
MAX_BYTES = 200_000_000
"""Far above a baseline of 10,000 matrices; a guard against a file made to fill memory."""

_METRICS = ("norm", "log_norm", "spectral_norm", "stable_rank", "entropy", "matrix_rank", "rank_loss")
_DIGITS = 6
_LARGEST = 1e300
_LARGEST_COUNT = 2**62
_MIN_SHARE, _MAX_SHARE = 0.8, 1.001
"""Σ of the squared sketch over the norm: at most 1 but for rounding (Jensen), and hardly less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """The part of a spectrum on which the baseline's alpha was fitted.

    Attributes
    ----------
    n : int
        Number of eigenvalues in it.
    alpha : float
        Exponent over exactly these.
    """

    n: int
    alpha: float

    @property
    def sigma(self) -> float:
        """Standard error of alpha, (α-1)/√n."""
        return (self.alpha - 1.0) / float(np.sqrt(self.n))


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineEntry:
    """One matrix of an accepted checkpoint."""

    shape: tuple[int, ...]
    dtype: str
    content_hash: str
    n_evals: int
    metrics: Mapping[str, float]
    tail: Tail | None
    sketch: tuple[float, ...] = field(repr=False)

    def as_payload(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "shape": list(self.shape),
            "dtype": self.dtype,
            "hash": self.content_hash,
            "num_evals": self.n_evals,
            "metrics": dict(self.metrics),
            "tail": None if self.tail is None else {"n": self.tail.n, "alpha": self.tail.alpha},
            "singular_values": list(self.sketch),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """All entries of an accepted checkpoint, and the options they were made with."""

    label: str
    options: Mapping[str, Any]
    entries: Mapping[str, BaselineEntry] = field(repr=False)


def entry_of(layer: LayerAnalysis) -> BaselineEntry | None:
    """Return the baseline entry of a layer, or None where it has no spectrum to compare with."""
    if not isinstance(layer.spectrum, Spectrum):
        return None
    tail = None
    if isinstance(layer.fit, PowerLawFit):
        alpha = alpha_at_tail(layer.fitted_evals, layer.fit.n_tail)
        tail = None if alpha is None else Tail(n=layer.fit.n_tail, alpha=rounded(alpha))
    return BaselineEntry(
        shape=layer.spec.shape,
        dtype=layer.spec.dtype,
        content_hash=layer.content_hash,
        n_evals=layer.spec.n_evals,
        metrics={name: rounded(layer.metrics[name]) for name in _METRICS if name in layer.metrics},
        tail=tail,
        sketch=tuple(rounded(value) for value in sketch_spectrum(layer.spectrum.evals)),
    )


def options_payload(options: AnalysisOptions) -> dict[str, Any]:
    """Return the options that a baseline records."""
    return {"fit": options.fit, "min_evals": options.min_evals, "exclude": list(options.exclude)}


def read_baseline(path: Path) -> Baseline:
    """Read and check a baseline file.

    Raises
    ------
    BaselineError
        Not there, not readable, not a baseline, of a newer format, or damaged; the message names the entry.
    """
    try:
        if path.exists() and not path.is_file():
            raise BaselineError(f"{path}: not a regular file")
        with path.open("rb") as stream:
            text = stream.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise BaselineError(f"{path}: larger than {MAX_BYTES} bytes, which no baseline is")
        payload = json.loads(text.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=unique_keys)
    except FileNotFoundError as error:
        raise BaselineError(f"{path}: no such baseline; make it with --ww-update-baseline") from error
    except OSError as error:
        raise BaselineError(f"{path}: cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise BaselineError(f"{path}: nested too deeply") from error
    except ValueError as error:
        raise BaselineError(f"{path}: not a baseline, its JSON is damaged ({error})") from error
    if not isinstance(payload, dict) or "format" not in payload or "matrices" not in payload:
        raise BaselineError(f"{path}: not a baseline: no format and matrices in it")
    if type(payload["format"]) is not int or payload["format"] != BASELINE_FORMAT:
        raise BaselineError(
            f"{path}: baseline format {str(payload['format'])[:40]!r}, this version reads {BASELINE_FORMAT}; "
            "record it anew with --ww-update-baseline, or update pytest-weightwatcher"
        )
    matrices, options = payload["matrices"], payload.get("options", {})
    if not isinstance(matrices, dict) or not isinstance(options, dict):
        raise BaselineError(f"{path}: not a baseline: matrices and options must be objects")
    return Baseline(
        label=str(path),
        options=options,
        entries={name: read_entry(path, name, entry) for name, entry in matrices.items()},
    )


def write_baseline(path: Path, baseline: Baseline, tool: Mapping[str, str]) -> None:
    """Write a baseline atomically, a matrix per two lines, in natural order of names.

    Raises
    ------
    BaselineError
        The target cannot be written; an older file there is as it was.
    """
    header = {"format": BASELINE_FORMAT, "tool": dict(tool), "options": dict(baseline.options)}
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}," for key, value in header.items()]
    matrices = []
    for name in sorted(baseline.entries, key=natural_order):
        entry = baseline.entries[name].as_payload()
        values = json.dumps(entry.pop("singular_values"))
        facts = json.dumps(entry)[1:-1]
        matrices.append(f'    {json.dumps(name)}: {{{facts},\n      "singular_values": {values}}}')
    text = "\n".join(["{", *lines, '  "matrices": {', ",\n".join(matrices), "  }", "}", ""])
    try:
        write_atomically(path, text)
    except OSError as error:
        raise BaselineError(f"{path}: the baseline cannot be written: {error.strerror}") from error


def rounded(value: float) -> float:
    """Return a number as a baseline holds it, to six significant digits."""
    return float(f"{value:.{_DIGITS}g}")


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def read_entry(path: Path, name: str, entry: Any) -> BaselineEntry:
    """Check one entry and return it as a record; ``path`` and ``name`` are for the message.

    Raises
    ------
    BaselineError
        The entry is incomplete, or a value in it is impossible.
    """

    def refuse(problem: str) -> BaselineError:
        return BaselineError(f"{path}: matrix {name[:200]!r}: {problem}")

    try:
        shape, sketch, tail = entry["shape"], entry["singular_values"], entry["tail"]
        n_evals, metrics = entry["num_evals"], entry["metrics"]
        strings = (entry["dtype"], entry["hash"])
    except (TypeError, KeyError) as error:
        raise refuse(f"incomplete entry ({error})") from error
    if not isinstance(shape, list) or not all(type(size) is int and size > 0 for size in shape):
        raise refuse("the shape must be a list of positive integers")
    if not all(isinstance(text, str) for text in strings):
        raise refuse("dtype and hash must be text")
    if type(n_evals) is not int or not 1 <= n_evals <= math.prod(shape) or math.prod(shape) > _LARGEST_COUNT:
        raise refuse("num_evals must be a positive integer that fits the shape")
    if not _is_text((name, *strings)):
        raise refuse("names must be text that can be written as UTF-8")
    if not isinstance(sketch, list) or not all(_is_number(value) and value >= 0 for value in sketch):
        raise refuse("singular_values must be a list of non-negative numbers")
    if len(sketch) != len(sketch_counts(n_evals)):
        raise refuse(f"{len(sketch)} singular_values, expected {len(sketch_counts(n_evals))} for {n_evals} eigenvalues")
    if not isinstance(metrics, dict) or not all(_is_number(value) for value in metrics.values()):
        raise refuse("metrics must be names and numbers")
    if not metrics.get("norm", 0) > 0:
        raise refuse("metrics must give a norm above zero")
    energy = float(np.sum(sketch_counts(n_evals) * np.square(sketch)))
    if list(sketch) != sorted(sketch, reverse=True) or not _MIN_SHARE * metrics["norm"] <= energy <= (
        _MAX_SHARE * metrics["norm"]
    ):
        # Means of blocks keep nearly all of Σσ²; anything else was edited, and would make displacements look small.
        raise refuse("the singular_values do not descend, or contradict the norm")
    return BaselineEntry(
        shape=tuple(shape),
        dtype=strings[0],
        content_hash=strings[1],
        n_evals=n_evals,
        metrics=metrics,
        tail=None if tail is None else _read_tail(tail, n_evals, refuse),
        sketch=tuple(float(value) for value in sketch),
    )


def _read_tail(tail: Any, n_evals: int, refuse: Any) -> Tail:
    if not isinstance(tail, dict) or type(tail.get("n")) is not int or not 2 <= tail["n"] <= n_evals:
        raise refuse(f"the tail must have between 2 and {n_evals} eigenvalues")
    if not _is_number(tail.get("alpha")) or not tail["alpha"] > 1:
        raise refuse("the tail must have an alpha above 1")
    return Tail(n=tail["n"], alpha=float(tail["alpha"]))


def _is_text(values: Iterable[str]) -> bool:
    """Tell whether strings hold no half of a surrogate pair, which JSON can write and no file can."""
    return not any("\ud800" <= character <= "\udfff" for value in values for character in value)


def _is_number(value: Any) -> bool:
    # json reads 1e999 as infinity and takes integers of any length; neither is a number of ours.
    return type(value) in (int, float) and abs(value) < _LARGEST
