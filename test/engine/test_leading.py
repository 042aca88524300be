"""The leading singular vectors against a full decomposition in float64, on spectra that are easy, flat, stepped and falling."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch

from bondwise import leading, mpo
from bondwise.leading import leading_basis, leading_split, pays

if TYPE_CHECKING:
    from torch import Tensor

S = 600
INDEX = torch.arange(1, S + 1, dtype=torch.float64)


def noise() -> Tensor:
    return torch.linalg.svdvals(torch.randn(S, S, generator=torch.Generator().manual_seed(0), dtype=torch.float64))


def outliers(count: int, factor: float) -> Tensor:
    sigma = noise()
    sigma[:count] *= factor
    return sigma


SPECTRA = {
    "white noise": noise(),
    "flat": torch.ones(S, dtype=torch.float64),
    "linear": (1 - INDEX / (S + 1)).sqrt(),
    "slow power": INDEX**-0.25,
    "power": INDEX**-0.5,
    "exponential": 10 ** (-INDEX / S),
    "one outlier": outliers(1, 10),
    "many outliers": outliers(40, 10),
    "step at 60": torch.where(INDEX <= 60, 1.0, 0.7).double(),
    "deep step at 60": torch.where(INDEX <= 60, 1.0, 0.05).double(),
    "steps": torch.where(INDEX <= 30, 4.0, torch.where(INDEX <= 100, 1.0, 0.5)).double(),
}


def with_spectrum(sigma: Tensor, length: int = S, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    left, _ = torch.linalg.qr(torch.randn(S, S, generator=generator, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(length, S, generator=generator, dtype=torch.float64))
    return (left * sigma) @ right.mT


def squares(matrix: Tensor) -> float:
    return float(matrix.double().square().sum())


def excess(matrix: Tensor, product: Tensor, count: int) -> float:
    """The error of a product, as a part of that of the best of its rank, above it."""
    best = math.sqrt(float(torch.linalg.svdvals(matrix.double())[count:].square().sum()))
    return math.sqrt(squares(matrix.double() - product)) / best - 1


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_error_is_within_a_percent_of_the_least(name: str, dtype: torch.dtype) -> None:
    for length in (S, 3 * S) if dtype == torch.float32 else (S,):
        matrix = with_spectrum(SPECTRA[name], length).to(dtype)
        for count in (60, 150):
            found = leading_split(matrix, count, squares(matrix))
            assert found is not None
            basis, projected = (each.double() for each in found)
            assert (basis.shape, projected.shape) == ((count, S), (count, length))
            unit = torch.eye(count, dtype=torch.float64)
            torch.testing.assert_close(basis @ basis.mT, unit, rtol=0, atol=1e-4 if dtype == torch.float32 else 1e-8)
            torch.testing.assert_close(projected, basis @ matrix.double(), rtol=0, atol=1e-5 * math.sqrt(squares(matrix)))
            assert -1e-6 < excess(matrix, basis.mT @ projected, count) < 0.01


@pytest.mark.parametrize("sigma", [INDEX**-2.0, 10 ** (-20 * INDEX / S), torch.where(INDEX <= 60, 1.0, 1e-7), outliers(1, 1e5)])
def test_where_rounding_would_choose_the_directions_there_is_no_answer(sigma: Tensor) -> None:
    matrix = with_spectrum(sigma).float()
    assert leading_split(matrix, 60, squares(matrix)) is None
    found = mpo.decompose(matrix, (1, S), (S, 1), chi=60)
    assert excess(matrix, mpo.contract(found.cores), 60) < 1e-5


def test_a_matrix_of_low_rank_and_none() -> None:
    few = with_spectrum(torch.where(INDEX <= 20, 1.0, 0.0).double()).float()
    for matrix in (few, torch.zeros(S, S)):
        assert leading_split(matrix, 60, squares(matrix)) is None
        found = mpo.contract(mpo.decompose(matrix, (1, S), (S, 1), chi=60).cores)
        assert float((found - matrix).norm()) <= 1e-6 * float(matrix.norm())


def test_eigenvectors_of_a_symmetric_matrix_and_what_decides_between_the_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leading, "BASIS_SMALLEST", S)
    whole: list[int] = []
    eigh = torch.linalg.eigh

    def spy(matrix: Tensor) -> tuple[Tensor, Tensor]:
        whole.append(matrix.shape[0])
        return eigh(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", spy)
    for name, sigma in SPECTRA.items():
        matrix = with_spectrum(sigma)
        for count, part in ((60, True), (149, True), (200, False)):
            whole.clear()
            basis = leading_basis(matrix @ matrix.mT, count)
            assert (S not in whole) == part, name
            torch.testing.assert_close(basis.mT @ basis, torch.eye(count, dtype=torch.float64), rtol=0, atol=1e-8)
            assert -1e-9 < excess(matrix, basis @ (basis.mT @ matrix), count) < (0.01 if part else 1e-9)
    whole.clear()
    steep = with_spectrum(10 ** (-20 * INDEX / S))
    basis = leading_basis(steep @ steep.mT, 60)
    assert S in whole and excess(steep, basis @ (basis.mT @ steep), 60) < 1e-6


def test_low_rank_takes_it_for_few_vectors_of_a_large_float32_matrix_only() -> None:
    weight = with_spectrum(SPECTRA["white noise"]).float()
    modes = (1, S), (S, 1)
    for count, exact in ((60, False), (300, True)):
        assert pays(S, S, count) != exact
        single, double = (mpo.decompose(each, *modes, chi=count) for each in (weight, weight.double()))
        assert excess(weight, mpo.contract(double.cores), count) < 1e-6
        assert (excess(weight, mpo.contract(single.cores), count) < 1e-5) == exact
        assert excess(weight, mpo.contract(single.cores), count) < 0.01
        error = mpo.relative_error(weight, mpo.contract(single.cores))
        assert math.sqrt(single.discarded[0]) == pytest.approx(error, rel=1e-5)
        again = mpo.decompose(weight, *modes, chi=count)
        assert all(torch.equal(first, second) for first, second in zip(single.cores, again.cores, strict=True))


def test_sites_of_a_float32_weight_lose_what_those_of_float64_do() -> None:
    weight = torch.randn(256, 384, generator=torch.Generator().manual_seed(3))
    for sites in (2, 3, 4):
        modes = mpo.layer_modes(256, 384, sites)
        single, double = (mpo.decompose(each, *modes, keep=0.3) for each in (weight, weight.double()))
        error, best = (mpo.relative_error(weight, mpo.contract(found.cores)) for found in (single, double))
        assert error == pytest.approx(best, rel=1e-5)
        assert math.sqrt(sum(single.discarded)) == pytest.approx(error, rel=1e-4)
