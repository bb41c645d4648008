"""Pictures as files, under names that no layer has a say in."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from spectral.errors import OptionError
from spectral.plots.kinds import LAYER_KINDS, available_kinds, check_kind, draw, find_layer, missing_option
from spectral.plots.style import render_png

if TYPE_CHECKING:
    from collections.abc import Iterable

    from spectral.analysis import Analysis
    from spectral.layer_analysis import LayerAnalysis
    from spectral.weights import MatrixSpec

_PREFIX = re.compile(r"(?!\.)[A-Za-z0-9._-]{0,64}")


def save_plots(
    analysis: Analysis,
    folder: str | os.PathLike[str],
    *,
    kinds: Iterable[str] | None = None,
    layers: Iterable[int | str | LayerAnalysis] | None = None,
    prefix: str = "",
) -> tuple[Path, ...]:
    """Draw pictures of an analysis into PNG files of a folder.

    A file is ``{prefix}layer{layer_id}.{kind}.png`` (``layer{layer_id}.slice{slice_id}.`` for slices of their own) or
    ``{prefix}model.{kind}.png``. The names of layers are in the pictures, not in the names of files.

    Parameters
    ----------
    analysis : Analysis
        What to draw.
    folder : path
        Created where it is missing. Old pictures of the same name are replaced, all at once or not at all.
    kinds : iterable of str, optional
        Default every kind that the options of the analysis have everything for; that of the eigenvectors, which reads
        the weights again, only with ``vectors=True``.
    layers : iterable of int, str or LayerAnalysis, optional
        Default all.
    prefix : str
        Of every file name: letters, digits, ``.``, ``_`` and ``-``, no dot first.

    Returns
    -------
    tuple of Path
        The files, in the order of the layers; those of the model last.

    Raises
    ------
    OptionError
        A kind is unknown, is a comparison of models, or needs an option that the analysis lacks; a layer is
        unknown; the prefix is none. Nothing has been written then.
    MissingDependencyError
        matplotlib is not installed.
    OSError
        The folder cannot be written to.
    """
    chosen = _checked_kinds(analysis, kinds)
    if not _PREFIX.fullmatch(prefix):
        raise OptionError(f"prefix must be of letters, digits, '.', '_' and '-', no dot first, got {prefix!r}")
    given = analysis.layers if layers is None else tuple(layers)
    drawn = [find_layer(analysis, layer, "esd") for layer in given]
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for layer in drawn:
        for kind in chosen:
            if kind in LAYER_KINDS:
                path = target / f"{prefix}{_stem(layer.spec)}.{kind}.png"
                _write_atomically(path, render_png(draw(analysis, kind, layer)))
                written.append(path)
    for kind in chosen:
        if kind not in LAYER_KINDS:
            path = target / f"{prefix}model.{kind}.png"
            _write_atomically(path, render_png(draw(analysis, kind)))
            written.append(path)
    return tuple(written)


def _checked_kinds(analysis: Analysis, kinds: Iterable[str] | None) -> tuple[str, ...]:
    options = analysis.description.options
    if kinds is None:
        return available_kinds(options)
    if isinstance(kinds, str):
        raise OptionError(f"kinds must be a sequence of kinds, got the string {kinds!r}")
    chosen = tuple(dict.fromkeys(kinds))
    for kind in chosen:
        check_kind(kind)
        missing = missing_option(kind, options)
        if missing is not None:
            raise OptionError(f"kind {kind!r} needs an analysis with {missing}")
        if kind == "models":
            raise OptionError(
                "kind 'models' compares two analyses: draw it with plot_models() and save it with savefig()"
            )
    return chosen


def _stem(spec: MatrixSpec) -> str:
    return f"layer{spec.index}" + ("" if spec.slice_id is None else f".slice{spec.slice_id}")


def _write_atomically(path: Path, content: bytes) -> None:
    """Write through a temporary file beside the target; a link in its place is replaced, not followed."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        temporary.chmod(0o666 & ~_mask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _mask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
