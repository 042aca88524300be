"""The tensorize run, from run.json to a folder that loads in plain transformers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from engine_runs import cancel_after_layer, events, fail, finish, tensorize_run
from safetensors.torch import load_file, save_file
from stored_cores import contracted
from tiny_models import ARCHITECTURES, VOCABULARY, save_tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from bondwise import compress, device, estimate, preparation, tensorize, writing
from bondwise.checkpoint import open_checkpoint
from bondwise.device import Memory
from bondwise.modelmap import map_model
from bondwise.run import start

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

PLAIN_LOADER = """
import sys, torch
from transformers import AutoModelForCausalLM
assert "bondwise" not in sys.modules
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True, dtype=torch.float32).eval()
with torch.no_grad():
    torch.save(model(torch.load(sys.argv[2])).logits, sys.argv[3])
assert "bondwise" not in sys.modules
"""

IDS = torch.randint(VOCABULARY, (2, 24), generator=torch.Generator().manual_seed(5))


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return save_tiny_model("llama", tmp_path / "llama")


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def base_logits(folder: Path, weights: dict[str, NDArray[np.float64]]) -> torch.Tensor:
    """Logits of the original architecture with these weights in the place of its own."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    modules = dict(model.named_modules())
    for name, weight in weights.items():
        found = [path for path in modules if path == name or path.endswith(f".{name}")]
        assert len(found) == 1
        module: Any = modules[found[0]]
        value = torch.from_numpy(weight).float()
        module.weight.data = (value.T if type(module).__name__ == "Conv1D" else value).contiguous()
    return logits_of(model)


def names(folder: Path) -> list[str]:
    return [layer.name for layer in map_model(open_checkpoint(folder)).layers]


def siblings(output: Path) -> list[str]:
    return [path.name for path in output.parent.iterdir() if path.name.startswith(f".{output.name}.")]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_compressed_model_computes_what_its_cores_say(tmp_path: Path, architecture: str) -> None:
    base = save_tiny_model(architecture, tmp_path / "base", shards=2)
    experts = ["*.experts.*"] if any(".experts." in name for name in names(base)) else []
    output = tmp_path / "out"
    rules = ({"layers": ["*.0.*"], "exclude": experts, "keep": 0.5}, {"layers": ["*"], "exclude": experts, "chi": 6, "sites": 3})
    result = finish(tensorize_run(tmp_path / "run", base, output, *rules))

    weights = contracted(output)[0]
    assert set(weights) == {layer["name"] for layer in result["layers"]} == {name for name in names(base) if ".experts." not in name}
    loaded = AutoModelForCausalLM.from_pretrained(output, trust_remote_code=True, dtype=torch.float32).eval()
    expected = base_logits(base, weights)
    assert (expected - base_logits(base, {})).abs().max() > 0.05  # the compression is felt, so equality means something
    torch.testing.assert_close(logits_of(loaded), expected, rtol=1e-4, atol=1e-4)
    tensors = {name: tensor for path in output.glob("*.safetensors") for name, tensor in load_file(path).items()}
    assert result["parameters"] == sum(tensor.numel() for tensor in tensors.values() if tensor.is_floating_point())
    assert result["bytes"] == sum(tensor.nbytes for tensor in tensors.values())
    assert result["logits_difference"] < 1e-3
    tokenizer = AutoTokenizer.from_pretrained(output)
    assert tokenizer.decode(tokenizer("Hello").input_ids) == "Hello"


def test_it_loads_in_another_process_without_bondwise(tmp_path: Path, llama: Path) -> None:
    output = tmp_path / "out"
    finish(tensorize_run(tmp_path / "run", llama, output, {"layers": ["*_proj"], "keep": 0.4, "sites": 2}))
    torch.save(IDS, tmp_path / "ids.pt")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HOME": str(tmp_path / "hf")}
    command = [sys.executable, "-c", PLAIN_LOADER, str(output), str(tmp_path / "ids.pt"), str(tmp_path / "logits.pt")]
    subprocess.run(command, check=True, env=environment, cwd=tmp_path)
    found = torch.load(tmp_path / "logits.pt", weights_only=True)
    torch.testing.assert_close(found, base_logits(llama, contracted(output)[0]), rtol=1e-4, atol=1e-4)


