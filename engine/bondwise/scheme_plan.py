"""One scheme a layer for the least predicted loss at a budget of bytes, bits or perplexity.

The tables of all layers are in one unit, so the Lagrangian sweep of `allocate` decides among schemes as it does among bond dimensions.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bondwise.allocate import Candidate, Problem, Target, choose, exchange, sweep
from bondwise.checkpoint import BITS
from bondwise.errors import UserError
from bondwise.plan import parse_target
from bondwise.predict import Point
from bondwise.schema import Budget

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bondwise.modelmap import Layer
    from bondwise.schema import ExchangePoint, Predicted, SchemeChoice

UNDERRATED = math.log(1.5)
"""ln of measured by predicted rise of the loss where many layers are quantized."""
SPREAD = math.log(1.5)
"""Standard deviation of that between models, budgets and texts."""


@dataclass(frozen=True)
class SchemeCandidate(Candidate):
    """A layer and its schemes: those that no other of at most their size beats, from the largest to the smallest."""

    choices: tuple[SchemeChoice, ...] = ()

    def saved(self, point: int | None, unit: Literal["parameters", "bytes"] = "parameters") -> float:
        """Bytes of the dense weight; a scheme stores as many parameters as it had."""
        return 0 if point is None else self.layer.weight_parameters * BITS[self.layer.dtype] / 8 - self.choices[point].bytes


@dataclass(frozen=True)
class SchemePlan:
    """What the planner chose; layers that are not in `chosen` stay as they are."""

    chosen: Mapping[str, SchemeChoice]
    larger: Mapping[str, SchemeChoice]
    """Of each layer the next larger way that the plan could have taken, where there is one."""
    smaller: Mapping[str, SchemeChoice]
    predicted: Predicted
    exchange: list[ExchangePoint]


def plan_schemes(
    layers: Sequence[Layer],
    tables: Mapping[str, Sequence[SchemeChoice]],
    target: str,
    *,
    model_bytes: int,
    model_parameters: int,
    baseline: float | None,
) -> SchemePlan:
    """The schemes of `layers` for `target`: `3.5bits` a number of these layers, `60MB` of the whole model, or `perplexity<30`.

    `baseline` is the original model's mean loss, nats per token. Raises UserError for a target that is none or cannot be reached.
    """
    candidates = tuple(_candidate(layer, tables[layer.name]) for layer in layers)
    numbers = sum(layer.weight_parameters for layer in layers)
    dense = sum(layer.weight_parameters * BITS[layer.dtype] // 8 for layer in layers)
    wanted = parse_scheme_target(target, numbers=numbers, elsewhere=model_bytes - dense)
    problem = Problem(parameters=model_parameters, bytes=model_bytes, baseline=baseline, candidates=candidates)
    steps = sweep(problem)
    smallest = model_bytes - dense + sum(candidate.choices[-1].bytes for candidate in candidates)
    if wanted.unit == "bytes" and smallest > wanted.limit:
        bits = 8 * (smallest - (model_bytes - dense)) / numbers
        raise UserError(
            f"{target} cannot be reached: the smallest possible is {smallest / 1e6:,.1f} MB, {bits:.2f} bits a number of these layers.",
            f"Aim at {math.ceil(100 * bits) / 100:g}bits or more, or let more layers be quantized.",
        )
    state = choose(problem, steps, wanted, Budget(profile="", target=target))
    chosen = {one.layer.name: one.choices[at] for one, at in zip(candidates, state, strict=True) if at is not None}
    larger = {one.layer.name: one.choices[at - 1] for one, at in zip(candidates, state, strict=True) if at}
    smaller = {
        one.layer.name: one.choices[at + 1]
        for one, at in zip(candidates, state, strict=True)
        if at is not None and at + 1 < len(one.choices)
    }
    return SchemePlan(chosen, larger, smaller, problem.predict(state), exchange(problem, steps))


def parse_scheme_target(text: str, *, numbers: int, elsewhere: int) -> Target:
    """`3.5bits` for each of so many numbers beside `elsewhere` bytes, `60MB`, or `perplexity<30`. Raises UserError for anything else."""
    typed = text.strip().lower().replace(" ", "")
    if (match := re.fullmatch(r"(\d+\.?\d*|\.\d+)bits?", typed)) is not None and 0 < float(match[1]) <= 16:
        return Target("bytes", elsewhere + float(match[1]) * numbers / 8)
    try:
        found = parse_target(text, 1)
    except UserError:
        found = Target("parameters", 0)
    if found.unit == "parameters":
        raise UserError(
            f"{text!r} is not a target.",
            "Give bits for a number of the layers (3.5bits), a size on disk (60MB), or a perplexity (perplexity<30).",
        )
    return found


def _candidate(layer: Layer, table: Sequence[SchemeChoice]) -> SchemeCandidate:
    dense = layer.weight_parameters * BITS[layer.dtype] // 8
    best: list[SchemeChoice] = []
    for choice in sorted(table, key=lambda choice: (choice.bytes, choice.loss)):
        if choice.bytes < dense and (not best or choice.loss < best[-1].loss) and (not best or choice.bytes > best[-1].bytes):
            best.append(choice)
    choices = tuple(reversed(best))
    points = tuple(Point(0, layer.weight_parameters, choice.loss * math.exp(UNDERRATED), 0.5, SPREAD) for choice in choices)
    return SchemeCandidate(layer, points, choices=choices)
