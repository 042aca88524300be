"""Every file and message that the engine and the extension both read, defined once.

`python -m bondwise schema` prints these models as one JSON Schema document; `npm run generate` turns it into the TypeScript types
and validators under `extension/protocol/`. Files are JSON in UTF-8; sizes are bytes, times are seconds, dates are ISO 8601 in UTC.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

SCHEMA_VERSION = 1
"""Raised when a reader of the previous version could misread a file. Readers refuse a higher version and say so."""


class Strict(BaseModel):
    """What a user or another program writes: an unknown key is a mistake, and told."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Record(BaseModel):
    """What the engine writes and later versions may extend: unknown keys are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


# --- requests: run.json ------------------------------------------------------------------------------------------------------------

Sites = Annotated[int, Field(ge=2, le=5)] | Literal["low-rank"]
"""Number of sites of an MPO; `low-rank` is the two-site MPO whose sites are (1, in) and (out, 1)."""


LayerState = Literal["dense", "mpo", "quantized"]
LayerGroup = Literal["attention", "mlp", "other"]


Method = Literal["plain", "input", "fisher", "sequential"]
"""How cores are found."""
METHOD_HELP = (
    "How the cores are found: from the weight alone (`plain`), weighted by the layer's inputs on a calibration text (`input`), or by its "
    "inputs and the loss gradients at its outputs (`fisher`), or so in the order of the model, each fitted to what the compressed layers "
    "before it hand on (`sequential`)."
)


REFIT_HELP = "Layers that stay dense and are fitted, with those of method `sequential`, to what reaches them: `*.down_proj`."


class TensorizeRule(Strict):
    """Which layers become MPOs and how. Later rules do not touch what an earlier rule matched."""

    layers: Annotated[list[str], Field(description="Exact layer names, globs, or `re:` patterns.")]
    exclude: Annotated[list[str], Field(description="Layers to leave out of those: names, globs or `re:` patterns.")] = []
    chi: Annotated[int, Field(ge=1, description="Largest bond dimension of every bond.")] | None = None
    keep: Annotated[float, Field(gt=0, le=1, description="Fraction of the layer's parameters to keep.")] | None = None
    error: Annotated[float, Field(gt=0, lt=1, description="Relative Frobenius error to stay below.")] | None = None
    sites: Annotated[Sites, Field(description="Number of cores, 2 to 5, or `low-rank`: two thin matrices.")] = "low-rank"
    out_modes: Annotated[list[int], Field(description="Output mode of each site; overrides `sites`.")] | None = None
    in_modes: Annotated[list[int], Field(description="Input mode of each site; together with `out_modes`.")] | None = None
    method: Annotated[Method, Field(description=METHOD_HELP)] = "plain"

    @model_validator(mode="after")
    def _one_size(self) -> TensorizeRule:
        given = [name for name in ("chi", "keep", "error") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of chi, keep and error, not {', '.join(given) or 'none'}")
        if (self.out_modes is None) != (self.in_modes is None):
            raise ValueError("give out_modes and in_modes together")
        if self.out_modes is not None and self.in_modes is not None and len(self.out_modes) != len(self.in_modes):
            raise ValueError(f"out_modes has {len(self.out_modes)} sites, in_modes {len(self.in_modes)}")
        if self.method != "plain" and self.error is not None:
            raise ValueError(f"method {self.method} takes chi or keep; an error of the weight to stay below is for method plain")
        return self


class EvaluateOptions(Strict):
    """How a model is measured: perplexity on held-out text, speed, and what it writes after a prompt."""

    data: Annotated[str, Field(description="A .txt or .jsonl file, a hub data set id, or `builtin`.")] = "builtin"
    length: Annotated[int, Field(ge=8, description="Tokens in a sequence.")] = 512
    sequences: Annotated[int, Field(ge=1, description="More make the perplexity surer and take longer.")] = 8
    prompt: Annotated[str, Field(description="What both models continue.")] = "The capital of France is"
    sample_tokens: Annotated[int, Field(ge=0, description="Tokens that they continue it by.")] = 40


class CalibrationOptions(Strict):
    """The text that the methods `input` and `fisher` learn from."""

    data: Annotated[
        str,
        Field(
            description="A .txt or .jsonl file, a hub data set id, or `builtin`, whose calibration part is used; or `self`: text that the "
            "model writes itself."
        ),
    ] = "builtin"
    length: Annotated[int, Field(ge=8, description="Tokens in a sequence.")] = 512
    sequences: Annotated[int, Field(ge=1, description="More make the result better, for other texts above all, and take longer.")] = 16


class TensorizeOptions(Strict):
    tensorize: Annotated[list[TensorizeRule], Field(min_length=1)]
    calibration: CalibrationOptions = CalibrationOptions()
    refit: Annotated[list[str], Field(description=REFIT_HELP)] = []
    output: Annotated[str, Field(description="The folder to make. It appears only when it is whole.")]
    evaluate: EvaluateOptions | None = None
    predicted: Annotated[Predicted, Field(description="Of the plan that this run does: shown beside what is measured.")] | None = None


class PerplexityOptions(Strict):
    evaluate: EvaluateOptions = EvaluateOptions()
    reference: Annotated[str, Field(description="A model folder to measure KL divergence and agreement against.")] | None = None


class ProfileOptions(Strict):
    """What is asked of each layer at each size: the predicted loss (`spectral`), or besides the metric of the whole model (`measured`)."""

    mode: Literal["spectral", "measured"] = "measured"
    layers: Annotated[list[str], Field(min_length=1, description="Exact layer names, globs, or `re:` patterns.")] = ["*"]
    exclude: list[str] = []
    keep: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(description="Fractions of a layer's parameters to measure at.")] = []
    chi: Annotated[list[Annotated[int, Field(ge=1)]], Field(description="Bond dimensions to measure at; instead of keep.")] = []
    sites: Sites = "low-rank"
    metric: Annotated[str, Field(description="`perplexity`, `kl`, `agreement`, or `task:NAME` of the LM Evaluation Harness.")] = (
        "perplexity"
    )
    limit: Annotated[int, Field(ge=1, description="Items of a task.")] = 100
    precision: Annotated[
        float,
        Field(
            ge=0, description="A cell gets sequences until its standard error is below this part of its value; 0 measures all sequences."
        ),
    ] = 0.33
    data: Annotated[str, Field(description="A .txt or .jsonl file, a hub data set id, or `builtin`; its calibration part is used.")] = (
        "builtin"
    )
    length: Annotated[int, Field(ge=8, description="Tokens in a sequence.")] = 512
    sequences: Annotated[int, Field(ge=1, description="At most, for a cell.")] = 8
    output: Annotated[str, Field(description="The file NAME.sensitivity.json. One of the same model, data and sites is added to.")]

    @model_validator(mode="after")
    def _one_list(self) -> ProfileOptions:
        if self.keep and self.chi:
            raise ValueError("give keep or chi, not both")
        return self


class SampleModelOptions(Strict):
    output: str


class _Request(Strict):
    version: Literal[1] = 1
    created: Annotated[str, Field(description="ISO 8601, UTC.")]
    title: Annotated[str, Field(description="What a person reads in the Runs view.")]
    device: Annotated[str, Field(description="`auto`, `cpu`, `cuda`, `cuda:N` or `mps`.")] = "auto"
    seed: int = 0
    allow_code: Annotated[bool, Field(description="The user allowed this model folder's own Python code.")] = False


class TensorizeRequest(_Request):
    kind: Literal["tensorize"] = "tensorize"
    model: str
    options: TensorizeOptions


class PerplexityRequest(_Request):
    kind: Literal["perplexity"] = "perplexity"
    model: str
    options: PerplexityOptions


class SampleModelRequest(_Request):
    kind: Literal["sample-model"] = "sample-model"
    options: SampleModelOptions


class ProfileRequest(_Request):
    kind: Literal["profile"] = "profile"
    model: str
    options: ProfileOptions


RunRequest = Annotated[TensorizeRequest | PerplexityRequest | SampleModelRequest | ProfileRequest, Field(discriminator="kind")]
"""`run.json`: what is asked. Paths are absolute or relative to the run directory. Never changed after start."""


# --- figures -----------------------------------------------------------------------------------------------------------------------


class LayerFigures(Record):
    """One tensorized layer."""

    name: str
    method: Method = "plain"
    out_modes: list[int]
    in_modes: list[int]
    bond_dims: Annotated[list[int], Field(description="The interior bonds: one fewer than sites.")]
    parameters: int
    original_parameters: int
    bytes: int
    original_bytes: int
    keep: Annotated[float, Field(description="parameters / original_parameters")]
    relative_error: Annotated[float, Field(description="‖W − Ŵ‖_F / ‖W‖_F")]
    loss: Annotated[
        float | None, Field(description="With method fisher: ½ tr(G ΔW S ΔWᵀ), the predicted rise of the model's loss, nats per token.")
    ] = None
    held_out: Annotated[
        float | None,
        Field(
            description="With a calibrated method: what it minimised, on other text like the calibration text, as a multiple of what it is "
            "on that; estimated from two halves that share no text."
        ),
    ] = None
    multiply_adds: Annotated[int, Field(description="Per token, through the cores.")]
    original_multiply_adds: int
    seconds: float


class Evaluation(Record):
    """What one model scored. All on the same text, so two of them compare."""

    data: str
    perplexity: float
    standard_error: Annotated[float, Field(description="Of the perplexity, over sequences.")]
    tokens: Annotated[int, Field(description="Predicted tokens the perplexity is the mean over.")]
    tokens_per_second: Annotated[float, Field(description="Forward pass over full sequences, the fastest of them.")]
    speed_noise: Annotated[float, Field(description="How much longer the median pass took than the fastest, as a part of that.")] = 0.0
    prompt: str
    sample: Annotated[str, Field(description="Greedy continuation of the prompt.")]
    kl: Annotated[float, Field(description="KL(reference ‖ model) in nats per token.")] | None = None
    agreement: Annotated[float, Field(description="Fraction of tokens where both models rank the same token first.")] | None = None


class TensorizeResult(Record):
    kind: Literal["tensorize"] = "tensorize"
    output: str
    parameters: int
    original_parameters: int
    bytes: int
    original_bytes: int
    layers: list[LayerFigures]
    refitted: Annotated[list[str], Field(description="Layers that stayed dense and have other weights than before.")] = []
    original: Evaluation | None = None
    compressed: Evaluation | None = None
    predicted: Annotated[Predicted, Field(description="Of the plan that the run did.")] | None = None
    logits_difference: Annotated[float, Field(description="Largest difference of log-probabilities after reload, against dense weights.")]
    seconds: float


class PerplexityResult(Record):
    kind: Literal["perplexity"] = "perplexity"
    evaluation: Evaluation
    seconds: float


class SampleModelResult(Record):
    kind: Literal["sample-model"] = "sample-model"
    output: str
    evaluation: Evaluation
    seconds: float


class ProfileResult(Record):
    kind: Literal["profile"] = "profile"
    output: str
    cells: Annotated[int, Field(description="Measured cells in the file.")]
    curves: Annotated[int, Field(description="Predicted curves in the file.")]
    baseline: Annotated[dict[str, float], Field(description="The original model's value of each metric.")]
    correlation: (
        Annotated[
            float, Field(description="Spearman's, of predicted and measured rise of the loss over all measured cells; by KL where surer.")
        ]
        | None
    ) = None
    seconds: float


RunResult = Annotated[TensorizeResult | PerplexityResult | SampleModelResult | ProfileResult, Field(discriminator="kind")]
"""`result.json`: written last."""


# --- the profile: NAME.sensitivity.json --------------------------------------------------------------------------------------------


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


# --- the plan: NAME.bondwise.json --------------------------------------------------------------------------------------------------


class Budget(Strict):
    """What the planner fills `tensorize` from."""

    profile: Annotated[str, Field(description="NAME.sensitivity.json; relative to the plan's folder.")]
    target: Annotated[str, Field(description="`60%` of the model's parameters, `2GB` on disk, or `perplexity<30`.")]
    exclude: Annotated[list[str], Field(description="Layers that stay dense: names, globs or `re:` patterns.")] = []
    floor: Annotated[float, Field(ge=0, le=1, description="No layer keeps less than this part of its parameters.")] = 0.1
    ceiling: Annotated[float, Field(gt=0, le=1, description="A layer that would keep more than this part stays dense.")] = 0.95
    method: Annotated[Method, Field(description=METHOD_HELP)] = "plain"


class Predicted(Record):
    """What the planner expects of the whole model."""

    parameters: Annotated[int, Field(description="Of the whole model.")]
    bytes: Annotated[int, Field(description="Of the whole model.")]
    loss: Annotated[float, Field(description="Rise of the mean loss, nats per token.")]
    loss_error: Annotated[float, Field(description="Standard error of that.")]
    perplexity: Annotated[float, Field(description="On the profile's text.")] | None = None
    perplexity_low: Annotated[float, Field(description="One standard error below.")] | None = None
    perplexity_high: Annotated[float, Field(description="One standard error above.")] | None = None


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
    ]
    calibration: Annotated[CalibrationOptions, Field(description="The text for all methods but `plain`.")] | None = None
    refit: Annotated[list[str], Field(description=REFIT_HELP)] | None = None
    evaluate: Annotated[EvaluateOptions, Field(description="How both models are measured; leave it out to measure nothing.")] | None = None


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


# --- the run directory -------------------------------------------------------------------------------------------------------------

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


class _Event(Record):
    seq: Annotated[int, Field(ge=1, description="1, 2, 3 … without gaps, across resumes.")]
    time: str


class StartedEvent(_Event):
    """A process took the run up: at the start and again at each resume."""

    type: Literal["started"] = "started"
    engine: str
    torch: str
    device: str
    resumed: bool


class EstimateEvent(_Event):
    """What the run will need, checked before the work starts."""

    type: Literal["estimate"] = "estimate"
    layers: int
    parameters: int
    original_parameters: int
    memory: Annotated[int, Field(description="Peak bytes on the device that computes.")]
    memory_available: int
    disk: int
    disk_available: int


class PhaseEvent(_Event):
    type: Literal["phase"] = "phase"
    phase: str


class LayerEvent(_Event):
    type: Literal["layer"] = "layer"
    layer: LayerFigures


class EvaluationEvent(_Event):
    type: Literal["evaluation"] = "evaluation"
    role: Literal["original", "compressed"]
    evaluation: Evaluation


class VerifiedEvent(_Event):
    """The folder was loaded again and its logits compared."""

    type: Literal["verified"] = "verified"
    logits_difference: float
    tolerance: float


class ProfileEvent(_Event):
    """What a profile covers, before its first figure: with the curves and cells that an earlier profile of the same file has already."""

    type: Literal["profile"] = "profile"
    profile: Sensitivity


class CurveEvent(_Event):
    type: Literal["curve"] = "curve"
    curve: Curve


class BaselineEvent(_Event):
    type: Literal["baseline"] = "baseline"
    baseline: Annotated[dict[str, float], Field(description="Value of the original model, by metric.")]


class CellEvent(_Event):
    """A cell is done; one of the same layer and bond dimension that came before is replaced, metric by metric."""

    type: Literal["cell"] = "cell"
    cell: Cell


class WarningEvent(_Event):
    type: Literal["warning"] = "warning"
    message: str


class EndedEvent(_Event):
    """The last event of a process that ended by itself."""

    type: Literal["ended"] = "ended"
    state: Literal["cancelled", "failed", "done"]
    error: ErrorInfo | None = None


RunEvent = Annotated[
    StartedEvent
    | EstimateEvent
    | PhaseEvent
    | LayerEvent
    | EvaluationEvent
    | VerifiedEvent
    | ProfileEvent
    | CurveEvent
    | BaselineEvent
    | CellEvent
    | WarningEvent
    | EndedEvent,
    Field(discriminator="type"),
]
"""One line of `events.ndjson`. Views are a fold over them."""


# --- the compressed checkpoint -----------------------------------------------------------------------------------------------------


class MPOLayer(Record):
    """One layer in the `mpo.layers` section of a compressed checkpoint's `config.json`."""

    out_modes: list[int]
    in_modes: list[int]
    bond_dims: list[int]
    out_features: Annotated[int, Field(description="Below the product of out_modes where the weight was padded.")]
    in_features: int
    bias: bool


