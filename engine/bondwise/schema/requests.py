"""What a run is asked to do: `run.json`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from bondwise.schema.base import Method, Predicted, Scheme, Sites, Strict

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


class HealData(Strict):
    """One source of text, and its share among several."""

    data: Annotated[str, Field(description="A .txt or .jsonl file, a hub data set id, or `builtin`; its calibration part is used.")]
    weight: Annotated[float, Field(gt=0, description="Of the tokens, beside those of the other sources.")] = 1.0


class CalibrationOptions(Strict):
    """The text that the methods `input` and `fisher` learn from."""

    data: Annotated[
        str,
        Field(
            description="A .txt or .jsonl file, a hub data set id, or `builtin`, whose calibration part is used; or `self`: text that the "
            "model writes itself."
        ),
    ] = "builtin"
    also: Annotated[
        list[HealData], Field(description="More texts, whose sequences come by turns with those of `data`, which has the weight 1.")
    ] = []
    length: Annotated[int, Field(ge=8, description="Tokens in a sequence.")] = 512
    sequences: Annotated[int, Field(ge=1, description="More make the result better, for other texts above all, and take longer.")] = 16


class TensorizeOptions(Strict):
    tensorize: Annotated[list[TensorizeRule], Field(min_length=1)]
    calibration: CalibrationOptions = CalibrationOptions()
    refit: Annotated[list[str], Field(description=REFIT_HELP)] = []
    output: Annotated[str, Field(description="The folder to make. It appears only when it is whole.")]
    evaluate: EvaluateOptions | None = None
    predicted: Annotated[Predicted, Field(description="Of the plan that this run does: shown beside what is measured.")] | None = None


SCHEME_HELP = (
    "`int8`, `nf4` and `nf4-double` of bitsandbytes, `float16`, `compensated-4`, `-3` or `-2` (bits, rounded so that what the layer does "
    "on a calibration text changes least), or `low-rank-16`, `-8` or `-4` (two thin matrices of as many bits)."
)


class QuantizeRule(Strict):
    """Which layers are stored in fewer bits and how. Later rules do not touch what an earlier rule matched."""

    layers: Annotated[
        list[str],
        Field(description="Exact names, globs, or `re:` patterns of layers, or of cores, such as `*.cores.*`; or the head's name."),
    ]
    exclude: Annotated[list[str], Field(description="Layers to leave out of those: names, globs or `re:` patterns.")] = []
    scheme: Annotated[Scheme, Field(description=SCHEME_HELP)]
    rank: (
        Annotated[
            int,
            Field(ge=1, description="Of `low-rank-N`; with `compensated-N` that of two thin matrices that give back what rounding lost."),
        ]
        | None
    ) = None
    rank_bits: Annotated[
        Literal[4, 8, 16], Field(description="Of those two thin matrices beside `compensated-N`; those of 16 bits can be healed.")
    ] = 4

    @model_validator(mode="after")
    def _rank_where_needed(self) -> QuantizeRule:
        if self.scheme.startswith("low-rank") and self.rank is None:
            raise ValueError(f"scheme {self.scheme} needs a rank")
        if self.rank is not None and not self.scheme.startswith(("low-rank", "compensated")):
            raise ValueError(f"scheme {self.scheme} takes no rank")
        return self


class QuantizeBudget(Strict):
    """What the scheme of each layer is chosen for."""

    target: Annotated[str, Field(description="`3.5bits` for a number of these layers, `60MB` of the whole folder, or `perplexity<30`.")]
    layers: Annotated[list[str], Field(min_length=1, description="Layers that may be quantized: names, globs or `re:` patterns.")] = ["*"]
    exclude: Annotated[list[str], Field(description="Layers to leave out of those.")] = []


class QuantizeOptions(Strict):
    quantize: Annotated[list[QuantizeRule], Field(description="Which layers get which scheme; or `budget`.")] = []
    budget: Annotated[
        QuantizeBudget | None, Field(description="Each layer gets the scheme that loses least under a budget, among all of them.")
    ] = None
    calibration: Annotated[CalibrationOptions, Field(description="The text for `compensated-N` and `low-rank-N`.")] = CalibrationOptions()
    protect: Annotated[
        bool, Field(description="Layers whose rounding to `compensated-N` is predicted to cost far more than the others' get 8 bits.")
    ] = True
    sequential: Annotated[
        bool, Field(description="Calibrated layers are made in their order, each for what the quantized ones before it hand on.")
    ] = True
    output: Annotated[str, Field(description="The folder to make. It appears only when it is whole.")]
    evaluate: EvaluateOptions | None = None
    predicted: Annotated[Predicted, Field(description="Of the plan that this run does: shown beside what is measured.")] | None = None

    @model_validator(mode="after")
    def _rules_or_budget(self) -> QuantizeOptions:
        if bool(self.quantize) == (self.budget is not None):
            raise ValueError("give either rules (quantize) or a budget")
        return self


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


class HealSettings(Strict):
    """How long, on what and with which loss the cores of a compressed model are trained."""

    data: Annotated[list[HealData], Field(min_length=1, description="What to train on.")] = [HealData(data="builtin")]
    length: Annotated[int, Field(ge=8, description="Tokens in a sequence.")] = 512
    batch: Annotated[int, Field(ge=1, description="Sequences in a step.")] = 8
    minutes: Annotated[float, Field(gt=0, description="Turned into steps when the first ones have been timed.")] | None = None
    tokens: Annotated[int, Field(ge=1, description="To train on.")] | None = None
    epochs: Annotated[float, Field(gt=0, description="How often the data is gone through; of several sources the first.")] | None = None
    learning_rate: Annotated[float, Field(gt=0, description="At its highest, behind the warm-up.")] = 2e-4
    warmup: Annotated[float, Field(ge=0, lt=1, description="Share of the steps in which the learning rate rises.")] = 0.05
    clip: Annotated[float, Field(gt=0, description="Largest norm of the gradient of a step; a longer one is shortened to it.")] = 1.0
    weight_decay: Annotated[float, Field(ge=0, description="Of AdamW.")] = 0.0
    distill: Annotated[
        float, Field(ge=0, le=1, description="Share of the loss that is KL(original ‖ model); the rest is cross entropy.")
    ] = 0.5
    temperature: Annotated[float, Field(gt=0, description="Of both distributions in that KL.")] = 1.0
    teacher: Annotated[str, Field(description="The original model's folder; null: where the compressed one says it is.")] | None = None
    teacher_device: Annotated[
        str | None, Field(description="Where the original computes, as `device`; null: where the model does. Of one process.")
    ] = None
    teacher_top: Annotated[
        int | None,
        Field(
            ge=1,
            description="Learn from so many of the original's likeliest next tokens, all others as one; they are kept on disk for "
            "other runs. Null: from all of them.",
        ),
    ] = None
    train: Annotated[
        list[str], Field(description="What trains besides the cores: `norms`, layers by name or glob, or `re:` patterns.")
    ] = []
    corrections: Annotated[
        int | None,
        Field(
            ge=1,
            description="Rank of the two thin matrices of 16 bits that each layer in packed bits gets to train, where it has none. Null: "
            "none get any.",
        ),
    ] = 16
    recompute: Annotated[bool, Field(description="Compute activations again in the backward pass: less memory, more time.")] = False
    validation_sequences: Annotated[int, Field(ge=1, description="Of the data's evaluation part.")] = 8
    validations: Annotated[
        int, Field(ge=1, description="How often in the run the model is validated, at most; evenly spaced in steps.")
    ] = 10
    patience: Annotated[int, Field(ge=1, description="Validations in a row without a better one, after which the run ends.")] | None = None
    save_minutes: Annotated[float, Field(gt=0, description="Between two resume points.")] = 5.0
    keep: Annotated[int, Field(ge=1, description="Resume points that stay.")] = 2
    prompt: Annotated[str, Field(description="What the models continue at each validation.")] = "The capital of France is"
    sample_tokens: Annotated[int, Field(ge=0, description="Tokens that they continue it by.")] = 40

    @model_validator(mode="after")
    def _one_budget(self) -> HealSettings:
        given = [name for name in ("minutes", "tokens", "epochs") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of minutes, tokens and epochs, not {', '.join(given) or 'none'}")
        return self


class HealOptions(HealSettings):
    output: Annotated[str, Field(description="The folder to make. It appears only when it is whole.")]
    evaluate: EvaluateOptions | None = None


PAPER_TASKS = ["mmlu", "hellaswag", "boolq", "triviaqa", "gsm8k"]
"""Those that CompactifAI's Table 2 has."""


