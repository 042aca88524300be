"""Several processes on one run, started by torchrun itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_runs import events, finish, tensorize_run
from safetensors.torch import load_file, save_file
from tiny_models import save_tiny_model

from bondwise.errors import UserError
from bondwise.ranks import Ranks

PLAIN = {"layers": ["*.mlp.*"], "keep": 0.5, "method": "plain"}
FISHER = {"layers": ["*.self_attn.*"], "keep": 0.5, "method": "fisher"}
SEQUENTIAL = {"layers": ["*.mlp.*"], "keep": 0.5, "method": "sequential"}
TEXT = {"calibration": {"data": "builtin", "sequences": 4, "length": 32}}


@pytest.fixture(name="model")
def _model(tmp_path: Path) -> Path:
    return save_tiny_model("llama", tmp_path / "model")


def with_text(run: Path) -> Path:
    request = json.loads((run / "run.json").read_text())
    request["options"] |= TEXT
    (run / "run.json").write_text(json.dumps(request))
    return run


def launch(run: Path, processes: int = 2) -> subprocess.Popen[bytes]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.Popen(
        [sys.executable, *torchrun, "-m", "bondwise", "start", str(run)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "engine"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def status(run: Path, name: str) -> dict[str, Any]:
    return json.loads((run / name).read_text())


def weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


@pytest.mark.parametrize("rules", [[PLAIN, FISHER], [SEQUENTIAL, FISHER]])
def test_two_processes_make_what_one_makes(
    tmp_path: Path, model: Path, rules: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)  # as torchrun's processes: other threads sum in another order
    alone = with_text(tensorize_run(tmp_path / "alone", model, tmp_path / "made-alone", *rules))
    finish(alone)
    # The moments that the first run kept would make it no test of the second one's.
    monkeypatch.setenv("BONDWISE_HOME", str(tmp_path / "other-home"))
    shared = with_text(tensorize_run(tmp_path / "shared", model, tmp_path / "made-shared", *rules))
    assert launch(shared).wait(timeout=180) == 0
    assert weights(tmp_path / "made-shared") == weights(tmp_path / "made-alone")
    other = status(shared, "rank-1.json")
    assert other["state"] == "done"
    wanted = {layer["layer"]["name"] for layer in events(shared, "layer") if ".layers.1." in layer["layer"]["name"]}
    assert set(other["layers"]) == {name for name in wanted if rules[0] is PLAIN or "self_attn" in name}
    assert len(events(shared, "layer")) == len(events(alone, "layer"))


def test_what_another_process_cannot_do_is_told_by_the_first(tmp_path: Path, model: Path) -> None:
    [file] = model.glob("*.safetensors")
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = torch.nan
    save_file(tensors, file, {"format": "pt"})
    run = tensorize_run(tmp_path / "run", model, tmp_path / "made", PLAIN)
    assert launch(run).wait(timeout=180) != 0
    ended = status(run, "status.json")
    assert ended["state"] == "failed"
    assert "Process 1 of 2" in ended["error"]["message"] and "model.layers.1.mlp.up_proj" in ended["error"]["message"]
    assert not (tmp_path / "made").exists()


def test_a_killed_process_ends_the_run_which_resumes_with_any_number_of_them(tmp_path: Path, model: Path) -> None:
    alone = with_text(tensorize_run(tmp_path / "alone", model, tmp_path / "made-alone", FISHER))
    finish(alone)
    run = with_text(tensorize_run(tmp_path / "run", model, tmp_path / "made", {**FISHER, "layers": ["*"]}))
    torchrun = launch(run)
    until = time.monotonic() + 120
    while not (run / "rank-1.json").exists():
        assert time.monotonic() < until and torchrun.poll() is None
        time.sleep(0.02)
    os.kill(status(run, "rank-1.json")["process"]["pid"], signal.SIGKILL)
    assert torchrun.wait(timeout=120) != 0
    assert status(run, "status.json")["state"] == "interrupted"
    assert not (tmp_path / "made").exists()
    assert launch(run, processes=3).wait(timeout=180) == 0
    assert status(run, "status.json")["state"] == "done"
    assert (tmp_path / "made" / "config.json").exists()


def test_each_process_has_its_own_blocks_and_none_the_device_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owners: list[list[int]] = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "3")
        ranks = Ranks(tmp_path)
        owners.append([block for block in range(-1, 10) if ranks.owns(block)])
        assert ranks.device("cpu") == "cpu"
        with pytest.raises(UserError, match="cuda:1 is for one process"):
            ranks.device("cuda:1")
    assert sorted(block for owned in owners for block in owned) == list(range(-1, 10))


def test_the_command_line_wants_a_run_directory_that_all_know(tmp_path: Path, model: Path) -> None:
    asked = ["tensorize", str(model), "--layers", "*", "--keep", "0.5", "--output", str(tmp_path / "made")]
    command = [sys.executable, "-m", "bondwise", *asked]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "engine"), "RANK": "1", "WORLD_SIZE": "2"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode != 0
    assert "--run DIR" in done.stderr
