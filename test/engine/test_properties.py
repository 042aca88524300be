"""The mathematics on whatever hypothesis thinks of: shapes, sites, ranks, scales, spectra and dtypes that no example names."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from bondwise import allocate, mpo
from bondwise.gauge import LARGEST, fix_gauge, unfix_core
from bondwise.predict import Point
from bondwise.rounding import GROUP, round_nearest
from bondwise.schema import Budget
from bondwise.weighted import decompose_weighted, metric, predicted_loss

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

Sites = int | Literal["low-rank"]

# Decomposing takes as long as it takes on a busy machine; the seed of a failure is printed, and `derandomize` keeps CI the same every day.
prove = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

SITES: st.SearchStrategy[Sites] = st.sampled_from(["low-rank", 2, 3, 4])
KINDS = ("noise", "rank 1", "zero", "ill-conditioned", "huge", "tiny", "one number", "equal rows")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2)
STORED = {torch.float64: 1e-12, torch.float32: 1e-6}
"""Of a weight in that dtype, the relative error that a lossless decomposition may have; narrower ones are decomposed in float32."""


@st.composite
def weights(draw: Any, kinds: tuple[str, ...] = KINDS, dtypes: tuple[torch.dtype, ...] = DTYPES) -> Tensor:
    """A weight [out, in]."""
    shape = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    kind, dtype = draw(st.sampled_from(kinds)), draw(st.sampled_from(dtypes))
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    made = {
        "noise": lambda: noise,
        "rank 1": lambda: noise[:, :1] @ noise[:1],
        "zero": lambda: torch.zeros_like(noise),
        "ill-conditioned": lambda: _with_spectrum(noise, lambda size: torch.logspace(0, -14, size, dtype=torch.float64)),
        "huge": lambda: noise * (1e30 if dtype.itemsize > 2 else 1e4),
        "tiny": lambda: noise * (1e-30 if dtype.itemsize > 2 else 1e-4),
        "one number": lambda: torch.nn.functional.pad(torch.full((1, 1), 3.0).double(), (shape[1] - 1, 0, 0, shape[0] - 1)),
        "equal rows": lambda: noise[:1].expand(shape).clone(),
    }[kind]()
    limit = torch.finfo(dtype).max
    return made.clamp(-limit, limit).to(dtype)


def _with_spectrum(noise: Tensor, spectrum: Callable[[int], Tensor]) -> Tensor:
    left, values, right = torch.linalg.svd(noise, full_matrices=False)
    return (left * spectrum(len(values))) @ right


def _modes(weight: Tensor, sites: Sites) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return mpo.layer_modes(weight.shape[0], weight.shape[1], sites)


@prove
@given(weights(dtypes=(torch.float32, torch.float64, torch.bfloat16, torch.float16)), SITES)
def test_lossless_at_full_chi(weight: Tensor, sites: Sites) -> None:
    out_modes, in_modes = _modes(weight, sites)
    made = mpo.decompose(weight, out_modes, in_modes, chi=10**6)
    dense = mpo.contract(made.cores)[: weight.shape[0], : weight.shape[1]]
    assert all(bool(core.isfinite().all()) for core in made.cores)
    assert mpo.relative_error(weight, dense) <= STORED.get(weight.dtype, 1e-6) * 10
    assert sum(made.discarded) <= 1e-10


@prove
@given(weights(("noise", "ill-conditioned", "rank 1"), (torch.float64,)), SITES, st.integers(1, 12))
def test_error_is_the_discarded_weight(weight: Tensor, sites: Sites, chi: int) -> None:
    """Exactly, added up over the bonds: each cut is orthogonal to what comes after (Oseledets 2011, proof of Theorem 2.2)."""
    out_modes, in_modes = _modes(weight, sites)
    made = mpo.decompose(weight, out_modes, in_modes, chi=chi)
    padded = torch.nn.functional.pad(weight, (0, math.prod(in_modes) - weight.shape[1], 0, math.prod(out_modes) - weight.shape[0]))
    product = mpo.contract(made.cores)
    squared = mpo.relative_error(padded, product) ** 2
    assert squared == pytest.approx(sum(made.discarded), rel=1e-6, abs=1e-11)
    # What falls into the padding is cut off, so the layer itself is never worse.
    assert mpo.relative_error(weight, product[: weight.shape[0], : weight.shape[1]]) ** 2 <= squared + 1e-11
    # The first cut has no choice: what it drops is the tail of that unfolding's spectrum.
    if len(made.discarded) == 1:
        unfolded = padded.reshape(*out_modes, *in_modes).permute(0, 2, 1, 3).reshape(out_modes[0] * in_modes[0], -1)
        values = torch.linalg.svdvals(unfolded).square()
        assert made.discarded[0] == pytest.approx(float(values[chi:].sum() / values.sum()), rel=1e-6, abs=1e-11)


@prove
@given(weights(("noise", "ill-conditioned", "huge", "tiny"), (torch.float64, torch.float32)), SITES, st.floats(1e-4, 0.999))
def test_an_error_that_is_asked_for_is_kept(weight: Tensor, sites: Sites, error: float) -> None:
    made = mpo.decompose(weight, *_modes(weight, sites), error=error)
    found = mpo.relative_error(weight, mpo.contract(made.cores)[: weight.shape[0], : weight.shape[1]])
    assert found <= error * (1 + 1e-6) + 1e-5


@prove
@given(st.integers(1, 300), st.integers(1, 300), SITES, st.floats(0.01, 1))
def test_what_is_kept_is_what_fits(out_features: int, in_features: int, sites: Sites, keep: float) -> None:
    modes = mpo.layer_modes(out_features, in_features, sites)
    dense = out_features * in_features
    try:
        bonds = mpo.bond_dims_for_keep(*modes, keep, dense)
    except ValueError:
        assert mpo.parameter_count(*modes, mpo.bond_dims_for_chi(*modes, 1)) > keep * dense - 1
        return
    assert mpo.parameter_count(*modes, bonds) <= keep * dense + 1e-6
    larger = mpo.bond_dims_for_chi(*modes, max(bonds, default=1) + 1)
    assert larger == bonds or mpo.parameter_count(*modes, larger) > math.floor(keep * dense + 1e-6)


@prove
@given(weights(("noise",), (torch.float64,)), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_the_weighted_optimum_is_no_worse_than_another(weight: Tensor, chi: int, seed: int) -> None:
    """No rank-χ matrix has a smaller ½ tr(G ΔW S ΔWᵀ): not the truncated SVD, and not the optimum moved a little."""
    out_features, in_features = weight.shape
    chi = min(chi, out_features, in_features)
    generator = torch.Generator().manual_seed(seed)
    inputs, gradients = (_moment(size, generator) for size in (in_features, out_features))
    made = decompose_weighted(weight, inputs, gradients, chi=chi)
    best = predicted_loss(weight - mpo.contract(made.cores), inputs, gradients)
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    plain = (left[:, :chi] * values[:chi]) @ right[:chi]
    scale = float(weight.square().sum()) * float(metric(inputs).trace()) * float(metric(gradients).trace())
    assert best <= predicted_loss(weight - plain, inputs, gradients) + 1e-9 * scale
    u, v = (torch.randn(size, chi, generator=generator, dtype=torch.float64) for size in (out_features, in_features))
    moved = (left[:, :chi] * values[:chi] + 0.01 * u) @ (right[:chi] + 0.01 * v.mT)
    assert best <= predicted_loss(weight - moved, inputs, gradients) + 1e-9 * scale


def _moment(size: int, generator: torch.Generator) -> Tensor:
    samples = torch.randn(2 * size + 1, size, generator=generator, dtype=torch.float64)
    return samples.mT @ samples / len(samples)


@prove
@given(weights(("noise", "ill-conditioned", "huge"), (torch.float32, torch.float64)), SITES, st.integers(1, 12))
def test_the_gauge_changes_no_product_and_no_number_is_large(weight: Tensor, sites: Sites, chi: int) -> None:
    cores = mpo.decompose(weight, *_modes(weight, sites), chi=chi).cores
    before = mpo.contract(cores)
    first, others = fix_gauge(cores)
    whole = [first, *(unfix_core(core, old.shape[1], old.shape[2]) for core, old in zip(others, cores[1:], strict=True))]
    assert all(float(core.rest.abs().max()) <= LARGEST * (1 + 1e-6) for core in others if core.rest.numel())
    assert mpo.relative_error(before, mpo.contract(whole)) <= 1e-6


@prove
@given(weights(dtypes=(torch.float32, torch.bfloat16, torch.float16)), st.sampled_from([2, 3, 4, 8]))
def test_rounding_is_within_half_a_step_and_finite(weight: Tensor, bits: int) -> None:
    # Scales are float16: what they cannot say is refused before, or comes out finite.
    assume(float(weight.float().abs().max()) < 1e4)
    rounded = round_nearest(weight, bits)
    dense = rounded.dense()
    assert bool(dense.isfinite().all())
    gap = float((rounded.levels.float().diff()).max()) / 2
    allowed = rounded.scales.float().repeat_interleave(GROUP, 1)[:, : weight.shape[1]] * (gap + 2e-3) + 1e-6
    assert bool(((dense - weight.float()).abs() <= allowed * 1.01).all())


@prove
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 6), st.floats(0, 1), st.sampled_from(["parameters", "bytes"]))
def test_the_planner_keeps_its_budget(seed: int, layers: int, sizes: int, part: float, unit: Literal["parameters", "bytes"]) -> None:
    """Whatever the losses, rising or not: never above what was asked for."""
    draw = random.Random(seed)
    candidates: list[allocate.Candidate] = []
    for _ in range(layers):
        shape = draw.randint(4, 64), draw.randint(4, 64)
        layer: Any = SimpleNamespace(shape=shape, weight_parameters=math.prod(shape), dtype=draw.choice(["F32", "BF16"]))
        counts = sorted(draw.sample(range(1, math.prod(shape)), min(sizes, math.prod(shape) - 1)), reverse=True)
        points = tuple(Point(len(counts) - number, count, draw.uniform(0, 1) ** 3, 0.1, 0.0) for number, count in enumerate(counts))
        candidates.append(allocate.Candidate(layer, points))
    total = sum(candidate.layer.weight_parameters for candidate in candidates)
    problem = allocate.Problem(parameters=2 * total, bytes=8 * total, baseline=None, candidates=tuple(candidates))
    steps = allocate.sweep(problem)
    before, smallest = (getattr(problem.predict(state), unit) for state in (dense(problem), last(problem, steps)))
    limit = smallest + part * (before - smallest)
    state = allocate.choose(problem, steps, allocate.Target(unit, limit), Budget(profile="a.sensitivity.json", target="50%"))
    # Sizes are told in whole numbers.
    assert getattr(problem.predict(state), unit) <= math.ceil(limit)


def dense(problem: allocate.Problem) -> list[int | None]:
    return [None] * len(problem.candidates)


def last(problem: allocate.Problem, steps: list[allocate.Step]) -> list[int | None]:
    """Where the sweep ends."""
    state = dense(problem)
    for step in steps:
        state[step.layer] = step.point
    return state
