"""Healing by several processes, started by torchrun itself: the losses of one, any number goes on, and what happens when one dies."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
import torch
from engine_runs import events, finish, make_run, tensorize_run
from test_ranks import launch, status
from tiny_models import save_tiny_model

from bondwise.run import start

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CLOSE = 2e-3
"""Nats: sums in another order, and bfloat16 products where the machine has them, after twelve steps."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_tiny_model("llama", folder / "base", dtype=torch.bfloat16)
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
    assert status(shared, "status.json")["state"] == "done"
    assert (tmp_path / "shared-out" / "config.json").exists()
    assert not list((shared / "checkpoints").glob("p*"))
