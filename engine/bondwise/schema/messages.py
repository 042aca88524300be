"""What extension and webview send each other."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from bondwise.schema.base import LayerGroup, LayerState, Predicted, Record, Strict
from bondwise.schema.benchmark import Benchmark
from bondwise.schema.chat import ChatSettings, ChatToken, ChatView
from bondwise.schema.command_line import TensorChange, TensorFacts, TensorInfo, TensorSpectrum
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


class MapSensitivity(Record):
    """What the newest profile of the model says of a layer at the size at which layers are compared."""

    rise: Annotated[float, Field(description="Of the mean loss, nats per token.")]
    error: Annotated[float, Field(description="Standard error of that; 0 where it is predicted.")] = 0
    keep: Annotated[float, Field(description="Part of the parameters that was kept.")]
    measured: bool


class MapLayer(Record):
    """A layer as the model map draws it."""

    name: str
    block: int
    column: Annotated[str, Field(description="Its path in the block: layers of different blocks with the same one stand below each other.")]
    group: LayerGroup
    shape: list[int]
    dtype: str
    parameters: Annotated[int, Field(description="Stored; of a quantized weight its elements.")]
    original_parameters: Annotated[int, Field(description="Of the dense layer that it is or stands for.")]
    bytes: int
    state: LayerState
    scheme: Annotated[str | None, Field(description="Where it, or a core of it, is quantized.")] = None
    bond_dims: list[int] = []
    sensitivity: MapSensitivity | None = None
    changed: Annotated[
        list[Literal["tensorized", "healed", "quantized"]] | None, Field(description="In this order; null where nothing tells.")
    ] = None
    change: Annotated[
        float | None,
        Field(description="‖W − Ŵ‖_F / ‖W‖_F against the original's layer, as the last of `changed` left it; null: not known."),
    ] = None
    change_before: Annotated[float | None, Field(description="The same after the first of `changed`, where later ones changed it.")] = None


class MapOutside(Record):
    """Tensors outside the layers."""

    name: Literal["embedding", "norm", "head", "other", "blocks"]
    parameters: int
    bytes: int
    tensors: int


class MapModel(Record):
    name: str
    path: str
    parameters: int
    bytes: int
    base: Annotated[str | None, Field(description="Name of the model that it was made from.")] = None
    base_path: str | None = None
    healed: bool = False
    profile: Annotated[str | None, Field(description="Name of the file that tells the sensitivities.")] = None
    layers: list[MapLayer]
    outside: list[MapOutside]


class MapChoice(Record):
    """A model that can be shown beside."""

    name: str
    path: str
    hint: Annotated[str, Field(description="Where it is, or how it is related.")]


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
        "showBeside",
        "showMap",
        "quantizeLayers",
        "showSensitivity",
        "showTensors",
        "compareTensors",
        "computeDiff",
        "cancelDiff",
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
                "prompt for sendChat; in the model map the folder of the model that is meant."
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
    """The layers that are selected in the tree, or in another view of the same model."""

    type: Literal["selection"] = "selection"
    layers: list[str]
    folder: Annotated[str | None, Field(description="Of their model, where the view shows several.")] = None


class HostMap(Strict):
    """What the model map shows from then on."""

    type: Literal["map"] = "map"
    model: MapModel
    beside: Annotated[MapModel | None, Field(description="The second model.")] = None
    choices: Annotated[list[MapChoice], Field(description="Models that can be shown beside, related ones first.")] = []
    problem: Annotated[str | None, Field(description="Why there is no second model though one was chosen.")] = None


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


class HostDiff(Strict):
    """How the tensors of two models differ, as far as it is computed."""

    type: Literal["diff"] = "diff"
    model: MapChoice
    other: MapChoice
    state: Literal["waiting", "computing", "done", "cancelled", "failed"]
    added: Annotated[list[TensorChange], Field(description="What has come since; all of it where `whole`.")] = []
    whole: Annotated[bool, Field(description="What was told before is forgotten.")] = False
    done: Annotated[int, Field(description="Bytes of both models that were read.")] = 0
    total: int = 0
    relative: Annotated[float | None, Field(description="Of all together, when it is done.")] = None
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
    | HostMap
    | HostDiff
    | HostChat
    | HostChatToken,
    Field(discriminator="type"),
]
"""Extension → webview."""
