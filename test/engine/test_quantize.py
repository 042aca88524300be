"""Quantized folders: what is written loads in plain transformers, computes what its codes say, and has the sizes that are told."""

from __future__ import annotations

import builtins
import json
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from engine_runs import events, fail, finish, make_run, tensorize_run
from safetensors.torch import load_file, save_file
from tiny_models import save_tiny_model, save_wide_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from bondwise.checkpoint import open_checkpoint
from bondwise.inspection import inspect
from bondwise.loading import load_model
from bondwise.modelmap import map_model

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

TEXT = {"length": 32, "sequences": 4}


@pytest.fixture(scope="module", autouse=True)
def home_of_the_module(tmp_path_factory: pytest.TempPathFactory) -> Generator[None]:
    """What the models of the whole module are made under waits for no device of the user's."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("BONDWISE_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_wide_model(tmp_path_factory.mktemp("wide") / "wide")


@pytest.fixture(scope="module")
def wide_compressed(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compressed")
    finish(tensorize_run(folder / "run", wide, folder / "wide-mpo", {"layers": ["*.up_proj"], "chi": 64}))
    return folder / "wide-mpo"


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model("llama", tmp_path_factory.mktemp("models") / "tiny", dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def compressed(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compressed")
    rule = {"layers": ["*.q_proj", "*.up_proj"], "chi": 12}
    finish(tensorize_run(folder / "run", dense, folder / "tiny-mpo", rule))
    return folder / "tiny-mpo"


def quantize_run(directory: Path, model: Path, output: Path, *rules: dict[str, Any], **options: Any) -> Path:
    return make_run(
        directory, "quantize", {"quantize": list(rules), "output": str(output), "calibration": TEXT, **options}, model=str(model)
    )


def logits(folder: Path, **options: Any) -> torch.Tensor:
    """As a user loads it."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=True, **options)
    with torch.no_grad():
        return model(torch.arange(40)[None] * 5).logits[0]


@pytest.mark.parametrize(
    ("scheme", "settings"),
    [
        ("int8", {"load_in_8bit": True}),
        ("nf4", {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}),
        ("nf4-double", {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}),
    ],
)
@pytest.mark.parametrize("kind", ["wide", "wide_compressed"])
def test_bitsandbytes_folders_equal_what_transformers_makes_of_the_original(
    kind: str, scheme: str, settings: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model: Path = request.getfixturevalue(kind)
    result = finish(quantize_run(tmp_path / "run", model, tmp_path / "out", {"layers": ["*"], "scheme": scheme}))
    assert result["backend"] == "bitsandbytes"
    skipped = ["lm_head"]
    itself: Any = AutoModelForCausalLM.from_pretrained(
        model,
        dtype=torch.bfloat16,
        trust_remote_code=True,
        quantization_config=BitsAndBytesConfig(**settings, llm_int8_skip_modules=skipped),
    )
    names = [
        name for name, module in itself.named_modules() if "bnb" in type(module).__module__ or "bitsandbytes" in type(module).__module__
    ]
    assert len(names) == len(result["layers"])
    made: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.bfloat16, trust_remote_code=True)
    ours, theirs = made.state_dict(), itself.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name
    with torch.no_grad():
        ids = torch.arange(40)[None] * 5
        assert torch.equal(made(ids).logits, itself(ids).logits)


MIXED = (
    {"layers": ["*.q_proj"], "scheme": "int8"},
    {"layers": ["*.k_proj"], "scheme": "nf4"},
    {"layers": ["*.v_proj"], "scheme": "compensated-2"},
    {"layers": ["*.o_proj"], "scheme": "compensated-3", "rank": 5},
    {"layers": ["*.gate_proj"], "scheme": "low-rank-16", "rank": 9},
    {"layers": ["*.up_proj"], "scheme": "low-rank-8", "rank": 20},
    {"layers": ["*0.mlp.down_proj"], "scheme": "low-rank-4", "rank": 7},
    {"layers": ["*1.mlp.down_proj"], "scheme": "compensated-4"},
)


