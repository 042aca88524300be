"""What all files and messages are made of."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1
"""Raised when a reader of the previous version could misread a file. Readers refuse a higher version and say so."""


class Strict(BaseModel):
    """What a user or another program writes: an unknown key is a mistake, and told."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Record(BaseModel):
    """What the engine writes and later versions may extend: unknown keys are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


Sites = Annotated[int, Field(ge=2, le=5)] | Literal["low-rank"]
"""Number of sites of an MPO; `low-rank` is the two-site MPO whose sites are (1, in) and (out, 1)."""


LayerState = Literal["dense", "mpo", "quantized"]
LayerGroup = Literal["attention", "mlp", "other"]


Method = Literal["plain", "input", "fisher", "sequential"]
"""How cores are found."""


Scheme = Literal[
    "int8",
    "nf4",
    "nf4-double",
    "float16",
    "compensated-8",
    "compensated-4",
    "compensated-3",
    "compensated-2",
    "low-rank-16",
    "low-rank-8",
    "low-rank-4",
]
"""How a weight is stored in fewer bits. `int8`, `nf4` and `nf4-double` (its scales quantized too) are bitsandbytes'; `compensated-N` are N
bits, rounded so that what the layer does on a calibration text changes least; `low-rank-N` two thin matrices of N bits."""


class Predicted(Record):
    """What the planner expects of the whole model."""

    parameters: Annotated[int, Field(description="Of the whole model.")]
    bytes: Annotated[int, Field(description="Of the whole model.")]
    loss: Annotated[float, Field(description="Rise of the mean loss, nats per token.")]
    loss_error: Annotated[float, Field(description="Standard error of that.")]
    perplexity: Annotated[float, Field(description="On the profile's text.")] | None = None
    perplexity_low: Annotated[float, Field(description="One standard error below.")] | None = None
    perplexity_high: Annotated[float, Field(description="One standard error above.")] | None = None
