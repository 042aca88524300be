"""Runs that wait for others, and the plan whose second step is such a run."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import torch
from engine_runs import fail, finish, make_run, tensorize_run
from tiny_models import save_tiny_model

from bondwise.cli import main
from bondwise.plan_file import heal_options, read_plan
from bondwise.run import start

if TYPE_CHECKING:
    from pathlib import Path

RULE = {"layers": ["re:.*(q|k|up|down)_proj"], "keep": 0.5}
HEAL = {
    "data": [{"data": "words.jsonl"}],
    "length": 32,
    "batch": 2,
    "tokens": 256,
    "validations": 1,
    "validation_sequences": 2,
    "sample_tokens": 2,
}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "words.jsonl").write_text("".join(json.dumps({"text": f"{number} and {number + 1}. " * 8}) + "\n" for number in range(80)))
    return save_tiny_model("llama", tmp_path / "base", dtype=torch.bfloat16)


def heal_after(tmp_path: Path, before: str) -> Path:
    options = {**HEAL, "data": [{"data": "../words.jsonl"}], "output": "../healed"}
    return make_run(tmp_path / "second", "heal", options, model="../small", after=before)


def phase(run: Path) -> str:
    file = run / "status.json"
    return json.loads(file.read_text())["phase"] if file.exists() else ""


def test_it_waits_until_the_other_is_done(base: Path, tmp_path: Path) -> None:
    second = heal_after(tmp_path, "../first")
    tensorize_run(tmp_path / "first", base, tmp_path / "small", RULE)
    outcome: list[int] = []
    waiting = threading.Thread(target=lambda: outcome.append(start(second)))
    waiting.start()
    deadline = time.monotonic() + 20
    while "Waiting for" not in phase(second):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    finish(tmp_path / "first")
    waiting.join(120)
    assert outcome == [0]
    assert (tmp_path / "healed" / "bondwise.json").is_file()


@pytest.mark.parametrize("state", ["failed", "cancelled", "interrupted"])
def test_it_does_not_wait_for_one_that_has_ended_otherwise(base: Path, tmp_path: Path, state: str) -> None:
    first = tensorize_run(tmp_path / "first", base, tmp_path / "small", RULE)
    (first / "status.json").write_text(json.dumps({"state": state, "updated": "2026-01-01T00:00:00Z"}))
    assert f"was {state}. → Resume that one first" in fail(heal_after(tmp_path, "../first"))


def test_it_does_not_wait_for_one_whose_process_is_gone(base: Path, tmp_path: Path) -> None:
    first = tensorize_run(tmp_path / "first", base, tmp_path / "small", RULE)
    gone = {"pid": 2**22 + 1, "started": "linux:none:1", "host": socket.gethostname()}
    (first / "status.json").write_text(json.dumps({"state": "running", "updated": "2026-01-01T00:00:00Z", "process": gone}))
    assert "was interrupted" in fail(heal_after(tmp_path, "../first"))


def test_a_run_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert "is not a run directory" in fail(heal_after(tmp_path, "../nowhere"))


def plan(tmp_path: Path, **heal: Any) -> Path:
    path = tmp_path / "p.bondwise.json"
    path.write_text(json.dumps({"model": "base", "output": "small", "tensorize": [RULE], "heal": {**HEAL, **heal}}))
    return path


def test_a_plan_is_tensorized_then_healed(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", str(plan(tmp_path)), "--run", str(tmp_path / "run"), "--json"]
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["kind"] == "heal" and told["output"] == str(tmp_path / "small-healed")
    lineage = json.loads((tmp_path / "small-healed" / "bondwise.json").read_text())
    assert len(lineage["healing"]) == 1
    assert main(command) == 0  # the same command again does nothing twice
    assert base.is_dir()


def test_the_heal_section_names_its_own_folder_and_texts(tmp_path: Path) -> None:
    path = plan(tmp_path, output="elsewhere/h", teacher="base")
    options = heal_options(path, read_plan(path))
    assert options is not None
    assert options["output"] == str(tmp_path / "elsewhere" / "h") and options["teacher"] == str(tmp_path / "base")
    assert options["data"] == [{"data": str(tmp_path / "words.jsonl"), "weight": 1.0}]
