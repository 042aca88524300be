"""Several texts to learn from: their shares, their order, and where they are named."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from engine_runs import fail, finish, make_run
from tiny_models import make_tokenizer, save_tiny_model

from bondwise import cli
from bondwise.calibration_text import CalibrationText, by_turns
from bondwise.errors import UserError
from bondwise.plan_file import read_plan, run_options
from bondwise.request import parse_request
from bondwise.schema import CalibrationOptions
from bondwise.text import token_sequences

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from bondwise.cli import Arguments


def no_text(_: CalibrationOptions) -> Tensor:
    raise AssertionError("nothing asks for the model's own text")


def text_file(path: Path, word: str) -> str:
    path.write_text("".join(f"{word} number {number}.\n\n" for number in range(3000)))
    return str(path)


@pytest.mark.parametrize(
    ("weights", "sequences", "expected"),
    [
        ([1.0], 3, [0, 0, 0]),
        ([1.0, 1.0], 4, [0, 1, 0, 1]),
        ([3.0, 1.0], 8, [0, 0, 1, 0, 0, 0, 1, 0]),
        ([1.0, 2.0, 1.0], 8, [1, 0, 2, 1, 1, 0, 2, 1]),
    ],
)
def test_texts_come_by_turns_and_both_halves_have_the_same_of_each(weights: list[float], sequences: int, expected: list[int]) -> None:
    assert by_turns(weights, sequences) == expected
    for number in range(len(weights)):
        halves = [half.count(number) for half in (expected[: sequences // 2], expected[sequences // 2 :])]
        assert abs(halves[0] - halves[1]) <= 1


def test_too_few_sequences_for_one_of_each_are_refused() -> None:
    with pytest.raises(UserError, match="none of calibration text 2 of 2"):
        by_turns([9.0, 1.0], 3)


def test_the_sequences_are_those_of_each_text_alone(tmp_path: Path) -> None:
    first, second = text_file(tmp_path / "a.txt", "apple"), text_file(tmp_path / "b.txt", "pear")
    options = CalibrationOptions.model_validate({"data": first, "also": [{"data": second, "weight": 2}], "length": 32, "sequences": 6})
    tokenizer = make_tokenizer()
    found = CalibrationText(tokenizer, options, seed=3).ids(no_text)
    turns = by_turns([1, 2], 6)
    for number, data in enumerate((first, second)):
        alone = token_sequences(tokenizer, data, "calibration", length=32, sequences=turns.count(number), seed=3)
        assert torch.equal(found[[at for at, turn in enumerate(turns) if turn == number]], alone)


def test_the_models_own_text_may_be_one_of_them(tmp_path: Path) -> None:
    options = CalibrationOptions.model_validate({"data": "builtin", "also": [{"data": "self"}], "length": 16, "sequences": 5})
    asked: list[CalibrationOptions] = []

    def write(own: CalibrationOptions) -> Tensor:
        asked.append(own)
        return torch.full((own.sequences, own.length), 7)

    found = CalibrationText(make_tokenizer(), options, seed=0).ids(write)
    assert [(own.data, own.also, own.sequences, own.length) for own in asked] == [("self", [], 2, 16)]
    assert [bool((row == 7).all()) for row in found] == [False, True, False, True, False]


def test_a_run_learns_from_both_and_says_so(tmp_path: Path) -> None:
    model = save_tiny_model("llama", tmp_path / "base")
    text_file(tmp_path / "a.txt", "apple")
    rule = {"layers": ["*.0.*.q_proj"], "chi": 4, "method": "input"}
    calibration: dict[str, Any] = {"data": "builtin", "also": [{"data": "../a.txt"}], "length": 48, "sequences": 4}
    options = {"tensorize": [rule], "output": str(tmp_path / "out"), "calibration": calibration}
    finish(make_run(tmp_path / "run", "tensorize", options, model=str(model)))
    assert "Calibration text: `builtin` and `a.txt`, 4 sequences of 48 tokens." in (tmp_path / "out" / "README.md").read_text()
    calibration["also"] = [{"data": "../missing.txt"}]
    message = fail(make_run(tmp_path / "none", "tensorize", {**options, "output": str(tmp_path / "none-out")}, model=str(model)))
    assert "missing.txt does not exist" in message


def test_files_beside_the_first_are_relative_to_the_request_and_to_the_plan(tmp_path: Path) -> None:
    calibration = {"data": "a.txt", "also": [{"data": "sub/b.jsonl", "weight": 2.0}, {"data": "org/set"}]}
    options: dict[str, Any] = {"tensorize": [{"layers": ["*"], "chi": 4}], "output": "out", "calibration": calibration}
    request = {"version": 1, "kind": "tensorize", "created": "", "title": "", "model": "m", "options": options}
    parsed: Any = parse_request(request, tmp_path)
    there = [str(tmp_path / "a.txt"), str(tmp_path / "sub" / "b.jsonl"), "org/set"]
    assert [parsed.options.calibration.data, *(text.data for text in parsed.options.calibration.also)] == there
    plan = tmp_path / "p.bondwise.json"
    plan.write_text(json.dumps({"model": "m", **options}))
    _, found = run_options(plan, read_plan(plan))
    assert [found["calibration"]["data"], *(text["data"] for text in found["calibration"]["also"])] == there


def test_the_command_line_takes_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def work(_parsed: Arguments, _kind: str, _title: str, options: dict[str, Any]) -> int:
        asked.append(options["calibration"])
        return 0

    monkeypatch.setattr(cli, "_work", work)
    line = ["tensorize", "m", "--layers", "*", "--chi", "4", "--output", "o", "--method", "fisher", "--sequences", "12"]
    cli.main([*line, "--calibration", "builtin=2", "--calibration", "self", "--calibration", "org/set=3"])
    assert asked == [{"data": "builtin", "also": [{"data": "self", "weight": 0.5}, {"data": "org/set", "weight": 1.5}], "sequences": 12}]
