"""A run in the foreground of a terminal: shown on stderr while it goes on, its result on stdout."""

from __future__ import annotations

import json
import os
import secrets
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from bondwise.atomic import from_json
from bondwise.journal import STATUS
from bondwise.ranks import Ranks
from bondwise.run import CANCELLED, DONE, RESULT, start
from bondwise.schema import RunStatus
from bondwise.share import help_run
from bondwise.summary import result_text
from bondwise.terminal import ProgressLine, say, show

if TYPE_CHECKING:
    from collections.abc import Generator


def follow(directory: Path, *, as_json: bool) -> int:
    """Does the run in this process, shows it on stderr and its result on stdout."""
    # The bars of libraries would fill log.txt with redrawn lines; the run shows its own progress. tqdm reads this when it is imported.
    os.environ.setdefault("TQDM_DISABLE", "1")
    if (ranks := Ranks(directory)).rank > 0:
        with _output_to_log(directory):
            return help_run(directory, ranks)
    shown = _Shown()
    with _output_to_log(directory) as screen:
        line = ProgressLine(screen)
        shown.line = line
        line.line(f"Run directory: {directory}")
        try:
            exit_status = start(directory, shown)
        finally:
            line.close()
    if shown.last is None and exit_status == DONE:
        say("This run is done already; nothing was done again.")
    status = shown.last or RunStatus.model_validate_json((directory / STATUS).read_bytes())
    result: dict[str, Any] = json.loads((directory / RESULT).read_bytes()) if exit_status == DONE else {}
    if status.error:
        say(status.error.message, status.error.remedy)
    elif exit_status == CANCELLED:
        say("Cancelled. What is finished is kept.", f"To go on: start {directory}")
    if as_json:
        # `perplexity` has its figures at the top level: that is what scripts read.
        figures = {**result, **(result.get("evaluation") or {})}
        error = {"error": status.error.model_dump(exclude={"detail"})} if status.error else {}
        show(json.dumps({**figures, "state": status.state, "run": str(directory), **error}))
    elif result:
        show(result_text(result))
    return exit_status


class _Shown:
    """Passes what happens on to the screen and remembers the last status."""

    def __init__(self) -> None:
        self.line: Any = None
        self.last: RunStatus | None = None

    def status(self, status: RunStatus) -> None:
        self.last = status
        self.line.status(status)

    def event(self, event: Any) -> None:
        self.line.event(event)


@contextmanager
def _output_to_log(directory: Path) -> Generator[TextIO]:
    """Sends stdout and stderr, of libraries and child processes too, to `log.txt`; gives the stream that a person looks at.

    When stderr is that file already (the editor starts runs so) nothing changes.
    """
    try:
        log = os.open(directory / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError:
        # `start` says what is wrong with the directory.
        yield sys.stderr
        return
    try:
        if os.path.sameopenfile(log, 2):
            yield sys.stderr
            return
        saved = [os.dup(1), os.dup(2)]
        with os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace") as screen:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(log, 1)
            os.dup2(log, 2)
            try:
                yield screen
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                for number, descriptor in enumerate(saved, start=1):
                    os.dup2(descriptor, number)
                    os.close(descriptor)
    finally:
        os.close(log)


def new_run_directory(kind: str) -> Path:
    name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{kind}-{secrets.token_hex(3)}"
    return Path(os.path.abspath(".")) / ".bondwise" / "runs" / name  # noqa: PTH100


def same_request(path: Path, document: dict[str, Any]) -> bool:
    """Whether a folder given by --run asks for the same: then the command goes on with it, after a kill too."""
    try:
        there = from_json(path.read_bytes())
    except ValueError:
        return False
    return isinstance(there, dict) and {**there, "created": None} == {**document, "created": None}
