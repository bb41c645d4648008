"""The keywords of ``weightwatcher`` 0.7.7, checked, as options of the core."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from spectral import dropin_names as ww
from spectral.errors import OptionError
from spectral.options import AnalysisOptions

if TYPE_CHECKING:
    from spectral.adapters import AdapterMode

_LOGGER = logging.getLogger("spectral.weightwatcher")

_PEFT_MODES: dict[Any, AdapterMode | None] = {
    None: None,
    False: None,
    True: "adapter_only",
    "peft": "adapter_only",
    "peft_only": "adapter_only",
    "adapter_only": "adapter_only",
    ww.PEFT_WITH_BASE: "with_base",
}

_PASSED_ON = (
    "fit",
    "xmin_max",
    "finger_thresh",
    "conv2d_norm",
    "conv2d_fft",
    "fft",
    "glorot_fix",
    "inverse",
    "channels",
    "stacked",
    "intra",
    "sparsify",
    "mp_fit",
    "randomize",
    "vectors",
)
"""Keywords that the core has under the same name, with the same values."""


def analysis_options(keywords: dict[str, Any], *, seed: int = 0) -> AnalysisOptions:
    """Translate the keywords of ``analyze``.

    Parameters
    ----------
    keywords : dict
        By their names there; one that is not given has its default there. ``layers`` is not among them.
    seed : int
        Of everything random.

    Returns
    -------
    AnalysisOptions
        Without limits of size from below: see :func:`spectral.dropin_plan.counted_description`.

    Raises
    ------
    OptionError
        An impossible value, or options that contradict each other; there most are an ``Exception`` with a log.
    """
    given = {"pool": True, "svd_method": ww.FAST_SVD, "pl_package": ww.DEFAULT_POWERLAW_PACKAGE, **keywords}
    _warn_of_ignored(given)
    _check_words(given)
    min_evals, max_evals, max_n = limits(given)
    options = {name: given[name] for name in _PASSED_ON if name in given}
    if isinstance(options.get("channels"), str):
        options["channels"] = options["channels"].lower()
    return AnalysisOptions(
        **options,
        pool=is_pooled(given),
        detX=bool(given.get("detX") or given.get("ERG")),
        fix_fingers=given.get("fix_fingers") or None,
        max_fingers=_or_default(given.get("max_fingers"), ww.DEFAULT_MAX_FINGERS),
        tolerance=given.get("tolerance") or ww.WEAK_RANK_LOSS_TOLERANCE,
        xmax=_xmax(given.get("xmax")),
        min_evals=max(2, min_evals),
        max_evals=max_evals or None,
        max_N=max_n,
        seed=seed,
    )


def is_pooled(keywords: dict[str, Any]) -> bool:
    """Return whether slices are pooled; ``ww2x`` is an old word for the contrary."""
    return bool(keywords.get("pool", True)) and not keywords.get("ww2x")


def limits(keywords: dict[str, Any]) -> tuple[int, int, int | None]:
    """Return min_evals, max_evals (0 for no limit) and max_N, checked as there.

    Raises
    ------
    OptionError
        No integers, or limits that exclude each other.
    """
    min_evals = _or_default(keywords.get("min_evals", ww.DEFAULT_MIN_EVALS), 0)
    max_evals = _or_default(keywords.get("max_evals", ww.DEFAULT_MAX_EVALS), 0)
    max_n = keywords.get("max_N", ww.DEFAULT_MAX_N)
    for name, value, least in (("min_evals", min_evals, 0), ("max_evals", max_evals, -1)):
        if type(value) is not int or value < least:
            raise OptionError(f"{name} must be an integer of at least {least}, got {value!r}")
    max_evals = max(0, max_evals)
    if min_evals and max_evals and min_evals >= max_evals:
        raise OptionError(f"min_evals ({min_evals}) must be below max_evals ({max_evals})")
    for name, value in (("max_evals", max_evals), ("min_evals", min_evals)):
        if max_n is not None and max_n < value:
            raise OptionError(f"max_N ({max_n}) must not be below {name} ({value})")
    return min_evals, max_evals, max_n


def save_folder(savefig: object) -> str | None:
    """Return the folder that figures go to: ``ww-img`` for True, None for False and empty text.

    Raises
    ------
    OptionError
        Neither text nor a flag.
    """
    if isinstance(savefig, bool):
        return ww.DEF_SAVE_DIR if savefig else None
    if isinstance(savefig, str):
        return savefig or None
    raise OptionError(f"savefig must be a folder, True or False, got {savefig!r}")


def adapter_mode(peft: Any) -> AdapterMode | None:
    """Return what ``peft`` asks for.

    Raises
    ------
    OptionError
        Another value.
    """
    try:
        return _PEFT_MODES[peft]
    except (KeyError, TypeError):
        raise OptionError(f"peft must be True, False, 'peft_only' or 'with_base', got {peft!r}") from None


def check_start_ids(start_ids: object) -> int:
    """Return the number of the first layer.

    Raises
    ------
    OptionError
        No integer of at least 0.
    """
    if isinstance(start_ids, bool) or not isinstance(start_ids, int) or start_ids < 0:
        raise OptionError(f"start_ids must be an integer of at least 0, got {start_ids!r}")
    return start_ids


def _warn_of_ignored(given: dict[str, Any]) -> None:
    if given.get("min_size") or given.get("max_size"):
        _LOGGER.warning("min_size and max_size are ignored: they are called min_evals and max_evals now")
    if given.get("ww2x"):
        _LOGGER.warning("ww2x is deprecated: it means pool=False")


def _check_words(given: dict[str, Any]) -> None:
    if given["svd_method"] not in ww.VALID_SVD_METHODS:
        raise OptionError(f"svd_method must be one of {', '.join(ww.VALID_SVD_METHODS)}, got {given['svd_method']!r}")
    if given["pl_package"] not in (ww.POWERLAW_PACKAGE, ww.WW_POWERLAW_PACKAGE):
        raise OptionError(f"pl_package must be 'ww' or 'powerlaw', got {given['pl_package']!r}")


def _xmax(value: object) -> int | str | None:
    """Return the number of largest eigenvalues to ignore as a negative number, whatever its sign there."""
    if value is None or value is False:
        return None
    if value is True or value == 0:
        raise OptionError(f"xmax must be None, 'force' or a number of largest eigenvalues to ignore, got {value!r}")
    return -abs(value) if isinstance(value, int) else value  # type: ignore[return-value]  # checked by the core


def _or_default(value: Any, default: Any) -> Any:
    return default if value is None else value
