"""The profile file: what is read, what is refused with which words, how profiles add up."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from bondwise.errors import UserError
from bondwise.profile_file import Book, check_same, read_profile
from bondwise.profile_summary import profile_text
from bondwise.schema import BaseModelRef, Cell, Curve, Figure, ProfileLayer, Sensitivity

if TYPE_CHECKING:
    from pathlib import Path


def layer(block: int, column: str = "mlp.up_proj") -> ProfileLayer:
    return ProfileLayer(
        name=f"model.layers.{block}.{column}",
        block=block,
        column=column,
        group="mlp",
        shape=[40, 20],
        parameters=800,
        bytes=1600,
        out_modes=[1, 40],
        in_modes=[20, 1],
    )


def cell(block: int, chi: int, sequences: int = 4, **figures: float) -> Cell:
    return Cell(
        layer=f"model.layers.{block}.mlp.up_proj",
        chi=chi,
        bond_dims=[chi],
        keep=chi * 60 / 800,
        parameters=chi * 60,
        figures={name: Figure(value=value, error=0.25) for name, value in figures.items()},
        sequences=sequences,
        seconds=1.0,
    )


def curve(block: int) -> Curve:
    return Curve(
        layer=f"model.layers.{block}.mlp.up_proj",
        chi=[1, 4, 20],
        parameters=[60, 240, 1200],
        error=[0.9, 0.5, 0.0],
        plain=[0.5 + block, 0.25 + block, 0.0],
        input=[0.5, 0.25, 0.0],
        fisher=[0.5, 0.25, 0.0],
    )


def profile(**changes: Any) -> Sensitivity:
    values: dict[str, Any] = {
        "engine": "0.1.0",
        "created": "2026-01-01T00:00:00Z",
        "model": BaseModelRef(path="../model", name="model", fingerprint="f" * 64),
        "sites": "low-rank",
        "data": "builtin",
        "text": "a" * 64,
        "length": 512,
        "sequences": 8,
        "seed": 0,
        "metric": "perplexity",
        "sizes": [0.3],
        "sizes_are": "keep",
        "layers": [layer(0), layer(1)],
    }
    return Sensitivity.model_validate(values | changes)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "m.sensitivity.json"
    book = Book(path, profile())
    book.add(baseline={"loss": 3.0}, curves=[curve(1), curve(0)], cells=[cell(1, 4, loss=3.5), cell(0, 4, loss=3.25), cell(0, 1, loss=4.0)])
    book.write(correlation=0.5, complete=True)
    found = read_profile(path)
    assert found == book.profile(correlation=0.5, complete=True)
    assert [(one.layer[13], one.chi) for one in found.cells] == [("0", 1), ("0", 4), ("1", 4)]
    assert [one.layer[13] for one in found.curves] == ["0", "1"]
    assert found.complete and found.baseline == {"loss": 3.0}


def test_figures_of_one_cell_add_up_metric_by_metric(tmp_path: Path) -> None:
    book = Book(tmp_path / "m.sensitivity.json", profile(layers=[layer(1)]))
    book.add(cells=[cell(1, 4, loss=3.5, kl=0.5)])
    book.merge(profile(layers=[layer(0)], cells=[cell(1, 4, 2, kl=0.75), cell(0, 4, agreement=0.5)], curves=[curve(0)]))
    made = book.profile()
    assert [one.name for one in made.layers] == ["model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"]
    assert {name: figure.value for name, figure in made.cells[1].figures.items()} == {"loss": 3.5, "kl": 0.75}
    assert len(made.cells) == 2 and len(made.curves) == 1 and not made.complete


def test_a_journal_folds_into_the_same_profile(tmp_path: Path) -> None:
    first = profile(cells=[cell(0, 1, loss=4.0)], baseline={"loss": 3.0})
    events = [
        {"type": "started"},
        {"type": "profile", "profile": first.model_dump()},
        {"type": "curve", "curve": curve(0).model_dump()},
        {"type": "baseline", "baseline": {"task:capitals": 0.5}},
        {"type": "cell", "cell": cell(0, 1, kl=0.5).model_dump()},
        {"type": "cell", "cell": cell(1, 1, loss=4.5).model_dump()},
    ]
    book = Book(tmp_path / "m.sensitivity.json", profile())
    assert book.fold(events)
    made = book.profile()
    assert made.baseline == {"loss": 3.0, "task:capitals": 0.5}
    assert [set(one.figures) for one in made.cells] == [{"loss", "kl"}, {"loss"}]
    assert not Book(tmp_path / "m.sensitivity.json", profile()).fold([{"type": "started"}])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"version": 1, "layers": [', "is cut off or not JSON"),
        (b"", "is cut off or not JSON"),
        (b"\xff\xfe\x00", "is cut off or not JSON"),
        (b"[]", "is not a profile"),
        (b'{"version": 1}', "is not a profile: engine: Field required"),
        (b'{"version": 9}', "was made by a newer Bondwise: it has version 9"),
    ],
)
def test_what_is_no_profile_is_named(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "m.sensitivity.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as failed:
        read_profile(path)
    assert said in failed.value.message and str(path) in failed.value.message and failed.value.remedy
    with pytest.raises(UserError, match=r"absent.* cannot be read"):
        read_profile(tmp_path / "absent.sensitivity.json")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"model": BaseModelRef(path="x", name="other", fingerprint="0" * 64)},
            "the model (model, ffffffffffff there, other, 000000000000 now)",
        ),
        ({"sites": 3}, "the sites (low-rank there, 3 now)"),
        ({"length": 64}, "the length (512 there, 64 now)"),
        ({"sequences": 2, "seed": 5, "text": "b" * 64}, "the number of sequences (8 there, 2 now), the seed (0 there, 5 now)"),
        ({"text": "b" * 64, "data": "t.txt"}, "the text (builtin there, t.txt now; their tokens differ)"),
    ],
)
def test_what_differs_is_named(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as failed:
        check_same(tmp_path / "m.sensitivity.json", profile(), profile(**changes))
    assert said in failed.value.message and "m.sensitivity.json" in failed.value.message


def test_metric_sizes_and_layers_may_differ(tmp_path: Path) -> None:
    other = profile(
        metric="kl",
        sizes=[4.0],
        sizes_are="chi",
        layers=[layer(5)],
        model=BaseModelRef(path="elsewhere", name="copy", fingerprint="f" * 64),
    )
    check_same(tmp_path / "m.sensitivity.json", profile(), other)


def test_a_half_written_profile_is_never_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.sensitivity.json"
    book = Book(path, profile())
    book.write()
    before = path.read_bytes()
    book.add(cells=[cell(0, 1, loss=4.0)])

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        book.write()
    assert path.read_bytes() == before and [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_growing_profile_is_written_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    path = tmp_path / "m.sensitivity.json"
    book = Book(path, profile())
    book.write_sometimes()
    assert not path.exists()
    now = 61.0
    book.write_sometimes()
    assert json.loads(path.read_bytes())["complete"] is False


def test_the_summary_shows_both_ends(tmp_path: Path) -> None:
    path = tmp_path / "m.sensitivity.json"
    book = Book(path, profile(layers=[layer(block) for block in range(12)]))
    book.add(curves=[curve(block) for block in range(12)])
    book.write()
    result: dict[str, Any] = {"output": str(path), "cells": 0, "curves": 12, "correlation": None}
    text = profile_text(result).splitlines()
    assert "12 layers predicted; original: not measured" in text[0]
    assert text[3].split() == ["model.layers.11.mlp.up_proj", "4", "30%", "+11.2"] and text[8] == "…"
    assert text[-1].split()[0] == "model.layers.0.mlp.up_proj"
    book.add(baseline={"perplexity": 20.0}, cells=[cell(block, 4, perplexity=20.0 + block) for block in (3, 7)])
    book.add(cells=[cell(7, 1, perplexity=900.0)])
    book.write()
    text = profile_text({**result, "cells": 3, "correlation": 0.75}).splitlines()
    assert "original: perplexity 20; rank correlation of predicted and measured 0.75" in text[0]
    assert [line.split() for line in text[3:]] == [
        ["model.layers.7.mlp.up_proj", "4", "30%", "27", "0.25"],
        ["model.layers.3.mlp.up_proj", "4", "30%", "23", "0.25"],
    ]
