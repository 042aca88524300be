"""Records of every known shape, masks against the chat template's own rendering, bad rows, parts that share nothing."""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_models import BOS, EOS, make_tokenizer

from bondwise import documents
from bondwise.conversations import IGNORED, BadRow, Document, Encoder, Record, Turn, read_record
from bondwise.documents import Source, open_source, own_source
from bondwise.errors import Cancelled, UserError

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKED = (
    "{% for message in messages %}[{{ message.role }}]{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content }}{% endgeneration %}{{ eos_token }}{% else %}{{ message.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
# Writes a beginning-of-text token, knows no prompt for an answer, trims contents (Llama 2, Mistral).
INST = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}[INST] {{ message.content | trim }} [/INST]"
    "{% elif message.role == 'assistant' %} {{ message.content | trim }}{{ eos_token }}"
    "{% else %}{{ raise_exception('no system turns') }}{% endif %}{% endfor %}"
)
# Thoughts of all but the last answer are dropped, and the prompt opens one (Qwen3, DeepSeek-R1).
THINKING = (
    "{% for message in messages %}<{{ message.role }}>"
    "{{ message.content if loop.last or message.role != 'assistant' else message.content.split('</think>')[-1] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant><think>{% endif %}"
)
TURNS = (Turn("user", "Was heißt „naïve“?"), Turn("assistant", "Naïf 🙂 "), Turn("user", " again "), Turn("assistant", "No."))


def encoder_of(template: str | None) -> Encoder:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    return Encoder(tokenizer, "tiny")


def decoded(ids: list[int]) -> str:
    tokenizer: Any = make_tokenizer()
    return tokenizer.decode(ids)


def learnt(document: Document) -> list[str]:
    """The stretches of text that are learnt, in order."""
    stretches: list[list[int]] = [[]]
    for token, label in zip(document.input_ids.tolist(), document.labels.tolist(), strict=True):
        if label == IGNORED:
            stretches.append([])
        else:
            assert label == token
            stretches[-1].append(token)
    return [decoded(stretch) for stretch in stretches if stretch]


def write_rows(path: Path, rows: list[Any]) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8", newline="\n")
    return str(path)


def chat(question: str, answer: str = "Yes.") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def texts(found: list[Document]) -> set[str]:
    tokenizer: Any = make_tokenizer()
    return {tokenizer.decode(document.input_ids.tolist()) for document in found}


def opened(data: str, encoder: Encoder) -> Source:
    return open_source(data, encoder, lambda: None)


def training(source: Source) -> list[Document]:
    return [document for _, document in source.epoch(0, 0, 0)]


# --- rows ------------------------------------------------------------------------------------------------------------------------------


