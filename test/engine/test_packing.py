"""Packed sequences mix no documents, an epoch holds each document once, and the order goes on from any place on any number of ranks."""

from __future__ import annotations

import copy
import itertools
import json
import random
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tiny_models import ARCHITECTURES, make_tiny_model, make_tokenizer
from transformers import AutoModelForCausalLM, MambaConfig

from bondwise import documents, packing
from bondwise.conversations import IGNORED, Document, Encoder
from bondwise.documents import open_source, own_source
from bondwise.errors import UserError
from bondwise.packing import Feed, FeedState, Packed, Packing, Weighted, cut, keeps_documents_apart, validation_sequences

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bondwise.documents import Facts, Source

PADDING = 257


def shape(length: int, *, together: bool = True) -> Packing:
    return Packing(length, beginning=[], padding=PADDING, together=together)


class Listed:
    """A source of given documents, in an order of each epoch's own."""

    def __init__(self, name: str, found: list[Document]) -> None:
        self.name = self.identity = name
        self.facts: Facts = documents.Facts(len(found), None, None)
        self._found = found

    def epoch(self, epoch: int, seed: int, skip: int) -> Iterator[tuple[int, Document]]:
        order = list(range(len(self._found)))
        random.Random(f"{epoch} {seed}").shuffle(order)
        return ((place, self._found[at]) for place, at in itertools.islice(enumerate(order, start=1), skip, None))

    def validation(self) -> Iterator[Document]:
        return iter(self._found)

    def warnings(self) -> list[str]:
        return []


def random_documents(seed: int, count: int, longest: int) -> list[Document]:
    """Documents whose tokens tell which document and place they are: token = 1000 · document + place."""
    draw = random.Random(seed)
    found: list[Document] = []
    for number in range(count):
        ids = torch.arange(draw.randint(1, longest), dtype=torch.int32) + 1000 * number
        labels = torch.where(torch.rand(len(ids), generator=torch.Generator().manual_seed(number)) < 0.7, ids, IGNORED)
        found.append(Document(ids, labels))
    return found


def parts(sequence: Packed) -> list[tuple[list[int], list[int]]]:
    """Ids and labels of each document of a sequence, divided where positions begin anew; padding left out."""
    starts = [place for place, position in enumerate(sequence.position_ids.tolist()) if position == 0]
    cuts = [
        (sequence.input_ids[a:b].tolist(), sequence.labels[a:b].tolist()) for a, b in itertools.pairwise([*starts, len(sequence.labels)])
    ]
    return [part for part in cuts if any(label != IGNORED for label in part[1])]


def take(feed: Feed, count: int) -> list[list[list[int]]]:
    return [[part.tolist() for part in next(feed)] for _ in range(count)]


def epoch_of(feed: Feed) -> list[Packed]:
    """The sequences of the first epoch of a feed of one source."""
    found: list[Packed] = []
    while True:
        sequence = next(feed)
        if feed.epochs[0]:
            return found
        found.append(sequence)


# --- sequences -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("together", [True, False])
def test_an_epoch_holds_each_token_that_is_learnt_once(monkeypatch: pytest.MonkeyPatch, seed: int, together: bool) -> None:
    monkeypatch.setattr(packing, "BLOCK", 3)
    length = 7 + 5 * seed
    found = random_documents(seed, 40, 3 * length)
    sequences = epoch_of(Feed([Weighted(Listed("a", found), 1)], shape(length, together=together), seed=seed))
    learnt: list[int] = []
    for sequence in sequences:
        assert all(part.shape == (length,) and part.dtype == torch.int64 for part in sequence)
        held = parts(sequence)
        assert together or len(held) == 1
        padding = sequence.input_ids[sum(len(ids) for ids, _ in held) :]
        assert padding.eq(PADDING).all()
        for ids, labels in held:
            # A stretch of one document, without gaps, in its order; what is first follows nothing.
            assert ids == list(range(ids[0], ids[0] + len(ids))) and ids[0] // 1000 == ids[-1] // 1000
            assert labels[0] == IGNORED
            assert all(label in (IGNORED, token) for token, label in zip(ids, labels, strict=True))
            learnt += [label for label in labels if label != IGNORED]
    expected = [label for ids, labels in found for label in labels.tolist() if label != IGNORED and (label - int(ids[0])) % length]
    assert sorted(learnt) == sorted(expected)


def test_little_padding_among_documents_of_all_lengths() -> None:
    feed = Feed([Weighted(Listed("a", random_documents(0, 600, 900)), 1)], shape(512), seed=0)
    epoch_of(feed)
    assert 0 <= feed.padding_share < 0.02


