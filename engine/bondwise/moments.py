"""What a calibration text says of one layer, as figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Half:
    """What the first half of the sequences alone says of a layer; with the whole it says what the other half does (`halves`)."""

    inputs: Tensor
    gradients: Tensor | None
    tokens: int
    """How many of them reached the layer."""
    share: float
    """Of all tokens of the text."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Of one layer, float32 on the model's device; ½ tr(G ΔW S ΔWᵀ) is in nats per token of the text.

    Layers that read the same tensor (q, k and v; gate and up) hold the same `inputs`.
    """

    inputs: Tensor
    """S = E[x xᵀ] [in, in], over the tokens that reached the layer."""
    gradients: Tensor | None
    """G = E[g gᵀ] [out, out], g the gradient at the layer's outputs of the summed loss of the sequence; None where none were asked for.

    Where not every token reaches the layer (an expert), still over all tokens, those others counting as zero.
    """
    tokens: int
    """How many reached the layer."""
    directions: Tensor | None = None
    """E[(Σ_t σ_i u_iᵀg_t v_iᵀx_t)²] per token of the text, [min(out, in)] float64, for the singular triples σ_i u_i v_iᵀ of the weight.

    The sum is over the tokens of a sequence; the order is that of `spectral.singular_directions`.
    """
    half: Half | None = None
    """None where there is one sequence only, or where no token of one of the halves reached the layer."""


def halves(moments: Moments) -> tuple[Moments, Moments] | None:
    """The moments of the first and of the other half of the sequences, which share no text; None where they are not known."""
    half = moments.half
    if half is None:
        return None
    part = half.tokens / moments.tokens
    inputs = (moments.inputs - part * half.inputs) / (1 - part)
    gradients = None
    if moments.gradients is not None and half.gradients is not None:
        gradients = (moments.gradients - half.share * half.gradients) / (1 - half.share)
    first = Moments(half.inputs, half.gradients, half.tokens)
    return first, Moments(inputs, gradients, moments.tokens - half.tokens)
