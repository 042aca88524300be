"""Dense export: the base architecture, loaded by plain transformers, computes what the compressed model computes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from engine_runs import events, fail, finish, make_run, tensorize_run
from tiny_models import VOCABULARY, save_tiny_model, save_wide_model
from transformers import AutoModelForCausalLM

from bondwise.loading import load_model
from bondwise.schema import MPOSection

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

EVERY_LAYER = {"layers": ["*"], "keep": 0.6}


def compressed(tmp_path: Path, name: str, rule: dict[str, Any] = EVERY_LAYER, dtype: torch.dtype = torch.float32) -> Path:
    base = save_tiny_model(name, tmp_path / "base", dtype=dtype)
    finish(tensorize_run(tmp_path / "tensorize", base, tmp_path / "small", rule))
    return tmp_path / "small"


def export(tmp_path: Path, model: Path, output: Path) -> dict[str, Any]:
    return finish(make_run(tmp_path / f"export-{output.name}", "export", {"output": str(output)}, model=str(model)))


@torch.no_grad()
def log_probs(model: PreTrainedModel) -> torch.Tensor:
    ids = torch.randint(VOCABULARY, (1, 24), generator=torch.Generator().manual_seed(1))
    return model(input_ids=ids).logits[0].float().log_softmax(-1)


# Untied and tied heads, biases, a base that stores [in, out], fused projections.
@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "phi3"])
def test_the_folder_is_the_base_architecture_with_the_same_outputs(tmp_path: Path, name: str) -> None:
    small = compressed(tmp_path, name)
    result = export(tmp_path, small, tmp_path / "dense")

    dense = AutoModelForCausalLM.from_pretrained(tmp_path / "dense", trust_remote_code=False, local_files_only=True)

    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", local_files_only=True)
    assert type(dense) is type(base)
    assert {key: value.shape for key, value in dense.state_dict().items()} == {key: value.shape for key, value in base.state_dict().items()}
    torch.testing.assert_close(log_probs(dense.eval()), log_probs(load_model(small)), atol=1e-4, rtol=0)
    assert result["plain"]
    assert result["architecture"] == type(base).__name__
    config = json.loads((tmp_path / "dense" / "config.json").read_text())
    original = json.loads((tmp_path / "base" / "config.json").read_text())
    assert config == original
    assert not (tmp_path / "dense" / "modeling_mpo.py").exists()
    assert result["bytes"] == sum(tensor.numel() * tensor.element_size() for tensor in _stored(tmp_path / "dense").values())
    assert result["parameters"] == sum(tensor.numel() for tensor in _stored(tmp_path / "base").values())


def test_sixteen_bits_differ_by_rounding_only_and_say_so(tmp_path: Path) -> None:
    small = compressed(tmp_path, "llama", dtype=torch.bfloat16)
    result = export(tmp_path, small, tmp_path / "dense")
    assert 0 < result["logits_difference"] < 0.5
    (verified,) = events(tmp_path / "export-dense", "verified")
    assert verified["logits_difference"] == result["logits_difference"]


def test_interleaved_sites_are_contracted_too(tmp_path: Path) -> None:
    small = compressed(tmp_path, "llama", {"layers": ["*.mlp.*"], "chi": 6, "sites": 3})
    assert MPOSection.model_validate(json.loads((small / "config.json").read_text())["mpo"]).layers
    assert export(tmp_path, small, tmp_path / "dense")["logits_difference"] < 1e-3


def test_what_is_no_compressed_model_is_refused(tmp_path: Path) -> None:
    base = save_tiny_model("llama", tmp_path / "base")
    told = fail(make_run(tmp_path / "run", "export", {"output": str(tmp_path / "dense")}, model=str(base)))
    assert "neither compressed nor quantized" in told
    assert not (tmp_path / "dense").exists()


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that bitsandbytes computes with, and a compressed one."""
    folder = tmp_path_factory.mktemp("wide")
    save_wide_model(folder / "dense")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("BONDWISE_HOME", str(folder / "home"))
        finish(tensorize_run(folder / "run", folder / "dense", folder / "cores", {"layers": ["*.up_proj"], "chi": 64}))
    return folder


