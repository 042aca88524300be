"""How far a fit holds on other text, against text that was really drawn anew."""

from __future__ import annotations

from statistics import mean
from typing import TYPE_CHECKING

import pytest
import torch

from bondwise import mpo, stability
from bondwise.moments import Half, Moments, halves
from bondwise.stability import held_out, needs_more_text, stability_text
from bondwise.weighted import decompose_weighted, predicted_loss

if TYPE_CHECKING:
    from torch import Tensor

OUT, IN, CHI = 24, 32, 8


def mixing(size: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, size, generator=generator) @ torch.diag(torch.logspace(0.5, -1.5, size))


def drawn(tokens: int, seed: int, harder: float = 1.0) -> Moments:
    """Of so many tokens; those of the second half are `harder` times as large."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.ones(tokens, 1)
    scale[tokens // 2 :] = harder
    inputs = scale * torch.randn(tokens, IN, generator=generator) @ mixing(IN, 1).mT
    gradients = scale * torch.randn(tokens, OUT, generator=generator) @ mixing(OUT, 2).mT
    first = slice(tokens // 2)
    half = Half(inputs[first].mT @ inputs[first] / (tokens // 2), gradients[first].mT @ gradients[first] / (tokens // 2), tokens // 2, 0.5)
    return Moments(inputs.mT @ inputs / tokens, gradients.mT @ gradients / tokens, tokens, half=half)


def solve(weight: Tensor, moments: Moments, chi: int = CHI) -> Tensor:
    return mpo.contract(decompose_weighted(weight, moments.inputs, moments.gradients, chi=chi).cores)[:OUT, :IN]


def weight_of(seed: int = 3) -> Tensor:
    return torch.randn(OUT, IN, generator=torch.Generator().manual_seed(seed))


def estimated(moments: Moments, chi: int = CHI) -> float | None:
    weight = weight_of()
    return held_out(weight, solve(weight, moments, chi), moments, lambda half: solve(weight, half, chi))


def really(moments: Moments) -> float:
    weight = weight_of()
    change = weight.double() - solve(weight, moments)
    truth = mixing(IN, 1) @ mixing(IN, 1).mT, mixing(OUT, 2) @ mixing(OUT, 2).mT
    assert moments.gradients is not None
    return predicted_loss(change, *truth) / predicted_loss(change, moments.inputs, moments.gradients)


@pytest.mark.parametrize("tokens", [200, 400, 1600])
def test_it_is_what_text_drawn_anew_loses(tokens: int) -> None:
    """Mean over twenty texts; the estimate reads high where the text is very short, and never low by much."""
    texts = [drawn(tokens, seed) for seed in range(20)]
    told = mean(found for text in texts if (found := estimated(text)) is not None)
    truth = mean(really(text) for text in texts)
    assert truth > 1
    assert 0.7 * (truth - 1) < told - 1 < 2 * (truth - 1)


def test_more_text_holds_better() -> None:
    found = [mean(estimated(drawn(tokens, seed)) or 0 for seed in range(5)) for tokens in (100, 400, 1600)]
    assert found == sorted(found, reverse=True)
    assert found[-1] < 1.2


def test_a_half_that_is_harder_as_a_whole_changes_little() -> None:
    even, uneven = (mean(estimated(drawn(400, seed, harder)) or 0 for seed in range(10)) for harder in (1.0, 1.5))
    assert uneven - 1 == pytest.approx(even - 1, rel=0.5)


def test_the_halves_add_up_to_the_whole() -> None:
    whole = drawn(300, 0)
    both = halves(whole)
    assert both is not None
    for name in ("inputs", "gradients"):
        parts = [getattr(half, name) for half in both]
        torch.testing.assert_close((parts[0] + parts[1]) / 2, getattr(whole, name))


def test_there_is_no_figure_without_halves_loss_or_for_large_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = drawn(200, 0)
    assert estimated(Moments(moments.inputs, moments.gradients, 200)) is None
    weight = weight_of()
    assert held_out(weight, weight, moments, lambda half: weight) is None
    monkeypatch.setattr(stability, "LARGEST_SIDE", 23)
    assert estimated(moments) is None


@pytest.mark.parametrize(
    ("ratio", "loss", "needs"),
    [(None, 1.0, False), (1.9, 1.0, False), (2.1, 1.0, True), (2.1, None, True), (9.0, 1e-4, False), (20.0, 1e-4, True)],
)
def test_a_layer_needs_more_text_where_that_matters(ratio: float | None, loss: float | None, needs: bool) -> None:
    assert needs_more_text(ratio, loss) is needs


def test_a_sentence_over_all_layers() -> None:
    told = stability_text([None, 1.2, 3.04, 1.5])
    assert told is not None
    assert "about 1.5 times" in told and "(from 1.2 to 3.0)" in told
    assert stability_text([None]) is None
