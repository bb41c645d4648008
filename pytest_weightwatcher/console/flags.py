"""The options of an analysis as flags of a command line.

The table repeats names and defaults of :class:`spectral.AnalysisOptions`, whose module needs numpy, so that
``--help`` does not wait for it; a test holds the two together.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pytest_weightwatcher.options import text_argument

if TYPE_CHECKING:
    from collections.abc import Callable

Group = Literal["selection", "form", "fit", "tests"]

HEADINGS: dict[Group, str] = {
    "selection": "which layers",
    "form": "in what form they are analysed",
    "fit": "fit of the tail",
    "tests": "further analyses",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One field of :class:`spectral.AnalysisOptions`.

    Attributes
    ----------
    option : str
        Name of the field.
    default : object
        Its default. A switch turns it around; a tuple is gathered from several uses of the flag.
    group : str
        Where the help lists it.
    help : str
        What it does.
    parse : callable, optional
        Text -> value; None for a switch.
    choices : tuple of str, optional
        The only values.
    metavar : str, optional
        What the help calls the value.
    """

    option: str
    default: Any
    group: Group
    help: str
    parse: Callable[[str], Any] | None = None
    choices: tuple[str, ...] | None = None
    metavar: str | None = None

    @property
    def name(self) -> str:
        """The flag: ``--min-evals``, or ``--no-pool`` for what is on unless it is switched off."""
        name = self.option.lower().replace("_", "-")
        return f"--no-{name}" if self.default is True else f"--{name}"


def integer(text: str) -> int:
    """Read a whole number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text[:50]!r}") from None


def number(text: str) -> float:
    """Read a number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {text[:50]!r}") from None


def layer_entry(text: str) -> int | str:
    """Read an id, or a type, name or pattern."""
    if text.removeprefix("-").isdecimal() and text.isascii():
        if text.startswith("-") and int(text) == 0:
            raise argparse.ArgumentTypeError("layer 0 cannot be dropped by its id: give its name, or its type")
        return int(text)
    return text_argument(text)


def force_or_integer(text: str) -> int | str:
    """Read ``force`` or a whole number."""
    return text if text == "force" else integer(text)


