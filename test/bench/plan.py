"""A plan beside a uniform one of the same size: the rise of the loss on text that neither has seen, and what the plan had predicted.

SmolLM2-135M-Instruct as `npm start` makes it, plain low rank, the planner's own exclusions. The profile is measured at four sizes on the
built-in calibration text; it is kept, and a second run of this benchmark adds nothing to it. Uniform: the same part of every layer that the
plan may compress, the smallest part that leaves at least as many parameters as the plan. Losses in nats per token, with the standard error
over sequences of the difference planned − uniform; the text of another domain is measured where BONDWISE_TEST_DATA names it.
"""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

from bondwise import mpo
from bondwise.checkpoint import open_checkpoint
from bondwise.evaluate import score
from bondwise.loading import load_model, load_tokenizer
from bondwise.modelmap import map_model, select
from bondwise.plan import Request, make_plan
from bondwise.queue import bondwise_home
from bondwise.replay import layer_module
from bondwise.text import token_sequences
from bondwise.truncations import Truncations

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from transformers import PreTrainedModel

    from bondwise.modelmap import Layer

MODEL = bondwise_home() / "demo" / "SmolLM2-135M-Instruct"
PROFILE = bondwise_home() / "bench" / "SmolLM2-135M-Instruct.sensitivity.json"
KEEPS = ["0.2", "0.4", "0.6", "0.8"]
TARGETS = ["95%", "90%", "80%"]
LENGTH, SEQUENCES = 512, 16

Ranks = dict[str, int]


def texts() -> dict[str, str]:
    """By name the held-out texts: files or `builtin`."""
    other = Path(os.environ.get("BONDWISE_TEST_DATA", "")) / "wikitext2" / "test.txt"
    return {"same_domain": "builtin"} | ({"other_domain": str(other)} if other.is_file() else {})


def profile() -> None:
    PROFILE.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "bondwise", "profile", str(MODEL), "--output", str(PROFILE)]
    subprocess.run([*command, *(part for keep in KEEPS for part in ("--keep", keep))], check=True, stdout=sys.stderr)


def uniform(layers: list[Layer], dense: int, parameters: int) -> Ranks:
    """The smallest equal part of every layer that leaves at least `parameters` of the model's `dense` ones."""

    def ranks(part: float) -> Ranks:
        return {
            layer.name: mpo.bond_dims_for_keep(*mpo.layer_modes(*layer.shape, "low-rank"), part, layer.weight_parameters)[0]
            for layer in layers
        }

    def total(chosen: Ranks) -> int:
        return dense - sum(layer.weight_parameters - chosen[layer.name] * sum(layer.shape) for layer in layers)

    steps = (ranks(step / 2000) for step in range(20, 2001))
    return next(chosen for chosen in steps if total(chosen) >= parameters)


def losses(model: PreTrainedModel, layers: Mapping[str, Layer], ranks: Ranks, ids: Tensor) -> list[float]:
    """The mean loss of each sequence with these layers truncated; nats per token."""
    before: dict[str, Tensor] = {}
    try:
        for name, rank in ranks.items():
            weight = cast("Tensor", layer_module(model, layers[name]).weight).data
            before[name] = weight.clone()
            weight.copy_(Truncations(weight, *mpo.layer_modes(*layers[name].shape, "low-rank"), [(rank,)]).weight((rank,)))
        return [float(score(model, row).losses.mean()) for row in ids]
    finally:
        for name, weight in before.items():
            cast("Tensor", layer_module(model, layers[name]).weight).data.copy_(weight)


def bench() -> list[dict[str, float | str | None]]:
    profile()
    source = open_checkpoint(MODEL)
    model, tokenizer = load_model(MODEL), load_tokenizer(MODEL)
    layers = {layer.name: layer for layer in map_model(source).layers}
    held_out = {name: token_sequences(tokenizer, data, "evaluation", length=LENGTH, sequences=SEQUENCES) for name, data in texts().items()}
    original = {name: losses(model, layers, {}, ids) for name, ids in held_out.items()}
    rows: list[dict[str, float | str | None]] = []
    for target in TARGETS:
        result, plan = make_plan(Request(MODEL, PROFILE, target), PROFILE.parent / "plan.bondwise.json")
        assert plan is not None
        planned = {rule.layers[0]: cast("int", rule.chi) for rule in plan.tensorize}
        excluded = {layer.name for layer in select(list(layers.values()), result.exclude)}
        free = [layer for layer in layers.values() if layer.name not in excluded and layer.block is not None]
        ways = {"planned": planned, "uniform": uniform(free, source.parameters, result.parameters)}
        for name, ids in held_out.items():
            found = {way: losses(model, layers, ranks, ids) for way, ranks in ways.items()}
            rises = {way: statistics.fmean(each) - statistics.fmean(original[name]) for way, each in found.items()}
            differences = [one - other for one, other in zip(found["planned"], found["uniform"], strict=True)]
            rows.append(
                {
                    "kept": target,
                    "text": name,
                    "original_perplexity": math.exp(statistics.fmean(original[name])),
                    "predicted": result.predicted.loss,
                    "predicted_error": result.predicted.loss_error,
                    **rises,
                    "planned_perplexity": math.exp(statistics.fmean(found["planned"])),
                    "uniform_perplexity": math.exp(statistics.fmean(found["uniform"])),
                    "difference": statistics.fmean(differences),
                    "difference_error": statistics.stdev(differences) / math.sqrt(len(differences)),
                }
            )
            print(f"plan {rows[-1]}", file=sys.stderr, flush=True)
    return rows
