"""A task of the LM Evaluation Harness as a metric: the whole model, original or with one layer's weight replaced, item by item.

The package is not part of the engine's environment; it is imported when a task is asked for.
"""

from __future__ import annotations

import difflib
import importlib
import math
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

from bondwise.errors import UserError
from bondwise.replay import replaced_weight

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bondwise.modelmap import Layer

TASK = "task:"
"""Begins the metric that is a task."""
PREFERRED = ("acc_norm", "acc", "exact_match")
"""The metric of a task that counts, where it has several; else the first that its items have."""


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


class Harness:
    """One task on one model."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, limit: int, seed: int) -> None:
        """Raises UserError where the package is not installed or has no such task."""
        try:
            self._library: Any = importlib.import_module("lm_eval")
            models: Any = importlib.import_module("lm_eval.models.huggingface")
            tasks: Any = importlib.import_module("lm_eval.tasks")
        except ImportError as failure:
            raise UserError(
                f"{TASK}{name} needs the LM Evaluation Harness, and {failure.name or 'it'} is not installed.",
                "Install `lm-eval` into the engine's environment, or choose perplexity, kl or agreement.",
            ) from None
        self.name = name
        self._model = model
        self._limit = limit
        self._seed = seed
        self._tasks = tasks.TaskManager()
        if name not in (known := list(self._tasks.all_tasks)):
            near = difflib.get_close_matches(name, known, n=3) or known[:3]
            raise UserError(f"The LM Evaluation Harness has no task {name!r}.", f"Names are like {', '.join(near)}.")
        self._wrapped = models.HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1)

    def score(self, layer: Layer | None = None, weight: Tensor | None = None) -> TaskScore:
        """Of the original, or of the model with `weight` [out, in] in the place of the layer's.

        Raises UserError where the task cannot be done: its data set cannot be reached, or it gives no number an item.
        """
        changed = nullcontext() if layer is None or weight is None else replaced_weight(self._model, layer, weight)
        try:
            with changed:
                found: Any = self._library.simple_evaluate(
                    model=self._wrapped,
                    tasks=[self.name],
                    limit=self._limit,
                    task_manager=self._tasks,
                    log_samples=True,
                    bootstrap_iters=0,
                    random_seed=self._seed,
                    numpy_random_seed=self._seed,
                    torch_random_seed=self._seed,
                    fewshot_random_seed=self._seed,
                )
        except Exception as failure:
            raise UserError(
                f"The task {self.name} could not be done: {type(failure).__name__}: {failure}",
                "Check that its data set can be reached, or choose another task.",
            ) from failure
        # A group of tasks has the items of all of its tasks.
        samples = [item for task in sorted(found["samples"]) for item in sorted(found["samples"][task], key=lambda item: item["doc_id"])]
        offered = [*PREFERRED, *(name for item in samples[:1] for name in item.get("metrics", ()))]
        metric = next((name for name in offered if all(name in item for item in samples)), None)
        values = [item.get(metric) for item in samples]
        if not values or not all(isinstance(value, (bool, int, float)) for value in values):
            raise UserError(f"The task {self.name} gives no number for each item.", "Choose a multiple-choice or exact-match task.")
        return TaskScore([float(value) for value in values])
