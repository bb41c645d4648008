"""The drop-in class: the methods, options, columns and numbers of ``weightwatcher.WeightWatcher`` 0.7.7.

    import spectral as ww
    watcher = ww.WeightWatcher(model=model)
    details = watcher.analyze()

A shell around the core: it counts and names layers as weightwatcher does (:mod:`spectral.dropin_layers`), translates
options (:mod:`spectral.dropin_options`) and lays out frames (:mod:`spectral.dropin_frames`). What differs is in
docs/parity.md; the way to the plain functions in docs/migrating.md.

The methods are in modules by what they are for: :mod:`spectral.dropin_analysis`, :mod:`spectral.dropin_matrices`,
:mod:`spectral.dropin_fits`, :mod:`spectral.dropin_comparison` and :mod:`spectral.dropin_transforms`. The model that
they share is in :mod:`spectral.dropin_model`.
"""

from __future__ import annotations

import sys

import numpy as np

import spectral
from spectral.dropin_analysis import AnalysisMethods
from spectral.dropin_comparison import ComparisonMethods
from spectral.dropin_fits import FitMethods
from spectral.dropin_matrices import MatrixMethods
from spectral.dropin_transforms import TransformMethods


class WeightWatcher(AnalysisMethods, MatrixMethods, FitMethods, ComparisonMethods, TransformMethods):
    """Analyse the weights of a model; see the module.

    Parameters
    ----------
    model : anything :func:`spectral.analyze` takes, optional
        It may be given to each method as well.
    framework : str, optional
        One of ``ww.FRAMEWORK``; it is told from the model, as there.
    base_model : like model, optional
        Analyse the differences to it.
    log_level : int, optional
        Of the logger ``spectral.weightwatcher``.
    extra_layers : bool
        Not there: rows for everything that the core analyses (LSTM, attention projections, Conv1d and Conv3d, ..) with
        fused weights split, tied ones once. By default the rows are those of weightwatcher, so that means stay.
    seed : int
        Not there: of everything random.
    lora_scaling : float, optional
        Not there: factor on the products of an adapter. None takes alpha / r from its configuration.

    Attributes
    ----------
    details : DataFrame or None
        What the last :meth:`analyze` returned.
    analysis : Analysis or None
        The same as records, with reasons, spectra and fits.

    Raises
    ------
    OptionError
        An unknown framework.
    """

    def __repr__(self) -> str:
        return f"{self.header()}\nAnalysis done: {self.details is not None}"

    def header(self) -> str:
        """Return the name and the version of this package."""
        return f"spectral {spectral.__version__}"

    def banner(self) -> str:
        """Return the versions in use."""
        return f"\n{self.header()}\npython      version {sys.version}\nnumpy       version {np.__version__}"
