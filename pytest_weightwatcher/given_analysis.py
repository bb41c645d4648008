"""A model that is judged, and what an analysis made before is good for: its layers, or as an accepted state."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_weightwatcher.baseline import Baseline, BaselineEntry, environment_payload, options_payload
from pytest_weightwatcher.nodeids import printable
from pytest_weightwatcher.records import record_of
from spectral import __version__
from spectral.analysis import analyze, describe
from spectral.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spectral.analysis import Analysis, AnalysisOptions, Description, LayerAnalysis

_SELECTING = ("layers", "exclude", "max_evals", "max_N", "false_alarm_rate")
"""Options that change nothing in the analysis of one layer."""

_EXTRAS = ("mp_fit", "randomize", "detX", "vectors", "noise_test", "traps", "projections", "farms")
"""Options that add to it."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model to judge.

    Attributes
    ----------
    name : str
        What to call it in messages.
    path : Path or None
        Where it is; None for one in memory.
    model : object
        What the caller gave.
    description : Description
        Its matrices, with the options that the checks need.
    given : Analysis or None
        The analysis that the caller gave.
    layers : mapping of str to LayerAnalysis
        Those of its layers that need not be analysed again.
    """

    name: str
    path: Path | None
    model: object
    description: Description
    given: Analysis | None = None
    layers: Mapping[str, LayerAnalysis]


def record_analysis(analysis: Analysis, wanted: AnalysisOptions, *, only_spectra: bool) -> Baseline:
    """Return an analysis as a recording in memory: a state that stays, whatever becomes of the model.

    Raises
    ------
    OptionError
        It lacks what is compared, and the model it was made of has changed since.
    """
    subject = subject_of_analysis(analysis, wanted, only_spectra=only_spectra)
    layers = analysis.layers
    if len(subject.layers) < len(subject.description.matrices):
        layers = analyze(subject.description).layers
        for layer in layers:
            check_unchanged(analysis, layer.name, layer.content_hash)
    options = subject.description.options
    return Baseline(
        label=printable(analysis.description.source.label),
        version=__version__,
        options=options_payload(options),
        environment=environment_payload(),
        entries={layer.name: BaselineEntry(record=record_of(layer)) for layer in layers},
    )


def subject_of_analysis(
    analysis: Analysis,
    wanted: AnalysisOptions,
    *,
    layers: tuple[int | str, ...] = (),
    seed: int | None = None,
    only_spectra: bool,
) -> Subject:
    """Open the model of an analysis with its own options, and those that the checks need besides."""
    given = analysis.description.options
    if layers and given.layers:
        raise OptionError("layers: the analysis has a selection of its own; give one of the two")
    is_needless = {"projections"} if only_spectra else set()
    changes = {name: True for name in _EXTRAS if getattr(wanted, name) and name not in is_needless}
    options = given.changed(
        {
            **changes,
            "layers": layers or given.layers,
            "exclude": tuple(dict.fromkeys((*given.exclude, *wanted.exclude))),
            "min_evals": given.min_evals if only_spectra else wanted.min_evals,
            "false_alarm_rate": wanted.false_alarm_rate,
            "seed": given.seed if seed is None else seed,
        }
    )
    description = _described_again(analysis.description, options)
    names = {spec.name for spec in description.matrices}
    return Subject(
        name=_label(analysis),
        path=_path_of(analysis),
        model=analysis,
        description=description,
        given=analysis,
        layers={
            layer.name: layer
            for layer in analysis.layers
            if layer.name in names and _is_enough(layer, given=given, needed=options)
        },
    )


def _described_again(description: Description, options: AnalysisOptions) -> Description:
    if options == description.options:
        return description
    if options.stacked or options.intra:
        # The source is a view of the model already, in which the layers cannot be selected once more.
        if (options.layers, options.exclude) != (description.options.layers, description.options.exclude):
            raise OptionError("a stacked or intra-layer analysis has its layers already: select them there")
        return replace(description, options=options)
    return describe(description.source, options)


def _is_enough(layer: LayerAnalysis, *, given: AnalysisOptions, needed: AnalysisOptions) -> bool:
    """Tell whether the analysis of a layer is what other options would have given, and more."""
    ignored = {name: getattr(needed, name) for name in (*_SELECTING, "min_evals")}
    extras = {name: getattr(given, name) for name in _EXTRAS}
    lacks_nothing = all(getattr(given, name) or not getattr(needed, name) for name in _EXTRAS)
    n_evals = len(layer.fitted_evals)
    is_fitted_alike = (n_evals < given.min_evals) == (n_evals < needed.min_evals)
    return lacks_nothing and is_fitted_alike and replace(given, **ignored) == replace(needed, **extras)


def check_unchanged(analysis: Analysis, name: str, content_hash: str) -> None:
    """Refuse to mix two states of a model: the one that was analysed, and what has become of it."""
    known = {layer.name: layer.content_hash for layer in analysis.layers}
    if known.get(name, content_hash) != content_hash:
        raise OptionError(
            f"{printable(_label(analysis))} has changed since it was analysed (layer {printable(name)}), and the "
            "analysis lacks what is needed here; pass the model itself, or analyse it with traps=True, noise_test=True "
            "and projections=True"
        )


def _label(analysis: Analysis) -> str:
    label = analysis.description.source.label
    # A path has a folder or a suffix, and the class of a model neither.
    return Path(label).name if Path(label).name != label or Path(label).suffix else f"the {label}"


def _path_of(analysis: Analysis) -> Path | None:
    path = Path(analysis.description.source.label)
    return path if path.exists() else None
