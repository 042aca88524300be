"""Fixing the gauge of the bonds: the same product from fewer and tame numbers, against the unfixed cores and brute force."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import pytest
import torch

from bondwise import mpo
from bondwise.gauge import LARGEST, dominant_rows, fix_gauge, unfix_core

CASES: list[tuple[int, int, Any]] = [
    (24, 36, "low-rank"),
    (36, 24, "low-rank"),
    (48, 60, 2),
    (60, 48, 3),
    (32, 243, 5),
    (31, 37, 3),
    (1, 40, "low-rank"),
]


@pytest.mark.parametrize("chi", [1, 4, 10**6])
@pytest.mark.parametrize(("out_features", "in_features", "sites"), CASES)
def test_the_product_is_the_same_from_the_numbers_counted(out_features: int, in_features: int, sites: Any, chi: int) -> None:
    weight = torch.randn(out_features, in_features, dtype=torch.float64, generator=torch.Generator().manual_seed(out_features))
    modes = mpo.layer_modes(out_features, in_features, sites)
    made = mpo.decompose(weight, *modes, chi=chi)
    first, others = fix_gauge(made.cores)
    again = [first, *(unfix_core(core, o, i) for core, o, i in zip(others, modes[0][1:], modes[1][1:], strict=True))]
    torch.testing.assert_close(mpo.contract(again), mpo.contract(made.cores), rtol=1e-10, atol=1e-10)
    assert [core.shape for core in again] == [core.shape for core in made.cores]
    assert first.numel() + sum(core.rest.numel() for core in others) == mpo.parameter_count(*modes, made.bond_dims)
    assert sum(core.order.numel() for core in others) == mpo.order_count(*modes, made.bond_dims)
    assert all(float(core.rest.abs().max()) <= LARGEST + 1e-9 for core in others if core.rest.numel())
    for core in others:
        assert sorted(core.order.tolist()) == list(range(len(core.order)))


def test_a_low_rank_layer_is_made_of_its_own_rows() -> None:
    """The interpolative decomposition: the first core is rows of the weight, and they stand where the order says."""
    weight = torch.randn(20, 5, dtype=torch.float64) @ torch.randn(5, 12, dtype=torch.float64)
    made = mpo.decompose(weight, *mpo.layer_modes(20, 12, "low-rank"), chi=5)
    first, (core,) = fix_gauge(made.cores)
    rows = [core.order.tolist().index(j) for j in range(5)]
    torch.testing.assert_close(first[0, 0].mT, weight[rows])


@pytest.mark.parametrize("rank", [0, 2])
def test_a_bond_wider_than_the_rank_of_its_weight(rank: int) -> None:
    weight = torch.randn(16, rank, dtype=torch.float64) @ torch.randn(rank, 18, dtype=torch.float64)
    made = mpo.decompose(weight, *mpo.layer_modes(16, 18, "low-rank"), chi=6)
    first, (core,) = fix_gauge(made.cores)
    again = mpo.contract([first, unfix_core(core, 16, 1)])
    torch.testing.assert_close(again, weight)
    assert float(core.rest.abs().max()) <= LARGEST + 1e-9


def test_no_exchange_of_a_chosen_row_enlarges_the_volume_much() -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        basis = torch.linalg.qr(torch.randn(9, 3, dtype=torch.float64, generator=generator))[0]
        chosen, coefficients = dominant_rows(basis)
        torch.testing.assert_close(coefficients @ basis[chosen], basis)
        volume = abs(float(torch.linalg.det(basis[chosen])))
        for rows in combinations(range(9), 3):
            if len(set(rows) & set(chosen.tolist())) == 2:
                assert abs(float(torch.linalg.det(basis[list(rows)]))) <= LARGEST * volume * (1 + 1e-9)


def test_elimination_with_large_growth_is_mended() -> None:
    """Wilkinson's matrix, where the coefficients of Gaussian elimination's pivots grow as 2^n."""
    n = 24
    matrix = torch.eye(n, dtype=torch.float64) - torch.ones(n, n, dtype=torch.float64).tril(-1)
    matrix[:, -1] = 1
    basis = torch.linalg.qr(torch.cat([matrix, 1e-3 * torch.randn(60, n, dtype=torch.float64)]))[0]
    chosen, coefficients = dominant_rows(basis)
    assert math.isfinite(float(coefficients.abs().max())) and float(coefficients.abs().max()) <= LARGEST + 1e-9
    assert len(set(chosen.tolist())) == n


def test_a_bond_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="dimension 5 is more than the 4"):
        fix_gauge([torch.randn(1, 2, 3, 5), torch.randn(5, 2, 2, 1)])
