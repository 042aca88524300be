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


class DeviceInfo(Record):
    device: Annotated[str, Field(description="`cpu`, `cuda:N` or `mps`.")]
    name: str
    memory: Annotated[int, Field(description="Free bytes.")]
    memory_total: int


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
    cores: Annotated[int, Field(description="Processor cores that this process may use.")] = 1
    devices: Annotated[list[DeviceInfo], Field(description="All GPUs; the CPU where there is none.")] = []
    disk: Annotated[int, Field(description="Free bytes where the current folder lies.")]
    problems: list[Problem]


class NamedTask(Record):
    name: str
    kind: Literal["task", "group", "tag"]


class TaskList(Record):
    """`tasks --json`."""

    tasks: list[NamedTask]


class TensorFacts(Record):
    """`tensor FILE NAME --json`. Figures are of the finite values; null where there are none."""

    name: str
    dtype: str
    shape: list[int]
    count: int
    nan: int
    infinite: int
    zeros: int
    minimum: float | None
    maximum: float | None
    mean: float | None
    deviation: Annotated[float | None, Field(description="Standard deviation.")]
    norm: Annotated[float | None, Field(description="Frobenius norm.")]
    low: Annotated[float, Field(description="Where the first bin of the histogram begins.")]
    high: Annotated[float, Field(description="Where the last one ends.")]
    histogram: Annotated[list[int], Field(description="Values in each of the equal bins.")]


class SpectrumMark(Record):
    """What low rank at that size would keep of a matrix."""

    keep: Annotated[float, Field(description="Part of the parameters.")]
    chi: int
    parameters: int
    relative_error: Annotated[float, Field(description="Of the best approximation of that rank, in the Frobenius norm.")]


class TensorSpectrum(Record):
    """`tensor FILE NAME --spectrum --json`: of the tensor as a matrix [first axis, all others]."""

    name: str
    rows: int
    columns: int
    values: Annotated[list[float], Field(description="Singular values, the largest first.")]
    marks: list[SpectrumMark]
