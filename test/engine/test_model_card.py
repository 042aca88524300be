"""The README.md of a compressed checkpoint: names and texts of others stay text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from markdown_it import MarkdownIt

from bondwise.model_card import declared_licence, model_card
from bondwise.schema import CalibrationOptions, Evaluation, LayerFigures, TensorizeResult

if TYPE_CHECKING:
    from pathlib import Path


def layer(name: str) -> LayerFigures:
    return LayerFigures(
        name=name,
        out_modes=[1, 8],
        in_modes=[8, 1],
        bond_dims=[3],
        parameters=48,
        original_parameters=64,
        bytes=96,
        original_bytes=128,
        keep=0.75,
        relative_error=0.1234,
        multiply_adds=48,
        original_multiply_adds=64,
        seconds=1.5,
    )


def evaluation(sample: str, perplexity: float) -> Evaluation:
    return Evaluation(
        data="/home/someone/private/text.txt",
        perplexity=perplexity,
        standard_error=0.25,
        tokens=4088,
        tokens_per_second=77.7,
        prompt="The `capital`",
        sample=sample,
    )


def result(name: str, sample: str) -> TensorizeResult:
    return TensorizeResult(
        output="/home/someone/out",
        parameters=1000,
        original_parameters=2000,
        bytes=2_000_000,
        original_bytes=4_000_000,
        layers=[layer(name)],
        original=evaluation(" Paris.", 15.42),
        compressed=evaluation(sample, 20.1),
        logits_difference=1e-5,
        seconds=60,
    )


def test_it_says_what_was_measured_and_nothing_of_this_machine() -> None:
    card = model_card("small", "base", result("model.layers.0.mlp.up_proj", " Paris, too."), licence="apache-2.0")
    front, _, body = card.removeprefix("---\n").partition("\n---\n")
    assert 'license: "apache-2.0"' in front.splitlines()
    assert "| perplexity | 15.42 ± 0.25 | 20.10 ± 0.25 |" in body
    assert "| `model.layers.0.mlp.up_proj` | 1×8 · 8×1 | 3 | 75.0% | 0.123 |" in body
    assert "(50.0%), 2.0 MB instead of 4.0 MB" in body
    assert "`text.txt`" in body
    assert "/home/someone" not in card
    assert "77.7" not in card  # speeds differ from run to run; the same request gives the same card


@pytest.mark.parametrize(
    "nasty", ["a`b|c\n\n# Heading", "``` \n<script>alert(1)</script>", "[x](javascript:alert(1))", "---\nlicense: mit"]
)
def test_names_and_samples_cannot_leave_their_place(nasty: str) -> None:
    plain = model_card("name", "base", result("layer", "sample"), licence=None)
    card = model_card(nasty, nasty, result(nasty, nasty), licence=None)
    front = "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags: [tensor-network, mpo, bondwise]\n---\n\n# "
    assert card.startswith(front)

    def outline(text: str) -> list[str]:
        """What CommonMark makes of it, but for the words."""
        parsed = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text.removeprefix(front))
        inner = [child.type for token in parsed for child in token.children or [] if child.type not in ("text", "text_special")]
        return [f"{token.type} {token.tag}" for token in parsed] + inner

    assert outline(card) == outline(plain)
    assert "html_inline" not in outline(card)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("---\nlicense: apache-2.0\nbase_model: x\n---\n# Model", "apache-2.0"),
        ('---\nlicense: "llama3.1"\n---\n', "llama3.1"),
        ("---\nlicense: [a, b]\n---\n", None),
        ("# Model\nlicense: mit\n", None),
    ],
)
def test_the_licence_is_the_declared_one(tmp_path: Path, text: str, expected: str | None) -> None:
    (tmp_path / "README.md").write_text(text)
    assert declared_licence(tmp_path) == expected
    assert declared_licence(tmp_path / "nowhere") is None


def test_it_says_how_each_weight_was_found_and_from_which_text() -> None:
    text = CalibrationOptions(data="/home/someone/private/mine.txt", sequences=16)
    made = result("layer", "sample")
    assert "Calibration" not in model_card("name", "base", made, licence=None, calibration=text)
    aware = [one.model_copy(update={"method": "fisher"}) for one in (layer("b"), layer("c"))]
    mixed = made.model_copy(update={"layers": [*made.layers, *aware]})
    card = model_card("name", "base", mixed, licence=None, calibration=text)
    assert "One weight was cut into sites" in card and "2 weights were factored" in card
    assert "`mine.txt`, 16 sequences of 512 tokens" in card and "private" not in card
