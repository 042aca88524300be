"""Layers that are decomposed by what a calibration text says of them, from run.json to the folder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from engine_runs import cancel_after_layer, events, fail, finish, make_run
from moment_problems import loss, ridged
from tiny_models import make_tiny_model, make_tokenizer, save_tiny_model
from transformers import AutoModelForCausalLM

from bondwise import compress, estimate
from bondwise.calibrate import collect_moments
from bondwise.checkpoint import open_checkpoint
from bondwise.device import Memory, device_memory
from bondwise.loading import load_model
from bondwise.modelmap import map_model
from bondwise.run import start
from bondwise.schema import LayerFigures
from bondwise.shrinkage import shrunk
from bondwise.text import token_sequences

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from torch import Tensor

    from bondwise.moments import Moments

TEXT: dict[str, Any] = {"length": 64, "sequences": 6}
METHODS = ["input", "fisher"]


def weighted_run(directory: Path, model: Path, output: Path, *rules: dict[str, Any], **calibration: Any) -> Path:
    options = {"tensorize": list(rules), "output": str(output), "calibration": {**TEXT, **calibration}}
    return make_run(directory, "tensorize", options, model=str(model))


def moments_of(architecture: str, folder: Path) -> dict[str, Moments]:
    """As the run collects them: of the built-in text, with the labels of seed 0."""
    layers = map_model(open_checkpoint(folder)).layers
    ids = token_sequences(make_tokenizer(), "builtin", "calibration", **TEXT)
    return collect_moments(make_tiny_model(architecture), layers, ids, seed=0, progress=nothing, check_cancelled=nothing)


def nothing(*_: float) -> None: ...


def no_memory(_: str) -> Memory:
    return Memory(0, 0)


def little_memory(_: str) -> Memory:
    return Memory(1 << 29, 1 << 29)


def products(folder: Path, layers: Iterable[str]) -> dict[str, Tensor]:
    """The weight [out, in] that each layer of a compressed folder stands for, float64: what the loaded layer does to unit vectors."""
    model = load_model(folder).double()
    found: dict[str, Tensor] = {}
    for name in layers:
        module: Any = model.get_submodule(name)
        units = torch.eye(module.in_features, dtype=torch.float64)
        with torch.no_grad():
            found[name] = (module(units) - module(torch.zeros_like(units))).mT
    return found


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2", "phi3", "gpt_neox", "opt"])
def test_the_weighted_methods_lose_less_than_the_plain_one(architecture: str, tmp_path: Path) -> None:
    folder = save_tiny_model(architecture, tmp_path / "base")
    moments = {name: shrunk(found) for name, found in moments_of(architecture, folder).items()}
    source = open_checkpoint(folder)
    layers = {layer.name: layer for layer in map_model(source).layers}
    dense = {
        name: (source.read(layer.tensors[0]).mT if layer.transposed else source.read(layer.tensors[0])).double()
        for name, layer in layers.items()
    }
    changes: dict[str, dict[str, Tensor]] = {}
    for method in ("plain", *METHODS):
        result = finish(weighted_run(tmp_path / method, folder, tmp_path / f"out-{method}", {"layers": ["*"], "chi": 8, "method": method}))
        assert {layer["method"] for layer in result["layers"]} == {method}
        changes[method] = {name: dense[name] - made for name, made in products(tmp_path / f"out-{method}", layers).items()}
        told = {layer["name"]: layer["loss"] for layer in result["layers"]}
        if method == "fisher":
            assert told == {name: pytest.approx(loss(changes[method][name], moments[name]), rel=1e-6) for name in layers}
        else:
            assert set(told.values()) == {None}
    for name, found in moments.items():
        inputs = ridged(found.inputs)
        by_inputs = {method: float(torch.trace(change[name] @ inputs @ change[name].mT)) for method, change in changes.items()}
        by_both = {method: loss(change[name], found) for method, change in changes.items()}
        by_weight = {method: float(change[name].norm()) for method, change in changes.items()}
        for best, losses in (("input", by_inputs), ("fisher", by_both), ("plain", by_weight)):
            assert losses[best] == pytest.approx(min(losses.values()), rel=1e-6)
    AutoModelForCausalLM.from_pretrained(tmp_path / "out-fisher", trust_remote_code=True)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "mixtral"])
def test_in_sequence_less_is_lost_on_the_calibration_text(architecture: str, tmp_path: Path) -> None:
    """KL of the whole model to the original on the very text; Mixtral's fused experts stay as they are."""
    folder = save_tiny_model(architecture, tmp_path / "base")
    layers = ["*attn*"] if architecture == "mixtral" else ["*"]
    ids = token_sequences(make_tokenizer(), "builtin", "calibration", **TEXT)
    lost: dict[str, float] = {}
    for method in ("fisher", "sequential"):
        result = finish(
            weighted_run(tmp_path / method, folder, tmp_path / f"out-{method}", {"layers": layers, "chi": 12, "method": method})
        )
        assert {layer["method"] for layer in result["layers"]} == {method}
        with torch.no_grad():
            made, original = (load_model(one)(input_ids=ids).logits.log_softmax(-1) for one in (tmp_path / f"out-{method}", folder))
        lost[method] = float((original.exp() * (original - made)).sum(-1).mean())
    assert lost["sequential"] < 0.95 * lost["fisher"]


