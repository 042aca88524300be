"""A benchmark: `NAME.benchmark.json`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from bondwise.schema.base import Record


class TaskMetric(Record):
    """One of a task's metrics, by one of its filters."""

    name: str
    filter: Annotated[str, Field(description="What was taken from the model's answer before it was judged; `none`: all of it.")] = "none"
    value: float
    error: Annotated[float | None, Field(description="Standard error; null where the harness gives none.")] = None
    higher_is_better: bool = True


class Subtask(Record):
    """One task of a group, such as a subject of MMLU: the group's metric on its items."""

    name: str
    items: int
    value: float
    error: float | None = None
    chance: float | None = None


class TaskResult(Record):
    """A task of the LM Evaluation Harness on one model. Two of them compare where task, items, shots, chat, seed and data are equal."""

    task: str
    version: Annotated[str, Field(description="Of the task, as the harness says it.")] = ""
    limit: Annotated[int | None, Field(description="Items that were asked for; null: all.")]
    shots: Annotated[int | None, Field(description="Solved examples before each item; null: as the task says.")]
    chat: Annotated[bool, Field(description="The model's chat template was put around each item.")]
    seed: Annotated[int, Field(description="Of the choice of items and examples.")]
    data: Annotated[str | None, Field(description="The local folder that the data sets were read from; null: the hub.")]
    items: int
    available: Annotated[int, Field(description="Items that the data has.")]
    examples: Annotated[int, Field(description="Solved examples that stood before each item.")] = 0
    metric: Annotated[TaskMetric, Field(description="The one that counts.")]
    chance: Annotated[float | None, Field(description="What guessing scores on these items; null where there is no such level.")] = None
    constant: Annotated[
        float | None, Field(description="What always giving the same answer scores on these items, at best; null where answers differ.")
    ] = None
    metrics: list[TaskMetric]
    subtasks: list[Subtask] = []
    outcomes: Annotated[
        str | None,
        Field(description="`1` or `0` for each item, by task and item number, so that two models compare item by item; null for others."),
    ] = None
    seconds: float


class Timing(Record):
    """Seconds of one thing done several times, by turns with the original model, so that what else the machine does slows both alike."""

    minimum: float
    median: float
    repeats: int
    original_minimum: float | None = None
    original_median: float | None = None
    ratio: Annotated[float | None, Field(description="minimum / original_minimum: below 1 is faster.")] = None
    median_ratio: Annotated[float | None, Field(description="median / original_median.")] = None


class Speed(Record):
    device: str
    dtype: Annotated[str, Field(description="That it was computed in.")]
    threads: int
    original: Annotated[str | None, Field(description="`weights` of the model that took turns with it; null: it is the original.")]
    length: Annotated[int, Field(description="Tokens of a pass.")]
    decode_tokens: int
    forward: Annotated[Timing, Field(description="A pass over the tokens, all logits, no cache.")]
    prefill: Annotated[Timing, Field(description="A pass that fills the cache and gives the last logits.")]
    decode: Annotated[Timing, Field(description="A token behind that.")]
    training: Annotated[Timing | None, Field(description="A step on the tokens: forward, backward, AdamW.")] = None
    trained: Annotated[int, Field(description="Parameters that the training step changes.")] = 0
    training_note: Annotated[str | None, Field(description="Why there is no training step, or what it leaves out.")] = None


class Footprint(Record):
    """Measured in a process that does nothing else."""

    load_seconds: Annotated[float, Field(description="From the folder to a model, files in the system's cache.")]
    memory: Annotated[
        int,
        Field(description="Bytes: the most that loading and a pass over `tokens` took, without the libraries; on a GPU its memory."),
    ]
    tokens: int
    device: str


class Perplexity(Record):
    data: Annotated[str, Field(description="The text: `builtin`, a hub data set, or a file, relative to the report's folder.")]
    value: float
    error: Annotated[float, Field(description="Standard error, over sequences.")]
    length: Annotated[int, Field(description="Tokens in a sequence.")]
    sequences: int


class TextSample(Record):
    prompt: str
    text: Annotated[str, Field(description="Greedy continuation.")]
    chat: bool = False


class BenchmarkModel(Record):
    path: Annotated[str, Field(description="Relative to the folder of the file that says it.")]
    name: str
    fingerprint: Annotated[str, Field(description="SHA-256 over config.json and the header of every shard.")]
    weights: Annotated[str, Field(description="SHA-256 over config.json and all weight files: what the figures are of.")]
    base: Annotated[str | None, Field(description="Fingerprint of the model that this one was made from.")] = None
    bytes: Annotated[int, Field(description="Of the weight files on disk.")]
    parameters: int
    original_parameters: Annotated[
        int | None, Field(description="Of a quantized model: before its values were packed; null where the tensors say it.")
    ] = None
    dtypes: Annotated[dict[str, int], Field(description="Bytes of tensors by stored dtype, by the format's name.")]
    scheme: Annotated[str | None, Field(description="How it is quantized, such as int8 or nf4.")] = None
    precision: Annotated[str, Field(description="Of its weights, in words.")]
    mpo_layers: int = 0
    healed: bool = False
    footprint: Footprint | None = None
    perplexity: Perplexity | None = None
    samples: list[TextSample] = []
    tasks: list[TaskResult] = []
    speed: Speed | None = None


class Benchmark(Record):
    """`NAME.benchmark.json`: several models, measured alike."""

    version: Literal[1] = 1
    engine: str
    harness: Annotated[str | None, Field(description="Version of the LM Evaluation Harness.")] = None
    created: str
    machine: str = ""
    device: str
    original: Annotated[str | None, Field(description="`weights` of the model that the others are compared with.")] = None
    models: list[BenchmarkModel] = []
    remarks: Annotated[list[str], Field(description="What there is to say of them, in sentences.")] = []
    complete: Annotated[bool, Field(description="All that was asked for is there.")] = False
