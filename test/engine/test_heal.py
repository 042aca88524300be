"""A compressed tiny model is healed: what changes and what does not, resumed runs, and everything that is refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from engine_runs import events, fail, finish, make_run, tensorize_run
from safetensors.torch import load_file
from tiny_models import save_tiny_model
from torch.distributed.checkpoint import state_dict_saver

from bondwise import heal_loop
from bondwise.checkpoint import open_checkpoint
from bondwise.cli import main
from bondwise.device import Memory
from bondwise.errors import UserError
from bondwise.loading import load_model
from bondwise.run import start
from bondwise.trainable import choose_trainable, hardly_any

if TYPE_CHECKING:
    from collections.abc import Callable

CORES = ".cores."


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model `base` and `small`, q, k, up and down of which are MPOs."""
    folder = tmp_path_factory.mktemp("models")
    save_tiny_model("llama", folder / "base", dtype=torch.bfloat16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BONDWISE_HOME", str(folder / "home"))
        rule = {"layers": ["re:.*(q|k|up|down)_proj"], "keep": 0.5}
        finish(tensorize_run(folder / "run", folder / "base", folder / "small", rule))
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many short documents that are easy to learn."""
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    path.write_text("".join(json.dumps({"text": f"{number} and {number + 1} are {2 * number + 1}. " * 4}) + "\n" for number in range(200)))
    return path


@pytest.fixture
def heal_run(models: Path, text: Path, tmp_path: Path) -> Callable[..., Path]:
    def make(name: str = "run", model: Path = models / "small", **options: Any) -> Path:
        small = {"length": 64, "batch": 2, "learning_rate": 0.01, "validation_sequences": 2, "validations": 3, "sample_tokens": 3}
        budget = {} if options.keys() & {"minutes", "tokens", "epochs"} else {"tokens": 12 * 128}
        request = {"data": [{"data": str(text)}], "output": str(tmp_path / f"{name}-out"), **small, **budget, **options}
        return make_run(tmp_path / name, "heal", request, model=str(model))

    return make


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_the_cores_change_and_nothing_else(models: Path, heal_run: Callable[..., Path], tmp_path: Path) -> None:
    run = heal_run()
    result = finish(run)
    before, after = weights(models / "small"), weights(tmp_path / "run-out")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype
        assert torch.equal(after[name], tensor) == (CORES not in name), name
    assert result["best_loss"] < result["start_loss"]
    assert result["stopped"] == "budget" and result["steps"] == 12 and result["tokens"] == 12 * 128
    validations = events(run, "heal-validation")
    assert [event["step"] for event in validations] == [0, 4, 8, 12]
    assert result["best_loss"] == min(event["loss"] for event in validations)
    assert events(run, "heal-step")[-1]["step"] == 12
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["published.json"]
    assert (tmp_path / "run-out" / "config.json").read_bytes() == (models / "small" / "config.json").read_bytes()


def test_the_folder_says_how_it_was_healed(models: Path, heal_run: Callable[..., Path], tmp_path: Path) -> None:
    finish(heal_run(evaluate={"length": 16, "sequences": 2, "sample_tokens": 2}))
    lineage = json.loads((tmp_path / "run-out" / "bondwise.json").read_text())
    assert (tmp_path / "run-out" / lineage["base"]["path"]).resolve() == models / "base"
    healing = lineage["healing"][0]
    assert healing["result"]["steps"] == 12
    assert healing["result"]["healed"]["perplexity"] > 0
    assert not healing["request"]["data"][0]["data"].startswith("/")
    assert "## Healing" in (tmp_path / "run-out" / "README.md").read_text()
    # A healed folder can be healed again.
    finish(heal_run("again", model=tmp_path / "run-out"))
    again = json.loads((tmp_path / "again-out" / "bondwise.json").read_text())
    assert len(again["healing"]) == 2
    load_model(tmp_path / "again-out")


def test_a_cancelled_run_goes_on_to_the_same_bytes(heal_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(heal_run("whole"))
    run = heal_run("stopped")
    for steps in (2, 5, 1):
        with monkeypatch.context() as patch:
            _cancel_in_step(run, steps, patch)
            assert start(run) == 130
        (run / "cancel").unlink()
    finish(run)
    whole, resumed = ((tmp_path / f"{name}-out" / "model.safetensors").read_bytes() for name in ("whole", "stopped"))
    assert whole == resumed
    # It went on, and did not begin anew: the first validation was told once.
    assert [event["step"] for event in events(run, "heal-validation")].count(0) == 1
    losses = [{event["step"]: event["loss"] for event in events(tmp_path / name, "heal-validation")} for name in ("whole", "stopped")]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(("processes", "moments"), [(1, 12), (2, 4)])
def test_killed_anywhere_it_goes_on_to_the_same_bytes(models: Path, text: Path, tmp_path: Path, processes: int, moments: int) -> None:
    """Real processes, one ended by SIGKILL at a chosen call of fsync, rename or a step border, then started again."""
    script = Path(__file__).with_name("killed_heals.py")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script), str(models / "small"), str(text), str(tmp_path / "work"), str(moments), str(processes)]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["killed"] >= 0.7 * moments
    assert report["differing"] == [] and report["lost"] == []
    assert report["left_over"] == []


def _cancel_in_step(run: Path, number: int, patch: pytest.MonkeyPatch) -> None:
    """Asks the run to stop in the middle of that step of its next process."""
    gradients = heal_loop.Healer._gradients
    calls = 0

    def counted(healer: Any, packs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            (run / "cancel").touch()
        return gradients(healer, packs)

    patch.setattr(heal_loop.Healer, "_gradients", counted)


def test_norms_and_layers_train_too_when_named(models: Path, heal_run: Callable[..., Path], tmp_path: Path) -> None:
    finish(heal_run(train=["norms", "model.layers.1.self_attn.v_proj"]))
    before, after = weights(models / "small"), weights(tmp_path / "run-out")
    changed = {name for name, tensor in before.items() if not torch.equal(after[name], tensor) and CORES not in name}
    assert changed == {name for name in before if "norm" in name or name == "model.layers.1.self_attn.v_proj.weight"}


def test_recomputing_activations_changes_nothing(heal_run: Callable[..., Path], tmp_path: Path) -> None:
    finish(heal_run("kept"))
    finish(heal_run("recomputed", recompute=True))
    kept, recomputed = (weights(tmp_path / f"{name}-out") for name in ("kept", "recomputed"))
    for name, tensor in kept.items():
        torch.testing.assert_close(recomputed[name], tensor)


def test_minutes_become_steps(heal_run: Callable[..., Path]) -> None:
    result = finish(heal_run(minutes=0.05, validations=1))
    assert result["steps"] >= 1


def test_without_distillation_no_original_is_needed(models: Path, heal_run: Callable[..., Path], tmp_path: Path) -> None:
    alone = tmp_path / "elsewhere" / "small"
    shutil.copytree(models / "small", alone)
    assert "is not at" in fail(heal_run("lost", model=alone))
    result = finish(heal_run("alone", model=alone, distill=0))
    assert result["teacher_loss"] is None and result["best_loss"] < result["start_loss"]


def test_what_the_original_says_is_asked_once(heal_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BONDWISE_HOME", str(tmp_path / "home"))
    asked = 0
    found = heal_loop.likeliest

    def counted(*arguments: Any) -> Any:
        nonlocal asked
        asked += 1
        return found(*arguments)

    monkeypatch.setattr(heal_loop, "likeliest", counted)
    result = finish(heal_run("first", teacher_top=8))
    assert asked == 24 and result["best_loss"] < result["start_loss"]
    finish(heal_run("second", teacher_top=8, teacher_device="cpu"))
    assert asked == 24
    first, second = ((tmp_path / f"{name}-out" / "model.safetensors").read_bytes() for name in ("first", "second"))
    assert first == second
    finish(heal_run("others", teacher_top=9))
    assert asked == 48


def test_little_or_nothing_to_train_is_told(models: Path) -> None:
    assert hardly_any(10, 1000) is None
    assert "9 of 1,000 parameters train (0.90%)" in str(hardly_any(9, 1000))
    with pytest.raises(UserError, match="has nothing to train"):
        choose_trainable(load_model(models / "base"), open_checkpoint(models / "base"), [])


def test_a_plateau_ends_the_run(heal_run: Callable[..., Path]) -> None:
    result = finish(heal_run(learning_rate=1e-12, validations=12, patience=2))
    assert result["stopped"] == "plateau" and result["steps"] < 12


def test_told_to_finish_it_validates_and_keeps_the_best(
    heal_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = heal_run()
    gradients = heal_loop.Healer._gradients
    steps = 0

    def finishing(healer: Any, packs: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 6:
            (run / "finish").touch()
        return gradients(healer, packs)

    monkeypatch.setattr(heal_loop.Healer, "_gradients", finishing)
    result = finish(run)
    assert result["stopped"] == "asked" and result["steps"] == 6
    assert [event["step"] for event in events(run, "heal-validation")] == [0, 4, 6]
    assert result["best_loss"] < result["start_loss"]
    assert (tmp_path / "run-out").is_dir()


def test_steps_tell_the_memory_of_each_device(heal_run: Callable[..., Path]) -> None:
    run = heal_run()
    finish(run)
    assert all(event["memory"].keys() == {"cpu"} and event["memory"]["cpu"] > 1e6 for event in events(run, "heal-step"))


def test_a_run_that_diverges_at_once_makes_nothing_and_says_what_to_change(heal_run: Callable[..., Path], tmp_path: Path) -> None:
    told = fail(heal_run(learning_rate=1e30, clip=1e9, tokens=40 * 128))
    assert "--learning-rate" in told and "step" in told
    assert not (tmp_path / "run-out").exists()


def test_what_was_good_before_it_diverged_is_kept(heal_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = heal_loop.Healer._gradients
    steps = 0

    def then_nan(healer: Any, packs: Any) -> tuple[float, float]:
        nonlocal steps
        steps += 1
        loss, cross_entropy = gradients(healer, packs)
        return (float("nan") if steps == 7 else loss), cross_entropy

    monkeypatch.setattr(heal_loop.Healer, "_gradients", then_nan)
    run = heal_run()
    result = finish(run)
    assert result["stopped"] == "diverged" and result["best_step"] == 4 and result["steps"] == 6
    assert "--learning-rate" in events(run, "warning")[-1]["message"]
    assert (tmp_path / "run-out").is_dir()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"train": ["nothing*"]}, "matches no layer"),
        ({"train": ["re:("]}, "not a regular expression"),
        ({"tokens": 1, "minutes": 1}, "exactly one of"),
        ({"data": [{"data": "/nowhere.jsonl"}]}, "does not exist"),
        ({"length": 4096}, "takes at most"),
    ],
)
def test_bad_requests_are_refused(heal_run: Callable[..., Path], options: dict[str, Any], told: str) -> None:
    assert told in fail(heal_run(**options))


def test_a_model_that_is_not_compressed_is_refused(models: Path, heal_run: Callable[..., Path]) -> None:
    assert "not a compressed model" in fail(heal_run(model=models / "base"))


def test_another_vocabulary_is_refused(heal_run: Callable[..., Path], tmp_path: Path) -> None:
    other = save_tiny_model("llama", tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "vocab_size": 300}))
    assert "vocabulary of 300" in fail(heal_run(teacher=str(other)))


@pytest.mark.parametrize(("options", "lever"), [({}, "--recompute"), ({"recompute": True}, "--length"), ({"length": 8}, "--")])
def test_too_little_memory_is_told_before_the_first_step(
    heal_run: Callable[..., Path], options: dict[str, Any], lever: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nearly_full(_device: str) -> Memory:
        return Memory(1000, 1000)

    monkeypatch.setattr("bondwise.heal_needs.device_memory", nearly_full)
    run = heal_run(**options)
    told = fail(run)
    assert "Not enough memory on cpu" in told and lever in told
    assert events(run, "estimate") and not events(run, "heal-step")


def test_a_full_disk_is_told_before_the_first_step(heal_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def nearly_full(_path: Path) -> int:
        return 1000

    monkeypatch.setattr("bondwise.heal_needs.free_bytes", nearly_full)
    assert "disk is too small" in fail(heal_run())


def test_a_disk_that_fills_up_leaves_the_resume_point_before(
    heal_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(heal_run("whole"))
    run = heal_run("full")
    saves = 0

    def full(*arguments: Any, **named: Any) -> None:
        nonlocal saves
        saves += 1
        save(*arguments, **named)
        if saves == 4:
            raise OSError(errno.ENOSPC, "No space left on device")

    save = state_dict_saver.save
    with monkeypatch.context() as patch:
        patch.setattr(state_dict_saver, "save", full)
        assert "No space left" in fail(run)
    assert not [path.name for path in (run / "checkpoints").iterdir() if "partial" in path.name]
    finish(run)
    assert (tmp_path / "full-out" / "model.safetensors").read_bytes() == (tmp_path / "whole-out" / "model.safetensors").read_bytes()


def test_the_command_line_heals(models: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data", f"{text}=2", "--data", "builtin", "--length", "32", "--batch", "2", "--tokens", "256", "--validations", "1"]
    command = ["heal", str(models / "small"), *options, "--output", str(tmp_path / "out"), "--run", str(tmp_path / "run"), "--json"]
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["state"] == "done" and told["steps"] == 4
    asked = json.loads((tmp_path / "run" / "run.json").read_text())["options"]["data"]
    assert asked == [{"data": str(text), "weight": 2.0}, {"data": "builtin", "weight": 1.0}]
