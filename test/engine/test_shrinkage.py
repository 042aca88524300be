"""Shrunk moments against the truth that their vectors were drawn from."""

from __future__ import annotations

from statistics import mean

import pytest
import torch
from torch import Tensor

from bondwise import mpo
from bondwise.moments import Half, Moments
from bondwise.shrinkage import PART, amount, amount_of_half, drawn, shrunk, shrunk_half
from bondwise.weighted import decompose_weighted, predicted_loss

SIZE = 32


def mixing(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    spread = torch.diag(torch.logspace(0.5, -1.0, SIZE, dtype=torch.float64))
    return torch.diag(torch.logspace(-1.5, 1.5, SIZE, dtype=torch.float64)) @ (
        torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64) @ spread
    )


MIXING = mixing(1)
TRUTH = MIXING @ MIXING.mT


def vectors(tokens: int, seed: int, repeated: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn_ones = torch.randn(tokens // repeated, SIZE, generator=generator, dtype=torch.float64) @ MIXING.mT
    return drawn_ones.repeat_interleave(repeated, 0)


def second(rows: Tensor) -> Tensor:
    return rows.mT @ rows / len(rows)


def correlations(moment: Tensor) -> Tensor:
    scales = moment.diagonal().rsqrt()
    return moment * scales[:, None] * scales


def correlation_error(moment: Tensor) -> float:
    return float((correlations(moment) - correlations(TRUTH)).square().sum())


def amounts(tokens: int, repeated: int = 1, part: float = 0.5) -> list[float]:
    found: list[float] = []
    for seed in range(30):
        rows = vectors(tokens, seed, repeated)
        found.append(amount(second(rows), second(rows[: int(part * tokens)]), part))
    return found


@pytest.mark.parametrize("part", [0.5, 0.25])
@pytest.mark.parametrize("tokens", [40, 160, 640])
def test_the_amount_is_a_part_of_what_brings_correlations_nearest(tokens: int, part: float) -> None:
    grid = [step / 50 for step in range(51)]
    errors = [mean(correlation_error(drawn(second(vectors(tokens, seed)), by)) for seed in range(30)) for by in grid]
    best = grid[errors.index(min(errors))]
    assert mean(amounts(tokens, part=part)) == pytest.approx(PART * best, rel=0.25, abs=0.02)


def test_tokens_that_repeat_count_once() -> None:
    assert mean(amounts(320, repeated=8)) == pytest.approx(mean(amounts(40)), rel=0.2)


def test_independent_channels_and_one_direction() -> None:
    noise = torch.randn(200, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert amount(second(noise), second(noise[:100]), 0.5) > 0.7 * PART
    line = torch.randn(200, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.arange(1.0, SIZE + 1)
    assert amount(second(line), second(line[:100]), 0.5) < 0.05
    assert amount(torch.zeros(4, 4), torch.zeros(4, 4), 0.5) == 0


def test_channels_may_have_any_scale_and_none_may_fire() -> None:
    rows = vectors(80, 0)
    scaled = rows * torch.logspace(-6, 6, SIZE, dtype=torch.float64)
    plain, changed = (amount(second(each), second(each[:40]), 0.5) for each in (rows, scaled))
    assert changed == pytest.approx(plain, rel=1e-6)
    rows[:, 3] = 0
    moment = second(rows)
    assert 0 < amount(moment, second(rows[:40]), 0.5) < 1
    assert float(drawn(moment, 0.5)[3].abs().sum()) == 0


def test_the_amount_of_the_half_is_that_of_so_short_a_text() -> None:
    found: list[float] = []
    for seed in range(30):
        rows = vectors(320, seed)
        found.append(amount_of_half(second(rows), second(rows[:160]), 0.5))
    assert mean(found) == pytest.approx(mean(amounts(160)), rel=0.15)


def of_layer(tokens: int, seed: int) -> Moments:
    inputs, gradients = vectors(tokens, seed), vectors(tokens, seed + 1000)
    first = slice(tokens // 2)
    half = Half(second(inputs[first]), second(gradients[first]), tokens // 2, 0.5)
    return Moments(second(inputs), second(gradients), tokens, half=half)


def test_a_layer_loses_less_on_other_text() -> None:
    weight = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    losses: list[tuple[float, float]] = []
    for seed in range(20):
        moments = of_layer(40, seed)
        lost: list[float] = []
        for used in (moments, shrunk(moments)):
            made = decompose_weighted(weight, used.inputs, used.gradients, chi=8)
            lost.append(predicted_loss(weight - mpo.contract(made.cores), TRUTH, TRUTH))
        losses.append((lost[0], lost[1]))
    assert mean(after for _, after in losses) < 0.9 * mean(before for before, _ in losses)


def test_of_a_layer_both_moments_are_shrunk_and_the_rest_stays() -> None:
    moments = of_layer(80, 0)
    half = moments.half
    assert half is not None and half.gradients is not None and moments.gradients is not None
    found, of_half = shrunk(moments), shrunk_half(moments)
    assert of_half is not None and of_half.gradients is not None
    torch.testing.assert_close(found.gradients, drawn(moments.gradients, amount(moments.gradients, half.gradients, 0.5)))
    torch.testing.assert_close(found.inputs, drawn(moments.inputs, amount(moments.inputs, half.inputs, 0.5)))
    torch.testing.assert_close(of_half.inputs, drawn(half.inputs, amount_of_half(moments.inputs, half.inputs, 0.5)))
    torch.testing.assert_close(found.inputs.diagonal(), moments.inputs.diagonal())
    assert (found.tokens, of_half.tokens, found.half) == (80, 40, None)
    one = Moments(moments.inputs, None, 80)
    assert shrunk(one) is one and shrunk_half(one) is None
