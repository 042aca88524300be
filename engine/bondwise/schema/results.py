"""What a run has made: its figures, and `result.json`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from bondwise.schema.base import Method, Predicted, Record, Scheme
from bondwise.schema.benchmark import BenchmarkModel


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


class HealPlan(Record):
    """What does not change any more once the training has begun: a resumed run follows the same curve."""

    steps: int
    warmup_steps: int
    validate_every: Annotated[int, Field(description="Steps between two validations.")]
    tokens_per_step: int
    trained: Annotated[int, Field(description="Parameters that train.")]
    parameters: Annotated[int, Field(description="Of the whole model.")]
    seconds_per_step: Annotated[float, Field(description="Timed before the first step; null where nothing had to be.")] | None = None


class HealResult(Record):
    """Losses are cross entropies on the validation sequences, nats per token."""

    kind: Literal["heal"] = "heal"
    output: str
    stopped: Annotated[Literal["budget", "plateau", "diverged", "asked"], Field(description="What ended the training.")]
    teacher_loss: Annotated[float | None, Field(description="The original's; null without distillation.")] = None
    start_loss: float
    best_loss: float
    best_step: Annotated[int, Field(description="The step whose cores were written; 0: no step was better than the start.")]
    steps: int
    tokens: int
    trained: int
    parameters: int
    original: Evaluation | None = None
    compressed: Evaluation | None = None
    healed: Evaluation | None = None
    logits_difference: Annotated[
        float, Field(description="Largest difference of log-probabilities after reload, against the trained model.")
    ]
    seconds: Annotated[float, Field(description="Of the process that ended the run.")]


class ExportResult(Record):
    kind: Literal["export"] = "export"
    output: str
    architecture: Annotated[str, Field(description="Class of the base model, such as LlamaForCausalLM.")]
    layers: Annotated[int, Field(description="That were contracted.")]
    dequantized: Annotated[int, Field(description="Weights, of layers and cores, that were stored in few bits.")] = 0
    parameters: int
    bytes: int
    compressed_parameters: int
    compressed_bytes: int
    logits_difference: Annotated[float, Field(description="Largest difference of log-probabilities to the compressed model, after reload.")]
    plain: Annotated[bool, Field(description="It loads in transformers without trust_remote_code.")]
    seconds: float


class BenchmarkResult(Record):
    kind: Literal["benchmark"] = "benchmark"
    output: str
    models: Annotated[list[BenchmarkModel], Field(description="All that the report has now.")]
    original: Annotated[str | None, Field(description="`weights` of the model that the others are compared with.")]
    measured: Annotated[int, Field(description="Figures that this run added: tasks, perplexities, speeds and the like.")]
    seconds: float


class SchemeChoice(Record):
    """One way to store a layer, and what it costs."""

    scheme: Scheme
    rank: int = 0
    rank_bits: Annotated[int, Field(description="Of the two thin matrices beside `compensated-N`.")] = 0
    bytes: int
    loss: Annotated[float, Field(description="½ tr(G ΔW S ΔWᵀ), nats per token.")]


class QuantizedLayer(Record):
    """One layer, or core of a layer, in few bits."""

    name: str
    scheme: Scheme
    bits: Annotated[int, Field(description="Of the matrix; 0 where there are two thin ones only.")]
    rank: int = 0
    rank_bits: Annotated[int, Field(description="Of the two thin matrices; 0 where there are none.")] = 0
    shape: Annotated[list[int], Field(description="[out, in]")]
    parameters: Annotated[int, Field(description="Of the weight that it stands for.")]
    bytes: Annotated[int, Field(description="Of the tensors in its place; the bias is not among them.")]
    original_bytes: int
    relative_error: Annotated[float, Field(description="‖W − Ŵ‖_F / ‖W‖_F")]
    loss: Annotated[
        float | None, Field(description="½ tr(G ΔW S ΔWᵀ), the predicted rise of the model's loss, nats per token; null without moments.")
    ] = None
    larger: Annotated[
        SchemeChoice | None, Field(description="With a budget: the next larger way of this layer that was worth anything.")
    ] = None
    smaller: Annotated[SchemeChoice | None, Field(description="With a budget: the next smaller one.")] = None
    protected: Annotated[bool, Field(description="It got more bits than was asked, because its loss would have stood out.")] = False
    seconds: float


class QuantizeResult(Record):
    """Sizes are of the whole model; what its files take, its tensors hold, and the loaded model occupies are three things."""

    kind: Literal["quantize"] = "quantize"
    output: str
    backend: Annotated[
        Literal["bitsandbytes", "packed"],
        Field(description="What unpacks the weights: bitsandbytes, or the folder's own modeling_mpo.py."),
    ]
    parameters: Annotated[int, Field(description="Numbers that the folder stands for.")]
    original_parameters: Annotated[int, Field(description="Of the model before any compression.")]
    bytes: Annotated[int, Field(description="Of all tensors in the files.")]
    original_bytes: Annotated[int, Field(description="The same of the folder that was quantized.")]
    file_bytes: Annotated[int, Field(description="Of the weight files, headers included.")]
    memory: Annotated[int, Field(description="Of the tensors of the loaded model, in the dtype it computes in on the run's device.")]
    bits_per_parameter: Annotated[float, Field(description="8 · bytes / original_parameters")]
    layer_bits: Annotated[float, Field(description="Bits per number of the weights that were quantized.")]
    unquantized_bytes: Annotated[int, Field(description="Of the tensors that stay as they were: embedding, head, norms and others.")]
    layers: list[QuantizedLayer]
    original: Evaluation | None = None
    quantized: Evaluation | None = None
    predicted: Annotated[Predicted, Field(description="Of the plan that the run did.")] | None = None
    logits_difference: Annotated[
        float, Field(description="Largest difference of log-probabilities after reload, against the weights that the codes stand for.")
    ]
    seconds: float


RunResult = Annotated[
    TensorizeResult | PerplexityResult | SampleModelResult | ProfileResult | HealResult | QuantizeResult | BenchmarkResult | ExportResult,
    Field(discriminator="kind"),
]
"""`result.json`: written last."""
