"""Names → blocks and layers, held against the modules that transformers makes of the same files; and selectors."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from tiny_models import ARCHITECTURES, BLOCKS, make_tiny_model, save_tiny_model
from transformers.pytorch_utils import Conv1D

from bondwise.checkpoint import open_checkpoint
from bondwise.errors import UserError
from bondwise.inspection import inspect
from bondwise.modelmap import Layer, map_model, natural, select
from bondwise.schema import Inspection

if TYPE_CHECKING:
    from pathlib import Path


def logical_shape(module: torch.nn.Linear | Conv1D) -> tuple[int, ...]:
    return tuple(module.weight.shape if isinstance(module, torch.nn.Linear) else reversed(module.weight.shape))


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "mixtral"])
def test_layers_are_the_linear_modules_of_the_blocks(name: str, tmp_path: Path) -> None:
    model = make_tiny_model(name)
    layers = {layer.name: layer for layer in map_model(open_checkpoint(save_tiny_model(name, tmp_path, shards=2))).layers}
    expected = {
        path: (*logical_shape(module), sum(parameter.numel() for parameter in module.parameters()))
        for path, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and any(part.isdecimal() for part in path.split("."))
    }
    assert {path: (*layer.shape, layer.parameters) for path, layer in layers.items()} == expected
    assert all(layer.group == ("attention" if "att" in layer.name.split(".", 3)[-1] else "mlp") for layer in layers.values())
    assert all(layer.transposed == (name == "gpt2") for layer in layers.values())


def test_each_expert_of_a_file_is_a_layer(tmp_path: Path) -> None:
    mapped = map_model(open_checkpoint(save_tiny_model("mixtral", tmp_path)))
    names = [layer.name for layer in mapped.blocks[1].layers]
    assert len(names) == 4 + 4 * 3
    assert names[4:7] == [f"model.layers.1.block_sparse_moe.experts.0.w{k}" for k in (1, 2, 3)]


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_an_inspection_counts_every_parameter_and_byte_once(name: str, tmp_path: Path) -> None:
    model = make_tiny_model(name)
    save_tiny_model(name, tmp_path, shards=2)
    found = inspect(tmp_path)
    assert found.architecture == type(model).__name__
    assert found.parameters == model.num_parameters()
    assert found.bytes == 4 * model.num_parameters()
    assert [block.index for block in found.blocks] == list(range(BLOCKS))
    parts = [*(layer for block in found.blocks for layer in block.layers), *found.other]
    assert sum(part.parameters for part in parts) == found.parameters
    assert sum(part.bytes for part in parts) == found.bytes
    assert Inspection.model_validate_json(found.model_dump_json()) == found


def test_numbers_sort_as_numbers() -> None:
    names = ["h.10.a", "h.9.b", "h.9.a2", "h.9.a10", "h", "h.9"]
    assert sorted(names, key=natural) == ["h", "h.9", "h.9.a2", "h.9.a10", "h.9.b", "h.10.a"]


# --- selectors ---------------------------------------------------------------------------------------------------------------------


def layer(name: str, block: int = 0) -> Layer:
    return Layer(name, block, "mlp", (8, 4), "F32", 32, 128, "dense", (f"{name}.weight",))


LAYERS = [layer(f"model.layers.{block}.{part}", block) for block in range(12) for part in ("attn.q", "mlp.up", "mlp.down")]


def names(*patterns: str, exclude: tuple[str, ...] = ()) -> list[str]:
    return [chosen.name for chosen in select(LAYERS, patterns, exclude)]


def test_patterns() -> None:
    assert names("model.layers.3.mlp.up") == ["model.layers.3.mlp.up"]
    assert names("*.1.mlp.*") == ["model.layers.1.mlp.up", "model.layers.1.mlp.down"]
    assert names("model.layers.[35].attn.?") == ["model.layers.3.attn.q", "model.layers.5.attn.q"]
    assert names(r"re:.*\.1[01]\.attn\..*") == ["model.layers.10.attn.q", "model.layers.11.attn.q"]
    assert names("*.11.mlp.down", "*.2.mlp.down", "*.2.*") == [
        *("model.layers.2.attn.q", "model.layers.2.mlp.up", "model.layers.2.mlp.down", "model.layers.11.mlp.down")
    ]
    assert names("*.4.*", exclude=("*.up", "re:.*down")) == ["model.layers.4.attn.q"]


@pytest.mark.parametrize(
    ("patterns", "exclude", "says"),
    [
        (["model.layers.3.mlp.upp"], [], "model.layers.3.mlp.up"),
        (["*.MLP.*"], [], "matches no layer"),
        (["re:mlp"], [], "matches no layer"),
        (["re:("], [], "not a regular expression"),
        (["*.1.*", "*.99.*"], [], "99"),
        (["*"], ["*.atn.*"], "atn"),
        (["*.up"], ["*.mlp.*"], "excluded"),
    ],
)
def test_a_pattern_that_matches_nothing_is_told(patterns: list[str], exclude: list[str], says: str) -> None:
    with pytest.raises(UserError) as caught:
        select(LAYERS, patterns, exclude)
    assert says in f"{caught.value.message} {caught.value.remedy}"
    assert caught.value.remedy


def test_layers_that_cannot_become_an_mpo_are_named() -> None:
    bad = {
        "3": replace(LAYERS[0], name="experts", shape=(3, 8, 4)),
        "16, 8": replace(LAYERS[0], name="done", state="mpo", bond_dims=(16, 8)),
        "nf4": replace(LAYERS[0], name="small", state="quantized", scheme="nf4"),
    }
    for value, other in bad.items():
        with pytest.raises(UserError) as caught:
            select([*LAYERS, other], ["*"])
        assert other.name in caught.value.message
        assert value in caught.value.message
        assert caught.value.remedy
        assert len(select([*LAYERS, other], ["*"], [other.name])) == len(LAYERS)
