"""Kills healing runs with SIGKILL at many moments and starts them again; prints a JSON report as the last line.

`python killed_heals.py MODEL TEXT FOLDER MOMENTS [PROCESSES]`; moments and children are those of killed_runs.py. Of several processes
another one is killed each time, by its own moments, and this process does what torchrun does: it ends the others.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from engine_runs import events, make_run
from killed_runs import counting, start_in_child

import bondwise.heal  # noqa: F401 # pyright: ignore[reportUnusedImport]
from bondwise.ranks import Ranks
from bondwise.run import start
from bondwise.share import help_run

ENDING_SECONDS = 30
"""From SIGTERM to SIGKILL, as torchrun has it."""


def start_together(run: Path, world: int, rank: int = 0, die_at: int | None = None) -> tuple[list[int], list[int]]:
    """(exit statuses, negative for a signal; calls counted) of the processes of a run; that of `rank` kills itself before call `die_at`."""
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
            with counting(die_at if number == rank else None) as count:
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


def main(model: Path, text: Path, work: Path, moments: int, world: int) -> None:
    def make(name: str) -> tuple[Path, Path]:
        output = work / name / "out"
        options = {
            "data": [{"data": str(text)}],
            **{"length": 32, "batch": 2, "tokens": 6 * 64, "validation_sequences": 1, "validations": 3, "sample_tokens": 1},
            **{"learning_rate": 0.01, "save_minutes": 1e-9, "output": str(output)},
        }
        return make_run(work / name / "run", "heal", options, model=str(model)), output

    def do(run: Path, rank: int = 0, die_at: int | None = None) -> tuple[list[int], list[int]]:
        if world > 1:
            return start_together(run, world, rank, die_at)
        status, count = start_in_child(run, die_at)
        return [status], [count]

    run, output = make("whole")
    statuses, calls = do(run)
    assert not any(statuses), (run / "status.json").read_text()
    expected = (output / "model.safetensors").read_bytes()
    losses = {event["step"]: event["loss"] for event in events(run, "heal-validation")}
    report: dict[str, Any] = {"killed": 0, "differing": [], "left_over": [], "lost": [], "states": []}
    for moment in range(moments):
        rank = moment % world
        at = 1 + moment * (calls[rank] - 1) // (moments - 1)
        run, output = make(f"killed-{rank}-{at}")
        statuses, _ = do(run, rank, at)
        report["killed"] += statuses[rank] == -signal.SIGKILL
        report["states"].append(f"{rank}: {_state(run)}")
        shown = _whole_lines(run / "events.ndjson")
        statuses, _ = do(run)
        where = f"process {rank} at {at} of {calls[rank]}"
        assert not any(statuses), (where, (run / "status.json").read_text())
        same = {event["step"]: event["loss"] for event in events(run, "heal-validation")} == losses
        if (output / "model.safetensors").read_bytes() != expected or not same:
            report["differing"].append(where)
        if not (run / "events.ndjson").read_bytes().startswith(shown):
            report["lost"].append(where)
        report["left_over"] += [
            f"{at}: {path.name}" for path in (*output.parent.iterdir(), *(run / "checkpoints").iterdir()) if _is_left(path)
        ]
    print(json.dumps(report))


def _state(run: Path) -> str:
    status = run / "status.json"
    return json.loads(status.read_text())["state"] if status.exists() else "not begun"


def _whole_lines(journal: Path) -> bytes:
    content = journal.read_bytes() if journal.exists() else b""
    return content[: content.rfind(b"\n") + 1]


def _is_left(path: Path) -> bool:
    return "partial" in path.name or path.name.startswith(("point-", "best-"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]) if len(sys.argv) > 5 else 1)