def test_best_fit_needs_as_few_sequences_as_an_exhaustive_search() -> None:
    draw = random.Random(1)
    for _ in range(60):
        sizes = [draw.randint(2, 10) for _ in range(6)]
        pieces = [Document(torch.zeros(size, dtype=torch.int32), torch.zeros(size, dtype=torch.int32)) for size in sizes]
        held = packing.best_fit(pieces, shape(10))
        assert sorted(len(piece.input_ids) for bin in held for piece in bin) == sorted(sizes)
        assert all(sum(len(piece.input_ids) for piece in bin) <= 10 for bin in held)
        fewest = next(
            count
            for count in itertools.count(1)
            if any(
                all(sum(size for size, at in zip(sizes, places, strict=True) if at == bin) <= 10 for bin in range(count))
                for places in itertools.product(range(count), repeat=len(sizes))
            )
        )
        assert len(held) <= max(fewest, 11 * fewest // 9 + 1)  # what best fit decreasing guarantees (D. Johnson 1973)
        assert len(held) == fewest or fewest > 2


def test_later_pieces_begin_as_the_document_does() -> None:
    ids = torch.tensor([256, *range(10)], dtype=torch.int32)
    pieces = cut(Document(ids, ids.clone()), Packing(5, beginning=[256], padding=0, together=True))
    assert [piece.input_ids.tolist() for piece in pieces] == [[256, 0, 1, 2, 3], [256, 4, 5, 6, 7], [256, 8, 9]]
    assert all(piece.labels.tolist() == [IGNORED, *piece.input_ids.tolist()[1:]] for piece in pieces)
    document = Document(ids[1:], ids[1:].clone())
    pieces = cut(document, Packing(5, beginning=[256], padding=0, together=True))
    assert [piece.input_ids.tolist() for piece in pieces] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert document.labels.tolist() == list(range(10))  # another length cuts it elsewhere


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "opt"])
def test_packed_logits_are_those_of_each_document_alone(architecture: str) -> None:
    model: Any = make_tiny_model(architecture)
    assert keeps_documents_apart(model)
    found = [Document(ids, ids.clone()) for size in (9, 14, 5, 21) for ids in [torch.randint(0, 256, (size,), dtype=torch.int32)]]
    source = Listed("a", found)
    for sequence in epoch_of(Feed([Weighted(source, 1)], shape(30), seed=0)):
        with torch.no_grad():
            logits = model(input_ids=sequence.input_ids[None], position_ids=sequence.position_ids[None], use_cache=False).logits[0]
        starts = [place for place, position in enumerate(sequence.position_ids.tolist()) if position == 0]
        for start, end in itertools.pairwise([*starts, 30]):
            with torch.no_grad():
                alone = model(input_ids=sequence.input_ids[None, start:end], use_cache=False).logits[0]
            torch.testing.assert_close(logits[start:end], alone, atol=1e-5, rtol=1e-4)


def test_models_that_cannot_tell_documents_apart_are_found_out() -> None:
    opt = make_tiny_model("opt").train()
    assert not keeps_documents_apart(opt)
    assert opt.training
    mamba = AutoModelForCausalLM.from_config(MambaConfig(vocab_size=258, hidden_size=32, num_hidden_layers=2, state_size=4))
    assert not keeps_documents_apart(mamba)


# --- order -----------------------------------------------------------------------------------------------------------------------------


