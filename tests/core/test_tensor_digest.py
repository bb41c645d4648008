"""What is known of a tensor without a spectrum."""

from __future__ import annotations

import hashlib
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from spectral import analyze
from spectral.analysis import describe
from spectral.projections import relative_change
from spectral.tensor_digest import TensorDigest, digest_tensors, n_projections


def digest(values: NDArray[Any]) -> TensorDigest:
    source = describe({"w.weight": np.eye(8), "x": values}).source
    (info,) = (info for info in source.tensors() if info.name == "x")
    (found,) = digest_tensors(source, [info])
    return found


@pytest.mark.parametrize("shape", [(7,), (1,), (5, 1, 3, 3), (2, 3)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_norm_and_projections(shape: tuple[int, ...], dtype: Any) -> None:
    values = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    found = digest(values)
    assert found.shape == shape
    assert found.norm == pytest.approx(float(np.sum(values.astype(np.float64) ** 2)), rel=1e-12)
    assert len(found.projections) == n_projections(shape) == (8 if len(shape) == 1 else 24)
    # A single element that differs shows in every form alike.
    changed = values.copy()
    changed.reshape(-1)[-1] += np.asarray(2.0, dtype)
    step = float(changed.reshape(-1)[-1].astype(np.float64) - values.reshape(-1)[-1].astype(np.float64))
    moved = relative_change(
        np.array(found.projections), np.array(digest(changed).projections), reference_norm=found.norm or 0.0
    )
    assert moved == pytest.approx(abs(step) / np.sqrt(found.norm or 0.0), rel=1e-9)


def test_the_hash_is_that_of_a_matrix_of_the_same_content() -> None:
    values = np.random.default_rng(0).standard_normal((9, 8)).astype(np.float32)
    (layer,) = analyze({"w.weight": values}).layers
    assert digest(values).content_hash == layer.content_hash
    assert layer.content_hash == hashlib.sha256(b"float32:9,8:" + values.tobytes()).hexdigest()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e200])
def test_what_has_no_norm(value: float) -> None:
    found = digest(np.array([1.0, value]))
    assert (found.norm, found.projections) == (None, ())


def test_zeros() -> None:
    found = digest(np.zeros(4, dtype=np.float32))
    assert (found.norm, set(found.projections)) == (0.0, {0.0})


def test_the_estimate_is_as_good_as_it_says() -> None:
    rng = np.random.default_rng(1)
    errors = []
    for _ in range(200):
        before = rng.standard_normal(300)
        after = before + 0.1 * rng.standard_normal(300)
        one, other = digest(before), digest(after)
        estimate = relative_change(
            np.array(other.projections), np.array(one.projections), reference_norm=one.norm or 0.0
        )
        errors.append(estimate / (np.linalg.norm(after - before) / np.linalg.norm(before)) - 1.0)
    assert 0.2 < np.std(errors) < 0.3
