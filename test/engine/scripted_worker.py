"""A worker that does what its request's layer patterns say, for tests of the run directory; and the programs that run it.

`python scripted_worker.py COMMAND …` is the command line with this worker in the place of all others.
`python scripted_worker.py --serve` reads run directories from stdin, one a line; for each it forks a process in a session of its own,
prints its process id, waits for its end and prints its exit status (negative: the signal). So a test can start and kill a hundred real
processes without paying a hundred times for the imports.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bondwise import atomic, run
from bondwise.errors import UserError
from bondwise.schema import LayerEvent, LayerFigures, TensorizeRequest, TensorizeResult

if TYPE_CHECKING:
    from bondwise.run import Run


def work(run: Run) -> TensorizeResult:
    """Patterns: `steps:N`, `sleep:SECONDS` a step, `deaf` (never asks whether to stop), `escape` (sends control characters),
    `raise:memory|torch|user|bug|exit` at the last step, `wait:FILE` before the first step until the file exists."""
    assert isinstance(run.request, TensorizeRequest)
    rule = run.request.options.tensorize[0]
    script = {name: value for name, _, value in (part.partition(":") for part in rule.layers)}
    steps = int(script.get("steps", "3"))
    run.phase("Counting \x1b[31mred\x1b[0m" if "escape" in script else "Counting")
    while "wait" in script and not Path(script["wait"]).exists():
        run.check_cancelled()
        time.sleep(0.02)
    figures: list[LayerFigures] = []
    for step in range(steps):
        if "deaf" not in script:
            run.check_cancelled()
        checkpoint = run.checkpoints / f"{step}.json"
        if checkpoint.exists():
            figures.append(LayerFigures.model_validate_json(checkpoint.read_bytes()))
        else:
            if step == steps - 1:
                _fail(script.get("raise", ""))
            time.sleep(float(script.get("sleep", "0")))
            figures.append(layer(step))
            atomic.write_json(checkpoint, figures[-1])
            run.emit(LayerEvent, layer=figures[-1])
        run.progress(step + 1, steps, "layers")
    return TensorizeResult(
        output=run.request.options.output,
        parameters=sum(each.parameters for each in figures),
        original_parameters=100 * steps,
        bytes=2 * sum(each.parameters for each in figures),
        original_bytes=200 * steps,
        layers=figures,
        logits_difference=0.0,
        seconds=1.0,
    )


def layer(step: int) -> LayerFigures:
    """The figures of a step, all derived from its number."""
    return LayerFigures(
        name=f"layer.{step}",
        out_modes=[1, 10],
        in_modes=[10, 1],
        bond_dims=[step + 1],
        parameters=step,
        original_parameters=100,
        bytes=2 * step,
        original_bytes=200,
        keep=step / 100,
        relative_error=0.5,
        multiply_adds=step,
        original_multiply_adds=100,
        seconds=0.0,
    )


def write_request(directory: Path, *script: str, **changes: Any) -> Path:
    """A run directory whose request holds `script`; the result's output is `directory/out`."""
    directory.mkdir(parents=True, exist_ok=True)
    rule = {"layers": list(script), "chi": 4}
    request: dict[str, Any] = {
        "version": 1,
        "kind": "tensorize",
        "created": "2026-01-01T00:00:00Z",
        "title": "A test",
        "device": "cpu",
        "model": "model",
        "options": {"tensorize": [rule], "output": "out"},
        **changes,
    }
    (directory / "run.json").write_text(json.dumps(request))
    return directory


def _fail(how: str) -> None:
    if how == "memory":
        raise MemoryError
    if how == "torch":
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
    if how == "user":
        raise UserError("layer.2 holds NaN.", "Use another checkpoint.")
    if how == "bug":
        raise KeyError("surprise")
    if how == "exit":
        sys.exit(3)


def _serve() -> None:
    for line in sys.stdin:
        directory = Path(line.strip())
        pid = os.fork()
        if pid == 0:
            os.setsid()
            log = os.open(directory / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os._exit(run.start(directory))
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    run.WORKERS.update(dict.fromkeys(run.WORKERS, "scripted_worker:work"))
    if sys.argv[1:] == ["--serve"]:
        _serve()
    else:
        from bondwise.cli import main

        sys.exit(main())