BITS: dict[str, list[dict[str, Any]]] = {
    "int8": [{"layers": ["*"], "scheme": "int8"}],
    "nf4": [{"layers": ["*"], "scheme": "nf4-double"}],
    # The paper's mixed recipe: cores in 16 bits, what is still dense in 4; the head by name.
    "mixed": [
        {"layers": ["*.cores.*", "*.q_proj"], "scheme": "float16"},
        {"layers": ["lm_head"], "scheme": "int8"},
        {"layers": ["*"], "scheme": "nf4"},
    ],
    # Our own format: a core, a matrix with thin ones in 16 bits beside it, and the rest.
    "packed": [
        {"layers": ["*.cores.1"], "scheme": "int8"},
        {"layers": ["*.gate_proj"], "scheme": "compensated-2", "rank": 6, "rank_bits": 16},
        {"layers": ["*.cores.0"], "scheme": "float16"},
        {"layers": ["*"], "scheme": "nf4"},
    ],
}


@pytest.mark.parametrize("kind", ["dense", "cores"])
@pytest.mark.parametrize("bits", list(BITS))
def test_a_quantized_folder_is_written_out(tmp_path: Path, wide: Path, kind: str, bits: str) -> None:
    """The dense weights are those that plain transformers itself reads from the quantized folder."""
    rules = [{**rule, "layers": [one for one in rule["layers"] if kind == "cores" or "cores" not in one]} for rule in BITS[bits]]
    text = {"length": 32, "sequences": 4}
    options = {"quantize": [rule for rule in rules if rule["layers"]], "output": str(tmp_path / "quantized"), "calibration": text}
    quantized = finish(make_run(tmp_path / "run", "quantize", options, model=str(wide / kind)))
    result = export(tmp_path, tmp_path / "quantized", tmp_path / "out")

    out: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=False, local_files_only=True)
    original: Any = AutoModelForCausalLM.from_pretrained(wide / "dense", local_files_only=True)
    read: Any = load_model(tmp_path / "quantized", dtype=torch.float32)
    if quantized["backend"] == "bitsandbytes":
        read = read.dequantize(torch.float32)
    assert type(out) is type(original)
    assert out.dtype == original.dtype == torch.bfloat16
    for name, module in out.named_modules():
        if isinstance(module, torch.nn.Linear):
            whole = read.get_submodule(name)
            expected = whole.dense() if hasattr(whole, "dense") else whole.weight
            torch.testing.assert_close(module.weight, expected.to(torch.bfloat16), atol=1e-6, rtol=2**-7)
    packed = sum(layer["scheme"] != "float16" for layer in quantized["layers"])
    assert (result["layers"], result["dequantized"]) == (2 if kind == "cores" else 0, packed)
    # The sizes that are told are those of the files.
    stored = _stored(tmp_path / "out")
    assert result["bytes"] == sum(tensor.nbytes for tensor in stored.values())
    assert result["parameters"] == sum(tensor.numel() for tensor in _stored(wide / "dense").values())
    assert result["compressed_parameters"] == quantized["parameters"]
    assert result["compressed_bytes"] == quantized["bytes"] == sum(tensor.nbytes for tensor in _stored(tmp_path / "quantized").values())
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == json.loads((wide / "dense" / "config.json").read_text())
    assert "in few bits was written out" in (tmp_path / "out" / "README.md").read_text()


def test_transposed_layers_in_few_bits(tmp_path: Path) -> None:
    base = save_tiny_model("gpt2", tmp_path / "base")
    options = {"quantize": [{"layers": ["*"], "scheme": "nf4"}], "output": str(tmp_path / "quantized")}
    finish(make_run(tmp_path / "run", "quantize", options, model=str(base)))
    export(tmp_path, tmp_path / "quantized", tmp_path / "out")
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "out", local_files_only=True)
    torch.testing.assert_close(log_probs(made.eval()), log_probs(load_model(tmp_path / "quantized")), atol=1e-4, rtol=0)


def test_what_another_tool_has_quantized_is_refused(tmp_path: Path) -> None:
    base = save_tiny_model("llama", tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq", "bits": 4}}))
    told = fail(make_run(tmp_path / "run", "export", {"output": str(tmp_path / "out")}, model=str(base)))
    assert "quantized by gptq" in told


def test_a_wrong_weight_is_found_before_the_folder_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bondwise import layers

    small = compressed(tmp_path, "llama")
    contract = layers.contract_stored

    def turned(*arguments: Any) -> torch.Tensor:
        return -contract(*arguments)

    monkeypatch.setattr(layers, "contract_stored", turned)
    told = fail(make_run(tmp_path / "run", "export", {"output": str(tmp_path / "dense")}, model=str(small)))
    assert "does not compute" in told
    assert not (tmp_path / "dense").exists()


def _stored(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
