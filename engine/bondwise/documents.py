"""Where healing's documents come from: files, hub data sets, the built-in text, what the model wrote itself.

Each source falls into a part to train on and a part to validate on that share no conversation, no section and no first question: which
part a document is in follows from a hash of what it begins with, not from the tokenizer, the length, the seed or the order. Of the
built-in text and of .txt files only the part `calibration` of `bondwise.text` is used, of a hub data set only its training split, so that
the other part measures what healing has not seen. Of a .jsonl file nothing but the part to validate on is such.
"""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch

from bondwise.atomic import from_json
from bondwise.conversations import IGNORED, KNOWN_COLUMNS, BadRow, Document, UnknownColumns, characters, group_of, read_record
from bondwise.errors import UserError
from bondwise.text import hub_splits, jsonl_lines, kind_of, reading, reading_hub, sections

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from bondwise.conversations import Encoder, Record

VALIDATION_SHARE = 16
"""One in so many groups validates."""
IN_MEMORY = 32 << 20
"""Bytes of a file whose tokens are held in memory (about 8 million, half a minute's work); a larger one is read anew in every epoch, as hub
data sets are."""
BAD_SHARE, ROWS_TO_JUDGE = 0.01, 200
"""A source with a larger share of bad rows is refused: once so many rows were read, and at the end."""
BAD_ROWS_KEPT = 5


class Facts(NamedTuple):
    """What is known of the training part of a source before it was walked through; None where only that would tell."""

    documents: int | None
    tokens: int | None
    learnt: int | None  # tokens with a label


class Source(Protocol):
    """Documents of one origin, in a training and a validation part."""

    name: str
    identity: str  # changes when the data changes, as far as that can be told without reading them
    facts: Facts

    def epoch(self, epoch: int, seed: int, skip: int) -> Iterator[tuple[int, Document]]:
        """The training documents of one epoch, each once, each with the place behind it; `skip` is such a place, 0 at the beginning."""
        ...

    def validation(self) -> Iterator[Document]:
        """The validation documents, in one order."""
        ...

    def warnings(self) -> list[str]:
        """What a person should know of the data read so far."""
        ...


def open_source(data: str, encoder: Encoder, check_cancelled: Callable[[], None]) -> Source:
    """The source that `data` names: a .txt or .jsonl file, `builtin`, or a hub data set. (`own_source` takes what a model wrote.)

    `check_cancelled` is called at every row, now and whenever the source is read. Raises UserError where the source cannot be read, has no
    known columns, too many bad rows, or too little to hold any of it back.
    """
    kind = kind_of(data)
    if kind == "self":
        raise UserError("Text that a model writes itself is in no file.", "Name a .txt or .jsonl file, `builtin`, or a hub data set.")
    if kind == "hub":
        return _Streamed(_HubRows(data), encoder, check_cancelled, data)
    rows = _LineRows(Path(data)) if kind == "jsonl" else _SectionRows(data)
    size = 0 if kind == "builtin" else Path(data).stat().st_size
    if size > IN_MEMORY:
        return _Streamed(rows, encoder, check_cancelled, f"{data}, {size} bytes")
    return _read_whole(rows, encoder, check_cancelled)


def own_source(ids: Tensor) -> Source:
    """A source of what a model wrote itself: token ids int64 [sequences, length], a document each; all but its first token is learnt."""
    held = _Groups()
    for row in ids.to(torch.int32):
        labels = row.clone()
        labels[0] = IGNORED
        held.add(str(row.tolist()), len(row), Document(row, labels))
    return _Held("the model's own text", held, [])


