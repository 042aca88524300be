"""Tasks of the LM Evaluation Harness on one model: as a metric, item by item, or as a benchmark's figures."""

from __future__ import annotations

import importlib
import math
import random
import time
from collections import Counter
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

from bondwise.errors import Cancelled, UserError
from bondwise.harness_tasks import LoadedTask, library, load_tasks
from bondwise.replay import replaced_weight
from bondwise.schema import Subtask, TaskMetric

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bondwise.modelmap import Layer

TASK = "task:"
"""Begins the metric that is a task."""
PREFERRED = ("acc_norm", "acc", "exact_match")
"""The metric of a task that counts, where it has several; else the first that its items have."""
BOOTSTRAPS = 1000
"""Resamplings behind the standard error of a metric that is no mean."""


class TaskScore(NamedTuple):
    items: list[float]

    @property
    def mean(self) -> float:
        return math.fsum(self.items) / len(self.items)

    def paired_error(self, original: TaskScore) -> float:
        """Standard error, over items, of the difference of the means."""
        differences = [one - other for one, other in zip(self.items, original.items, strict=True)]
        mean = math.fsum(differences) / len(differences)
        if len(differences) < 2:
            return 0.0
        return math.sqrt(math.fsum((each - mean) ** 2 for each in differences) / (len(differences) - 1) / len(differences))


class TaskFigures(NamedTuple):
    """What a model scored on a task; as `schema.TaskResult`."""

    version: str
    items: int
    available: int
    examples: int
    metric: TaskMetric
    metrics: list[TaskMetric]
    chance: float | None
    constant: float | None
    subtasks: list[Subtask]
    outcomes: str | None
    seconds: float


class Harness:
    """One model, wrapped for the harness. `progress(done, total)` counts requests."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        seed: int,
        batch: int = 1,
        progress: Callable[[int, int], None] = lambda done, total: None,
        check_cancelled: Callable[[], None] = lambda: None,
    ) -> None:
        """Raises UserError where the package is not installed."""
        self._library: Any = library()
        self.model = model
        self._seed = seed
        self._progress = progress
        self._check_cancelled = check_cancelled
        self._wrapped = _wrapped(model, tokenizer, batch)

    def run(self, task: LoadedTask, *, limit: int | None, shots: int | None = None, chat: bool = False) -> dict[str, Any]:
        """What the harness says of `task`, on at most `limit` items chosen by the seed.

        Raises UserError where it cannot be done on this model, Cancelled within a pass of the model after it was asked to stop.
        """
        chosen = {} if limit is None else choose_items(task.leaves, limit, self._seed)
        try:
            with self._watched():
                found: Any = self._library.simple_evaluate(
                    model=self._wrapped,
                    tasks=list(task.built),
                    samples=chosen or None,
                    num_fewshot=shots,
                    apply_chat_template=chat,
                    task_manager=task.manager,
                    log_samples=True,
                    bootstrap_iters=BOOTSTRAPS,
                    random_seed=self._seed,
                    numpy_random_seed=self._seed,
                    torch_random_seed=self._seed,
                    fewshot_random_seed=self._seed,
                )
        except (Cancelled, UserError, MemoryError):
            raise
        except Exception as failure:
            if type(failure).__name__ == "OutOfMemoryError":
                raise
            if isinstance(failure, AssertionError) and not str(failure):
                longest = int(self._wrapped.max_length)
                raise UserError(
                    f"An item of {task.name} is longer than the {longest} tokens that the model takes.", "Leave the task out."
                ) from failure
            raise UserError(
                f"The task {task.name} could not be done: {type(failure).__name__}: {failure}",
                "Leave it out, or ask for fewer shots where its items are too long for the model.",
            ) from failure
        return found

    def figures(self, task: LoadedTask, *, limit: int | None, shots: int | None = None, chat: bool = False) -> TaskFigures:
        """As `run`, in our words."""
        started = time.monotonic()
        found = self.run(task, limit=limit, shots=shots, chat=chat)
        return _figures(task, found, time.monotonic() - started)

    @contextmanager
    def _watched(self) -> Generator[None]:
        """Asks before every pass of the model whether to go on, so that neither a long generation nor a long task delays a stop."""

        def before(_module: Any, _arguments: Any) -> None:
            self._check_cancelled()

        hook = self.model.register_forward_pre_hook(before)
        self._wrapped.watch(self._progress)
        try:
            yield
        finally:
            hook.remove()


class TaskHarness:
    """One task as the metric of a profile."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, limit: int, seed: int) -> None:
        """Raises UserError where the package is not installed or has no such task, or its data cannot be reached."""
        self.name = name
        self._harness = Harness(model, tokenizer, seed=seed)
        self._limit = limit
        self._task = load_tasks([name], None)[name]

    def score(self, layer: Layer | None = None, weight: Tensor | None = None) -> TaskScore:
        """Of the original, or of the model with `weight` [out, in] in the place of the layer's.

        Raises UserError where the task cannot be done or gives no number an item.
        """
        changed = nullcontext() if layer is None or weight is None else replaced_weight(self._harness.model, layer, weight)
        with changed:
            found = self._harness.run(self._task, limit=self._limit)
        # A group of tasks has the items of all of its tasks.
        samples = _samples(found)
        metric = _preferred([name for item in samples[:1] for name in item.get("metrics", ())], samples)
        values = [item.get(metric or "") for item in samples]
        numbers = [float(value) for value in values if isinstance(value, (bool, int, float))]
        if not values or len(numbers) < len(values):
            raise UserError(f"The task {self.name} gives no number for each item.", "Choose a multiple-choice or exact-match task.")
        return TaskScore(numbers)


