"""Loading whole and block by block: the same model, from this folder alone, or an error that says what does not fit."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import ARCHITECTURES, make_tiny_model, save_tiny_model

from bondwise import layers as mpo_layers
from bondwise import loading, modeling_mpo, mpo
from bondwise.checkpoint import SINGLE_FILE, open_checkpoint
from bondwise.device import Memory
from bondwise.errors import UserError
from bondwise.loading import load_model, load_tokenizer
from bondwise.modelmap import map_model
from bondwise.schema import MPOLayer
from bondwise.streaming import streamed_log_probs
from bondwise.writing import CheckpointWriter, PlannedTensor, Replacement

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from transformers import PreTrainedModel

    from bondwise.checkpoint import Checkpoint

IDS = torch.arange(3, 35)


def log_probs(model: PreTrainedModel) -> Tensor:
    """[tokens, vocabulary]"""
    with torch.no_grad():
        return torch.log_softmax(model(input_ids=IDS[None]).logits[0].float(), dim=-1)


def compress(source: Path, output: Path, names: list[str], sites: int | str, keep: float) -> dict[str, Tensor]:
    """Writes a compressed folder; returns the dense weight that each layer's stored cores stand for, by layer."""
    checkpoint = open_checkpoint(source)
    described: dict[str, MPOLayer] = {}
    replacements: list[Replacement] = []
    dense: dict[str, Tensor] = {}
    for layer in (layer for layer in map_model(checkpoint).layers if layer.name in names):
        stored = checkpoint.read(layer.tensors[0])
        out_modes, in_modes = mpo.layer_modes(layer.shape[0], layer.shape[1], sites)  # pyright: ignore[reportArgumentType]
        found = mpo.decompose(stored.T if layer.transposed else stored, out_modes, in_modes, keep=keep)
        tensors = mpo_layers.stored_tensors(found, stored.dtype)
        planned = tuple(
            PlannedTensor(f"{layer.name}.{name}", layer.dtype if tensor.is_floating_point() else "I32", tuple(tensor.shape))
            for name, tensor in tensors.items()
        )
        replacements.append(Replacement((layer.tensors[0],), planned, lambda tensors=tensors: iter(tensors.values())))
        described[layer.name] = MPOLayer(
            out_modes=list(out_modes),
            in_modes=list(in_modes),
            bond_dims=list(found.bond_dims),
            out_features=layer.shape[0],
            in_features=layer.shape[1],
            bias=len(layer.tensors) > 1,
        )
        dense[layer.name] = mpo_layers.contract_stored(
            tensors, out_modes, in_modes, found.bond_dims, layer.shape[0], layer.shape[1]
        ).float()
    with CheckpointWriter(output, source) as writer:
        writer.write_weights(checkpoint, replacements)
        writer.copy_companions(source)
        writer.write_json("config.json", mpo_layers.mpo_config(checkpoint.config, described))
        writer.write_bytes("modeling_mpo.py", Path(modeling_mpo.__file__).read_bytes())
        writer.publish()
    return dense


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_whole_and_streamed_are_the_model_that_was_saved(name: str, tmp_path: Path) -> None:
    save_tiny_model(name, tmp_path, shards=2)
    expected = log_probs(make_tiny_model(name))
    torch.testing.assert_close(log_probs(load_model(tmp_path)), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(streamed_log_probs(open_checkpoint(tmp_path), IDS), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "opt", "gpt_neox", "phi3"])
