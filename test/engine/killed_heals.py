"""Kills healing runs with SIGKILL at many moments and starts them again; prints a JSON report as the last line.

`python killed_heals.py MODEL TEXT FOLDER MOMENTS [PROCESSES]`; moments and children are those of killed_runs.py. Of several processes
another one is killed each time, by its own moments.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

from engine_runs import events, make_run
from killed_runs import start_in_child
from shared_heals import start_together


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
