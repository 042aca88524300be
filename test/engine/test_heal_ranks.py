"""Healing by several processes, started by torchrun itself: the losses of one, any number goes on, and what happens when one dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from engine_runs import events, fail, finish, make_run, tensorize_run
from test_ranks import launch, status
from tiny_models import save_tiny_model

from bondwise.run import start

if TYPE_CHECKING:
    from collections.abc import Callable

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
    assert torchrun.wait(timeout=600) == 0, (shared / "log.txt").read_text()[-3000:]
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
    until = time.monotonic() + 600
    while not any(event["step"] >= number for event in _told(run)):
        assert time.monotonic() < until and torchrun.poll() is None, (run / "log.txt").read_text()[-3000:]
        time.sleep(0.02)


def _told(run: Path) -> list[dict[str, Any]]:
    try:
        lines = (run / "events.ndjson").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [event for line in lines if line.endswith("}") and (event := json.loads(line))["type"] == "heal-validation"]


def test_a_killed_process_interrupts_the_run_and_one_goes_on(heal_run: Callable[..., Path], tmp_path: Path) -> None:
    finish(heal_run("whole", tokens=60 * 6 * 64, validations=15))
    run = heal_run("killed", tokens=60 * 6 * 64, validations=15, save_minutes=1e-3)
    torchrun = launch(run)
    await_step(run, 8, torchrun)
    os.kill(status(run, "rank-1.json")["process"]["pid"], signal.SIGKILL)
    killed = time.monotonic()
    assert torchrun.wait(timeout=30) != 0
    assert time.monotonic() - killed < 30
    left = status(run, "status.json")
    assert left["state"] == "interrupted" and "Process 1 of 2 has died" in left["error"]["message"]
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


def test_sequences_that_cannot_be_shared_evenly_are_told(heal_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    run = heal_run("uneven", batch=3)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "3 sequences in a step cannot be shared by 2 processes" in fail(run)


def test_any_number_goes_on_and_a_failing_save_hangs_nobody(models: Path, tmp_path: Path) -> None:
    script = Path(__file__).with_name("shared_heals.py")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script), str(models / "small"), str(models / "text.jsonl"), str(tmp_path)]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    for name in ("two", "gone on by two", "gone on by one"):
        assert report[name]["state"] == "done" and report[name]["left"] == [], name
        assert report[name]["losses"] == pytest.approx(report["alone"]["losses"], abs=CLOSE), name
    assert report["cancelled"]["state"] == report["cancelled early"]["state"] == "cancelled"
    assert report["full"]["state"] == "failed" and "No space left" in report["full"]["message"]
    for name in ("cancelled", "full"):
        assert len([path for path in report[name]["left"] if path.startswith("point-")]) == 2, name
        assert not any("partial" in path for path in report[name]["left"]), name
