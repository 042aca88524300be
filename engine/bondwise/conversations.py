"""Records of fine-tuning sets → one form → token ids and labels.

A record is a conversation (turns of system, user and assistant) or plain text. A conversation is written by the tokenizer's own chat
template, and only what the assistant says is learnt: every other token has the label `IGNORED`. A tokenizer without a chat template gets
`PLAIN_TEMPLATE`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import torch

from bondwise.errors import UserError
from bondwise.text import beginning_ids, text_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

Role = Literal["system", "user", "assistant"]

IGNORED = -100
"""The label of a token that is not learnt; what torch's cross entropy leaves out."""
ROLES: dict[str, Role] = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
"""The names of roles in the wild; human and gpt are OpenHermes's."""
KNOWN_COLUMNS = "`messages`, `conversations`, `instruction` and `output`, `text`, or `content`"
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}"
    "{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
"""How conversations are written for a tokenizer that has no chat template: `role: content`, an end of text behind each answer."""


class Turn(NamedTuple):
    role: Role
    content: str


Record = tuple[Turn, ...] | str
"""A conversation, or plain text."""


class Document(NamedTuple):
    """What is learnt as one piece. A label is the id of the token at its own place (not of the next one), or `IGNORED`."""

    input_ids: Tensor  # int32 [tokens]
    labels: Tensor  # int32 [tokens]


class BadRow(Exception):
    """A row that nothing can be learnt from; the text says why."""


class UnknownColumns(BadRow):
    """A row that has fields, and none of those that are known."""


# --- a row → a record ------------------------------------------------------------------------------------------------------------------


def read_record(row: Any) -> Record | None:
    """The record of one row as it comes from JSON or a data set; None where the row is a blank text, which is no fault: sets that were cut
    into lines (WikiText) hold many.

    `messages` [{role, content}] (UltraChat), `conversations` [{from, value}] (OpenHermes), `instruction`, `input`, `output` (Alpaca),
    `text` or `content`. A conversation is [system] user assistant user …; turns behind the last answer are left out. Raises BadRow.
    """
    if not isinstance(row, dict):
        raise BadRow(f"a JSON {type(row).__name__} in place of an object")
    # Sets of several shapes have the columns of all in each row, null where there is none.
    fields = {column: value for column, value in cast("dict[str, Any]", row).items() if value is not None}
    if not fields:
        raise BadRow("an empty object")
    for column, role, content in (("messages", "role", "content"), ("conversations", "from", "value")):
        if column in fields:
            return _checked([_turn(item, role, content) for item in _list(fields[column], column)])
    if "instruction" in fields and "output" in fields:
        asked = [_text(fields["instruction"], "instruction")]
        if str(fields.get("input") or "").strip():
            asked.append(_text(fields["input"], "input"))
        return _checked([Turn("user", "\n\n".join(asked)), Turn("assistant", _text(fields["output"], "output"))])
    for column in ("text", "content"):
        if column in fields:
            blank = isinstance(fields[column], str) and not fields[column].strip()
            return None if blank else _text(fields[column], column)
    raise UnknownColumns(f"the columns {', '.join(sorted(fields))}")


def group_of(record: Record) -> str:
    """What records share that must stay together: the first thing the user says, since threads of one tree share their first turns."""
    return record if isinstance(record, str) else next(turn.content for turn in record if turn.role == "user")


def characters(record: Record) -> int:
    return len(record) if isinstance(record, str) else sum(len(turn.content) for turn in record)


