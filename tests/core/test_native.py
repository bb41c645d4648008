"""Only routines of the expected kind are called."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from scipy.linalg import cython_blas, cython_lapack

from spectral.native import BLAS, LAPACK, loaded_symbol, published_routine, published_routines, scipy_extension

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


def run(program: str) -> str:
    """Run a program in a new interpreter, where nothing of SciPy is loaded yet, and return what it prints."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", [BLAS, LAPACK])
def test_a_compiled_module_comes_without_its_package_and_is_the_one_that_an_import_gives(name: str) -> None:
    assert run(
        "import sys\n"
        "from spectral.native import scipy_extension\n"
        f"module = scipy_extension({name!r})\n"
        "print([name for name in sys.modules if name.startswith(('scipy.linalg', 'numpy.f2py'))])\n"
        f"import {name}\n"
        f"print({name} is module, {name} is scipy_extension({name!r}))\n"
    ).splitlines() == ["[]", "True True"]


def test_where_the_package_is_loaded_its_own_module_is_taken() -> None:
    assert scipy_extension(BLAS) is cython_blas
    assert scipy_extension(LAPACK) is cython_lapack


def test_a_compiled_module_that_lies_elsewhere_is_imported() -> None:
    assert run(
        "import sys, scipy\n"
        "found, scipy.__path__ = scipy.__path__, ['/nowhere', *scipy.__path__]\n"
        "from spectral.native import LAPACK, scipy_extension\n"
        "module = scipy_extension(LAPACK)\n"
        "print(module is sys.modules[LAPACK])\n"
    ) == ("True")


def test_a_compiled_module_that_scipy_has_not() -> None:
    with pytest.raises(ModuleNotFoundError, match="cython_nothing"):
        scipy_extension("scipy.linalg.cython_nothing")


def test_the_analysis_of_a_matrix_does_not_load_the_package() -> None:
    assert (
        run(
            "import sys\n"
            "import numpy as np\n"
            "import spectral\n"
            "weight = np.random.default_rng(0).normal(size=(300, 200))\n"
            "spectral.analyze({'layer.weight': weight}, traps=True, n_workers=1)\n"
            "print([name for name in ('scipy.linalg', 'scipy.optimize', 'numpy.f2py') if name in sys.modules])\n"
        )
        == "[]"
    )
