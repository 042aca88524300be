"""What a compressed checkpoint says of itself: the section `bondwise` of `config.json`, and `bondwise.json`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from bondwise.schema.base import Record
from bondwise.schema.profile import BaseModelRef
from bondwise.schema.results import HealResult, QuantizeResult, TensorizeResult


class MPOLayer(Record):
    """One layer in the `mpo.layers` section of a compressed checkpoint's `config.json`."""

    out_modes: list[int]
    in_modes: list[int]
    bond_dims: list[int]
    out_features: Annotated[int, Field(description="Below the product of out_modes where the weight was padded.")]
    in_features: int
    bias: bool


class PackedLayer(Record):
    """One layer, or core of one, in the `mpo.packed` section: a matrix of `bits`, two thin ones of `rank_bits`, or both."""

    out_features: int
    in_features: int
    bias: bool
    bits: Annotated[int, Field(description="2, 3, 4 or 8; 0: no matrix.")]
    ordered: Annotated[bool, Field(description="The columns of the matrix are stored in another order.")] = False
    rank: Annotated[int, Field(description="0: no thin matrices.")] = 0
    rank_bits: int = 0
    scheme: Annotated[str, Field(description="What made it; for people.")]


class MPOSection(Record):
    """The `mpo` key of a compressed checkpoint's `config.json`."""

    version: Literal[2] = 2
    base_model_type: str
    base_architecture: Annotated[str, Field(description="Class of the original model, such as LlamaForCausalLM.")]
    base_auto_map: Annotated[
        dict[str, str] | None, Field(description="The original model's classes in the folder's own Python files; null: in transformers.")
    ] = None
    layers: dict[str, MPOLayer]
    packed: Annotated[dict[str, PackedLayer], Field(description="Layers, and cores of layers, that are stored in few bits.")] = {}


class Healing(Record):
    """One healing in the history of a compressed folder (`bondwise.json`)."""

    engine: str
    created: str
    request: Annotated[dict[str, Any], Field(description="The options of the run.")]
    result: HealResult


class Quantization(Record):
    """How a folder was quantized (`bondwise.json`)."""

    engine: str
    created: str
    source: Annotated[BaseModelRef, Field(description="The folder that was quantized.")]
    request: Annotated[dict[str, Any], Field(description="The options of the run.")]
    result: QuantizeResult


class Lineage(Record):
    """`bondwise.json` in a compressed checkpoint: where it comes from and what was measured."""

    version: Literal[1] = 1
    engine: str
    created: str
    base: BaseModelRef
    request: Annotated[dict[str, Any], Field(description="The options of the run that tensorized it; empty where none did.")] = {}
    result: Annotated[TensorizeResult | None, Field(description="Of that run; null where the folder was only quantized.")] = None
    healing: Annotated[list[Healing], Field(description="What was trained afterwards, the latest last.")] = []
    quantization: Annotated[Quantization | None, Field(description="What was quantized, after all healing.")] = None
