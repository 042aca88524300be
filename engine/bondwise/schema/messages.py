"""What extension and webview send each other."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from bondwise.schema.base import Predicted, Record, Strict
from bondwise.schema.benchmark import Benchmark
from bondwise.schema.chat import ChatSettings, ChatToken, ChatView
from bondwise.schema.command_line import TensorFacts, TensorInfo, TensorSpectrum
from bondwise.schema.plan import PlanResult
from bondwise.schema.profile import Cell, Curve, Sensitivity
from bondwise.schema.requests import RunRequest
from bondwise.schema.results import Evaluation, HealResult, LayerFigures, RunResult
from bondwise.schema.runs import (
    ErrorInfo,
    EstimateEvent,
    HealPlanEvent,
    HealStepEvent,
    HealValidationEvent,
    RunState,
    RunStatus,
)


class HealHistory(Record):
    """What the journal of a healing says of its training, thinned: of a long one each step event is the mean of several."""

    plan: HealPlanEvent | None = None
    width: Annotated[int, Field(ge=1, description="Steps that one of `steps` stands for.")] = 1
    steps: list[HealStepEvent] = []
    validations: list[HealValidationEvent] = []


class RunView(Record):
    """A run as its panel shows it, without what its work has told."""

    directory: str
    title: str
    state: RunState
    status: RunStatus | None = None
    request: RunRequest | None = None
    result: RunResult | None = None
    estimate: EstimateEvent | None = None
    evaluations: dict[str, Evaluation] = {}
    warnings: list[str] = []
    error: ErrorInfo | None = None
    starts: Annotated[int, Field(description="How often a process took the run up.")] = 0
    device: str | None = None
    stopping: Annotated[bool, Field(description="It was asked to stop and keep the best.")] = False


class CompareSide(Record):
    name: str
    path: str
    parameters: int
    bytes: int
    evaluation: Evaluation | None


class CompareData(Record):
    original: CompareSide
    compressed: CompareSide
    healed: Annotated[CompareSide | None, Field(description="Where the folder was healed; `compressed` is what it was before that.")] = None
    healing: Annotated[HealResult | None, Field(description="The last one.")] = None
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
        "resumeRun",
        "finishRun",
        "showRun",
        "showLog",
        "showModel",
        "compare",
        "copyCommand",
        "saveFile",
        "copyText",
        "benchmarkModels",
        "tensorFacts",
        "tensorSpectrum",
        "sendChat",
        "stopChat",
        "clearChat",
        "loadChat",
    ]
    argument: (
        Annotated[
            str,
            Field(
                description="A layer for revealLayer, a tensor for tensorFacts; the text for copyText; the content for saveFile; the "
                "prompt for sendChat."
            ),
        ]
        | None
    ) = None
    name: Annotated[str, Field(description="The name to propose for saveFile.")] | None = None
    layers: list[str] | None = None
    chat: Annotated[ChatSettings | None, Field(description="How the answers to sendChat are made.")] = None


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


class TensorFile(Record):
    """A safetensors file, by its header alone."""

    name: str
    bytes: Annotated[int, Field(description="Of the whole file.")]
    header_bytes: int
    metadata: Annotated[dict[str, str], Field(description="Free text of whoever wrote the file.")]
    tensors: list[TensorInfo]


class HostTensors(Strict):
    type: Literal["tensors"] = "tensors"
    file: TensorFile
    choose: Annotated[str | None, Field(description="A tensor to choose; null leaves it to the view.")]


class HostTensorFacts(Strict):
    """What was computed of a tensor, or why it could not be."""

    type: Literal["tensorFacts"] = "tensorFacts"
    name: str
    facts: TensorFacts | None = None
    spectrum: TensorSpectrum | None = None
    problem: str | None = None


class HostRun(Strict):
    """The run of the panel, as it stands now."""

    type: Literal["run"] = "run"
    run: RunView


class HostHeal(Strict):
    """What is new in the training: points to add, or all of them."""

    type: Literal["heal"] = "heal"
    history: HealHistory
    whole: Annotated[bool, Field(description="What was told before is forgotten.")] = False


class HostChat(Strict):
    """The chat of the panel as it stands now."""

    type: Literal["chat"] = "chat"
    chat: ChatView


class HostChatToken(Strict):
    """A token of the last turn's answer by the model with that number."""

    type: Literal["chatToken"] = "chatToken"
    model: int
    token: ChatToken


HostMessage = Annotated[
    HostReply
    | HostCompare
    | HostSensitivity
    | HostCells
    | HostProfileRun
    | HostSelection
    | HostPlan
    | HostBenchmark
    | HostTensors
    | HostTensorFacts
    | HostRun
    | HostHeal
    | HostChat
    | HostChatToken,
    Field(discriminator="type"),
]
"""Extension → webview."""
