"""Documents → sequences of one length, in an order that follows from data, seed and length alone and goes on from any place.

Several documents share a sequence; each has positions that begin at 0, and from those transformers forms the mask that keeps them apart
(`keeps_documents_apart` tells whether a model's class does). Each source's documents are taken some `BLOCK` sequences' worth at a time;
those are packed together by best fit, and their sequences shuffled. So a place in the data is an epoch, the place in it where the block
begins, and a count of sequences.
"""

from __future__ import annotations

import bisect
import inspect
import itertools
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, cast

import torch

from bondwise.conversations import IGNORED, Document
from bondwise.documents import generator_of
from bondwise.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    from bondwise.documents import Source

BLOCK = 256
"""Sequences' worth of tokens that are packed and shuffled together."""


class Packed(NamedTuple):
    """One training sequence, of one or more documents and, at its end, padding. The labels are not shifted: the loss of the logits at
    place t is against `labels[t + 1]`; the first token of each document has the label `IGNORED`, so no document predicts another."""

    input_ids: Tensor  # int64 [length]
    labels: Tensor  # int64 [length]
    position_ids: Tensor  # int64 [length], from 0 in each document and in the padding


class Weighted(NamedTuple):
    source: Source
    weight: float  # its share of the tokens is this over the sum of all weights


class SourcePlace(TypedDict):
    """How far one source has been used."""

    identity: str
    epoch: int  # whole epochs behind it
    start: int  # where in the epoch the block begins, as `Source.epoch` counts
    taken: int  # sequences used of that block
    tokens: int  # tokens used in all, without padding


class FeedState(TypedDict):
    """A place in the data, as JSON; the same for every number of ranks."""

    length: int
    seed: int
    sequences: int  # used by all ranks together
    sources: list[SourcePlace]


class Packing(NamedTuple):
    """How documents become sequences."""

    length: int  # tokens
    beginning: list[int]  # ids that a document began with and so does each of its later pieces
    padding: int  # the id that fills up a sequence
    together: bool  # whether documents share sequences


class Feed:
    """The training sequences of one rank, without end.

    Sequence n of all goes to rank n % world, so any number of ranks sees the same sequences in the same order. Of several sources the one
    that lacks most of its share of the tokens so far comes next. What all ranks together use next, each rank reads and packs.
    """

    def __init__(self, sources: Sequence[Weighted], packing: Packing, *, seed: int, rank: int = 0, world: int = 1) -> None:
        """Raises UserError at a weight that is not above 0 and at a length of less than two tokens of a document."""
        for source, weight in sources:
            if not weight > 0:
                raise UserError(f"{source.name} has the weight {weight:g}.", "Weights are numbers above 0; leave the source out instead.")
        if packing.length < len(packing.beginning) + 2:
            raise UserError(f"Sequences of {packing.length} tokens leave no room for text.", "Choose a larger length.")
        self._readers = [_Reader(source, packing, seed) for source, _ in sources]
        total = sum(weight for _, weight in sources)
        self._shares = [weight / total for _, weight in sources]
        self._packing, self._seed, self._rank, self._world = packing, seed, rank, world
        self._sequences = 0

    def __iter__(self) -> Iterator[Packed]:
        return self

    def __next__(self) -> Packed:
        """This rank's next sequence. Raises UserError as the sources do, and where an epoch of one holds nothing to learn."""
        # All ranks' at once: then the state after it is the same on each.
        shared = [self._next() for _ in range(self._world)]
        self._sequences += self._world
        return shared[self._rank]

    def state(self) -> FeedState:
        """Where the next sequence is, the same on every rank that has taken as many."""
        sources = [reader.place() for reader in self._readers]
        return FeedState(length=self._packing.length, seed=self._seed, sequences=self._sequences, sources=sources)

    def resume(self, state: FeedState) -> None:
        """Goes to a place that `state` told, by whatever number of ranks. Raises UserError where the data are not those of then."""
        ours = (self._packing.length, self._seed, [reader.source.identity for reader in self._readers])
        if ours != (state["length"], state["seed"], [place["identity"] for place in state["sources"]]):
            raise UserError(
                "The data, their order, the length or the seed changed since the run was stopped.",
                "Bring back the data as they were, or start a new run.",
            )
        self._sequences = state["sequences"]
        for reader, place in zip(self._readers, state["sources"], strict=True):
            reader.resume(place)

    @property
    def padding_share(self) -> float:
        """The share of padding in what was used so far, 0 before anything was."""
        used = sum(reader.tokens for reader in self._readers)
        return 1 - used / (self._sequences * self._packing.length) if self._sequences else 0.0

    @property
    def epochs(self) -> list[int]:
        """Whole epochs behind each source."""
        return [reader.epoch for reader in self._readers]

    def _next(self) -> Packed:
        total = sum(reader.tokens for reader in self._readers) + self._packing.length
        lacks = [share * total - reader.tokens for share, reader in zip(self._shares, self._readers, strict=True)]
        return self._readers[lacks.index(max(lacks))].next()


