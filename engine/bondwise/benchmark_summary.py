"""What the command line prints of a benchmark: the paper's two tables, speed, and what there is to say of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bondwise.benchmark_file import read_benchmark, task_key
from bondwise.terminal import duration, size, table

if TYPE_CHECKING:
    from bondwise.schema import Benchmark, BenchmarkModel, TaskResult, Timing

NOISE = 2.0
"""Standard errors within which two values are not told apart."""
BASELINES = ("int8", "nf4")
"""Quantizations of the whole original that a compressed model has to be compared with."""
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64", "I8": "int8"}


def benchmark_text(result: dict[str, Any]) -> str:
    """From `result.json` and the file that it names."""
    report = read_benchmark(Path(result["output"]))
    parts = [_sizes(report), _qualities(report), _speeds(report)]
    remarks = remarks_of(report)
    return "\n\n".join([*(part for part in parts if part), *(["\n".join(f"- {one}" for one in remarks)] if remarks else [])])


def precision(model: BenchmarkModel) -> str:
    """In words: `bfloat16`, `int8, the rest bfloat16`, `nf4, cores float16`."""
    stored = next((_DTYPES.get(name, name) for name in model.dtypes if name in ("F64", "F32", "F16", "BF16")), None)
    plain = stored or next(iter(model.dtypes), "")
    if model.scheme is None:
        return plain
    rest = "cores" if model.mpo_layers else "the rest"
    return f"{model.scheme}, {rest} {plain}" if stored else model.scheme


def remarks_of(report: Benchmark) -> list[str]:
    """What a reader should know: slower models, scores that are no better than guessing, baselines that are missing."""
    original = next((model for model in report.models if model.weights == report.original), None)
    found: list[str] = []
    for model in report.models:
        if model.speed is not None and model is not original:
            slower = [
                f"{what} {timing.ratio:.2f}×"
                for what, timing in (("forward", model.speed.forward), ("decode", model.speed.decode), ("training", model.speed.training))
                if timing is not None and timing.ratio is not None and timing.ratio > 1 + noise_of(timing)
            ]
            if slower:
                found.append(f"{model.name} is slower than the original: {', '.join(slower)} its time.")
        guessing = [task.task for task in model.tasks if is_chance(task)]
        if guessing:
            found.append(f"{model.name} is within {NOISE:.0f} standard errors of guessing on {', '.join(guessing)}.")
    missing = [scheme for scheme in BASELINES if not any(model.scheme == scheme and not model.mpo_layers for model in report.models)]
    if missing and len(report.models) > 1:
        found.append(f"The baseline {' and '.join(missing)} of the original is not among these: quantize it, to compare at equal bytes.")
    return found


def is_chance(task: TaskResult) -> bool:
    """Whether a score cannot be told from guessing, or from always giving the same answer."""
    metric = task.metric
    levels = [level for level in (task.chance, task.constant) if level is not None]
    return bool(levels) and metric.higher_is_better and metric.value - max(levels) <= NOISE * (metric.error or 0.0)


def noise_of(timing: Timing) -> float:
    """How much the fastest of several may have been disturbed: half the distance to the median, of either model."""
    own = timing.median / timing.minimum - 1
    other = timing.original_median / timing.original_minimum - 1 if timing.original_median and timing.original_minimum else 0.0
    return max(0.02, own / 2, other / 2)


def paired_difference(one: TaskResult, original: TaskResult) -> tuple[float, float] | None:
    """Difference to the original and its standard error, item by item; None where the two are not of the same items."""
    if one.outcomes is None or original.outcomes is None or task_key(one) != task_key(original):
        return None
    differences = [int(here) - int(there) for here, there in zip(one.outcomes, original.outcomes, strict=True)]
    count, mean = len(differences), sum(differences) / len(differences)
    error = math.sqrt(sum((each - mean) ** 2 for each in differences) / (count - 1) / count) if count > 1 else 0.0
    return mean, error


def _sizes(report: Benchmark) -> str:
    rows = [["model", "size", "parameters", "precision", "memory", "load"]]
    for model in report.models:
        foot = model.footprint
        rows.append(
            [
                model.name,
                size(model.bytes),
                f"{model.original_parameters or model.parameters:,}",
                precision(model),
                size(foot.memory) if foot else "",
                duration(foot.load_seconds) if foot and foot.load_seconds >= 60 else f"{foot.load_seconds:.1f} s" if foot else "",
            ]
        )
    return table(rows)


def _qualities(report: Benchmark) -> str:
    keys = list(dict.fromkeys(task_key(task) for model in report.models for task in model.tasks))
    if not keys and not any(model.perplexity for model in report.models):
        return ""
    names = [str(key[0]) for key in keys]
    heads = [name if names.count(name) == 1 else f"{name} ({key[1] or 'all'})" for name, key in zip(names, keys, strict=True)]
    rows = [["model", "perplexity", *heads]]
    for model in report.models:
        perplexity = f"{model.perplexity.value:.2f} ± {model.perplexity.error:.2f}" if model.perplexity else ""
        by_key = {task_key(task): task for task in model.tasks}
        rows.append([model.name, perplexity, *(_score(by_key.get(key)) for key in keys)])
    rows.append(["chance", "", *(_chance(report, key) for key in keys)])
    return table(rows)


def _score(task: TaskResult | None) -> str:
    if task is None:
        return ""
    error = f" ± {100 * task.metric.error:.1f}" if task.metric.error is not None else ""
    return f"{100 * task.metric.value:.1f}{error}"


def _chance(report: Benchmark, key: tuple[object, ...]) -> str:
    task = next(task for model in report.models for task in model.tasks if task_key(task) == key)
    return f"{100 * task.chance:.1f}" if task.chance is not None else ""


def _speeds(report: Benchmark) -> str:
    if not any(model.speed for model in report.models):
        return ""
    rows = [["time, of the original's", "forward", "prefill", "decode", "training", "prefill tokens/s", "decode tokens/s"]]
    for model in report.models:
        if (speed := model.speed) is not None:
            ratios = [_ratio(timing) for timing in (speed.forward, speed.prefill, speed.decode, speed.training)]
            rows.append([model.name, *ratios, f"{speed.length / speed.prefill.minimum:,.0f}", f"{1 / speed.decode.minimum:,.1f}"])
    return table(rows)


def _ratio(timing: Timing | None) -> str:
    if timing is None:
        return ""
    return "1" if timing.ratio is None else f"{timing.ratio:.2f} ± {noise_of(timing):.2f}"
