"""The two files of a run directory that others follow: `events.ndjson`, the journal, and `status.json`, the latest state."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from bondwise import atomic
from bondwise.errors import UserError
from bondwise.schema import Event, ProcessIdentity, Progress, RunStatus

if TYPE_CHECKING:
    from pathlib import Path

JOURNAL = "events.ndjson"
STATUS = "status.json"
HEARTBEAT_SECONDS = 2.0
"""`status.json` is at most this old while the process lives; the contract allows 5 s."""
PROGRESS_SECONDS = 0.25
WINDOW_SECONDS = 30.0

E = TypeVar("E", bound=Event)


class Observer(Protocol):
    """Whoever shows a run while it goes on in this process. Called from several threads."""

    def status(self, status: RunStatus) -> None: ...
    def event(self, event: Any) -> None: ...


def utc_now() -> str:
    """The time in UTC, ISO 8601 with milliseconds, as every file has it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Journal:
    """`events.ndjson`, opened to append.

    Opening cuts off what a crash left of a last line. Everything before stays byte by byte, and `seq` goes on from it.
    Raises UserError when a line before the last is not an event: then the file is not ours or was edited.
    """

    def __init__(self, path: Path, observer: Observer | None = None) -> None:
        self._path = path
        self._observer = observer
        self._lock = threading.Lock()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        text = path.read_bytes()
        events, whole = read_events(text, str(path))
        self.last: dict[str, Any] | None = events[-1] if events else None
        self.started_before = any(event["type"] == "started" for event in events)
        if whole < len(text):
            os.ftruncate(self._file, whole)
        self._size = whole
        if whole > 0 and text[whole - 1 : whole] != b"\n":
            self._append(b"\n")
        os.fsync(self._file)
        atomic.sync_directory(path.parent)

    def emit(self, event: type[E], **fields: Any) -> E:
        """Appends an event; it is on disk when this returns. Raises OSError when it cannot be (the file is then as before)."""
        with self._lock:
            seq = self.last["seq"] + 1 if self.last else 1
            made = event(seq=seq, time=utc_now(), **fields)
            line = atomic.to_json(made)
            self._append(line.encode() + b"\n")
            os.fsync(self._file)
            self.last = json.loads(line)
        if self._observer:
            self._observer.event(made)
        return made

    def close(self) -> None:
        os.close(self._file)

    def _append(self, data: bytes) -> None:
        left = data
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError as failure:
            # The disk is full: a later event must not be glued to half of this one.
            with suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise OSError(failure.errno, failure.strerror, str(self._path)) from None
        self._size += len(data)


def read_events(text: bytes, name: str) -> tuple[list[dict[str, Any]], int]:
    """The events of a journal and the length of the part that is whole.

    A last line without its newline counts when it is complete JSON: a reader may have seen it. Raises UserError for damage before the end.
    """
    events: list[dict[str, Any]] = []
    position = 0
    lines = text.splitlines(keepends=True)
    for index, line in enumerate(lines):
        event = _parse_event(line)
        if event is None:
            # A power cut may leave zeros or a part of one line; lines after that would mean something else happened.
            if any(_parse_event(later) for later in lines[index + 1 :]):
                raise UserError(f"{name}: line {index + 1} is damaged.", "Start the run again in a new run directory.")
            break
        if event["seq"] != len(events) + 1:
            raise UserError(
                f"{name}: line {index + 1} has seq {event['seq']}, not {len(events) + 1}.", "Start the run again in a new run directory."
            )
        events.append(event)
        position += len(line)
    return events, position


def _parse_event(line: bytes) -> dict[str, Any] | None:
    try:
        event = atomic.from_json(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("seq"), int) and isinstance(event.get("type"), str) else None


class Status:
    """`status.json`: a change of state is on disk when `set` returns; progress is written by a thread, which also shows that we live."""

    def __init__(self, path: Path, process: ProcessIdentity, observer: Observer | None = None) -> None:
        self._path = path
        self._observer = observer
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._rate = Rate()
        self.current = RunStatus(state="queued", phase="Starting the engine", process=process, updated=utc_now())
        self._thread = threading.Thread(target=self._keep_fresh, name="bondwise-status", daemon=True)

    def start(self) -> None:
        """Writes the first status and starts the thread. Raises OSError when the folder cannot be written."""
        self.set()
        self._thread.start()

    def set(self, **changes: Any) -> None:
        """Changes fields and writes the file. Raises OSError when it cannot be written."""
        with self._lock:
            self.current = self.current.model_copy(update=changes)
            if changes.get("progress", self) is None:
                self._rate = Rate()
            self._write(durable=True)

    def progress(self, done: float, total: float, unit: str) -> None:
        """Notes progress; the thread writes it. Costs microseconds, so that it can be called at every step."""
        with self._lock:
            rate = self._rate.update(done, time.monotonic())
            eta = max(total - done, 0) / rate if rate else None
            self.current = self.current.model_copy(update={"progress": Progress(done=done, total=total, unit=unit, rate=rate, eta=eta)})
        self._wake.set()

    def close(self) -> None:
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def _keep_fresh(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(HEARTBEAT_SECONDS)
            self._wake.clear()
            if self._stop.is_set():
                break
            # A full disk now may have room later; the run itself says so if it does not.
            with suppress(OSError), self._lock:
                self._write(durable=False)
            self._stop.wait(PROGRESS_SECONDS)

    def _write(self, *, durable: bool) -> None:
        self.current = self.current.model_copy(update={"updated": utc_now()})
        if self._observer:
            self._observer.status(self.current)
        atomic.write_json(self._path, self.current, durable=durable)


class Rate:
    """Units a second over the last half minute: steps of different size even out, and an old pace is forgotten."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque()

    def update(self, done: float, now: float) -> float | None:
        """The rate after `done` units at `now` (seconds, monotonic); None until two different times are known."""
        if self._samples and done < self._samples[-1][1]:
            self._samples.clear()
        # More than ten samples a second would only cost memory.
        if len(self._samples) > 1 and now - self._samples[-2][0] < 0.1:
            self._samples.pop()
        self._samples.append((now, done))
        while len(self._samples) > 2 and now - self._samples[1][0] > WINDOW_SECONDS:
            self._samples.popleft()
        first_time, first_done = self._samples[0]
        elapsed = now - first_time
        return (done - first_done) / elapsed if elapsed > 0 and done > first_done else None
