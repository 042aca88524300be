"""What a language model gives the tools of the extension. `npm run generate` writes these schemas into the manifest."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from bondwise.schema.base import Method, Strict

ModelName = Annotated[str, Field(min_length=1, description="A model by its name or folder, as bondwise_list_models gives them.")]
Patterns = Annotated[
    list[str], Field(min_length=1, description="Layers by exact name, glob (*.mlp.up_proj) or regular expression (re:layers\\.[4-9]\\..*).")
]
Size = Annotated[
    str, Field(min_length=1, description="What a layer keeps: a share of its parameters such as 50%, or a bond dimension such as 64.")
]


class ListModelsInput(Strict):
    """Nothing is asked for."""


class ListLayersInput(Strict):
    model: ModelName
    layers: Annotated[list[str], Field(description="Only these: names, globs or re: patterns. Empty: all.")] = []


class ReadProfileInput(Strict):
    model: ModelName
    most: Annotated[int, Field(ge=1, le=1000, description="How many layers to name, the most sensitive first.")] = 40


class ProfileInput(Strict):
    model: ModelName
    measured: Annotated[bool, Field(description="Measure the whole model with one layer compressed at a time, which takes longer.")] = False


class PlanInput(Strict):
    model: ModelName
    budget: Annotated[
        str,
        Field(min_length=1, description="Of the whole model: a share of its parameters (60%), a size on disk (200MB), or perplexity<30."),
    ]
    exclude: Annotated[list[str], Field(description="Layers that stay dense. Empty: as proposed (first block, down projections).")] = []
    name: Annotated[str, Field(description="Of the plan file, without its ending. Empty: as proposed.")] = ""


class RunPlanInput(Strict):
    plan: Annotated[str, Field(min_length=1, description="Path of the plan file, NAME.bondwise.json.")]


class TensorizeInput(Strict):
    model: ModelName
    layers: Patterns
    size: Size
    method: Annotated[Method, Field(description="fisher loses least as a rule; plain needs no calibration text and loses most.")] = "fisher"
    name: Annotated[str, Field(description="Of the new model's folder, beside the model. Empty: as proposed.")] = ""
    measure: Annotated[bool, Field(description="Measure perplexity, speed and sample text of both models afterwards.")] = True


class HealInput(Strict):
    model: Annotated[str, Field(min_length=1, description="A compressed model by its name or folder, as bondwise_list_models gives them.")]
    minutes: Annotated[float, Field(gt=0, description="How long to train.")] = 10
    name: Annotated[str, Field(description="Of the new model's folder, beside the model. Empty: as proposed.")] = ""
    measure: Annotated[bool, Field(description="Measure perplexity, speed and sample text afterwards.")] = True


class QuantizeInput(Strict):
    model: ModelName
    scheme: Annotated[
        str,
        Field(
            min_length=1,
            description="For all layers alike: int8, nf4, nf4-double (seconds), compensated-4, compensated-3 or compensated-2 (minutes, "
            "from a calibration text). Or a budget under which each layer gets what loses least: bits on average such as 3.5bits, or the "
            "size of the whole folder such as 120MB.",
        ),
    ]
    layers: Annotated[list[str], Field(description="Only these: names, globs or re: patterns. Empty: all linear layers.")] = []
    name: Annotated[str, Field(description="Of the new model's folder, beside the model. Empty: as proposed.")] = ""
    measure: Annotated[bool, Field(description="Measure perplexity, speed and sample text of both models afterwards.")] = True


class BenchmarkInput(Strict):
    models: Annotated[
        list[str],
        Field(
            min_length=1,
            description="Models by name or folder, as bondwise_list_models gives them; the original among them, to compare with.",
        ),
    ]
    tasks: Annotated[
        list[str],
        Field(description="Of the LM Evaluation Harness: hellaswag, arc_easy. Empty: none, only perplexity, text, speed and size."),
    ] = []
    limit: Annotated[
        int, Field(ge=1, description="Items of each task. 100 leave a standard error of up to 5 points; more take longer in proportion.")
    ] = 100
    speed: Annotated[bool, Field(description="Time forward pass, prefill and decode.")] = True


class RunStatusInput(Strict):
    run: Annotated[str, Field(description="A run by its id. Empty: the latest runs.")] = ""
