"""The planner against exhaustive search, the correction of curves by cells, plan files, and the commands `plan` and `run`."""

from __future__ import annotations

import itertools
import json
import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_models import save_tiny_model

from bondwise import allocate, cli, mpo, predict
from bondwise.allocate import Candidate, Problem, Target
from bondwise.checkpoint import open_checkpoint
from bondwise.errors import UserError
from bondwise.modelmap import map_model
from bondwise.plan import Request, default_exclusions, make_plan, parse_target
from bondwise.plan_file import read_plan, run_options, to_text, without_comments, write_plan
from bondwise.plan_summary import measured_text
from bondwise.predict import Point, loss_tables
from bondwise.schema import (
    BaseModelRef,
    Budget,
    CalibrationOptions,
    Cell,
    Curve,
    Figure,
    Method,
    PlanFile,
    ProfileLayer,
    Sensitivity,
    TensorizeRule,
)
from bondwise.text import calibration_sequences

BASE = 2.0
"""Mean loss of the made-up baselines, nats."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model("llama", tmp_path_factory.mktemp("models") / "tiny")


def profile_of(folder: Path, *, cells: bool = True, ratio: float = 2.0) -> Sensitivity:
    """Curves of every layer at every χ, and cells at three χ whose rise is `ratio` times what the curves say."""
    checkpoint = open_checkpoint(folder)
    layers: list[ProfileLayer] = []
    curves: list[Curve] = []
    measured: list[Cell] = []
    height = random.Random(5)
    for block in map_model(checkpoint).blocks:
        for layer in block.layers:
            out, inner = layer.shape
            modes = mpo.layer_modes(out, inner, "low-rank")
            rank = min(out, inner)
            chis = list(range(1, rank + 1))
            scale = height.uniform(0.01, 0.2)
            plain = [scale * (1 - chi / rank) ** 2 for chi in chis]
            layers.append(
                ProfileLayer(
                    name=layer.name,
                    block=block.index,
                    column=layer.name.removeprefix(f"{block.name}."),
                    group=layer.group,
                    shape=[out, inner],
                    parameters=out * inner,
                    bytes=layer.bytes,
                    out_modes=list(modes[0]),
                    in_modes=list(modes[1]),
                )
            )
            counts = [mpo.parameter_count(*modes, mpo.bond_dims_for_chi(*modes, chi)) for chi in chis]
            curves.append(Curve(layer=layer.name, chi=chis, parameters=counts, error=plain, plain=plain, input=plain, fisher=plain))
            measured += [cell(layer.name, chi, ratio * plain[chi - 1], 1e-6) for chi in (2, 5, 9)]
    return Sensitivity(
        engine="0",
        created="2026-01-01T00:00:00Z",
        model=BaseModelRef(path="../tiny", name="tiny", fingerprint=checkpoint.fingerprint()),
        sites="low-rank",
        data="builtin",
        text="0",
        length=8,
        sequences=2,
        seed=0,
        metric="perplexity",
        sizes=[0.5],
        sizes_are="keep",
        baseline={"loss": BASE, "perplexity": math.exp(BASE)},
        layers=layers,
        curves=curves,
        cells=measured if cells else [],
    )


def cell(layer: str, chi: int, rise: float, error: float, kl: Figure | None = None) -> Cell:
    figures = {"loss": Figure(value=BASE + rise, error=error)} | ({"kl": kl} if kl else {})
    return Cell(layer=layer, chi=chi, bond_dims=[chi], keep=0.5, parameters=1, figures=figures, sequences=2, seconds=0)


def write_profile(folder: Path, profile: Sensitivity) -> Path:
    path = folder / "tiny.sensitivity.json"
    path.write_text(profile.model_dump_json(), "utf-8")
    return path


# --- the choice ------------------------------------------------------------------------------------------------------------------------


def small_problem(seed: int, count: int = 5, sizes: int = 4) -> Problem:
    """Layers of equal shape with random losses, small enough to try every state."""
    layer = map_model(open_checkpoint(FOLDER[0])).layers[0]
    draw = random.Random(seed)
    candidates: list[Candidate] = []
    for _ in range(count):
        parameters = sorted(draw.sample(range(100, layer.weight_parameters), sizes), reverse=True)
        losses = sorted(draw.uniform(0, 1) ** 3 for _ in range(sizes))
        points = tuple(Point(number + 1, each, loss, 0.1, 0.0) for number, (each, loss) in enumerate(zip(parameters, losses, strict=True)))
        candidates.append(Candidate(layer, points))
    return Problem(parameters=10_000, bytes=40_000, baseline=BASE, candidates=tuple(candidates))


FOLDER: list[Path] = []


@pytest.fixture(autouse=True)
def _folder(model: Path) -> None:
    FOLDER[:] = [model]


def every_state(problem: Problem) -> list[tuple[int, float]]:
    """(parameters, loss) of all states, by enumeration."""
    choices = [[None, *range(len(candidate.points))] for candidate in problem.candidates]
    found: list[tuple[int, float]] = []
    for state in itertools.product(*choices):
        saved = loss = 0.0
        for candidate, point in zip(problem.candidates, state, strict=True):
            if point is not None:
                saved += candidate.layer.weight_parameters - candidate.points[point].parameters
                loss += candidate.points[point].loss
        found.append((problem.parameters - round(saved), loss))
    return found


@pytest.mark.parametrize("seed", range(6))
def test_each_point_of_the_exchange_curve_is_the_best_of_its_size(seed: int) -> None:
    problem = small_problem(seed)
    states = every_state(problem)
    exchange = allocate.exchange(problem, allocate.sweep(problem))
    assert len(exchange) > 4
    for point in exchange:
        best = min(loss for parameters, loss in states if parameters <= point.parameters)
        assert point.loss == pytest.approx(best, abs=1e-12)
    assert exchange[0].parameters == problem.parameters and exchange[0].loss == 0
    assert exchange[-1].parameters == min(parameters for parameters, _ in states)
    assert [each.parameters for each in exchange] == sorted((each.parameters for each in exchange), reverse=True)


@pytest.mark.parametrize("seed", range(6))
def test_between_those_it_meets_the_budget_and_loses_at_most_one_step(seed: int) -> None:
    problem = small_problem(seed)
    states = every_state(problem)
    steps = allocate.sweep(problem)
    exchange = allocate.exchange(problem, steps)
    budget = Budget(profile="p", target="x", floor=0, ceiling=1)
    for limit in range(exchange[-1].parameters, problem.parameters, 97):
        found = problem.predict(allocate.choose(problem, steps, Target("parameters", limit), budget))
        assert found.parameters <= limit
        best = min(loss for parameters, loss in states if parameters <= limit)
        # The next corner of the lower hull that is small enough is what the sweep could at worst be.
        assert best - 1e-12 <= found.loss <= min(each.loss for each in exchange if each.parameters <= limit) + 1e-12
    for size in range(exchange[-1].bytes, problem.bytes, 411):
        by_bytes = problem.predict(allocate.choose(problem, steps, Target("bytes", size), budget))
        assert by_bytes.bytes <= size
        assert by_bytes.loss <= min(each.loss for each in exchange if each.bytes <= size) + 1e-12


@pytest.mark.parametrize("seed", range(6))
def test_below_a_perplexity_it_takes_what_fits(seed: int) -> None:
    problem = small_problem(seed)
    steps = allocate.sweep(problem)
    budget = Budget(profile="p", target="x", floor=0, ceiling=1)
    sizes: list[int] = []
    for limit in (7.6, 8.0, 9.0, 12.0, 20.0, 1000.0):
        found = problem.predict(allocate.choose(problem, steps, Target("perplexity", limit), budget))
        assert found.perplexity is not None and found.perplexity < limit
        assert found.perplexity == pytest.approx(math.exp(BASE + found.loss))
        sizes.append(found.parameters)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == min(parameters for parameters, _ in every_state(problem))
    with pytest.raises(UserError, match=r"below 7 cannot be reached: the original model has 7\.389"):
        allocate.choose(problem, steps, Target("perplexity", 7.0), budget)


def test_the_error_of_a_plan_adds_up_what_is_independent_and_what_is_common() -> None:
    layer = map_model(open_checkpoint(FOLDER[0])).layers[0]
    points = [Point(1, 100, 0.3, 0.5, 0.0), Point(1, 100, 0.4, 0.2, 0.1), Point(1, 100, 0.1, 0.0, 0.6)]
    problem = Problem(1000, 4000, BASE, tuple(Candidate(layer, (point,)) for point in points))
    found = problem.predict([0, 0, 0])
    assert found.loss == pytest.approx(0.8)
    assert found.loss_error == pytest.approx(math.sqrt(0.15**2 + 0.08**2 + (0.04 + 0.06) ** 2 + 0.08**2))
    assert found.perplexity_low == pytest.approx(math.exp(BASE + found.loss - found.loss_error))
    assert found.perplexity_high == pytest.approx(math.exp(BASE + found.loss + found.loss_error))
    assert problem.predict([None, None, None]).loss_error == 0


def test_a_plan_beats_the_uniform_one_of_its_size(model: Path, tmp_path: Path) -> None:
    profile = profile_of(model)
    tables = loss_tables(profile)
    path = write_profile(tmp_path, profile)
    uniform_parameters = uniform_loss = 0.0
    for name, points in tables.items():
        layer = next(each for each in profile.layers if each.name == name)
        point = max((each for each in points if each.parameters <= 0.5 * layer.parameters), key=lambda each: each.parameters)
        uniform_parameters += point.parameters - layer.parameters
        uniform_loss += point.loss
    total = open_checkpoint(model).parameters
    share = 100 * (total + uniform_parameters) / total
    result, _ = make_plan(Request(model, path, f"{share:.6f}%", exclude=[], floor=0), None)
    assert result.parameters <= total + uniform_parameters + 1
    assert result.predicted.loss < uniform_loss


# --- what a plan is made from ------------------------------------------------------------------------------------------------------------


def test_the_curve_goes_through_what_was_measured() -> None:
    curve = Curve(layer="a", chi=[1, 2, 4, 8], parameters=[1, 2, 4, 8], error=[0] * 4, plain=[8, 4, 2, 0], input=[0] * 4, fisher=[0] * 4)
    found = _table([curve], [cell("a", 1, 32.0, 0.01), cell("a", 4, 2.0, 0.01)])["a"]
    assert [point.chi for point in found] == [1, 2, 4, 8]
    # The ratio is 4 at χ 1 and 1 at χ 4, so 2 half-way between in ln χ; exact truncation stays exact.
    assert [point.loss for point in found] == pytest.approx([32, 8, 2, 0])
    assert found[0].own == pytest.approx(0.01 / 32) and found[1].own > found[0].own


def test_layers_without_cells_take_the_median_ratio_and_its_spread() -> None:
    ratios = [1.0, 2.0, 4.0, 8.0, 16.0]
    names = [*"abcde", "unknown"]
    curves = [
        Curve(layer=name, chi=[1, 2], parameters=[1, 2], error=[0, 0], plain=[1.0, 0.5], input=[0, 0], fisher=[0, 0]) for name in names
    ]
    found = _table(curves, [cell(name, 1, ratio, 1e-9) for name, ratio in zip("abcde", ratios, strict=True)])
    assert [point.loss for point in found["unknown"]] == pytest.approx([4.0, 2.0])
    # Deviations of the logarithms from the median: 2, 1, 0, 1, 2 times ln 2.
    assert found["unknown"][0].own == pytest.approx(1.4826 * math.log(2))
    assert found["unknown"][0].common == pytest.approx(1.4826 * math.log(2) / math.sqrt(5))
    assert found["a"][0].common == 0
    spectral = _table(curves, [])
    assert [point.loss for point in spectral["a"]] == [1.0, 0.5] and spectral["a"][0].own == pytest.approx(math.log(3))


def test_another_method_than_was_measured_takes_its_own_curve_and_is_unsure() -> None:
    curves = [
        Curve(layer=name, chi=[1, 2], parameters=[1, 2], error=[0, 0], plain=[1.0, 0.5], input=[0.6, 0.3], fisher=[0.2, 0.1])
        for name in "abcde"
    ]
    cells = [cell(name, 1, ratio, 1e-9) for name, ratio in zip("abcde", [1.0, 2.0, 3.0, 8.0, 16.0], strict=True)]
    expected: dict[Method, list[float]] = {"input": [1.8, 0.9], "fisher": [0.6, 0.3], "sequential": [0.6, 0.3]}
    for method, losses in expected.items():
        found = _table(curves, cells, method)
        assert all([point.loss for point in points] == pytest.approx(losses) for points in found.values())
        assert found["a"][0].own == found["a"][0].common == pytest.approx(math.log(3))


def test_a_plan_with_another_method_says_so_in_every_rule(model: Path, tmp_path: Path) -> None:
    profile = profile_of(model)
    path = write_profile(tmp_path, profile)
    (tmp_path / "plans").mkdir()
    plan_path = tmp_path / "plans" / "p.bondwise.json"
    _, file = make_plan(Request(model, path, "85%", method="fisher"), plan_path)
    assert file is not None and file.budget is not None and file.calibration is not None
    assert file.budget.method == "fisher" and {rule.method for rule in file.tensorize} == {"fisher"}
    assert file.calibration.data == profile.data
    # The very text that the profile's curves were calibrated on: so its moments serve the run.
    assert (file.calibration.length, file.calibration.sequences) == (profile.length, calibration_sequences(profile.sequences))
    write_plan(plan_path, file)
    assert read_plan(plan_path) == file
    _, options = run_options(plan_path, file)
    assert options["calibration"]["data"] == profile.data and "refit" not in options
    assert run_options(plan_path, file.model_copy(update={"refit": ["*.down_proj"]}))[1]["refit"] == ["*.down_proj"]
    path = write_profile(tmp_path, profile.model_copy(update={"data": "mine.txt"}))
    _, file = make_plan(Request(model, path, "85%", method="input"), plan_path)
    assert file is not None and file.calibration is not None and file.calibration.data == "../mine.txt"
    assert run_options(plan_path, file)[1]["calibration"]["data"] == str(tmp_path / "mine.txt")
    for asked, data in {"self": "self", str(tmp_path / "other.txt"): "../other.txt"}.items():
        _, file = make_plan(Request(model, path, "85%", method="fisher", calibration=asked), plan_path)
        assert file is not None and file.calibration == CalibrationOptions(data=data)
    path = write_profile(tmp_path, profile.model_copy(update={"sites": 3}))
    assert "made with 3 sites" in str(refused(Request(model, path, "85%", method="fisher")))


@pytest.mark.parametrize("rise", [-0.05, 0.0, 0.05])
def test_within_noise_a_cell_bounds_the_loss_and_no_more(rise: float) -> None:
    def curve(height: float) -> Curve:
        return Curve(layer="a", chi=[1, 2], parameters=[1, 2], error=[0, 0], plain=[height, 0], input=[0, 0], fisher=[0, 0])

    # Far below the noise the prediction stands; far above it is drawn down to about the noise, and never below zero.
    assert _table([curve(1e-4)], [cell("a", 1, rise, 0.05)])["a"][0].loss == pytest.approx(1e-4, rel=0.01)
    drawn = _table([curve(10.0)], [cell("a", 1, rise, 0.05)])["a"][0]
    assert 0 < drawn.loss < 0.06 and drawn.loss * drawn.own == pytest.approx(0.05, rel=0.01)


def test_of_loss_and_divergence_the_surer_counts() -> None:
    curve = Curve(layer="a", chi=[1], parameters=[1], error=[0], plain=[1.0], input=[0], fisher=[0])
    found = _table([curve], [cell("a", 1, -0.002, 0.01, kl=Figure(value=0.003, error=0.0002))])
    assert found["a"][0].loss == pytest.approx(0.003)


def test_the_loss_never_rises_with_chi() -> None:
    curve = Curve(
        layer="a", chi=[1, 2, 3, 4], parameters=[1, 2, 3, 4], error=[0] * 4, plain=[4.0, 1.0, 3.0, 0.5], input=[0] * 4, fisher=[0] * 4
    )
    assert [point.loss for point in _table([curve], [])["a"]] == [4.0, 2.0, 2.0, 0.5]


def _table(curves: list[Curve], cells: list[Cell], method: Method = "plain") -> dict[str, list[Point]]:
    profile = Sensitivity.model_construct(curves=curves, cells=cells, baseline={"loss": BASE})
    return loss_tables(profile, method)


def test_baseline_from_a_perplexity_alone() -> None:
    assert predict.baseline_loss(Sensitivity.model_construct(baseline={"perplexity": math.e})) == pytest.approx(1)
    assert predict.baseline_loss(Sensitivity.model_construct(baseline={"kl": 0.0})) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("60%", Target("parameters", 600)),
        (" 12.5 % ", Target("parameters", 125)),
        ("2GB", Target("bytes", 2e9)),
        ("500 mb", Target("bytes", 5e8)),
        ("1.5GiB", Target("bytes", 1.5 * 2**30)),
        ("perplexity<30", Target("perplexity", 30)),
        ("Perplexity < 12.5", Target("perplexity", 12.5)),
    ],
)
def test_targets(text: str, expected: Target) -> None:
    assert parse_target(text, 1000) == expected


@pytest.mark.parametrize("text", ["", "60", "0%", "101%", "-5%", "0GB", "2 apples", "perplexity>30", "perplexity<1", "kl<1", "1e3%", "%"])
def test_what_is_no_target_is_said(text: str) -> None:
    with pytest.raises(UserError, match="is not a target") as said:
        parse_target(text, 1000)
    assert repr(text) in said.value.message and "perplexity<30" in (said.value.remedy or "")


def test_first_block_and_down_projections_stay_dense_by_default(model: Path, tmp_path: Path) -> None:
    profile = profile_of(model)
    assert default_exclusions(profile) == ["model.layers.0.*", "*.mlp.down_proj"]
    result, file = make_plan(Request(model, write_profile(tmp_path, profile), "85%"), tmp_path / "p.bondwise.json")
    assert file is not None and file.budget is not None
    assert file.budget.exclude == result.exclude == ["model.layers.0.*", "*.mlp.down_proj"]
    assert result.layers and all(name.startswith("model.layers.1.") and "down" not in name for name in result.layers)

    columns = ["self_attn.c_proj", "mlp.c_proj", "mlp.experts.0.w2", "mlp.experts.10.w2"]
    other = [
        profile.layers[0].model_copy(
            update={
                "name": f"transformer.h.3.{column}",
                "column": column,
                "block": 3,
                "group": column.split(".")[0].replace("self_attn", "attention"),
            }
        )
        for column in columns
    ]
    assert default_exclusions(profile.model_copy(update={"layers": other})) == ["transformer.h.3.*", "*.mlp.c_proj", "*.w2"]


def test_floor_and_ceiling_hold_for_every_layer(model: Path, tmp_path: Path) -> None:
    path = write_profile(tmp_path, profile_of(model))
    for target in ("95%", "85%", "78%"):
        result, _ = make_plan(Request(model, path, target, exclude=[], floor=0.3, ceiling=0.7), None)
        assert result.layers and all(0.3 <= kept <= 0.7 for kept in result.layers.values())
    whole, _ = make_plan(Request(model, path, "99.9%", exclude=[], floor=0, ceiling=1), None)
    assert all(kept < 1 for kept in whole.layers.values())


def test_figures_of_the_plan_are_those_of_the_model(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.bondwise.json"
    result, file = make_plan(Request(model, write_profile(tmp_path, profile_of(model)), "70%", exclude=["*.k_proj"]), path)
    assert file is not None
    layers = {layer.name: layer for layer in map_model(open_checkpoint(model)).layers}
    saved = orders = 0
    for rule in file.tensorize:
        (name,), chi = rule.layers, rule.chi
        assert chi is not None and rule.sites == "low-rank" and "k_proj" not in name
        out, inner = layers[name].shape
        kept = chi * (out + inner - chi)
        saved += out * inner - kept
        orders += out
        assert result.layers[name] == pytest.approx(kept / (out * inner))
    assert [rule.layers[0] for rule in file.tensorize] == [name for name in layers if name in result.layers]
    assert result.parameters == result.original_parameters - saved <= 0.7 * result.original_parameters
    assert result.bytes == result.original_bytes - 4 * saved + 4 * orders
    assert result.predicted == file.predicted
    assert result.predicted.perplexity == pytest.approx(math.exp(BASE + result.predicted.loss))
    assert file.output == "p" and (tmp_path / file.model).resolve() == model.resolve()
    assert 20 <= len(result.exchange) <= 100


# --- what cannot be planned --------------------------------------------------------------------------------------------------------------


def refused(request: Request) -> UserError:
    with pytest.raises(UserError) as said:
        make_plan(request, None)
    assert said.value.remedy
    return said.value


def test_a_budget_out_of_reach_names_the_smallest_size_and_what_holds_it(model: Path, tmp_path: Path) -> None:
    path = write_profile(tmp_path, profile_of(model))
    error = refused(Request(model, path, "5%", floor=0.25))
    smallest = make_plan(Request(model, path, "100%", floor=0.25), None)[0].exchange[-1].parameters
    assert f"{smallest:,} parameters" in error.message
    assert "floor of 25%" in (error.remedy or "") and "*.mlp.down_proj" in (error.remedy or "")
    named = float((error.remedy or "").split("Aim at ")[1].split("%")[0])
    assert make_plan(Request(model, path, f"{named}%", floor=0.25), None)[0].parameters == smallest
    assert "MB" in refused(Request(model, path, "1kB")).message


def test_a_profile_of_another_model(model: Path, tmp_path: Path) -> None:
    other = save_tiny_model("llama", tmp_path / "other", shards=2)
    error = refused(Request(other, write_profile(tmp_path, profile_of(model)), "60%"))
    assert "another model, tiny" in error.message and str(other) in error.message


def test_profiles_that_cannot_be_planned_from(model: Path, tmp_path: Path) -> None:
    profile = profile_of(model)
    path = write_profile(tmp_path, profile.model_copy(update={"curves": []}))
    error = refused(Request(model, path, "60%"))
    assert "no curve" in error.message and "--spectral" in (error.remedy or "")
    text = profile.model_dump_json()
    path.write_text(text[: len(text) // 2])
    assert "cut off" in refused(Request(model, path, "60%")).message
    path.write_text(text.replace('"version":1', '"version":9'))
    assert "newer Bondwise" in refused(Request(model, path, "60%")).message
    path.write_text('{"version": 1}')
    assert "Field required" in refused(Request(model, path, "60%")).message
    curve = profile.curves[0].model_copy(update={"plain": [1.0]})
    write_profile(tmp_path, profile.model_copy(update={"curves": [curve]}))
    assert f"the curve of {curve.layer} is damaged" in refused(Request(model, path, "60%")).message
    assert "No such file" in refused(Request(model, tmp_path / "none.sensitivity.json", "60%")).message
    write_profile(tmp_path, profile.model_copy(update={"baseline": {}, "cells": []}))
    assert "what perplexity" in refused(Request(model, path, "perplexity<30")).message


def test_exclusions_that_match_nothing_or_leave_nothing(model: Path, tmp_path: Path) -> None:
    path = write_profile(tmp_path, profile_of(model))
    assert "'*.nothing'" in refused(Request(model, path, "60%", exclude=["*.nothing"])).message
    error = refused(Request(model, path, "60%", exclude=["*"]))
    assert "No layer is left" in error.message and "14 are excluded (*)" in error.message
    assert "between 90% and 10%" in refused(Request(model, path, "60%", floor=0.9, ceiling=0.1)).message


# --- files -------------------------------------------------------------------------------------------------------------------------------

COMMENTED = """{
  // What is "this" for?
  "version": 1, /* the only one,
  so far */ "model": "m//odel", "output": "o\\"// not a comment",
  "tensorize": [
    { "layers": ["a/*b*/"], "chi": 3 }, // all of them
  ],
}
"""


def test_comments_become_blanks_and_strings_stay() -> None:
    bare = without_comments(COMMENTED)
    assert len(bare) == len(COMMENTED) and bare.count("\n") == COMMENTED.count("\n")
    value = json.loads(bare)
    assert (value["model"], value["output"]) == ("m//odel", 'o"// not a comment')
    assert value["tensorize"] == [{"layers": ["a/*b*/"], "chi": 3}]
    plain = json.dumps(value)
    assert without_comments(plain) == plain


def test_a_plan_is_read_as_it_was_written(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.bondwise.json"
    _, file = make_plan(Request(model, write_profile(tmp_path, profile_of(model)), "85%"), path)
    assert file is not None
    write_plan(path, file)
    assert read_plan(path) == file
    text = path.read_text("utf-8")
    assert all(len(line) <= 140 for line in text.splitlines())
    assert sum('"chi"' in line for line in text.splitlines()) == len(file.tensorize)
    path.write_text(text.replace('"tensorize"', '// mine\n  "tensorize"'), "utf-8")
    assert read_plan(path) == file


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "line 1"),
        ('{\n "model": "m",\n "output" "o"\n}', "line 3"),
        ('{"model": "m", "output": "o", "tensorize": []}', "tensorize: List should have at least 1 item"),
        ('{"model": "m", "output": "o", "tensorize": [{"layers": ["a"]}]}', "tensorize.0: give exactly one of chi, keep and error"),
        ('{"model": "m", "output": "o", "tensorise": []}', "tensorise: Extra inputs are not permitted"),
        ('{"model": "m", "output": "o", "tensorize": [{"layers": ["a"], "chi": 0}]}', "got 0"),
        (
            '{"model": "m", "output": "o", "quantize": [{"layers": ["a"], "scheme": "nf4"}], "heal": {"minutes": 1}}',
            "beside the bits of bitsandbytes nothing trains",
        ),
        ('{"version": 7}', "newer Bondwise"),
        ("[]", "PlanFile"),
    ],
)
def test_a_plan_that_is_wrong_is_named_with_the_place(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "p.bondwise.json"
    path.write_text(text, "utf-8")
    with pytest.raises(UserError) as error:
        read_plan(path)
    assert str(path) in error.value.message and said in error.value.message


def test_text_keeps_what_a_rule_says() -> None:
    rule = TensorizeRule(layers=["*.q_proj", "χ"], keep=0.5, exclude=["a"], sites=3)
    file = PlanFile(model="m", output="o", tensorize=[rule])
    assert PlanFile.model_validate_json(to_text(file)) == file
    assert '{ "layers": ["*.q_proj", "χ"], "exclude": ["a"], "keep": 0.5, "sites": 3 }' in to_text(file)


# --- commands ----------------------------------------------------------------------------------------------------------------------------


def bondwise(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bondwise", *map(str, arguments)]
    environment = {"PYTHONPATH": str(Path(cli.__file__).parents[1]), "PATH": "", "BONDWISE_HOME": str(folder / "home")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def answer(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_plan_and_run_from_the_command_line(model: Path, tmp_path: Path) -> None:
    write_profile(tmp_path, profile_of(model))
    arguments = ("plan", model, "--profile", "tiny.sensitivity.json", "--budget", "80%", "--exclude", "*.down_proj")
    dry = answer(bondwise(*arguments, "--dry-run", "--json", folder=tmp_path))
    assert dry["output"] == "" and not list(tmp_path.glob("*.bondwise.json"))
    made = answer(bondwise(*arguments, "--output", "plans.bondwise.json", "--json", folder=tmp_path))
    assert {**made, "output": ""} == dry
    assert made["output"] == str(tmp_path / "plans.bondwise.json")
    again = bondwise(*arguments, "--output", "plans.bondwise.json", folder=tmp_path)
    assert again.returncode == 1 and "--force" in again.stderr
    shown = bondwise(*arguments, "--output", "plans.bondwise.json", "--force", folder=tmp_path)
    assert shown.returncode == 0 and "Predicted: the loss rises by" in shown.stdout and "*.down_proj" in shown.stdout

    # The paths of a plan start at its folder, wherever the command is given.
    path = tmp_path / "plans.bondwise.json"
    text = path.read_text("utf-8").replace('"length": 512', '"length": 32 /* short */').replace('"sequences": 8', '"sequences": 2')
    path.write_text(text, "utf-8")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = bondwise("run", "../plans.bondwise.json", "--json", folder=elsewhere)
    ran = answer(done)
    assert ran["state"] == "done" and ran["output"] == str(tmp_path / "plans")
    assert ran["parameters"] == made["parameters"] and ran["bytes"] == made["bytes"]
    assert {layer["name"]: layer["keep"] for layer in ran["layers"]} == pytest.approx(made["layers"])
    assert ran["predicted"] == made["predicted"]
    shown = measured_text(ran)
    assert shown is not None
    before, after = ran["original"]["perplexity"], ran["compressed"]["perplexity"]
    rise = made["predicted"]["loss"]
    assert f"{before * math.exp(rise):.4g} (" in shown and f"{rise:.4f}" in shown
    assert f"{after:.4g} ±" in shown and f"{math.log(after / before):.4f}" in shown
    assert measured_text({**ran, "predicted": None}) is None


def test_a_plan_in_sequence_is_made_so(model: Path, tmp_path: Path) -> None:
    write_profile(tmp_path, profile_of(model))
    arguments = ("plan", model, "--profile", "tiny.sensitivity.json", "--budget", "80%", "--exclude", "*.down_proj", "--json", "--method")
    fisher = answer(bondwise(*arguments, "fisher", "--dry-run", folder=tmp_path))
    made = answer(bondwise(*arguments, "sequential", "--output", "p.bondwise.json", folder=tmp_path))
    assert (made["layers"], made["predicted"]) == (fisher["layers"], fisher["predicted"])
    path = tmp_path / "p.bondwise.json"
    path.write_text(path.read_text("utf-8").replace('"length": 512', '"length": 32'), "utf-8")
    ran = answer(bondwise("run", path, "--json", folder=tmp_path))
    assert {layer["method"] for layer in ran["layers"]} == {"sequential"}
    assert ran["parameters"] == made["parameters"] and ran["bytes"] == made["bytes"]
    assert {layer["name"]: layer["keep"] for layer in ran["layers"]} == pytest.approx(made["layers"])


def test_planning_imports_no_torch(model: Path, tmp_path: Path) -> None:
    path = write_profile(tmp_path, profile_of(model))
    check = (
        "import sys; from bondwise.cli import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "heavy = {'torch', 'transformers'} & set(sys.modules)\nassert not heavy, heavy"
    )
    arguments = [sys.executable, "-c", check, "plan", str(model), "--profile", str(path), "--budget", "85%", "--dry-run"]
    environment = {"PYTHONPATH": str(Path(cli.__file__).parents[1])}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plan", "m", "--profile", "p", "--budget", "60%"], "--output --dry-run"),
        (["plan", "m", "--profile", "p", "--dry-run"], "--budget"),
        (["plan", "m", "--profile", "p", "--budget", "60%", "--dry-run", "--floor", "2"], "from 0 to 1"),
        (["plan", "m", "--profile", "p", "--budget", "60%", "--dry-run", "--exclude", "a", "--exclude-nothing"], "not allowed with"),
        (["run"], "PLAN"),
    ],
)
def test_wrong_use_is_2_and_said(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize("name", ["plan.json", ".bondwise.json", "no/such/x.bondwise.json"])
def test_a_plan_goes_only_where_it_can_be_found(model: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_profile(tmp_path, profile_of(model))
    assert cli.main(["plan", str(model), "--profile", str(path), "--budget", "80%", "--output", str(tmp_path / name)]) == 1
    assert "name of a plan" in (said := capsys.readouterr().err) or "There is no folder" in said


def test_run_names_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", str(tmp_path / "none.bondwise.json")]) == 1
    assert "No such file" in capsys.readouterr().err
    path = tmp_path / "p.bondwise.json"
    write_plan(path, PlanFile(model="nowhere", output="o", tensorize=[TensorizeRule(layers=["*"], chi=2)]))
    assert cli.main(["run", str(path)]) == 1
    assert f"There is no model folder {tmp_path / 'nowhere'}" in capsys.readouterr().err
