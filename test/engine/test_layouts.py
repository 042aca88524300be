"""The engine sees the layers that the extension sees: both are held to one table of real layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bondwise.checkpoint import BITS, open_checkpoint
from bondwise.modelmap import map_model

LAYOUTS: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "fixtures/layouts.json").read_text("utf-8"))["layouts"]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout["name"])
def test_layout(layout: dict[str, Any], tmp_path: Path) -> None:
    _write(tmp_path, layout["config"], layout["tensors"])
    layers = {layer.name: layer for block in map_model(open_checkpoint(tmp_path)).blocks for layer in block.layers}
    shown = {name: [layer.group, list(layer.shape)] + ([layer.scheme] if layer.scheme else []) for name, layer in layers.items()}
    assert shown == layout["layers"]
    routers = {name for name in layout.get("linear", {}) if name.endswith(("router", "shared_expert_gate"))}
    for name, shape in layout.get("linear", {}).items():
        assert name in routers or list(layers[name].shape) == shape


def _write(folder: Path, config: dict[str, Any], tensors: dict[str, tuple[str, list[int]]]) -> None:
    header: dict[str, Any] = {}
    end = 0
    for name, (dtype, shape) in tensors.items():
        begin, count = end, 1
        for length in shape:
            count *= length
        end = begin + count * BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))
