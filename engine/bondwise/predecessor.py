"""A run that waits for another one: the second step of a plan, started with the first, so that nobody has to be there in between."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from pydantic import ValidationError

from bondwise.errors import UserError
from bondwise.journal import STATUS
from bondwise.process import is_alive
from bondwise.request import REQUEST
from bondwise.schema import RunStatus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

POLL_SECONDS = 0.5
START_SECONDS = 120.0
"""A run that nobody has taken up for this long will not be."""


def await_run(directory: Path, check_cancelled: Callable[[], None], say: Callable[[str], None]) -> None:
    """Returns when the run in `directory` is done. `say` is told what is waited for, `check_cancelled` may raise meanwhile.

    Raises UserError where it ended otherwise, or its process is gone.
    """
    title = _title(directory)
    said, since = False, time.monotonic()
    while True:
        check_cancelled()
        status = _read(directory)
        if status is not None and status.state == "done":
            return
        if status is not None and status.state in ("failed", "cancelled", "interrupted"):
            raise _gave_up(title, status.state)
        if status is None or status.process is None:
            if time.monotonic() - since > START_SECONDS:
                raise _gave_up(title, "never started")
        elif is_alive(status.process) is False:
            # It may have written its end between the two looks.
            last = _read(directory)
            if last is not None and last.process == status.process and last.state != "done":
                raise _gave_up(title, "interrupted")
        if not said:
            say(f"Waiting for “{title}”")
            said = True
        time.sleep(POLL_SECONDS)


def _gave_up(title: str, state: str) -> UserError:
    return UserError(f"“{title}”, which this run goes on from, was {state}.", "Resume that one first, then this one.")


def _title(directory: Path) -> str:
    with suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads((directory / REQUEST).read_bytes())["title"])
    raise UserError(f"{directory}, which this run waits for, is not a run directory.", "Start the run again from the editor.")


def _read(directory: Path) -> RunStatus | None:
    try:
        return RunStatus.model_validate_json((directory / STATUS).read_bytes())
    except (OSError, ValidationError):
        return None