@pytest.mark.parametrize("sites", ["low-rank", 3])
def test_a_compressed_folder_is_its_base_with_the_contracted_weights(name: str, sites: int | str, tmp_path: Path) -> None:
    source = save_tiny_model(name, tmp_path / "source", shards=2)
    chosen = [layer.name for layer in map_model(open_checkpoint(source)).layers if layer.block == 1]
    dense = compress(source, tmp_path / "small", chosen, sites, keep=0.5)
    reference = make_tiny_model(name)
    with torch.no_grad():
        for layer, weight in dense.items():
            stored = reference.get_submodule(layer).get_parameter("weight")
            stored.copy_(weight.T if name == "gpt2" else weight)
    expected = log_probs(reference)
    assert (expected - log_probs(make_tiny_model(name))).abs().max() > 1e-2
    small = open_checkpoint(tmp_path / "small")
    weights: dict[str, Callable[[], Tensor]] = {layer: lambda weight=weight: weight for layer, weight in dense.items()}
    for found in (
        log_probs(load_model(tmp_path / "small")),
        streamed_log_probs(small, IDS),
        streamed_log_probs(open_checkpoint(source), IDS, weights=weights),
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_an_expert_of_a_file_can_be_given_other_weights(tmp_path: Path) -> None:
    source = save_tiny_model("mixtral", tmp_path / "source")
    name = "model.layers.0.block_sparse_moe.experts.2.w2"
    changed = load_file(source / SINGLE_FILE)
    changed[f"{name}.weight"] = 2 * changed[f"{name}.weight"]
    expected_folder = save_tiny_model("mixtral", tmp_path / "changed")
    save_file(changed, expected_folder / SINGLE_FILE, metadata={"format": "pt"})
    found = streamed_log_probs(open_checkpoint(source), IDS, weights={name: lambda: changed[f"{name}.weight"]})
    torch.testing.assert_close(found, log_probs(load_model(expected_folder)), rtol=0, atol=1e-5)


def test_only_the_running_block_has_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models: list[PreTrainedModel] = []

    def keep_model(checkpoint: Checkpoint, **options: Any) -> PreTrainedModel:
        models.append(loading.empty_model(checkpoint, **options))
        return models[0]

    monkeypatch.setattr("bondwise.streaming.empty_model", keep_model)
    save_tiny_model("llama", tmp_path, shards=2)
    seen: list[int] = []

    def step(done: int, blocks: int) -> None:
        parameters = dict(models[0].named_parameters())
        seen.append(done)
        assert all(parameter.is_meta == name.startswith("model.layers.") for name, parameter in parameters.items())

    streamed_log_probs(open_checkpoint(tmp_path), IDS, step=step)
    assert seen == [1, 2]


def test_streaming_can_be_stopped(tmp_path: Path) -> None:
    def step(done: int, blocks: int) -> NoReturn:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        streamed_log_probs(open_checkpoint(save_tiny_model("llama", tmp_path)), IDS, step=step)


def test_weights_for_a_layer_that_is_not_there_are_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        streamed_log_probs(open_checkpoint(save_tiny_model("llama", tmp_path)), IDS, weights={"nowhere": lambda: torch.ones(1)})


@pytest.mark.parametrize("name", ["qwen2", "gpt2"])
def test_a_shared_head_is_shared(name: str, tmp_path: Path) -> None:
    model = load_model(save_tiny_model(name, tmp_path))
    head = model.get_output_embeddings()
    assert head is not None
    assert head.weight is model.get_input_embeddings().weight


def test_dtypes(tmp_path: Path) -> None:
    save_tiny_model("llama", tmp_path, dtype=torch.bfloat16)
    assert load_model(tmp_path).dtype == torch.float32
    assert load_model(tmp_path, dtype=torch.float16).dtype == torch.float16


# --- what does not fit ---------------------------------------------------------------------------------------------------------------


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / SINGLE_FILE)
    change(tensors)
    save_file(tensors, folder / SINGLE_FILE, metadata={"format": "pt"})


DOWN = "model.layers.1.mlp.down_proj.weight"
CHANGES: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "missing in a block": (lambda tensors: tensors.pop(DOWN), DOWN),
    "missing outside": (lambda tensors: tensors.pop("model.norm.weight"), "model.norm.weight"),
    "left over in a block": (lambda tensors: tensors.update({"model.layers.1.mlp.extra": torch.ones(2)}), "model.layers.1.mlp.extra"),
    "left over outside": (lambda tensors: tensors.update({"model.extra": torch.ones(2)}), "model.extra"),
    "a block too many": (lambda tensors: tensors.update({DOWN.replace(".1.", ".2."): tensors[DOWN].clone()}), DOWN.replace(".1.", ".2.")),
    "another shape": (lambda tensors: tensors.update({DOWN: torch.ones(3, 3)}), DOWN),
}


