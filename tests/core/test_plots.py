"""The pictures: what is drawn is what was computed, nothing is shown or written unasked, and no name breaks them."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import StepPatch
from scipy.integrate import quad

from spectral.analysis import Analysis, analyze
from spectral.eigenvectors import EigenvectorStatistics, eigenvector_statistics
from spectral.errors import MissingDependencyError, OptionError
from spectral.execution import single_threaded_blas
from spectral.fits import FitFailure, FitFailureReason
from spectral.marchenko_pastur_law import marchenko_pastur_cdf
from spectral.plots import (
    LAYER_KINDS,
    MODEL_KINDS,
    available_kinds,
    plot_alpha_by_depth,
    plot_delta_es,
    plot_det_x,
    plot_esd,
    plot_marchenko_pastur,
    plot_models,
    plot_random_esd,
    plot_vector_metrics,
    plot_xmin_profile,
    render_png,
    save_plots,
)
from spectral.plots.esd import SCALES, tail_density
from spectral.plots.histograms import count_bins, histogram, linear_edges, log_edges, shown_on_log_scale
from spectral.plots.labels import MAX_NAME, printable, shortened
from spectral.plots.models import pair_metric
from spectral.power_law import PowerLawFit
from spectral.spectrum import Spectrum
from spectral.truncated_power_law import TruncatedPowerLawFit
from tests.core.builders import heavy_tailed, with_singular_values

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from spectral.layer_analysis import LayerAnalysis

HOSTILE = "a$\\alpha_{x}$^_%#&\\frac{1}\n\r\t\0../../etc/passwd\u202e中\U0001f600$"


def trapped() -> NDArray[np.float64]:
    values = heavy_tailed(90, 60, degrees=8.0)
    values[5, 7] = 60.0
    return values


MODEL: dict[str, NDArray[np.float64]] = {
    "heavy.weight": heavy_tailed(160, 120),
    "square.weight": heavy_tailed(80, 80, seed=1, degrees=5.0),
    "trap.weight": trapped(),
    "few.weight": heavy_tailed(9, 5),
    "nan.weight": np.full((30, 20), np.nan),
    "equal.weight": np.eye(40),
    "low_rank.weight": with_singular_values(np.geomspace(1.0, 30.0, 20), 70, 50),
}


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analyze(MODEL, mp_fit=True, randomize=True, detX=True, n_workers=1)


@pytest.fixture(scope="module")
def plain() -> Analysis:
    return analyze(MODEL, n_workers=1)


@pytest.fixture(scope="module")
def pair() -> tuple[Analysis, Analysis]:
    first = {name: heavy_tailed(70, 50, seed=seed) for seed, name in enumerate("abcd")}
    second = {f"model.{name}": heavy_tailed(70, 50, seed=9 + seed) for seed, name in enumerate("bcd$")}
    second["model.d"] = np.full((70, 50), np.nan)
    one_side, other_side = (
        analyze({f"{name}.weight": values for name, values in model.items()}, n_workers=1) for model in (first, second)
    )
    return one_side, other_side


@pytest.fixture(scope="module")
def small() -> Analysis:
    return analyze({HOSTILE + ".weight": heavy_tailed(40, 30), "b": heavy_tailed(30, 20)}, n_workers=1)


def one(values: NDArray[np.float64], name: str = "x.weight", **options: Any) -> LayerAnalysis:
    (layer,) = analyze({name: values}, n_workers=1, **options).layers
    return layer


def layer_of(analysis: Analysis, name: str) -> LayerAnalysis:
    (found,) = [layer for layer in analysis.layers if layer.name == name]
    return found


def evals_of(layer: LayerAnalysis) -> NDArray[np.float64]:
    assert isinstance(layer.spectrum, Spectrum)
    return layer.spectrum.evals


def fit_of(layer: LayerAnalysis) -> PowerLawFit:
    assert isinstance(layer.fit, PowerLawFit)
    return layer.fit


def line(axes: Axes, label: str) -> Line2D:
    (found,) = [drawn for drawn in axes.lines if str(drawn.get_label()).startswith(label)]
    return found


def xs(drawn: Line2D) -> NDArray[np.float64]:
    return np.asarray(drawn.get_xdata(), dtype=np.float64)


def ys(drawn: Line2D) -> NDArray[np.float64]:
    return np.asarray(drawn.get_ydata(), dtype=np.float64)


def bars(axes: Axes, which: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return heights and edges of one of the filled histograms."""
    filled = [patch for patch in axes.patches if isinstance(patch, StepPatch) and patch.get_fill()]
    heights, edges, _ = filled[which].get_data()
    return np.asarray(heights), np.asarray(edges)


def words(figure: Any) -> str:
    """Return all text that stands on a figure."""
    return "\n".join(text.get_text() for text in figure.findobj(mpl.text.Text))


