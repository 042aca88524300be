"""Runs of every kind on tiny models, their process group killed by SIGKILL at random moments, one to three times, then resumed to the end.

Each engine is a real process in a session of its own, forked from this one, which has imported everything and computed nothing: so a trial
takes seconds. After each kill: the model folder is whole or absent, every journal line that was seen is there. At the end: the same result
as of a run that nobody killed, byte for byte where it has no times in it, and nothing left over.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}

from engine_runs import make_run, tensorize_run

from bondwise.benchmark_file import read_benchmark
from bondwise.checkpoint import open_checkpoint
from bondwise.errors import UserError
from bondwise.ranks import Ranks
from bondwise.run import WORKERS, imported, start
from bondwise.schema import Sensitivity
from bondwise.share import help_run

if TYPE_CHECKING:
    from collections.abc import Callable

TRIALS = {"short": 1, "usual": 10, "long": 100}
"""Runs a kind, and of two processes; each is killed one to three times."""
SHORT = ("quantize", "benchmark")
"""Kinds that the engine's own tests do not kill, each at a dozen moments."""
PATIENCE = 120.0


@dataclass
class Kind:
    name: str
    make: Callable[[Path], Path]
    """A new run directory in that folder; its output is `out` in it."""
    content: Callable[[Path], Any]
    """What of the output has to be equal."""


