"""Figures of the drop-in class: those of :mod:`spectral.plots`, under the file names of ``weightwatcher`` 0.7.7."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from spectral.plots.kinds import available_kinds, draw
from spectral.plots.style import render_png

if TYPE_CHECKING:
    from spectral.analysis import Analysis
    from spectral.weights import MatrixSpec

FILE_NAMES = {
    "esd": "esd",
    "esd_lin_lin": "esd2",
    "esd_log_lin": "esd3",
    "xmin_profile": "esd4",
    "marchenko_pastur": "mpfit2",
    "random_marchenko_pastur": "rand_mpfit2",
    "random_esd_lin_lin": "randesd1",
    "random_esd": "randesd2",
    "delta_es": "deltaEs",
    "random_delta_es": "rand_deltaEs",
    "vector_metrics": "vector_metrics",
    "det_x": "detX",
}
"""Kind of picture -> what its file is called. There both Marchenko-Pastur fits, and both sequences of gaps, write to
one file, so that the second replaces the first; and esd5, alpha against xmin, is in the same picture as esd4 here."""

_DELTAS = ("delta_es", "random_delta_es")


def save_figures(analysis: Analysis, folder: str, *, deltas: bool) -> tuple[Path, ...]:
    """Draw every layer into ``ww.layer{layer_id}.{name}.png`` (``{layer_id}:{slice_id}`` for slices of their own).

    Parameters
    ----------
    analysis : Analysis
        What to draw.
    folder : str
        Created where it is missing.
    deltas : bool
        Draw the gaps between eigenvalues, too.

    Raises
    ------
    MissingDependencyError
        matplotlib is not installed.
    """
    kinds = [
        kind
        for kind in available_kinds(analysis.description.options)
        if kind in FILE_NAMES and (deltas or kind not in _DELTAS)
    ]
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for layer in analysis.layers:
        for kind in kinds:
            path = target / f"ww.layer{_plot_id(layer.spec)}.{FILE_NAMES[kind]}.png"
            path.write_bytes(render_png(draw(analysis, kind, layer)))
            written.append(path)
    return tuple(written)


def _plot_id(spec: MatrixSpec) -> str:
    return f"{spec.index}" if spec.slice_id is None or spec.rf == 1 else f"{spec.index}:{spec.slice_id}"
