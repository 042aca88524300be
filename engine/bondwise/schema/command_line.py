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


class TensorChange(Record):
    """One tensor of two models, or the weight of a layer that one of them stores otherwise: as cores, or in few bits."""

    name: str
    found: Annotated[
        Literal["equal", "changed", "shape", "unread", "only-model", "only-other"],
        Field(description="`shape`: other shapes; `unread`: there in both, but what it stands for is not known."),
    ]
    shape: Annotated[list[int] | None, Field(description="In the model; null where it has none.")]
    other_shape: list[int] | None
    stored: Annotated[str | None, Field(description="How the model stores it: `BF16`, `cores, χ 64`, `nf4`.")]
    other_stored: str | None
    parameters: Annotated[int, Field(description="Numbers that were, or would be, compared.")]
    relative: Annotated[
        float | None, Field(description="‖other − model‖_F / ‖model‖_F; null where it was not computed, or the model's is 0.")
    ] = None
    largest: Annotated[float | None, Field(description="Largest absolute difference.")] = None
    not_finite: Annotated[int, Field(description="Places where either is NaN or infinite: they are left out.")] = 0
    problem: Annotated[str | None, Field(description="Why it was not compared.")] = None


class TensorDiffStep(Record):
    """One line of `diff MODEL OTHER --json` for each tensor, as it is done."""

    kind: Literal["step"] = "step"
    tensor: TensorChange
    done: Annotated[int, Field(description="Bytes of both models that were read.")]
    total: int


class TensorDiff(Record):
    """The last line of `diff MODEL OTHER --json`."""

    kind: Literal["diff"] = "diff"
    model: str
    other: str
    tensors: Annotated[list[TensorChange], Field(description="The most changed first, then what was not compared, then what is equal.")]
    relative: Annotated[
        float | None, Field(description="Of all numbers together that were compared; what is equal and in few bits was not unpacked.")
    ]
    seconds: float


TensorDiffLine = Annotated[TensorDiffStep | TensorDiff, Field(discriminator="kind")]
