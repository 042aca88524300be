"""Kills tensorize runs with SIGKILL at many moments and starts them again; prints a JSON report as the last line.

`python killed_runs.py MODEL FOLDER MOMENTS`. A moment is the n-th call of what makes progress durable or visible (fsync, a rename) or of a
step border. Each run is a child forked from this process, which has imported everything and computed nothing: hundreds of megabytes of
imports are paid once, and no thread of torch exists yet.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["OMP_NUM_THREADS"] = "1"

from engine_runs import events, tensorize_run

import bondwise.streaming  # pyright: ignore[reportUnusedImport]
import bondwise.tensorize  # noqa: F401 # pyright: ignore[reportUnusedImport]
from bondwise.run import Run, start

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

CALLS: list[tuple[Any, str]] = [(os, "fsync"), (Path, "rename"), (Path, "replace"), (Path, "unlink"), (Run, "check_cancelled")]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def counting(at: int | None, act: Callable[[], Any] = die) -> Generator[Callable[[], int]]:
    """Counts the moments of this process; before that one it acts. Gives what tells how many there were."""
    count = 0

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            if count == at:
                act()
            return call(*arguments, **named)

        return wrapper

    for owner, name in CALLS:
        setattr(owner, name, counted(getattr(owner, name)))
    yield lambda: count


def start_in_child(run: Path, die_at: int | None) -> tuple[int, int]:
    """(exit status, negative for a signal; calls counted) of a child that does the run and kills itself before call `die_at`."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with counting(die_at) as count:
            status = start(run)
        os.write(writing, str(count()).encode())
        os._exit(status)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reading) as pipe:
        calls = int(pipe.read() or 0)
    return os.waitstatus_to_exitcode(status), calls


def content(folder: Path) -> dict[str, Any]:
    """Every file by name; of the lineage what does not tell the time."""
    found: dict[str, Any] = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    lineage = json.loads(found.pop("bondwise.json"))
    del lineage["created"], lineage["result"]["seconds"]
    for layer in lineage["result"]["layers"]:
        del layer["seconds"]
    for role in ("original", "compressed"):
        del lineage["result"][role]["tokens_per_second"]
    return {**found, "bondwise.json": lineage}


def main(model: Path, work: Path, moments: int) -> None:
    def make(name: str) -> tuple[Path, Path]:
        output = work / name / "out"
        rule = {"layers": ["*"], "keep": 0.5, "sites": 2}
        measure = {"length": 16, "sequences": 2, "sample_tokens": 2}
        return tensorize_run(work / name / "run", model, output, rule, evaluate=measure), output

    run, output = make("whole")
    status, calls = start_in_child(run, None)
    assert status == 0, (run / "status.json").read_text()
    expected = content(output)
    killed, differing, twice, left_over = 0, list[str](), list[str](), list[str]()
    for moment in range(moments):
        at = 1 + moment * (calls - 1) // (moments - 1)
        run, output = make(f"killed-{at}")
        status, _ = start_in_child(run, at)
        killed += status == -signal.SIGKILL
        done_before = {path.name: path.stat().st_mtime_ns for path in (run / "checkpoints").glob("*.safetensors")}
        status, _ = start_in_child(run, None)
        assert status == 0, (at, (run / "status.json").read_text())
        if content(output) != expected:
            differing.append(f"{at} of {calls}")
        counts = Counter(event["layer"]["name"] for event in events(run, "layer"))
        if max(counts.values()) > 1 or len(counts) != len(events(work / "whole" / "run", "layer")):
            twice.append(f"{at} of {calls}: {counts}, {len(done_before)} done before")
        left_over += [
            f"{at}: {path.name}" for path in (*output.parent.iterdir(), *(run / "checkpoints").iterdir()) if "partial" in path.name
        ]
    print(json.dumps({"killed": killed, "differing": differing, "layers_done_twice": twice, "left_over": left_over}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
