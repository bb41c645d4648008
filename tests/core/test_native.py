"""Only routines of the expected kind are called."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from scipy.linalg import cython_blas, cython_lapack

from spectral.native import loaded_symbol, published_routine, published_routines

STERF = "void (int *, d *, d *, int *)"


def test_a_signature_of_another_kind_is_not_called() -> None:
    capsules: dict[str, Any] = vars(cython_lapack)["__pyx_capi__"]
    assert published_routine(capsules["dsterf"], STERF) is not None
    assert published_routine(capsules["ssterf"], STERF) is None
    assert published_routine(capsules["dsterf"], STERF.replace("int", "long")) is None


def test_all_or_none() -> None:
    assert published_routines(cython_lapack, {"dsterf": STERF}) is not None
    assert published_routines(cython_lapack, {"dsterf": STERF, "dnothing": STERF}) is None
    assert published_routines(cython_blas, {"dsterf": STERF}) is None
    assert published_routines(sys, {"dsterf": STERF}) is None


def test_a_routine_that_no_library_has() -> None:
    assert loaded_symbol("dsytrd_sb2st") is not None
    assert loaded_symbol("dnothing") is None


def test_integers_of_another_byte_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "byteorder", "big")
    assert loaded_symbol("dsytrd_sb2st") is None
