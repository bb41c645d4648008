# ruff: noqa: PLR0917, ARG002  (the signatures are those that scripts call)
"""The drop-in class: the methods, options, columns and numbers of ``weightwatcher.WeightWatcher`` 0.7.7.

    import spectral as ww
    watcher = ww.WeightWatcher(model=model)
    details = watcher.analyze()

A shell around the core: it counts and names layers as weightwatcher does (:mod:`spectral.dropin_layers`), translates
options (:mod:`spectral.dropin_options`) and lays out frames (:mod:`spectral.dropin_frames`). What differs is in
docs/parity.md; the way to the plain functions in docs/migrating.md.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

import spectral
from spectral import dropin_names as ww
from spectral.analysis import analyze as analyze_description
from spectral.dropin_distances import averages_and_rows
from spectral.dropin_frames import description_frame, details_frame, distance_frame, summary_of
from spectral.dropin_layers import framework_of, keras_layer
from spectral.dropin_options import (
    adapter_mode,
    analysis_options,
    check_start_ids,
    is_pooled,
    limits,
    save_folder,
)
from spectral.dropin_plan import CountedModel, counted_description, counted_target, open_counted
from spectral.errors import ModelError, OptionError
from spectral.fits import FitFailure
from spectral.forms import compute_formed_spectrum, form_matrix
from spectral.metrics import training_warning
from spectral.model_distances import cka_similarity
from spectral.model_distances import distances as compare_models
from spectral.randomization import twin_evals
from spectral.spectrum import SpectrumFailure
from spectral.tail_fit import fit_tail
from spectral.transforms import transform_matrices
from spectral.weights import load_matrix

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from numpy.typing import NDArray

    from spectral.analysis import Analysis, Description
    from spectral.weights import MatrixSpec, UnanalysedTensor

_LOGGER = logging.getLogger("spectral.weightwatcher")

_FRAMEWORKS = tuple(value for name, value in vars(ww.FRAMEWORK).items() if name.isupper())


class WeightWatcher:
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
        self.model = _without_wrapper(model)
        self.base_model = _without_wrapper(base_model)
        self.framework = framework if model is None else self.infer_framework(model)
        self.extra_layers = extra_layers
        self.seed = seed
        self.lora_scaling = lora_scaling
        self.details: pd.DataFrame | None = None
        self.analysis: Analysis | None = None

    def __repr__(self) -> str:
        return f"{self.header()}\nAnalysis done: {self.details is not None}"

    def header(self) -> str:
        """Return the name and the version of this package."""
        return f"spectral {spectral.__version__}"

    def banner(self) -> str:
        """Return the versions in use."""
        return f"\n{self.header()}\npython      version {sys.version}\nnumpy       version {np.__version__}"

    @staticmethod
    def infer_framework(model: object) -> str:
        """Return which of ``ww.FRAMEWORK`` a model is of."""
        return framework_of(model)

    @staticmethod
    def valid_framework(framework: object) -> bool:
        """Tell whether this is one of ``ww.FRAMEWORK`` that models are of."""
        return framework in _FRAMEWORKS and framework != ww.FRAMEWORK.UNKNOWN

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

    def get_details(self) -> pd.DataFrame | None:
        """Return what the last :meth:`analyze` returned."""
        return self.details

    def get_summary(self, details: pd.DataFrame | None = None) -> dict[str, float]:
        """Return the means of log_norm, alpha, alpha_weighted, .. over the layers that have them."""
        return summary_of(self.details if details is None else details)

    def get_ESD(
        self,
        model: object = None,
        layer: int | str | None = None,
        random: bool = False,
        params: Mapping[str, Any] | None = None,
    ) -> NDArray[np.float64]:
        """Return the eigenvalues of one layer, ascending, or those of its randomised twins, pooled.

        As there, without the factor √(1/2) that :meth:`analyze` puts on 2-D convolutions.

        Parameters
        ----------
        layer : int or str
            Its id or name.
        params : mapping, optional
            ``conv2d_fft`` and ``inverse`` count.

        Raises
        ------
        OptionError
            There is no such layer; there it is an empty list.
        ModelError
            The layer has no spectrum.
        """
        asked = {name: bool((params or {}).get(name)) for name in ("conv2d_fft", "inverse")}
        description, spec = self._one_layer(model, layer, {"conv2d_norm": False, **asked})
        forms = description.options.forms
        matrix = form_matrix(load_matrix(description.source, spec), forms)
        spectrum = compute_formed_spectrum(matrix, forms)
        if isinstance(spectrum, SpectrumFailure):
            raise ModelError(f"{spec.name}: {spectrum.detail}")
        if not random:
            return spectrum.evals
        twins = twin_evals(matrix, forms, seed=self.seed)
        if isinstance(twins, SpectrumFailure):
            raise ModelError(f"{spec.name}: {twins.detail}")
        return np.sort(np.concatenate(twins))

    def get_Weights(
        self, model: object = None, layer: int | str | None = None, params: Mapping[str, Any] | None = None
    ) -> list[NDArray[Any]]:
        """Return the matrices of one layer: the weight as it is stored, or the slices of a kernel.

        The slices are turned to be tall, or wide for kernels stored as Keras does.

        Raises
        ------
        OptionError
            There is no such layer; there it is an empty list.
        """
        description, spec = self._one_layer(model, layer, {})
        slices = load_matrix(description.source, spec).slices
        if slices.dtype not in (np.float32, np.float64):
            slices = slices.astype(np.float32)
        is_tall = spec.rows >= spec.columns
        turn = (
            bool(spec.part.slice_axes) and (is_tall if spec.kernel_first else not is_tall) and spec.rows != spec.columns
        )
        return [block.T if turn else block for block in slices]

    def get_framework_layer(
        self, model: object = None, layer: int | str | None = None, params: Mapping[str, Any] | None = None
    ) -> Any:
        """Return the module of one layer, or its name in a state dict.

        Raises
        ------
        OptionError
            There is no such layer.
        """
        spec = self._one_layer(model, layer, {})[1]
        held: Any = self.model
        framework = self.infer_framework(held)
        if framework == ww.FRAMEWORK.KERAS:
            return keras_layer(held, spec.index)
        path = spec.tensor.rpartition(".")[0]
        return held.get_submodule(path) if framework == ww.FRAMEWORK.PYTORCH else path

    def distances(
        self,
        model_1: object,
        model_2: object,
        method: str | None = ww.RAW,
        layers: Any = (),
        start_ids: int = 0,
        pool: bool = True,
        channels: str | None = None,
    ) -> tuple[float, float, pd.DataFrame]:
        """Compare the weights of two models layer by layer.

        Parameters
        ----------
        method : {"raw", "euclidean", "cka"}
            See :func:`spectral.distances`.

        Returns
        -------
        tuple of (float, float, DataFrame)
            Mean of ``delta_W``, mean of ``delta_b``, and a row per layer of the first model. ``delta_b`` is 0 with
            ``b_shape`` "unknown" where a layer has no bias (parity), and NaN where the biases cannot be compared.

        Raises
        ------
        ModelMismatchError
            The models are of different architectures.
        OptionError
            An unknown method or layer.
        """
        word = ww.RAW if method is None else str(method).lower()
        if word not in (ww.RAW, ww.EUCLIDEAN, ww.CKA):
            raise OptionError(f"method must be one of raw, euclidean, cka, got {method!r}")
        given = {"start_ids": start_ids, "pool": pool, "channels": channels}
        # Raw distances are of whole tensors.
        whole = {**given, "pool": pool or word == ww.RAW}
        pair = [
            self._describe({**options, "model": model, "layers": chosen}, alone=True)
            for options in (whole, given)
            for model, chosen in ((model_2, ()), (model_1, layers))
        ]
        found = compare_models(pair[1][1], pair[0][1], method=word)  # type: ignore[arg-type]  # checked above
        (counted, first), second = pair[3], pair[2][1]
        mean_w, mean_b, rows = averages_and_rows(found, first, second, counted.table, keep_all=self.extra_layers)
        return mean_w, mean_b, distance_frame(rows)

    def same_models(self, model_1: object, model_2: object) -> bool:
        """Tell whether two models have the same weights by name and shape (there: are of the same framework)."""
        return _shapes(model_1) == _shapes(model_2)

    def matrix_distance(self, W1: NDArray[Any], W2: NDArray[Any], method: str = ww.EUCLIDEAN) -> float:
        """Return ‖W₁-W₂‖ (raw, euclidean), or the similarity cka.

        Raises
        ------
        OptionError
            Different shapes, or an unknown method; there the result is -1.
        """
        if np.shape(W1) != np.shape(W2):
            raise OptionError(f"the matrices must be of one shape, got {np.shape(W1)} and {np.shape(W2)}")
        if method in (ww.RAW, ww.EUCLIDEAN):
            return float(np.linalg.norm(np.asarray(W1, dtype=np.float64) - np.asarray(W2, dtype=np.float64)))
        if method != ww.CKA:
            raise OptionError(f"method must be one of raw, euclidean, cka, got {method!r}")
        return cka_similarity(np.asarray(W1), np.asarray(W2))

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
        tail = fit_tail(values, replace(options.tail, min_evals=2))
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

    def _set_model(self, model: object) -> None:
        """Keep the model that a method was given, as there; a base model counts for its call only."""
        if model is not None:
            self.model = _without_wrapper(model)
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
        base_model = self.base_model if base_model is None else _without_wrapper(base_model)
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

    def _report_left_out(self) -> None:
        if self.unanalysed:
            _LOGGER.info("%d tensors have no row: see watcher.unanalysed", len(self.unanalysed))


def _without_wrapper(model: Any) -> Any:
    """Return the state dict inside a training checkpoint."""
    is_wrapped = isinstance(model, dict) and isinstance(model.get("state_dict"), dict)
    return model["state_dict"] if is_wrapped else model


def _shapes(model: object) -> dict[str, tuple[int, ...]]:
    from spectral.loaders.opening import open_model

    return {info.name: info.shape for info in open_model(_without_wrapper(model)).tensors()}
