"""Kills healing runs with SIGKILL at many moments and starts them again; prints a JSON report as the last line.

`python killed_heals.py MODEL TEXT FOLDER MOMENTS`; moments and children are those of killed_runs.py.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

from engine_runs import events, make_run
from killed_runs import start_in_child

import bondwise.heal  # noqa: F401 # pyright: ignore[reportUnusedImport]


def main(model: Path, text: Path, work: Path, moments: int) -> None:
    def make(name: str) -> tuple[Path, Path]:
        output = work / name / "out"
        options = {
            "data": [{"data": str(text)}],
            **{"length": 32, "batch": 2, "tokens": 6 * 64, "validation_sequences": 1, "validations": 3, "sample_tokens": 1},
            **{"learning_rate": 0.01, "save_minutes": 1e-9, "output": str(output)},
        }
        return make_run(work / name / "run", "heal", options, model=str(model)), output

    run, output = make("whole")
    status, calls = start_in_child(run, None)
    assert status == 0, (run / "status.json").read_text()
    expected = (output / "model.safetensors").read_bytes()
    losses = {event["step"]: event["loss"] for event in events(run, "heal-validation")}
    killed, differing, left_over = 0, list[str](), list[str]()
    for moment in range(moments):
        at = 1 + moment * (calls - 1) // (moments - 1)
        run, output = make(f"killed-{at}")
        status, _ = start_in_child(run, at)
        killed += status == -signal.SIGKILL
        status, _ = start_in_child(run, None)
        assert status == 0, (at, (run / "status.json").read_text())
        same = {event["step"]: event["loss"] for event in events(run, "heal-validation")} == losses
        if (output / "model.safetensors").read_bytes() != expected or not same:
            differing.append(f"{at} of {calls}")
        left_over += [f"{at}: {path.name}" for path in (*output.parent.iterdir(), *(run / "checkpoints").iterdir()) if _is_left(path)]
    print(json.dumps({"killed": killed, "differing": differing, "left_over": left_over}))


def _is_left(path: Path) -> bool:
    return "partial" in path.name or path.suffix == ".safetensors"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