@pytest.mark.parametrize(("change", "named"), CHANGES.values(), ids=CHANGES.keys())
def test_weights_that_do_not_fit_the_model_are_named(change: Callable[[dict[str, Tensor]], object], named: str, tmp_path: Path) -> None:
    change_weights(save_tiny_model("llama", tmp_path), change)
    for load in (lambda: load_model(tmp_path), lambda: streamed_log_probs(open_checkpoint(tmp_path), IDS)):
        with pytest.raises(UserError) as caught:
            load()
        assert named in caught.value.message
        assert caught.value.remedy


def test_a_model_that_no_class_knows_is_told(tmp_path: Path) -> None:
    save_tiny_model("llama", tmp_path)
    config: dict[str, Any] = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "unheard_of"}))
    with pytest.raises(UserError, match="unheard_of"):
        load_model(tmp_path)


def test_too_little_memory_is_told_before_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny_model("llama", tmp_path)

    def little(device: str) -> Memory:
        return Memory(free=1000, total=2000)

    monkeypatch.setattr(loading, "device_memory", little)
    with pytest.raises(UserError, match="GB of memory"):
        load_model(tmp_path)


def test_a_missing_tokenizer_is_told(tmp_path: Path) -> None:
    save_tiny_model("llama", tmp_path)
    assert load_tokenizer(tmp_path).decode(load_tokenizer(tmp_path)("ab c")["input_ids"]) == "ab c"
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UserError, match="no tokenizer"):
        load_tokenizer(tmp_path)


def test_nothing_asks_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save_tiny_model("llama", tmp_path / "source")
    compress(source, tmp_path / "small", ["model.layers.0.mlp.up_proj"], "low-rank", keep=0.5)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)

    def refuse(*arguments: object, **options: object) -> NoReturn:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for folder in (source, tmp_path / "small"):
        load_model(folder)
        load_tokenizer(folder)


# --- foreign code --------------------------------------------------------------------------------------------------------------------

FOREIGN_MODULE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
Path(__file__).with_name("ran").touch()
Path({mark!r}).touch()

class ForeignConfig(LlamaConfig):
    model_type = "foreign"

class ForeignForCausalLM(LlamaForCausalLM):
    config_class = ForeignConfig
"""


def test_foreign_code_runs_only_where_it_is_allowed(tmp_path: Path) -> None:
    folder, mark = save_tiny_model("llama", tmp_path / "model"), tmp_path / "mark"
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    auto_map = {"AutoConfig": "modeling_foreign.ForeignConfig", "AutoModelForCausalLM": "modeling_foreign.ForeignForCausalLM"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "foreign", "auto_map": auto_map}))
    (folder / "modeling_foreign.py").write_text(FOREIGN_MODULE.format(mark=str(mark)))
    for load in (load_model, load_tokenizer, open_checkpoint):
        with pytest.raises(UserError, match=r"modeling_foreign\.py"):
            load(folder)
    assert not mark.exists()
    expected = log_probs(make_tiny_model("llama"))
    torch.testing.assert_close(log_probs(load_model(folder, allow_code=True)), expected, rtol=0, atol=1e-5)
    streamed = streamed_log_probs(open_checkpoint(folder, allow_code=True), IDS, allow_code=True)
    torch.testing.assert_close(streamed, expected, rtol=0, atol=1e-5)
    assert mark.exists()


def test_code_beside_a_model_that_needs_none_is_never_run(tmp_path: Path) -> None:
    folder, mark = save_tiny_model("llama", tmp_path / "model"), tmp_path / "mark"
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModelForCausalLM": "modeling_foreign.ForeignForCausalLM"}}))
    (folder / "modeling_foreign.py").write_text(FOREIGN_MODULE.format(mark=str(mark)))
    load_model(folder)
    load_tokenizer(folder)
    assert not mark.exists()


def test_even_our_own_module_is_not_run_from_the_folder(tmp_path: Path) -> None:
    source = save_tiny_model("llama", tmp_path / "source")
    compress(source, tmp_path / "small", ["model.layers.0.mlp.up_proj"], "low-rank", keep=0.5)
    model = load_model(tmp_path / "small")
    assert isinstance(model, modeling_mpo.MPOForCausalLM)