def test_every_shape_becomes_turns() -> None:
    asked = (Turn("user", "Q"), Turn("assistant", "A"))
    shapes: list[tuple[Any, Record | None]] = [
        ({"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}], "prompt": "Q"}, asked),
        ({"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}, asked),
        ({"conversations": [{"from": "system", "value": "S"}, {"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
         (Turn("system", "S"), *asked)),
        ({"instruction": "Q", "input": "", "output": "A"}, asked),
        ({"instruction": "Q", "output": "A"}, asked),
        ({"messages": None, "text": None, "instruction": "Q", "input": None, "output": "A"}, asked),
        ({"instruction": "Q", "input": "X", "output": "A"}, (Turn("user", "Q\n\nX"), Turn("assistant", "A"))),
        ({"messages": [*chat("Q", "A")["messages"], {"role": "user", "content": "behind"}]}, asked),
        ({"text": "plain"}, "plain"),
        ({"content": "plain", "id": 3}, "plain"),
        ({"text": " \n"}, None),
    ]  # fmt: skip
    for row, expected in shapes:
        assert read_record(row) == expected


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([1], "a JSON list"),
        ({}, "empty object"),
        ({"text": None}, "empty object"),
        ({"messages": []}, "no list of turns, or empty"),
        ({"messages": "hello"}, "no list of turns"),
        ({"messages": ["hello"]}, "'None', none of"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "'tool', none of system, user"),
        ({"messages": [{"role": "user", "content": None}]}, "no text in `content`"),
        ({"messages": [{"role": "user", "content": "Q"}]}, "no turn of the assistant"),
        ({"messages": [{"role": "system", "content": "S"}]}, "no turn of the assistant"),
        ({"messages": [{"role": "assistant", "content": "A"}, {"role": "user", "content": "Q"}]}, "must take turns"),
        ({"messages": [*chat("Q")["messages"], *chat("Q")["messages"][1:]]}, "must take turns"),
        ({"instruction": "Q", "input": "", "output": " "}, "no text in `output`"),
        ({"text": 5}, "no text in `text`"),
        ({"text": "half \ud83d"}, "surrogate"),
        ({"frage": "Q", "antwort": "A"}, "antwort, frage"),
    ],
)
def test_a_bad_row_says_why(row: Any, reason: str) -> None:
    with pytest.raises(BadRow, match=reason):
        read_record(row)


# --- masks -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHATML, ["Naïf 🙂 <|im_end|>\n", "No.<|im_end|>\n"]),
        (MARKED, ["Naïf 🙂 ", "No."]),
        (INST, [" Naïf 🙂<|eos|>", " No.<|eos|>"]),
        (None, [" Naïf 🙂 <|eos|>\n\n", " No.<|eos|>\n\n"]),
    ],
)
def test_only_answers_are_learnt(template: str | None, expected: list[str]) -> None:
    document = encoder_of(template).encode(TURNS)
    assert learnt(document) == expected
    if template is not None:  # transformers' own rendering and tokens
        tokenizer: Any = make_tokenizer()
        tokenizer.chat_template = template
        messages = [turn._asdict() for turn in TURNS]
        assert document.input_ids.tolist() == tokenizer.apply_chat_template(messages)["input_ids"]


def test_prompt_and_answer_meet_where_the_model_begins_to_write() -> None:
    # What is masked before each answer is, token by token, what apply_chat_template would prompt the model with.
    tokenizer: Any = make_tokenizer()
    tokenizer.chat_template = CHATML
    document = encoder_of(CHATML).encode(TURNS)
    begins = [place for place in range(1, len(document.labels)) if document.labels[place] != IGNORED == document.labels[place - 1]]
    prompts = [
        tokenizer.apply_chat_template([turn._asdict() for turn in TURNS[:place]], add_generation_prompt=True)["input_ids"]
        for place in (1, 3)
    ]
    assert [document.input_ids[:begin].tolist() for begin in begins] == prompts


def test_answers_that_the_template_rewrites_are_masked_and_counted() -> None:
    turns = (Turn("user", "a"), Turn("assistant", "<think>x</think>b"), Turn("user", "c"), Turn("assistant", "<think>y</think>d"))
    encoder = encoder_of(THINKING)
    # "<think>" is in the prompt already.
    assert learnt(encoder.encode(turns)) == ["y</think>d</s>"]
    assert encoder.masked_answers == 1
    assert "1 of them are not learnt" in encoder.warnings()[0]
    assert learnt(encoder.encode((Turn("user", "a"), Turn("assistant", "b")))) == ["b</s>"]


def test_a_template_that_keeps_nothing_or_refuses_makes_a_bad_row() -> None:
    with pytest.raises(BadRow, match="no answer's place is certain"):
        encoder_of("{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}").encode(TURNS)
    with pytest.raises(BadRow, match="no system turns"):
        encoder_of(INST).encode((Turn("system", "S"), *TURNS))


def test_without_a_template_the_fallback_is_told() -> None:
    encoder = encoder_of(None)
    assert encoder.plain and encoder.warnings() == []
    document = encoder.encode((Turn("user", "a"), Turn("assistant", "b")))
    assert decoded(document.input_ids.tolist()) == "user: a\n\nassistant: b<|eos|>\n\n"
    assert "`role: content`" in encoder.warnings()[0]


def test_a_token_across_a_border_of_an_answer_is_not_learnt() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = {symbol: index for index, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab={**alphabet, ">A": 256, "C<": 257}, merges=[(">", "A"), ("C", "<")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    fast.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    turns = (Turn("user", "q"), Turn("assistant", "ABC"), Turn("user", "r"), Turn("assistant", "ABC"))
    document = Encoder(fast, "tiny").encode(turns)
    assert fast.decode(document.input_ids[document.labels == IGNORED].tolist()) == "<user>q<assistant>AC<user>r<assistant>A"
    assert fast.decode(document.input_ids[document.labels != IGNORED].tolist()) == "BBC"


def test_plain_text_is_learnt_but_for_its_first_token() -> None:
    document = encoder_of(CHATML).encode("héllo")
    assert document.labels.tolist() == [IGNORED, *document.input_ids.tolist()[1:]]
    assert document.input_ids.dtype == document.labels.dtype == torch.int32


def test_a_tokenizer_without_places_is_refused() -> None:
    with pytest.raises(UserError, match="tiny does not tell which characters"):
        Encoder(SimpleNamespace(is_fast=False), "tiny")  # pyright: ignore[reportArgumentType]


# --- sources ---------------------------------------------------------------------------------------------------------------------------


def test_bad_rows_are_left_out_with_their_line_numbers(tmp_path: Path) -> None:
    rows: list[Any] = [chat(f"Question {n}?") for n in range(600)]
    rows[5], rows[7], rows[9] = "{broken", "", {"messages": [{"role": "tool", "content": "x"}]}
    source = opened(write_rows(tmp_path / "a.jsonl", [*rows, "", "  "]), encoder_of(CHATML))
    (warning,) = source.warnings()
    assert "3 of 600 lines left out (line 6: not JSON" in warning and "line 8: an empty line; line 10: a turn whose" in warning
    assert len(training(source)) + len(list(source.validation())) == 597


@pytest.mark.parametrize("in_memory", [True, False])
def test_more_than_a_hundredth_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: bool) -> None:
    monkeypatch.setattr(documents, "IN_MEMORY", 1 << 20 if in_memory else 0)
    few = write_rows(tmp_path / "few.jsonl", [chat("a?"), chat("b?"), "[]", chat("c?")])
    with pytest.raises(UserError, match=r"few\.jsonl: 1 of 4 lines hold nothing to learn from \(line 3: a JSON list") as caught:
        training(opened(few, encoder_of(CHATML)))
    assert "1%" in (caught.value.remedy or "")
    # Refused where it is certain, long before the end of a large file.
    many = write_rows(tmp_path / "many.jsonl", [chat(f"{n}?") if n % 50 else {} for n in range(5000)])
    with pytest.raises(UserError, match=r"5 of 201 lines|4 of 200 lines|5 of 2.. lines"):
        training(opened(many, encoder_of(CHATML)))


def test_unknown_columns_are_refused_at_once(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "a.jsonl", [{"frage": "Q", "antwort": "A"}, *[chat(f"{n}?") for n in range(1000)]])
    with pytest.raises(UserError, match=r"a\.jsonl has the columns antwort, frage; known are `messages`, `conversations`"):
        opened(data, encoder_of(CHATML))


@pytest.mark.parametrize("in_memory", [True, False])
def test_parts_share_no_first_question_and_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: bool) -> None:
    monkeypatch.setattr(documents, "IN_MEMORY", 1 << 20 if in_memory else 0)
    rows = [chat(f"Question {n % 300}?", f"Answer {n}.") for n in range(900)]
    source = opened(write_rows(tmp_path / "a.jsonl", rows), encoder_of(CHATML))
    training_part, validation_part = texts(training(source)), texts(list(source.validation()))
    assert len(training_part | validation_part) == 900
    assert not {text.split("?")[0] for text in training_part} & {text.split("?")[0] for text in validation_part}
    assert 15 < len(validation_part) < 110
    random.Random(0).shuffle(rows)
    other = opened(write_rows(tmp_path / "b.jsonl", rows), encoder_of(INST))
    answers = {text.split("Answer ")[1].split(".")[0] for text in validation_part}
    # Neither the order of the rows nor the template changes the parts.
    assert {text.split("Answer ")[1].split(".")[0] for text in texts(list(other.validation()))} == answers


@pytest.mark.parametrize("rows", [[], [chat("a?")], [chat("a?", "one"), chat("a?", "two")]])
def test_too_little_to_hold_back_is_refused(tmp_path: Path, rows: list[Any]) -> None:
    with pytest.raises(UserError, match="no two documents that begin differently"):
        opened(write_rows(tmp_path / "a.jsonl", rows), encoder_of(CHATML))


def test_two_are_enough(tmp_path: Path) -> None:
    source = opened(write_rows(tmp_path / "a.jsonl", [chat("a?"), chat("bb?")]), encoder_of(CHATML))
    assert len(training(source)) == len(list(source.validation())) == 1


def test_builtin_text_leaves_what_measures_alone() -> None:
    from bondwise.text import sections

    source = opened("builtin", encoder_of(None))
    training_part, validation_part = training(source), list(source.validation())
    sizes = [sum(len(document.input_ids) for document in part) for part in (training_part, validation_part)]
    assert 0.05 < sizes[1] / sum(sizes) < 0.14
    held: dict[str, set[str]] = {"training": texts(training_part), "validation": texts(validation_part)}
    held["evaluation"] = {section.text for section in sections("builtin") if section.part == "evaluation"}
    paragraphs = [{" ".join(p.split()) for text in part for p in text.split("\n\n") if p.strip()} for part in held.values()]
    assert not paragraphs[0] & paragraphs[1] and not paragraphs[2] & (paragraphs[0] | paragraphs[1])
    assert source.facts.documents == len(training_part) and source.facts.tokens == sizes[0]
    assert source.facts.learnt == sizes[0] - len(training_part)


def test_own_text_is_learnt_but_for_its_first_token() -> None:
    ids = torch.randint(0, 250, (40, 12), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = BOS
    source = own_source(ids)
    found = [*training(source), *source.validation()]
    assert sorted(document.input_ids.tolist() for document in found) == sorted(ids.tolist())
    assert all(document.labels.tolist() == [IGNORED, *document.input_ids.tolist()[1:]] for document in found)
    assert 1 <= len(list(source.validation())) <= 5
    orders = [[document.input_ids.tolist() for _, document in source.epoch(epoch, 0, 0)] for epoch in (0, 1, 1)]
    assert orders[0] != orders[1] == orders[2] and sorted(orders[0]) == sorted(orders[1])


def test_a_hub_data_set_is_read_by_its_training_split(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: object, **__: object) -> dict[str, list[dict[str, Any]]]:
        return {"test_sft": [chat(f"test {n}?") for n in range(9)], "train_sft": [chat(f"train {n}?") for n in range(99)]}

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    source = opened("org/chats", encoder_of(CHATML))
    assert source.facts == (None, None, None)
    found = texts([*training(source), *source.validation()])
    assert len(found) == 99 and all("train" in text for text in found)


def test_a_hub_data_set_of_other_columns_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"question": "Q", "answer": "A"}]
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=lambda *_, **__: {"train": rows}))  # pyright: ignore
    with pytest.raises(UserError, match="org/chats has the columns answer, question"):
        training(opened("org/chats", encoder_of(CHATML)))