def mixture(tmp_path: Path, *, streamed: bool) -> list[Weighted]:
    path = tmp_path / "a.jsonl"
    rows = [{"instruction": f"Question {n}?", "input": "", "output": "Yes. " * (n % 7 + 1)} for n in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = torch.randint(0, 256, (9, 40), generator=torch.Generator().manual_seed(0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "IN_MEMORY", 0 if streamed else 1 << 20)
        return [Weighted(open_source(str(path), Encoder(make_tokenizer(), "tiny"), lambda: None), 2), Weighted(own_source(own), 1)]


@pytest.mark.parametrize("streamed", [True, False])
def test_it_goes_on_from_every_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streamed: bool) -> None:
    monkeypatch.setattr(packing, "BLOCK", 8)
    sources = mixture(tmp_path, streamed=streamed)
    feed = Feed(sources, shape(64), seed=3)
    states: list[str] = []
    sequences: list[Any] = []
    for _ in range(120):
        states.append(json.dumps(feed.state()))
        sequences += take(feed, 1)
    assert min(feed.epochs) >= 1
    for place in range(0, 110, 1 if not streamed else 3):
        if place % 30 == 0:  # as in another process
            sources = mixture(tmp_path, streamed=streamed)
        again = Feed(sources, shape(64), seed=3)
        again.resume(json.loads(states[place]))
        assert json.dumps(again.state()) == states[place]
        assert take(again, 6) == sequences[place : place + 6]
        assert json.dumps(again.state()) == states[place + 6]
    feed.resume(json.loads(states[50]))  # one that was used already
    assert take(feed, 6) == sequences[50:56]


def test_any_number_of_ranks_sees_the_same_order(tmp_path: Path) -> None:
    sources = mixture(tmp_path, streamed=False)
    alone = take(Feed(sources, shape(64), seed=1), 36)
    for world in (2, 3, 4):
        feeds = [Feed(sources, shape(64), seed=1, rank=rank, world=world) for rank in range(world)]
        shares = [take(feed, 12 // world) for feed in feeds]
        assert [share[step] for step in range(12 // world) for share in shares] == alone[:12]
        states = [feed.state() for feed in feeds]
        assert all(state == states[0] for state in states) and states[0]["sequences"] == 12
        for other in (1, 2, 3):  # on another number of ranks
            resumed = [Feed(sources, shape(64), seed=1, rank=rank, world=other) for rank in range(other)]
            for feed in resumed:
                feed.resume(copy.deepcopy(states[0]))
            shares = [take(feed, 12 // other) for feed in resumed]
            assert [share[step] for step in range(12 // other) for share in shares] == alone[12:24]


def test_the_seed_and_the_epoch_change_the_order() -> None:
    source = Weighted(own_source(torch.arange(640).reshape(40, 16)), 1)
    orders = [take(Feed([source], shape(16), seed=seed), 80) for seed in (0, 0, 1)]
    count = source.source.facts.documents or 0
    assert orders[0] == orders[1] != orders[2]
    epochs = [orders[0][:count], orders[0][count : 2 * count]]
    assert epochs[0] != epochs[1] and sorted(epochs[0]) == sorted(epochs[1])


def test_weights_are_shares_of_the_tokens() -> None:
    sources = [Weighted(Listed(str(n), random_documents(n, 50, 40 * (n + 1))), weight) for n, weight in enumerate((1, 3, 6))]
    feed = Feed(sources, shape(64), seed=0)
    take(feed, 500)
    tokens = [place["tokens"] for place in feed.state()["sources"]]
    for used, share in zip(tokens, (0.1, 0.3, 0.6), strict=True):
        assert abs(used - share * sum(tokens)) <= 64
    assert feed.epochs[0] != feed.epochs[2]


def test_each_source_goes_through_its_own_epochs(tmp_path: Path) -> None:
    sources = mixture(tmp_path, streamed=False)
    feed = Feed(sources, shape(64), seed=0)
    own: list[list[int]] = []
    while feed.epochs[1] < 2:
        own += [ids for ids, _ in parts(next(feed)) if len(ids) == 40]
    count = sources[1].source.facts.documents or 0
    assert sorted(own[:count]) == sorted(own[count : 2 * count])


# --- bad input -------------------------------------------------------------------------------------------------------------------------


def test_other_data_are_not_gone_on_with() -> None:
    ids = torch.arange(640).reshape(40, 16)
    state = Feed([Weighted(own_source(ids), 1)], shape(16), seed=0).state()
    others = [
        Feed([Weighted(own_source(ids + 1), 1)], shape(16), seed=0),
        Feed([Weighted(own_source(ids), 1)], shape(8), seed=0),
        Feed([Weighted(own_source(ids), 1)], shape(16), seed=1),
        Feed([Weighted(own_source(ids), 1)] * 2, shape(16), seed=0),
    ]
    for feed in others:
        with pytest.raises(UserError, match="changed since the run was stopped"):
            feed.resume(state)


def test_data_without_anything_to_learn_end() -> None:
    ids = torch.arange(8, dtype=torch.int32)
    nothing: Source = Listed("nothing.jsonl", [Document(ids, torch.full_like(ids, IGNORED))] * 5)
    state: FeedState | None = None
    for _ in range(2):
        feed = Feed([Weighted(nothing, 1)], shape(8), seed=0)
        if state is not None:
            feed.resume(state)
        with pytest.raises(UserError, match=r"nothing\.jsonl holds nothing to train on"):
            next(feed)
        state = Feed([Weighted(nothing, 1)], shape(8), seed=0).state()
    with pytest.raises(UserError, match="nothing to validate on"):
        validation_sequences([Weighted(nothing, 1)], shape(8), 4)


@pytest.mark.parametrize("weight", [0, -1, float("nan")])
def test_a_weight_above_zero(weight: float) -> None:
    with pytest.raises(UserError, match="has the weight"):
        Feed([Weighted(own_source(torch.arange(32).reshape(4, 8)), weight)], shape(8), seed=0)


def test_a_length_that_holds_no_text() -> None:
    with pytest.raises(UserError, match="Sequences of 2 tokens"):
        Feed([Weighted(own_source(torch.arange(32).reshape(4, 8)), 1)], Packing(2, [256], 0, together=True), seed=0)


def test_validation_sequences_share_by_weight() -> None:
    sources = [Weighted(Listed("a", random_documents(0, 90, 30)), 3), Weighted(Listed("b", random_documents(5, 90, 30)), 1)]
    found = validation_sequences(sources, shape(32), 8)
    again = validation_sequences(sources, shape(32), 8)
    assert len(found) == 8
    assert all(torch.equal(a, b) for left, right in zip(found, again, strict=True) for a, b in zip(left, right, strict=True))
