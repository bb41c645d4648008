# ruff: noqa: PLR0917, ARG002  (the signatures are those that scripts call)
"""Methods of the drop-in class that measure numbers of the caller: a spectrum, vectors."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spectral import dropin_names as ww
from spectral.dropin_options import analysis_options
from spectral.errors import OptionError
from spectral.fits import FitFailure
from spectral.metrics import training_warning
from spectral.power_law import EVALS_THRESHOLD
from spectral.tail_fit import fit_tail

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

_LOGGER = logging.getLogger("spectral.weightwatcher")


class FitMethods:
    """Fit and measure what is handed in; no model is needed."""

    def fit_powerlaw(
        self,
        evals: Any,
        xmin: None = None,
        xmax: int | str | bool | None = None,
        plot: bool = False,
        layer_name: str = "",
        layer_id: int = 0,
        plot_id: int | str = 0,
        sample: bool = False,
        sample_size: int | None = None,
        savedir: str = ww.DEF_SAVE_DIR,
        savefig: str | bool = True,
        thresh: float = EVALS_THRESHOLD,
        fix_fingers: str | bool | None = False,
        finger_thresh: float = ww.DEFAULT_FINGER_THRESH,
        xmin_max: float | None = None,
        max_fingers: int | None = ww.DEFAULT_MAX_FINGERS,
        fit_type: str = ww.POWER_LAW,
        pl_package: str = ww.WW_POWERLAW_PACKAGE,
    ) -> tuple[float, float, float, float, float, float, float, float, float, str, str]:
        """Fit the tail of a spectrum; it draws nothing, whatever ``plot`` says.

        Returns
        -------
        tuple
            alpha, Lambda, xmin, xmax, D, sigma, num_pl_spikes, num_fingers, raw_alpha, status, warning. A number that
            does not exist is NaN; ``num_fingers`` is 0 where none were looked for.

        Raises
        ------
        OptionError
            A value that is no option, or eigenvalues that are not finite.
        """
        if not thresh >= EVALS_THRESHOLD:
            raise OptionError(
                f"eigenvalues up to {EVALS_THRESHOLD:g} are never fitted: thresh must be at least that, got {thresh!r}"
            )
        if xmin is not None or sample:
            raise OptionError("xmin is found, and all eigenvalues are used: leave xmin=None and sample=False")
        options = analysis_options(
            {
                "xmax": xmax,
                "fix_fingers": fix_fingers,
                "finger_thresh": finger_thresh,
                "xmin_max": xmin_max,
                "max_fingers": max_fingers,
                "fit": fit_type,
                "pl_package": pl_package,
            }
        )
        values = np.sort(np.asarray(evals, dtype=np.float64).reshape(-1))
        if not np.all(np.isfinite(values)):
            raise OptionError("the eigenvalues must be finite")
        tail = fit_tail(values[values > thresh], replace(options.tail, min_evals=2))
        if isinstance(tail, FitFailure):
            _LOGGER.warning("%s: %s", layer_name or "fit_powerlaw", tail.detail)
            nan = float("nan")
            return nan, nan, nan, nan, nan, nan, nan, 0, nan, ww.FAILED, ""
        fit = tail.fit
        return (
            fit.alpha,
            getattr(fit, "Lambda", float("nan")),
            fit.xmin,
            fit.xmax,
            fit.D,
            fit.sigma,
            tail.num_pl_spikes,
            tail.n_fingers or 0,
            float("nan") if tail.raw_alpha is None else tail.raw_alpha,
            ww.SUCCESS,
            training_warning(fit.alpha),
        )

    def vector_metrics(self, vectors: Any = None, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Measure vectors: one, the rows of a matrix, or a list; see :func:`spectral.eigenvectors.vector_metrics`.

        Returns
        -------
        DataFrame
            ``discete_entropy`` repeats ``discrete_entropy``: the number is in the misspelt column there.

        Raises
        ------
        OptionError
            No vectors; there the result is -1.
        """
        from spectral.eigenvectors import vector_metrics

        if vectors is None:
            raise OptionError("vectors must be a vector, a matrix of vectors or a list of vectors, got None")
        found = vector_metrics(vectors)
        return found.assign(discete_entropy=found["discrete_entropy"])