def test_a_bond_above_the_exact_rank_loses_nothing_and_is_told(tmp_path: Path, llama: Path) -> None:
    output = tmp_path / "out"
    run = tensorize_run(tmp_path / "run", llama, output, {"layers": ["*"], "chi": 10**6, "sites": 3})
    result = finish(run)
    loaded = AutoModelForCausalLM.from_pretrained(output, trust_remote_code=True).eval()
    torch.testing.assert_close(logits_of(loaded), base_logits(llama, {}), rtol=1e-4, atol=1e-4)
    assert max(layer["relative_error"] for layer in result["layers"]) < 1e-5
    assert any("not be smaller than dense" in event["message"] for event in events(run, "warning"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("keep", [0.25, 0.6])
def test_keep_is_honoured_and_figures_are_those_of_the_stored_cores(tmp_path: Path, dtype: torch.dtype, keep: float) -> None:
    base = save_tiny_model("qwen2", tmp_path / "base", dtype=dtype)
    output = tmp_path / "out"
    result = finish(tensorize_run(tmp_path / "run", base, output, {"layers": ["*"], "keep": keep, "sites": 2}))
    original = load_file(base / "model.safetensors")
    stored = load_file(output / "model.safetensors")
    weights = contracted(output)[0]
    assert len(result["layers"]) == len(weights) > 0
    for layer in result["layers"]:
        weight = original[f"{layer['name']}.weight"].double().numpy()
        cores = [tensor for name, tensor in stored.items() if name.startswith(f"{layer['name']}.cores.")]
        orders = [tensor for name, tensor in stored.items() if name.startswith(f"{layer['name']}.order_")]
        assert {core.dtype for core in cores} == {dtype}
        assert sum(core.numel() for core in cores) == layer["parameters"] <= keep * weight.size
        assert layer["bytes"] == sum(tensor.nbytes for tensor in (*cores, *orders))
        error = np.linalg.norm(weight - weights[layer["name"]]) / np.linalg.norm(weight)
        assert layer["relative_error"] == pytest.approx(error, rel=1e-6)
    untouched = {name for name in original if name in stored}
    assert untouched == {name for name in original if name.removesuffix(".weight") not in weights}
    assert all(torch.equal(original[name], stored[name]) for name in untouched)


def test_error_is_honoured(tmp_path: Path, llama: Path) -> None:
    result = finish(tensorize_run(tmp_path / "run", llama, tmp_path / "out", {"layers": ["*"], "error": 0.3}))
    assert all(0.1 < layer["relative_error"] < 0.3 for layer in result["layers"])


def test_a_layer_belongs_to_the_first_rule_that_matches_it(tmp_path: Path, llama: Path) -> None:
    rules = ({"layers": ["*.q_proj"], "chi": 3}, {"layers": ["*.self_attn.*"], "chi": 5, "exclude": ["*.1.*.v_proj"]})
    result = finish(tensorize_run(tmp_path / "run", llama, tmp_path / "out", *rules))
    bonds = {layer["name"]: layer["bond_dims"] for layer in result["layers"]}
    assert bonds["model.layers.0.self_attn.q_proj"] == [3]
    assert bonds["model.layers.0.self_attn.k_proj"] == [5]
    assert "model.layers.1.self_attn.v_proj" not in bonds
    assert len(bonds) == 7


def test_given_modes_are_used_and_may_pad(tmp_path: Path, llama: Path) -> None:
    rule = {"layers": ["*.gate_proj"], "chi": 4, "out_modes": [7, 7], "in_modes": [4, 8]}
    result = finish(tensorize_run(tmp_path / "run", llama, tmp_path / "out", rule))
    assert {tuple(layer["out_modes"]) for layer in result["layers"]} == {(7, 7)}  # 49 for 48 outputs
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True).eval()
    torch.testing.assert_close(logits_of(loaded), base_logits(llama, contracted(tmp_path / "out")[0]), rtol=1e-4, atol=1e-4)


def test_a_compressed_model_can_be_compressed_further(tmp_path: Path, llama: Path) -> None:
    finish(tensorize_run(tmp_path / "run1", llama, tmp_path / "first", {"layers": ["*.q_proj"], "chi": 4}))
    finish(tensorize_run(tmp_path / "run2", tmp_path / "first", tmp_path / "second", {"layers": ["*.o_proj"], "chi": 5, "sites": 2}))
    weights = contracted(tmp_path / "second")[0]
    assert len(weights) == 4
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "second", trust_remote_code=True).eval()
    torch.testing.assert_close(logits_of(loaded), base_logits(llama, weights), rtol=1e-4, atol=1e-4)
    assert "is an MPO already" in fail(
        tensorize_run(tmp_path / "run3", tmp_path / "second", tmp_path / "third", {"layers": ["*.q_proj"], "chi": 2})
    )