class RowCheck:
    """Counts the rows of one pass over a source and refuses it where too many are bad."""

    def __init__(self, name: str, unit: str) -> None:
        """`unit` is what a row is called in messages: line, row, section."""
        self.name, self.unit = name, unit
        self.rows = 0
        self.bad = 0
        self._first: list[str] = []

    def count(self, place: int, fault: BadRow | None) -> None:
        """Counts the row at `place`. Raises UserError above `BAD_SHARE`, and where no row before had known columns and this has none."""
        if isinstance(fault, UnknownColumns) and self.rows == self.bad:
            raise UserError(f"{self.name} has {fault}; known are {KNOWN_COLUMNS}.", "Rename its columns, or name another data set.")
        self.rows += 1
        if fault is not None:
            self.bad += 1
            if len(self._first) < BAD_ROWS_KEPT:
                self._first.append(f"{self.unit} {place}: {fault}")
            if self.rows >= ROWS_TO_JUDGE:
                self.judge()

    def judge(self) -> None:
        """Raises UserError where too many of the rows so far are bad."""
        if self.bad > BAD_SHARE * self.rows:
            raise UserError(
                f"{self.name}: {self.bad} of {self.rows} {self.unit}s hold nothing to learn from ({'; '.join(self._first)}).",
                f"Mend or remove them; up to {BAD_SHARE:.0%} are left out with a warning.",
            )

    def warnings(self) -> list[str]:
        if not self.bad:
            return []
        return [f"{self.name}: {self.bad} of {self.rows} {self.unit}s left out ({'; '.join(self._first)})."]


# --- rows ------------------------------------------------------------------------------------------------------------------------------


class _Rows(Protocol):
    name: str
    unit: str

    def read(self, skip: int) -> Iterator[tuple[int, Any]]:
        """Each row behind the first `skip`, with its number, from 1."""
        ...

    def record(self, row: Any) -> Record | None:
        """What a row holds; None where that is nothing. Raises BadRow."""
        ...


class _LineRows:
    """The lines of a .jsonl file."""

    unit = "line"

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path

    def read(self, skip: int) -> Iterator[tuple[int, str]]:
        blank: list[tuple[int, str]] = []
        with reading(self._path):
            for number, line in jsonl_lines(self._path):
                if number <= skip:
                    continue
                if line.strip():
                    yield from blank
                    blank.clear()
                    yield number, line
                else:  # a fault, but not where the file ends with it
                    blank.append((number, line))

    def record(self, row: str) -> Record | None:
        if not row.strip():
            raise BadRow("an empty line")
        try:
            value: Any = from_json(row)
        except ValueError as failure:
            raise BadRow(f"not JSON: {failure}") from None
        return read_record(value)


class _HubRows:
    """The rows of a hub data set's training split: the first whose name begins with `train`, else the first."""

    unit = "row"

    def __init__(self, data: str) -> None:
        self.name = data

    def read(self, skip: int) -> Iterator[tuple[int, Any]]:
        with reading_hub(self.name):
            splits = hub_splits(self.name)
            chosen = next((name for name in splits if name.startswith("train")), next(iter(splits)))
            yield from itertools.islice(enumerate(splits[chosen], start=1), skip, None)

    def record(self, row: Any) -> Record | None:
        return read_record(row)


class _SectionRows:
    """The sections of a text that `bondwise.text` sets apart for calibration."""

    unit = "section"

    def __init__(self, data: str) -> None:
        self.name = data

    def read(self, skip: int) -> Iterator[tuple[int, str]]:
        texts = (section.text for section in sections(self.name) if section.part == "calibration")
        return itertools.islice(enumerate(texts, start=1), skip, None)

    def record(self, row: str) -> Record | None:
        return row


# --- parts -----------------------------------------------------------------------------------------------------------------------------


class _Groups:
    """Documents in memory by the hash of what they share."""

    def __init__(self) -> None:
        self.documents: list[tuple[int, Document]] = []
        self._sizes: dict[int, int] = {}

    def add(self, key: str, size: int, document: Document) -> None:
        group = _hash(key)
        self.documents.append((group, document))
        self._sizes[group] = self._sizes.get(group, 0) + size

    def validation(self) -> set[int]:
        """Groups in the order of their hashes until they hold a sixteenth of all; those that would make it more than twice that stay out.

        Empty where there is one group or none.
        """
        wanted = sum(self._sizes.values()) / VALIDATION_SHARE
        chosen: set[int] = set()
        held = 0
        for group, size in sorted(self._sizes.items()):
            if held < wanted and held + size <= 2 * wanted:
                chosen.add(group)
                held += size
        # Few groups: each may be more than that share.
        return chosen or {min(self._sizes, key=lambda group: (self._sizes[group], group))} if len(self._sizes) > 1 else set()


