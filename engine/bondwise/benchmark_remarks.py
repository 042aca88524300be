"""What there is to say of a benchmark in words: what got slower, what is no better than guessing, what is missing to judge by."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bondwise.schema import Benchmark, BenchmarkModel, TaskResult, Timing

NOISE = 2.0
"""Standard errors within which two values are not told apart."""
FEWEST = 3
"""Timings below which nothing is said of a ratio: one of them may be anything."""
BASELINES = ("int8", "nf4")
"""Quantizations of the whole original that a compressed model has to be compared with."""


def remarks_of(report: Benchmark) -> list[str]:
    """Sentences on the models of a report, the most important first."""
    original = next((model for model in report.models if model.weights == report.original), None)
    return [
        *(remark for model in report.models for remark in _beaten(model, report)),
        *(remark for model in report.models if model is not original for remark in _slower(model)),
        *(remark for model in report.models for remark in _guessing(model)),
        *_missing(report),
    ]


def is_baseline(model: BenchmarkModel) -> bool:
    """Whether it is the original as a whole, quantized by one of the usual schemes."""
    return model.scheme in BASELINES and not model.mpo_layers


def _beaten(model: BenchmarkModel, report: Benchmark) -> Iterator[str]:
    """Where a baseline is no larger and predicts the text better."""
    if not model.mpo_layers or model.perplexity is None:
        return
    for other in report.models:
        if is_baseline(other) and other.bytes <= model.bytes and other.perplexity and other.perplexity.value <= model.perplexity.value:
            yield (
                f"{other.name} ({other.scheme}) is no larger than {model.name} and has the better perplexity "
                f"({other.perplexity.value:.2f} against {model.perplexity.value:.2f})."
            )


def _slower(model: BenchmarkModel) -> Iterator[str]:
    if model.speed is None:
        return
    timings = (("forward", model.speed.forward), ("decode", model.speed.decode), ("training", model.speed.training))
    slower = [
        f"{what} {timing.ratio:.2f}×"
        for what, timing in timings
        if timing is not None and timing.ratio is not None and timing.repeats >= FEWEST and timing.ratio > 1 + noise_of(timing)
    ]
    if slower:
        yield f"{model.name} is slower than the original: {', '.join(slower)} its time."


def _guessing(model: BenchmarkModel) -> Iterator[str]:
    if guessing := [task.task for task in model.tasks if is_chance(task)]:
        yield f"{model.name} is within {NOISE:.0f} standard errors of guessing on {', '.join(guessing)}."


def _missing(report: Benchmark) -> Iterator[str]:
    missing = [scheme for scheme in BASELINES if not any(model.scheme == scheme and is_baseline(model) for model in report.models)]
    if missing and len(report.models) > 1:
        yield f"The original in {' and '.join(missing)} is not among these models: quantize it, to compare at equal bytes."


def is_chance(task: TaskResult) -> bool:
    """Whether a score cannot be told from guessing, or from always giving the same answer."""
    metric = task.metric
    levels = [level for level in (task.chance, task.constant) if level is not None]
    return bool(levels) and metric.higher_is_better and metric.value - max(levels) <= NOISE * (metric.error or 0.0)


def noise_of(timing: Timing) -> float:
    """How much of a ratio the machine may have made: half the distance of the fastest to the median, of either model, or what the ratio of
    the medians says otherwise."""
    own = timing.median / timing.minimum - 1
    other = timing.original_median / timing.original_minimum - 1 if timing.original_median and timing.original_minimum else 0.0
    apart = abs(timing.ratio - timing.median_ratio) if timing.ratio and timing.median_ratio else 0.0
    return max(0.02, own / 2, other / 2, apart)
