"""Moments of a short text drawn towards those of a longer one.

Thousands of tokens say little of the correlation of each two of a thousand channels, and a fit takes chance for structure. So of a moment M
with the diagonal D, M̂ = (1 − a) M + a D is used: scales of channels are well known, their correlations r_ij are shrunk. The amount with the
least expected squared error over all correlations is (J. Schäfer and K. Strimmer, A shrinkage approach to large-scale covariance matrix
estimation, Stat. Appl. Genet. Mol. Biol. 4, 2005, equation 10, after O. Ledoit and M. Wolf, J. Multivariate Anal. 88, 2004)

    a = Σ_{i≠j} Var(r_ij) / Σ_{i≠j} r_ij²

The variance is not that of independent tokens, which tokens of one text are not: it is taken from how far the two halves of the sequences
lie apart. Of a the part `PART` is taken: all correlations count alike in it, most of them are weak, and a fit keeps what is strong.
Measured on layers of SmolLM2-135M, fitted to 4,096 tokens of documentation at half their size and judged by 4,096 others: half of a loses
9% less than none, all of it 8% less; 3 parts in 10 for the gradients and 1 in 20 for the inputs of every layer 7% less.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from bondwise.moments import Moments

if TYPE_CHECKING:
    from torch import Tensor

PART = 0.5


def shrunk(moments: Moments) -> Moments:
    """The moments of a layer as its fits and predictions take them, without halves; as they are where there are no halves."""
    half = moments.half
    if half is None:
        return moments
    gradients = moments.gradients
    if gradients is not None and half.gradients is not None:
        gradients = drawn(gradients, amount(gradients, half.gradients, half.share))
    inputs = drawn(moments.inputs, amount(moments.inputs, half.inputs, half.tokens / moments.tokens))
    return Moments(inputs, gradients, moments.tokens, moments.directions)


def shrunk_half(moments: Moments) -> Moments | None:
    """Those of the first half of the sequences alone, as `shrunk` would give them for so much text; None where there are no halves."""
    half = moments.half
    if half is None:
        return None
    gradients = half.gradients
    if gradients is not None and moments.gradients is not None:
        gradients = drawn(gradients, amount_of_half(moments.gradients, gradients, half.share))
    inputs = drawn(half.inputs, amount_of_half(moments.inputs, half.inputs, half.tokens / moments.tokens))
    return Moments(inputs, gradients, half.tokens)


def amount(whole: Tensor, half: Tensor, share: float) -> float:
    """How much of the moment [size, size] of a text is to go, from 0 to 1, by that of a part of it, `share` of its tokens."""
    # Independent parts with variances v/share and v/(1 − share) differ by v/(share (1 − share)) in expected squares.
    return _part_of(share * (1 - share) * _apart(whole, half, share), whole)


def amount_of_half(whole: Tensor, half: Tensor, share: float) -> float:
    """The same for the moment of that part."""
    return _part_of((1 - share) * _apart(whole, half, share), half)


@torch.no_grad()
def drawn(moment: Tensor, by: float) -> Tensor:
    """M̂ [size, size] of a moment M of that shape, `by` the amount."""
    found = moment * (1 - by)
    found.diagonal().copy_(moment.diagonal())
    return found


# --- pure --------------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def _apart(whole: Tensor, half: Tensor, share: float) -> float:
    """The squared differences of the correlations in the two parts of a text, summed."""
    other = (whole - share * half) / (1 - share)
    return float((_correlations(half) - _correlations(other)).square().sum(dtype=torch.float64))


@torch.no_grad()
def _part_of(noise: float, moment: Tensor) -> float:
    squares = float(_correlations(moment).square().sum(dtype=torch.float64))
    return PART * min(noise / squares, 1.0) if squares > 0 else 0.0


def _correlations(moment: Tensor) -> Tensor:
    """[size, size], zero on the diagonal and for channels that never fire."""
    scales = moment.diagonal().clamp(min=0).sqrt()
    inverse = torch.where(scales > 0, 1 / scales, 0.0)
    found = moment * inverse[:, None] * inverse
    found.fill_diagonal_(0)
    return found
