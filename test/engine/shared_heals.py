"""Heals by several processes in several ways; prints a JSON report as the last line.

`python shared_heals.py MODEL TEXT FOLDER`. The processes are forked from this one, which has imported everything and computed nothing;
that they are started by torchrun itself is tried elsewhere.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine_runs import events, make_run
from killed_runs import counting, die, start_in_child

import bondwise.heal  # noqa: F401 # pyright: ignore[reportUnusedImport]
from bondwise.ranks import Ranks
from bondwise.run import start
from bondwise.share import help_run

if TYPE_CHECKING:
    from collections.abc import Callable

ENDING_SECONDS = 30
"""From SIGTERM to SIGKILL, as torchrun has it."""


def start_together(
    run: Path, world: int, rank: int = 0, at: int | None = None, act: Callable[[], Any] = die
) -> tuple[list[int], list[int]]:
    """(exit statuses, negative for a signal; calls counted) of the processes of a run; that of `rank` acts before call `at`.

    This process does what torchrun does: when one has failed it ends the others. Raises AssertionError where they do not end in time.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children: dict[int, tuple[int, int]] = {}
    for number in range(world):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            names = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": world, "MASTER_PORT": port}
            os.environ |= {name: str(value) for name, value in names.items()} | {"MASTER_ADDR": "127.0.0.1"}
            with counting(at if number == rank else None, act) as count:
                status = start(run) if number == 0 else help_run(run, Ranks(run))
            os.write(writing, str(count()).encode())
            os._exit(status)
        os.close(writing)
        children[child] = (number, reading)
    statuses, calls = [0] * world, [0] * world
    left, until = set(children), float("inf")
    while left:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child:
            number, reading = children[child]
            statuses[number] = os.waitstatus_to_exitcode(status)
            with os.fdopen(reading) as pipe:
                calls[number] = int(pipe.read() or 0)
            left.discard(child)
            if statuses[number]:
                for other in left:
                    os.kill(other, signal.SIGTERM)
                until = min(until, time.monotonic() + ENDING_SECONDS)
        elif time.monotonic() > until:
            raise AssertionError(f"{len(left)} processes did not end within {ENDING_SECONDS} s")
        else:
            time.sleep(0.01)
    return statuses, calls


def fill_disk() -> None:
    """From now on nothing of this process comes to the disk any more."""

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    os.fsync = full


def main(model: Path, text: Path, work: Path) -> None:
    def make(name: str) -> Path:
        small = {"length": 64, "batch": 6, "learning_rate": 0.01, "validation_sequences": 5, "validations": 3, "sample_tokens": 3}
        options = {"data": [{"data": str(text)}], "output": str(work / f"{name}-out"), "tokens": 12 * 6 * 64, "save_minutes": 1e-9}
        return make_run(work / name, "heal", {**options, **small}, model=str(model))

    def told(run: Path) -> dict[str, Any]:
        status = json.loads((run / "status.json").read_text())
        losses = {event["step"]: event["loss"] for event in events(run, "heal-validation")}
        points = sorted(path.name for path in (run / "checkpoints").iterdir() if path.name != "published.json")
        return {"state": status["state"], "message": (status["error"] or {}).get("message"), "losses": losses, "left": points}

    report: dict[str, Any] = {}
    start_in_child(alone := make("alone"), None)
    report["alone"] = told(alone)
    _, calls = start_together(two := make("two"), 2)
    report["two"] = told(two)
    late = calls[1] - 40  # reading the data has most of the moments

    for name, at in (("cancelled early", 5), ("cancelled", late)):
        run = make(name)
        start_together(run, 3, 1, at, functools.partial((run / "cancel").touch))
        report[name] = told(run)
        (run / "cancel").unlink()
    start_together(run, 2)
    report["gone on by two"] = told(run)

    run = make("full")
    start_together(run, 2, 1, late, fill_disk)
    report["full"] = told(run)
    start_in_child(run, None)
    report["gone on by one"] = told(run)
    print(json.dumps(report))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
