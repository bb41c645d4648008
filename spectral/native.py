"""Find the BLAS and LAPACK routines that SciPy has loaded, to be called without Python's global lock.

SciPy publishes most of them with their C signatures (``scipy.linalg.cython_blas`` and ``cython_lapack``). What it does
not publish is looked up by name in the libraries it has loaded.
"""

from __future__ import annotations

import ctypes
import re
import sys
import threading
from functools import cache
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Routine = Callable[..., None]

SYMBOLS = ("scipy_{name}_", "scipy_{name}_64_", "{name}_", "{name}_64_")
"""How builds of OpenBLAS spell a Fortran routine: SciPy's own wheels with a prefix, 64-bit integers with a suffix."""


BLAS = "scipy.linalg.cython_blas"
LAPACK = "scipy.linalg.cython_lapack"

_loading = threading.Lock()


def scipy_extension(name: str) -> Any:
    """Return a compiled module of SciPy without running the package around it.

    ``scipy.linalg`` imports ``numpy.testing``, ``numpy.f2py`` and others on its way, a fifth of a second of a run that
    may compute one matrix. What is wanted here is a table of C functions in a file that needs none of them.

    Parameters
    ----------
    name : str
        Full name, such as :data:`BLAS` or :data:`LAPACK`.

    Returns
    -------
    module
        The same object that an import of this name gives, before or after. It is not listed in ``sys.modules``
        unless its package is.

    Raises
    ------
    ImportError
        SciPy has no such module.
    """
    with _loading:
        return _scipy_extension(name)


@cache
def _scipy_extension(name: str) -> Any:
    package, _, stem = name.rpartition(".")
    if package in sys.modules:
        return import_module(name)
    path = _extension_file(package, stem)
    spec = None if path is None else spec_from_file_location(name, path, loader=ExtensionFileLoader(name, str(path)))
    if spec is None or spec.loader is None:
        return import_module(name)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    # Cython lists its module on its own account. A later import of the package is to find it where it looks for it.
    sys.modules.pop(name, None)
    return module


def _extension_file(package: str, stem: str) -> Path | None:
    """Return the file of a compiled module in a package of SciPy, or None where it lies elsewhere."""
    import scipy  # on Windows, it says where its libraries are

    folder = Path(scipy.__path__[0], *package.split(".")[1:])
    return next((path for suffix in EXTENSION_SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()), None)


def published_routines(module: Any, signatures: Mapping[str, str]) -> tuple[Routine, ...] | None:
    """Return routines that a Cython module of SciPy publishes, or None where one of them is not as expected.

    Parameters
    ----------
    module : module
        From :func:`scipy_extension`.
    signatures : mapping of str to str
        Name -> C signature, ``d`` for SciPy's name of a double: ``void (char *, int *, d *)``.

    Returns
    -------
    tuple of callable or None
        In the order of the signatures. Each takes addresses (``ctypes.byref`` or integers).
    """
    capsules = getattr(module, "__pyx_capi__", {})
    found = [published_routine(capsules[name], signature) for name, signature in signatures.items() if name in capsules]
    usable = tuple(routine for routine in found if routine is not None)
    return usable if len(usable) == len(signatures) else None


def published_routine(capsule: Any, signature: str) -> Routine | None:
    """Return the routine in a capsule, or None where its signature is another."""
    get_name = ctypes.pythonapi.PyCapsule_GetName
    get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    name = get_name(capsule)
    # Cython spells the type __pyx_t_5scipy_6linalg_13cython_lapack_d. Wider integers would be another name.
    if name is None or re.sub(r"__pyx_t_\w+_d\b", "d", name.decode()) != signature:
        return None
    n_arguments = signature.count("*")
    # A function of ctypes.CDLL's kind gives up the global lock while it runs.
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * n_arguments)(get_pointer(capsule, name))


def loaded_symbol(name: str) -> Any:
    """Return a Fortran routine by its name from the BLAS libraries of this process, or None where none has it.

    The caller passes every integer as the address of 64 bits: on a little-endian machine a library with 32-bit
    integers reads the same value there. On others nothing is found.
    """
    if sys.byteorder != "little":
        return None
    from threadpoolctl import ThreadpoolController

    scipy_extension(LAPACK)  # so that its library is loaded
    for library in ThreadpoolController().select(user_api="blas").lib_controllers:
        for spelling in SYMBOLS:
            symbol = getattr(library.dynlib, spelling.format(name=name), None)
            if symbol is not None:
                return symbol
    return None