class BenchmarkOptions(Strict):
    """What several models are measured by."""

    models: Annotated[list[str], Field(min_length=1, description="Model folders.")]
    original: Annotated[str | None, Field(description="What the others are compared with; null: the one that is not compressed.")] = None
    tasks: Annotated[list[str], Field(description="Of the LM Evaluation Harness: tasks, groups, tags; default: the paper's.")] = PAPER_TASKS
    limit: Annotated[
        int | None, Field(ge=1, description="Items of each task, chosen by the seed; of a group shared among its tasks. Null: all.")
    ] = 100
    shots: Annotated[int | None, Field(ge=0, description="Solved examples before each item; null: as each task says.")] = None
    chat: Annotated[bool, Field(description="Put the model's chat template around each item and prompt.")] = False
    batch: Annotated[int | None, Field(ge=1, description="Items at a time; null: 1 on a CPU, 8 elsewhere.")] = None
    datasets: Annotated[
        str | None, Field(description="A folder with data sets under their hub ids, which are read from there alone; null: the hub.")
    ] = None
    perplexity: EvaluateOptions | None = EvaluateOptions()
    prompts: Annotated[list[str], Field(description="What the models continue.")] = ["The capital of France is"]
    sample_tokens: Annotated[int, Field(ge=1, description="Tokens that they continue them by.")] = 40
    speed: Annotated[bool, Field(description="Forward, prefill and decode times.")] = True
    training: Annotated[bool, Field(description="The time of a training step, with `speed`.")] = True
    footprint: Annotated[bool, Field(description="Load time and memory.")] = True
    repeats: Annotated[int, Field(ge=1, description="Timings of each model, by turns with the original.")] = 5
    length: Annotated[int, Field(ge=8, description="Tokens of a timed pass.")] = 256
    decode_tokens: Annotated[int, Field(ge=1, description="Tokens of a timed continuation.")] = 16
    output: Annotated[str, Field(description="The file NAME.benchmark.json. One that is there is added to.")]


