"""What commands print with `--json`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from bondwise.schema.base import LayerGroup, LayerState, Record


class LayerInfo(Record):
    name: Annotated[str, Field(description="Module path, such as model.layers.3.mlp.down_proj.")]
    group: LayerGroup
    shape: Annotated[list[int], Field(description="[out, in]; [experts, out, in] for fused experts.")]
    dtype: str
    parameters: int
    bytes: int
    state: LayerState
    bond_dims: list[int] | None = None
    scheme: str | None = None


class BlockInfo(Record):
    index: int
    name: str
    layers: list[LayerInfo]


class TensorInfo(Record):
    name: str
    shape: list[int]
    dtype: str
    parameters: int
    bytes: int


class Inspection(Record):
    """`inspect MODEL --json`."""

    model: str
    architecture: str | None
    parameters: int
    bytes: int
    blocks: list[BlockInfo]
    other: Annotated[list[TensorInfo], Field(description="Embedding, norms, head and whatever else is not a layer of a block.")]


class Problem(Record):
    message: str
    remedy: str


class Doctor(Record):
    """`doctor --json`."""

    engine: str
    python: Annotated[str, Field(description="The interpreter.")]
    python_version: str
    torch: str | None
    transformers: str | None
    device: Annotated[str, Field(description="The device a run with `auto` would use.")]
    device_name: str
    memory: Annotated[int, Field(description="Free bytes on that device.")]
    memory_total: int
    host_memory: int
    disk: Annotated[int, Field(description="Free bytes where the current folder lies.")]
    problems: list[Problem]


class NamedTask(Record):
    name: str
    kind: Literal["task", "group", "tag"]


class TaskList(Record):
    """`tasks --json`."""

    tasks: list[NamedTask]
