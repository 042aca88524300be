"""What a run says of itself: `status.json` and the events of its journal."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from bondwise.schema.base import Record
from bondwise.schema.benchmark import Benchmark, BenchmarkModel
from bondwise.schema.profile import Cell, Curve, Sensitivity
from bondwise.schema.results import Evaluation, HealPlan, LayerFigures, QuantizedLayer

RunState = Literal["queued", "running", "cancelling", "cancelled", "failed", "interrupted", "done"]


class Progress(Record):
    done: float
    total: float
    unit: str
    rate: Annotated[float, Field(description="Units a second.")] | None = None
    eta: Annotated[float, Field(description="Seconds left.")] | None = None


class ErrorInfo(Record):
    """A failure a person can act on."""

    message: Annotated[str, Field(description="What failed, with the file or layer and the value.")]
    remedy: Annotated[str, Field(description="What to do about it.")] | None = None
    detail: Annotated[str, Field(description="The traceback, for the log.")] | None = None


class ProcessIdentity(Record):
    """A process id alone can be used again by another process; with its start it cannot."""

    pid: int
    started: Annotated[
        str, Field(description="`linux:<boot id>:<field 22 of /proc/pid/stat>`, or elsewhere `ps:<output of ps -o lstart= -p pid>`.")
    ]
    host: str


class RunStatus(Record):
    """`status.json`: the latest state, replaced by rename."""

    version: Literal[1] = 1
    state: RunState
    phase: Annotated[str, Field(description="What is being done, in words.")] = ""
    progress: Progress | None = None
    process: ProcessIdentity | None = None
    device: str | None = None
    updated: str
    error: ErrorInfo | None = None


class RankStatus(Record):
    """`rank-N.json`: what one of several processes says of its part of a run."""

    state: Annotated[
        Literal["running", "ready", "done", "failed", "cancelled"], Field(description="Ready: to train together with the others.")
    ]
    process: ProcessIdentity
    layers: Annotated[list[str], Field(description="Made by this process.")] = []
    error: ErrorInfo | None = None


class Event(Record):
    seq: Annotated[int, Field(ge=1, description="1, 2, 3 … without gaps, across resumes.")]
    time: str


class StartedEvent(Event):
    """A process took the run up: at the start and again at each resume."""

    type: Literal["started"] = "started"
    engine: str
    torch: str
    device: str
    resumed: bool


class EstimateEvent(Event):
    """What the run will need, checked before the work starts."""

    type: Literal["estimate"] = "estimate"
    layers: int
    parameters: int
    original_parameters: int
    memory: Annotated[int, Field(description="Peak bytes on the device that computes.")]
    memory_available: int
    disk: int
    disk_available: int


class PhaseEvent(Event):
    type: Literal["phase"] = "phase"
    phase: str


class LayerEvent(Event):
    type: Literal["layer"] = "layer"
    layer: LayerFigures


class QuantizedEvent(Event):
    """A layer is in few bits; one of the same name that came before is replaced."""

    type: Literal["quantized"] = "quantized"
    layer: QuantizedLayer


class EvaluationEvent(Event):
    type: Literal["evaluation"] = "evaluation"
    role: Literal["original", "compressed", "healed", "quantized"]
    evaluation: Evaluation


class VerifiedEvent(Event):
    """The folder was loaded again and its logits compared."""

    type: Literal["verified"] = "verified"
    logits_difference: float
    tolerance: float


class ProfileEvent(Event):
    """What a profile covers, before its first figure: with the curves and cells that an earlier profile of the same file has already."""

    type: Literal["profile"] = "profile"
    profile: Sensitivity


class CurveEvent(Event):
    type: Literal["curve"] = "curve"
    curve: Curve


class BaselineEvent(Event):
    type: Literal["baseline"] = "baseline"
    baseline: Annotated[dict[str, float], Field(description="Value of the original model, by metric.")]


class CellEvent(Event):
    """A cell is done; one of the same layer and bond dimension that came before is replaced, metric by metric."""

    type: Literal["cell"] = "cell"
    cell: Cell


class HealPlanEvent(Event):
    """Before the first step of a healing, in every process of the run alike."""

    type: Literal["heal-plan"] = "heal-plan"
    plan: HealPlan
    prompt: str
    teacher_loss: Annotated[float | None, Field(description="The original's, on the validation sequences; null without distillation.")] = (
        None
    )
    teacher_sample: str = ""


class HealStepEvent(Event):
    """Means over the steps since the event before, of which there are fewer a minute the longer a run goes on. One of the same or a later
    step that came before was said by a process that was killed: this one takes its place."""

    type: Literal["heal-step"] = "heal-step"
    step: Annotated[int, Field(description="The last of them, from 1.")]
    loss: Annotated[float, Field(description="What is trained on: the mix of KL and cross entropy, nats per token.")]
    cross_entropy: float
    gradient: Annotated[float, Field(description="Norm of the gradient before it is shortened.")]
    learning_rate: float
    tokens_per_second: float
    memory: Annotated[dict[str, int], Field(description="Bytes by device, or by rank: the most on a GPU so far, of the process on a CPU.")]


class HealValidationEvent(Event):
    """Takes the place of one of the same step; that of step 0 is of the model before healing."""

    type: Literal["heal-validation"] = "heal-validation"
    step: int
    loss: Annotated[float, Field(description="Cross entropy, nats per token.")]
    best: Annotated[bool, Field(description="No validation before was better.")]
    sample: str


class BenchmarkEvent(Event):
    """What a benchmark has before it adds to it, with what the file of an earlier run has already."""

    type: Literal["benchmark"] = "benchmark"
    benchmark: Benchmark


class BenchmarkModelEvent(Event):
    """A figure of a model is new: all that is known of it. Takes the place of what was said of the same path before."""

    type: Literal["benchmark-model"] = "benchmark-model"
    model: BenchmarkModel
    remarks: Annotated[list[str], Field(description="Those of the whole report now.")] = []


class WarningEvent(Event):
    type: Literal["warning"] = "warning"
    message: str


class EndedEvent(Event):
    """The last event of a process that ended by itself."""

    type: Literal["ended"] = "ended"
    state: Literal["cancelled", "failed", "done"]
    error: ErrorInfo | None = None


RunEvent = Annotated[
    StartedEvent
    | EstimateEvent
    | PhaseEvent
    | LayerEvent
    | QuantizedEvent
    | EvaluationEvent
    | VerifiedEvent
    | ProfileEvent
    | CurveEvent
    | BaselineEvent
    | CellEvent
    | HealPlanEvent
    | HealStepEvent
    | HealValidationEvent
    | BenchmarkEvent
    | BenchmarkModelEvent
    | WarningEvent
    | EndedEvent,
    Field(discriminator="type"),
]
"""One line of `events.ndjson`. Views are a fold over them."""
