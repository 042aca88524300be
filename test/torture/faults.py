"""Faults of the machine around runs of the engine, on tiny models: what the user is told, what is left, and how the run goes on.

A full disk and a read-only one are a tmpfs of our own where that may be mounted (root on Linux); elsewhere they are left out, and said.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kills import PATIENCE, Kind, end_fault, fault_of, fork_engine, kinds, wait, whole_lines

from bondwise import journal
from bondwise.process import own_identity
from bondwise.run import WORKERS, imported

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

TRIALS = {"short": 1, "usual": 6, "long": 30}


class Fault(Exception):
    """What did not go as it must."""


def told(run: Path) -> dict[str, Any]:
    return json.loads((run / "status.json").read_text())


def ended(child: int, what: str) -> int:
    status = wait(child, PATIENCE)
    if status is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise Fault(f"{what}: it did not end in {PATIENCE:.0f} s")
    if status < 0:
        raise Fault(f"{what}: ended by signal {-status}")
    return status


def in_words(run: Path, what: str, *wanted: str) -> None:
    """The run has failed with a sentence to act on, and no traceback."""
    status = told(run)
    error = status["error"] or {}
    if status["state"] != "failed" or not error.get("remedy"):
        raise Fault(f"{what}: {status['state']}, {error}")
    if not any(word in error["message"] for word in wanted):
        raise Fault(f"{what}: said {error['message']!r}")


@contextmanager
def small_disk(place: Path, megabytes: float) -> Generator[Callable[[str], None]]:
    """A tmpfs of that size on `place`; what it gives mounts it anew with other options."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={int(megabytes * 1e6)}", "tmpfs", str(place)], check=True, capture_output=True)

    def remount(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True, capture_output=True)

    try:
        yield remount
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False, capture_output=True)


def can_mount(work: Path) -> bool:
    try:
        with small_disk(work / "probe", 1):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def full_disk(kind: Kind, folder: Path, expected: Any, seconds: float, chance: random.Random) -> None:
    """The disk fills up at a random moment. The run says so and leaves nothing half; with room again it goes on to the same result."""
    with small_disk(folder, 200) as remount:
        os.environ["BONDWISE_HOME"] = str(folder / "home")
        run = kind.make(folder)
        child = fork_engine(run)
        time.sleep(chance.random() * 0.8 * seconds)
        hog = folder / "hog"
        with suppressed_full(), hog.open("wb") as file:
            while True:
                file.write(bytes(1 << 16))
        status = ended(child, "full disk")
        if status not in (0, 1):
            raise Fault(f"full disk: exit status {status}")
        if status == 1:
            # The status itself may not have found room; then the journal's end or the log has it.
            words = (run / "log.txt").read_text() + (run / "status.json").read_text()
            if not any(word in words for word in ("disk is full", "No space left", "are free", "could not be written down")):
                raise Fault(f"full disk: said {words[-400:]!r}")
            if fault := fault_of(folder, whole_lines(run)):
                raise Fault(f"full disk: {fault}")
        hog.unlink()
        before = whole_lines(run)
        remount("size=400000000")
        if ended(fork_engine(run), "with room again") != 0:
            raise Fault(f"with room again: {told(run)['error']}")
        if fault := end_fault(kind, folder, before, expected):
            raise Fault(f"with room again: {fault}")


@contextmanager
def suppressed_full() -> Generator[None]:
    try:
        yield
    except OSError as failure:
        if failure.errno != 28:
            raise


def read_only(kind: Kind, folder: Path, expected: Any, seconds: float, chance: random.Random) -> None:
    """The file system turns read-only at a random moment, as one does whose disk is failing."""
    with small_disk(folder, 200) as remount:
        os.environ["BONDWISE_HOME"] = str(folder / "home")
        run = kind.make(folder)
        child = fork_engine(run)
        time.sleep(chance.random() * 0.8 * seconds)
        try:
            remount("ro")
        except subprocess.CalledProcessError:
            # Busy: a file is open to be written. As the kernel would, by force, is not ours to do.
            ended(child, "read-only")
            return
        if ended(child, "read-only") not in (0, 1):
            raise Fault("read-only: it ended otherwise")
        remount("rw")
        if ended(fork_engine(run), "writable again") != 0 or kind.content(folder) != expected:
            raise Fault(f"writable again: {told(run)['error']}")