FLAGS: tuple[Flag, ...] = (
    Flag(
        option="layers",
        default=(),
        group="selection",
        parse=layer_entry,
        metavar="LAYER",
        help="only these layers: an id, a type (dense, conv2d, ..), a name or a shell pattern; with a minus before it "
        "(--layers=-embedding) all others; may be given again",
    ),
    Flag(
        option="exclude",
        default=(),
        group="selection",
        parse=text_argument,
        metavar="PATTERN",
        help="leave out layers whose full name matches the shell pattern; one that matches nothing is no error; "
        "may be given again",
    ),
    Flag(
        option="min_evals",
        default=8,
        group="selection",
        parse=integer,
        metavar="N",
        help="layers with fewer eigenvalues are not fitted and enter no mean",
    ),
    Flag(
        option="max_evals",
        default=None,
        group="selection",
        parse=integer,
        metavar="N",
        help="leave out layers with more eigenvalues",
    ),
    Flag(
        option="max_N",
        default=None,
        group="selection",
        parse=integer,
        metavar="N",
        help="leave out layers whose larger dimension is above N",
    ),
    Flag(option="pool", default=True, group="form", help="each slice of a convolution is a matrix of its own"),
    Flag(
        option="conv2d_norm", default=True, group="form", help="do not multiply 2-D convolutions by their usual factor"
    ),
    Flag(option="conv2d_fft", default=False, group="form", help="2-D convolutions as operators on an image"),
    Flag(option="fft", default=False, group="form", help="the real part of each slice's 2-D Fourier transform"),
    Flag(option="glorot_fix", default=False, group="form", help="divide by the scale of Glorot's initialisation"),
    Flag(option="inverse", default=False, group="form", help="the spectrum of the inverse: one over each eigenvalue"),
    Flag(
        option="channels",
        default=None,
        group="form",
        parse=str,
        choices=("first", "last"),
        help="force the orientation of 2-D convolutions: last (out, in, k, k) as in torch, first as in Keras",
    ),
    Flag(option="stacked", default=False, group="form", help="all layers stacked into one matrix"),
    Flag(option="intra", default=False, group="form", help="products of successive layers"),
    Flag(option="sparsify", default=True, group="form", help="with --intra: no random 0/1 matrix between the two"),
    Flag(
        option="fit",
        default="PL",
        group="fit",
        parse=str,
        choices=("PL", "power_law", "TPL", "truncated_power_law", "E_TPL"),
        help="law of the tail: power law, truncated power law, or truncated power law with xmin near the peak",
    ),
    Flag(
        option="fix_fingers",
        default=None,
        group="fit",
        parse=str,
        choices=("xmin_peak", "clip_xmax"),
        help="keep xmin near the peak of the spectrum, or drop the largest eigenvalues until alpha falls",
    ),
    Flag(
        option="xmin_max",
        default=None,
        group="fit",
        parse=number,
        metavar="X",
        help="with --fix-fingers xmin_peak or --fit E_TPL: the largest xmin, as an eigenvalue",
    ),
    Flag(
        option="max_fingers",
        default=10,
        group="fit",
        parse=integer,
        metavar="N",
        help="with --fix-fingers clip_xmax: the most eigenvalues it drops",
    ),
    Flag(
        option="finger_thresh",
        default=1.0,
        group="fit",
        parse=number,
        metavar="X",
        help="with --fix-fingers clip_xmax: the least fall of alpha for which it drops them",
    ),
    Flag(
        option="xmax",
        default=None,
        group="fit",
        parse=force_or_integer,
        metavar="-N|force",
        help="-N ignores the N largest eigenvalues; force ends the law at the largest",
    ),
    Flag(option="mp_fit", default=False, group="tests", help="fit the Marchenko-Pastur law"),
    Flag(
        option="randomize",
        default=False,
        group="tests",
        help="compare with the spectrum after the elements are permuted",
    ),
    Flag(option="detX", default=False, group="tests", help="the tail whose rescaled eigenvalues have product 1"),
    Flag(
        option="vectors",
        default=False,
        group="tests",
        help="entropy, localisation and participation of the eigenvectors",
    ),
    Flag(option="noise_test", default=False, group="tests", help="can the layer be told from noise (Tracy-Widom)?"),
    Flag(
        option="traps",
        default=False,
        group="tests",
        help="test for correlation traps (Tracy-Widom), and list the elements that carry each",
    ),
    Flag(option="farms", default=False, group="tests", help="alpha_farms, over windows of one aspect ratio"),
    Flag(
        option="bootstrap",
        default=0,
        group="tests",
        parse=integer,
        metavar="N",
        help="confidence interval of alpha from N replicas",
    ),
    Flag(
        option="goodness_of_fit",
        default=0,
        group="tests",
        parse=integer,
        metavar="N",
        help="p-value of the power law from N replicas",
    ),
    Flag(
        option="compare_tails",
        default=False,
        group="tests",
        help="likelihood-ratio tests against other laws of the tail",
    ),
    Flag(
        option="tolerance",
        default=1e-6,
        group="tests",
        parse=number,
        metavar="X",
        help="eigenvalues below this count as weak rank loss",
    ),
    Flag(
        option="false_alarm_rate",
        default=0.01,
        group="tests",
        parse=number,
        metavar="P",
        help="share of runs in which --noise-test (--traps) may raise a false alarm, over all layers of a model",
    ),
    Flag(option="seed", default=0, group="tests", parse=integer, metavar="N", help="of everything random"),
)
"""One flag for each field of :class:`spectral.AnalysisOptions`, in their groups."""


def add_flags(parser: argparse.ArgumentParser, *groups: Group) -> None:
    """Add the flags of some groups to a parser; one that is not given leaves no trace in the namespace."""
    for group in groups:
        section = parser.add_argument_group(HEADINGS[group])
        for flag in FLAGS:
            if flag.group == group:
                _add(section, flag)


def chosen_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the fields that the command line gave, under their names."""
    given = {flag.option: getattr(arguments, flag.option) for flag in FLAGS if hasattr(arguments, flag.option)}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def _add(section: Any, flag: Flag) -> None:
    common = {"dest": flag.option, "default": argparse.SUPPRESS}
    if flag.parse is None:
        section.add_argument(flag.name, action="store_const", const=not flag.default, help=flag.help, **common)
        return
    is_many = isinstance(flag.default, tuple)
    shown = "" if is_many or flag.default is None else f" (default: {flag.default})"
    section.add_argument(
        flag.name,
        action="append" if is_many else "store",
        type=flag.parse,
        choices=flag.choices,
        metavar=flag.metavar,
        help=flag.help + shown,
        **common,
    )
