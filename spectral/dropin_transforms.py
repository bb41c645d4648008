# ruff: noqa: PLR0917, ARG002  (the signatures are those that scripts call)
"""Methods of the drop-in class that change the weights of a model."""

from __future__ import annotations

import logging
from typing import Any

from spectral import dropin_names as ww
from spectral.dropin_model import HeldModel
from spectral.dropin_options import is_pooled
from spectral.dropin_plan import counted_target
from spectral.errors import OptionError
from spectral.transforms import transform_matrices

_LOGGER = logging.getLogger("spectral.weightwatcher")


class TransformMethods(HeldModel):
    """Change the model in place."""

    def SVDSmoothing(
        self,
        model: object = None,
        percent: float = 0.8,
        pool: bool = True,
        layers: Any = (),
        method: str = ww.DETX,
        fit: str = ww.PL,
        plot: bool = False,
        start_ids: int = 0,
        svd_method: str = ww.FAST_SVD,
    ) -> Any:
        """Keep the leading singular directions of every layer, **in the model itself**, and return the model.

        As there: who wants the model as it was copies it first, or calls :func:`spectral.smooth_model`.

        Raises
        ------
        OptionError
            ``pool=False``, an unknown method, or a law other than the power law.
        """
        from spectral.smoothing import SmoothLayer, keep_rule

        if fit not in (ww.PL, ww.POWER_LAW):
            raise OptionError(f"SVDSmoothing finds the tail with a power law, got fit={fit!r}")
        given = {"model": model, "layers": layers, "pool": pool, "start_ids": start_ids, "svd_method": svd_method}
        return self._transform(given, SmoothLayer(rule=keep_rule(method, percent=percent)), "SVDSmoothing")

    def SVDSharpness(
        self, model: object = None, pool: bool = True, layers: Any = (), plot: bool = False, start_ids: int = 0
    ) -> Any:
        """Take the correlation traps out of every layer, **in the model itself**, and return the model.

        As there: who wants the model as it was copies it first, or calls :func:`spectral.sharpen_model`.

        Raises
        ------
        OptionError
            ``pool=False``.
        """
        from spectral.sharpness import SeededPermutation, SharpenLayer, marchenko_pastur_edge

        transform = SharpenLayer(edge=marchenko_pastur_edge, permute=SeededPermutation(seed=self.seed))
        given = {"model": model, "layers": layers, "pool": pool, "start_ids": start_ids}
        return self._transform(given, transform, "SVDSharpness")

    def _transform(self, given: dict[str, Any], transform: Any, what: str) -> Any:
        if not is_pooled(given):
            raise OptionError(f"{what} takes the slices of a kernel together: it needs pool=True")
        counted, description = self._describe(given, alone=True)
        chosen = {(spec.tensor, spec.name) for spec in description.matrices}
        target = counted_target(self.model, counted)
        specs = [spec for spec in counted.plan.matrices if (spec.tensor, spec.name) in chosen]
        for change in transform_matrices(target, specs, transform):
            # A tied weight has changed with the other.
            if change.reason is not None and not change.reason.startswith("tied"):
                _LOGGER.warning("%s: layer %d, %s, stays: %s", what, change.spec.index, change.spec.name, change.reason)
        return self.model