def test_what_is_made_in_sequence_goes_on_after_a_stop_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_tiny_model("llama", tmp_path / "base")
    rules = [
        {"layers": ["*.0.*.q_proj"], "chi": 5, "method": "plain"},
        {"layers": ["*.o_proj"], "chi": 6, "method": "input"},
        {"layers": ["*"], "chi": 7, "method": "sequential"},
    ]
    finish(weighted_run(tmp_path / "whole", folder, tmp_path / "one", *rules))
    stopped = weighted_run(tmp_path / "stopped", folder, tmp_path / "two", *rules)
    cancel_after_layer(stopped, 9, monkeypatch)  # in the second block
    (stopped / "cancel").unlink()
    before = sorted(path.name for path in (stopped / "checkpoints").glob("*.safetensors"))
    result = finish(stopped)
    assert 4 < len(before) < len(result["layers"])
    assert (tmp_path / "one" / "model.safetensors").read_bytes() == (tmp_path / "two" / "model.safetensors").read_bytes()
    told = [event["layer"]["name"] for event in events(stopped, "layer")]
    assert sorted(told) == sorted(layer["name"] for layer in result["layers"])


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_dense_layers_are_fitted_anew(architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that write into the residual stream: less is lost on the text, the file has their weights, a stop changes nothing."""
    folder = save_tiny_model(architecture, tmp_path / "base")
    down = {"llama": "*.down_proj", "gpt2": "*.mlp.c_proj"}[architecture]
    ids = token_sequences(make_tokenizer(), "builtin", "calibration", **TEXT)
    rule = {"layers": ["*"], "exclude": [down], "chi": 8, "method": "sequential"}
    lost: list[float] = []
    for name, refit in (("as-is", list[str]()), ("fitted", [down])):
        run = make_run(
            tmp_path / name,
            "tensorize",
            {"tensorize": [rule], "refit": refit, "output": str(tmp_path / f"out-{name}"), "calibration": TEXT},
            model=str(folder),
        )
        if refit:
            cancel_after_layer(run, 1, monkeypatch)
            (run / "cancel").unlink()
        result = finish(run)
        assert len(result["refitted"]) == 2 * len(refit)
        with torch.no_grad():
            made, original = (load_model(one)(input_ids=ids).logits.log_softmax(-1) for one in (tmp_path / f"out-{name}", folder))
        lost.append(float((original.exp() * (original - made)).sum(-1).mean()))
    assert lost[1] < 0.97 * lost[0]
    before, after = (open_checkpoint(one) for one in (folder, tmp_path / "out-fitted"))
    assert set(result["refitted"]) == {name.removesuffix(".weight") for name in before.tensors if name.endswith(f"{down[2:]}.weight")}
    for name in result["refitted"]:
        one, other = (source.read(f"{name}.weight") for source in (before, after))
        assert one.shape == other.shape and 0 < float((one - other).norm()) < float(one.norm())
    assert "Stayed dense" in (tmp_path / "out-fitted" / "README.md").read_text()


def test_fitting_anew_needs_layers_made_in_sequence(tmp_path: Path) -> None:
    folder = save_tiny_model("llama", tmp_path / "base")
    options = {"tensorize": [{"layers": ["*.q_proj"], "chi": 4, "method": "fisher"}], "output": str(tmp_path / "out"), "calibration": TEXT}
    assert "--method sequential" in fail(make_run(tmp_path / "run", "tensorize", {**options, "refit": ["*.down_proj"]}, model=str(folder)))


def test_methods_mix_and_a_run_that_was_stopped_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_tiny_model("llama", tmp_path / "base")
    rules = (
        {"layers": ["*.q_proj"], "chi": 4, "method": "input"},
        {"layers": ["*.k_proj"], "chi": 4, "sites": 3},
        {"layers": ["*.mlp.*"], "chi": 6, "method": "fisher"},
    )
    # One layer at a time, as where the memory holds no more.
    monkeypatch.setattr(compress, "device_memory", no_memory)
    expected = finish(weighted_run(tmp_path / "run0", folder, tmp_path / "expected", *rules))
    run = weighted_run(tmp_path / "run", folder, tmp_path / "out", *rules)
    cancel_after_layer(run, 4, monkeypatch)
    monkeypatch.setattr(compress, "device_memory", device_memory)
    (run / "cancel").unlink()
    done = len(list((run / "checkpoints").glob("*.safetensors")))
    result = finish(run)
    assert 0 < done < len(result["layers"])
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (tmp_path / "expected" / "model.safetensors").read_bytes()
    assert [layer["loss"] for layer in result["layers"]] == [layer["loss"] for layer in expected["layers"]]
    told = [LayerFigures.model_validate(event["layer"]) for event in events(run, "layer")]
    assert sorted(one.name for one in told) == sorted(layer["name"] for layer in result["layers"])


@pytest.mark.parametrize("what", ["weights", "text"])
def test_a_run_does_not_go_on_with_what_was_changed_meanwhile(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_tiny_model("llama", tmp_path / "base")
    text = tmp_path / "text.txt"
    text.write_text("".join(f"The {number} of it.\n\n" for number in range(2000)))
    rule = {"layers": ["*.q_proj"], "chi": 4, "method": "input"}
    run = weighted_run(tmp_path / "run", folder, tmp_path / "out", rule, data=str(text))
    cancel_after_layer(run, 0, monkeypatch)
    (run / "cancel").unlink()
    changed = folder / "model.safetensors" if what == "weights" else text
    before = changed.read_bytes()
    if what == "weights":
        changed.write_bytes(before[:-4] + b"\0\0\0\0")  # the headers stay
    else:
        text.write_text(text.read_text().replace("of it", "of that"))
    message = fail(run)
    assert ("The model in" if what == "weights" else "The calibration text") in message and "new run" in message
    assert not (tmp_path / "out").exists()
    if what == "text":
        changed.write_bytes(before)
        finish(run)


def test_another_text_makes_a_layer_again(tmp_path: Path) -> None:
    folder = save_tiny_model("llama", tmp_path / "base")
    rule = {"layers": ["*.0.*.q_proj"], "chi": 4, "method": "input"}
    made: list[bytes] = []
    for name, length in (("first", 64), ("second", 80)):
        finish(weighted_run(tmp_path / name, folder, tmp_path / f"out-{name}", rule, length=length))
        made.append((tmp_path / f"out-{name}" / "model.safetensors").read_bytes())
    assert made[0] != made[1]


def test_little_text_is_said_and_too_little_refused(tmp_path: Path) -> None:
    folder = save_tiny_model("llama", tmp_path / "base")
    rule = {"layers": ["*.0.*"], "chi": 4, "method": "input"}
    run = weighted_run(tmp_path / "run", folder, tmp_path / "out", rule, length=8, sequences=2)
    finish(run)
    (warning,) = [event["message"] for event in events(run, "warning") if "calibration" in event["message"]]
    assert "saw 16 tokens" in warning and "independent" in warning
    (tmp_path / "short.txt").write_text("Not much.")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "other.pdf").write_text("")
    for name, why in {
        "short.txt": "tokens for calibration",
        "empty.txt": "has 0 tokens for calibration",
        "missing.txt": "does not exist",
        "other.pdf": "neither a .txt nor a .jsonl file",
    }.items():
        message = fail(weighted_run(tmp_path / f"run-{name}", folder, tmp_path / "out2", rule, data=str(tmp_path / name)))
        assert name in message and why in message


def test_a_text_is_taken_from_the_run_directory_and_leaves_no_path(tmp_path: Path) -> None:
    folder = save_tiny_model("llama", tmp_path / "base")
    (tmp_path / "mine.txt").write_text("\n\n".join(f"Line {number} of a text of my own." for number in range(400)))
    run = weighted_run(tmp_path / "run", folder, tmp_path / "out", {"layers": ["*.0.*"], "chi": 4, "method": "input"}, data="../mine.txt")
    finish(run)
    lineage = (tmp_path / "out" / "bondwise.json").read_text()
    assert json.loads(lineage)["request"]["calibration"]["data"] == "../mine.txt" and str(tmp_path) not in lineage


@pytest.mark.parametrize(
    ("rule", "what"),
    [
        ({"error": 0.1, "method": "input"}, "takes chi or keep"),
        ({"chi": 4, "method": "magic"}, "method"),
    ],
)
def test_what_a_method_cannot_do_is_said(rule: dict[str, Any], what: str, tmp_path: Path) -> None:
    folder = save_tiny_model("llama", tmp_path / "base")
    run = weighted_run(tmp_path / "run", folder, tmp_path / "out", {"layers": ["*"], **rule})
    assert start(run) == 1
    assert what in json.dumps(json.loads((run / "status.json").read_text())["error"])


def test_the_memory_for_calibration_is_checked_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_tiny_model("llama", tmp_path / "base")
    monkeypatch.setattr(estimate, "device_memory", little_memory)
    wanted = {"layers": ["*"], "chi": 4}
    run = weighted_run(tmp_path / "run", folder, tmp_path / "out", {**wanted, "method": "fisher"}, length=60_000, sequences=1)
    message = fail(run)
    assert "reading the calibration text takes about" in message and "--method plain" in message
    assert not (run / "checkpoints").exists() or not list((run / "checkpoints").glob("*.safetensors"))
