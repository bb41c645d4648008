"""The model that the drop-in class holds between calls, and what of it a call is about."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from spectral import dropin_names as ww
from spectral.dropin_layers import framework_of
from spectral.dropin_options import adapter_mode, analysis_options, check_start_ids, limits
from spectral.dropin_plan import CountedModel, counted_description, open_counted
from spectral.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from spectral.analysis import Analysis, Description
    from spectral.weights import MatrixSpec

_LOGGER = logging.getLogger("spectral.weightwatcher")

_FRAMEWORKS = tuple(value for name, value in vars(ww.FRAMEWORK).items() if name.isupper())


class HeldModel:
    """A model, perhaps a base model, and how they are read; the parameters are at :class:`spectral.WeightWatcher`."""

    def __init__(
        self,
        model: object = None,
        framework: str | None = None,
        base_model: object = None,
        log_level: int | str | None = None,
        *,
        extra_layers: bool = False,
        seed: int = 0,
        lora_scaling: float | None = 1.0,
    ) -> None:
        if framework is not None and framework not in _FRAMEWORKS:
            raise OptionError(f"framework must be one of {', '.join(_FRAMEWORKS)}, got {framework!r}")
        if log_level:
            _LOGGER.setLevel(log_level)
        if model is None and base_model is not None:
            raise OptionError("base_model needs a model to compare with")
        self.model = without_wrapper(model)
        self.base_model = without_wrapper(base_model)
        self.framework = framework if model is None else self.infer_framework(model)
        self.extra_layers = extra_layers
        self.seed = seed
        self.lora_scaling = lora_scaling
        self.details: pd.DataFrame | None = None
        self.analysis: Analysis | None = None

    @staticmethod
    def infer_framework(model: object) -> str:
        """Return which of ``ww.FRAMEWORK`` a model is of."""
        return framework_of(model)

    @staticmethod
    def valid_framework(framework: object) -> bool:
        """Tell whether this is one of ``ww.FRAMEWORK`` that models are of."""
        return framework in _FRAMEWORKS and framework != ww.FRAMEWORK.UNKNOWN

    def _set_model(self, model: object) -> None:
        """Keep the model that a method was given, as there; a base model counts for its call only."""
        if model is not None:
            self.model = without_wrapper(model)
            self.framework = self.infer_framework(model)
        if self.model is None:
            raise OptionError("no model: give it to WeightWatcher(model=...) or to the method")

    def _describe(self, given: dict[str, Any], *, alone: bool = False) -> tuple[CountedModel, Description]:
        """Return the model and what of it is to be analysed; ``alone``: whatever the base model is."""
        options = analysis_options(given, seed=self.seed)
        mode = adapter_mode(given.get("peft"))
        start_ids = check_start_ids(given.get("start_ids", 0))
        self._set_model(given.get("model"))
        base_model = given.get("base_model")
        base_model = self.base_model if base_model is None else without_wrapper(base_model)
        counted = open_counted(
            self.model,
            base_model=None if alone else base_model,
            peft=mode,
            lora_scaling=self.lora_scaling,
            start_ids=start_ids,
            extra_layers=self.extra_layers,
        )
        return counted, counted_description(
            counted, options, layers=given.get("layers", ()), min_evals=limits(given)[0]
        )

    def _one_layer(
        self, model: object, layer: int | str | None, options: Mapping[str, Any]
    ) -> tuple[Description, MatrixSpec]:
        if layer is None:
            raise OptionError("layer must be the id or the name of a layer, got None")
        description = self._describe({**options, "model": model, "layers": [layer]}, alone=True)[1]
        if not description.matrices:
            raise OptionError(f"layer: {layer!r} has no row in describe()")
        return description, description.matrices[0]


def without_wrapper(model: Any) -> Any:
    """Return the state dict inside a training checkpoint."""
    is_wrapped = isinstance(model, dict) and isinstance(model.get("state_dict"), dict)
    return model["state_dict"] if is_wrapped else model
