"""How long a healing goes on and how fast it learns: fixed before the first step, so that a resumed run follows the same curve."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from bondwise.errors import UserError
from bondwise.schema import HealPlan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bondwise.schema import HealOptions

WINDOW = 10
"""Steps over which the loss is averaged to see whether it runs away."""
RUNAWAY = 2.0
"""Rise of that mean above its lowest, nats per token, that is no noise."""
EVENTS = 300
"""Told steps by the time that the run has gone on for, whatever that is: the pause between two is its part of it, and a second at least."""


VALIDATING = 0.1
"""Largest part of a budget in minutes that goes into validations, unless one alone takes more."""


class Timing(NamedTuple):
    """Seconds."""

    step: float
    validation: float


def make_plan(options: HealOptions, *, timing: Timing | None, epoch: int | None, trained: int, parameters: int) -> HealPlan:
    """`timing` is needed for a budget in minutes, `epoch` (sequences in one) for one in epochs; the counts are of parameters.

    Raises UserError where the budget does not suffice for one step, or the data has no known end.
    """
    tokens_per_step, validations = options.batch * options.length, options.validations
    if options.minutes is not None and timing is not None:
        validations = max(min(validations, math.floor(VALIDATING * 60 * options.minutes / timing.validation)), 1)
        seconds = 60 * options.minutes - validations * timing.validation
        steps = max(seconds / timing.step, 0)
        if steps < 1:
            raise UserError(
                f"{options.minutes:g} minutes are too short: a step of {options.batch} sequences takes {timing.step:.1f} s, a validation "
                f"{timing.validation:.1f} s.",
                "Give more minutes, or make them shorter: --batch, --length, --validations.",
            )
    elif options.tokens is not None:
        steps = math.ceil(options.tokens / tokens_per_step)
    elif epoch is not None and options.epochs is not None:
        steps = max(math.ceil(options.epochs * epoch / options.batch), 1)
    else:
        raise UserError("How long an epoch is cannot be told: the data is read as a stream.", "Give --tokens or --minutes instead.")
    steps = math.floor(steps)
    return HealPlan(
        steps=steps,
        warmup_steps=math.ceil(options.warmup * steps),
        validate_every=max(math.ceil(steps / validations), 1),
        tokens_per_step=tokens_per_step,
        trained=trained,
        parameters=parameters,
        seconds_per_step=None if timing is None else timing.step,
    )


def learning_rate(step: int, plan: HealPlan, peak: float) -> float:
    """Of the step behind `step` finished ones: up to `peak` in a straight line, then down to nearly 0 along half a cosine."""
    if step < plan.warmup_steps:
        return peak * (step + 1) / plan.warmup_steps
    done = (step - plan.warmup_steps) / max(plan.steps - plan.warmup_steps, 1)
    return peak * 0.5 * (1 + math.cos(math.pi * done))


def runs_away(losses: Sequence[float], lowest: float) -> bool:
    """Whether the mean of the last `WINDOW` losses is too far above the lowest such mean so far."""
    return len(losses) >= WINDOW and sum(losses) / len(losses) > lowest + RUNAWAY


def pause(elapsed: float) -> float:
    """Seconds until the next step is told, `elapsed` seconds after the first: the journal of a long run grows with their logarithm."""
    return max(1.0, elapsed / EVENTS)
