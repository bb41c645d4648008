# ruff: noqa: PLR0917  (the signatures are those that scripts call)
"""Methods of the drop-in class that analyse and describe a model."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from spectral import dropin_names as ww
from spectral.analysis import analyze as analyze_description
from spectral.dropin_frames import description_frame, details_frame, summary_of
from spectral.dropin_model import HeldModel
from spectral.dropin_options import save_folder

if TYPE_CHECKING:
    import pandas as pd

    from spectral.weights import UnanalysedTensor

_LOGGER = logging.getLogger("spectral.weightwatcher")


class AnalysisMethods(HeldModel):
    """Analyse and describe the model; the last analysis stays."""

    @property
    def unanalysed(self) -> tuple[UnanalysedTensor, ...]:
        """What the last :meth:`analyze` has no row for, with reasons."""
        return () if self.analysis is None else self.analysis.unanalysed

    def analyze(
        self,
        model: object = None,
        layers: Any = (),
        min_evals: int = ww.DEFAULT_MIN_EVALS,
        max_evals: int | None = ww.DEFAULT_MAX_EVALS,
        min_size: int | None = None,
        max_size: int | None = None,
        max_N: int | None = ww.DEFAULT_MAX_N,
        glorot_fix: bool = False,
        plot: bool = False,
        randomize: bool = False,
        savefig: str | bool = ww.DEF_SAVE_DIR,
        mp_fit: bool = False,
        conv2d_norm: bool = True,
        ww2x: bool = ww.DEFAULT_WW2X,
        pool: bool = ww.DEFAULT_POOL,
        conv2d_fft: bool = False,
        fft: bool = False,
        deltas: bool = False,
        intra: bool = False,
        vectors: bool = False,
        channels: str | None = None,
        stacked: bool = False,
        fix_fingers: str | bool | None = False,
        xmin_max: float | None = None,
        max_fingers: int | None = ww.DEFAULT_MAX_FINGERS,
        finger_thresh: float = ww.DEFAULT_FINGER_THRESH,
        fit: str = ww.PL,
        sparsify: bool = True,
        detX: bool = False,
        ERG: bool = False,
        svd_method: str = ww.FAST_SVD,
        tolerance: float | None = ww.WEAK_RANK_LOSS_TOLERANCE,
        start_ids: int = ww.DEFAULT_START_ID,
        pl_package: str = ww.WW_POWERLAW_PACKAGE,
        xmax: int | str | bool | None = ww.DEFAULT_XMAX,
        base_model: object = None,
        peft: bool | str = ww.DEFAULT_PEFT,
        inverse: bool = False,
    ) -> pd.DataFrame:
        """Analyse every layer.

        The options are those of weightwatcher; their meanings are at :class:`spectral.AnalysisOptions` and in
        docs/migrating.md. ``svd_method`` and ``pl_package`` are checked and change nothing: there is one way to a
        spectrum here, and one fit per law. ``plot`` writes figures to the folder ``savefig``.

        Returns
        -------
        DataFrame
            One row per layer, with its columns. A number that does not exist is NaN.

        Raises
        ------
        OptionError
            An impossible value, options that contradict each other, or a filter that names no layer.
        ModelError
            The model cannot be read, or does not fit the base model.
        """
        given = {name: value for name, value in locals().items() if name != "self"}
        folder = save_folder(savefig)
        counted, description = self._describe(given)
        self.analysis = analyze_description(description)
        self.details = details_frame(self.analysis, counted.table)
        self._report_left_out()
        if plot and folder is not None:
            from spectral.dropin_figures import save_figures

            save_figures(self.analysis, folder, deltas=deltas)
        return self.details

    def describe(
        self,
        model: object = None,
        layers: Any = (),
        min_evals: int = ww.DEFAULT_MIN_EVALS,
        max_evals: int | None = ww.DEFAULT_MAX_EVALS,
        min_size: int | None = None,
        max_size: int | None = None,
        max_N: int | None = ww.DEFAULT_MAX_N,
        glorot_fix: bool = False,
        savefig: str | bool = ww.DEF_SAVE_DIR,
        ww2x: bool = False,
        pool: bool = True,
        conv2d_fft: bool = False,
        fft: bool = False,
        conv2d_norm: bool = True,
        intra: bool = False,
        channels: str | None = None,
        stacked: bool = False,
        start_ids: int = 0,
        base_model: object = None,
        peft: bool | str = ww.DEFAULT_PEFT,
    ) -> pd.DataFrame:
        """List what :meth:`analyze` would analyse, reading no values; options and errors are the same.

        Returns
        -------
        DataFrame
            One row per layer: layer_id, name, longname, layer_type, N, M, rf, Q, num_evals.
        """
        given = {name: value for name, value in locals().items() if name != "self"}
        save_folder(savefig)
        counted, description = self._describe(given)
        return description_frame(description, counted.table)

    def analyze_vectors(
        self,
        model: object = None,
        layers: Any = (),
        min_evals: int = ww.DEFAULT_MIN_EVALS,
        max_evals: int | None = ww.DEFAULT_MAX_EVALS,
        plot: bool = False,
        savefig: str | bool = ww.DEF_SAVE_DIR,
        channels: str | None = None,
    ) -> pd.DataFrame:
        """Measure the eigenvectors of every layer: :meth:`analyze` with ``vectors=True``. There it cannot run."""
        return self.analyze(
            model=model,
            layers=layers,
            min_evals=min_evals,
            max_evals=max_evals,
            plot=plot,
            savefig=savefig,
            channels=channels,
            vectors=True,
        )

    def get_details(self) -> pd.DataFrame | None:
        """Return what the last :meth:`analyze` returned."""
        return self.details

    def get_summary(self, details: pd.DataFrame | None = None) -> dict[str, float]:
        """Return the means of log_norm, alpha, alpha_weighted, .. over the layers that have them."""
        return summary_of(self.details if details is None else details)

    def _report_left_out(self) -> None:
        if self.unanalysed:
            _LOGGER.info("%d tensors have no row: see watcher.unanalysed", len(self.unanalysed))
