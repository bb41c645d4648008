"""Options of the plugin on the command line and in ini files. Imports nothing: every pytest run loads this."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

CONFIG_NAME = "ww.yaml"
MAX_SEED = 2**32 - 1
FORMS = ("json", "md", "html", "sarif", "benchmark", "badge")
"""Forms in which a result can be written."""

APPEND = "md-append"
"""The report type that adds Markdown to the end of a file, such as $GITHUB_STEP_SUMMARY."""

REPORT_TYPES = (*FORMS, APPEND)
MIN_BUDGET = 2000
"""Bytes in which a Markdown report can say its outcome and what it leaves out."""

FAIL_ON = ("fail", "warn", "never")
PROFILE_NAMES = ("compression", "finetune")


def add_options(parser: pytest.Parser) -> None:
    """Register the options of the group ``ww``, each also as an ini option."""
    group = parser.getgroup("ww", "quality of neural-network checkpoints (pytest-weightwatcher)")
    group.addoption(
        "--ww-model",
        action="append",
        type=text_argument,
        dest="ww_model",
        metavar="PATH",
        help="checkpoint to check: a file, a folder with shards, a shell pattern or a URL; may be given again",
    )
    group.addoption(
        "--ww-config", dest="ww_config", metavar="PATH", type=text_argument, help="limits and models (ww.yaml)"
    )
    group.addoption(
        "--ww-baseline",
        dest="ww_baseline",
        metavar="PATH",
        type=text_argument,
        help="baseline file (*.json) or accepted checkpoint to compare with; {stem} stands for the model's name",
    )
    group.addoption(
        "--ww-update-baseline",
        action="store_true",
        dest="ww_update_baseline",
        help="record the models as the accepted baseline instead of comparing with it; several models that share a "
        "baseline teach it how far accepted checkpoints lie apart",
    )
    group.addoption(
        "--ww-update-new-only",
        action="store_true",
        dest="ww_update_new_only",
        help="compare with the baseline, and record the layers that it does not hold yet",
    )
    group.addoption(
        "--ww-update-in-ci",
        action="store_true",
        dest="ww_update_in_ci",
        help="record even where the environment variable CI is set, which is refused otherwise",
    )
    group.addoption(
        "--ww-profile",
        dest="ww_profile",
        choices=PROFILE_NAMES,
        help="the question asked beside the baseline: are the weights the same but for rounding (compression), or has "
        "any layer's health become worse (finetune)",
    )
    group.addoption(
        "--ww-seed",
        dest="ww_seed",
        metavar="N",
        type=seed_argument,
        help="seed of everything random (default: analysis.seed of ww.yaml, or 0)",
    )
    group.addoption(
        "--ww-explain",
        action="append",
        dest="ww_explain",
        metavar="ITEM",
        type=text_argument,
        help="run the checks whose node id ends in ITEM (or matches it as a shell pattern), and say of each which rule "
        "decided, where it comes from, and what would make it pass; may be given again",
    )
    group.addoption(
        "--ww-report",
        action="append",
        dest="ww_report",
        metavar="TYPE:PATH",
        type=report_argument,
        help=f"write a report; TYPE is one of {', '.join(REPORT_TYPES)}; may be given again",
    )
    group.addoption(
        "--ww-fail-on",
        dest="ww_fail_on",
        choices=FAIL_ON,
        help="the mildest verdict that fails the run (default: fail)",
    )
    group.addoption(
        "--ww-jobs",
        dest="ww_jobs",
        metavar="N",
        type=jobs_argument,
        help="matrices analysed at once (default: auto, one per core)",
    )
    parser.addini("ww_model", "checkpoints to check, one per line", type="linelist", default=[])
    parser.addini("ww_config", "limits and models (default: ww.yaml)")
    parser.addini("ww_baseline", "baseline file or accepted checkpoint")
    parser.addini("ww_update_baseline", "record instead of compare", type="bool", default=False)
    parser.addini("ww_update_new_only", "record the layers that are new", type="bool", default=False)
    parser.addini("ww_update_in_ci", "record even in CI", type="bool", default=False)
    parser.addini("ww_profile", "the question asked beside the baseline: compression or finetune")
    parser.addini("ww_seed", "seed of everything random")
    parser.addini("ww_explain", "checks to explain, one per line", type="linelist", default=[])
    parser.addini("ww_report", "reports to write, TYPE:PATH, one per line", type="linelist", default=[])
    parser.addini("ww_fail_on", "the mildest verdict that fails the run: fail, warn or never")
    parser.addini("ww_jobs", "matrices analysed at once: a number or auto")


def is_active(config: pytest.Config) -> bool:
    """Tell whether a run was asked to check models: by options, by an ini file, or by options beside a ww.yaml."""
    if any(getattr(config.option, name) or config.getini(name) for name in ("ww_model", "ww_config")):
        return True
    return needs_a_model(config) and (config.invocation_params.dir / CONFIG_NAME).exists()


def is_asked_on_the_command_line(config: pytest.Config) -> bool:
    """Tell whether the command line, not an ini file, asks for the gate."""
    return bool(config.option.ww_model or config.option.ww_config)


def needs_a_model(config: pytest.Config) -> bool:
    """Tell whether the command line has an option that makes no sense without a model."""
    return any(getattr(config.option, name) for name in _NEED_A_MODEL)


_NEED_A_MODEL = (
    "ww_baseline",
    "ww_update_baseline",
    "ww_update_new_only",
    "ww_update_in_ci",
    "ww_profile",
    "ww_explain",
    "ww_report",
)


def text_argument(value: str) -> str:
    """Refuse an empty value: an unset variable in CI must not switch the gate off."""
    if not value:
        raise argparse.ArgumentTypeError("the value is empty")
    return value


def report_argument(value: str) -> str:
    """Check a TYPE:PATH and return it; xdist sends it on as text."""
    kind, colon, path = value.partition(":")
    if not colon or not path or kind not in REPORT_TYPES:
        raise argparse.ArgumentTypeError(
            f"expected TYPE:PATH with TYPE one of {', '.join(REPORT_TYPES)}, got {value!r}"
        )
    return value


def seed_argument(value: str) -> str:
    """Check a seed and return it as text."""
    if not value.isascii() or not value.isdigit() or int(value) > MAX_SEED:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to {MAX_SEED}, got {value!r}")
    return value


def parse_jobs(value: str) -> int | None:
    """Return the number of workers, or None for ``auto``."""
    if value == "auto":
        return None
    if not value.isascii() or not value.isdigit() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive number or auto, got {value!r}")
    return int(value)


def jobs_argument(value: str) -> str:
    """Check a number of workers and return it as text."""
    parse_jobs(value)
    return value