class TestESD:
    @pytest.mark.parametrize("scale", SCALES)
    def test_curve_is_the_law_times_the_share_of_the_tail(self, plain: Analysis, scale: Any) -> None:
        layer = layer_of(plain, "heavy")
        fit, evals = fit_of(layer), evals_of(layer)
        (axes,) = plot_esd(layer, scale).axes
        curve = line(axes, "power law")
        x = xs(curve)
        expected = (fit.alpha - 1.0) / fit.xmin * (x / fit.xmin) ** -fit.alpha * fit.n_tail / len(evals)
        if scale == "log-lin":
            expected *= x * np.log(10.0)
        np.testing.assert_allclose(ys(curve), expected, rtol=1e-10)
        assert (x[0], x[-1]) == (fit.xmin, fit.xmax)
        assert set(xs(line(axes, "xmin"))) == {fit.xmin}
        assert (axes.get_xscale(), axes.get_yscale()) == {
            "log-log": ("log", "log"),
            "lin-lin": ("linear", "linear"),
            "log-lin": ("log", "linear"),
        }[scale]

    @pytest.mark.parametrize("scale", SCALES)
    def test_bars_hold_every_eigenvalue(self, plain: Analysis, scale: Any) -> None:
        evals = evals_of(layer_of(plain, "heavy"))
        (axes,) = plot_esd(layer_of(plain, "heavy"), scale).axes
        heights, edges = bars(axes)
        widths = np.diff(np.log10(edges)) if scale == "log-lin" else np.diff(edges)
        counts = heights * widths * len(evals)
        np.testing.assert_allclose(counts, np.histogram(evals, edges)[0], atol=1e-9)
        assert counts.sum() == pytest.approx(len(evals))
        assert len(heights) == (100 if scale == "lin-lin" else count_bins(len(evals)))

    def test_density_is_that_of_the_whole_spectrum_where_zeros_are_not_shown(self, plain: Analysis) -> None:
        (axes,) = plot_esd(layer_of(plain, "low_rank")).axes
        heights, edges = bars(axes)
        assert np.sum(heights * np.diff(edges)) == pytest.approx(20 / 50)
        assert "30 at or near zero not shown" in axes.get_xlabel()

    def test_title_and_labels(self, plain: Analysis) -> None:
        layer = layer_of(plain, "heavy")
        fit = fit_of(layer)
        figure = plot_esd(layer)
        (axes,) = figure.axes
        title = axes.get_title()
        assert title.startswith("0: heavy\n")
        for text in (f"α = {fit.alpha:.2f} ± {fit.sigma:.2f}", f"D = {fit.D:.3f}", "xmin = "):
            assert text in title
        assert axes.get_xlabel() == "eigenvalue λ"
        assert axes.get_ylabel() == "density of λ"
        assert f"{fit.n_tail} in the tail" in words(figure)
        assert tuple(figure.get_size_inches()) == (6.0, 4.0)
        assert figure.dpi == 100

    def test_bounded_law_integrates_to_its_tail_up_to_its_end(self) -> None:
        fit = fit_of(one(heavy_tailed(160, 120), xmax="force"))
        assert fit.is_bounded
        integral = quad(lambda x: float(tail_density(fit, np.array([x]))[0]), fit.xmin, fit.xmax)[0]
        assert integral == pytest.approx(1.0, rel=1e-8)

    def test_unbounded_law_integrates_to_its_tail_without_end(self, plain: Analysis) -> None:
        fit = fit_of(layer_of(plain, "heavy"))
        assert not fit.is_bounded
        integral = quad(lambda x: float(tail_density(fit, np.array([x]))[0]), fit.xmin, np.inf)[0]
        assert integral == pytest.approx(1.0, rel=1e-6)

    def test_truncated_law(self) -> None:
        layer = one(heavy_tailed(160, 120), fit="TPL")
        fit = layer.fit
        assert isinstance(fit, TruncatedPowerLawFit)
        end = fit.xmin + 60.0 / fit.Lambda
        share = quad(lambda x: float(tail_density(fit, np.array([x]))[0]), fit.xmin, end, limit=200)[0]
        assert share == pytest.approx(1.0, rel=1e-6)
        (axes,) = plot_esd(layer).axes
        curve = line(axes, "truncated power law")
        log_ratio = np.log(ys(curve)[-1] / ys(curve)[0])
        x = xs(curve)
        assert log_ratio == pytest.approx(-fit.alpha * np.log(x[-1] / x[0]) - fit.Lambda * (x[-1] - x[0]))
        assert f"Λ = {fit.Lambda:.3g}" in axes.get_title()

    def test_values_that_the_fit_left_out(self, plain: Analysis) -> None:
        layer = one(heavy_tailed(160, 120), xmax=-5)
        (axes,) = plot_esd(layer).axes
        assert set(xs(line(axes, "end of the fit, 5 beyond"))) == {evals_of(layer)[-6]}
        (axes,) = plot_esd(layer_of(plain, "heavy")).axes
        assert not any("end of the fit" in str(drawn.get_label()) for drawn in axes.lines)

    @pytest.mark.parametrize("name", ["few", "equal"])
    def test_failed_fit_still_shows_the_spectrum(self, plain: Analysis, name: str) -> None:
        layer = layer_of(plain, name)
        assert layer.reason is not None
        figure = plot_esd(layer)
        (axes,) = figure.axes
        heights, edges = bars(axes)
        assert np.sum(heights * np.diff(edges)) == pytest.approx(1.0)
        assert layer.reason in words(figure).replace("\n", " ")
        assert not axes.lines

    def test_unknown_scale(self, plain: Analysis) -> None:
        with pytest.raises(OptionError, match="scale must be one of 'log-log', 'lin-lin', 'log-lin', got 'log'"):
            plot_esd(layer_of(plain, "heavy"), "log")  # type: ignore[arg-type]

    def test_given_axes(self, plain: Analysis) -> None:
        figure = Figure()
        whole: Any = figure.subfigures(1, 2)
        axes = whole[0].subplots()
        other = whole[1].subplots()
        assert plot_esd(layer_of(plain, "heavy"), ax=axes) is figure
        assert axes.patches
        assert not other.patches


