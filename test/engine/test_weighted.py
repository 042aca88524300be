"""The weighted factorizations against explicit ones in float64: square roots, a full SVD, inverses."""

from __future__ import annotations

import pytest
import torch
from moment_problems import brute_force, loss, problem

from bondwise import mpo
from bondwise.weighted import decompose_weighted, predicted_loss

SHAPES = [(24, 40), (40, 24), (16, 16), (1, 9), (9, 1), (5, 64)]


@pytest.mark.parametrize("method", ["input", "fisher"])
@pytest.mark.parametrize(("out_features", "in_features"), SHAPES)
def test_no_factorization_of_that_rank_loses_less(out_features: int, in_features: int, method: str) -> None:
    given = problem(out_features, in_features)
    gradients = given.moments.gradients
    assert gradients is not None
    exact = min(out_features, in_features)
    for chi in sorted({1, max(1, exact // 2), exact}):
        found = decompose_weighted(given.weight, given.moments.inputs, gradients if method == "fisher" else None, chi=chi)
        assert (found.out_modes, found.in_modes, found.bond_dims) == ((1, out_features), (in_features, 1), (chi,))
        change = given.weight.double() - mpo.contract(found.cores)
        if chi == exact:
            assert float(change.norm()) <= 1e-9 * float(given.weight.norm())
        else:
            assert loss(change, given.moments) == pytest.approx(brute_force(given, chi)[method], rel=1e-6)
        assert predicted_loss(change, given.moments.inputs, gradients) == pytest.approx(loss(change, given.moments), rel=1e-9, abs=1e-12)
        assert found.discarded[0] == pytest.approx(float(change.norm() / given.weight.norm()) ** 2, rel=1e-6, abs=1e-18)


@pytest.mark.parametrize("method", ["input", "fisher"])
def test_both_cores_are_of_one_scale_and_a_large_rank_is_the_exact_one(method: str) -> None:
    given = problem(30, 20)
    gradients = given.moments.gradients if method == "fisher" else None
    found = decompose_weighted(given.weight.to(torch.bfloat16), given.moments.inputs, gradients, chi=99)
    first, second = found.cores
    assert found.bond_dims == (20,)
    torch.testing.assert_close(first.flatten(0, 2).norm(dim=0), second.flatten(1).norm(dim=1))


def test_channels_that_never_fire_and_outputs_that_never_matter() -> None:
    given = problem(12, 20)
    gradients = given.moments.gradients
    assert gradients is not None
    silent = given.moments.inputs.clone()
    silent[3], silent[:, 3] = 0, 0
    for moment, other in ((silent, gradients), (given.moments.inputs, torch.zeros(12, 12)), (torch.zeros(20, 20), gradients)):
        found = mpo.contract(decompose_weighted(given.weight, moment, other, chi=4).cores)
        assert bool(found.isfinite().all()) and torch.linalg.matrix_rank(found) <= 4


def test_what_is_wrong_is_named() -> None:
    given = problem(6, 8)
    gradients = given.moments.gradients
    assert gradients is not None
    broken = gradients.clone()
    broken[0, 0] = float("nan")
    for inputs, outputs, chi, what in (
        (gradients, gradients, 2, "inputs is"),
        (given.moments.inputs, given.moments.inputs, 2, "gradients is"),
        (given.moments.inputs, broken, 2, "gradients has"),
        (given.moments.inputs, gradients, 0, "below 1"),
    ):
        with pytest.raises(ValueError, match=what):
            decompose_weighted(given.weight, inputs, outputs, chi=chi)
    with pytest.raises(ValueError, match="weight has"):
        decompose_weighted(given.weight * float("inf"), given.moments.inputs, None, chi=2)
