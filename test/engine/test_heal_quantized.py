"""A folder in packed bits is healed in place: its codes stay, and thin matrices beside them train."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from engine_runs import fail, finish, make_run, tensorize_run
from safetensors.torch import load_file
from tiny_models import save_tiny_model
from transformers import AutoModelForCausalLM

from bondwise.checkpoint import open_checkpoint
from bondwise.modelmap import map_model

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

RULES = (
    {"layers": ["*.down_proj"], "scheme": "compensated-3", "rank": 5},
    {"layers": ["*.gate_proj"], "scheme": "compensated-2", "rank": 6, "rank_bits": 16},
    {"layers": ["*.o_proj"], "scheme": "low-rank-4", "rank": 9},
    {"layers": ["*.v_proj", "*.up_proj.cores.*"], "scheme": "compensated-3"},
)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    """Cores of q whole and of up in 3 bits, and layers with every kind of correction and with none."""
    folder = tmp_path_factory.mktemp("models")
    save_tiny_model("llama", folder / "base", dtype=torch.bfloat16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BONDWISE_HOME", str(folder / "home"))
        finish(tensorize_run(folder / "run", folder / "base", folder / "small", {"layers": ["*.q_proj", "*.up_proj"], "chi": 12}))
        options = {"quantize": RULES, "output": str(folder / "bits"), "calibration": {"length": 32, "sequences": 4}}
        finish(make_run(folder / "quantize", "quantize", options, model=str(folder / "small")))
        yield folder / "bits"


def heal(tmp_path: Path, model: Path, **options: Any) -> Path:
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": f"{number} and {number + 1} are {2 * number + 1}. " * 4}) + "\n" for number in range(200)))
    small = {
        "length": 64,
        "batch": 2,
        "learning_rate": 0.01,
        "validation_sequences": 2,
        "validations": 2,
        "sample_tokens": 2,
        "tokens": 2048,
    }
    request = {"data": [{"data": str(text)}], "output": str(tmp_path / "out"), **small, **options}
    return make_run(tmp_path / "heal", "heal", request, model=str(model))


def test_codes_stay_and_corrections_train(quantized: Path, tmp_path: Path) -> None:
    result = finish(heal(tmp_path, quantized, corrections=4))
    assert result["best_loss"] < result["start_loss"] - 0.05
    before, after = load_file(quantized / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    thin = {name for name in before if ".left." in name or ".right." in name}
    of_cores = {name for name in before if ".up_proj.cores." in name}
    assert not thin & after.keys()
    for name in before.keys() - thin:
        trains = ".correction." in name or (".cores." in name and name not in of_cores)
        assert torch.equal(before[name], after[name]) != trains, name
    block = "model.layers.0."
    shapes = {name: tuple(tensor.shape) for name, tensor in after.items() if name.startswith(block) and ".correction.0." in name}
    assert shapes == {
        f"{block}mlp.down_proj.correction.0.weight": (5, 48),
        f"{block}mlp.gate_proj.correction.0.weight": (6, 32),
        f"{block}self_attn.o_proj.correction.0.weight": (9, 32),
        f"{block}self_attn.v_proj.correction.0.weight": (4, 32),
    }
    # As anybody loads it, against the weights put together by hand.
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32, trust_remote_code=True)
    layer = model.get_submodule(f"{block}self_attn.o_proj")
    by_hand = after[f"{block}self_attn.o_proj.correction.1.weight"].float() @ after[f"{block}self_attn.o_proj.correction.0.weight"].float()
    states = torch.randn(3, by_hand.shape[1], generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(states), states @ by_hand.mT, rtol=1e-5, atol=1e-6)
    layers = {one.name: one for one in map_model(open_checkpoint(tmp_path / "out")).layers}
    assert layers[f"{block}mlp.down_proj"].scheme == "3-bit + rank 5"
    assert layers[f"{block}self_attn.o_proj"].scheme == "rank 9, 16-bit"
    assert layers[f"{block}self_attn.v_proj"].scheme == "3-bit + rank 4"


def test_it_begins_as_the_model_that_was_quantized(quantized: Path, tmp_path: Path) -> None:
    """With a learning rate of nearly nothing it stays that, whatever the dtype of what is new rounds."""
    finish(heal(tmp_path, quantized, learning_rate=1e-9, corrections=4, validations=1))

    def logits(folder: Path) -> torch.Tensor:
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=True)
        with torch.no_grad():
            return model(torch.arange(40)[None] * 5).logits[0]

    torch.testing.assert_close(logits(tmp_path / "out"), logits(quantized), rtol=0, atol=0.02)


def test_a_healed_one_is_healed_again(quantized: Path, tmp_path: Path) -> None:
    finish(heal(tmp_path, quantized, tokens=256))
    again = tmp_path / "again"
    again.mkdir()
    finish(heal(again, tmp_path / "out", tokens=256))
    assert len(json.loads((again / "out" / "bondwise.json").read_text())["healing"]) == 2


def test_what_bitsandbytes_made_is_refused(tmp_path: Path) -> None:
    save_tiny_model("llama", tmp_path / "base", dtype=torch.bfloat16)
    options = {"quantize": [{"layers": ["*"], "scheme": "int8"}], "output": str(tmp_path / "bits")}
    finish(make_run(tmp_path / "quantize", "quantize", options, model=str(tmp_path / "base")))
    told = fail(heal(tmp_path, tmp_path / "bits"))
    assert "bitsandbytes" in told and "compensated-4" in told
