"""Predicted curves against brute force: an explicit ΔW for every rank, and dense traces in float64."""

from __future__ import annotations

import importlib.util
import itertools
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from moment_problems import Problem, brute_force, loss, problem, truncated

from bondwise import mpo, weighted
from bondwise.moments import Moments
from bondwise.spectral import curve, low_rank_sizes, rank_correlation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from bondwise.schema import Curve


def low_rank_curve(given: Problem, chis: Sequence[int] | None = None) -> Curve:
    out_modes, in_modes = mpo.layer_modes(given.weight.shape[0], given.weight.shape[1], "low-rank")
    return curve("layer", given.weight, given.moments, out_modes, in_modes, chis)


@pytest.mark.parametrize("shape", [(12, 12), (20, 9), (9, 20), (1, 7), (7, 1)])
def test_every_rank_loses_what_brute_force_says(shape: tuple[int, int]) -> None:
    given = problem(*shape)
    found = low_rank_curve(given)
    assert found.chi == list(range(1, min(shape) + 1))
    for i, rank in enumerate(found.chi[:-1]):
        for method, expected in brute_force(given, rank).items():
            assert getattr(found, method)[i] == pytest.approx(expected, rel=1e-6, abs=1e-12), (method, rank)
    assert [getattr(found, method)[-1] for method in ("error", "plain", "input", "fisher")] == [0, 0, 0, 0]
    assert found.parameters == [rank * (sum(shape) - rank) for rank in found.chi]


@pytest.mark.parametrize("shape", [(12, 12), (20, 9), (9, 20)])
def test_measured_directions_rescale_every_method_alike(shape: tuple[int, int]) -> None:
    given = problem(*shape)
    bare = low_rank_curve(given)
    measured = torch.rand(min(shape), generator=torch.Generator().manual_seed(4), dtype=torch.float64)  # of ascending singular values
    found = low_rank_curve(Problem(given.weight, replace(given.moments, directions=measured)))
    assert given.moments.gradients is not None
    u, sigma, v = torch.linalg.svd(given.weight.double(), full_matrices=False)
    for i, rank in enumerate(found.chi[:-1]):
        factored = sum(
            loss(sigma[j] * torch.outer(u[:, j], v[j]), given.moments) * 2
            for j in range(rank, min(shape))  # each direction alone
        )
        ratio = float(measured[: min(shape) - rank].sum()) / factored
        for method in ("plain", "input", "fisher"):
            assert getattr(found, method)[i] == pytest.approx(ratio * getattr(bare, method)[i], rel=1e-6)
    assert found.error == bare.error
    assert found.plain[-1] == 0


def test_the_three_methods_differ_and_fisher_is_the_best() -> None:
    given = problem(24, 16, seed=3)
    found = low_rank_curve(given)
    for i in range(len(found.chi) - 1):
        assert 0 < found.fisher[i] < found.input[i]
        assert found.fisher[i] < found.plain[i]
    assert found.plain[:8] != pytest.approx(found.input[:8], rel=0.05)
    for falling in (found.fisher, found.input, found.error):
        assert all(a > b for a, b in itertools.pairwise(falling))


def test_fisher_is_never_above_the_others_where_moments_are_singular() -> None:
    """Fewer tokens than channels, and a channel that never fires: the ridge makes one metric of it for all methods."""
    given = problem(30, 40, seed=1, tokens=10)
    assert given.moments.gradients is not None
    given.moments.inputs[5] = 0
    given.moments.inputs[:, 5] = 0
    found = low_rank_curve(given)
    for fisher, by_input, plain in zip(found.fisher, found.input, found.plain, strict=True):
        assert 0 <= fisher <= min(by_input, plain) * (1 + 1e-9)


def test_ridge_leaves_the_loss_of_well_conditioned_moments_alone() -> None:
    given = problem(16, 16, seed=5, tokens=2000)
    found = low_rank_curve(given)
    assert given.moments.gradients is not None
    gradients, inputs = given.moments.gradients.double(), given.moments.inputs.double()
    for i, rank in enumerate(found.chi[:-1]):
        change = given.weight.double() - truncated(given.weight.double(), rank)
        bare = 0.5 * float(torch.trace(gradients @ change @ inputs @ change.mT))
        assert found.plain[i] == pytest.approx(bare, rel=1e-2)


def test_channels_of_any_scale_have_a_metric() -> None:
    """Massive activations: one channel a million times the others. A ridge relative to the mean would drown the rest."""
    given = problem(16, 16, seed=5, tokens=2000)
    scales = torch.ones(16)
    scales[3] = 1e6
    weight = given.weight / scales
    assert given.moments.gradients is not None
    spread = Moments(given.moments.inputs * scales * scales[:, None], given.moments.gradients, 2000)
    # The same layer in other units: the two-sided truncation does not depend on units.
    expected = low_rank_curve(given).fisher
    assert low_rank_curve(Problem(weight, spread)).fisher == pytest.approx(expected, rel=1e-3)


def test_a_layer_without_gradients_loses_nothing() -> None:
    given = problem(6, 5)
    found = low_rank_curve(Problem(given.weight, Moments(given.moments.inputs, torch.zeros(6, 6), 200)))
    assert found.plain == found.input == found.fisher == [0] * 5
    assert found.error[0] > 0


