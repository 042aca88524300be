"""A sensitivity profile: `NAME.sensitivity.json`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from bondwise.schema.base import LayerGroup, Record, Sites


class BaseModelRef(Record):
    path: Annotated[str, Field(description="Relative to the folder of the file that says it, as it was when that was made.")]
    name: str
    fingerprint: Annotated[str, Field(description="SHA-256 over config.json and the header of every shard.")]


class ProfileLayer(Record):
    """A layer that the profile covers: one place of the heatmap."""

    name: str
    block: int
    column: Annotated[str, Field(description="The name inside the block, such as mlp.down_proj: equal for the same layer of each block.")]
    group: LayerGroup
    shape: Annotated[list[int], Field(description="[out, in]")]
    parameters: Annotated[int, Field(description="Of the dense weight.")]
    bytes: int
    out_modes: list[int]
    in_modes: list[int]


class Curve(Record):
    """What is predicted of one layer, from one decomposition, at ascending bond dimensions; equally long lists.

    The three losses are what the model's loss will rise by, in nats per token, when this layer alone is truncated by the method of that
    name: second order, ½ tr(G ΔW S ΔWᵀ), corrected along the singular directions (`bondwise.spectral`).
    """

    layer: str
    chi: list[int]
    parameters: list[int]
    error: Annotated[list[float], Field(description="‖W − Ŵ‖_F / ‖W‖_F of the plain truncation.")]
    plain: list[float]
    input: list[float]
    fisher: list[float]


class Figure(Record):
    value: float
    error: Annotated[float, Field(description="Standard error of the difference to the baseline, over sequences or items.")]


class Cell(Record):
    """One layer at one size, measured: all else is the original model."""

    layer: str
    chi: Annotated[int, Field(description="The largest bond dimension.")]
    bond_dims: list[int]
    keep: float
    parameters: int
    figures: Annotated[
        dict[str, Figure],
        Field(
            description="By metric. `loss` is the mean loss in nats per token, from which `perplexity` is exp; a task goes by `task:NAME`."
        ),
    ]
    sequences: int
    precision: Annotated[float, Field(description="It was measured to, as in the request; 0: on all sequences.")] = 0.0
    spread: Annotated[
        float | None, Field(description="Variance over its sequences of what was sampled of the metric, as a part of its squared size.")
    ] = None
    seconds: float


class Sensitivity(Record):
    """`NAME.sensitivity.json`: what happens to a model when one layer is compressed, for each layer and size."""

    version: Literal[1] = 1
    engine: str
    created: str
    model: BaseModelRef
    sites: Sites
    method: Literal["plain"] = "plain"
    data: str
    text: Annotated[str, Field(description="SHA-256 of the token ids of all sequences: equal only for the same text.")]
    length: int
    sequences: int
    seed: int
    metric: Annotated[str, Field(description="The one that was asked for last, and is shown first.")]
    sizes: Annotated[list[float], Field(description="What was asked: fractions to keep below or at 1, or bond dimensions.")]
    sizes_are: Literal["keep", "chi"]
    baseline: dict[str, float] = {}
    layers: list[ProfileLayer]
    curves: list[Curve] = []
    cells: list[Cell] = []
    correlation: float | None = None
    complete: Annotated[bool, Field(description="All that was asked for is there.")] = False
