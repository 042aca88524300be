"""`NAME.benchmark.json`: read, added to, written whole or not at all. What is known of a model goes by the content of its folder."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from bondwise import atomic
from bondwise.benchmark_remarks import remarks_of
from bondwise.figures_file import read_figures
from bondwise.schema import Benchmark, BenchmarkModel, TaskResult

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

SUFFIX = ".benchmark.json"


def read_benchmark(path: Path) -> Benchmark:
    """Raises UserError, naming the file and what is wrong, when it is no whole benchmark or was made by a newer Bondwise."""
    return read_figures(path, Benchmark, "benchmark", "Delete it, or choose another --output.")


class Book:
    """A benchmark as it grows: models in order, by the folder that they are in."""

    def __init__(self, path: Path, header: Benchmark) -> None:
        self._path = path
        self.header = header
        self.models: dict[str, BenchmarkModel] = {model.path: model for model in header.models}

    def put(self, model: BenchmarkModel) -> None:
        self.models[model.path] = model

    def fold(self, events: Iterable[Mapping[str, Any]]) -> bool:
        """Takes in what a run's journal holds; whether it told of this benchmark already. The same as extension/benchmark/fold.ts."""
        told = False
        for event in events:
            if event["type"] == "benchmark":
                told = True
                self.models = {}
                for model in Benchmark.model_validate(event["benchmark"]).models:
                    self.put(model)
            elif event["type"] == "benchmark-model":
                self.put(BenchmarkModel.model_validate(event["model"]))
        return told

    def benchmark(self, *, complete: bool = False) -> Benchmark:
        report = self.header.model_copy(update={"models": list(self.models.values()), "complete": complete})
        return report.model_copy(update={"remarks": remarks_of(report)})

    def write(self, *, complete: bool = False) -> None:
        """Writes the file. Raises OSError when the disk is full or the folder cannot be written."""
        atomic.write_json(self._path, self.benchmark(complete=complete))

    def write_what_is_there(self) -> None:
        """At an early end: the first failure is the one to tell, and the disk may be what failed."""
        with suppress(OSError):
            self.write()


def same_task(one: TaskResult, other: TaskResult) -> bool:
    """Whether two results are of the same items, asked in the same way."""
    return task_key(one) == task_key(other)


def task_key(one: TaskResult) -> tuple[object, ...]:
    return one.task, one.limit, one.shots, one.chat, one.seed, one.data


def with_known(entry: BenchmarkModel, known: BenchmarkModel | None) -> BenchmarkModel:
    """`entry`, as its folder is now, with the figures that are known of the same content."""
    if known is None or known.weights != entry.weights:
        return entry
    figures = {name: getattr(known, name) for name in ("footprint", "perplexity", "samples", "tasks", "speed")}
    return entry.model_copy(update=figures)


def with_task(entry: BenchmarkModel, result: TaskResult) -> BenchmarkModel:
    kept = [one for one in entry.tasks if not same_task(one, result)]
    return entry.model_copy(update={"tasks": [*kept, result]})


def relative(path: Path, output: Path) -> str:
    """As a file at `output` names it."""
    return os.path.relpath(path, output.parent)