class _Held:
    """A source whose tokens are in memory; every epoch has an order of its own."""

    def __init__(self, name: str, groups: _Groups, warnings: list[str]) -> None:
        chosen = groups.validation()
        if not chosen:
            raise UserError(
                f"{name} has no two documents that begin differently, and healing holds some of the data back to validate on.",
                "Name more text.",
            )
        self.name = name
        self._training = [document for group, document in groups.documents if group not in chosen]
        self._validation = [document for group, document in groups.documents if group in chosen]
        self._warnings = warnings
        digest = hashlib.sha256()
        for document in self._training:
            digest.update(document.input_ids.numpy().tobytes() + document.labels.numpy().tobytes())
        self.identity = digest.hexdigest()
        self.facts = Facts(
            len(self._training),
            sum(len(document.input_ids) for document in self._training),
            sum(int((document.labels != IGNORED).sum()) for document in self._training),
        )

    def epoch(self, epoch: int, seed: int, skip: int) -> Iterator[tuple[int, Document]]:
        order = torch.randperm(len(self._training), generator=generator_of(seed, epoch))
        for place in range(skip, len(self._training)):
            yield place + 1, self._training[int(order[place])]

    def validation(self) -> Iterator[Document]:
        return iter(self._validation)

    def warnings(self) -> list[str]:
        return self._warnings


class _Streamed:
    """A source that is read anew in every epoch, in its own order; a place is the number of rows before it."""

    facts = Facts(None, None, None)

    def __init__(self, rows: _Rows, encoder: Encoder, check_cancelled: Callable[[], None], identity: str) -> None:
        self.name, self.identity = rows.name, identity
        self._rows, self._encoder, self._check_cancelled = rows, encoder, check_cancelled
        self._check = RowCheck(rows.name, rows.unit)

    def epoch(self, epoch: int, seed: int, skip: int) -> Iterator[tuple[int, Document]]:
        for place, _, document in self._read(skip, lambda record: not _validates(record)):
            yield place, document

    def validation(self) -> Iterator[Document]:
        for _, _, document in self._read(0, _validates):
            yield document

    def warnings(self) -> list[str]:
        return self._check.warnings()

    def _read(self, skip: int, wanted: Callable[[Record], bool]) -> Iterator[tuple[int, Record, Document]]:
        self._check = RowCheck(self.name, self._rows.unit)
        return _documents(self._rows, self._encoder, self._check, self._check_cancelled, skip=skip, wanted=wanted)


def _read_whole(rows: _Rows, encoder: Encoder, check_cancelled: Callable[[], None]) -> Source:
    check = RowCheck(rows.name, rows.unit)
    held = _Groups()
    for _, record, document in _documents(rows, encoder, check, check_cancelled, skip=0, wanted=lambda _: True):
        held.add(group_of(record), characters(record), document)
    return _Held(rows.name, held, check.warnings())


def _documents(
    rows: _Rows, encoder: Encoder, check: RowCheck, check_cancelled: Callable[[], None], *, skip: int, wanted: Callable[[Record], bool]
) -> Iterator[tuple[int, Record, Document]]:
    """The number of each good row behind the first `skip`, with its record and its document, where the record is `wanted`."""
    for number, row in rows.read(skip):
        check_cancelled()
        document: Document | None = None
        record: Record | None = None
        fault: BadRow | None = None
        try:
            record = rows.record(row)
            if record is not None and wanted(record):
                document = encoder.encode(record)
        except BadRow as found:
            fault = found
        check.count(number, fault)
        if record is not None and document is not None:
            yield number, record, document
    check.judge()


def _validates(record: Record) -> bool:
    return _hash(group_of(record)) < (1 << 64) // VALIDATION_SHARE


def _hash(key: str) -> int:
    """Of 64 bits; any white space counts as one blank."""
    return int.from_bytes(hashlib.blake2b(" ".join(key.split()).encode(), digest_size=8).digest(), "big")


def generator_of(*seeds: int) -> torch.Generator:
    """Random numbers that follow from `seeds` alone."""
    digest = hashlib.blake2b(repr(seeds).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
