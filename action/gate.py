"""The step that judges: runs, then outputs, summary and annotations. What the job comes to is said by a later step."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from action.inputs import ActionError, read_gate_inputs
from action.publication import Publication
from action.runner import read_runner
from action.trial import Court, Trial, broken_trial, relative_inputs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TextIO


def run_gate(environ: Mapping[str, str], stream: TextIO) -> int:
    """Judge the models and say so everywhere but in the exit code.

    Parameters
    ----------
    environ : mapping of str to str
        ``WW_...`` for each input, ``WW_PYTHON`` with the plugin, and the runner's own variables.
    stream : text stream
        The log.
    """
    runner = read_runner(environ)
    folder = Path(tempfile.mkdtemp(prefix="ww-gate-", dir=runner.temp))
    try:
        inputs = relative_inputs(read_gate_inputs(environ), runner.workspace)
    except ActionError as error:
        said = Publication(trial=broken_trial(str(error)), inputs=None, runner=runner, folder=folder)
    else:
        court = Court(python=environ["WW_PYTHON"], inputs=inputs, runner=runner, folder=folder, stream=stream)
        said = Publication(trial=_hold(court), inputs=inputs, runner=runner, folder=folder)
    said.publish(environ, stream)
    return 0


def _hold(court: Court) -> Trial:
    try:
        return court.hold()
    except ActionError as error:
        return broken_trial(str(error))
    except OSError as error:
        # A folder where a report should go, a name too long for the file system, a full disk.
        return broken_trial(f"{str(error.filename)[:200]}: {error.strerror}")