class TestXminProfile:
    def test_fit_is_the_lowest_point(self, plain: Analysis) -> None:
        layer = layer_of(plain, "heavy")
        fit = fit_of(layer)
        top, bottom = plot_xmin_profile(layer).axes
        distances, exponents = line(top, "distance"), line(bottom, "α")
        best = int(np.argmin(ys(distances)))
        assert ys(distances)[best] == pytest.approx(fit.D, rel=1e-12)
        assert xs(distances)[best] == fit.xmin
        assert ys(exponents)[best] == pytest.approx(fit.alpha, rel=1e-12)
        for axes in (top, bottom):
            assert set(xs(line(axes, "xmin"))) == {fit.xmin}
        low, high = bottom.get_ylim()
        assert low < fit.alpha < high

    def test_what_the_fit_left_out_is_not_in_the_profile(self) -> None:
        layer = one(heavy_tailed(160, 120), xmax=-5)
        top, _ = plot_xmin_profile(layer).axes
        assert ys(line(top, "distance")).min() == pytest.approx(fit_of(layer).D, rel=1e-12)

    def test_layer_that_was_too_small_to_fit(self) -> None:
        figure = plot_xmin_profile(one(heavy_tailed(60, 40), min_evals=50))
        assert len(xs(line(figure.axes[0], "distance"))) > 20
        assert "no fit: 40 eigenvalues, at least 50" in words(figure)

    @pytest.mark.parametrize("options", [{"fit": "TPL"}, {"xmax": "force"}])
    def test_other_laws_have_none(self, options: dict[str, Any]) -> None:
        layer = one(heavy_tailed(100, 60), **options)
        with pytest.raises(OptionError, match="plain power law: analyze with fit='PL' and no xmax='force'"):
            plot_xmin_profile(layer)


class TestRandomESD:
    def test_both_spectra_over_the_same_bins(self, analysis: Analysis) -> None:
        layer = layer_of(analysis, "heavy")
        twin = layer.twin_evals
        assert twin is not None
        (axes,) = plot_random_esd(layer, "lin-lin").axes
        (own, edges), (random, random_edges) = bars(axes, 0), bars(axes, 1)
        np.testing.assert_array_equal(edges, random_edges)
        np.testing.assert_allclose(own * np.diff(edges) * 120, np.histogram(evals_of(layer), edges)[0], atol=1e-9)
        np.testing.assert_allclose(random * np.diff(edges) * len(twin), np.histogram(twin, edges)[0], atol=1e-9)
        assert set(xs(line(axes, "largest random"))) == {twin[-1]}

    def test_traps_are_marked(self, analysis: Analysis) -> None:
        layer = layer_of(analysis, "trap")
        twin, fit = layer.twin_evals, layer.twin_marchenko_pastur
        assert twin is not None
        assert fit is not None
        assert layer.metrics["num_traps"] > 0
        (axes,) = plot_random_esd(layer).axes
        traps = xs(line(axes, "correlation traps"))
        np.testing.assert_array_equal(traps, twin[-int(layer.metrics["num_traps"]) :])
        assert traps[-1] > 0.9 * 60.0**2
        assert set(xs(line(axes, "bulk edge"))) == {fit.bulk_max}
        assert f"num_traps = {layer.metrics['num_traps']}" in axes.get_title()

    def test_what_lies_between_edge_and_threshold_is_no_trap(self, analysis: Analysis) -> None:
        layer = layer_of(analysis, "heavy")
        twin, fit = layer.twin_evals, layer.twin_marchenko_pastur
        assert twin is not None
        assert fit is not None
        lower = replace(fit, bulk_max=float(twin[-9]), spike_threshold=float(twin[-5]))
        (axes,) = plot_random_esd(replace(layer, twin_marchenko_pastur=lower)).axes
        np.testing.assert_array_equal(xs(line(axes, "correlation traps: 4")), twin[-4:])

    def test_no_mark_without_traps(self) -> None:
        layer = one(np.random.default_rng(3).standard_normal((120, 110)), randomize=True)
        assert layer.metrics["num_traps"] == 0
        (axes,) = plot_random_esd(layer).axes
        assert not any("traps" in str(drawn.get_label()) for drawn in axes.lines)

    def test_unknown_scale(self, analysis: Analysis) -> None:
        with pytest.raises(OptionError, match="scale must be one of 'log-lin', 'lin-lin', got 'log-log'"):
            plot_random_esd(layer_of(analysis, "heavy"), "log-log")  # type: ignore[arg-type]


