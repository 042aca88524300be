"""Text for calibration and evaluation: built-in, a file, or a hub data set.

Whatever the source, its text falls into two parts that share no section, so that what a model was calibrated on never measures it. Which
section is in which part depends on the source alone, not on the tokenizer, the length or the seed.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from bondwise.atomic import from_json
from bondwise.errors import UserError
from bondwise.schema import CalibrationOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping

    import torch
    from transformers import PreTrainedTokenizerBase

Part = Literal["calibration", "evaluation"]
Kind = Literal["builtin", "self", "txt", "jsonl", "hub"]

BUILTIN = "builtin"
OWN_TEXT = "self"
"""What a model writes itself, for calibration (`bondwise.own_text`)."""
SMALLEST_SECTION, LARGEST_SECTION = 2048, 65536
"""Characters in a section of a file or a data set: a thirty-second of it within these limits."""
LONGEST_RECORD = 16 << 20
"""Characters in one line of a .jsonl file; a longer one is not a text."""
POOL = 4
"""How many times the wanted tokens are gathered before the sequences are chosen: spreads them without reading a whole large file."""


class Section(NamedTuple):
    """A stretch of text that is in one part as a whole."""

    name: str
    text: str
    part: Part


def token_sequences(
    tokenizer: PreTrainedTokenizerBase, data: str, part: Part, *, length: int, sequences: int, seed: int = 0
) -> torch.Tensor:
    """Token ids [sequences, length], int64, of consecutive text from one part of `data`.

    Sequences do not overlap and are chosen by `seed` among the first `POOL` times as many; each begins with the tokenizer's
    beginning-of-text token where the tokenizer sets one. Reads no more of a file than that. Raises UserError when the source cannot be
    read or has less text than asked for.
    """
    import torch

    beginning = beginning_ids(tokenizer)
    stride = length - len(beginning)
    if stride < 1:
        raise UserError(f"Sequences of {length} tokens leave no room for text.", "Choose a larger length.")
    pool: list[int] = []
    for section in sections(data):
        if section.part == part:
            pool.extend(text_ids(tokenizer, section.text + "\n\n"))
            if len(pool) >= POOL * sequences * stride:
                break
    windows = min(len(pool) // stride, POOL * sequences)
    if windows < sequences:
        raise UserError(
            f"{data} has {len(pool)} tokens for {part}; {sequences} sequences of {length} need {sequences * stride}.",
            "Name a longer text, or ask for fewer or shorter sequences (--sequences, --length). Each part is about half of the text.",
        )
    chosen = torch.randperm(windows, generator=torch.Generator().manual_seed(seed))[:sequences].sort().values
    text = torch.tensor(pool[: windows * stride], dtype=torch.int64).view(windows, stride)[chosen]  # [sequences, stride]
    head = torch.tensor(beginning, dtype=torch.int64).expand(sequences, -1)  # [sequences, 0 or 1]
    return torch.cat([head, text], dim=1)


def calibration_sequences(measured: int) -> int:
    """How many sequences a profile that measures on so many is calibrated on: as many as a run after it, so that both share moments."""
    return max(measured, CalibrationOptions().sequences)


def fingerprint(ids: torch.Tensor) -> str:
    """SHA-256 in hex of token ids [sequences, length]: which text something was learnt from or measured on."""
    return hashlib.sha256(ids.numpy().astype("<i8").tobytes()).hexdigest()


def sections(data: str) -> Iterator[Section]:
    """The sections of `data`, in order, read as they are asked for. Raises UserError when the source is none or cannot be read."""
    kind = kind_of(data)
    if kind == BUILTIN:
        return _builtin_sections()
    if kind == OWN_TEXT:
        raise UserError(
            "Text that a model writes itself measures nothing: it is for calibration alone (--calibration self).",
            "Name a .txt or .jsonl file, `builtin`, or a hub data set.",
        )
    return _hub_sections(data) if kind == "hub" else _file_sections(Path(data))


def kind_of(data: str) -> Kind:
    """What `data` names. Raises UserError where that is nothing that can be read as text."""
    if data == BUILTIN:
        return "builtin"
    if data == OWN_TEXT:
        return "self"
    path = Path(data)
    if path.suffix in (".txt", ".jsonl"):
        if not path.is_file():
            raise UserError(f"The text {path} does not exist or is not a file.", "Name a .txt or .jsonl file, or `builtin`.")
        return "txt" if path.suffix == ".txt" else "jsonl"
    if path.exists():
        raise UserError(f"{path} is neither a .txt nor a .jsonl file.", "Convert it: one text, or one JSON object with `text` a line.")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?", data):
        raise UserError(f"There is no text {data!r}.", "Name a .txt or .jsonl file, `builtin`, or a hub data set such as ORG/NAME.")
    return "hub"


# --- sources -------------------------------------------------------------------------------------------------------------------------


def _builtin_sections() -> Iterator[Section]:
    """The language reference that every CPython carries (`pydoc_data.topics`), one section a topic.

    Some topics contain others word for word; a paragraph stays where it is found first, the longest topic leading, so that the parts share
    none. The part follows from the topic's name, so that other versions of Python divide alike.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise UserError("This Python lacks the documentation texts (pydoc_data.topics).", "Name a .txt or .jsonl file.") from None
    seen: set[str] = set()
    for name, text in sorted(topics.items(), key=lambda topic: (-len(topic[1]), topic[0])):
        kept: list[str] = []
        for paragraph in text.split("\n\n"):
            words = " ".join(paragraph.split())
            if words not in seen:
                seen.add(words)
                kept.append(paragraph)
        if kept:
            odd = hashlib.sha256(name.encode()).digest()[0] & 1
            yield Section(name, "\n\n".join(kept), "calibration" if odd else "evaluation")


