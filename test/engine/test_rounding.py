"""Rounding to few bits: never worse than to the nearest level, exact where it has to be, and what thin matrices give back."""

from __future__ import annotations

import pytest
import torch

from bondwise import modeling_mpo
from bondwise.calibrate import Moments
from bondwise.rounding import (
    NF4,
    TwoSided,
    compensation,
    round_compensated,
    round_factors,
    round_nearest,
    thin_factors,
)
from bondwise.scheme_table import scheme_table
from bondwise.stored_bits import packed_bytes
from bondwise.weighted import half_norm, metric, predicted_loss


def weight_and_moments(out: int, inputs: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A weight [out, in], and moments whose channels are correlated and differ in size by a factor of ten."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, inputs, generator=generator) * 0.05
    sizes = torch.logspace(-0.5, 0.5, inputs)
    seen = torch.randn(3 * inputs, inputs, generator=generator) @ (
        torch.eye(inputs) + 0.3 * torch.randn(inputs, inputs, generator=generator)
    )
    felt = torch.randn(3 * out, out, generator=generator) @ (torch.eye(out) + 0.3 * torch.randn(out, out, generator=generator))
    seen = seen * sizes
    return weight, seen.mT @ seen / len(seen), felt.mT @ felt / len(felt)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("shape", [(48, 130), (96, 64), (30, 20)])
def test_compensated_is_never_above_nearest_in_the_weighted_norm(bits: int, shape: tuple[int, int]) -> None:
    for seed in range(3):
        weight, inputs, _ = weight_and_moments(*shape, seed)
        by_input = metric(inputs)
        made = [
            round_compensated(weight, compensation(by_input, ordered=True), bits),
            round_compensated(weight, compensation(by_input, ordered=False), bits),
            round_nearest(weight, bits),
        ]
        ordered, plain, nearest = (half_norm((one.dense() - weight).double(), by_input, None) for one in made)
        assert ordered < nearest
        assert plain < nearest


def test_compensation_is_what_solving_for_the_later_columns_gives() -> None:
    _, inputs, _ = weight_and_moments(8, 24)
    by_input = metric(inputs)
    upper = compensation(by_input, ordered=False).upper.double()
    inverse = torch.linalg.inv(by_input + 0.001 * by_input.diagonal().mean() * torch.eye(24, dtype=torch.float64))
    assert torch.allclose(upper.mT @ upper, inverse, rtol=1e-3, atol=1e-6 * float(inverse.abs().max()))
    # An error of 1 in the first column: the best change of the others, by the normal equations.
    damped = torch.linalg.inv(inverse)
    best = -torch.linalg.solve(damped[1:, 1:], damped[1:, 0])
    assert torch.allclose(upper[0, 1:] / upper[0, 0], best, rtol=1e-3, atol=1e-5)


def test_nf4_is_that_of_bitsandbytes() -> None:
    functional = pytest.importorskip("bitsandbytes").functional
    assert torch.equal(functional.get_4bit_type("nf4", device="cpu"), torch.tensor(NF4))
    weight = torch.randn(64, 192, generator=torch.Generator().manual_seed(3))
    packed, state = functional.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    theirs = functional.dequantize_4bit(packed, state)
    ours = round_nearest(weight, 4).dense()
    # Their scales are float32, ours float16: a number at the border of two levels may go to the other one.
    same = (ours - theirs).abs() < 1e-3 * weight.abs().max()
    assert float(same.float().mean()) > 0.995
    assert float((ours - weight).norm()) == pytest.approx(float((theirs - weight).norm()), rel=1e-3)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_packed_matrix_is_what_was_rounded(bits: int) -> None:
    weight, inputs, _ = weight_and_moments(20, 75)
    rounded = round_compensated(weight, compensation(metric(inputs), ordered=True), bits)
    matrix = modeling_mpo.PackedMatrix(20, 75, bits, ordered=True)
    assert rounded.order is not None
    tensors = {
        "codes": modeling_mpo.pack_codes(rounded.codes, bits),
        "scales": rounded.scales.view(torch.int16),
        "levels": rounded.levels.view(torch.int16),
        "order": rounded.order.to(torch.int16),
    }
    matrix.load_state_dict(tensors)
    assert torch.equal(matrix.dense(), rounded.dense())
    assert sum(tensor.nbytes for tensor in tensors.values()) == packed_bytes(20, 75, bits, ordered=True)


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, inputs, gradients = weight_and_moments(40, 70)
    by = TwoSided.of(inputs, gradients, 40)
    layer = modeling_mpo.PackedLinear(70, 40, bits=3, ordered=True, rank=6, rank_bits=4)
    rounded = round_compensated(weight, by.by_order, 3)
    lost = weight - rounded.dense()
    factors = round_factors(thin_factors(lost, inputs, gradients, 6), lost, by, 4)
    for part, one in (("matrix", rounded), ("left", factors.left), ("right", factors.right)):
        module = layer.get_submodule(part)
        module.get_buffer("codes").copy_(modeling_mpo.pack_codes(one.codes, one.bits))
        module.get_buffer("scales").copy_(one.scales.view(torch.int16))
        module.get_buffer("levels").copy_(one.levels.view(torch.int16))
        if one.order is not None:
            module.get_buffer("order").copy_(one.order.to(torch.int16))
    x = torch.randn(2, 5, 70)
    expected = x @ (rounded.dense() + factors.dense()).mT
    assert torch.allclose(layer(x), expected, atol=1e-5)
    monkeypatch.setattr(modeling_mpo, "MAX_UNPACKED", 200)
    assert torch.allclose(layer(x), expected, atol=1e-5)
    layer.path = "keep"
    assert torch.allclose(layer(x), expected, atol=1e-5)
    assert torch.allclose(layer.dense(), rounded.dense() + factors.dense(), atol=1e-6)
    bfloat = layer.to(torch.bfloat16)
    assert float((bfloat(x.bfloat16()).detach().float() - expected).abs().max()) < 0.03 * float(expected.abs().max())


def test_the_table_says_what_each_scheme_really_loses() -> None:
    weight, inputs, gradients = weight_and_moments(64, 96)
    moments = Moments(inputs, gradients, 1000)
    by = TwoSided.of(inputs, gradients, 64)
    table = {(one.scheme, one.rank): one for one in scheme_table(weight, moments, dtype="BF16", item_bits=16)}
    rounded = round_compensated(weight, by.by_order, 3).dense()
    assert table["compensated-3", 0].loss == pytest.approx(predicted_loss(rounded - weight, inputs, gradients), rel=1e-3)
    lost = weight - rounded
    # The largest rank is rounded as it will be stored; a smaller one shares its levels with it in the table alone.
    rank = max(rank for scheme, rank in table if scheme == "compensated-3")
    factors = round_factors(thin_factors(lost, inputs, gradients, rank), lost, by, 4)
    loss = predicted_loss(rounded + factors.dense() - weight, inputs, gradients)
    assert table["compensated-3", rank].loss == pytest.approx(loss, rel=0.1)
    assert loss < table["compensated-3", 0].loss
    left, right = thin_factors(weight, inputs, gradients, 20)
    some = next(rank for scheme, rank in table if scheme == "low-rank-16")
    exact = predicted_loss((left[:some].mT @ right[:some]).float() - weight, inputs, gradients)
    assert table["low-rank-16", some].loss == pytest.approx(exact, rel=1e-3)


def test_numbers_that_are_not_finite_are_refused() -> None:
    weight, inputs, _ = weight_and_moments(4, 8)
    weight[1, 2] = torch.inf
    with pytest.raises(ValueError, match="NaN or infinite"):
        round_nearest(weight, 4)
    with pytest.raises(ValueError, match="NaN or infinite"):
        round_compensated(weight, compensation(metric(inputs), ordered=True), 4)
    with pytest.raises(ValueError, match="of 8 columns"):
        round_compensated(torch.zeros(3, 5), compensation(metric(inputs), ordered=True), 4)
