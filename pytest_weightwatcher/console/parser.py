"""The command line of ``ww-gate``."""

from __future__ import annotations

import argparse
import sys
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_weightwatcher.console.flags import add_flags, integer, number
from pytest_weightwatcher.nodeids import printable
from pytest_weightwatcher.options import (
    CONFIG_NAME,
    FAIL_ON,
    FORMS,
    MIN_BUDGET,
    PROFILE_NAMES,
    REPORT_TYPES,
    parse_jobs,
    report_argument,
    seed_argument,
    text_argument,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = "ww-gate"
USAGE_ERROR = 4
"""Exit code of whatever is wrong with the input, as in the gate."""

TEXT_COMMANDS = ("schema", "explain", "report", "init", "check")
"""Commands whose result is plain text, no tables."""

FORMATS = ("table", "csv", "json", "md")
METHODS = ("raw", "euclidean", "cka")
PEFT_MODES = ("adapter_only", "with_base", "merged")
N_LEADING = 10
"""Leading directions that ``compare`` looks at; that of :mod:`spectral.subspaces`."""

DEFAULT_RATE = 0.01
"""Share of good runs that may raise a false alarm, as in the gate's own tests."""

_SUFFIXES = {".csv": "csv", ".json": "json", ".md": "md"}


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence and exit code 4."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(allow_abbrev=False, **arguments)

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"{self.prog}: error: {printable(message)}; see {self.prog} --help\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse what is unknown here, where the options of the subcommand are known."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            known = [name for action in self._actions for name in action.option_strings]
            close = get_close_matches(unknown[0].partition("=")[0], known, n=1)
            self.error(f"unknown argument {unknown[0][:100]}" + (f"; did you mean {close[0]}?" if close else ""))
        return found, unknown


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read a command line; ``--help``, ``--version`` and errors end the program."""
    arguments = make_parser().parse_args(sys.argv[1:] if argv is None else list(argv))
    if arguments.command not in TEXT_COMMANDS and arguments.format is None:
        suffix = arguments.output[arguments.output.rfind(".") :].lower() if arguments.output else ""
        arguments.format = _SUFFIXES.get(suffix, "table")
    if arguments.command == "calibrate" and arguments.format in ("csv", "md"):
        arguments.format = "table"
    return arguments


def make_parser() -> Parser:
    """Return the parser with its subcommands."""
    from spectral import __version__

    parser = Parser(
        prog=PROGRAM,
        description="Spectra of neural-network checkpoints: nothing in a checkpoint is ever executed.",
        epilog="Exit codes: 0 done, 4 the input cannot be used as asked, 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    _add_describe(commands)
    _add_analyze(commands)
    _add_compare(commands)
    _add_check(commands)
    _add_init(commands)
    _add_calibrate(commands)
    _add_explain(commands)
    _add_report(commands)
    _add_schema(commands)
    return parser


def _add_describe(commands: Any) -> None:
    parser = commands.add_parser(
        "describe",
        help="what a checkpoint holds, from its headers alone",
        description="List the layers of checkpoints and the tensors that have no spectrum, with the reasons. "
        "Reads headers only (with --peft and --stacked, and other formats than safetensors, what these need).",
    )
    _add_models(parser)
    _add_base(parser)
    _add_output(parser)
    add_flags(parser, "selection", "form")


def _add_analyze(commands: Any) -> None:
    parser = commands.add_parser(
        "analyze",
        help="the spectrum of every layer, its norms, ranks and fits",
        description="Compute and fit the spectrum of every weight matrix of checkpoints.",
    )
    _add_models(parser)
    _add_base(parser)
    _add_output(parser)
    _add_jobs(parser)
    add_flags(parser, "selection", "form", "fit", "tests")


def _add_compare(commands: Any) -> None:
    parser = commands.add_parser(
        "compare",
        help="how far checkpoints are from a base, layer by layer",
        description="Compare checkpoints with a base of the same architecture: distances of the weights, leading "
        "singular directions, spectra, ranks and norms, and alpha at the tail of the base.",
    )
    parser.add_argument("base", metavar="BASE", type=text_argument, help="checkpoint to compare with")
    _add_models(parser)
    _add_output(parser)
    _add_jobs(parser)
    parser.add_argument(
        "--method",
        choices=METHODS,
        default="raw",
        help="distance of the weights: Frobenius norm of the difference, its mean over slices, or the similarity cka "
        "(default: raw)",
    )
    parser.add_argument(
        "--directions",
        type=integer,
        default=N_LEADING,
        metavar="K",
        help=f"leading singular directions that are compared (default: {N_LEADING})",
    )
    add_flags(parser, "selection")


def _add_init(commands: Any) -> None:
    parser = commands.add_parser(
        "init",
        help="a first ww.yaml, fitted to a checkpoint",
        description="Analyse a checkpoint as the gate does, and write a commented ww.yaml that it passes.",
    )
    parser.add_argument(
        "model", metavar="MODEL", type=text_argument, help="checkpoint: a file, or a folder with shards"
    )
    parser.add_argument(
        "--output", type=text_argument, default=CONFIG_NAME, metavar="FILE", help=f"write here (default: {CONFIG_NAME})"
    )
    parser.add_argument("--force", action="store_true", help="write over a file that exists")
    parser.add_argument(
        "--baseline",
        type=text_argument,
        metavar="PATH",
        help="where the baseline is recorded, or an accepted checkpoint (default: baselines/{stem}.ww.json)",
    )
    _add_profile(parser)
    _add_exclude(parser)
    _add_jobs(parser)


def _add_exclude(parser: Parser) -> None:
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        type=text_argument,
        metavar="PATTERN",
        help="leave out layers whose full name matches the shell pattern; may be given again",
    )


def _add_calibrate(commands: Any) -> None:
    parser = commands.add_parser(
        "calibrate",
        help="limits from known-good checkpoints, at an expected rate of false alarms",
        description="Propose limits from known-good checkpoints of one architecture: the first is the reference that "
        "the others are compared with, unless --baseline names it. The more there are, the narrower the limits.",
    )
    parser.add_argument(
        "models", metavar="GOOD", nargs="+", type=text_argument, help="known-good checkpoint; at least two"
    )
    parser.add_argument(
        "--baseline",
        type=text_argument,
        metavar="REF",
        help="what the gate will compare with: a checkpoint, or a recorded baseline (.json)",
    )
    parser.add_argument(
        "--rate",
        type=_rate,
        default=DEFAULT_RATE,
        metavar="P",
        help=f"expected share of good runs that raise a false alarm (default: {DEFAULT_RATE})",
    )
    _add_profile(parser)
    _add_exclude(parser)
    section = parser.add_argument_group("output")
    section.add_argument(
        "--format",
        choices=("table", "json"),
        help="default: what the suffix of --output says, otherwise table, with a piece of ww.yaml below",
    )
    section.add_argument("--output", type=text_argument, metavar="FILE", help="write here, not to the terminal")
    _add_jobs(parser)


def _add_profile(parser: Parser) -> None:
    parser.add_argument(
        "--profile",
        choices=PROFILE_NAMES,
        default=PROFILE_NAMES[0],
        help="question asked beside the baseline: are the weights the same but for rounding (compression), or has any "
        f"layer's health become worse (finetune)? (default: {PROFILE_NAMES[0]})",
    )


def _add_check(commands: Any) -> None:
    parser = commands.add_parser(
        "check",
        help="the verdicts of pytest --ww-model, without pytest",
        description="Judge checkpoints by the limits of ww.yaml and against a baseline, as pytest --ww-model does. "
        "Exit code 1 where a check fails, 5 where nothing was checked, 4 where the input cannot be used.",
    )
    parser.add_argument(
        "models", metavar="MODEL", nargs="*", type=text_argument, help="checkpoints (default: models of ww.yaml)"
    )
    parser.add_argument("--baseline", metavar="PATH", type=text_argument, help="baseline file, or accepted checkpoint")
    parser.add_argument("--config", metavar="PATH", type=text_argument, help="limits (default: ww.yaml, if any)")
    parser.add_argument("--profile", choices=PROFILE_NAMES, help="the question asked beside the baseline")
    parser.add_argument("--fail-on", choices=FAIL_ON, help="the mildest verdict that fails (default: fail)")
    parser.add_argument("--seed", metavar="N", type=seed_argument, help="seed of everything random")
    parser.add_argument(
        "--format", choices=("text", *FORMS), default="text", help="text (default), or a report of the gate"
    )
    _add_jobs(parser)


def _add_explain(commands: Any) -> None:
    parser = commands.add_parser(
        "explain",
        help="why checks of a run decided as they did, and what would make them pass",
        description="Say of checks in a result file which rule decided, where it comes from, what it could have seen "
        "and what would make it pass.",
    )
    parser.add_argument(
        "result", metavar="RESULT", type=text_argument, help="result file, written with --ww-report=json:RESULT"
    )
    parser.add_argument(
        "items",
        metavar="ITEM",
        nargs="*",
        default=[],
        type=text_argument,
        help="node id of a check, the end of it, or a shell pattern (default: everything that warned or failed)",
    )


def _add_report(commands: Any) -> None:
    parser = commands.add_parser(
        "report",
        help="reports from result files, of which several are merged",
        description="Write reports from result files, without a model at hand. Results of shards and of several jobs "
        "are merged, in whatever order they are given; results that contradict each other are an error.",
    )
    parser.add_argument(
        "results",
        metavar="RESULT",
        nargs="+",
        type=text_argument,
        help="result file, written with --ww-report=json:RESULT",
    )
    parser.add_argument(
        "--report",
        action="append",
        type=report_argument,
        metavar="TYPE:PATH",
        help=f"write a report (- for the standard output); TYPE is one of {', '.join(REPORT_TYPES)}; may be given "
        "again (default: md:-)",
    )
    parser.add_argument(
        "--budget",
        type=_budget,
        metavar="BYTES",
        help="size of a Markdown report (default: what a comment on GitHub takes, for md-append what a job summary "
        "takes)",
    )


def _add_schema(commands: Any) -> None:
    parser = commands.add_parser(
        "schema",
        help="the JSON Schema of ww.yaml, for editors, or of result files",
        description="Print the JSON Schema (draft 2020-12) of ww.yaml, which ships in the package as ww.schema.json.",
    )
    parser.add_argument(
        "--result", action="store_true", help="that of result.json, which ships in the package as result.schema.json"
    )


def _add_models(parser: Parser) -> None:
    parser.add_argument(
        "models", metavar="MODEL", nargs="+", type=text_argument, help="checkpoint: a file, or a folder with shards"
    )


def _add_base(parser: Parser) -> None:
    parser.add_argument(
        "--base-model", type=text_argument, metavar="PATH", help="analyse what each MODEL changed in this one"
    )
    parser.add_argument(
        "--peft",
        choices=PEFT_MODES,
        help="each MODEL is a LoRA adapter: its updates alone, these beside updated and base weights, or the merged "
        "model (the last two with --base-model)",
    )


def _add_output(parser: Parser) -> None:
    section = parser.add_argument_group("output")
    section.add_argument("--format", choices=FORMATS, help="default: what the suffix of --output says, otherwise table")
    section.add_argument("--output", type=text_argument, metavar="FILE", help="write here, not to the terminal")
    section.add_argument(
        "--columns",
        type=_columns,
        metavar="A,B,..",
        help="columns of the layer table besides id and name, or: all (not for json, which always has all)",
    )
    section.add_argument(
        "--sort", type=text_argument, metavar="COLUMN[:desc]", help="order of the layers (default: of the model)"
    )
    section.add_argument("--top", type=_count, metavar="N", help="only the first N layers of that order")


def _add_jobs(parser: Parser) -> None:
    parser.add_argument(
        "--jobs",
        type=parse_jobs,
        metavar="N",
        help="matrices analysed at once (default: auto, one per core); results do not depend on it",
    )


def _columns(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f"expected names with commas between them, got {text[:100]!r}")
    return tuple(dict.fromkeys(names))


def _rate(text: str) -> float:
    value = number(text)
    if not 0.0 < value < 1.0:
        raise argparse.ArgumentTypeError(f"expected a share between 0 and 1, got {text[:50]!r}")
    return value


def _budget(text: str) -> int:
    value = integer(text)
    if value < MIN_BUDGET:
        raise argparse.ArgumentTypeError(f"expected at least {MIN_BUDGET} bytes, got {value}")
    return value


def _count(text: str) -> int:
    value = integer(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {value}")
    return value
