"""Cores of interleaved sites fitted to a calibration text: against dense normal equations, plain cores, and the exact low rank."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from engine_runs import finish, make_run
from moment_problems import Problem, loss, problem, ridged
from tiny_models import save_tiny_model
from transformers import AutoModelForCausalLM

from bondwise import als, mpo
from bondwise.moments import Moments
from bondwise.weighted import metrics

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

Modes = tuple[tuple[int, ...], tuple[int, ...]]

SHAPES: dict[str, Modes] = {
    "two sites": ((4, 6), (8, 5)),
    "wide": ((2, 4), (12, 5)),
    "tall": ((6, 8), (4, 3)),
    "three sites": ((2, 3, 4), (4, 3, 3)),
    "four sites": ((2, 2, 3, 2), (3, 2, 2, 2)),
    "uneven sites": ((1, 24), (5, 8)),
}


def change_of(given: Problem, found: mpo.MPO) -> Tensor:
    weight = given.weight.double()
    return weight - mpo.contract(found.cores)[: weight.shape[0], : weight.shape[1]]


def loss_of(given: Problem, found: mpo.MPO, method: str = "fisher") -> float:
    change = change_of(given, found)
    if method == "fisher":
        return loss(change, given.moments)
    return 0.5 * float(torch.trace(change @ ridged(given.moments.inputs) @ change.mT))


def fitted(given: Problem, modes: Modes, chi: int | Sequence[int], method: str = "fisher") -> mpo.MPO:
    gradients = given.moments.gradients if method == "fisher" else None
    return als.decompose(given.weight, *modes, given.moments.inputs, gradients, chi=chi)


def best_core(given: Problem, found: mpo.MPO, k: int) -> float:
    """The least loss over core k, the others held: the normal equations, dense in float64, from the map's columns one by one."""
    moments = given.moments
    assert moments.gradients is not None
    outputs, inputs = torch.linalg.cholesky(ridged(moments.gradients)), torch.linalg.cholesky(ridged(moments.inputs))
    columns: list[Tensor] = []
    for place in range(found.cores[k].numel()):
        unit = torch.zeros_like(found.cores[k]).reshape(-1)
        unit[place] = 1
        cores = [*found.cores[:k], unit.reshape(found.cores[k].shape), *found.cores[k + 1 :]]
        made = mpo.contract(cores)[: given.weight.shape[0], : given.weight.shape[1]]
        columns.append((outputs.mT @ made @ inputs).reshape(-1))
    target = (outputs.mT @ given.weight.double() @ inputs).reshape(-1, 1)
    design = torch.stack(columns, dim=1)
    solution = torch.linalg.lstsq(design, target, driver="gelsd").solution
    return 0.5 * float((design @ solution - target).square().sum())