def test_dtypes_and_a_zero_weight() -> None:
    given = problem(10, 8)
    exact = low_rank_curve(given)
    for dtype in (torch.bfloat16, torch.float16):
        rounded = low_rank_curve(Problem(given.weight.to(dtype), given.moments))
        assert rounded.fisher[:4] == pytest.approx(exact.fisher[:4], rel=0.1)
    nothing = low_rank_curve(Problem(torch.zeros(10, 8), given.moments))
    assert nothing.error == nothing.fisher == nothing.plain == [0] * 8


# --- which sizes -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(576, 576), (1536, 576), (576, 1536), (4096, 11008), (192, 576)])
def test_sizes_of_a_curve(shape: tuple[int, int]) -> None:
    sizes = low_rank_sizes(*shape, chis=[33, 10**6])
    assert sizes == sorted(set(sizes))
    assert sizes[:16] == list(range(1, 17))
    assert sizes[-1] == min(shape)
    assert 33 in sizes
    assert len(sizes) <= 97
    keeps = [size * sum(shape) / math.prod(shape) for size in sizes]
    for keep in (0.1, 0.3, 0.5, 0.75, 1.0):
        chi = mpo.bond_dims_for_keep(*mpo.layer_modes(*shape, "low-rank"), keep)[0]
        nearest = min(keeps, key=lambda one: abs(one - keep))
        assert abs(nearest - keep) < 0.02
        assert chi in low_rank_sizes(*shape, chis=[chi])


def test_asked_sizes_are_in_the_curve_and_correct() -> None:
    given = problem(150, 140)
    found = low_rank_curve(given, [37, 73])
    for rank in (37, 73):
        i = found.chi.index(rank)
        assert found.fisher[i] == pytest.approx(brute_force(given, rank)["fisher"], rel=1e-6)
        assert found.plain[i] == pytest.approx(brute_force(given, rank)["plain"], rel=1e-6)
    assert len(low_rank_curve(given).chi) < 140


# --- interleaved sites -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modes", [((3, 4), (4, 3)), ((2, 2, 3), (3, 2, 2)), ((3, 5), (5, 3))])
def test_interleaved_sites_lose_what_their_cores_lose(modes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    given = problem(12, 12)
    found = curve("layer", given.weight, given.moments, *modes, [1, 2, 5, 1000])
    assert found.chi == [1, 2, 5, max(mpo.max_bond_dims(*modes))]
    for i, chi in enumerate(found.chi):
        made = mpo.contract(mpo.decompose(given.weight, *modes, chi=chi).cores)[:12, :12]
        change = given.weight.double() - made
        assert found.plain[i] == pytest.approx(loss(change, given.moments), rel=1e-9, abs=1e-9)
        assert found.error[i] == pytest.approx(float(change.norm() / given.weight.double().norm()), rel=1e-6, abs=1e-9)
    assert found.input == found.fisher == found.plain
    assert found.plain[0] > 1e3 * found.plain[-1]


def test_interleaved_sites_have_sizes_of_their_own() -> None:
    given = problem(48, 36)
    found = curve("layer", given.weight, given.moments, *mpo.layer_modes(48, 36, 3))
    assert len(found.chi) >= 4
    assert max(found.parameters) <= 48 * 36
    assert found.chi == sorted(set(found.chi))


# --- bad input ---------------------------------------------------------------------------------------------------------------------


def test_bad_input_is_refused() -> None:
    weight, moments = problem(6, 5)
    damaged = weight.clone()
    damaged[1, 1] = math.nan
    cases: list[tuple[Tensor, Moments | None, list[int], str]] = [
        (weight, None, [1], "moments"),
        (weight, Moments(moments.inputs, None, 1), [1], "moments"),
        (weight.mT, moments, [1], "5×6"),
        (weight, moments, [3, 0], "bond dimension 0"),
        (damaged, moments, [1], "NaN"),
    ]
    for given, known, chis, words in cases:
        with pytest.raises(ValueError, match=words):
            curve("layer", given, known, (1, 6), (5, 1), chis)


# --- rank correlation --------------------------------------------------------------------------------------------------------------


def test_rank_correlation_by_hand() -> None:
    assert rank_correlation([1, 2, 3, 4], [10, 20, 30, 1e9]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    # Ranks 1 2 3 4 5 and 2 1 4 3 5: 1 − 6·(1+1+1+1+0)/(5·24).
    assert rank_correlation([0.1, 0.2, 0.3, 0.4, 0.5], [7, 3, 9, 8, 30]) == pytest.approx(1 - 24 / 120)
    # Ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: Pearson's 4.5 / √(4.5 · 5).
    assert rank_correlation([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(4.5 / math.sqrt(22.5))
    assert rank_correlation([1, 2, math.nan, 3], [1, 2, 0, math.inf]) == pytest.approx(1)


def test_rank_correlation_of_nothing_to_order() -> None:
    assert rank_correlation([], []) is None
    assert rank_correlation([1], [2]) is None
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None
    with pytest.raises(ValueError, match=r"shorter|longer"):
        rank_correlation([1, 2], [1])


@pytest.mark.skipif(importlib.util.find_spec("scipy") is None, reason="scipy is not installed")
def test_rank_correlation_is_scipys() -> None:
    stats: Any = importlib.import_module("scipy.stats")
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        first = torch.randint(20, (60,), generator=generator).tolist()
        second = torch.randint(20, (60,), generator=generator).tolist()
        assert rank_correlation(first, second) == pytest.approx(stats.spearmanr(first, second).statistic)


def test_the_ridge_is_the_stated_one() -> None:
    assert (weighted.RIDGE, weighted.FLOOR) == (1e-4, 1e-12)