class TestMarchenkoPastur:
    def test_law_and_bars(self, analysis: Analysis) -> None:
        layer = layer_of(analysis, "trap")
        fit = layer.twin_marchenko_pastur
        assert fit is not None
        (axes,) = plot_marchenko_pastur(layer, randomized=True).axes
        curve = line(axes, "Marchenko-Pastur")
        x, y = xs(curve), ys(curve)
        steps = 0.5 * (y[1:] + y[:-1]) * np.diff(x)
        np.testing.assert_allclose(
            np.cumsum(steps)[::50], marchenko_pastur_cdf(x[1:], Q=fit.Q, sigma=fit.sigma)[::50], atol=2e-3
        )
        scale = fit.W_scale**2
        assert xs(line(axes, "bulk edge")) == pytest.approx(fit.bulk_max * scale)
        assert xs(line(axes, "spikes from")) == pytest.approx(fit.spike_threshold * scale)
        twin = layer.twin_evals
        assert twin is not None
        heights, edges = bars(axes)
        n_shown = np.count_nonzero(twin / twin.mean() <= edges[-1])
        assert n_shown < len(twin)
        assert np.sum(heights * np.diff(edges)) == pytest.approx(n_shown / len(twin))
        assert f"({len(twin) - n_shown} beyond" in axes.get_xlabel()
        assert f"num_traps = {fit.n_spikes}" in axes.get_title()

    def test_square_matrix_is_drawn_on_singular_values(self, analysis: Analysis) -> None:
        layer = layer_of(analysis, "square")
        fit = layer.marchenko_pastur
        assert fit is not None
        (axes,) = plot_marchenko_pastur(layer).axes
        curve = line(axes, "quarter circle")
        assert ys(curve)[0] == pytest.approx(2.0 / (np.pi * fit.sigma**2))
        assert (xs(curve)[-1], ys(curve)[-1]) == (2.0, 0.0)
        assert xs(line(axes, "bulk edge")) == pytest.approx(2.0 * fit.sigma)
        x = evals_of(layer) / evals_of(layer).mean()
        heights, edges = bars(axes)
        np.testing.assert_allclose(heights * np.diff(edges) * len(x), np.histogram(np.sqrt(x), edges)[0], atol=1e-9)
        assert axes.get_xlabel().startswith("√x")

    def test_fit_that_was_refused(self, analysis: Analysis) -> None:
        layer = layer_of(analysis, "low_rank")
        assert layer.marchenko_pastur is None
        figure = plot_marchenko_pastur(layer)
        assert bars(figure.axes[0])[0].sum() > 0.0
        assert layer.reasons["mp_fit"] in words(figure).replace("\n", " ")

    def test_view_holds_the_threshold(self) -> None:
        layer = one(np.random.default_rng(0).standard_normal((200, 100)), mp_fit=True)
        (axes,) = plot_marchenko_pastur(layer).axes
        assert xs(line(axes, "spikes from"))[0] < axes.get_xlim()[1]


class TestGaps:
    def test_gaps_in_their_order(self, plain: Analysis) -> None:
        layer = layer_of(plain, "heavy")
        evals = evals_of(layer)
        left, right = plot_delta_es(layer).axes
        np.testing.assert_array_equal(ys(left.lines[0]), np.diff(evals))
        np.testing.assert_array_equal(xs(left.lines[0]), np.arange(1, len(evals)))
        (place,) = set(xs(line(left, "xmin")))
        assert evals[int(place) - 1] == fit_of(layer).xmin
        heights, edges = bars(right)
        assert np.sum(heights * np.diff(np.log10(edges))) == pytest.approx(1.0)

    def test_gaps_that_are_zero_are_counted(self, plain: Analysis) -> None:
        left, _ = plot_delta_es(layer_of(plain, "low_rank")).axes
        assert "(29 gaps are zero)" in left.get_xlabel()
        assert len(xs(left.lines[0])) == 20

    def test_equal_eigenvalues_have_no_gaps(self, plain: Analysis) -> None:
        assert "no two eigenvalues differ" in words(plot_delta_es(layer_of(plain, "equal")))

    def test_twin(self, analysis: Analysis) -> None:
        layer = layer_of(analysis, "trap")
        fit, twin = layer.twin_marchenko_pastur, layer.twin_evals
        assert fit is not None
        assert twin is not None
        left, _ = plot_delta_es(layer, randomized=True).axes
        (place,) = set(xs(line(left, "bulk edge")))
        assert twin[int(place) - 2] < fit.bulk_max <= twin[int(place) - 1]
        assert "randomised twin" in words(left.figure)


def test_det_x_marks_where_its_tail_begins(analysis: Analysis) -> None:
    layer = layer_of(analysis, "heavy")
    evals = evals_of(layer)
    (axes,) = plot_det_x(layer).axes
    (start,) = set(xs(line(axes, "det X = 1")))
    assert np.count_nonzero(evals / evals.mean() >= start * (1.0 - 1e-12)) == layer.metrics["detX_num"]
    assert xs(line(axes, "power law")) == pytest.approx(fit_of(layer).xmin / evals.mean())
    heights, edges = bars(axes)
    assert np.sum(heights * np.diff(np.log10(edges))) == pytest.approx(1.0)
    assert f"detX_num = {layer.metrics['detX_num']}" in axes.get_title()


class TestVectors:
    def test_every_vector_is_a_point(self, plain: Analysis) -> None:
        layer = layer_of(plain, "heavy")
        with single_threaded_blas():
            statistics = eigenvector_statistics(MODEL["heavy.weight"][None])
        assert isinstance(statistics, EigenvectorStatistics)
        figure = plot_vector_metrics(layer, statistics)
        measures = (statistics.entropy, statistics.localization, statistics.participation)
        for axes, values in zip(figure.axes[::2], measures, strict=True):
            bulk, tail, mark = axes.lines
            assert len(xs(tail)) == fit_of(layer).n_tail
            np.testing.assert_array_equal(np.concatenate([ys(bulk), ys(tail)]), values)
            assert set(xs(mark)) == {fit_of(layer).xmin}

    def test_weights_are_read_again_in_the_form_of_the_analysis(self) -> None:
        kernel = heavy_tailed(30, 20, 2, 2)
        whole = analyze({"c.weight": kernel}, vectors=True, n_workers=1)
        (layer,) = whole.layers
        figure = whole.plot("vector_metrics", layer="c")
        (entropies, tail, _) = figure.axes[0].lines
        assert len(xs(entropies)) + len(xs(tail)) == 80
        assert ys(entropies).mean() == pytest.approx(layer.metrics["bulk_mean_vec_entropy"])
        assert ys(tail).mean() == pytest.approx(layer.metrics["tail_mean_vec_entropy"])

    def test_form_without_vectors(self) -> None:
        inverse = analyze({"x.weight": heavy_tailed(30, 20)}, inverse=True, n_workers=1)
        with pytest.raises(OptionError, match="vectors is about the elements of a weight matrix, inverse changes"):
            inverse.plot("vector_metrics", layer=0)