def validation_sequences(sources: Sequence[Weighted], packing: Packing, count: int) -> list[Packed]:
    """At most `count` sequences of the sources' validation parts, by weight at least one of each; the same for every seed.

    Raises UserError as the sources do, and where a source's validation part holds nothing to learn.
    """
    total = sum(weight for _, weight in sources)
    found: list[Packed] = []
    for source, weight in sources:
        wanted = max(1, round(count * weight / total))
        pieces: list[Document] = []
        for document in source.validation():
            pieces += cut(document, packing)
            if sum(len(piece.input_ids) for piece in pieces) >= wanted * packing.length:
                break
        if not pieces:
            raise UserError(f"{source.name} holds nothing to validate on.", "Name more text.")
        found += [_joined(held, packing) for held in best_fit(pieces, packing)[:wanted]]
    return found


class _Reader:
    """One source's sequences, epoch after epoch."""

    def __init__(self, source: Source, packing: Packing, seed: int) -> None:
        self.source = source
        self.tokens = self.epoch = 0
        self._packing, self._seed = packing, seed
        self._start = self._end = self._taken = 0
        self._block: list[list[Document]] = []
        self._documents: Iterator[tuple[int, Document]] | None = None
        self._barren = True

    def next(self) -> Packed:
        while not self._block or self._taken == len(self._block):
            self._read_block()
        pieces = self._block[self._taken]
        self._taken += 1
        self.tokens += sum(len(piece.input_ids) for piece in pieces)
        return _joined(pieces, self._packing)

    def place(self) -> SourcePlace:
        return SourcePlace(identity=self.source.identity, epoch=self.epoch, start=self._start, taken=self._taken, tokens=self.tokens)

    def resume(self, place: SourcePlace) -> None:
        self.epoch, self._start, self.tokens = place["epoch"], place["start"], place["tokens"]
        self._end, self._block, self._documents, self._barren = self._start, [], None, False
        if place["taken"]:
            self._read_block()
        self._taken = place["taken"]

    def _read_block(self) -> None:
        """The block behind the one at hand; at the end of an epoch that is the first of the next."""
        self._start, self._taken = self._end, 0
        if self._documents is None:
            self._documents = self.source.epoch(self.epoch, self._seed, self._start)
        pieces: list[Document] = []
        tokens = 0
        for place, document in self._documents:
            self._end = place
            pieces += (found := cut(document, self._packing))
            tokens += sum(len(piece.input_ids) for piece in found)
            if tokens >= BLOCK * self._packing.length:
                break
        else:
            if self._end == self._start:
                if self._barren:
                    raise UserError(f"{self.source.name} holds nothing to train on.", "Name more text.")
                self.epoch, self._end, self._documents, self._barren = self.epoch + 1, 0, None, True
        block = best_fit(pieces, self._packing)
        order = torch.randperm(len(block), generator=generator_of(self._seed, self.epoch, self._start))
        self._block = [block[int(place)] for place in order]
        self._barren = self._barren and not block