class ExportOptions(Strict):
    dense: Annotated[bool, Field(description="Contract every MPO to a dense weight: the base architecture, at its full size.")] = True
    output: Annotated[str, Field(description="The folder to make. It appears only when it is whole.")]


class SampleModelOptions(Strict):
    output: str


class _Request(Strict):
    version: Literal[1] = 1
    created: Annotated[str, Field(description="ISO 8601, UTC.")]
    title: Annotated[str, Field(description="What a person reads in the Runs view.")]
    device: Annotated[str, Field(description="`auto`, `cpu`, `cuda`, `cuda:N` or `mps`.")] = "auto"
    seed: int = 0
    allow_code: Annotated[bool, Field(description="The user allowed the model folders' own Python code, as `code` has it.")] = False
    code: Annotated[
        dict[str, str],
        Field(description="What was allowed: SHA-256 in hex of the Python files, by folder, as `trust.code_hash`. Other code is not run."),
    ] = {}
    processes: Annotated[int, Field(ge=1, description="How many torchrun starts on this machine; 1: without torchrun.")] = 1
    after: Annotated[str | None, Field(description="A run directory: this run waits until that one is done.")] = None


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


class HealRequest(_Request):
    kind: Literal["heal"] = "heal"
    model: str
    options: HealOptions


class BenchmarkRequest(_Request):
    kind: Literal["benchmark"] = "benchmark"
    options: BenchmarkOptions


class ExportRequest(_Request):
    kind: Literal["export"] = "export"
    model: str
    options: ExportOptions


class QuantizeRequest(_Request):
    kind: Literal["quantize"] = "quantize"
    model: str
    options: QuantizeOptions


RunRequest = Annotated[
    TensorizeRequest
    | PerplexityRequest
    | SampleModelRequest
    | ProfileRequest
    | HealRequest
    | QuantizeRequest
    | BenchmarkRequest
    | ExportRequest,
    Field(discriminator="kind"),
]
"""`run.json`: what is asked. Paths are absolute or relative to the run directory. Never changed after start."""
