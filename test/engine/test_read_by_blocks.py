"""Runs on models that the memory does not hold whole: what they make, when they are chosen, and how much memory they take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from engine_runs import cancel_after_layer, events, fail, finish, make_run
from safetensors.torch import load_file
from tiny_models import make_tokenizer, save_tiny_model
from transformers import LlamaConfig, LlamaForCausalLM

from bondwise import compress, estimate, preparation
from bondwise.checkpoint import open_checkpoint
from bondwise.device import Memory
from bondwise.modelmap import map_model
from bondwise.resolve import resolve
from bondwise.schema import TensorizeOptions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TEXT: dict[str, Any] = {"length": 64, "sequences": 6}
READINGS = [estimate.Reading("blocks", 0), estimate.Reading("files", 1 << 60)]


def run_of(folder: Path, model: Path, *rules: dict[str, Any], **more: Any) -> Path:
    options = {"tensorize": list(rules), "output": str(folder / "out"), "calibration": TEXT, **more}
    return make_run(folder / "run", "tensorize", options, model=str(model))


def read_as(monkeypatch: pytest.MonkeyPatch, reading: estimate.Reading) -> None:
    real = estimate.estimate

    def chosen(*arguments: Any, **named: Any) -> estimate.Needs:
        return real(*arguments, **named)._replace(reading=reading)

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("the whole model was loaded")

    monkeypatch.setattr(preparation, "estimate", chosen)
    monkeypatch.setattr(compress, "load_model", refused)


def fresh_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the moments of earlier runs."""
    monkeypatch.setenv("BONDWISE_HOME", str(folder))


@pytest.mark.parametrize("method", ["input", "fisher", "sequential"])
@pytest.mark.parametrize(("name", "reading"), [("llama", READINGS[0]), ("gpt2", READINGS[1]), ("qwen2", READINGS[1])])
def test_what_is_made_is_what_the_whole_model_gives(
    name: str, method: str, reading: estimate.Reading, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save_tiny_model(name, tmp_path / "base")
    layers = [layer.name for layer in map_model(open_checkpoint(model)).layers]
    rule = {"layers": layers[:-1], "chi": 6, "method": method}
    more = {"refit": layers[-1:]} if method == "sequential" else {}
    fresh_home(tmp_path / "home1", monkeypatch)
    expected = finish(run_of(tmp_path / "whole", model, rule, **more))
    fresh_home(tmp_path / "home2", monkeypatch)
    read_as(monkeypatch, reading)
    run = run_of(tmp_path / "blocks", model, rule, **more)
    found = finish(run)
    (said,) = [event["message"] for event in events(run, "warning") if "block by block" in event["message"]]
    assert said.startswith("The model does not fit in ")
    for one, other in zip(found["layers"], expected["layers"], strict=True):
        assert one["name"] == other["name"]
        assert one["relative_error"] == pytest.approx(other["relative_error"], rel=1e-3)
        assert one["loss"] == (None if other["loss"] is None else pytest.approx(other["loss"], rel=1e-2))
    if more:
        weights = [load_file(tmp_path / which / "out" / "model.safetensors") for which in ("whole", "blocks")]
        stored = open_checkpoint(model).tensors
        anew = next(key for key in stored if key.startswith(layers[-1]))
        torch.testing.assert_close(weights[1][anew], weights[0][anew], rtol=1e-2, atol=1e-2 * float(weights[0][anew].abs().max()))
    assert not list((run / "checkpoints").glob("states*")) and not list((run / "checkpoints").glob("gradients*"))


@pytest.mark.parametrize("method", ["input", "sequential"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save_tiny_model("llama", tmp_path / "base")
    read_as(monkeypatch, READINGS[1])
    rule = {"layers": ["*"], "chi": 6, "method": method}
    fresh_home(tmp_path / "home1", monkeypatch)
    finish(run_of(tmp_path / "whole", model, rule))
    fresh_home(tmp_path / "home2", monkeypatch)
    run = run_of(tmp_path / "stopped", model, rule)
    cancel_after_layer(run, 9, monkeypatch)
    (run / "cancel").unlink()
    finish(run)
    made = [(tmp_path / which / "out" / "model.safetensors").read_bytes() for which in ("whole", "stopped")]
    assert made[0] == made[1]


def test_a_model_that_does_not_fit_writes_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save_tiny_model("llama", tmp_path / "base")
    fresh_home(tmp_path / "home", monkeypatch)
    rule = {"layers": ["*.q_proj"], "chi": 4, "method": "input"}
    own = {**TEXT, "data": "self"}
    with monkeypatch.context() as patched:
        read_as(patched, READINGS[0])
        message = fail(run_of(tmp_path / "blocks", model, rule, calibration=own))
        assert "cannot write its calibration text" in message and "builtin" in message
    finish(run_of(tmp_path / "whole", model, rule, calibration=own))
    read_as(monkeypatch, READINGS[0])
    finish(run_of(tmp_path / "kept", model, rule, calibration=own))  # what it wrote then is kept


def deep_model(folder: Path, blocks: int) -> Path:
    config = LlamaConfig(
        vocab_size=258, hidden_size=64, intermediate_size=160, num_hidden_layers=blocks, num_attention_heads=4, max_position_embeddings=128
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int, str], estimate.Needs]:
    """Of a model of so many blocks with so much free memory, by a method, as if nothing else took any."""
    monkeypatch.setattr(estimate, "SLACK", 0)

    def of(blocks: int, free: int, method: str) -> estimate.Needs:
        def memory(_device: str) -> Memory:
            return Memory(free, free)

        monkeypatch.setattr(estimate, "device_memory", memory)
        folder = tmp_path / str(blocks)
        source = open_checkpoint(folder if folder.exists() else deep_model(folder, blocks))
        layers = map_model(source).layers
        options = TensorizeOptions.model_validate(
            {"tensorize": [{"layers": ["*"], "chi": 6, "method": method}], "output": str(tmp_path / "out"), "calibration": TEXT}
        )
        choices = resolve(layers, options.tensorize)
        return estimate.estimate(source, layers, choices, options, vocabulary=258, tokens=32, device="cpu")

    return of


@pytest.mark.parametrize("method", ["input", "fisher", "sequential"])
def test_a_model_is_read_whole_where_it_fits(method: str, needs: Callable[[int, int, str], estimate.Needs]) -> None:
    ample = needs(24, 1 << 40, method)
    assert ample.reading.way == "whole"
    assert needs(24, ample.calibrate, method) == ample
    less = needs(24, ample.calibrate - 1, method)
    assert less.reading.way == "blocks" and less.calibrate < ample.calibrate and less.scratch == ample.scratch
    least = needs(24, less.calibrate - 1, method)
    assert least.reading.way == "files" and least.calibrate < less.calibrate
    assert least.scratch - less.scratch == less.calibrate - least.calibrate  # what was in memory is on the disk
    shallow = needs(12, 0, method)
    assert shallow.reading.way == "files" and shallow.calibrate == least.calibrate
    assert needs(12, 1 << 40, method).calibrate < ample.calibrate