class TestAlphaByDepth:
    @staticmethod
    def errors(axes: Axes) -> dict[str, NDArray[np.float64]]:
        """Group -> place, lower and upper end of each error bar."""
        return {
            str(group.get_label()): np.array([(s[0][0], s[0][1], s[1][1]) for s in group[2][0].get_segments()])
            for group in axes.containers
        }

    def test_points_error_bars_band_and_failures(self, plain: Analysis) -> None:
        (axes,) = plot_alpha_by_depth(plain).axes
        drawn = np.concatenate(list(self.errors(axes).values()))
        drawn = drawn[np.argsort(drawn[:, 0])]
        fitted = [layer for layer in plain.layers if not isinstance(layer.fit, FitFailure)]
        expected = [
            (layer.spec.index, fit_of(layer).alpha - fit_of(layer).sigma, fit_of(layer).alpha + fit_of(layer).sigma)
            for layer in fitted
        ]
        np.testing.assert_allclose(drawn, expected)
        failures = xs(line(axes, "no fit: 3"))
        assert [plain.layers[int(place)].name for place in failures] == ["few", "nan", "equal"]
        (band,) = [patch for patch in axes.patches if patch.get_label() == "2 ≤ α ≤ 6"]
        assert (band.get_extents().transformed(axes.transData.inverted()).intervaly == [2.0, 6.0]).all()

    def test_groups_and_values_beyond_the_top(self) -> None:
        values = {
            "over.weight": with_singular_values(np.geomspace(1.0, 1e4, 60), 80, 60),
            "well.weight": heavy_tailed(160, 120),
            "beyond.weight": with_singular_values(np.linspace(30.0, 31.0, 60), 80, 60),
        }
        whole = analyze(values, n_workers=1)
        (axes,) = plot_alpha_by_depth(whole).axes
        assert set(self.errors(axes)) == {"over-trained, α < 2", "well-trained"}
        mark = line(axes, "α > 12")
        assert (xs(mark)[0], ys(mark)[0]) == (2, 12.0)
        assert f"{fit_of(whole.layers[2]).alpha:.3g}" in words(axes.figure)

    def test_no_layers(self) -> None:
        whole = analyze({"bias": np.ones(3)}, n_workers=1)
        assert "no layer was analysed" in words(plot_alpha_by_depth(whole))


class TestModels:
    def test_layers_are_matched_by_name(self, pair: tuple[Analysis, Analysis]) -> None:
        first, second = pair
        pairs = pair_metric(first, second, "alpha")
        assert pairs.places == (1, 2)
        assert pairs.first == tuple(layer_of(first, name).metrics["alpha"] for name in "bc")
        assert pairs.second == tuple(layer_of(second, f"model.{name}").metrics["alpha"] for name in "bc")
        assert pairs.missing == ("d",)
        assert pairs.only_first == ("a",)
        assert pairs.only_second == ("model.$",)

    def test_scatter(self, pair: tuple[Analysis, Analysis]) -> None:
        figure = plot_models(*pair)
        (axes,) = figure.axes
        pairs = pair_metric(*pair, "alpha")
        assert (tuple(xs(axes.lines[0])), tuple(ys(axes.lines[0]))) == (pairs.first, pairs.second)
        title = axes.get_title()
        assert "no value for: d" in title
        assert "only in the first: a" in title
        assert "only in the second: model.$" in title

    def test_along_the_depth(self, pair: tuple[Analysis, Analysis]) -> None:
        (axes,) = pair[0].plot("models", other=pair[1], metric="stable_rank", arrangement="depth").axes
        pairs = pair_metric(*pair, "stable_rank")
        for label, values in (("first", pairs.first), ("second", pairs.second)):
            drawn = line(axes, label)
            assert (tuple(xs(drawn)), tuple(ys(drawn))) == (pairs.places, values)

    def test_slices_are_matched_each_with_its_own(self) -> None:
        kernel = {"c.weight": heavy_tailed(20, 10, 2, 1)}
        sliced = analyze(kernel, pool=False, n_workers=1)
        pairs = pair_metric(sliced, sliced, "stable_rank")
        assert pairs.first == pairs.second == tuple(layer.metrics["stable_rank"] for layer in sliced.layers)
        pooled = analyze(kernel, n_workers=1)
        assert pair_metric(sliced, pooled, "stable_rank").only_first == ("c (slice 0)", "c (slice 1)")

    def test_nothing_in_common(self, pair: tuple[Analysis, Analysis]) -> None:
        other = analyze({f"{number}.weight": heavy_tailed(30, 20) for number in range(6)}, n_workers=1)
        figure = plot_models(pair[0], other)
        assert "have no layer of one name" in words(figure)
        assert "3, … (6 in all)" not in words(figure)
        assert "0, 1, 2, … (6 in all)" in words(figure)

    def test_bad_options(self, pair: tuple[Analysis, Analysis]) -> None:
        with pytest.raises(OptionError, match="no metric 'alhpa'; did you mean 'alpha'"):
            plot_models(*pair, "alhpa")
        with pytest.raises(OptionError, match="has no num_traps: analyze with randomize=True"):
            plot_models(*pair, "num_traps")
        with pytest.raises(OptionError, match="has no Lambda: analyze with fit='TPL'"):
            plot_models(*pair, "Lambda")
        with pytest.raises(OptionError, match="arrangement must be one of 'scatter', 'depth', got 'bars'"):
            plot_models(*pair, arrangement="bars")  # type: ignore[arg-type]


