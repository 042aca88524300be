"""Runs of every kind on tiny models, left as they are for a reader: `python contract_runs.py FOLDER`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from engine_runs import make_run
from kills import PATIENCE, fork_engine, kinds, wait

from bondwise.run import WORKERS, imported


def main(work: Path) -> None:
    os.environ["BONDWISE_HOME"] = str(work / "home")
    for worker in WORKERS.values():
        imported(worker)
    runs: list[Path] = []
    for kind in kinds(work):
        folder = work / kind.name
        folder.mkdir()
        runs.append(kind.make(folder))
    small = str(work / "models" / "small")
    (work / "more").mkdir()
    text = {"length": 16, "sequences": 2, "sample_tokens": 2}
    runs.append(make_run(work / "more" / "perplexity", "perplexity", {"evaluate": text}, model=small))
    runs.append(make_run(work / "more" / "export", "export", {"output": str(work / "more" / "dense")}, model=small))
    runs.append(make_run(work / "more" / "failed", "export", {"output": str(work / "more" / "no")}, model=str(work / "absent")))
    for run in runs:
        status = wait(fork_engine(run), PATIENCE)
        assert status == (1 if run.name == "failed" else 0), (run, status, (run / "log.txt").read_text()[-2000:])
        print(run, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