@pytest.mark.parametrize("method", ["input", "fisher"])
@pytest.mark.parametrize("name", SHAPES)
def test_less_is_lost_than_by_the_plain_cores(name: str, method: str) -> None:
    modes = SHAPES[name]
    given = problem(torch.Size(modes[0]).numel(), torch.Size(modes[1]).numel())
    exact = max(mpo.max_bond_dims(*modes))
    for chi in sorted({1, max(1, exact // 3), exact - 1}):
        plain = mpo.decompose(given.weight, *modes, chi=chi)
        found = fitted(given, modes, chi, method)
        assert (found.out_modes, found.in_modes, found.bond_dims) == (*modes, plain.bond_dims)
        assert loss_of(given, found, method) < 0.9 * loss_of(given, plain, method)
        relative = float(change_of(given, found).norm() / given.weight.norm())
        assert sum(found.discarded) == pytest.approx(relative**2, rel=1e-6)
        norms = torch.tensor([float(core.norm()) for core in found.cores])
        torch.testing.assert_close(norms, norms.mean().expand_as(norms))


@pytest.mark.parametrize(("out_features", "in_features", "sites"), [(7, 11, 2), (13, 22, 3), (29, 6, 2), (11, 30, 4)])
def test_padding_costs_nothing(out_features: int, in_features: int, sites: int) -> None:
    given = problem(out_features, in_features)
    modes = mpo.layer_modes(out_features, in_features, sites)
    assert torch.Size(modes[0]).numel() > out_features or torch.Size(modes[1]).numel() > in_features
    for method in ("input", "fisher"):
        plain = mpo.decompose(given.weight, *modes, chi=3)
        assert loss_of(given, fitted(given, modes, 3, method), method) < 0.9 * loss_of(given, plain, method)


@pytest.mark.parametrize("name", ["two sites", "three sites"])
def test_many_steps_end_where_no_core_alone_can_do_better(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = SHAPES[name]
    given = problem(24, torch.Size(modes[1]).numel())
    monkeypatch.setattr(als, "STEPS", 300)
    monkeypatch.setattr(als, "SWEEPS", 60)
    monkeypatch.setattr(als, "TOLERANCE", 1e-5)
    monkeypatch.setattr(als, "STEP_TOLERANCE", 1e-7)
    found = fitted(given, modes, 4)
    reached = loss_of(given, found)
    for k in range(len(found.cores)):
        assert best_core(given, found, k) == pytest.approx(reached, rel=2e-2)


def start_of(given: Problem, modes: Modes, chi: int) -> als.Fit:
    moments = given.moments
    by_input, by_output = metrics(given.weight, moments.inputs, moments.gradients)
    frame = als.Frame(given.weight.double(), *modes, by_input, by_output)
    return als.Fit(frame, frame.start(mpo.bond_dims_for_chi(*modes, chi)))


def made_by(fit: als.Fit, given: Problem) -> mpo.MPO:
    out_features, in_features = given.weight.shape
    return mpo.MPO(tuple(fit.frame.leave(fit.cores)), out_features, in_features, ())


def test_one_core_is_the_solution_of_its_normal_equations(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, gradients = torch.randn(10, 40, generator=generator), torch.randn(12, 40, generator=generator)
    # Moments of one scale: what is left is not the rounding of float32.
    given = Problem(torch.randn(12, 10, generator=generator), Moments(inputs @ inputs.mT / 40, gradients @ gradients.mT / 40, 40))
    monkeypatch.setattr(als, "STEPS", 400)
    monkeypatch.setattr(als, "STEP_TOLERANCE", 0.0)
    fit = start_of(given, ((3, 4), (5, 2)), 3)
    fit.improve(0)
    found = made_by(fit, given)
    assert loss_of(given, found) == pytest.approx(best_core(given, found, 0), rel=1e-6)


def test_no_core_raises_the_loss_and_it_is_the_loss_of_what_comes_out() -> None:
    given = problem(24, 36)
    fit = start_of(given, SHAPES["three sites"], 5)
    unit = loss_of(given, made_by(fit, given)) / fit.loss
    losses = [fit.loss]
    for _ in range(4):
        fit.run()
        losses.append(fit.loss)
        assert loss_of(given, made_by(fit, given)) == pytest.approx(unit * fit.loss, rel=1e-3)
    assert losses == sorted(losses, reverse=True) and losses[1] < 0.7 * losses[0]


@pytest.mark.parametrize("name", SHAPES)
def test_nothing_is_lost_at_full_bond_dimensions(name: str) -> None:
    modes = SHAPES[name]
    given = problem(torch.Size(modes[0]).numel(), torch.Size(modes[1]).numel())
    found = fitted(given, modes, max(mpo.max_bond_dims(*modes)))
    assert float(change_of(given, found).norm()) <= 1e-6 * float(given.weight.norm())


def test_low_rank_sites_get_the_exact_solution_and_fits_stay_above_it() -> None:
    given = problem(24, 40)
    low_rank: Modes = ((1, 24), (40, 1))
    exact = loss_of(given, fitted(given, low_rank, 6))
    # The same matrices, with the sites the other way round: no fit can be better, and a good one is near.
    turned: Modes = ((24, 1), (1, 40))
    reached = loss_of(given, fitted(given, turned, 6))
    assert exact * (1 - 1e-6) <= reached < 2 * exact < loss_of(given, mpo.decompose(given.weight, *turned, chi=6))


def test_a_fit_that_went_wrong_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    given = problem(24, 36)
    modes = SHAPES["three sites"]
    plain = mpo.contract(mpo.decompose(given.weight, *modes, chi=5).cores)
    for wrong in (-1e3, float("nan")):

        def spoil(fit: als.Fit, factor: float = wrong) -> None:
            fit.cores[0] = fit.cores[0] * factor

        monkeypatch.setattr(als.Fit, "run", spoil)
        torch.testing.assert_close(mpo.contract(fitted(given, modes, 5).cores), plain)


def test_moments_of_few_tokens_silent_channels_and_zero_moments() -> None:
    modes = SHAPES["three sites"]
    few = problem(24, 36, tokens=5)
    gradients = few.moments.gradients
    assert gradients is not None
    silent = few.moments.inputs.clone()
    silent[7], silent[:, 7] = 0, 0
    plain = mpo.decompose(few.weight, *modes, chi=4)
    for inputs, outputs in ((few.moments.inputs, gradients), (silent, gradients), (few.moments.inputs * 1e-24, gradients * 1e-18)):
        given = Problem(few.weight, Moments(inputs, outputs, 5))
        found = fitted(given, modes, 4)
        assert all(bool(core.isfinite().all()) for core in found.cores)
        assert loss_of(given, found) < loss_of(given, plain)
    for inputs, outputs in ((few.moments.inputs, torch.zeros(24, 24)), (torch.zeros(36, 36), gradients)):
        found = fitted(Problem(few.weight, Moments(inputs, outputs, 5)), modes, 4)
        torch.testing.assert_close(mpo.contract(found.cores), mpo.contract(plain.cores))


def test_a_zero_weight_and_scales_far_from_one() -> None:
    given = problem(24, 40)
    modes = SHAPES["two sites"]
    assert float(mpo.contract(fitted(given._replace(weight=torch.zeros(24, 40)), modes, 3).cores).abs().max()) == 0
    expected = loss_of(given, fitted(given, modes, 3))
    for scale in (1e-30, 1e30):
        scaled = given._replace(weight=given.weight * scale)
        assert loss_of(scaled, fitted(scaled, modes, 3)) == pytest.approx(scale**2 * expected, rel=1e-2)


def test_what_is_wrong_is_named() -> None:
    given = problem(24, 40)
    modes = SHAPES["two sites"]
    inputs, gradients = given.moments.inputs, given.moments.gradients
    assert gradients is not None
    broken = inputs.clone()
    broken[0, 1] = float("nan")
    for first, second, chi, what in (
        (gradients, gradients, 2, "inputs is"),
        (inputs, inputs, 2, "gradients is"),
        (broken, gradients, 2, "inputs has"),
        (inputs, gradients, 0, "below 1"),
    ):
        with pytest.raises(ValueError, match=what):
            als.decompose(given.weight, *modes, first, second, chi=chi)
    with pytest.raises(ValueError, match="weight has"):
        als.decompose(given.weight * float("nan"), *modes, inputs, gradients, chi=2)
    with pytest.raises(ValueError, match="do not cover"):
        als.decompose(given.weight, (4, 5), (8, 5), inputs, gradients, chi=2)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_whole_model_from_request_to_folder(architecture: str, tmp_path: Path) -> None:
    folder = save_tiny_model(architecture, tmp_path / "base")
    losses: dict[tuple[str, int], dict[str, float]] = {}
    for sites in (2, 3):
        for method in ("plain", "input", "fisher"):
            name = f"{method}-{sites}"
            rule = {"layers": ["*"], "chi": 4, "sites": sites, "method": method}
            options = {"tensorize": [rule], "output": str(tmp_path / f"out-{name}"), "calibration": {"length": 64, "sequences": 6}}
            result = finish(make_run(tmp_path / name, "tensorize", options, model=str(folder)))
            assert {layer["method"] for layer in result["layers"]} == {method}
            losses[method, sites] = {layer["name"]: layer["loss"] for layer in result["layers"]}
            assert all(len(layer["bond_dims"]) == sites - 1 for layer in result["layers"])
    assert all(loss is not None and loss >= 0 for loss in losses["fisher", 2].values())
    AutoModelForCausalLM.from_pretrained(tmp_path / "out-fisher-3", trust_remote_code=True)
    assert json.loads((tmp_path / "out-fisher-2" / "config.json").read_text())["mpo"]["layers"]