class TestMissing:
    @pytest.mark.parametrize(
        ("kind", "option"),
        [
            ("random_esd", "randomize=True"),
            ("random_marchenko_pastur", "randomize=True"),
            ("random_delta_es", "randomize=True"),
            ("marchenko_pastur", "mp_fit=True"),
            ("det_x", "detX=True"),
        ],
    )
    def test_error_names_the_option(self, plain: Analysis, kind: str, option: str) -> None:
        with pytest.raises(OptionError, match=f"layer 'heavy' has no .*: analyze with {option}"):
            plain.plot(kind, layer="heavy")

    @pytest.mark.parametrize("kind", sorted(LAYER_KINDS))
    def test_layer_without_a_spectrum_is_its_reason(self, analysis: Analysis, kind: str) -> None:
        figure = analysis.plot(kind, layer="nan")
        text = words(figure).replace("\n", " ")
        assert "600 of 600 values are NaN or infinite" in text or "values are not finite" in text
        assert not any(axes.axison for axes in figure.axes)

    @pytest.mark.parametrize("kind", sorted(LAYER_KINDS))
    def test_eigenvalues_that_are_equal_to_rounding(self, kind: str) -> None:
        values = np.diag(1.0 + 1e-15 * np.arange(12))
        whole = analyze({"x.weight": values}, mp_fit=True, randomize=True, detX=True, n_workers=1)
        assert render_png(whole.plot(kind, layer=0))

    @pytest.mark.parametrize("scale", [1e-150, 1e150])
    def test_eigenvalues_at_the_ends_of_float64(self, scale: float) -> None:
        whole = analyze({"x.weight": scale * heavy_tailed(12, 10)}, randomize=True, n_workers=1)
        for kind in ("esd_lin_lin", "random_esd", "delta_es", "vector_metrics", "xmin_profile"):
            assert "too far from one to be drawn" in words(whole.plot(kind, layer=0)).replace("\n", " ")

    def test_kind_and_layer(self, plain: Analysis) -> None:
        with pytest.raises(OptionError, match="no kind of picture 'esdd'; did you mean 'esd'"):
            plain.plot("esdd", layer=0)
        with pytest.raises(OptionError, match="no kind of picture 'zzz'; there are esd, "):
            plain.plot("zzz", layer=0)
        with pytest.raises(OptionError, match="is one of a layer: give its layer_id or name"):
            plain.plot("esd")
        with pytest.raises(OptionError, match="is one of the whole model, got layer=0"):
            plain.plot("alpha_by_depth", layer=0)
        with pytest.raises(OptionError, match="no analysed layer 'heavi'; did you mean 'heavy'"):
            plain.plot("esd", layer="heavi")
        with pytest.raises(OptionError, match="no analysed layer 99; there are 7 analysed layers"):
            plain.plot("esd", layer=99)
        with pytest.raises(OptionError, match="no analysed layer True"):
            plain.plot("esd", layer=True)

    def test_layer_by_id_name_or_record(self, plain: Analysis) -> None:
        titles = {plain.plot("esd", layer=given).axes[0].get_title() for given in (1, "square", plain.layers[1])}
        assert len(titles) == 1
        assert titles.pop().startswith("1: square\n")

    def test_slices_need_the_record(self) -> None:
        sliced = analyze({"c.weight": heavy_tailed(20, 10, 2, 1)}, pool=False, n_workers=1)
        with pytest.raises(OptionError, match=r"layer 'c' has 2 slices: give one of analysis\.layers itself"):
            sliced.plot("esd", layer="c")
        title = sliced.plot("esd", layer=sliced.layers[1]).axes[0].get_title()
        assert title.startswith("0: c (slice 1)\n")

    def test_matplotlib(self, plain: Analysis, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(MissingDependencyError, match=re.escape("pip install 'pytest-weightwatcher[plots]'")):
            plain.plot("esd", layer=0)


class TestNames:
    @given(st.text(max_size=300))
    def test_printable_is_one_line_of_latin_letters(self, text: str) -> None:
        result = printable(text)
        assert len(result.splitlines()) <= 1
        assert all(ord(character) < 0x180 and character.isprintable() for character in result)
        if text.isascii() and text.isprintable():
            assert result == text

    @given(st.text(max_size=400), st.integers(8, 100))
    @settings(max_examples=50)
    def test_shortened_keeps_both_ends(self, text: str, length: int) -> None:
        result = shortened(text, length)
        assert len(result) <= length
        if len(printable(text)) <= length:
            assert result == printable(text)
        elif text.isascii() and text.isprintable():
            start, end = result.split("…", 1) if "…" not in text else ("", "")
            assert text.startswith(start)
            assert text.endswith(end)

    @pytest.mark.parametrize("name", [HOSTILE, "W" * 10_000, "$" * 200, "\n" * 500, "_x", "", "$\\undefined{$"])
    @pytest.mark.parametrize("draw", [plot_esd, plot_xmin_profile])
    def test_no_name_breaks_a_picture(self, name: str, draw: Callable[[LayerAnalysis], Figure]) -> None:
        figure = draw(one(heavy_tailed(40, 30), name=name + ".weight"))
        assert render_png(figure).startswith(b"\x89PNG")
        titles = [text for text in figure.findobj(mpl.text.Text) if text.get_text().startswith("0: ")]
        (title,) = titles
        assert not title.get_parse_math()
        assert title.get_text().count("\n") == 1
        assert len(title.get_text().split("\n")[0]) <= MAX_NAME + 3
        box = title.get_window_extent()
        assert 0.0 <= box.x0 < box.x1 <= figure.bbox.width
        # What is drawn below keeps its room.
        assert max(axes.get_position().height for axes in figure.axes) > 0.3

    def test_no_reason_breaks_a_picture(self, plain: Analysis) -> None:
        layer = layer_of(plain, "few")
        for detail in (HOSTILE, "$\\undefined{$", "x " * 5_000, "W" * 5_000):
            failure = FitFailure(reason=FitFailureReason.REFUSED, detail=detail)
            figure = plot_esd(replace(layer, fit=failure))
            assert render_png(figure)
            (note,) = figure.axes[0].texts
            assert len(note.get_text()) < 450
            assert note.get_window_extent().x1 <= figure.bbox.width

    def test_names_on_the_comparison_of_models(self) -> None:
        first = analyze({HOSTILE + str(number): heavy_tailed(30, 20) for number in range(5)}, n_workers=1)
        second = analyze({"W" * 9_000 + str(number): heavy_tailed(30, 20) for number in range(5)}, n_workers=1)
        figure = plot_models(first, second)
        box = figure.axes[0].title.get_window_extent()
        assert 0.0 <= box.x0 < box.x1 <= figure.bbox.width
        assert render_png(figure)


SCRIPT = """
import sys
import numpy as np
import spectral
import spectral.plots
assert not any(name.startswith("matplotlib") for name in sys.modules), "matplotlib is imported with the package"
analysis = spectral.analyze({"x.weight": np.random.default_rng(0).standard_t(3, (60, 40))}, n_workers=1)
assert not any(name.startswith("matplotlib") for name in sys.modules), "matplotlib is imported without a picture"
import matplotlib
before = dict(dict.items(matplotlib.rcParams))  # looking the backend up would choose one
analysis.plot("esd", layer=0)
analysis.plot("vector_metrics", layer=0)
spectral.plots.render_png(analysis.plot("alpha_by_depth"))
assert "matplotlib.pyplot" not in sys.modules
assert dict(dict.items(matplotlib.rcParams)) == before
"""


class TestSideEffects:
    def test_no_pyplot_no_window_no_file_no_global_setting(self, tmp_path: Path) -> None:
        environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "MPLCONFIGDIR": str(tmp_path / "config")}
        (tmp_path / "config").mkdir()
        (tmp_path / "work").mkdir()
        subprocess.run(
            [sys.executable, "-W", "error", "-c", SCRIPT], check=True, cwd=tmp_path / "work", env=environment
        )
        assert list((tmp_path / "work").iterdir()) == []

    def test_same_analysis_same_bytes(self, plain: Analysis) -> None:
        again = analyze(MODEL, n_workers=2)
        for kind, layer in (("esd", 0), ("xmin_profile", 0), ("vector_metrics", 1), ("alpha_by_depth", None)):
            first, second = (render_png(given.plot(kind, layer=layer)) for given in (plain, again))
            assert first == second
        figure = plain.plot("esd", layer=0)
        assert render_png(figure) == render_png(figure)
        assert b"Software" not in render_png(figure)

    def test_settings_of_the_caller_change_nothing(self, plain: Analysis) -> None:
        expected = render_png(plain.plot("esd", layer=0))
        harsh = {"text.usetex": True, "font.size": 30.0, "savefig.dpi": 30, "savefig.bbox": "tight", "axes.grid": False}
        with style.context(["dark_background", harsh]):
            before = dict(dict.items(mpl.rcParams))
            figure = plain.plot("esd", layer=0)
            assert render_png(figure) == expected
            assert dict(dict.items(mpl.rcParams)) == before
            stream = BytesIO()
            figure.savefig(stream, format="png", dpi=100, bbox_inches=None)
            assert stream.getvalue()[:4] == b"\x89PNG"

    def test_threads_leave_no_settings_behind(self, plain: Analysis) -> None:
        before = dict(dict.items(mpl.rcParams))
        with ThreadPoolExecutor(4) as pool:
            pictures = list(pool.map(lambda _: render_png(plain.plot("esd", layer=0)), range(8)))
        assert len(set(pictures)) == 1
        assert dict(dict.items(mpl.rcParams)) == before

    def test_nothing_of_the_analysis_is_written_to(self, analysis: Analysis) -> None:
        layer = layer_of(analysis, "heavy")
        evals = evals_of(layer).copy()
        for kind in available_kinds(analysis.description.options):
            if kind in LAYER_KINDS:
                analysis.plot(kind, layer=layer)
        np.testing.assert_array_equal(evals, evals_of(layer))


