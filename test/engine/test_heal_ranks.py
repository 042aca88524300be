"""Healing by several processes, started by torchrun itself: the losses of one, any number goes on, and what happens when one dies."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
import torch
from engine_runs import events, finish, make_run, tensorize_run
from test_ranks import launch, status
from tiny_models import save_tiny_model

from bondwise.process import process_start
from bondwise.run import start

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

CLOSE = 2e-3
"""Nats: sums in another order, and bfloat16 products where the machine has them, after twelve steps."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_tiny_model("qwen2", folder / "base", dtype=torch.bfloat16)  # the head is the embedding
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BONDWISE_HOME", str(folder / "home"))
        rule = {"layers": ["re:.*(q|k|up|down)_proj"], "keep": 0.5}
        finish(tensorize_run(folder / "run", folder / "base", folder / "small", rule))
    (folder / "text.jsonl").write_text(
        "".join(json.dumps({"text": f"{number} and {number + 1} are {2 * number + 1}. " * 4}) + "\n" for number in range(200))
    )
    return folder


@pytest.fixture
def heal_run(models: Path, tmp_path: Path) -> Callable[..., Path]:
    def make(name: str = "run", **options: Any) -> Path:
        small = {"length": 64, "batch": 6, "learning_rate": 0.01, "validation_sequences": 5, "validations": 3, "sample_tokens": 3}
        request = {"data": [{"data": str(models / "text.jsonl")}], "output": str(tmp_path / f"{name}-out"), "tokens": 12 * 6 * 64}
        return make_run(tmp_path / name, "heal", {**request, **small, **options}, model=str(models / "small"))

    return make


def losses(run: Path) -> dict[int, float]:
    return {event["step"]: event["loss"] for event in events(run, "heal-validation")}


def test_two_processes_learn_what_one_learns(heal_run: Callable[..., Path], tmp_path: Path) -> None:
    alone, shared = heal_run("alone"), heal_run("shared")
    finish(alone)
    torchrun = launch(shared)
    assert torchrun.wait(timeout=180) == 0, (shared / "log.txt").read_text()[-3000:]
    assert losses(alone).keys() == losses(shared).keys() == {0, 4, 8, 12}
    for step, loss in losses(alone).items():
        assert losses(shared)[step] == pytest.approx(loss, abs=CLOSE), step
    assert losses(alone)[12] < losses(alone)[0] - 10 * CLOSE
    assert events(shared, "heal-validation")[0]["sample"] == events(alone, "heal-validation")[0]["sample"]
    assert all(
        event["memory"].keys() == {"rank 0", "rank 1"} and min(event["memory"].values()) > 1e6 for event in events(shared, "heal-step")
    )
    assert status(shared, "status.json")["state"] == "done"
    assert (tmp_path / "shared-out" / "config.json").exists()
    assert [path.name for path in (shared / "checkpoints").iterdir()] == ["published.json"]


def await_step(run: Path, number: int, torchrun: subprocess.Popen[bytes]) -> None:
    """Until the journal tells a validation of that step or a later one."""
    until = time.monotonic() + 120
    while not any(event["step"] >= number for event in _told(run)):
        assert time.monotonic() < until and torchrun.poll() is None, (run / "log.txt").read_text()[-3000:]
        time.sleep(0.02)


def _told(run: Path) -> list[dict[str, Any]]:
    try:
        lines = (run / "events.ndjson").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [event for line in lines if line.endswith("}") and (event := json.loads(line))["type"] == "heal-validation"]


@pytest.mark.parametrize("number", [0, 1])
def test_a_killed_process_interrupts_the_run_and_any_number_goes_on(number: int, heal_run: Callable[..., Path], tmp_path: Path) -> None:
    finish(heal_run("whole", tokens=60 * 6 * 64, validations=15))
    run = heal_run("killed", tokens=60 * 6 * 64, validations=15, save_minutes=1e-3)
    torchrun = launch(run)
    await_step(run, 8, torchrun)
    process = status(run, "rank-1.json" if number else "status.json")["process"]
    os.kill(process["pid"], signal.SIGKILL)
    killed = time.monotonic()
    assert torchrun.wait(timeout=30) != 0
    assert time.monotonic() - killed < 30
    left = status(run, "status.json")
    if number:
        assert left["state"] == "interrupted" and "Process 1 of 2 has died" in left["error"]["message"]
    else:  # whoever reads this finds that the process is gone
        assert left["state"] == "running" and not process_start(left["process"]["pid"])
    told = losses(run)
    assert list((run / "checkpoints").glob("point-*/state.json"))
    assert start(run) == 0  # by one process
    assert losses(run).keys() == losses(tmp_path / "whole").keys()
    for step, loss in losses(tmp_path / "whole").items():
        assert losses(run)[step] == pytest.approx(loss, abs=CLOSE), step
        assert told.get(step, loss) == pytest.approx(loss, abs=CLOSE), step
    seqs = [event["seq"] for event in events(run)]
    assert seqs == list(range(1, len(seqs) + 1))
    assert not list((run / "checkpoints").glob(".*"))


def test_a_cancelled_run_of_three_goes_on_by_two(heal_run: Callable[..., Path], tmp_path: Path) -> None:
    finish(heal_run("whole", tokens=60 * 6 * 64))
    run = heal_run("cancelled", tokens=60 * 6 * 64)
    torchrun = launch(run, processes=3)
    await_step(run, 0, torchrun)
    (run / "cancel").touch()
    torchrun.wait(timeout=60)
    assert status(run, "status.json")["state"] == "cancelled"
    (run / "cancel").unlink()
    assert launch(run, processes=2).wait(timeout=180) == 0, (run / "log.txt").read_text()[-3000:]
    for step, loss in losses(tmp_path / "whole").items():
        assert losses(run)[step] == pytest.approx(loss, abs=CLOSE), step


def test_what_another_process_fails_at_is_told(heal_run: Callable[..., Path], tmp_path: Path) -> None:
    """The second process's text is another one: its place in the data is not that of the resume point."""
    run = heal_run("uneven", batch=3)
    torchrun = launch(run)
    assert torchrun.wait(timeout=60) != 0
    told = status(run, "status.json")
    assert told["state"] == "failed" and "cannot be shared by 2 processes" in told["error"]["message"]


def test_a_full_disk_ends_every_process(heal_run: Callable[..., Path], tmp_path: Path) -> None:
    """A folder that nobody may write stands for it: a save that fails in one process hangs no other."""
    run = heal_run("full", tokens=60 * 6 * 64, save_minutes=1e-3)
    torchrun = launch(run)
    await_step(run, 4, torchrun)
    # The next resume points cannot be made where files lie in the way of their folders.
    for number in range(3, 400):
        (run / "checkpoints" / f".point-{number:06}.partial").touch()
    assert torchrun.wait(timeout=60) != 0
    told = status(run, "status.json")
    assert told["state"] == "failed" and "could not be written" in told["error"]["message"]
    for path in (run / "checkpoints").glob(".*.partial"):
        path.unlink(missing_ok=True) if path.is_file() else shutil.rmtree(path)
    assert list((run / "checkpoints").glob("point-*/state.json"))
    assert start(run) == 0
