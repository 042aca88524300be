"""The sizes of all layers with the least predicted loss at a budget.

The predicted losses of the layers add up, so each layer's points (parameters saved, loss) matter only by their lower convex hull, and the
best plan at every budget comes from taking the steps of all hulls in the order of their slope: the Lagrangian sweep of rate-distortion
theory (Y. Shoham and A. Gersho, Efficient bit allocation for an arbitrary set of quantizers, IEEE Trans. ASSP 36 (1988)). The same sweep
is the exchange curve.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple

from bondwise.checkpoint import BITS
from bondwise.errors import UserError
from bondwise.schema import ExchangePoint, Predicted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bondwise.modelmap import Layer
    from bondwise.predict import Point
    from bondwise.schema import Budget, Sites

EXCHANGE_POINTS = 64
ADDITIVITY = 0.1
"""Standard deviation of the loss of layers compressed together about the sum of what each costs alone, as a part of that. On SmolLM2-135M
their ratio was 0.87 to 1.22 (deviation 0.09) over 20 sets of 3 to 24 layers whose losses add up to 0.007 to 1.8 nats a token; beyond that
nothing is known."""


@dataclass(frozen=True)
class Target:
    """What is aimed at: at most so many parameters or bytes of the whole model, or a perplexity to stay below."""

    unit: Literal["parameters", "bytes", "perplexity"]
    limit: float


class Step(NamedTuple):
    """From one corner of a layer's hull to the next, smaller and worse one. `point` is an index into the layer's points."""

    slope: float
    layer: int
    point: int


@dataclass(frozen=True)
class Candidate:
    """A layer that may become smaller: its points within floor and ceiling, from the largest to the smallest."""

    layer: Layer
    points: tuple[Point, ...]
    sites: Sites = "low-rank"

    def saved(self, point: int | None, unit: Literal["parameters", "bytes"] = "parameters") -> float:
        """Of the dense weight, by the point of that index; 0 while dense."""
        if point is None:
            return 0
        parameters = self.layer.weight_parameters - self.points[point].parameters
        return parameters if unit == "parameters" else parameters * BITS[self.layer.dtype] / 8 - 4 * self._orders(self.points[point].chi)

    def _orders(self, chi: int) -> int:
        if self.sites == "low-rank":
            return self.layer.shape[0]
        from bondwise import mpo

        out_features, in_features = self.layer.shape
        modes = mpo.layer_modes(out_features, in_features, self.sites)
        return mpo.order_count(*modes, mpo.bond_dims_for_chi(*modes, chi))


@dataclass(frozen=True)
class Problem:
    """All that the sizes are chosen from."""

    parameters: int
    bytes: int
    baseline: float | None
    candidates: tuple[Candidate, ...]

    def predict(self, state: Sequence[int | None]) -> Predicted:
        """What the model becomes when candidate i takes the point `state[i]`, or stays dense at None."""
        saved = sum(candidate.saved(point) for candidate, point in zip(self.candidates, state, strict=True))
        saved_bytes = sum(candidate.saved(point, "bytes") for candidate, point in zip(self.candidates, state, strict=True))
        taken = [candidate.points[point] for candidate, point in zip(self.candidates, state, strict=True) if point is not None]
        loss = math.fsum(point.loss for point in taken)
        own = math.sqrt(math.fsum((point.loss * point.own) ** 2 for point in taken))
        error = math.hypot(own, math.fsum(point.loss * point.common for point in taken), ADDITIVITY * loss)
        known = self.baseline is not None
        base = self.baseline or 0.0
        return Predicted(
            parameters=self.parameters - round(saved),
            bytes=self.bytes - round(saved_bytes),
            loss=loss,
            loss_error=error,
            perplexity=_exp(base + loss) if known else None,
            perplexity_low=_exp(base + max(loss - error, 0.0)) if known else None,
            perplexity_high=_exp(base + loss + error) if known else None,
        )


def sweep(problem: Problem) -> list[Step]:
    """The steps of all hulls by slope: what each costs in loss for a parameter saved. Those of one layer come in their order."""
    steps: list[Step] = []
    for index, candidate in enumerate(problem.candidates):
        hull: list[tuple[float, float, int]] = [(0.0, 0.0, -1)]  # saved, loss, point
        for number, point in enumerate(candidate.points):
            corner = (candidate.saved(number), point.loss, number)
            while len(hull) > 1 and _slope(hull[-2], corner) <= _slope(hull[-2], hull[-1]):
                hull.pop()
            hull.append(corner)
        steps += [Step(_slope(before, after), index, after[2]) for before, after in pairwise(hull)]
    return sorted(steps)


def _slope(before: tuple[float, float, int], after: tuple[float, float, int]) -> float:
    return (after[1] - before[1]) / (after[0] - before[0])


def choose(problem: Problem, steps: Sequence[Step], target: Target, budget: Budget) -> list[int | None]:
    """The state where the sweep meets the target; of the layer stepped last, the mildest point that still does (or the boldest, below a
    perplexity). Raises UserError where no state does."""
    state: list[int | None] = [None] * len(problem.candidates)
    if target.unit == "perplexity":
        return _choose_by_perplexity(problem, steps, target.limit, state)
    unit = target.unit
    needed = (problem.parameters if unit == "parameters" else problem.bytes) - target.limit
    saved = 0.0
    for step in steps:
        if saved >= needed:
            break
        candidate = problem.candidates[step.layer]
        others = saved - candidate.saved(state[step.layer], unit)
        saved = others + candidate.saved(step.point, unit)
        state[step.layer] = step.point
        if saved >= needed:
            # The points go from the largest to the smallest: the first that saves enough is the mildest.
            state[step.layer] = next(number for number in range(step.point + 1) if others + candidate.saved(number, unit) >= needed)
            break
    else:
        if saved < needed:
            raise _out_of_reach(problem, target, state, budget)
    return state


def _choose_by_perplexity(problem: Problem, steps: Sequence[Step], limit: float, state: list[int | None]) -> list[int | None]:
    if problem.baseline is None:
        raise UserError(
            "The profile does not say what perplexity the original model has, so none can be aimed at.",
            "Give a size (60% or 2GB), or measure: profile MODEL --measured --metric perplexity.",
        )
    room = math.log(limit) - problem.baseline
    if room <= 0:
        raise UserError(
            f"A perplexity below {limit:g} cannot be reached: the original model has {_exp(problem.baseline):.4g} on the profile's text.",
            f"Give a perplexity above {_exp(problem.baseline):.4g}.",
        )
    loss = 0.0
    for step in steps:
        points, now = problem.candidates[step.layer].points, state[step.layer]
        others = loss - (points[now].loss if now is not None else 0.0)
        if others + points[step.point].loss >= room:
            bolder = [
                number for number in range(step.point) if others + points[number].loss < room and number > (-1 if now is None else now)
            ]
            state[step.layer] = bolder[-1] if bolder else now
            break
        loss, state[step.layer] = others + points[step.point].loss, step.point
    return state


def exchange(problem: Problem, steps: Sequence[Step]) -> list[ExchangePoint]:
    """About `EXCHANGE_POINTS` states of the sweep, evenly spaced in parameters, the dense model and the smallest one among them."""
    candidates = problem.candidates
    state: list[int | None] = [None] * len(candidates)
    total = sum(candidate.saved(len(candidate.points) - 1) for candidate in candidates)
    spacing = total / (EXCHANGE_POINTS - 1)
    found, saved, due = [problem.predict(state)], 0.0, spacing
    for number, step in enumerate(steps, start=1):
        saved += candidates[step.layer].saved(step.point) - candidates[step.layer].saved(state[step.layer])
        state[step.layer] = step.point
        if saved >= due or number == len(steps):
            found.append(problem.predict(state))
            due = saved + spacing
    return [
        ExchangePoint(parameters=each.parameters, bytes=each.bytes, loss=each.loss, loss_error=each.loss_error, perplexity=each.perplexity)
        for each in found
    ]


def _out_of_reach(problem: Problem, target: Target, state: Sequence[int | None], budget: Budget) -> UserError:
    """Why a size cannot be met: `state` is the smallest that can."""
    smallest = problem.predict(state)
    share = smallest.parameters / problem.parameters
    wanted = f"{target.limit:,.0f} parameters" if target.unit == "parameters" else f"{target.limit / 1e6:,.1f} MB"
    held = sum(candidate.points[-1].parameters for candidate in problem.candidates)
    return UserError(
        f"{budget.target} cannot be reached: that is {wanted}, and the smallest possible is {smallest.parameters:,} parameters "
        f"({share:.1%} of the model, {smallest.bytes / 1e6:,.1f} MB).",
        f"Aim at {math.ceil(share * 1000) / 10:g}% or more, lower the floor of {budget.floor:.0%} ({len(problem.candidates)} layers keep "
        f"{held:,} parameters at it), or exclude less ({', '.join(budget.exclude) or 'nothing is excluded'}).",
    )


def _exp(nats: float) -> float:
    return math.exp(min(nats, 700.0))