def begun(kind: Kind, folder: Path, seconds: float) -> tuple[Path, int]:
    """A run in a new folder, and the engine that has been at work on it for so long."""
    os.environ["BONDWISE_HOME"] = str(folder / "home")
    folder.mkdir()
    run = kind.make(folder)
    child = fork_engine(run)
    time.sleep(seconds)
    return run, child


def removed_run(kind: Kind, folder: Path, _expected: Any, seconds: float, chance: random.Random) -> None:
    """The run directory is deleted under the run: it ends, and does not fill the place again."""
    run, child = begun(kind, folder, chance.random() * 0.8 * seconds)
    shutil.rmtree(run, ignore_errors=True)
    ended(child, "the run directory deleted")
    if run.exists() and any(path.suffix != ".txt" for path in run.rglob("*") if path.is_file()):
        raise Fault(f"the run directory deleted: there again with {sorted(path.name for path in run.rglob('*'))}")


def clock_back(kind: Kind, folder: Path, expected: Any, seconds: float, chance: random.Random) -> None:
    """Killed, then resumed by a machine whose clock is a day behind."""
    run, child = begun(kind, folder, chance.random() * 0.8 * seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    before = whole_lines(run)
    now = journal.utc_now
    real = time.time
    journal.utc_now = lambda: (datetime.now(UTC) - timedelta(days=1)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    time.time = lambda: real() - 86_400
    try:
        if ended(fork_engine(run), "the clock set back") != 0:
            raise Fault(f"the clock set back: {told(run)['error']}")
    finally:
        journal.utc_now, time.time = now, real
    if fault := end_fault(kind, folder, before, expected):
        raise Fault(f"the clock set back: {fault}")


def pid_reused(kind: Kind, folder: Path, expected: Any, seconds: float, chance: random.Random) -> None:
    """The process that the status names is gone, and its id belongs to another one: to this very process."""
    run, child = begun(kind, folder, 0.2 + chance.random() * 0.6 * seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    status = told(run)
    if status["state"] in ("queued", "running"):
        status["process"]["pid"] = own_identity().pid
        (run / "status.json").write_text(json.dumps(status))
    before = whole_lines(run)
    if ended(fork_engine(run), "the process id used again") != 0:
        raise Fault(f"the process id used again: {told(run)['error']}")
    if fault := end_fault(kind, folder, before, expected):
        raise Fault(f"the process id used again: {fault}")


def two_engines(kind: Kind, folder: Path, expected: Any, seconds: float, chance: random.Random) -> None:
    """Two windows resume one run at once: one engine does it, the other refuses and touches nothing."""
    run, first = begun(kind, folder, chance.random() * 0.3)
    second = fork_engine(run)
    statuses = sorted((ended(first, "the first of two engines"), ended(second, "the second of two engines")))
    if statuses[0] != 0 or (statuses[1] != 0 and "already being worked on" not in (run / "log.txt").read_text()):
        raise Fault(f"two engines on one run: {statuses}, {(run / 'log.txt').read_text()[-300:]!r}")
    if fault := end_fault(kind, folder, b"", expected):
        raise Fault(f"two engines on one run: {fault}")


def two_runs(kind: Kind, folder: Path, expected: Any, _seconds: float, chance: random.Random) -> None:
    """Two runs on one device: by turns, never at once, both with their own result."""
    os.environ["BONDWISE_HOME"] = str(folder / "home")
    folder.mkdir()
    places = [folder / "one", folder / "two"]
    children: list[int] = []
    for place in places:
        place.mkdir()
        children.append(fork_engine(kind.make(place)))
        time.sleep(chance.random() * 0.2)
    overlaps, stop = list[str](), threading.Event()

    def look() -> None:
        while not stop.wait(0.01):
            states = [_state(place / "run") for place in places]
            # A status tells the end a moment after the device was given back.
            spans = [_span(place / "run") for place in places]
            if states == ["running", "running"] and not any(span and span[1] for span in spans):
                overlaps.append(str(states))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        statuses = [ended(child, "two runs on one device") for child in children]
    finally:
        stop.set()
        watcher.join()
    if statuses != [0, 0] or overlaps:
        raise Fault(f"two runs on one device: {statuses}, at once {len(overlaps)} times")
    for place in places:
        if kind.content(place) != expected and kind.name not in ("profile", "benchmark"):
            raise Fault("two runs on one device: a result differs")


def _state(run: Path) -> str:
    try:
        return told(run)["state"]
    except (OSError, ValueError):
        return ""


def _span(run: Path) -> tuple[bool, bool]:
    types = [json.loads(line)["type"] for line in whole_lines(run).splitlines()]
    return "started" in types, "ended" in types or (run / "result.json").exists()


def newer(kind: Kind, folder: Path, _expected: Any, _seconds: float, _chance: random.Random) -> None:
    """A run directory of a newer Bondwise is refused and left as it is, byte for byte."""
    os.environ["BONDWISE_HOME"] = str(folder / "home")
    folder.mkdir()
    run = kind.make(folder)
    request = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(request | {"version": 2, "ways": ["unheard of"]}))
    (run / "events.ndjson").write_text('{"seq":1,"time":"2030-01-01T00:00:00Z","type":"unheard-of"}\n')
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    if ended(fork_engine(run), "a run of a newer version") == 0:
        raise Fault("a run of a newer version was done")
    after = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file() and path.name not in ("log.txt", ".lock")}
    if after != before or "Update Bondwise" not in (run / "log.txt").read_text():
        raise Fault(f"a run of a newer version: {(run / 'log.txt').read_text()[-300:]!r}, {sorted(after)}")


FAULTS = (
    ("a disk that fills up", full_disk, True),
    ("a disk that turns read-only", read_only, True),
    ("the run directory deleted under the run", removed_run, False),
    ("the clock set back a day", clock_back, False),
    ("a process id used again", pid_reused, False),
    ("two engines on one run", two_engines, False),
    ("two runs on one device", two_runs, False),
    ("a run of a newer version", newer, False),
)


SHORT = (full_disk,)
"""What no test of the engine tries in this way."""


def torture(size: str, seed: int) -> list[dict[str, Any]]:
    for worker in WORKERS.values():
        imported(worker)
    import bitsandbytes  # noqa: F401 # pyright: ignore[reportUnusedImport]

    work = Path(tempfile.mkdtemp(prefix="bondwise-torture-"))
    rows: list[dict[str, Any]] = []
    try:
        os.environ["BONDWISE_HOME"] = str(work / "home")
        every = kinds(work)
        chosen = [kind for kind in every if size != "short" or kind.name == "tensorize"]
        mounts = can_mount(work)
        known: list[tuple[Kind, Any, float]] = []
        for kind in chosen:
            whole = work / f"{kind.name}-whole"
            whole.mkdir()
            os.environ["BONDWISE_HOME"] = str(whole / "home")
            began = time.monotonic()
            if ended(fork_engine(kind.make(whole)), kind.name) != 0:
                raise Fault(f"{kind.name}: {told(whole / 'run')['error']}")
            known.append((kind, kind.content(whole), time.monotonic() - began))
        for what, fault, needs_mount in FAULTS:
            if size == "short" and fault not in SHORT:
                continue
            if needs_mount and not mounts:
                reason = "no file system of our own may be mounted"
                rows.append({"what": what, "unit": "faults", "tried": 0, "stood": 0, "left_out": reason})
                continue
            rows.append(_row(what, fault, known, work, trials=TRIALS[size], seed=seed))
            print(f"{what}: {rows[-1]['stood']} of {rows[-1]['tried']}", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return rows


def _row(
    what: str, fault: Callable[..., None], known: list[tuple[Kind, Any, float]], work: Path, *, trials: int, seed: int
) -> dict[str, Any]:
    tried, failures = 0, list[str]()
    for number in range(trials):
        for kind, expected, seconds in known:
            tried += 1
            folder = work / f"{fault.__name__}-{kind.name}-{number}"
            try:
                fault(kind, folder, expected, seconds, random.Random(f"{seed} {what} {kind.name} {number}"))
            except Exception as failure:
                failures.append(f"{kind.name}, trial {number} of seed {seed}: {type(failure).__name__}: {failure}")
            shutil.rmtree(folder, ignore_errors=True)
    note = "each resumed to the result of an undisturbed run" if fault in (full_disk, clock_back, pid_reused) else ""
    return {"what": what, "unit": "faults", "tried": tried, "stood": tried - len(failures), "failures": failures, "note": note}
