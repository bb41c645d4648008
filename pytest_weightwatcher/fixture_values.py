"""What a test of the user's own is about: its model, baseline and limits, by its marker and the options of the run.

Rule, stated once: marker > command line > ini > ww.yaml > default.
"""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_weightwatcher.accepted import AcceptedState
from pytest_weightwatcher.analysis_cache import AnalysisCache
from pytest_weightwatcher.baseline import read_baseline
from pytest_weightwatcher.baseline_source import BASELINE_SUFFIX
from pytest_weightwatcher.config import load_config
from pytest_weightwatcher.errors import BaselineError
from pytest_weightwatcher.marks import Mark, MarkError
from pytest_weightwatcher.overriding import config_in_force
from pytest_weightwatcher.planning import Wish, gate_options, plan_models
from spectral.loaders.locations import as_location, as_text, identity, is_remote

if TYPE_CHECKING:
    from pytest_weightwatcher.config import Config
    from pytest_weightwatcher.planning import CheckedModel
    from pytest_weightwatcher.session import GateSession
    from spectral.analysis import Analysis

NO_MODEL = (
    "the test asks for ww_model, but no model is given: add --ww-model PATH, a ww.yaml with models, or "
    "@pytest.mark.ww(model=PATH), or define a fixture ww_model of your own"
)
NO_BASELINE = (
    "the test asks for ww_baseline, but no baseline is given: add --ww-baseline PATH, a baseline to the model in "
    "ww.yaml, or @pytest.mark.ww(baseline=PATH)"
)


class FixtureValues:
    """Finds what the fixtures of a test are, and keeps it for the session.

    Parameters
    ----------
    gate : GateSession
        The session.
    """

    def __init__(self, gate: GateSession) -> None:
        self._gate = gate
        self._configs: dict[Path, Config] = {}
        self._in_force: dict[tuple[Path | None, str | None, int | None], Config] = {}
        self._accepted: dict[tuple[Mark, str], AcceptedState] = {}
        self.analyses = AnalysisCache()

    def config(self, mark: Mark) -> Config:
        """Return the limits in force for a test."""
        options = self._gate.options
        profile = mark.profile or options.profile
        seed = options.seed if mark.seed is None else mark.seed
        key = (mark.config, profile, seed)
        if key not in self._in_force:
            self._in_force[key] = config_in_force(self._base_config(mark), profile=profile, seed=seed)
        return self._in_force[key]

    def model(self, mark: Mark, position: int) -> Path:
        """Return the checkpoint of a test: that of its marker, or one of the run.

        Raises
        ------
        MarkError
            There is none.
        """
        if mark.model is not None:
            if not mark.model.exists():
                raise MarkError(f"marker ww: {mark.model}: no such model")
            return mark.model
        models = self._gate.models_of(self._gate.main_path)
        if not models:
            raise MarkError(NO_MODEL)
        return models[position].path

    def analysis(self, mark: Mark, model: object) -> Analysis:
        """Return the analysis of a model by the options in force; shared with the gate's own checks where it can be."""
        planned = self._planned(model)
        if planned is not None and mark.config is None and mark.seed is None:
            return self._gate.analysis(planned)
        return self.analyses.analyze(model, gate_options(self.config(mark)))

    def baseline(self, mark: Mark, model: object) -> AcceptedState | None:
        """Return what a model is compared with; None while the run records it.

        Raises
        ------
        MarkError
            There is none.
        """
        if mark.baseline is None and self._is_first_recording(model):
            return None
        # Every kind of model in memory has the same baseline: only the name of a file decides.
        key = (mark, os.fsdecode(model) if isinstance(model, (str, os.PathLike)) else "")
        if key not in self._accepted:
            self._accepted[key] = self._find_baseline(mark, model)
        return self._accepted[key]

    def _is_first_recording(self, model: object) -> bool:
        """Tell whether the run makes the baseline, so that there is none to compare with."""
        planned = self._planned(model)
        has_no_older = planned is not None and planned.recording is not None and planned.baseline is None
        return self._gate.options.update_baseline or has_no_older

    def _find_baseline(self, mark: Mark, model: object) -> AcceptedState:
        given = self._gate.options.baseline if mark.baseline is None else str(mark.baseline)
        config = self.config(mark)
        if isinstance(model, (str, os.PathLike)):
            path = as_location(as_text(os.fsdecode(model), Path.cwd()))
            source = self._plan(mark, path, given).baseline
            if source is None:
                raise MarkError(NO_BASELINE)
            return AcceptedState(path=source.path, recorded=source.recorded, config=config)
        if given is None:
            raise MarkError(NO_BASELINE)
        if "{stem}" in given:
            raise MarkError(f"{given}: {{stem}} is the name of a checkpoint, and ww_model is in memory")
        path = as_location(given)
        if path.suffix != BASELINE_SUFFIX and not path.exists():
            raise BaselineError(f"{path}: no such baseline")
        recorded = read_baseline(path) if path.suffix == BASELINE_SUFFIX else None
        return AcceptedState(path=path, recorded=recorded, config=config)

    def _plan(self, mark: Mark, model: Path, baseline: str | None) -> CheckedModel:
        """Open a model as the gate would, had the options said what the marker says."""
        planned = self._planned(model)
        if planned is not None and mark == Mark():
            return planned
        config_path = mark.config or self._gate.main_path
        pattern = os.fspath(model) if is_remote(model) else glob.escape(str(model))
        wish = Wish(patterns=(pattern,), folder=config_path.parent, baseline=baseline)
        (found,) = plan_models(self.config(mark), wish, config_path.parent)
        return found

    def _planned(self, model: object) -> CheckedModel | None:
        """Return a model that the run checks anyway."""
        if not isinstance(model, (str, os.PathLike)):
            return None
        place = identity(as_location(as_text(os.fsdecode(model), Path.cwd())))
        return next((known for known in self._gate.models if identity(known.path) == place), None)

    def _base_config(self, mark: Mark) -> Config:
        if mark.config is None:
            return self._gate.config_of(self._gate.main_path)
        # Not by the session: it would write the reports that this file asks for, too.
        if mark.config not in self._configs:
            self._configs[mark.config] = load_config(mark.config, self._gate.extensions)
        return self._configs[mark.config]