@pytest.mark.parametrize("in_memory", [True, False])
def test_reading_can_be_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: bool) -> None:
    monkeypatch.setattr(documents, "IN_MEMORY", 1 << 20 if in_memory else 0)
    rows = 0

    def check_cancelled() -> None:
        nonlocal rows
        rows += 1
        if rows > 7:
            raise Cancelled

    with pytest.raises(Cancelled):
        training(open_source(write_rows(tmp_path / "a.jsonl", [chat(f"{n}?") for n in range(50)]), encoder_of(CHATML), check_cancelled))
    assert rows == 8


@pytest.mark.parametrize("name", ["ultrachat", "instruct_apache", "oasst"])
def test_real_sets(name: str) -> None:
    if (folder := os.environ.get("BONDWISE_TEST_DATA")) is None:
        pytest.skip("BONDWISE_TEST_DATA, a folder of small real data sets, is not set")
    path = Path(folder) / name / "train.jsonl"
    encoder = encoder_of(CHATML)
    source = opened(str(path), encoder)
    training_part, validation_part = training(source), list(source.validation())
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    assert len(training_part) + len(validation_part) == len(rows)
    assert not source.warnings() and encoder.masked_answers == 0
    answers = sorted(
        [turn["content"] for row in rows for turn in row["messages"] if turn["role"] == "assistant"]
        if "messages" in rows[0]
        else [row["output"] for row in rows]
    )
    found = [stretch.removesuffix("<|im_end|>\n") for document in training_part + validation_part for stretch in learnt(document)]
    assert sorted(found) == answers
    if "prompt" in rows[0]:  # threads of one tree share their first turns
        prompts = {row["prompt"] for row in rows}
        parts = [{prompt for prompt in prompts if any(f"user\n{prompt}<" in t for t in texts(p))} for p in (training_part, validation_part)]
        assert not parts[0] & parts[1] and parts[0] | parts[1] == prompts
    assert EOS not in training_part[0].input_ids