def choose_items(leaves: Mapping[str, Any], limit: int, seed: int) -> dict[str, list[int]]:
    """Item numbers of each task, ascending: `limit` in all, shared evenly (at least one each), chosen by the seed. Empty: take all.

    Not the first ones: many data sets are sorted, and their first rows have one answer more often than the others.
    """
    each = max(1, math.ceil(limit / len(leaves)))
    counts = {name: len(task.eval_docs) for name, task in leaves.items()}
    if all(count <= each for count in counts.values()):
        return {}
    return {name: sorted(random.Random(f"{seed} {name}").sample(range(count), min(each, count))) for name, count in counts.items()}


def _wrapped(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch: int) -> Any:
    """The harness's view of a model, which tells how many requests are done."""
    models: Any = importlib.import_module("lm_eval.models.huggingface")

    class Watched(models.HFLM):
        def watch(self, progress: Callable[[int, int], None]) -> None:
            self._progress, self._done, self._total = progress, 0, 0
            self.set_cache_hook(self)

        def add_partial(self, *_result: Any) -> None:
            self._done += 1
            self._progress(min(self._done, self._total), self._total)

        def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> Any:
            self._total += len(requests)
            return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

        def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = True) -> Any:
            self._total += len(requests)
            return super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> Any:
            self._total += len(requests)
            return super().generate_until(requests, disable_tqdm=disable_tqdm)

    return Watched(pretrained=model, tokenizer=tokenizer, batch_size=batch)


# --- the harness's words → ours --------------------------------------------------------------------------------------------------------


def _figures(task: LoadedTask, found: dict[str, Any], seconds: float) -> TaskFigures:
    results: dict[str, dict[str, Any]] = found["results"]
    better: dict[str, dict[str, Any]] = found.get("higher_is_better", {})
    samples = _samples(found)
    own = results.get(task.name) or found.get("groups", {}).get(task.name)
    leaves = sorted(task.leaves)
    metrics = _metrics(own, better.get(task.name) or better.get(leaves[0], {})) if own else []
    if not metrics and len(leaves) > 1:
        metrics = _mean_metrics([_metrics(results[name], better.get(name, {})) for name in leaves if name in results])
    if not metrics:
        raise UserError(f"The task {task.name} gives no number.", "Choose another task.")
    metric = next((each for name in PREFERRED for each in metrics if each.name == name), metrics[0])
    counted = [item for item in samples if item.get("filter", "none") == metric.filter]
    chances = {name: _chance(built, [item for item in counted if item["task"] == name]) for name, built in task.leaves.items()}
    numbers = {name: sum(item["task"] == name for item in counted) for name in leaves}
    known = [(chance, numbers[name]) for name, (chance, _) in chances.items() if chance is not None]
    total = sum(numbers.values())
    whole = sum(count for _, count in known) == total and total > 0
    values = [item.get(metric.name) for item in counted]
    if metric.error is None and (error := _standard_error(values)) is not None:
        # The harness pools the errors of a group's tasks, and a task of one item has none.
        metric = metric.model_copy(update={"error": error})
    binary = bool(values) and all(isinstance(value, (bool, int, float)) and value in (0, 1) for value in values)
    return TaskFigures(
        version=str(found.get("versions", {}).get(task.name) or ""),
        items=total,
        available=sum(len(built.eval_docs) for built in task.leaves.values()),
        examples=max((int(count) for name, count in found.get("n-shot", {}).items() if name in task.leaves), default=0),
        metric=metric,
        metrics=metrics,
        chance=sum(chance * count for chance, count in known) / total if whole else None,
        constant=_constant(list(task.leaves.values()), counted) if whole else None,
        subtasks=[
            subtask
            for name in leaves
            if len(leaves) > 1 and (subtask := _subtask(name, results.get(name, {}), metric, numbers[name], chances[name][0]))
        ],
        outcomes="".join("1" if value else "0" for value in values) if binary else None,
        seconds=seconds,
    )


