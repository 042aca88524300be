"""`NAME.bondwise.json`: read with its comments, written whole or not at all, turned into the request of a run."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from bondwise import atomic
from bondwise.errors import UserError
from bondwise.request import describe
from bondwise.schema import SCHEMA_VERSION, PlanFile, TensorizeRule

if TYPE_CHECKING:
    from bondwise.schema import QuantizeRule

PLAN_SUFFIX = ".bondwise.json"
_STRING = r'"(?:\\.|[^"\\\n])*"'
_COMMENT = re.compile(rf"{_STRING}|//[^\n]*|/\*.*?\*/", re.DOTALL)
_TRAILING_COMMA = re.compile(rf"{_STRING}|,(?=\s*[\]}}])")


def read_plan(path: Path) -> PlanFile:
    """The plan in `path`, as it stands there. Raises UserError, naming the file and the line or key, when it is missing or none."""
    remedy = "Mend the file, or make a plan anew: plan MODEL --profile FILE --budget 60% --output FILE."
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as failure:
        reason = failure.strerror if isinstance(failure, OSError) else str(failure)
        raise UserError(f"{path} cannot be read: {reason}.", remedy) from None
    try:
        value: Any = atomic.from_json(without_comments(text))
    except ValueError as failure:
        raise UserError(f"{path} is not JSON: {failure}.", remedy) from None
    version = value.get("version") if isinstance(value, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        text = f"{path} was made by a newer Bondwise: it has version {version}, this one reads up to {SCHEMA_VERSION}."
        raise UserError(text, "Update Bondwise.")
    try:
        return PlanFile.model_validate(value)
    except ValidationError as failure:
        raise UserError(f"{path}: {describe(failure)}.", remedy) from None


def check_plan_path(path: Path, *, replace: bool) -> None:
    """Raises UserError when `path` is no name of a plan, lies in no folder, or is there already and not to be replaced."""
    if not path.name.endswith(PLAN_SUFFIX) or path.name == PLAN_SUFFIX:
        raise UserError(f"{path.name} is not the name of a plan file.", f"Choose a name such as small{PLAN_SUFFIX}.")
    if path.exists() and not replace:
        raise UserError(f"{path} exists, and may hold changes and comments of yours.", "Choose another --output, or --force.")
    if not path.parent.is_dir():
        raise UserError(f"There is no folder {path.parent}.", "Make it, or choose another --output.")


def write_plan(path: Path, plan: PlanFile) -> None:
    """Writes `plan`, whole or not at all. Raises OSError when the disk is full or the folder cannot be written."""
    atomic.write_bytes(path, to_text(plan).encode())


def to_text(plan: PlanFile) -> str:
    """A plan as a person would lay it out: one line for a rule."""
    fields = plan.model_dump(by_alias=True, exclude_none=True, exclude={"tensorize", "quantize"})
    last = {key: fields.pop(key) for key in ("calibration", "refit", "heal", "evaluate") if key in fields}
    head = [f"  {json.dumps(key)}: {_indented(value)}" for key, value in fields.items()]
    rules = ",\n".join(f"    {_rule(rule)}" for rule in (*plan.tensorize, *plan.quantize))
    tail = [f"  {json.dumps(key)}: {_indented(value)}" for key, value in last.items()]
    return "{\n" + ",\n".join([*head, f'  "{plan_kind(plan)}": [\n{rules}\n  ]', *tail]) + "\n}\n"


def without_comments(text: str) -> str:
    """JSON with comments and trailing commas → JSON: each becomes as many blanks, so that lines and columns stay."""

    def blank(match: re.Match[str]) -> str:
        return match[0] if match[0].startswith('"') else re.sub(r"[^\n]", " ", match[0])

    return _TRAILING_COMMA.sub(blank, _COMMENT.sub(blank, text))


def plan_kind(plan: PlanFile) -> Literal["tensorize", "quantize"]:
    """The kind of the run that does what the plan says."""
    return "quantize" if plan.quantize else "tensorize"


def run_options(path: Path, plan: PlanFile) -> tuple[str, dict[str, Any]]:
    """The model and the options of the run that does what the plan says; paths taken from the plan's folder."""
    folder = path.parent
    options: dict[str, Any] = {
        plan_kind(plan): [rule.model_dump(exclude_none=True) for rule in (*plan.tensorize, *plan.quantize)],
        "output": _absolute(plan.output, folder),
    }
    if plan.predicted is not None:
        options["predicted"] = plan.predicted.model_dump(exclude_none=True)
    if plan.refit is not None:
        options["refit"] = plan.refit
    for key, text in (("calibration", plan.calibration), ("evaluate", plan.evaluate)):
        if text is not None:
            options[key] = _with_files(text.model_dump(), folder)
    return _absolute(plan.model, folder), options


def _with_files(text: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A text as options, and those beside it, with absolute files."""
    found = text | {"data": _absolute(text["data"], folder)} if _is_file(text["data"]) else text
    return found | ({"also": [_with_files(one, folder) for one in text["also"]]} if "also" in text else {})


def heal_options(path: Path, plan: PlanFile) -> dict[str, Any] | None:
    """The options of the run that heals what `run_options` makes, paths taken from the plan's folder; None where the plan has no `heal`."""
    if plan.heal is None:
        return None
    folder, heal = path.parent, plan.heal
    options = heal.model_dump(exclude_none=True, exclude_defaults=True)
    options["data"] = [_with_files(one.model_dump(), folder) for one in heal.data]
    if heal.teacher is not None:
        options["teacher"] = _absolute(heal.teacher, folder)
    options["output"] = _absolute(heal.output or f"{plan.output}-healed", folder)
    if plan.evaluate is not None:
        options["evaluate"] = run_options(path, plan)[1]["evaluate"]
    return options


def _is_file(data: str) -> bool:
    return data.endswith((".txt", ".jsonl"))


def _absolute(path: str, folder: Path) -> str:
    return os.path.abspath(folder / Path(path).expanduser())  # noqa: PTH100 -- a symlinked folder keeps the name that the user gave


def _rule(rule: TensorizeRule | QuantizeRule) -> str:
    shown = {"layers": rule.layers, **rule.model_dump(exclude_defaults=True, exclude={"layers"})}
    if isinstance(rule, TensorizeRule):
        shown["sites"] = rule.sites
    return "{ " + json.dumps(shown, ensure_ascii=False)[1:-1] + " }"


def _indented(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2).replace("\n", "\n  ")
