"""The difference of two models against torch by hand, and against the weights that transformers computes with."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from engine_runs import finish, make_run, tensorize_run
from safetensors.torch import load_file, save_file
from tiny_models import save_tiny_model
from transformers import AutoModelForCausalLM

from bondwise.checkpoint import open_checkpoint
from bondwise.cli import main
from bondwise.errors import UserError
from bondwise.tensor_diff import tensor_diff

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from bondwise.schema import TensorChange, TensorDiff, TensorDiffStep

SMALL = 1000
"""Bytes of a piece: every tensor takes several."""


def diff_of(model: Path, other: Path) -> tuple[TensorDiff, list[TensorDiffStep]]:
    steps: list[TensorDiffStep] = []
    return tensor_diff(open_checkpoint(model), open_checkpoint(other), steps.append, piece=SMALL), steps


def by_name(diff: TensorDiff) -> dict[str, TensorChange]:
    return {one.name: one for one in diff.tensors}


def check(change: TensorChange, model: Tensor, other: Tensor, rel: float = 1e-9) -> None:
    difference = other.double() - model.double()
    assert change.relative == pytest.approx(float(difference.norm() / model.double().norm()), rel=rel)
    assert change.largest == pytest.approx(float(difference.abs().max()), rel=rel)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model("llama", tmp_path_factory.mktemp("diff") / "original", dtype=torch.bfloat16)


def fine_tuned(original: Path, folder: Path) -> dict[str, Tensor]:
    """A copy with one layer moved a little, one a lot, one tensor of another shape, one renamed."""
    folder.mkdir()
    (folder / "config.json").write_bytes((original / "config.json").read_bytes())
    tensors = load_file(original / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for name, size in (("model.layers.0.mlp.up_proj.weight", 1e-2), ("model.layers.1.self_attn.q_proj.weight", 1.0)):
        tensors[name] = (tensors[name].float() + size * torch.randn(tensors[name].shape, generator=generator)).to(torch.float16)
    tensors["model.norm.weight"] = torch.ones(7, dtype=torch.bfloat16)
    tensors["extra.weight"] = tensors.pop("lm_head.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return tensors


def test_a_fine_tuned_copy_is_ranked_by_change(original: Path, tmp_path: Path) -> None:
    tensors = fine_tuned(original, tmp_path / "tuned")
    before = load_file(original / "model.safetensors")
    diff, steps = diff_of(original, tmp_path / "tuned")
    assert [one.name for one in diff.tensors[:2]] == ["model.layers.1.self_attn.q_proj.weight", "model.layers.0.mlp.up_proj.weight"]
    for one in diff.tensors[:2]:
        check(one, before[one.name], tensors[one.name])
        assert (one.found, one.stored, one.other_stored) == ("changed", "BF16", "F16")
    found = {one.name: one.found for one in diff.tensors[2:]}
    assert found.pop("model.norm.weight") == "shape"
    assert (found.pop("lm_head.weight"), found.pop("extra.weight")) == ("only-model", "only-other")
    assert set(found.values()) == {"equal"}
    common = [name for name in before if name in tensors and before[name].shape == tensors[name].shape]
    norm = sum(float(before[name].double().square().sum()) for name in common)
    lost = sum(float((tensors[name].double() - before[name].double()).square().sum()) for name in common)
    assert diff.relative == pytest.approx((lost / norm) ** 0.5, rel=1e-9)
    assert steps[-1].done == steps[-1].total and len(steps) == len(diff.tensors)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_cores_are_contracted_to_what_the_model_computes_with(name: str, tmp_path: Path) -> None:
    """Conv1D too, whose weight is the other way round."""
    model = save_tiny_model(name, tmp_path / name, dtype=torch.float32)
    layers = {"llama": ["*.up_proj"], "gpt2": ["*.c_fc"]}[name]
    finish(tensorize_run(tmp_path / "run", model, tmp_path / "small", {"layers": layers, "chi": 8, "sites": 2}))
    diff, _ = diff_of(model, tmp_path / "small")
    changed = [one for one in diff.tensors if one.found == "changed"]
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "small", trust_remote_code=True)
    dense: Any = AutoModelForCausalLM.from_pretrained(model)
    assert len(changed) == 2 and all(one.other_stored == "cores, χ 8" for one in changed)
    for one in changed:
        path = next(module for module, _ in dense.named_modules() if module.endswith(one.name.removesuffix(".weight")))
        weight = dense.get_submodule(path).weight.detach()
        check(one, weight if name == "llama" else weight.mT, loaded.get_submodule(path).dense().detach(), rel=1e-4)
    assert {one.found for one in diff.tensors} == {"changed", "equal"}
    again, _ = diff_of(tmp_path / "small", tmp_path / "small")
    assert {one.found for one in again.tensors} == {"equal"}


def test_quantized_layers_and_cores_are_unpacked_as_transformers_unpacks_them(original: Path, tmp_path: Path) -> None:
    finish(tensorize_run(tmp_path / "run", original, tmp_path / "small", {"layers": ["*.up_proj"], "chi": 8}))
    schemes = {"*.down_proj": "compensated-4", "*.gate_proj": "compensated-8", "*.cores.0": "compensated-8"}
    rules = [{"layers": [pattern], "scheme": scheme} for pattern, scheme in schemes.items()]
    options = {"quantize": rules, "output": str(tmp_path / "few"), "calibration": {"data": "builtin", "length": 32, "sequences": 4}}
    finish(make_run(tmp_path / "quantize", "quantize", options, model=str(tmp_path / "small")))
    found = by_name(diff_of(original, tmp_path / "few")[0])
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "few", trust_remote_code=True, dtype=torch.float32)
    before = load_file(original / "model.safetensors")
    for layer, other_stored in (("down_proj", "4-bit"), ("gate_proj", "8-bit"), ("up_proj", "cores, χ 8, 8-bit")):
        name = f"model.layers.0.mlp.{layer}.weight"
        module = loaded.get_submodule(name.removesuffix(".weight"))
        out = module(torch.eye(module.in_features, dtype=torch.float32)).detach()  # [in, out]
        assert found[name].other_stored == other_stored
        check(found[name], before[name], out.mT, rel=0.02)


def test_bitsandbytes_is_dequantized(original: Path, tmp_path: Path) -> None:
    functional = pytest.importorskip("bitsandbytes").functional
    tensors = load_file(original / "model.safetensors")
    name = "model.layers.0.mlp.down_proj.weight"
    packed, state = functional.quantize_4bit(tensors[name].float(), blocksize=64, quant_type="nf4")
    (tmp_path / "nf4").mkdir()
    config = json.loads((original / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (tmp_path / "nf4/config.json").write_text(json.dumps(config))
    states = {f"{name}.{key}": value for key, value in state.as_dict(packed=True).items()}
    save_file({**tensors, name: packed, **states}, tmp_path / "nf4/model.safetensors")
    change = by_name(diff_of(original, tmp_path / "nf4")[0])[name]
    assert change.other_stored == "nf4"
    check(change, tensors[name], functional.dequantize_4bit(packed, state), rel=1e-6)


def test_what_cannot_be_compared_is_told(original: Path, tmp_path: Path) -> None:
    tensors = load_file(original / "model.safetensors")
    name = "model.layers.0.mlp.down_proj.weight"
    (tmp_path / "fp8").mkdir()
    (tmp_path / "fp8/config.json").write_bytes((original / "config.json").read_bytes())
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = float("nan")
    scaled = {name: tensors[name].to(torch.float8_e4m3fn), f"{name}_scale_inv": torch.ones(1)}
    save_file({**tensors, **scaled}, tmp_path / "fp8/model.safetensors")
    found = by_name(diff_of(original, tmp_path / "fp8")[0])
    assert found[name].found == "unread" and "is stored as fp8" in (found[name].problem or "")
    assert (found["model.layers.0.mlp.up_proj.weight"].found, found["model.layers.0.mlp.up_proj.weight"].not_finite) == ("changed", 1)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_bytes((original / "config.json").read_bytes())
    save_file({"something.else": torch.ones(2)}, foreign / "model.safetensors")
    with pytest.raises(UserError, match="have no tensor's name in common"):
        diff_of(original, foreign)


def test_the_command_prints_a_line_a_tensor_and_then_all(original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fine_tuned(original, tmp_path / "tuned")
    assert main(["diff", str(original), str(tmp_path / "tuned"), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["kind"] for line in lines] == ["step"] * (len(lines) - 1) + ["diff"]
    assert len(lines[-1]["tensors"]) == len(lines) - 1
    assert main(["diff", str(original), str(tmp_path / "tuned"), "--top", "1"]) == 0
    assert "… and 1 more" in capsys.readouterr().out
    assert main(["diff", str(original), str(tmp_path / "none")]) == 1
