"""`plan MODEL`: from a profile and a budget to the bond dimension of each layer. Headers and arithmetic alone: no weights, no torch."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bondwise.allocate import Candidate, Problem, Target, choose, exchange, sweep
from bondwise.checkpoint import open_checkpoint
from bondwise.errors import UserError
from bondwise.modelmap import map_model, select
from bondwise.predict import baseline_loss, loss_tables
from bondwise.profile_file import read_profile
from bondwise.schema import Budget, CalibrationOptions, EvaluateOptions, PlanFile, PlanResult, TensorizeRule
from bondwise.text import calibration_sequences

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bondwise.modelmap import Layer
    from bondwise.predict import Point
    from bondwise.schema import Method, Sensitivity, Sites

_DOWN_PROJECTIONS = frozenset(("down_proj", "dense_4h_to_h", "fc2", "fc_out", "w2", "wo", "c_proj"))
"""What the map from the MLP back to the residual stream is called. `c_proj` and `wo` are that in the MLP only, so the group decides."""
_SIZES = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


@dataclass(frozen=True)
class Request:
    """What is asked; `exclude` None stands for the default exclusions."""

    model: Path
    profile: Path
    target: str
    exclude: Sequence[str] | None = None
    floor: float = 0.1
    ceiling: float = 0.95
    method: Method = "plain"
    calibration: str | None = None
    """The text that the method learns from; None for the profile's."""


def make_plan(request: Request, output: Path | None) -> tuple[PlanResult, PlanFile | None]:
    """The figures with the exchange curve, and the plan that the file `output` shall hold (None without one).

    Raises UserError for a target that is none or cannot be reached, a profile of another model or without curves, and exclusions that
    match nothing or leave nothing.
    """
    profile = read_profile(request.profile)
    # Only headers are read here: no code of the model's folder runs.
    checkpoint = open_checkpoint(request.model, allow_code=True)
    if checkpoint.fingerprint() != profile.model.fingerprint:
        raise UserError(
            f"{request.profile} is the profile of another model, {profile.model.name}: {checkpoint.folder} differs from it.",
            f"Profile this model: profile {checkpoint.folder.name} --output {checkpoint.folder.name}.sensitivity.json",
        )
    _check_curves(request.profile, profile)
    if request.method != "plain" and profile.sites != "low-rank":
        raise UserError(
            f"{request.profile} was made with {profile.sites} sites, and says nothing of method {request.method} for them.",
            "Plan with method plain, or profile again with low-rank sites.",
        )
    tables = loss_tables(profile, request.method)
    if not tables:
        raise UserError(
            f"{request.profile} has no curve of any layer: there is nothing to plan from.",
            f"Make one, which takes minutes: profile {checkpoint.folder.name} --spectral --output {request.profile.name}",
        )
    layers = map_model(checkpoint).layers
    exclude = default_exclusions(profile) if request.exclude is None else list(request.exclude)
    target = parse_target(request.target, checkpoint.parameters)
    folder = Path.cwd() if output is None else output.parent
    budget = Budget(
        profile=_relative(request.profile, folder),
        target=request.target,
        exclude=exclude,
        floor=request.floor,
        ceiling=request.ceiling,
        method=request.method,
    )
    dense = [layer for layer in layers if layer.state == "dense" and len(layer.shape) == 2]
    excluded = {layer.name for layer in select(dense, exclude)} if exclude else set[str]()
    problem = Problem(
        parameters=checkpoint.parameters,
        bytes=checkpoint.bytes,
        baseline=baseline_loss(profile),
        candidates=_candidates([layer for layer in dense if layer.name not in excluded], tables, budget, profile.sites),
    )
    if not problem.candidates:
        raise UserError(
            f"No layer is left to compress: of the {len(tables)} in {request.profile.name}, {len(excluded & tables.keys())} are excluded "
            f"({', '.join(exclude) or 'nothing'}), and no other has a size between {request.floor:.0%} and {request.ceiling:.0%}.",
            "Exclude fewer layers, or widen --floor and --ceiling.",
        )
    steps = sweep(problem)
    state = choose(problem, steps, target, budget)
    predicted = problem.predict(state)
    chosen = [(each.layer, each.points[point]) for each, point in zip(problem.candidates, state, strict=True) if point is not None]
    result = PlanResult(
        output="" if output is None else str(output),
        exclude=exclude,
        parameters=predicted.parameters,
        original_parameters=problem.parameters,
        bytes=predicted.bytes,
        original_bytes=problem.bytes,
        predicted=predicted,
        layers={layer.name: point.parameters / layer.weight_parameters for layer, point in chosen},
        exchange=exchange(problem, steps),
    )
    if output is None:
        return result, None
    if not chosen:
        raise UserError(
            f"{request.target} asks for nothing: the model has {problem.parameters:,} parameters, {problem.bytes / 1e6:,.1f} MB, already.",
            "Choose a smaller target, such as 80%.",
        )
    return result, PlanFile(
        model=_relative(checkpoint.folder, folder),
        output=_output_folder(output, checkpoint.folder),
        budget=budget,
        predicted=predicted,
        tensorize=[
            TensorizeRule(layers=[layer.name], chi=point.chi, sites=profile.sites, method=request.method) for layer, point in chosen
        ],
        calibration=None if request.method == "plain" else _calibration(request, profile, folder),
        evaluate=EvaluateOptions(),
    )


