"""What becomes of a judgement: waivers, and what an inconclusive one counts as. Applied once, after the numbers."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from pytest_weightwatcher.checks import WAIVERS
from pytest_weightwatcher.verdict import Judgement, Verdict

if TYPE_CHECKING:
    from datetime import date

    from pytest_weightwatcher.config import Config, Waiver


def current_date() -> date:
    """Return the day on which waivers are judged, in UTC."""
    return datetime.now(timezone.utc).date()


def apply_policy(judgement: Judgement, layer: str | None, config: Config, today: date) -> Judgement:
    """Return the judgement after the waivers and the policy of a ww.yaml.

    Parameters
    ----------
    judgement : Judgement
        From the numbers alone.
    layer : str or None
        Layer name; None for the model as a whole.
    config : Config
        With ``waivers`` and ``policy``.
    today : date
        The day of the run.
    """
    if judgement.verdict is Verdict.INCONCLUSIVE and config.policy.inconclusive != "skip":
        verdict = Verdict.FAIL if config.policy.inconclusive == "fail" else Verdict.WARN
        judgement = replace(judgement, verdict=verdict, detail=f"inconclusive: {judgement.detail}", is_undecided=True)
    if judgement.verdict not in (Verdict.WARN, Verdict.FAIL) or judgement.check == WAIVERS:
        return judgement
    waivers = [waiver for waiver in config.waivers if is_covered(waiver, judgement.check, layer)]
    valid = [waiver for waiver in waivers if today <= waiver.expires]
    if valid:
        detail = f"{judgement.detail}; waived until {valid[0].expires}: {_why(valid[0])}"
        return replace(judgement, verdict=Verdict.WAIVED, detail=detail)
    if waivers:
        detail = f"{judgement.detail}; its waiver expired on {waivers[0].expires} ({_why(waivers[0])})"
        return replace(judgement, verdict=Verdict.FAIL, detail=detail)
    return judgement


def is_covered(waiver: Waiver, check: str, layer: str | None) -> bool:
    """Tell whether a waiver is about a check of a layer, or of the model as a whole where ``layer`` is None."""
    is_of_layer = waiver.match == "*" if layer is None else fnmatchcase(layer, waiver.match)
    return is_of_layer and fnmatchcase(check, waiver.check)


def judge_waivers(config: Config, today: date) -> Judgement:
    """Fail a run with expired waivers, and list all of them, each with its line."""
    waivers = config.waivers
    expired = [waiver for waiver in waivers if not today <= waiver.expires]
    lines = [config.line_of((WAIVERS, index)) for index in range(len(waivers))]
    listed = "; ".join(
        f"{'' if line is None else f'line {line}: '}{waiver.check} of {waiver.match} "
        f"{'EXPIRED on' if waiver in expired else 'until'} {waiver.expires}: {_why(waiver)}"
        for waiver, line in zip(waivers, lines, strict=True)
    )
    return Judgement(
        check=WAIVERS,
        verdict=Verdict.FAIL if expired else Verdict.PASS,
        value=float(len(expired)),
        limit={"max": 0.0},
        detail=f"{len(waivers)} waivers, {len(expired)} expired: {listed}",
        resolution="dates are compared with today's in UTC",
    )


def _why(waiver: Waiver) -> str:
    return waiver.reason if waiver.owner is None else f"{waiver.reason} (owner: {waiver.owner})"
