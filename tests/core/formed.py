"""Run the forms of a model from end to end, for the tests of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spectral.forms import FormOptions, compute_formed_spectrum, form_matrix
from spectral.loaders import open_model
from spectral.metrics import spectrum_metrics
from spectral.preparation import Preparation, prepare_matrices
from spectral.selection import Selection
from spectral.spectrum import Spectrum, SpectrumFailure
from spectral.weights import MatrixSpec, as_weight_matrix, plan_matrices

if TYPE_CHECKING:
    from spectral.loaders.protocol import TensorSource

CLOSED_FORMS = (
    "num_evals",
    "lambda_max",
    "sv_max",
    "sv_min",
    "norm",
    "log_norm",
    "spectral_norm",
    "log_spectral_norm",
    "stable_rank",
    "entropy",
    "rank_loss",
    "weak_rank_loss",
    "matrix_rank",
)


def prepare(model: object, selection: Selection | None = None, *, seed: int = 0, **options: Any) -> Preparation:
    """Prepare a model with these form options."""
    source = open_model(model)
    forms = FormOptions(**options)
    return prepare_matrices(
        source, plan_matrices(source.tensors()).matrices, selection or Selection(), forms, seed=seed
    )


def formed_spectrum(source: TensorSource, spec: MatrixSpec, **options: Any) -> Spectrum | SpectrumFailure:
    """Load one matrix and compute its spectrum in the form of these options."""
    forms = FormOptions(**options)
    return compute_formed_spectrum(form_matrix(as_weight_matrix(spec, source.load(spec.tensor)), forms), forms)


def formed_spectra(model: object, *, seed: int = 0, **options: Any) -> list[tuple[MatrixSpec, Spectrum]]:
    """Return every matrix of a model with its spectrum; all of them have one."""
    prepared = prepare(model, seed=seed, **options)
    found = []
    for spec in prepared.specs:
        spectrum = formed_spectrum(prepared.source, spec, **options)
        assert isinstance(spectrum, Spectrum), spectrum
        found.append((spec, spectrum))
    return found


def assert_same_row(spectrum: Spectrum, row: dict[str, Any], *, rtol: float = 1e-6, smallest: float = 0.0) -> None:
    """Compare everything that follows from the spectrum alone with a row of the incumbent.

    ``smallest`` is another tolerance for ``sv_min``, where the incumbent works in single precision.
    """
    ours = spectrum_metrics(spectrum)
    for name in CLOSED_FORMS:
        tolerance = max(rtol, smallest) if name == "sv_min" else rtol
        np.testing.assert_allclose(ours[name], row[name], rtol=tolerance, atol=0.0, err_msg=name)
