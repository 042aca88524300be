"""Text for calibration and evaluation: the parts share nothing, the same request gives the same tokens, bad sources are named."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from tiny_models import BOS, make_tokenizer

from bondwise.errors import UserError
from bondwise.text import Part, sections, token_sequences

if TYPE_CHECKING:
    from pathlib import Path


def words(count: int, offset: int = 0) -> str:
    return "\n\n".join(f"Paragraph {offset + n} tells of {(offset + n) ** 2} things." for n in range(count))


def part_of(data: str, part: Part) -> str:
    return "\n\n".join(section.text for section in sections(data) if section.part == part)


def paragraphs(text: str) -> set[str]:
    return {stripped for paragraph in text.split("\n\n") if (stripped := " ".join(paragraph.split()))}


def write_jsonl(path: Path, records: list[Any]) -> str:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8", newline="\n")
    return str(path)


def test_builtin_parts_share_no_paragraph_and_are_both_large() -> None:
    calibration, evaluation = part_of("builtin", "calibration"), part_of("builtin", "evaluation")
    assert not paragraphs(calibration) & paragraphs(evaluation)
    assert min(len(calibration), len(evaluation)) > 100_000


def test_text_file_parts_share_no_paragraph_and_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(words(3000).replace("\n", "\r\n").encode())
    calibration, evaluation = part_of(str(path), "calibration"), part_of(str(path), "evaluation")
    assert not paragraphs(calibration) & paragraphs(evaluation)
    assert paragraphs(calibration) | paragraphs(evaluation) == paragraphs(words(3000))
    assert 0.4 < len(calibration) / len(words(3000)) < 0.6


def test_text_without_any_line_break_is_still_divided(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(" ".join(str(n) for n in range(30_000)))
    found = list(sections(str(path)))
    assert max(len(section.text) for section in found) < 20_000
    assert "".join(section.text for section in found) == path.read_text()


def test_a_repeated_text_is_in_one_part_only(tmp_path: Path) -> None:
    records = [{"text": words(40, offset=40 * (n % 5))} for n in range(200)]
    data = write_jsonl(tmp_path / "a.jsonl", records)
    calibration, evaluation = paragraphs(part_of(data, "calibration")), paragraphs(part_of(data, "evaluation"))
    assert not calibration & evaluation
    assert calibration | evaluation == paragraphs(words(200))


def test_jsonl_fields_and_line_separators_inside_texts(tmp_path: Path) -> None:
    records = [
        {"text": "plain\u2028still the same record\x85and here"},
        {"content": "by content"},
        {"messages": [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]},
        {"instruction": "Convert.", "input": "", "output": "Done."},
    ]
    data = write_jsonl(tmp_path / "a.jsonl", records)
    assert [section.text for section in sections(data)] == [
        "plain\u2028still the same record\x85and here\n\nby content\n\nquestion\n\nanswer\n\nConvert.\n\nDone."
    ]


def test_sequences_are_consecutive_text_of_the_part_and_follow_the_seed(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(words(2000))
    tokenizer = make_tokenizer()
    first = token_sequences(tokenizer, str(path), "evaluation", length=64, sequences=12, seed=1)
    assert first.shape == (12, 64)
    assert first.equal(token_sequences(tokenizer, str(path), "evaluation", length=64, sequences=12, seed=1))
    assert not first.equal(token_sequences(tokenizer, str(path), "evaluation", length=64, sequences=12, seed=2))
    text = part_of(str(path), "evaluation")
    decoded = [str(tokenizer.decode(row)) for row in first]
    assert all(row in text for row in decoded)
    assert len(set(decoded)) == 12


def test_a_tokenizer_that_sets_a_beginning_token_gets_it_in_each_sequence() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tokenizer()
    plain = token_sequences(tokenizer, "builtin", "evaluation", length=32, sequences=3)
    assert not (plain == BOS).any()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<|bos|> $A", special_tokens=[("<|bos|>", BOS)])
    begun = token_sequences(tokenizer, "builtin", "evaluation", length=32, sequences=3)
    assert begun.shape == (3, 32)
    assert begun[:, 0].tolist() == [BOS] * 3
    assert not (begun[:, 1:] == BOS).any()


def test_only_the_beginning_of_a_large_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large.txt"
    with path.open("wb") as file:
        file.write(words(20_000).encode())
        file.truncate(1 << 36)  # 64 GB with nothing on the disk behind them
    assert token_sequences(make_tokenizer(), str(path), "calibration", length=128, sequences=4).shape == (4, 128)


def test_too_little_text_says_how_much_there_is(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("A short text.")
    with pytest.raises(UserError, match=r"short\.txt has 15 tokens for evaluation; 4 sequences of 128 need 512"):
        token_sequences(make_tokenizer(), str(path), "evaluation", length=128, sequences=4)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "fine"}\n{"text": \n', r"a\.jsonl, line 2 is not JSON"),
        ("a.jsonl", b'{"title": "x", "id": 3}\n', r"a\.jsonl, line 1 has no text, only id, title"),
        ("a.jsonl", b"[1, 2]\n", r"a\.jsonl, line 1 has no text, only a JSON list"),
        ("a.txt", b"caf\xe9 au lait", r"a\.txt is not UTF-8"),
        ("a.csv", b"a,b", r"a\.csv is neither"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(sections(str(tmp_path / name)))


@pytest.mark.parametrize(("data", "message"), [("no/such/file.txt", "does not exist"), ("what is this?", "There is no text")])
def test_a_source_that_is_none_is_named(data: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(sections(data))


def test_a_hub_data_set_without_its_reader_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="hub data set") as caught:
        list(sections("Salesforce/wikitext:wikitext-2-raw-v1"))
    assert "`datasets`" in (caught.value.remedy or "")


def test_a_hub_data_set_is_read_by_its_own_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def load_dataset(name: str, configuration: str | None, *, streaming: bool) -> dict[str, list[dict[str, str]]]:
        asked.append((name, configuration, streaming))
        return {split: [{"text": f"{split} {n}"} for n in range(3)] for split in ("train", "validation", "test")}

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    found = list(sections("org/name:v1"))
    assert asked == [("org/name", "v1", True)]
    assert {(section.part, section.text) for section in found} == {
        ("evaluation", "test 0\n\ntest 1\n\ntest 2"),
        ("calibration", "train 0\n\ntrain 1\n\ntrain 2"),
    }


def test_a_hub_that_cannot_be_reached_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(UserError, match="org/name could not be read: ConnectionError: no route"):
        list(sections("org/name"))
