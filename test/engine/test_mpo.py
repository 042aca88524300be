"""The mathematics against independent oracles: einsum, torch's full SVD, tensorly, brute force."""

from __future__ import annotations

import itertools
import math
import random
from typing import TYPE_CHECKING, Any

import pytest
import tensorly
import torch
from tensorly.decomposition import tensor_train_matrix

from bondwise import mpo, split
from bondwise.leading import GRAM_BLOCK, inner

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def dense_of(cores: Sequence[Tensor]) -> Tensor:
    """Σ_r Π_k G_k[r_{k-1}, o_k, i_k, r_k] in one einsum."""
    outs, ins, bonds = "abcde", "vwxyz", "LMNOPQ"
    terms = [f"{bonds[k]}{outs[k]}{ins[k]}{bonds[k + 1]}" for k in range(len(cores))]
    n = len(cores)
    result = torch.einsum(f"{','.join(terms)}->{outs[:n]}{ins[:n]}", *cores)
    return result.reshape(math.prod(result.shape[:n]), math.prod(result.shape[n:]))


def random_weight(out_features: int, in_features: int, seed: int, decay: float = 2.0) -> Tensor:
    """Float64, with singular values falling by `decay` decades."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out_features, in_features, generator=generator, dtype=torch.float64)
    u, _, v = torch.linalg.svd(weight, full_matrices=False)
    sigma = torch.logspace(0, -decay, min(out_features, in_features), dtype=torch.float64)
    return (u * sigma) @ v


def with_spectrum(rows: int, columns: int, sigma: Tensor, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    k = min(rows, columns)
    u, _ = torch.linalg.qr(torch.randn(rows, k, generator=generator, dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(columns, k, generator=generator, dtype=torch.float64))
    return (u * sigma) @ v.mT


def tail(weight: Tensor, rank: int) -> float:
    """The best relative error of any matrix of this rank (Eckart–Young)."""
    sigma = torch.linalg.svdvals(weight.double())
    norm = float(torch.linalg.vector_norm(sigma))
    return float(torch.linalg.vector_norm(sigma[rank:])) / norm if norm else 0.0


def rearranged(weight: Tensor, out_modes: Sequence[int], in_modes: Sequence[int]) -> Tensor:
    """The matrix [o_1·i_1, o_2·i_2] whose rank is the bond dimension of two sites (Van Loan and Pitsianis)."""
    (o1, o2), (i1, i2) = out_modes, in_modes
    return torch.einsum("abcd->acbd", weight.reshape(o1, o2, i1, i2)).reshape(o1 * i1, o2 * i2)


# --- sites and counts ---


def prime_factors(size: int) -> int:
    count, factor = 0, 2
    while size > 1:
        while size % factor == 0:
            size, count = size // factor, count + 1
        factor += 1
    return count


@pytest.mark.parametrize("sites", [1, 2, 3, 4, 5])
def test_balanced_modes_are_the_exact_factorization_with_the_smallest_sum(sites: int) -> None:
    for size in [*range(2**sites, 2**sites + 90), 576, 960, 1536]:
        modes = mpo.balanced_modes(size, sites)
        assert len(modes) == sites
        assert list(modes) == sorted(modes)
        if prime_factors(size) >= sites:
            assert math.prod(modes) == size
            divisors = [d for d in range(2, size + 1) if size % d == 0]
            brute = min(sum(f) for f in itertools.combinations_with_replacement(divisors, sites) if math.prod(f) == size)
            assert sum(modes) == brute
        else:
            assert math.prod(modes) > size
            assert modes[-1] <= 2 * modes[0]


def test_balanced_modes_of_known_sizes() -> None:
    assert mpo.balanced_modes(4096, 3) == (16, 16, 16)
    assert mpo.balanced_modes(576, 2) == (24, 24)
    assert mpo.balanced_modes(11008, 2) == (86, 128)
    assert mpo.balanced_modes(1009, 2) == (23, 44)  # prime: padded to 1012
    assert mpo.balanced_modes(2 * 1009, 2) == (2, 1009)  # exact, though unbalanced: never padded without need
    assert mpo.balanced_modes(3, 3) == (1, 1, 3)
    assert mpo.balanced_modes(1, 2) == (1, 1)
    with pytest.raises(ValueError, match="size 0"):
        mpo.balanced_modes(0, 2)


def test_layer_modes() -> None:
    assert mpo.layer_modes(1536, 576, "low-rank") == ((1, 1536), (576, 1))
    assert mpo.layer_modes(1536, 576, 2) == ((32, 48), (24, 24))
    assert mpo.layer_modes(64, 96, 3) == ((4, 4, 4), (6, 4, 4))


def test_counts_of_the_papers_example() -> None:
    for chi in (1, 5, 20, 36):
        assert mpo.parameter_count((6, 6, 6), (6, 6, 6), (chi, chi)) == 2 * 36 * chi + 36 * chi**2 - 2 * chi**2
    assert mpo.max_bond_dims((6, 6, 6), (6, 6, 6)) == (36, 36)


def test_counts_of_low_rank() -> None:
    assert mpo.parameter_count((1, 300), (200, 1), (7,)) == 7 * (500 - 7)
    assert mpo.multiply_adds((1, 300), (200, 1), (7,)) == 7 * (500 - 7)
    assert mpo.max_bond_dims((1, 300), (200, 1)) == (200,)


def test_multiply_adds_of_two_square_sites() -> None:
    # The paper's arithmetic: two 64×64 sites on 4096×4096 cost χ·524,288.
    assert mpo.multiply_adds((64, 64), (64, 64), (10,)) == 10 * 524_288


def test_bond_dims_never_exceed_what_their_neighbours_carry() -> None:
    assert mpo.bond_dims_for_chi((4, 4, 4), (4, 4, 4), 1000) == (16, 16)
    assert mpo.bond_dims_for_chi((4, 4, 4, 4), (4, 4, 4, 4), 20) == (16, 20, 16)
    assert mpo.bond_dims_for_chi((4, 4, 4), (4, 4, 4), (1, 1000)) == (1, 16)
    assert mpo.bond_dims_for_chi((2, 2, 2, 2, 2), (2, 2, 2, 2, 2), (1, 16, 16, 1)) == (1, 4, 4, 1)
    assert mpo.bond_dims_for_chi((5,), (7,), 3) == ()
    for chi, message in ((0, "below 1"), (-2, "below 1"), ((3, 0), "below 1"), ((3,), "2 bonds")):
        with pytest.raises(ValueError, match=message):
            mpo.bond_dims_for_chi((4, 4, 4), (4, 4, 4), chi)


def test_bond_dims_for_keep_are_the_largest_that_fit() -> None:
    choose = random.Random(1)
    for _ in range(60):
        sites = choose.randint(2, 4)
        out_modes = tuple(choose.randint(1, 6) for _ in range(sites))
        in_modes = tuple(choose.randint(1, 6) for _ in range(sites))
        dense = math.prod(out_modes) * math.prod(in_modes)
        keep = choose.choice([choose.random(), choose.randint(1, dense) / dense, 1.0])
        highest = max(mpo.max_bond_dims(out_modes, in_modes))
        fits = [
            bonds
            for chi in range(1, highest + 1)
            if mpo.parameter_count(out_modes, in_modes, bonds := mpo.bond_dims_for_chi(out_modes, in_modes, chi)) <= keep * dense + 1e-6
        ]
        if fits:
            assert mpo.bond_dims_for_keep(out_modes, in_modes, keep) == fits[-1]
        else:
            with pytest.raises(ValueError, match="keep at least"):
                mpo.bond_dims_for_keep(out_modes, in_modes, keep)


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.01, math.nan])
def test_keep_outside_its_range_is_refused(keep: float) -> None:
    with pytest.raises(ValueError, match="keep"):
        mpo.bond_dims_for_keep((4, 4), (4, 4), keep)


# --- decomposition ---

CASES: list[tuple[int, int, Any]] = [
    (48, 60, 2),
    (60, 48, 3),
    (64, 64, 4),
    (32, 243, 5),
    (243, 32, 5),
    (48, 60, "low-rank"),
    (60, 48, "low-rank"),
    (31, 37, 3),  # primes: padded
    (7, 500, 2),
    (1, 40, "low-rank"),
]


@pytest.mark.parametrize(("out_features", "in_features", "sites"), CASES)
def test_contract_is_the_sum_over_bonds(out_features: int, in_features: int, sites: Any) -> None:
    modes = mpo.layer_modes(out_features, in_features, sites)
    decomposed = mpo.decompose(random_weight(out_features, in_features, 3), *modes, chi=4)
    assert decomposed.out_modes == modes[0]
    assert decomposed.in_modes == modes[1]
    torch.testing.assert_close(mpo.contract(decomposed.cores), dense_of(decomposed.cores), rtol=1e-12, atol=1e-14)
    stored = sum(core.numel() for core in decomposed.cores) - sum(bond**2 for bond in decomposed.bond_dims)
    assert stored == mpo.parameter_count(*modes, decomposed.bond_dims)


@pytest.mark.parametrize(("out_features", "in_features", "sites"), CASES)
def test_a_bond_dimension_above_the_exact_rank_is_lossless(out_features: int, in_features: int, sites: Any) -> None:
    weight = random_weight(out_features, in_features, 4)
    modes = mpo.layer_modes(out_features, in_features, sites)
    decomposed = mpo.decompose(weight, *modes, chi=10_000)
    assert decomposed.bond_dims == mpo.max_bond_dims(*modes)
    assert decomposed.discarded == (0.0,) * len(decomposed.bond_dims)
    assert mpo.relative_error(weight, dense_of(decomposed.cores)[:out_features, :in_features]) < 1e-14


@pytest.mark.parametrize("shape", [(48, 60), (60, 48), (50, 50), (3, 80), (80, 3)])
def test_low_rank_is_the_optimum(shape: tuple[int, int]) -> None:
    weight = random_weight(*shape, seed=5, decay=1)
    for rank in (1, 2, min(shape) // 2, min(shape) - 1):
        decomposed = mpo.decompose(weight, *mpo.layer_modes(*shape, "low-rank"), chi=rank)
        product = dense_of(decomposed.cores)
        assert int(torch.linalg.matrix_rank(product)) <= rank
        assert mpo.relative_error(weight, product) == pytest.approx(tail(weight, rank), rel=1e-6)


def test_two_sites_are_the_optimum_of_the_rearranged_matrix() -> None:
    weight = random_weight(48, 60, 6)
    modes = mpo.layer_modes(48, 60, 2)
    for chi in (1, 5, 20, 40):
        error = mpo.relative_error(weight, dense_of(mpo.decompose(weight, *modes, chi=chi).cores))
        assert error == pytest.approx(tail(rearranged(weight, *modes), chi), rel=1e-6)


@pytest.mark.parametrize("sites", [2, 3, 4])
@pytest.mark.parametrize("chi", [2, 6, 12])
def test_same_error_as_tensorly(sites: int, chi: int) -> None:
    tensorly.set_backend("pytorch")
    weight = random_weight(64, 96, 7, decay=1)
    out_modes, in_modes = mpo.layer_modes(64, 96, sites)
    decomposed = mpo.decompose(weight, out_modes, in_modes, chi=chi)
    theirs: Any = tensor_train_matrix(weight.reshape(*out_modes, *in_modes), rank=[1, *decomposed.bond_dims, 1])
    error = mpo.relative_error(weight, dense_of(list(theirs)))
    assert mpo.relative_error(weight, dense_of(decomposed.cores)) == pytest.approx(error, rel=1e-6)


@pytest.mark.parametrize("sites", [2, 3, 4])
def test_discarded_weight_adds_up_to_the_squared_error(sites: int) -> None:
    for seed in range(5):
        weight = random_weight(64, 64, seed, decay=1)
        modes = mpo.layer_modes(64, 64, sites)
        decomposed = mpo.decompose(weight, *modes, chi=3 + seed)
        error = mpo.relative_error(weight, dense_of(decomposed.cores))
        assert math.sqrt(sum(decomposed.discarded)) == pytest.approx(error, rel=1e-9)
        # Theorem 2.2: each bond drops at most what the best cut there drops, so √(n−1) times the best possible error bounds it.
        tensor = weight.reshape(*modes[0], *modes[1]).permute([x for k in range(sites) for x in (k, sites + k)])
        sizes = [o * i for o, i in zip(*modes, strict=True)]
        cuts = [tail(tensor.reshape(math.prod(sizes[:k]), -1), decomposed.bond_dims[k - 1]) for k in range(1, sites)]
        assert max(cuts) * (1 - 1e-9) <= error <= math.hypot(*cuts) * (1 + 1e-9)


@pytest.mark.parametrize(("out_features", "in_features", "sites"), CASES)
@pytest.mark.parametrize("error", [0.5, 0.1, 1e-3, 1e-9])
def test_error_is_kept_below_what_was_asked(out_features: int, in_features: int, sites: Any, error: float) -> None:
    weight = random_weight(out_features, in_features, 8, decay=4)
    decomposed = mpo.decompose(weight, *mpo.layer_modes(out_features, in_features, sites), error=error)
    assert mpo.relative_error(weight, dense_of(decomposed.cores)[:out_features, :in_features]) <= error


def test_error_takes_the_smallest_rank_that_does() -> None:
    weight = random_weight(50, 40, 9, decay=3)
    for error in (0.7, 0.3, 0.03, 0.004):
        rank = next(r for r in range(1, 41) if tail(weight, r) <= error)
        assert mpo.decompose(weight, *mpo.layer_modes(50, 40, "low-rank"), error=error).bond_dims == (rank,)


# --- the proven bound, on spectra made to break it ---

K = 40
SPECTRA: dict[str, Tensor] = {
    "flat": torch.ones(K, dtype=torch.float64),
    "two clusters": torch.cat([torch.ones(K // 2), torch.full((K - K // 2,), 1 - 1e-9)]).double(),
    "clusters far apart": torch.cat([torch.ones(10), torch.full((20,), 1e-5), torch.full((10,), 1e-10)]).double(),
    "exponential to 1e-12": torch.logspace(0, -12, K, dtype=torch.float64),
    "exponential to 1e-30": torch.logspace(0, -30, K, dtype=torch.float64),
    "exact low rank": torch.cat([torch.ones(7), torch.zeros(K - 7)]).double(),
    "one huge": torch.cat([torch.full((1,), 1e8), torch.ones(K - 1)]).double(),
    "slow": 1 / torch.arange(1, K + 1, dtype=torch.float64),
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("shape", [(K, K), (K, 3000), (900, K)])
@pytest.mark.parametrize("scale", [1.0, 1e-140, 1e150])
def test_error_is_that_of_a_full_svd_for_every_spectrum(name: str, shape: tuple[int, int], scale: float) -> None:
    weight = with_spectrum(*shape, SPECTRA[name]) * scale
    rounding = 2e-13  # of ‖W‖: what float64 products leave, where the exact error is smaller still
    for rank in (1, 7, 10, 15, 20, 30, 39):
        decomposed = mpo.decompose(weight, *mpo.layer_modes(*shape, "low-rank"), chi=rank)
        product = dense_of(decomposed.cores)
        error = mpo.relative_error(weight / scale, product / scale)
        assert error <= tail(weight / scale, rank) * (1 + 1e-6) + rounding


def test_the_fast_path_serves_ordinary_truncation_and_the_svd_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []
    full = torch.linalg.svd

    def spy(matrix: Tensor, *args: Any, **kwargs: Any) -> Any:
        calls.append(tuple(matrix.shape))
        return full(matrix, *args, **kwargs)

    weight, cliff = random_weight(64, 96, 10, decay=1), with_spectrum(K, K, SPECTRA["exact low rank"])
    monkeypatch.setattr(torch.linalg, "svd", spy)
    for sites in (2, 3, "low-rank"):
        mpo.decompose(weight, *mpo.layer_modes(64, 96, sites), keep=0.3)
        mpo.decompose(weight, *mpo.layer_modes(64, 96, sites), chi=10_000)
    assert calls == []
    mpo.decompose(cliff, *mpo.layer_modes(K, K, "low-rank"), chi=9)
    assert calls == [(K, K)]


def test_the_gram_matrix_is_within_its_bound() -> None:
    from fractions import Fraction

    block = random_weight(5, 2500, 11, decay=1)
    lower = inner(block, block).tril()
    gram = lower + lower.tril(-1).mT
    rows = [[Fraction(x) for x in row] for row in block.tolist()]
    exact = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in rows] for x in rows]
    difference = math.sqrt(sum(float(Fraction(gram[i, j].item()) - exact[i][j]) ** 2 for i in range(5) for j in range(5)))
    assert 0 < difference <= split._gamma(GRAM_BLOCK + 3, 2**-53) * float(block.square().sum())


# --- scales, dtypes, bad input ---


@pytest.mark.parametrize(("out_features", "in_features", "sites"), CASES)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_cores_share_the_norm_and_fit_half_precision(out_features: int, in_features: int, sites: Any, scale: float) -> None:
    weight = random_weight(out_features, in_features, 12) * scale
    decomposed = mpo.decompose(weight, *mpo.layer_modes(out_features, in_features, sites), chi=8)
    norms = [float(torch.linalg.vector_norm(core)) for core in decomposed.cores]
    assert max(norms) == pytest.approx(min(norms), rel=1e-9)
    half = [core.half().double() for core in decomposed.cores]
    product = mpo.contract(decomposed.cores)
    assert mpo.relative_error(product, mpo.contract(half)) < len(half) * 2**-10


def test_low_rank_puts_the_square_root_of_each_singular_value_on_both_sides() -> None:
    weight = random_weight(50, 40, 13)
    first, second = mpo.decompose(weight, *mpo.layer_modes(50, 40, "low-rank"), chi=6).cores
    root = torch.linalg.svdvals(weight)[:6].sqrt()
    torch.testing.assert_close(torch.linalg.vector_norm(first.reshape(40, 6), dim=0), root)
    torch.testing.assert_close(torch.linalg.vector_norm(second.reshape(6, 50), dim=1), root)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_any_floating_dtype_is_decomposed_in_float64(dtype: torch.dtype) -> None:
    weight = random_weight(48, 60, 14).to(dtype)
    for sites in (2, "low-rank"):
        decomposed = mpo.decompose(weight, *mpo.layer_modes(48, 60, sites), chi=10_000)
        assert all(core.dtype == torch.float64 for core in decomposed.cores)
        assert mpo.relative_error(weight, mpo.contract(decomposed.cores)) < 1e-14


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(K, K), (K, 900), (900, K)])
def test_single_precision_products_cost_no_accuracy(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    for decay in (0.0, 1.0, 3.0, 6.0):
        weight = with_spectrum(*shape, torch.logspace(0, -decay, K, dtype=torch.float64), seed=int(decay)).to(dtype)
        for rank in (1, 4, 20, 39):
            decomposed = mpo.decompose(weight, *mpo.layer_modes(*shape, "low-rank"), chi=rank)
            best = tail(weight, rank)
            assert best * (1 - 1e-9) <= mpo.relative_error(weight, dense_of(decomposed.cores)) <= best * (1 + 1e-6) + 1e-12
            assert math.sqrt(sum(decomposed.discarded)) == pytest.approx(best, rel=2e-6, abs=1e-7)


def test_coarse_truncation_of_single_precision_stays_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = with_spectrum(64, 96, torch.ones(64, dtype=torch.float64)).float()
    rounded: list[torch.dtype] = []
    excess = split._product_excess

    def spy(s: int, k: int, dtype: torch.dtype) -> float:
        rounded.append(dtype)
        return excess(s, k, dtype)

    monkeypatch.setattr(split, "_product_excess", spy)
    mpo.decompose(weight, *mpo.layer_modes(64, 96, 3), keep=0.3)
    assert rounded == [torch.float32, torch.float32]  # the second bond was given what the first made


def test_the_weight_is_left_as_it_was() -> None:
    for sites in (3, "low-rank"):
        weight = random_weight(64, 64, 15)
        before = weight.clone()
        mpo.decompose(weight, *mpo.layer_modes(64, 64, sites), keep=0.3)
        assert torch.equal(weight, before)


@pytest.mark.parametrize("sites", [2, 3, "low-rank"])
@pytest.mark.parametrize("target", [{"chi": 3}, {"keep": 0.5}, {"error": 0.1}])
def test_a_zero_weight_gives_finite_cores_that_multiply_to_zero(sites: Any, target: dict[str, Any]) -> None:
    decomposed = mpo.decompose(torch.zeros(16, 64), *mpo.layer_modes(16, 64, sites), **target)
    product = mpo.contract(decomposed.cores)
    assert torch.equal(product, torch.zeros_like(product))
    if "error" in target:
        assert set(decomposed.bond_dims) == {1}


@pytest.mark.parametrize("rank", [1, 3])
def test_bonds_beyond_the_weights_rank_do_no_harm(rank: int) -> None:
    weight = random_weight(64, rank, 16, decay=0) @ random_weight(rank, 64, 17, decay=0)
    for sites in (2, 3, 4, "low-rank"):
        decomposed = mpo.decompose(weight, *mpo.layer_modes(64, 64, sites), chi=12)
        assert all(bool(torch.isfinite(core).all()) for core in decomposed.cores)
        assert max(float(core.abs().max()) for core in decomposed.cores) < 100
    low_rank = mpo.decompose(weight, *mpo.layer_modes(64, 64, "low-rank"), chi=12)
    assert mpo.relative_error(weight, mpo.contract(low_rank.cores)) < 1e-13


def test_padding_costs_nothing_inside_the_weight() -> None:
    weight = random_weight(31, 37, 18)
    out_modes, in_modes = mpo.layer_modes(31, 37, 2)
    assert math.prod(out_modes) > 31
    padded = torch.zeros(math.prod(out_modes), math.prod(in_modes), dtype=torch.float64)
    padded[:31, :37] = weight
    decomposed = mpo.decompose(weight, out_modes, in_modes, chi=7)
    best = tail(rearranged(padded, out_modes, in_modes), 7)
    assert mpo.relative_error(weight, mpo.contract(decomposed.cores)[:31, :37]) <= best * (1 + 1e-6)
    assert (decomposed.out_features, decomposed.in_features) == (31, 37)


@pytest.mark.parametrize(
    ("weight", "arguments", "message"),
    [
        (torch.full((8, 8), math.nan), {"chi": 2}, "64 of 64 values are NaN or infinite"),
        (torch.eye(8).index_fill(0, torch.tensor([1]), math.inf), {"chi": 2}, "8 of 64 values"),
        (torch.zeros(8), {"chi": 2}, r"shape \[8\] is not a matrix"),
        (torch.zeros(8, 8, dtype=torch.int8), {"chi": 2}, "int8 is not floating point"),
        (torch.zeros(8, 8), {}, "exactly one"),
        (torch.zeros(8, 8), {"chi": 2, "keep": 0.5}, "exactly one"),
        (torch.zeros(8, 8), {"chi": 0}, "below 1"),
        (torch.zeros(8, 8), {"error": 1.0}, "error 1.0"),
        (torch.zeros(8, 8), {"keep": 0.01}, "keep at least"),
        (torch.zeros(9, 8), {"chi": 2}, "do not cover a weight of 9×8"),
    ],
)
def test_bad_input_is_refused_with_its_value(weight: Tensor, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mpo.decompose(weight, (2, 4), (4, 2), **arguments)


def test_modes_that_name_different_sites_are_refused() -> None:
    with pytest.raises(ValueError, match="same sites"):
        mpo.decompose(torch.zeros(8, 8), (2, 4), (8,), chi=2)


def test_relative_error_of_zero_matrices() -> None:
    assert mpo.relative_error(torch.zeros(2, 2), torch.zeros(2, 2)) == 0
    assert mpo.relative_error(torch.zeros(2, 2), torch.ones(2, 2)) == math.inf
