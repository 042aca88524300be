"""Kills profile runs with SIGKILL at many moments and starts them again; prints a JSON report as the last line.

`python killed_profiles.py MODEL FOLDER MOMENTS`; moments and children are those of killed_runs.py.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from engine_runs import events, make_run
from killed_runs import start_in_child

import bondwise.sensitivity  # noqa: F401 # pyright: ignore[reportUnusedImport]
from bondwise.schema import Sensitivity


def content(path: Path) -> dict[str, Any]:
    """The profile without what tells the time."""
    profile = json.loads(path.read_bytes())
    del profile["created"]
    for cell in profile["cells"]:
        del cell["seconds"]
    return profile


def main(model: Path, work: Path, moments: int) -> None:
    def make(name: str) -> tuple[Path, Path]:
        # A home of its own: moments that another run has kept would leave less to be killed in.
        os.environ["BONDWISE_HOME"] = str(work / name / "home")
        output = work / name / "out.sensitivity.json"
        options = {"output": str(output), "keep": [0.3, 0.7], "length": 32, "sequences": 4, "precision": 0.2}
        return make_run(work / name / "run", "profile", options, model=str(model)), output

    run, output = make("whole")
    status, calls = start_in_child(run, None)
    assert status == 0, (run / "status.json").read_text()
    expected = content(output)
    killed, differing, twice, torn = 0, list[str](), list[str](), list[str]()
    for moment in range(moments):
        at = 1 + moment * (calls - 1) // (moments - 1)
        run, output = make(f"killed-{at}")
        status, _ = start_in_child(run, at)
        killed += status == -signal.SIGKILL
        if output.exists():
            try:
                Sensitivity.model_validate_json(output.read_bytes())
            except ValueError as failure:
                torn.append(f"{at} of {calls}: {failure}")
        status, _ = start_in_child(run, None)
        assert status == 0, (at, (run / "status.json").read_text())
        if content(output) != expected:
            differing.append(f"{at} of {calls}")
        counts = Counter((event["cell"]["layer"], event["cell"]["chi"]) for event in events(run, "cell"))
        counts += Counter((event["curve"]["layer"], 0) for event in events(run, "curve"))
        if max(counts.values()) > 1:
            twice.append(f"{at} of {calls}: {counts.most_common(1)}")
    print(json.dumps({"killed": killed, "differing": differing, "done_twice": twice, "torn": torn}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
