"""Reads `[kind, text]` from stdin, a JSON line each, gives the text to the engine's reader of such files, and prints a line:

`accepted`, `refused` (in the engine's own words), or what else happened. `python … FOLDER`, which holds weights and may be written.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from bondwise.benchmark_file import read_benchmark
from bondwise.errors import UserError
from bondwise.inspection import inspect
from bondwise.journal import read_events
from bondwise.plan_file import heal_options, plan_kind, read_plan, run_options
from bondwise.profile_file import read_profile
from bondwise.request import read_request, refuse_newer
from bondwise.run import _read_status

if TYPE_CHECKING:
    from collections.abc import Callable


def _plan(path: Path) -> None:
    plan = read_plan(path)
    if plan.tensorize or plan.quantize:
        plan_kind(plan)
        run_options(path, plan)
        heal_options(path, plan)


def _request(path: Path) -> None:
    refuse_newer(path)
    read_request(path.parent)


def _status(path: Path) -> None:
    if _read_status(path.parent) is None:
        raise UserError("not a status", "")


def _model(path: Path) -> None:
    if path.name != "config.json":
        (path.parent / "config.json").write_text('{"model_type":"llama","architectures":["LlamaForCausalLM"]}')
    inspect(path.parent)


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "plan": ("a.bondwise.json", _plan),
    "profile": ("a.sensitivity.json", read_profile),
    "benchmark": ("a.benchmark.json", read_benchmark),
    "request": ("run.json", _request),
    "status": ("status.json", _status),
    "lineage": ("bondwise.json", _model),
    "config": ("config.json", _model),
    "journal": ("events.ndjson", lambda path: read_events(path.read_bytes(), str(path))),
}


def main(folder: Path) -> None:
    for line in sys.stdin:
        kind, text = json.loads(line)
        name, read = READERS[kind]
        if kind == "config":
            text = f'{{"model_type":"bondwise_mpo","architectures":["MPOForCausalLM"],"mpo":{text}}}'
        path = folder / name
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        try:
            read(path)
            said = "accepted"
        except UserError:
            said = "refused"
        except Exception as failure:
            frames = traceback.extract_tb(failure.__traceback__)
            places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames[-4:]))
            said = f"{kind}: {type(failure).__name__}: {str(failure)[:120]!r} at {places}: {text[:120]!r}"
        print(said, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
