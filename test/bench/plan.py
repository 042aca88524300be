"""A plan beside a uniform one of the same size: the rise of the loss on text that neither has seen, and what the plan had predicted.

SmolLM2-135M-Instruct as `npm start` makes it, low rank, the planner's own exclusions. The profile is measured at four sizes on the built-in
calibration text; it is kept, and a second run of this benchmark adds nothing to it. Uniform: the same part of every layer that the plan may
compress, the smallest part that leaves at least as many parameters as the plan. Losses in nats per token; `uniform_worse` is that of the
uniform plan less that of the planned one, with its standard error over sequences. The text of another domain is measured where
BONDWISE_TEST_DATA names it.
"""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from bondwise import mpo
from bondwise.calibrate import collect_moments
from bondwise.checkpoint import open_checkpoint
from bondwise.evaluate import score
from bondwise.loading import load_model, load_tokenizer
from bondwise.modelmap import map_model, select
from bondwise.plan import Request, make_plan
from bondwise.queue import bondwise_home
from bondwise.replay import layer_module
from bondwise.text import token_sequences
from bondwise.weighted import decompose_weighted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    from bondwise.modelmap import Layer
    from bondwise.moments import Moments
    from bondwise.schema import Method

MODEL = bondwise_home() / "demo" / "SmolLM2-135M-Instruct"
PROFILE = bondwise_home() / "bench" / "SmolLM2-135M-Instruct.sensitivity.json"
KEEPS = ["0.2", "0.4", "0.6", "0.8"]
PROFILE_LENGTH = 256
METHODS: tuple[Method, ...] = ("plain", "fisher")
TARGETS = ["95%", "90%", "80%"]
LENGTH, SEQUENCES, CALIBRATION = 512, 16, 8

Ranks = dict[str, int]


@dataclass(frozen=True)
class Bench:
    model: PreTrainedModel
    layers: dict[str, Layer]
    moments: dict[str, Moments]

    def losses(self, ranks: Ranks, method: Method, ids: Tensor) -> list[float]:
        """The mean loss of each sequence with these layers truncated; nats per token."""
        before: dict[str, Tensor] = {}
        try:
            for name, rank in ranks.items():
                weight = self._weight(name)
                before[name] = weight.clone()
                weight.copy_(mpo.contract(self._decompose(name, weight, rank, method).cores))
            return [float(score(self.model, row).losses.mean()) for row in ids]
        finally:
            for name, weight in before.items():
                self._weight(name).copy_(weight)

    def _weight(self, name: str) -> Tensor:
        return cast("Tensor", layer_module(self.model, self.layers[name]).weight).data

    def _decompose(self, name: str, weight: Tensor, rank: int, method: Method) -> mpo.MPO:
        if method == "plain":
            return mpo.decompose(weight, *mpo.layer_modes(*self.layers[name].shape, "low-rank"), chi=rank)
        return decompose_weighted(weight, self.moments[name].inputs, self.moments[name].gradients, chi=rank)


def texts() -> dict[str, str]:
    """By name the held-out texts: files or `builtin`."""
    other = Path(os.environ.get("BONDWISE_TEST_DATA", "")) / "wikitext2" / "test.txt"
    return {"same domain": "builtin"} | ({"other domain": str(other)} if other.is_file() else {})


def profile() -> None:
    PROFILE.parent.mkdir(parents=True, exist_ok=True)
    options = ["--output", str(PROFILE), "--length", str(PROFILE_LENGTH), "--keep", *KEEPS]
    subprocess.run([sys.executable, "-m", "bondwise", "profile", str(MODEL), *options], check=True, stdout=sys.stderr)


def uniform(layers: Sequence[Layer], dense: int, parameters: int) -> Ranks:
    """The smallest equal part of every layer that leaves at least `parameters` of the model's `dense` ones."""

    def rank(layer: Layer, part: float) -> int:
        return mpo.bond_dims_for_keep(*mpo.layer_modes(*layer.shape, "low-rank"), part, layer.weight_parameters)[0]

    def total(chosen: Ranks) -> int:
        return dense - sum(layer.weight_parameters - chosen[layer.name] * sum(layer.shape) for layer in layers)

    choices = ({layer.name: rank(layer, step / 2000) for layer in layers} for step in range(20, 2001))
    return next(chosen for chosen in choices if total(chosen) >= parameters)


def nothing(*_: float) -> None: ...


def bench() -> list[dict[str, float | str | None]]:
    profile()
    source = open_checkpoint(MODEL)
    model, tokenizer = load_model(MODEL), load_tokenizer(MODEL)
    layers = {layer.name: layer for layer in map_model(source).layers}
    text = token_sequences(tokenizer, "builtin", "calibration", length=LENGTH, sequences=CALIBRATION)
    made = Bench(model, layers, collect_moments(model, list(layers.values()), text, seed=0, progress=nothing, check_cancelled=nothing))
    held_out = {name: token_sequences(tokenizer, data, "evaluation", length=LENGTH, sequences=SEQUENCES) for name, data in texts().items()}
    original = {name: made.losses({}, "plain", ids) for name, ids in held_out.items()}
    rows: list[dict[str, float | str | None]] = []
    for target in TARGETS:
        for method in METHODS:
            result, plan = make_plan(Request(MODEL, PROFILE, target, method=method), PROFILE.parent / "plan.bondwise.json")
            assert plan is not None
            planned = {rule.layers[0]: cast("int", rule.chi) for rule in plan.tensorize}
            excluded = {layer.name for layer in select(list(layers.values()), result.exclude)}
            even = uniform([layer for layer in layers.values() if layer.name not in excluded], source.parameters, result.parameters)
            for name, ids in held_out.items():
                ours, theirs = made.losses(planned, method, ids), made.losses(even, method, ids)
                before, differences = statistics.fmean(original[name]), [b - a for a, b in zip(ours, theirs, strict=True)]
                rows.append(
                    {
                        "kept": target,
                        "method": method,
                        "text": name,
                        "original_perplexity": math.exp(before),
                        "planned_perplexity": math.exp(statistics.fmean(ours)),
                        "uniform_perplexity": math.exp(statistics.fmean(theirs)),
                        "predicted_rise": result.predicted.loss,
                        "predicted_error": result.predicted.loss_error,
                        "planned_rise": statistics.fmean(ours) - before,
                        "uniform_worse": statistics.fmean(differences),
                        "uniform_worse_error": statistics.stdev(differences) / math.sqrt(len(differences)),
                    }
                )
                print(f"plan {rows[-1]}", file=sys.stderr, flush=True)
    return rows
