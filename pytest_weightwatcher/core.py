"""Make sure that ``import spectral`` gives this project's core.

``spectral`` is also the import name of an unrelated package for hyperspectral images ("SPy").
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from pytest_weightwatcher.errors import WrongSpectralPackageError


def require_spectral_core() -> None:
    """Raise one clear sentence where ``spectral`` is another package, or is missing.

    Raises
    ------
    WrongSpectralPackageError
        The package found under that name is not the core of pytest-weightwatcher.
    """
    spec = find_spec("spectral")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    if any((Path(folder) / "weights.py").is_file() and (Path(folder) / "spectrum.py").is_file() for folder in folders):
        return
    place = spec.origin if spec is not None else None
    raise WrongSpectralPackageError(
        f"the package 'spectral' at {place} is not the core of pytest-weightwatcher (another package has this "
        "import name, such as SPy for hyperspectral images): uninstall it and reinstall pytest-weightwatcher"
        if place is not None
        else "the package 'spectral', the core of pytest-weightwatcher, is missing: reinstall pytest-weightwatcher"
    )