def test_both_models_are_measured_on_the_same_text(tmp_path: Path, llama: Path) -> None:
    run = tensorize_run(
        tmp_path / "run",
        llama,
        tmp_path / "out",
        {"layers": ["*"], "keep": 0.3},
        evaluate={"length": 32, "sequences": 3, "sample_tokens": 4},
    )
    result = finish(run)
    assert result["original"]["kl"] is None
    assert result["compressed"]["kl"] > 0
    assert 0 <= result["compressed"]["agreement"] <= 1
    assert result["original"]["tokens"] == result["compressed"]["tokens"] == 3 * 31
    assert [event["role"] for event in events(run, "evaluation")] == ["original", "compressed"]
    lineage = json.loads((tmp_path / "out" / "bondwise.json").read_text())
    assert lineage["base"]["path"] == "../llama"
    assert lineage["result"]["compressed"] == result["compressed"]
    assert str(tmp_path) not in (tmp_path / "out" / "bondwise.json").read_text()
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"{result['compressed']['perplexity']:.2f}" in card


# --- stopping and going on -------------------------------------------------------------------------------------------------------------


def test_a_cancelled_run_keeps_its_layers_and_goes_on(tmp_path: Path, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tensorize_run(tmp_path / "run", llama, tmp_path / "out", {"layers": ["*"], "keep": 0.5})
    cancel_after_layer(run, 2, monkeypatch)
    assert json.loads((run / "status.json").read_text())["state"] == "cancelled"
    assert not (tmp_path / "out").exists()
    assert siblings(tmp_path / "out") == []
    kept = {path.name: path.stat().st_mtime_ns for path in (run / "checkpoints").glob("*.safetensors")}
    assert len(kept) == 3

    compressed: list[str] = []
    make = compress.compress_layer

    def note(source: Any, choice: Any, *rest: Any) -> Any:
        compressed.append(choice.layer.name)
        return make(source, choice, *rest)

    monkeypatch.setattr(compress, "compress_layer", note)
    (run / "cancel").unlink()
    result = finish(run)
    assert len(compressed) == len(result["layers"]) - 3
    assert [event["layer"]["name"] for event in events(run, "layer")] == names(llama)


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_damaged_resume_point_is_done_again(tmp_path: Path, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = {"layers": ["*.self_attn.*"], "keep": 0.5}
    finish(tensorize_run(tmp_path / "run0", llama, tmp_path / "expected", rule))
    run = tensorize_run(tmp_path / "run", llama, tmp_path / "out", rule)
    with monkeypatch.context() as patched:
        patched.setattr(tensorize, "_write", interrupted)
        assert start(run) == 130
    first, second, third, *_ = sorted((run / "checkpoints").glob("*.safetensors"))
    data = bytearray(first.read_bytes())
    data[-3] ^= 0x10
    first.write_bytes(data)
    second.write_bytes(second.read_bytes()[:-100])
    third.write_bytes(b"")
    finish(run)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (tmp_path / "expected" / "model.safetensors").read_bytes()


def test_killed_anywhere_it_goes_on_to_the_same_bytes(tmp_path: Path, llama: Path) -> None:
    """Real processes, each ended by SIGKILL at a chosen call of fsync, rename or a step border, then started again."""
    script = Path(__file__).with_name("killed_runs.py")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script), str(llama), str(tmp_path / "work"), "14"]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["killed"] >= 10
    assert report["differing"] == []
    assert report["layers_done_twice"] == []
    assert report["left_over"] == []


# --- what is refused -------------------------------------------------------------------------------------------------------------------