# --- pure ------------------------------------------------------------------------------------------------------------------------------


def cut(document: Document, packing: Packing) -> list[Document]:
    """The document in pieces of at most `packing.length` tokens, without those in which nothing is learnt.

    A later piece has lost what was before it, and begins with `packing.beginning` where the document does. The first token of a piece
    follows nothing, so it is not learnt.
    """
    ids, labels = document
    head = torch.tensor(packing.beginning, dtype=ids.dtype)
    if not torch.equal(ids[: len(head)], head):
        head = head[:0]
    pieces: list[Document] = []
    places = [0, *range(packing.length, len(ids), packing.length - len(head))]
    for start, end in itertools.pairwise([*places, len(ids)]):
        piece = Document(ids[start:end], labels[start:end].clone())
        if start and len(head):
            piece = Document(torch.cat([head, piece.input_ids]), torch.cat([torch.full_like(head, IGNORED), piece.labels]))
        piece.labels[:1] = IGNORED
        if (piece.labels != IGNORED).any():
            pieces.append(piece)
    return pieces


def best_fit(pieces: Sequence[Document], packing: Packing) -> list[list[Document]]:
    """The pieces shared out to sequences: longest first, each to the sequence with the least room that is enough (best fit decreasing)."""
    if not packing.together:
        return [[piece] for piece in pieces]
    sequences: list[list[Document]] = []
    room: list[tuple[int, int]] = []  # tokens left, which sequence; ascending
    for piece in sorted(pieces, key=lambda piece: -len(piece.input_ids)):
        size = len(piece.input_ids)
        at = bisect.bisect_left(room, (size, 0))
        left, which = room.pop(at) if at < len(room) else (packing.length, len(sequences))
        if which == len(sequences):
            sequences.append([])
        sequences[which].append(piece)
        bisect.insort(room, (left - size, which))
    return sequences


def _joined(pieces: Sequence[Document], packing: Packing) -> Packed:
    """One sequence of the pieces and, behind them, padding."""
    sizes = [len(piece.input_ids) for piece in pieces]
    sizes.append(packing.length - sum(sizes))
    padding = torch.full((sizes[-1],), packing.padding)
    input_ids = torch.cat([*(piece.input_ids.long() for piece in pieces), padding])  # [length]
    labels = torch.cat([*(piece.labels.long() for piece in pieces), torch.full_like(padding, IGNORED)])
    return Packed(input_ids, labels, torch.cat([torch.arange(size) for size in sizes]))


# --- models ----------------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def keeps_documents_apart(model: PreTrainedModel) -> bool:
    """Whether the logits of a packed document are those of it alone, tried on two documents of 8 tokens.

    Most of transformers' classes form the mask from positions that begin anew, given no attention mask and `use_cache=False`; recurrent
    ones, some older ones and some with code of their own do not, and get one document a sequence (`Packing.together`).
    """
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return False
    vocabulary: int = cast("Any", model.get_input_embeddings()).weight.shape[0]
    ids = (torch.arange(16)[None] * 37 % vocabulary).to(model.device)  # [1, 16]
    positions = (torch.arange(16)[None] % 8).to(model.device)
    training = model.training
    model.eval()
    try:
        call = cast("Any", model)
        alone = call(input_ids=ids[:, 8:], use_cache=False).logits[:, -1].float()  # [1, vocabulary]
        packed = call(input_ids=ids, position_ids=positions, use_cache=False).logits[:, -1].float()
        mixed = call(input_ids=ids, use_cache=False).logits[:, -1].float()
    finally:
        model.train(training)
    return bool((packed - alone).abs().max() < 0.1 * (mixed - alone).abs().max())
