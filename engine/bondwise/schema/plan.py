"""A plan: `NAME.bondwise.json`, and what the planner answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from bondwise.schema.base import Method, Predicted, Record, Strict
from bondwise.schema.requests import METHOD_HELP, REFIT_HELP, CalibrationOptions, EvaluateOptions, HealSettings, QuantizeRule, TensorizeRule


class Budget(Strict):
    """What the planner fills `tensorize` from."""

    profile: Annotated[str, Field(description="NAME.sensitivity.json; relative to the plan's folder.")]
    target: Annotated[str, Field(description="`60%` of the model's parameters, `2GB` on disk, or `perplexity<30`.")]
    exclude: Annotated[list[str], Field(description="Layers that stay dense: names, globs or `re:` patterns.")] = []
    floor: Annotated[float, Field(ge=0, le=1, description="No layer keeps less than this part of its parameters.")] = 0.1
    ceiling: Annotated[float, Field(gt=0, le=1, description="A layer that would keep more than this part stays dense.")] = 0.95
    method: Annotated[Method, Field(description=METHOD_HELP)] = "plain"


class PlanHeal(HealSettings):
    output: Annotated[
        str | None, Field(description="The folder of the healed model; relative to the plan's folder. Left out: OUTPUT-healed.")
    ] = None


class PlanFile(Strict):
    """`NAME.bondwise.json`: what is to be done to a model. Comments are allowed."""

    schema_: Annotated[str | None, Field(alias="$schema", description="For editors; Bondwise knows the schema by the file's name.")] = None
    version: Annotated[Literal[1], Field(description="Of the format of this file.")] = 1
    model: Annotated[str, Field(description="The model folder; relative to the plan's folder.")]
    output: Annotated[str, Field(description="The folder to make; relative to the plan's folder.")]
    budget: Annotated[Budget, Field(description="What the planner filled `tensorize` from.")] | None = None
    predicted: Annotated[Predicted, Field(description="Written by the planner.")] | None = None
    tensorize: Annotated[
        list[TensorizeRule],
        Field(min_length=1, description="Which layers become MPOs and how; a layer belongs to the first rule that matches."),
    ] = []
    quantize: Annotated[
        list[QuantizeRule],
        Field(
            min_length=1,
            description="In place of `tensorize`: which layers are stored in fewer bits and how; the first rule that matches counts.",
        ),
    ] = []
    calibration: Annotated[CalibrationOptions, Field(description="The text for all methods but `plain`.")] | None = None
    refit: Annotated[list[str], Field(description=REFIT_HELP)] | None = None
    heal: Annotated[PlanHeal, Field(description="How the compressed model is trained; leave it out to stop there.")] | None = None
    evaluate: Annotated[EvaluateOptions, Field(description="How the models are measured; leave it out to measure nothing.")] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> PlanFile:
        if bool(self.tensorize) == bool(self.quantize):
            raise ValueError("give rules under tensorize or under quantize; a model that shall have both takes a plan for each")
        heals = any(rule.scheme.startswith(("compensated", "low-rank")) for rule in self.quantize)
        if self.quantize and self.heal is not None and not heals:
            raise ValueError("heal: beside the bits of bitsandbytes nothing trains; use compensated-4, or heal first, by a plan of its own")
        return self


class ExchangePoint(Record):
    """One budget on the exchange curve and what the planner would do with it."""

    parameters: int
    bytes: int
    loss: float
    loss_error: float
    perplexity: float | None = None


class PlanResult(Record):
    """`plan MODEL --json`."""

    output: Annotated[str, Field(description="The plan file; empty with --dry-run.")]
    exclude: Annotated[list[str], Field(description="The patterns of the layers that stay dense: what was asked, or the default.")] = []
    parameters: int
    original_parameters: int
    bytes: int
    original_bytes: int
    predicted: Predicted
    layers: Annotated[dict[str, float], Field(description="Part kept of each layer that the plan compresses.")]
    exchange: Annotated[list[ExchangePoint], Field(description="From the largest model to the smallest.")]