def in_child(work: Callable[[], Any]) -> None:
    """Does it in a process of its own: this one must never compute, or its children could not."""
    if (child := os.fork()) == 0:
        work()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def fork_engine(run: Path, rank: int = 0, world: int = 1, port: int = 0) -> int:
    """The process id of an engine at work on the run, in a session of its own, its output in `log.txt`."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    log = os.open(run / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if world > 1:
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port, "MASTER_ADDR": "127.0.0.1"}
        os.environ |= {name: str(value) for name, value in names.items()}
    status = 70
    try:
        status = start(run) if rank == 0 else help_run(run, Ranks(run))
    except UserError as failure:  # as the command line tells it
        print(failure.message, failure.remedy, file=sys.stderr, flush=True)
        status = 1
    finally:
        os._exit(status)


def wait(child: int, seconds: float) -> int | None:
    """Its exit status, negative for a signal; None while it lives."""
    until = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            return None
        time.sleep(0.002)


def watch(run: Path, child: int, seconds: float) -> tuple[bytes, int | None]:
    """Follows the journal as the extension does, for so long: whole lines as they were seen last, and the exit status if there is one."""
    until, seen = time.monotonic() + seconds, b""
    while (status := wait(child, 0.003)) is None and time.monotonic() < until:
        seen = whole_lines(run)
    return seen, status


def whole_lines(run: Path) -> bytes:
    try:
        content = (run / "events.ndjson").read_bytes()
    except FileNotFoundError:
        return b""
    return content[: content.rfind(b"\n") + 1]


def kinds(work: Path) -> list[Kind]:
    models = work / "models"
    text = models / "text.jsonl"

    def prepare() -> None:
        from tiny_models import save_tiny_model

        models.mkdir()
        text.write_text(
            "".join(json.dumps({"text": f"{number} and {number + 1} are {2 * number + 1}. " * 4}) + "\n" for number in range(200))
        )
        save_tiny_model("llama", models / "base")
        run = tensorize_run(models / "run", models / "base", models / "small", {"layers": ["re:.*(q|k|up|down)_proj"], "keep": 0.5})
        assert start(run) == 0, (run / "status.json").read_text()

    in_child(prepare)
    base, small = models / "base", models / "small"
    measured = {"length": 16, "sequences": 2, "sample_tokens": 2}

    def tensorize(folder: Path) -> Path:
        rule = {"layers": ["*"], "keep": 0.5, "sites": 2}
        return tensorize_run(folder / "run", base, folder / "out", rule, evaluate=measured)

    def profile(folder: Path) -> Path:
        options = {"output": str(folder / "out.sensitivity.json"), "keep": [0.3, 0.7], "length": 32, "sequences": 4, "precision": 0.2}
        return make_run(folder / "run", "profile", options, model=str(base))

    def heal(folder: Path) -> Path:
        options = {
            **{"data": [{"data": str(text)}], "length": 32, "batch": 2, "tokens": 12 * 64, "validation_sequences": 1, "validations": 3},
            **{"sample_tokens": 1, "learning_rate": 0.01, "save_minutes": 1e-9, "output": str(folder / "out")},
        }
        return make_run(folder / "run", "heal", options, model=str(small))

    def quantize(folder: Path) -> Path:
        rules = [{"layers": ["*.q_proj", "*.k_proj"], "scheme": "compensated-3"}, {"layers": ["*.down_proj"], "scheme": "int8"}]
        options = {"quantize": rules, "output": str(folder / "out"), "calibration": {"length": 32, "sequences": 4}}
        return make_run(folder / "run", "quantize", options, model=str(base))

    def benchmark(folder: Path) -> Path:
        options = {
            **{
                "models": [str(base), str(small)],
                "output": str(folder / "out.benchmark.json"),
                "perplexity": {"length": 32, "sequences": 8},
            },
            **{"prompts": ["a"], "sample_tokens": 4, "speed": False, "footprint": False, "tasks": []},
        }
        return make_run(folder / "run", "benchmark", options)

    def compared(folder: Path) -> Any:
        report = read_benchmark(folder / "out.benchmark.json").model_dump(mode="json")
        del report["created"]
        for model in report["models"]:
            model["path"] = Path(model["path"]).name
            if model.get("perplexity"):
                model["perplexity"].pop("seconds", None)
        return report

    return [
        Kind("profile", profile, _profile),
        Kind("tensorize", tensorize, _weights),
        Kind("heal", heal, _weights),
        Kind("quantize", quantize, _weights),
        Kind("benchmark", benchmark, compared),
    ]


def _profile(folder: Path) -> Any:
    profile = json.loads((folder / "out.sensitivity.json").read_bytes())
    del profile["created"]
    for cell in profile["cells"]:
        del cell["seconds"]
    return profile


def _weights(folder: Path) -> Any:
    """Every file byte by byte, but for what tells the time and the card that repeats it."""
    names = sorted(path.name for path in (folder / "out").iterdir())
    told = ("bondwise.json", "README.md")
    return names, {name: (folder / "out" / name).read_bytes() for name in names if name not in told and (folder / "out" / name).is_file()}


def fault_of(folder: Path, seen: bytes) -> str | None:
    """What is wrong after a kill."""
    if not whole_lines(folder / "run").startswith(seen):
        return "a journal line that was shown is gone"
    if (folder / "out").exists():
        try:
            open_checkpoint(folder / "out")
        except Exception as failure:
            return f"a model folder that is not whole: {failure}"
    for name, read in (("out.sensitivity.json", Sensitivity.model_validate_json), ("out.benchmark.json", json.loads)):
        try:
            read((folder / name).read_bytes())
        except FileNotFoundError:
            continue
        except ValueError as failure:
            return f"a torn {name}: {failure}"
    return None


def left_over(folder: Path) -> list[str]:
    places = [folder, folder / "run", folder / "run" / "checkpoints"]
    return [
        path.name for place in places for path in place.iterdir() if "partial" in path.name or path.name.startswith(("point-", "best-"))
    ]


def trial(kind: Kind, folder: Path, expected: Any, seconds: float, chance: random.Random) -> tuple[int, str | None]:
    """Kills, then resumes: how many kills met a living engine, and what was wrong."""
    folder.mkdir()
    os.environ["BONDWISE_HOME"] = str(folder / "home")
    run = kind.make(folder)
    kills = 0
    for _ in range(chance.randint(1, 3)):
        child = fork_engine(run)
        seen, status = watch(run, child, chance.random() * seconds)
        if status is None:
            os.killpg(child, signal.SIGKILL) if _is_leader(child) else os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            kills += 1
        elif status != 0:
            return kills, f"ended with {status}: {(run / 'status.json').read_text()}"
        if fault := fault_of(folder, seen):
            return kills, fault
    before = whole_lines(run)
    child = fork_engine(run)
    status = wait(child, PATIENCE)
    if status is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return kills, f"resumed, it did not end in {PATIENCE:.0f} s"
    if status != 0:
        return kills, f"resumed, it ended with {status}: {(run / 'status.json').read_text()[-600:]}"
    return kills, end_fault(kind, folder, before, expected)


def end_fault(kind: Kind, folder: Path, before: bytes, expected: Any) -> str | None:
    """What is wrong with a run that was killed and has been resumed to its end."""
    run = folder / "run"
    if not whole_lines(run).startswith(before):
        return "a journal line that was shown is gone"
    numbers = [json.loads(line)["seq"] for line in whole_lines(run).splitlines()]
    if numbers != list(range(1, len(numbers) + 1)):
        return "numbers of events are missing or doubled"
    if json.loads((run / "status.json").read_text())["state"] != "done" or not (run / "result.json").is_file():
        return "it is not done"
    if kind.content(folder) != expected:
        return "the result differs from that of a run which nobody killed"
    if left := left_over(folder):
        return f"left over: {', '.join(left)}"
    return None


def _is_leader(child: int) -> bool:
    try:
        return os.getpgid(child) == child
    except ProcessLookupError:
        return False


def torture(size: str, seed: int) -> list[dict[str, Any]]:
    for worker in WORKERS.values():
        imported(worker)
    import bitsandbytes  # noqa: F401 # pyright: ignore[reportUnusedImport]

    shm = Path("/dev/shm")
    work = Path(tempfile.mkdtemp(prefix="bondwise-torture-", dir=shm if shm.is_dir() and shutil.disk_usage(shm).free > 2e9 else None))
    rows: list[dict[str, Any]] = []
    try:
        os.environ["BONDWISE_HOME"] = str(work / "home")
        for kind in kinds(work):
            if size == "short" and kind.name not in SHORT:
                continue
            rows.append(_row(kind, work, TRIALS[size], seed))
            print(f"{kind.name}: {rows[-1]}", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return rows


def _row(kind: Kind, work: Path, trials: int, seed: int) -> dict[str, Any]:
    whole = work / f"{kind.name}-whole"
    whole.mkdir()
    os.environ["BONDWISE_HOME"] = str(whole / "home")
    run = kind.make(whole)
    began = time.monotonic()
    status = wait(fork_engine(run), PATIENCE)
    assert status == 0, f"{kind.name}: {status}: {(run / 'status.json').read_text()}\n{(run / 'log.txt').read_text()[-2000:]}"
    seconds = time.monotonic() - began
    expected = kind.content(whole)
    kills, stood, failures = 0, 0, list[str]()
    for number in range(trials):
        chance = random.Random(f"{seed} {kind.name} {number}")
        folder = work / f"{kind.name}-{number}"
        killed, fault = trial(kind, folder, expected, 1.02 * seconds, chance)
        kills += killed
        if fault:
            failures.append(f"trial {number} of seed {seed}: {fault}")
        else:
            stood += killed
        shutil.rmtree(folder, ignore_errors=True)
    note = f"{trials} runs of {seconds:.1f} s, each resumed to the result of one that nobody killed"
    return {
        "what": f"kill −9 of the engine in {kind.name}",
        "unit": "kills",
        "tried": kills,
        "stood": stood,
        "note": note,
        "failures": failures,
    }
