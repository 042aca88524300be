"""What the command line prints of a benchmark: the paper's two tables, speed, and what there is to say of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bondwise.benchmark_file import read_benchmark, task_key
from bondwise.benchmark_remarks import noise_of
from bondwise.terminal import duration, size, table

if TYPE_CHECKING:
    from bondwise.schema import Benchmark, TaskResult, Timing


def benchmark_text(result: dict[str, Any]) -> str:
    """From `result.json` and the file that it names."""
    report = read_benchmark(Path(result["output"]))
    parts = [_sizes(report), _qualities(report), _speeds(report)]
    remarks = report.remarks
    return "\n\n".join([*(part for part in parts if part), *(["\n".join(f"- {one}" for one in remarks)] if remarks else [])])


def _sizes(report: Benchmark) -> str:
    rows = [["model", "size", "parameters", "precision", "memory", "load"]]
    for model in report.models:
        foot = model.footprint
        rows.append(
            [
                model.name,
                size(model.bytes),
                f"{model.original_parameters or model.parameters:,}",
                model.precision,
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