def parse_target(text: str, parameters: int) -> Target:
    """`60%` of `parameters`, `2GB`, `perplexity<30` → what is aimed at. Raises UserError for anything else."""
    typed = text.strip().lower().replace(" ", "")
    if (match := re.fullmatch(r"(\d+\.?\d*|\.\d+)%", typed)) is not None and 0 < float(match[1]) <= 100:
        return Target("parameters", float(match[1]) / 100 * parameters)
    if (match := re.fullmatch(r"(\d+\.?\d*|\.\d+)([kmgt]i?b)", typed)) is not None and float(match[1]) > 0:
        return Target("bytes", float(match[1]) * _SIZES[match[2]])
    if (match := re.fullmatch(r"perplexity<(\d+\.?\d*|\.\d+)", typed)) is not None and float(match[1]) > 1:
        return Target("perplexity", float(match[1]))
    raise UserError(
        f"{text!r} is not a target.",
        "Give a part of the parameters up to 100% (60%), a size on disk (2GB, 500MB), or a perplexity to stay below (perplexity<30).",
    )


def default_exclusions(profile: Sensitivity) -> list[str]:
    """The first block and the down projections, as patterns, as far as the profile has them (A. Tomut et al., CompactifAI (2024), §III)."""
    first = min(profile.layers, key=lambda layer: layer.block, default=None)
    if first is None:
        return []
    columns = {layer.column for layer in profile.layers if layer.group == "mlp"}
    downs = {_without_number(column) for column in columns if column.rpartition(".")[2] in _DOWN_PROJECTIONS}
    return [f"{first.name.removesuffix(first.column)}*", *(f"*.{column}" for column in sorted(downs))]


def _check_curves(path: Path, profile: Sensitivity) -> None:
    for curve in profile.curves:
        same_length = len({len(each) for each in (curve.chi, curve.parameters, curve.plain)}) == 1
        if not (same_length and curve.chi and curve.chi[0] >= 1 and curve.chi == sorted(set(curve.chi))):
            raise UserError(
                f"{path}: the curve of {curve.layer} is damaged: its lists differ in length, or its χ do not ascend.",
                "Profile the model again.",
            )


# --- helpers ----------------------------------------------------------------------------------------------------------------------


def _candidates(layers: Sequence[Layer], tables: Mapping[str, Sequence[Point]], budget: Budget, sites: Sites) -> tuple[Candidate, ...]:
    found: list[Candidate] = []
    for layer in layers:
        dense = layer.weight_parameters
        # What would reach its dense size stays dense, whatever the ceiling.
        fitting = [
            point
            for point in tables.get(layer.name, ())
            if budget.floor * dense <= point.parameters <= budget.ceiling * dense and point.parameters < dense
        ]
        if fitting:
            found.append(Candidate(layer, tuple(sorted(fitting, key=lambda point: -point.parameters)), sites))
    return tuple(found)


def _without_number(column: str) -> str:
    """`mlp.experts.3.down_proj` → `down_proj`: one pattern for all experts; without a number the whole column."""
    return column.rpartition(".")[2] if re.search(r"\.\d+\.", column) else column


def _calibration(request: Request, profile: Sensitivity, of_plan: Path) -> CalibrationOptions:
    """The text that was asked for, else the profile's, as it was calibrated; a file relative to the plan."""
    data = request.calibration or profile.data
    if data.endswith((".txt", ".jsonl")):
        data = _relative(request.profile.parent / data, of_plan)
    if request.calibration is not None:
        return CalibrationOptions(data=data)
    return CalibrationOptions(data=data, length=profile.length, sequences=calibration_sequences(profile.sequences))


def _relative(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:
        # Another drive.
        return str(path)


def _output_folder(plan: Path, model: Path) -> str:
    """Beside the plan and named like it; never the model itself."""
    name = plan.name.removesuffix(".bondwise.json")
    return f"{name}-mpo" if plan.parent / name == model else name