def _samples(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The items of all tasks, by task and number."""
    return [
        {**item, "task": task}
        for task in sorted(found["samples"])
        for item in sorted(found["samples"][task], key=lambda item: (item["doc_id"], str(item.get("filter"))))
    ]


def _preferred(offered: Sequence[str], samples: Sequence[dict[str, Any]]) -> str | None:
    return next((name for name in [*PREFERRED, *offered] if all(name in item for item in samples)), None)


def _metrics(result: Mapping[str, Any], better: Mapping[str, Any]) -> list[TaskMetric]:
    """`"acc,none": 0.5, "acc_stderr,none": 0.1` → a metric."""
    found: list[TaskMetric] = []
    for key, value in result.items():
        name, mark, filtered = key.partition(",")
        if mark and not name.endswith("_stderr") and (number := _number(value)) is not None:
            found.append(
                TaskMetric(
                    name=name,
                    filter=filtered,
                    value=number,
                    error=_number(result.get(f"{name}_stderr,{filtered}")),
                    higher_is_better=better.get(name) is not False,
                )
            )
    return found


def _mean_metrics(each: Sequence[Sequence[TaskMetric]]) -> list[TaskMetric]:
    """Of a tag, or a group without figures of its own: the mean over its tasks, of the metrics that all of them have."""
    found: list[TaskMetric] = []
    for first in each[0] if each else ():
        same = [one for metrics in each for one in metrics if (one.name, one.filter) == (first.name, first.filter)]
        if len(same) == len(each):
            errors = [one.error for one in same if one.error is not None]
            error = math.sqrt(math.fsum(one**2 for one in errors)) / len(same) if len(errors) == len(same) else None
            found.append(first.model_copy(update={"value": math.fsum(one.value for one in same) / len(same), "error": error}))
    return found


def _subtask(name: str, result: Mapping[str, Any], metric: TaskMetric, items: int, chance: float | None) -> Subtask | None:
    value = _number(result.get(f"{metric.name},{metric.filter}"))
    if value is None:
        return None
    error = _number(result.get(f"{metric.name}_stderr,{metric.filter}"))
    return Subtask(name=name, items=items, value=value, error=error, chance=chance)


def _chance(task: Any, samples: Sequence[dict[str, Any]]) -> tuple[float | None, int]:
    """What guessing scores, and how many items say so: one of the choices of each item; nothing where an answer has to be written."""
    kind = task.get_config("output_type") if hasattr(task, "get_config") else None
    if kind == "generate_until":
        return 0.0, len(samples)
    if kind != "multiple_choice" or not samples:
        return None, 0
    choices = [_choices(task, item["doc"]) for item in samples]
    if not all(choices):
        return None, 0
    return math.fsum(1 / count for count in choices) / len(choices), len(choices)


def _choices(task: Any, doc: Any) -> int:
    try:
        return len(task.doc_to_choice(doc))
    except Exception:  # a task's own code, in any way it may fail
        return 0


def _constant(tasks: Sequence[Any], samples: Sequence[dict[str, Any]]) -> float | None:
    """The best that one and the same choice scores, where all items have the same number of choices and the answer is one of them."""
    targets = [item.get("target") for item in samples]
    counts = {_choices(tasks[0], item["doc"]) for item in samples[:50]} if len(tasks) == 1 else set()
    kinds = {task.get_config("output_type") for task in tasks if hasattr(task, "get_config")}
    if kinds != {"multiple_choice"} or not all(isinstance(target, int) for target in targets) or not targets or len(counts) > 1:
        return None
    return max(Counter(targets).values()) / len(targets)


def _standard_error(values: Sequence[Any]) -> float | None:
    """Of the mean over items; None where an item has no number, or there are fewer than two."""
    numbers = [float(value) for value in values if isinstance(value, (bool, int, float))]
    if len(numbers) < max(2, len(values)):
        return None
    mean = math.fsum(numbers) / len(numbers)
    return math.sqrt(math.fsum((each - mean) ** 2 for each in numbers) / (len(numbers) - 1) / len(numbers))


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) else None
