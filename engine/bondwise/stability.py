"""How far what was learned of a calibration text holds on other text like it, from the text's two halves."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from bondwise.moments import Moments

LARGEST_SIDE = 2048
"""Of the shorter side of a layer, for which one more decomposition is worth its time."""
TOO_MUCH = 2.0
"""Times what is lost on the calibration text: a layer above this is said to need more of it,"""
SLIGHT = 1e-3
"""unless what other text loses more is below this, nats per token."""


def held_out(weight: Tensor, made: Tensor, moments: Moments, solve: Callable[[Moments], Tensor]) -> float | None:
    """What `made`, which `solve` gave for `moments`, loses on text that was not part of them, as a multiple of what it loses on theirs.

    `weight` and `made` are [out, in]. Let l_A(W) be the loss of W under the first half's moments, l_B under the other's, and W_A = `solve`
    of the first half: then 1 + ½ (l_B(W_A) / l_B(made) − l_A(W_A) / l_A(made)). A fit to N tokens loses c/N less on them than in truth,
    and about c/N more on others (as in Akaike's criterion); so what half the text shows, 4c/N between its own and the other half, is
    twice what is asked. Each ratio has one half's moments above and below, so that a half which is harder as a whole changes nothing.

    The loss is ½ tr(G ΔW S ΔWᵀ), G the unit matrix where the moments have none. Never below 1; None where there are no halves, where
    nothing is lost, and above `LARGEST_SIDE`.
    """
    from bondwise.moments import halves
    from bondwise.shrinkage import shrunk_half

    both = halves(moments) if min(weight.shape) <= LARGEST_SIDE else None
    fitted = None if both is None else shrunk_half(moments)
    if both is None or fitted is None:
        return None
    change, half_change = weight.float() - made.float(), weight.float() - solve(fitted).float()
    losses = [(_loss(half_change, half), _loss(change, half)) for half in both]
    if min(loss for pair in losses for loss in pair) <= 0:
        return None
    own, other = (of_half / of_whole for of_half, of_whole in losses)
    return max(1.0, 1 + (other - own) / 2)


def needs_more_text(ratio: float | None, loss: float | None) -> bool:
    """Whether a layer with this `held_out` needs more text. `loss` is what it loses on the calibration text, nats per token, if known."""
    return ratio is not None and ratio > TOO_MUCH and (loss is None or loss * (ratio - 1) > SLIGHT)


def stability_text(ratios: Iterable[float | None]) -> str | None:
    """In a sentence, over the `held_out` of all layers; None where none has it."""
    found = sorted(ratio for ratio in ratios if ratio is not None)
    if not found:
        return None
    return (
        "On text like the calibration text but not part of it, a layer loses about "
        f"{statistics.median(found):.1f} times what it loses there (from {found[0]:.1f} to {found[-1]:.1f})."
    )


def _loss(change: Tensor, moments: Moments) -> float:
    """Twice the loss, in float32: enough for a ratio, at half the time."""
    by_output = change if moments.gradients is None else moments.gradients.to(change) @ change
    return float((by_output * (change @ moments.inputs.to(change))).sum())
