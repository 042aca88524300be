"""What a person sees in a terminal: one line that is redrawn, or plain lines when the output goes to a file."""

from __future__ import annotations

import os
import re
import shutil
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bondwise.schema import Progress, RunStatus

REDRAW_SECONDS = 0.1
LINE_SECONDS = 10.0
_BAR = 24


class ProgressLine:
    """Shows a run on `stream` (the `Observer` of journal.py)."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._redraw = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._lock = threading.Lock()
        self._phase = ""
        self._shown = 0.0
        self._drawn = False

    def status(self, status: RunStatus) -> None:
        """Draws the state of the run; a new phase at once, progress not more often than a reader wants."""
        with self._lock:
            now = time.monotonic()
            new = status.phase != self._phase or status.state == "cancelling"
            if not status.phase or (not new and now - self._shown < (REDRAW_SECONDS if self._redraw else LINE_SECONDS)):
                return
            self._phase, self._shown = status.phase, now
            text = plain("Stopping at the next step" if status.state == "cancelling" else describe_progress(status.phase, status.progress))
            if self._redraw:
                width = max(shutil.get_terminal_size().columns - 1, 20)
                self._write("\r\x1b[K" + text[:width])
                self._drawn = True
            elif new or status.progress:
                self._write(text + "\n")

    def event(self, event: Any) -> None:
        """Prints what stays on the screen: warnings."""
        if event.type == "warning":
            self.line(f"Warning: {event.message}")

    def line(self, text: str) -> None:
        """Prints a line that stays, above the one that is redrawn."""
        with self._lock:
            self._clear()
            self._write(plain(text) + "\n")

    def close(self) -> None:
        """Takes the redrawn line away."""
        with self._lock:
            self._clear()

    def _clear(self) -> None:
        if self._drawn:
            self._write("\r\x1b[K")
            self._drawn = False

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def say(message: str, remedy: str | None = None) -> None:
    """A message to the person, on stderr."""
    print(plain(f"bondwise: {message}" + (f"\n{remedy}" if remedy else "")), file=sys.stderr, flush=True)


def show(text: str) -> None:
    """What was asked for, on stdout."""
    print(plain(text), flush=True)


def describe_progress(phase: str, progress: Progress | None) -> str:
    """`Compressing  [#####-----] 5/10 layers  2.1/s  0:03 left`."""
    if progress is None or progress.total <= 0:
        return phase
    share = min(max(progress.done / progress.total, 0.0), 1.0)
    filled = round(share * _BAR)
    parts = [phase, f"[{'#' * filled}{'-' * (_BAR - filled)}]", f"{_amount(progress.done)}/{_amount(progress.total)} {progress.unit}"]
    if progress.rate:
        parts.append(f"{_amount(progress.rate)}/s" if progress.rate >= 1 else f"{1 / progress.rate:.1f} s each")
    if progress.eta is not None:
        parts.append(f"{duration(progress.eta)} left")
    return "  ".join(parts)


def plain(text: str) -> str:
    """`text` with control characters and direction overrides written out: names from files must not steer the terminal."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", lambda match: ascii(match[0])[1:-1], text)


def duration(seconds: float) -> str:
    """`1:05:09`, `5:09`, `0:07`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def size(count: float) -> str:
    """Bytes in decimal units: `538 MB`."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if value >= 99.5 or unit == "B" else f"{value:.3g} {unit}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text under each other: the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(f"{cell:{'<' if column == 0 else '>'}{widths[column]}}" for column, cell in enumerate(row)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
