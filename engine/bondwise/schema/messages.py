"""What extension and webview send each other."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from bondwise.schema.base import Predicted, Record, Strict
from bondwise.schema.benchmark import Benchmark
from bondwise.schema.plan import PlanResult
from bondwise.schema.profile import Cell, Curve, Sensitivity
from bondwise.schema.results import Evaluation, LayerFigures
from bondwise.schema.runs import RunStatus


class CompareSide(Record):
    name: str
    path: str
    parameters: int
    bytes: int
    evaluation: Evaluation | None


class CompareData(Record):
    original: CompareSide
    compressed: CompareSide
    predicted: Predicted | None = None
    layers: list[LayerFigures]


class WebviewRequest(Strict):
    """Webview → extension. Every request is answered once, with the same id; by an error where the panel does not serve the method."""

    id: int
    method: Literal[
        "ready",
        "revealLayer",
        "openFolder",
        "selectLayers",
        "tensorizeLayers",
        "excludeLayers",
        "profileLayers",
        "planCompression",
        "cancelRun",
        "showRun",
        "saveFile",
        "copyText",
        "benchmarkModels",
    ]
    argument: Annotated[str, Field(description="A layer for revealLayer; the text for copyText; the content for saveFile.")] | None = None
    name: Annotated[str, Field(description="The name to propose for saveFile.")] | None = None
    layers: list[str] | None = None


class HostReply(Strict):
    type: Literal["reply"] = "reply"
    id: int
    error: str | None = None


class HostCompare(Strict):
    type: Literal["compare"] = "compare"
    data: CompareData


class HostSensitivity(Strict):
    """The whole profile; what the view shows from then on."""

    type: Literal["sensitivity"] = "sensitivity"
    profile: Sensitivity
    notes: Annotated[list[str], Field(description="What is wrong with the file or its model, in sentences.")] = []


class HostCells(Strict):
    """What has come since: gathered, so that a fast run does not flood the view."""

    type: Literal["cells"] = "cells"
    curves: list[Curve] = []
    cells: list[Cell] = []
    baseline: dict[str, float] | None = None


class HostProfileRun(Strict):
    """The run that is filling this profile or report; null when none is."""

    type: Literal["profileRun"] = "profileRun"
    status: RunStatus | None


class HostBenchmark(Strict):
    """The whole report; what the view shows from then on."""

    type: Literal["benchmark"] = "benchmark"
    name: Annotated[str, Field(description="Of the file, without its ending.")]
    benchmark: Benchmark
    notes: Annotated[list[str], Field(description="What is wrong with the file or its models, in sentences.")] = []


class HostSelection(Strict):
    """The layers that are selected in the tree."""

    type: Literal["selection"] = "selection"
    layers: list[str]


class HostPlan(Strict):
    """The plan that is laid over the heatmap; null takes it away."""

    type: Literal["plan"] = "plan"
    name: str | None
    layers: Annotated[dict[str, float] | None, Field(description="Part kept of each layer that its rules compress.")]
    plan: Annotated[PlanResult | None, Field(description="Null while it is not known, or no longer what the rules say.")]


HostMessage = Annotated[
    HostReply | HostCompare | HostSensitivity | HostCells | HostProfileRun | HostSelection | HostPlan | HostBenchmark,
    Field(discriminator="type"),
]
"""Extension → webview."""
