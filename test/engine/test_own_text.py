"""Text that a model writes itself, against the model's distribution without a cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from engine_runs import events, fail, finish, make_run
from tiny_models import make_tiny_model, make_tokenizer, save_tiny_model

from bondwise import own_text
from bondwise.errors import Cancelled, UserError
from bondwise.own_text import write_text

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

BEGIN, END = 5, 9


def nothing(*_: object) -> None: ...


class Marks:
    """What is asked of a tokenizer."""

    def __init__(self, begin: int | None, end: int | None) -> None:
        self.bos_token_id, self.eos_token_id = begin, end


def write(architecture: str = "llama", *, begin: int | None = BEGIN, end: int | None = END, **options: Any) -> Tensor:
    settings: dict[str, Any] = {"length": 12, "sequences": 3, "seed": 0, "progress": nothing, "check_cancelled": nothing, **options}
    marks: Any = Marks(begin, end)
    return write_text(make_tiny_model(architecture), marks, **settings)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_each_token_is_drawn_from_the_model(architecture: str) -> None:
    """Every token lies where its draw falls in the cumulative distribution of the whole sequence before it, seen without a cache."""
    ids = write(architecture, end=None)
    draws = torch.rand(3, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        cumulative = make_tiny_model(architecture)(input_ids=ids).logits.double().softmax(-1).cumsum(-1)
    assert ids[:, 0].tolist() == [BEGIN] * 3
    for row in range(3):
        for place in range(1, 12):
            token, before = int(ids[row, place]), cumulative[row, place - 1]
            below = float(before[token - 1]) if token else 0.0
            assert below - 1e-5 <= float(draws[row, place]) <= float(before[token]) + 1e-5


@pytest.mark.parametrize(("begin", "end", "first"), [(BEGIN, END, {BEGIN}), (None, END, {END}), (0, None, {0})])
def test_what_a_text_begins_with(begin: int | None, end: int | None, first: set[int]) -> None:
    assert set(write(begin=begin, end=end)[:, 0].tolist()) == first


def test_without_any_mark_the_first_token_is_drawn_evenly() -> None:
    first = write(begin=None, end=None, sequences=400, length=2)[:, 0]
    assert 0 <= int(first.min()) < 16 and 240 <= int(first.max()) < make_tiny_model("llama").config.vocab_size
    assert len(first.unique()) > 150


def test_behind_an_end_another_text_begins() -> None:
    ids = write(length=100, sequences=20)
    ends = [(row, place) for row, place in (ids[:, :-1] == END).nonzero().tolist()]
    assert ends
    assert {int(ids[row, place + 1]) for row, place in ends} == {BEGIN}


def test_the_seed_decides_and_the_batch_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    first = write()
    assert torch.equal(first, write()) and not torch.equal(first, write(seed=1))
    monkeypatch.setattr(own_text, "BATCH", 2)
    assert torch.equal(first, write())


def test_progress_counts_tokens_and_cancelling_stops() -> None:
    steps: list[tuple[float, float]] = []

    def progress(done: float, total: float) -> None:
        steps.append((done, total))

    write(progress=progress)
    assert steps == sorted(steps) and steps[-1] == (36, 36) and len(steps) > 10

    def cancel() -> None:
        if len(steps) == 15:
            raise Cancelled

    with pytest.raises(Cancelled):
        write(progress=progress, check_cancelled=cancel)


def test_longer_than_the_context_is_refused() -> None:
    with pytest.raises(UserError, match="at most 128 tokens"):
        write(length=129)


def own_run(directory: Path, model: Path, chi: int = 4) -> Path:
    rule = {"layers": ["*.q_proj"], "chi": chi, "method": "fisher"}
    options = {"tensorize": [rule], "output": str(directory.with_name(f"{directory.name}-out"))}
    return make_run(directory, "tensorize", {**options, "calibration": {"data": "self", "length": 16, "sequences": 4}}, model=str(model))


def test_a_run_calibrates_on_it_and_the_next_writes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_tiny_model("llama", tmp_path / "base")
    finish(own_run(tmp_path / "first", folder))
    phases = [event["phase"] for event in events(tmp_path / "first", "phase")]
    assert phases.count("Letting the model write its calibration text") == 1
    assert "written by the model itself" in (tmp_path / "first-out" / "README.md").read_text()
    weights = (tmp_path / "first-out" / "model.safetensors").read_bytes()
    monkeypatch.setattr(own_text, "load_model", None)
    finish(own_run(tmp_path / "again", folder))
    assert (tmp_path / "again-out" / "model.safetensors").read_bytes() == weights
    finish(own_run(tmp_path / "other", folder, chi=2))


def test_it_measures_nothing(tmp_path: Path) -> None:
    folder = save_tiny_model("llama", tmp_path / "base")
    make_tokenizer().save_pretrained(folder)
    message = fail(make_run(tmp_path / "run", "perplexity", {"evaluate": {"data": "self"}}, model=str(folder)))
    assert "for calibration alone" in message