def _file_sections(path: Path) -> Iterator[Section]:
    size = min(max(path.stat().st_size // 32, SMALLEST_SECTION), LARGEST_SECTION)
    pieces = _txt_pieces(path, size) if path.suffix == ".txt" else _jsonl_texts(path)
    with reading(path):
        yield from _alternate(pieces, size)


@contextmanager
def reading(path: Path) -> Generator[None]:
    """While a text file is read: what the operating system or the encoding refuses becomes a UserError that names the file."""
    try:
        yield
    except UnicodeDecodeError as failure:
        raise UserError(f"{path} is not UTF-8 text: {failure.reason}.", "Save it as UTF-8.") from None
    except OSError as failure:
        raise UserError(f"{path} cannot be read: {failure.strerror}.", "Check the file and its permissions.") from None


def _txt_pieces(path: Path, size: int) -> Iterator[str]:
    """The file in pieces of at most about `size` characters, cut behind a paragraph, else a line, else a word, else anywhere."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rest = ""
        while block := file.read(size):
            rest += block.replace("\r\n", "\n")
            while len(rest) >= size:
                cut = next((at + len(mark) for mark in ("\n\n", "\n", " ") if (at := rest.rfind(mark, size // 2, size)) >= 0), size)
                yield rest[:cut]
                rest = rest[cut:]
        yield rest


def jsonl_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers, from 1, and the lines of a .jsonl file, blank ones too. Raises UserError at a line longer than `LONGEST_RECORD`."""
    # Only "\n" ends a record: texts hold U+2028 and its kind, at which str.splitlines would cut.
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        number = 0
        while line := file.readline(LONGEST_RECORD + 1):
            number += 1
            if len(line) > LONGEST_RECORD:
                raise UserError(f"{path}, line {number} is longer than {LONGEST_RECORD} characters.", "Break the text into more lines.")
            yield number, line


def _jsonl_texts(path: Path) -> Iterator[str]:
    for number, line in jsonl_lines(path):
        if not line.strip():
            continue
        try:
            record: Any = from_json(line)
        except ValueError as failure:
            raise UserError(f"{path}, line {number} is not JSON: {failure}.", "Each line must be one JSON object.") from None
        yield _text_of(record, f"{path}, line {number}")


def _hub_sections(data: str) -> Iterator[Section]:
    """ID or ID:CONFIGURATION. Where the data set is divided already, `train` calibrates and `test`, else `validation`, evaluates."""
    with reading_hub(data):
        splits = hub_splits(data)
        # Evaluation first: a caller that wants the calibration part reads past a test split, which is small, and not past a train split.
        named: dict[Part, tuple[str, ...]] = {"evaluation": ("test", "validation"), "calibration": ("train",)}
        divided = {part: found for part, names in named.items() if (found := next((name for name in names if name in splits), None))}
        if len(divided) < 2:
            yield from _alternate((_text_of(record, data) for record in splits[next(iter(splits))]), LARGEST_SECTION)
            return
        for part, split in divided.items():
            for section in _alternate((_text_of(record, data) for record in splits[split]), LARGEST_SECTION):
                yield section._replace(name=f"{split}/{section.name}", part=part)


def hub_splits(data: str) -> Mapping[str, Iterable[Any]]:
    """The splits of the hub data set ID or ID:CONFIGURATION by name, read as they are walked through; to be used within `reading_hub`."""
    try:
        library: Any = importlib.import_module("datasets")
    except ImportError:
        raise UserError(
            f"{data} is not a file, so it is taken for a hub data set, and the package `datasets` that reads those is not installed.",
            "Name a .txt or .jsonl file, use `builtin`, or install `datasets` into the engine's environment.",
        ) from None
    name, _, configuration = data.partition(":")
    return library.load_dataset(name, configuration or None, streaming=True)


@contextmanager
def reading_hub(data: str) -> Generator[None]:
    """While a hub data set is read: whatever its reader or the network raises becomes a UserError that names it."""
    try:
        yield
    except UserError:
        raise
    except Exception as failure:
        raise UserError(
            f"The hub data set {data} could not be read: {type(failure).__name__}: {failure}",
            "Check its name (ORG/NAME or ORG/NAME:CONFIGURATION) and the network, or name a .txt or .jsonl file.",
        ) from failure


# --- pure --------------------------------------------------------------------------------------------------------------------------


def _alternate(texts: Iterable[str], size: int) -> Iterator[Section]:
    """Texts gathered into sections of about `size` characters, by turns for evaluation and calibration.

    By position, not by hash: then even three sections have both parts. A text that was seen already is left out, so that a repeated one
    is not in both. A section never ends inside a text unless the text alone is longer than a section.
    """
    seen: set[bytes] = set()
    gathered: list[str] = []
    count = 0

    def section() -> Section:
        return Section(str(count), "\n\n".join(text.strip("\n") for text in gathered), "calibration" if count % 2 else "evaluation")

    for whole in texts:
        for text in (whole[start : start + size] for start in range(0, len(whole), size)):
            digest = hashlib.blake2b(" ".join(text.split()).encode(errors="surrogatepass"), digest_size=12).digest()
            if digest in seen or not text.strip():
                continue
            seen.add(digest)
            gathered.append(text)
            if sum(map(len, gathered)) >= size // 2:
                yield section()
                gathered, count = [], count + 1
    if gathered:
        yield section()


def _text_of(record: Any, where: str) -> str:
    """The text of one record: `text`, `content`, the contents of `messages`, or `instruction`, `input` and `output`."""
    fields = cast("dict[str, Any]", record) if isinstance(record, dict) else {}
    for field in ("text", "content"):
        if isinstance(value := fields.get(field), str):
            return value
    if isinstance(messages := fields.get("messages"), list):
        return "\n\n".join(_text_of(message, where) for message in cast("list[Any]", messages))
    if "instruction" in fields and "output" in fields:
        values = [fields.get(field) for field in ("instruction", "input", "output")]
        return "\n\n".join(value for value in values if isinstance(value, str) and value)
    keys = ", ".join(sorted(fields)) or f"a JSON {type(record).__name__}"
    raise UserError(f"{where} has no text, only {keys}.", "A record needs `text`, `content` or `messages`.")


def beginning_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """[bos] where the tokenizer puts it before a text by itself, else []: models trained with it are lost without it."""
    first = _ids(tokenizer, "a", special=True)[:1]
    return first if first and first[0] == tokenizer.bos_token_id else []


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text alone, without what the tokenizer puts before or behind one."""
    return _ids(tokenizer, text, special=False)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool) -> list[int]:
    # verbose=False: the warning that a text is longer than the model's context is meant for texts that go into the model whole.
    call = cast("Callable[..., dict[str, list[int]]]", tokenizer)
    return call(text, add_special_tokens=special, verbose=False)["input_ids"]