class TestSaving:
    def test_files(self, small: Analysis, tmp_path: Path) -> None:
        folder = tmp_path / "deep" / "pictures"
        paths = save_plots(small, folder, kinds=["esd", "alpha_by_depth", "esd"], prefix="ww.")
        names = ["ww.layer0.esd.png", "ww.layer1.esd.png", "ww.model.alpha_by_depth.png"]
        assert [path.name for path in paths] == names
        assert sorted(path.name for path in folder.iterdir()) == names
        assert [path.name for path in tmp_path.iterdir()] == ["deep"]
        assert paths[1].read_bytes() == render_png(small.plot("esd", layer="b"))
        assert paths[0].stat().st_mode & 0o777 == 0o666 & ~umask()

    def test_default_is_what_the_options_gave(self, tmp_path: Path) -> None:
        plain_kinds = ("esd", "esd_lin_lin", "esd_log_lin", "xmin_profile", "delta_es", "alpha_by_depth")
        model = {"a": heavy_tailed(30, 20)}
        plain = analyze(model, n_workers=1)
        assert available_kinds(plain.description.options) == plain_kinds
        assert len(save_plots(plain, tmp_path)) == len(plain_kinds)
        full = plain.description.options.changed({"mp_fit": True, "randomize": True, "detX": True, "vectors": True})
        assert set(available_kinds(full)) == {*LAYER_KINDS, "alpha_by_depth"}
        assert "xmin_profile" not in available_kinds(full.changed({"fit": "TPL"}))

    def test_chosen_layers(self, small: Analysis, tmp_path: Path) -> None:
        paths = save_plots(small, tmp_path, kinds=["esd"], layers=["b"])
        assert [path.name for path in paths] == ["layer1.esd.png"]

    def test_slices_have_files_of_their_own(self, tmp_path: Path) -> None:
        sliced = analyze({"c.weight": heavy_tailed(20, 10, 2, 1)}, pool=False, n_workers=1)
        paths = save_plots(sliced, tmp_path, kinds=["esd"])
        assert [path.name for path in paths] == ["layer0.slice0.esd.png", "layer0.slice1.esd.png"]

    @pytest.mark.parametrize("prefix", ["../", "a/b", "..", ".hidden", "a\\b", "a\nb", "x" * 65, "é"])
    def test_prefix_cannot_leave_the_folder(self, small: Analysis, tmp_path: Path, prefix: str) -> None:
        with pytest.raises(OptionError, match="prefix must be of letters"):
            save_plots(small, tmp_path / "new", prefix=prefix)
        assert list(tmp_path.iterdir()) == []

    def test_nothing_is_written_where_an_argument_is_wrong(self, small: Analysis, tmp_path: Path) -> None:
        folder = tmp_path / "new"
        with pytest.raises(OptionError, match="kind 'random_esd' needs an analysis with randomize=True"):
            save_plots(small, folder, kinds=["esd", "random_esd"])
        with pytest.raises(OptionError, match="no kind of picture 'edd'"):
            save_plots(small, folder, kinds=["edd"])
        with pytest.raises(OptionError, match="kinds must be a sequence of kinds, got the string 'esd'"):
            save_plots(small, folder, kinds="esd")
        with pytest.raises(OptionError, match="kind 'models' compares two analyses"):
            save_plots(small, folder, kinds=["models"])
        with pytest.raises(OptionError, match="no analysed layer 7"):
            save_plots(small, folder, layers=[7])
        assert list(tmp_path.iterdir()) == []

    def test_link_is_replaced_and_not_followed(self, small: Analysis, tmp_path: Path) -> None:
        outside = tmp_path / "outside.txt"
        outside.write_text("mine")
        folder = tmp_path / "pictures"
        folder.mkdir()
        (folder / "layer1.esd.png").symlink_to(outside)
        (path,) = save_plots(small, folder, kinds=["esd"], layers=[1])
        assert outside.read_text() == "mine"
        assert not path.is_symlink()

    def test_old_picture_survives_a_failed_write(
        self, small: Analysis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (path,) = save_plots(small, tmp_path, kinds=["esd"], layers=[1])
        path.write_bytes(b"old")

        def refuse(*_: object) -> None:
            raise PermissionError("no")

        monkeypatch.setattr(Path, "replace", refuse)
        with pytest.raises(PermissionError, match="no"):
            save_plots(small, tmp_path, kinds=["esd"], layers=[1])
        assert path.read_bytes() == b"old"
        assert [entry.name for entry in tmp_path.iterdir()] == [path.name]

    def test_folder_that_is_a_file(self, small: Analysis, tmp_path: Path) -> None:
        target = tmp_path / "file"
        target.write_text("x")
        with pytest.raises(FileExistsError, match="file"):
            save_plots(small, target, kinds=["esd"])


class TestHistograms:
    @given(st.lists(st.floats(1e-300, 1e300), min_size=1, max_size=50), st.integers(1, 30))
    def test_log_edges_hold_every_value(self, values: list[float], n_bins: int) -> None:
        x = np.sort(np.array(values))
        edges = log_edges(float(x[0]), float(x[-1]), n_bins)
        assert edges[0] <= x[0]
        assert x[-1] <= edges[-1]
        assert len(edges) == n_bins + 1

    @given(st.lists(st.floats(1e-250, 1e6) | st.floats(-1e6, -1e-250) | st.just(0.0), min_size=1, max_size=50))
    def test_linear_histogram_integrates_to_the_share_shown(self, values: list[float]) -> None:
        x = np.sort(np.array(values))
        found = histogram(x, linear_edges(float(x[0]), float(x[-1]), 12), n_all=2 * len(x))
        assert np.sum(found.heights * np.diff(found.edges)) == pytest.approx(0.5)

    def test_what_a_logarithmic_axis_shows(self) -> None:
        np.testing.assert_array_equal(shown_on_log_scale(np.array([0.0, 1e-9, 1e-4, 2.0])), [1e-4, 2.0])
        # Where all are that small, only those that are zero beside the largest are left out.
        np.testing.assert_array_equal(shown_on_log_scale(np.array([0.0, 1e-30, 1e-9])), [1e-9])


def test_docs_list_every_kind() -> None:
    text = (Path(__file__).parents[2] / "docs/plots.md").read_text(encoding="utf-8")
    table = text.split("## Kinds")[1].split("##")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [*LAYER_KINDS, *MODEL_KINDS]
    assert all(f"``{kind}``" in (Analysis.plot.__doc__ or "") for kind in (*LAYER_KINDS, *MODEL_KINDS))


def umask() -> int:
    import os

    mask = os.umask(0)
    os.umask(mask)
    return mask