def nan_in_weights(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def truncated(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-64])


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def config(change: dict[str, Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        found = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(found | change))

    return apply


def output_of_another(folder: Path) -> None:
    (folder.parent / "out").mkdir()
    (folder.parent / "out" / "thesis.tex").write_text("years of work")


def missing_weight(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.0.mlp.down_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


EVERYTHING = {"layers": ["*"], "keep": 0.5}


@pytest.mark.parametrize(
    ("damage", "rule", "message"),
    [
        (nan_in_weights, EVERYTHING, "model.layers.1.mlp.up_proj.weight holds 1 NaN"),
        (truncated, EVERYTHING, "model.safetensors is"),
        (pickled, EVERYTHING, "holds pickled weights"),
        (missing_weight, EVERYTHING, "model.layers.0.mlp.down_proj"),
        (output_of_another, EVERYTHING, "was not made by Bondwise"),
        (config({"quantization_config": {"quant_method": "gptq", "bits": 4}}), EVERYTHING, "is quantized"),
        (config({"architectures": None}), EVERYTHING, "architectures"),
        (config({"model_type": "novel", "auto_map": {"AutoModelForCausalLM": "modeling.Novel"}}), EVERYTHING, "needs its own Python code"),
        (None, {"layers": ["*.z_proj"], "keep": 0.5}, "'*.z_proj' matches no layer"),
        (None, {"layers": ["*"], "exclude": ["*"], "keep": 0.5}, "No layer is left"),
        (None, {"layers": ["*"], "chi": 0}, "chi: Input should be greater than or equal to 1 (got 0)"),
        (None, {"layers": ["*"], "chi": "many"}, "chi: Input should be a valid integer"),
        (None, {"layers": ["*"], "keep": 0.001}, "keep 0.001 allows"),
        (None, {"layers": ["*"], "chi": 4, "keep": 0.5}, "exactly one of chi, keep and error"),
        (None, {"layers": ["*"], "chi": 4, "out_modes": [4, 4], "in_modes": [4, 8]}, "do not cover"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(
    tmp_path: Path, llama: Path, damage: Callable[[Path], None] | None, rule: dict[str, Any], message: str
) -> None:
    if damage is not None:
        damage(llama)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert message in fail(tensorize_run(tmp_path / "run", llama, tmp_path / "out", rule))
    assert {path: path.read_bytes() for path in before} == before
    assert siblings(tmp_path / "out") == []
    assert not (tmp_path / "out" / "config.json").exists()


def test_layers_that_are_no_matrix_or_no_module_of_their_own(tmp_path: Path) -> None:
    base = save_tiny_model("mixtral", tmp_path / "base")
    said = fail(tensorize_run(tmp_path / "run", base, tmp_path / "out", EVERYTHING))
    assert "experts.0.w1" in said
    assert "--exclude" in said


def test_a_rule_that_comes_too_late_is_told(tmp_path: Path, llama: Path) -> None:
    said = fail(tensorize_run(tmp_path / "run", llama, tmp_path / "out", EVERYTHING, {"layers": ["*.q_proj"], "chi": 2}))
    assert "Rule 2 (*.q_proj) has no layer left" in said


def test_too_small_a_disk_is_found_before_the_work(tmp_path: Path, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type(shutil.disk_usage(tmp_path))(total=10**9, used=10**9 - 5000, free=5000)

    def nearly_full(_: object) -> Any:
        return usage

    monkeypatch.setattr(writing.shutil, "disk_usage", nearly_full)
    run = tensorize_run(tmp_path / "run", llama, tmp_path / "out", EVERYTHING)
    assert "disk is too small" in fail(run)
    assert events(run, "layer") == []


def test_too_little_memory_is_found_before_the_work(tmp_path: Path, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    def nearly_none(_: object) -> Memory:
        return Memory(free=1000, total=2000)

    monkeypatch.setattr(estimate, "device_memory", nearly_none)
    run = tensorize_run(tmp_path / "run", llama, tmp_path / "out", EVERYTHING)
    assert "decomposing the largest layer takes about 0.27 GB, 0.00 GB are free" in fail(run)
    assert events(run, "layer") == []


def test_too_short_a_text_is_found_before_the_work(tmp_path: Path, llama: Path) -> None:
    (tmp_path / "short.txt").write_text("Too short.")
    run = tensorize_run(tmp_path / "run", llama, tmp_path / "out", EVERYTHING, evaluate={"data": str(tmp_path / "short.txt")})
    assert "short.txt has" in fail(run)
    assert events(run, "layer") == []


def test_a_folder_that_computes_something_else_is_not_published(tmp_path: Path, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = tensorize.read_tensors
    calls = 0

    def swap_once(path: Path) -> dict[str, torch.Tensor]:
        # What is written goes wrong in one core; what it is compared with does not.
        nonlocal calls
        calls += 1
        tensors = read(path)
        return {**tensors, "cores.0.weight": tensors["cores.0.weight"].flip(0)} if calls == 1 else tensors

    monkeypatch.setattr(tensorize, "read_tensors", swap_once)
    assert "does not compute what its cores say" in fail(tensorize_run(tmp_path / "run", llama, tmp_path / "out", EVERYTHING))
    assert not (tmp_path / "out").exists()
    assert siblings(tmp_path / "out") == []


def test_without_room_for_both_models_they_are_measured_one_by_one(tmp_path: Path, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = estimate.estimate

    def cramped(*arguments: Any, **named: Any) -> estimate.Needs:
        return real(*arguments, **named)._replace(compare=device.host_memory().total * 2)

    monkeypatch.setattr(preparation, "estimate", cramped)
    run = tensorize_run(tmp_path / "run", llama, tmp_path / "out", EVERYTHING, evaluate={"length": 32, "sequences": 2, "sample_tokens": 0})
    result = finish(run)
    assert result["compressed"]["kl"] is None
    assert any("distance to the original" in event["message"] for event in events(run, "warning"))