class MPOSection(Record):
    """The `mpo` key of a compressed checkpoint's `config.json`."""

    version: Literal[2] = 2
    base_model_type: str
    base_architecture: Annotated[str, Field(description="Class of the original model, such as LlamaForCausalLM.")]
    base_auto_map: Annotated[
        dict[str, str] | None, Field(description="The original model's classes in the folder's own Python files; null: in transformers.")
    ] = None
    layers: dict[str, MPOLayer]


class Lineage(Record):
    """`bondwise.json` in a compressed checkpoint: where it comes from and what was measured."""

    version: Literal[1] = 1
    engine: str
    created: str
    base: BaseModelRef
    request: Annotated[dict[str, Any], Field(description="The options of the run that made it.")]
    result: TensorizeResult


# --- the command line --------------------------------------------------------------------------------------------------------------


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
    disk: Annotated[int, Field(description="Free bytes where the current folder lies.")]
    problems: list[Problem]


# --- webview messages --------------------------------------------------------------------------------------------------------------


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
    """The run that is filling this profile; null when none is."""

    type: Literal["profileRun"] = "profileRun"
    status: RunStatus | None


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
    HostReply | HostCompare | HostSensitivity | HostCells | HostProfileRun | HostSelection | HostPlan, Field(discriminator="type")
]
"""Extension → webview."""