def test_a_mixed_folder_loads_and_computes_what_its_codes_say(dense: Path, tmp_path: Path) -> None:
    result = finish(quantize_run(tmp_path / "run", dense, tmp_path / "out", *MIXED))
    assert result["backend"] == "packed"
    assert result["logits_difference"] < 1e-4
    assert len(result["layers"]) == 14
    # An oracle of its own: the codes read by hand put into the original model.
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    model: Any = AutoModelForCausalLM.from_pretrained(dense, dtype=torch.float32)
    for layer in result["layers"]:
        if layer["scheme"] != "low-rank-16":
            model.get_submodule(layer["name"]).weight.data = by_hand(tensors, layer["name"], layer["shape"])
    gates = [layer["name"] for layer in result["layers"] if layer["scheme"] == "low-rank-16"]
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32, trust_remote_code=True)
    for name in gates:
        model.get_submodule(name).weight.data = loaded.get_submodule(name).dense()
    with torch.no_grad():
        expected = model(torch.arange(40)[None] * 5).logits[0]
    assert torch.allclose(logits(tmp_path / "out"), expected, atol=2e-5)


def by_hand(tensors: dict[str, torch.Tensor], name: str, shape: list[int]) -> torch.Tensor:
    """The weight of a packed layer, number by number from the documented format."""
    total = torch.zeros(shape)
    thin: dict[str, torch.Tensor] = {}
    for part, columns in (("matrix", shape[1]), ("left", shape[0]), ("right", shape[1])):
        if f"{name}.{part}.codes" not in tensors:
            continue
        codes, scales, levels = (tensors[f"{name}.{part}.{what}"] for what in ("codes", "scales", "levels"))
        scales, levels = scales.view(torch.float16), levels.view(torch.float16)
        bits = int(math.log2(len(levels)))
        rows = codes.shape[-2]
        order = tensors.get(f"{name}.{part}.order", torch.arange(columns)).tolist()
        whole = torch.zeros(rows, columns)
        for row in range(rows):
            for column in range(columns):
                code = (
                    int(codes[row, column])
                    if bits == 8
                    else sum(((int(codes[plane, row, column // 8]) >> (column % 8)) & 1) << plane for plane in range(bits))
                )
                whole[row, order[column]] = float(levels[code]) * float(scales[row, column // 64])
        thin[part] = whole
    total += thin.get("matrix", 0)
    return total + (thin["left"].T @ thin["right"] if "left" in thin else 0)


def test_cores_are_packed_too(compressed: Path, tmp_path: Path) -> None:
    rules = (
        {"layers": ["*.cores.0"], "scheme": "compensated-4"},
        {"layers": ["*.cores.1"], "scheme": "int8"},
        {"layers": ["*"], "scheme": "nf4"},
    )
    result = finish(quantize_run(tmp_path / "run", compressed, tmp_path / "out", *rules))
    assert result["logits_difference"] < 1e-4
    layers = {layer.name: layer for layer in map_model(open_checkpoint(tmp_path / "out")).layers}
    assert layers["model.layers.0.mlp.up_proj"].state == "mpo"
    assert layers["model.layers.0.mlp.up_proj"].scheme == "4-bit, 8-bit"
    assert layers["model.layers.0.mlp.down_proj"].state == "quantized"
    plain: Any = load_model(tmp_path / "out")
    with torch.no_grad():
        expected = plain(torch.arange(40)[None] * 5).logits[0]
        plain.set_forward_path("keep")
        assert torch.allclose(plain(torch.arange(40)[None] * 5).logits[0], expected, atol=1e-5)
    assert torch.allclose(logits(tmp_path / "out"), expected, atol=1e-6)


@pytest.mark.parametrize("architecture", ["gpt2", "qwen2"])
def test_transposed_and_biased_layers(architecture: str, tmp_path: Path) -> None:
    model = save_tiny_model(architecture, tmp_path / "model")
    for scheme in ("nf4", "compensated-3"):
        result = finish(quantize_run(tmp_path / f"run-{scheme}", model, tmp_path / scheme, {"layers": ["*"], "scheme": scheme}))
        assert result["logits_difference"] < 1e-3
        assert logits(tmp_path / scheme).isfinite().all()


@pytest.mark.parametrize(("rules", "kind"), [((MIXED[2], MIXED[6]), "dense"), (({"layers": ["*"], "scheme": "nf4"},), "wide_compressed")])
def test_sizes_are_those_of_the_files(rules: tuple[dict[str, Any], ...], kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    model: Path = request.getfixturevalue(kind)
    result = finish(quantize_run(tmp_path / "run", model, tmp_path / "out", *rules))
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert result["bytes"] == sum(tensor.nbytes for tensor in tensors.values())
    assert result["file_bytes"] == (tmp_path / "out" / "model.safetensors").stat().st_size
    for layer in result["layers"]:
        own = [tensor.nbytes for name, tensor in tensors.items() if name.startswith(f"{layer['name']}.") and not name.endswith(".bias")]
        assert layer["bytes"] == sum(own)
    found = inspect(tmp_path / "out")
    whole = sum(layer.bytes for block in found.blocks for layer in block.layers) + sum(tensor.bytes for tensor in found.other)
    assert whole == result["bytes"] == found.bytes
    assert found.parameters == result["parameters"] == map_model(open_checkpoint(model)).parameters
    lineage = json.loads((tmp_path / "out" / "bondwise.json").read_text())
    assert result["original_parameters"] == (lineage["result"] or {"original_parameters": found.parameters})["original_parameters"]
    assert result["bits_per_parameter"] == pytest.approx(8 * result["bytes"] / result["original_parameters"])
    # In memory on a CPU: what is not packed in float32.
    held = {tensor.data_ptr(): tensor.nbytes for tensor in load_model(tmp_path / "out").state_dict().values()}
    assert result["memory"] == pytest.approx(sum(held.values()), abs=2048)
    estimate = events(tmp_path / "run", "estimate")[0]
    assert 0 <= estimate["disk"] - result["bytes"] < 6_000_000


def test_the_preset_of_the_paper(wide_compressed: Path, tmp_path: Path) -> None:
    from bondwise.arguments import PRESETS

    result = finish(quantize_run(tmp_path / "run", wide_compressed, tmp_path / "out", *PRESETS["paper"]))
    by_kind = {layer["name"]: layer["scheme"] for layer in result["layers"]}
    assert {scheme for name, scheme in by_kind.items() if ".cores." in name} == {"float16"}
    assert {scheme for name, scheme in by_kind.items() if ".cores." not in name} == {"nf4"}
    assert result["backend"] == "bitsandbytes"
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    source = load_file(wide_compressed / "model.safetensors")
    cores = [name for name in tensors if ".cores." in name]
    assert cores
    assert all(torch.equal(tensors[name], source[name]) for name in cores)


def test_a_killed_run_goes_on_to_the_same_bytes(dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = ({"layers": ["*.q_proj", "*.k_proj"], "scheme": "compensated-3"}, {"layers": ["*.down_proj"], "scheme": "int8"})
    finish(quantize_run(tmp_path / "whole", dense, tmp_path / "one", *rules))
    from bondwise import quantize_work

    save, saved = quantize_work.save_layer, []

    def stop_after_two(path: Path, *arguments: Any) -> None:
        save(path, *arguments)
        saved.append(path)
        if len(saved) == 4:
            raise KeyboardInterrupt

    from bondwise.run import start

    directory = quantize_run(tmp_path / "killed", dense, tmp_path / "two", *rules)
    with monkeypatch.context() as patched:
        patched.setattr(quantize_work, "save_layer", stop_after_two)
        assert start(directory) == 130
    assert not (tmp_path / "two").exists()
    finish(directory)
    assert len({event["layer"]["name"] for event in events(directory, "quantized")}) == len(events(directory, "quantized")) == 6
    assert (tmp_path / "one" / "model.safetensors").read_bytes() == (tmp_path / "two" / "model.safetensors").read_bytes()


def test_in_sequence_the_model_keeps_more_of_what_it_did(dense: Path, tmp_path: Path) -> None:
    """By transformers alone: what leaves the last block on the calibration text, seed 0. Sizes are the same."""
    from bondwise.loading import load_tokenizer
    from bondwise.text import token_sequences

    text = {"length": 64, "sequences": 16}
    ids = token_sequences(load_tokenizer(dense), "builtin", "calibration", **text, seed=0)

    def states(folder: Path) -> torch.Tensor:
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=True)
        with torch.no_grad():
            return model(ids, output_hidden_states=True).hidden_states[-1]

    rules = ({"layers": ["*"], "exclude": ["*.q_proj"], "scheme": "compensated-2"}, {"layers": ["*.q_proj"], "scheme": "int8"})
    results, missed = dict[str, dict[str, Any]](), dict[str, float]()
    for name, sequential in (("sequence", True), ("alone", False)):
        run = quantize_run(tmp_path / name, dense, tmp_path / f"{name}-out", *rules, sequential=sequential, protect=False, calibration=text)
        results[name] = finish(run)
        missed[name] = float((states(tmp_path / f"{name}-out") - states(dense)).norm())
    assert results["sequence"]["bytes"] == results["alone"]["bytes"]
    assert results["sequence"]["logits_difference"] < 1e-4
    assert missed["sequence"] < 0.9 * missed["alone"]
    # The first layer reads the same in both, and is fitted to what it is.
    first, second = (
        next(layer for layer in result["layers"] if layer["name"].endswith("0.self_attn.v_proj")) for result in results.values()
    )
    assert first["relative_error"] == pytest.approx(second["relative_error"], rel=0.2)


def test_what_cannot_be_done_is_said(dense: Path, compressed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number = iter(range(100))

    def said(model: Path, *rules: dict[str, Any]) -> str:
        text = fail(quantize_run(tmp_path / f"run-{next(number)}", model, tmp_path / "out", *rules))
        assert not (tmp_path / "out").exists()
        return text

    assert "matches no layer" in said(dense, {"layers": ["*.nothing"], "scheme": "nf4"})
    assert "a rank of 32 saves nothing" in said(dense, {"layers": ["*.q_proj"], "scheme": "low-rank-8", "rank": 32})
    assert "fewer bits than 16" in said(compressed, {"layers": ["*.cores.*"], "scheme": "float16"})
    assert "core of an MPO already" in said(compressed, {"layers": ["*.cores.0"], "scheme": "low-rank-4", "rank": 2})
    tied = save_tiny_model("qwen2", tmp_path / "tied")
    assert "is its embedding" in said(tied, {"layers": ["lm_head"], "scheme": "nf4"})
    broken = save_tiny_model("llama", tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = math.nan
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    assert "model.layers.1.mlp.up_proj.weight holds weights that are NaN" in said(broken, {"layers": ["*.up_proj"], "scheme": "nf4"})
    finish(quantize_run(tmp_path / "first", dense, tmp_path / "quantized", {"layers": ["*"], "scheme": "nf4"}))
    assert "is quantized already (4-bit)" in said(tmp_path / "quantized", {"layers": ["*"], "scheme": "int8"})

    imported = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "bitsandbytes":
            raise ImportError("No module named 'bitsandbytes'")
        return imported(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    text = said(dense, {"layers": ["*"], "scheme": "int8"})
    assert "bitsandbytes, which int8 and nf4 are stored by, cannot be used here" in text
    assert "compensated-4, which needs none" in text


def test_sizes_that_bitsandbytes_cannot_compute_with_are_packed(dense: Path, tmp_path: Path) -> None:
    result = finish(quantize_run(tmp_path / "run", dense, tmp_path / "out", {"layers": ["*"], "scheme": "nf4"}))
    assert result["backend"] == "packed"
    assert logits(tmp_path / "out").isfinite().all()


def test_the_head_is_quantized_by_its_name_only(dense: Path, tmp_path: Path) -> None:
    every = finish(quantize_run(tmp_path / "a", dense, tmp_path / "without", {"layers": ["*"], "scheme": "int8"}))
    assert "lm_head" not in {layer["name"] for layer in every["layers"]}
    both = finish(quantize_run(tmp_path / "b", dense, tmp_path / "with", {"layers": ["*", "lm_head"], "scheme": "int8"}))
    assert "lm_head" in {layer["name"] for layer in both["layers"]}
    assert both["bytes"] < every["bytes"]


def test_a_budget_is_met_and_beats_one_scheme_for_all(wide: Path, tmp_path: Path) -> None:
    def made(name: str, **options: Any) -> dict[str, Any]:
        options = {"output": str(tmp_path / name), "calibration": TEXT, **options}
        return finish(make_run(tmp_path / f"run-{name}", "quantize", options, model=str(wide)))

    for bits in (4.5, 3.0):
        planned = made(f"out-{bits}", budget={"target": f"{bits}bits"})
        weights = map_model(open_checkpoint(wide)).layers
        dense = sum(layer.bytes for layer in weights)
        numbers = sum(layer.weight_parameters for layer in weights)
        of_layers = planned["bytes"] - (planned["original_bytes"] - dense)
        assert 0.9 * bits * numbers / 8 < of_layers <= bits * numbers / 8
        assert planned["bytes"] == sum(tensor.nbytes for tensor in load_file(tmp_path / f"out-{bits}" / "model.safetensors").values())
        assert planned["predicted"]["bytes"] == planned["bytes"]
        assert planned["logits_difference"] < 1e-3
        assert any(layer["larger"] or layer["smaller"] for layer in planned["layers"])
    # At the size of one scheme for all layers, the plan's predicted loss is not above that scheme's.
    alone = made("alone", quantize=[{"layers": ["*"], "scheme": "compensated-3"}], protect=False)
    planned = made("planned", budget={"target": f"{alone['bytes'] / 1e3}kb"})
    assert planned["bytes"] <= alone["bytes"]
    assert sum(layer["loss"] for layer in planned["layers"]) < 1.05 * sum(layer["loss"] for layer in alone["layers"])


def test_budgets_that_cannot_be_met_are_said(wide: Path, tmp_path: Path) -> None:
    def said(name: str, target: str) -> str:
        options = {"output": str(tmp_path / name), "calibration": TEXT, "budget": {"target": target}}
        return fail(make_run(tmp_path / f"run-{name}", "quantize", options, model=str(wide)))

    assert "the smallest possible is" in said("a", "0.1bits")
    assert "is not a target" in said("b", "60%")
    assert "asks for nothing" in said("c", "1GB")


def test_the_command_line(wide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from bondwise.cli import main

    monkeypatch.chdir(tmp_path)
    assert main(["quantize", str(wide), "--preset", "8bit", "--output", "out", "--run", "run", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["output"] == str(tmp_path / "out")
    assert result["bits_per_parameter"] < 16
    assert main(["quantize", str(wide), "--layers", "*", "--output", "x"]) == 1
    assert "--budget 3.5bits" in capsys.readouterr().err
    plan = tmp_path / "small.bondwise.json"
    rules = [{"layers": ["*.q_proj"], "scheme": "nf4"}]
    plan.write_text(json.dumps({"model": str(wide), "output": "planned", "quantize": rules}) + " // by hand")
    assert main(["run", str(plan), "--run", "run-2"]) == 0
    layers = inspect(tmp_path / "planned").blocks[0].layers
    assert {layer.name.rpartition(".")[2]: layer.scheme for layer in layers}["q_proj"] == "nf4"
