"""`inspect MODEL`: what a model folder holds, from its headers alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from bondwise.checkpoint import Checkpoint, open_checkpoint
from bondwise.modelmap import Layer, map_model
from bondwise.schema import BlockInfo, Inspection, LayerInfo, TensorInfo

if TYPE_CHECKING:
    from pathlib import Path


def inspect(folder: Path) -> Inspection:
    """Blocks, layers and the other tensors of the model in `folder`. Raises UserError as `open_checkpoint` and `map_model`."""
    # Only headers are read here: no code of the model's folder runs.
    checkpoint = open_checkpoint(folder, allow_code=True)
    model = map_model(checkpoint)
    return Inspection(
        model=str(checkpoint.folder),
        architecture=architecture(checkpoint),
        parameters=model.parameters,
        bytes=checkpoint.bytes,
        blocks=[
            BlockInfo(index=block.index, name=block.name, layers=[_layer_info(layer) for layer in block.layers]) for block in model.blocks
        ],
        other=[
            TensorInfo(name=entry.name, shape=list(entry.shape), dtype=entry.dtype, parameters=entry.parameters, bytes=entry.bytes)
            for entry in model.other
        ],
    )


def architecture(checkpoint: Checkpoint) -> str | None:
    """The model's class, such as LlamaForCausalLM; of a compressed model that of its base."""
    section, classes = checkpoint.config.get("mpo"), checkpoint.config.get("architectures")
    base = cast("dict[str, Any]", section).get("base_architecture") if isinstance(section, dict) else None
    first = cast("list[Any]", classes)[0] if isinstance(classes, list) and classes else None
    return next((name for name in (base, first) if isinstance(name, str)), None)


def _layer_info(layer: Layer) -> LayerInfo:
    return LayerInfo(
        name=layer.name,
        group=layer.group,
        shape=list(layer.shape),
        dtype=layer.dtype,
        parameters=layer.parameters,
        bytes=layer.bytes,
        state=layer.state,
        bond_dims=list(layer.bond_dims) if layer.bond_dims is not None else None,
        scheme=layer.scheme,
    )