def _list(value: Any, column: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise BadRow(f"`{column}` is no list of turns, or empty")
    return cast("list[Any]", value)


def _turn(item: Any, role: str, content: str) -> Turn:
    fields = cast("dict[str, Any]", item) if isinstance(item, dict) else {}
    named = fields.get(role)
    if not isinstance(named, str) or named not in ROLES:
        raise BadRow(f"a turn whose `{role}` is {str(named)[:40]!r}, none of {', '.join(ROLES)}")
    return Turn(ROLES[named], _text(fields.get(content), content))


def _text(value: Any, column: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise BadRow(f"no text in `{column}`")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRow(f"half of a surrogate pair in `{column}`") from None
    return value


def _checked(turns: list[Turn]) -> tuple[Turn, ...]:
    spoken = turns[1:] if turns[0].role == "system" else turns
    if any(turn.role != ("assistant" if place % 2 else "user") for place, turn in enumerate(spoken)):
        raise BadRow(f"turns in the order {', '.join(turn.role for turn in turns[:6])}: user and assistant must take turns")
    if len(spoken) < 2:
        raise BadRow("no turn of the assistant")
    return tuple(turns[:-1] if spoken[-1].role == "user" else turns)


# --- a record → tokens and labels ------------------------------------------------------------------------------------------------------


class Encoder:
    """Turns records into documents with one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        """`name` names the model in errors. Raises UserError where the tokenizer cannot tell which characters a token stands for."""
        if not tokenizer.is_fast:
            raise UserError(
                f"The tokenizer of {name} does not tell which characters a token stands for, so prompts cannot be masked.",
                "Use a model folder that has a tokenizer.json.",
            )
        self._name = name
        self._tokenizer: Any = tokenizer
        self._written = _chat_template(tokenizer)
        self._template = self._written or PLAIN_TEMPLATE
        self._marked = re.search(r"\{%-?\s*generation\b", self._template) is not None
        self.beginning = beginning_ids(tokenizer)
        """What each text begins with: [beginning-of-text id] or []."""
        ids = cast("tuple[int | None, int | None]", (tokenizer.pad_token_id, tokenizer.eos_token_id))
        self.padding = next((token for token in ids if token is not None), 0)
        """The id that fills up a sequence; its label is `IGNORED`, so which one does not matter."""
        self._conversations = 0
        self.masked_answers = 0
        """Answers that are not learnt since the chat template writes them anew once the conversation goes on."""

    @property
    def plain(self) -> bool:
        """Whether conversations are written by `PLAIN_TEMPLATE`, for want of a chat template."""
        return self._written is None

    def warnings(self) -> list[str]:
        """What a person should know of the conversations so far."""
        found: list[str] = []
        if self.plain and self._conversations:
            found.append(f"{self._name} has no chat template: conversations are written as `role: content`.")
        if self.masked_answers:
            found.append(
                f"The chat template of {self._name} writes earlier answers anew once the conversation goes on:"
                f" {self.masked_answers} of them are not learnt."
            )
        return found

    def encode(self, record: Record) -> Document:
        """Of plain text every token but the first is learnt; of a conversation what the assistant says, with the end of its turn.

        Raises BadRow where the chat template refuses the conversation, or writes it so that no answer's place is certain.
        """
        return self._text(record) if isinstance(record, str) else self._conversation(record)

    def _text(self, text: str) -> Document:
        ids = self.beginning + text_ids(self._tokenizer, text)
        return _document(ids, [False] + [True] * (len(ids) - 1))

    def _conversation(self, turns: Sequence[Turn]) -> Document:
        from jinja2 import TemplateError

        self._conversations += 1
        try:
            ids, learnt = self._marked_answers(turns) if self._marked else self._found_answers(turns)
        except TemplateError as failure:
            raise BadRow(f"the chat template refuses it: {failure}") from None
        if not any(learnt):
            raise BadRow("the chat template does not keep the turns before an answer as they were, so no answer's place is certain")
        if self.plain:
            ids, learnt = self.beginning + ids, [False] * len(self.beginning) + learnt
        return _document(ids, learnt)

    def _marked_answers(self, turns: Sequence[Turn]) -> tuple[list[int], list[bool]]:
        """Ids, and which are learnt, where the template itself marks what the model writes ({% generation %})."""
        found: dict[str, list[int]] = self._tokenizer.apply_chat_template(
            _messages(turns), return_dict=True, return_assistant_tokens_mask=True, tokenizer_kwargs={"verbose": False}
        )
        return found["input_ids"], [mark == 1 for mark in found["assistant_masks"]]

    def _found_answers(self, turns: Sequence[Turn]) -> tuple[list[int], list[bool]]:
        """Ids, and which are learnt: those whose characters lie within an answer. See `_places`."""
        whole = self._render(turns)
        places = self._places(turns, whole)
        found = self._tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        offsets: list[tuple[int, int]] = found["offset_mapping"]
        learnt: list[bool] = []
        for begin, end in offsets:
            while places and places[0][1] <= begin:
                places.pop(0)
            # A token that holds the end of the prompt and the beginning of the answer is not one that the model writes.
            learnt.append(bool(places) and places[0][0] <= begin and end <= places[0][1])
        return found["input_ids"], learnt

    def _places(self, turns: Sequence[Turn], whole: str) -> list[tuple[int, int]]:
        """The first character of each answer in `whole`, and the one behind it, in order.

        An answer begins where the prompt for it ends and ends where the conversation would with it as its last turn: both are written by
        the template anew and must be a beginning of the whole. Where they are not (templates that drop the thoughts of earlier answers),
        that answer's place is not certain and it is left out. A prompt that opens more than the answer holds (a thought, which this
        answer lacks) counts as far as the two agree.
        """
        places: list[tuple[int, int]] = []
        for place, turn in enumerate(turns):
            if turn.role != "assistant":
                continue
            after = self._render(turns[: place + 1])
            begin = _agreement(self._render(turns[:place], prompt=True), whole)
            if not whole.startswith(after) or not whole.startswith(before := self._render(turns[:place])) or begin < len(before):
                self.masked_answers += 1
            elif begin < len(after):
                places.append((begin, len(after)))
        return places

    def _render(self, turns: Sequence[Turn], *, prompt: bool = False) -> str:
        return self._tokenizer.apply_chat_template(
            _messages(turns), chat_template=self._template, tokenize=False, add_generation_prompt=prompt
        )


def _chat_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    try:
        return cast("Any", tokenizer).get_chat_template()
    except ValueError:  # there is none, or several of which none is the default
        return None


def _agreement(prompt: str, whole: str) -> int:
    """How many characters `whole` begins with that `prompt` begins with."""
    if whole.startswith(prompt):
        return len(prompt)
    return next((place for place, (left, right) in enumerate(zip(prompt, whole, strict=False)) if left != right), len(whole))


def _messages(turns: Sequence[Turn]) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def _document(ids: list[int], learnt: list[bool]) -> Document:
    input_ids = torch.tensor(ids, dtype=torch.int32)  # [tokens]
    return Document(input_ids, torch.where(torch.tensor(learnt, dtype=torch.bool), input_ids, IGNORED))
