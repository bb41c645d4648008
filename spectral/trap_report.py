"""The traps of a whole analysis, each with the elements that carry it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from spectral.errors import OptionError
from spectral.execution import by_layer_name, run_all, single_threaded_blas
from spectral.forms import form_matrix
from spectral.spectrum import Spectrum
from spectral.trap_details import trap_table
from spectral.weights import load_matrix

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from spectral.analysis import Analysis
    from spectral.execution import Progress
    from spectral.loaders.protocol import TensorSource
    from spectral.options import AnalysisOptions
    from spectral.pipeline import MatrixTask
    from spectral.spectrum import SpectrumFailure
    from spectral.trap_details import Trap
    from spectral.weights import MatrixSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class _TrapTask:
    source: TensorSource = field(repr=False)
    spec: MatrixSpec
    options: AnalysisOptions
    slices: tuple[int, ...]
    """Numbers of the slices that were tested."""
    level: float


def describe_traps(
    analysis: Analysis,
    *,
    executor: Executor | None = None,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> dict[int, tuple[Trap, ...]]:
    """Describe the traps of every layer that has some at the false-alarm rate of the whole run.

    Parameters
    ----------
    analysis : Analysis
        Made with ``traps=True``; the weights of its layers with traps are read again.
    executor, n_workers, progress
        As for :func:`spectral.analyze`.

    Returns
    -------
    dict
        Position of the layer in ``analysis.layers`` -> its traps, as many as ``analysis.n_traps`` says. The number
        of a slice (``Trap.slice_id``) counts all slices of the layer.

    Raises
    ------
    OptionError
        The analysis was made without ``traps``.
    """
    description = analysis.description
    if not description.options.traps:
        raise OptionError("the analysis has no test for traps: analyze with traps=True")
    run = analysis.trap_p_values
    tasks = {
        position: _TrapTask(
            source=description.source,
            spec=layer.spec,
            options=description.options,
            slices=_tested_slices(layer.spectrum),
            level=run.level_of(position, layer.traps.p_value),
        )
        for position, layer in enumerate(analysis.layers)
        if layer.traps is not None and run.is_alarm(position)
    }
    found = run_all(
        _describe,
        list(tasks.values()),
        costs=[float(task.spec.N * task.spec.M * task.spec.n_slices) for task in tasks.values()],
        executor=executor,
        n_workers=n_workers,
        progress=by_layer_name(progress),
    )
    return dict(zip(tasks, found, strict=True))


def describe_layer_traps(task: MatrixTask, level: float) -> tuple[Trap, ...]:
    """Describe the traps of one layer.

    Parameters
    ----------
    task : MatrixTask
        The layer, and the options under which its traps were found.
    level : float
        Level of significance for the whole layer, in (0, 1).
    """
    matrix = form_matrix(load_matrix(task.source, task.spec), task.options.forms)
    slices = tuple(place for place, block in enumerate(matrix.slices) if np.any(block))
    return _describe(_TrapTask(source=task.source, spec=task.spec, options=task.options, slices=slices, level=level))


def _tested_slices(spectrum: Spectrum | SpectrumFailure) -> tuple[int, ...]:
    """Return the slices that the test looked at: those that are not all zero."""
    assert isinstance(spectrum, Spectrum), "a layer with a test has a spectrum"
    return tuple(place for place, evals in enumerate(spectrum.per_slice) if evals[-1] > 0.0)


def _describe(task: _TrapTask) -> tuple[Trap, ...]:
    with single_threaded_blas():
        # The matrix of the analysis: the permutation depends on the name, the seed and the places of its values.
        matrix = form_matrix(load_matrix(task.source, task.spec), task.options.forms)
        traps = trap_table(
            matrix.slices[list(task.slices)],
            name=task.spec.name,
            seed=task.options.seed,
            level=task.level,
            scale=task.spec.scale,
        )
    first = task.spec.slice_id or 0
    return tuple(trap.in_slice(first + task.slices[trap.slice_id]) for trap in traps)