ROOTS: dict[str, Any] = {
    "RunRequest": RunRequest,
    "RunStatus": RunStatus,
    "RunEvent": RunEvent,
    "RunResult": RunResult,
    "MPOSection": MPOSection,
    "Lineage": Lineage,
    "Sensitivity": Sensitivity,
    "PlanFile": PlanFile,
    "PlanResult": PlanResult,
    "Inspection": Inspection,
    "Doctor": Doctor,
    "WebviewRequest": WebviewRequest,
    "HostMessage": HostMessage,
}
"""What is validated on its own; each becomes one TypeScript type and one validator."""


def json_schema() -> dict[str, Any]:
    """All of the above as one JSON Schema (draft 2020-12) document: a definition for each model and each root."""
    from pydantic import TypeAdapter

    adapters: list[tuple[str, Literal["validation"], TypeAdapter[Any]]] = [
        (name, "validation", TypeAdapter(root)) for name, root in ROOTS.items()
    ]
    refs, document = TypeAdapter.json_schemas(adapters, ref_template="#/$defs/{model}")
    definitions = document.get("$defs", {})
    for name, _, _ in adapters:
        definitions.setdefault(name, refs[(name, "validation")])
    for definition in definitions.values():
        # A tag has a default in Python, but a reader needs it in the file to tell the kinds apart.
        tags = [name for name in ("kind", "type") if "const" in definition.get("properties", {}).get(name, {})]
        definition["required"] = [*definition.get("required", []), *tags]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$defs": dict(sorted(definitions.items()))}
