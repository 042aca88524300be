"""What the warm engine process (`serve`) and the extension say to each other, by JSON-RPC over standard input and output."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from bondwise.schema.base import Record, Strict

ChatRole = Literal["system", "user", "assistant"]


class ChatMessage(Strict):
    role: ChatRole
    content: str


class ChatLoad(Strict):
    """`chat/load` → `ChatModel`: the model is in memory then. `chat/unload` takes the same and answers nothing."""

    model: Annotated[str, Field(description="The folder, absolute.")]
    device: str = "auto"
    code: Annotated[
        str | None, Field(description="The hash of the folder's own Python code, which the user allows; null: none may run.")
    ] = None


class ChatModel(Record):
    """A model that is in memory."""

    model: str
    device: Annotated[str, Field(description="Where it is: cpu, cuda:0, mps.")]
    dtype: str
    memory: Annotated[int, Field(description="Bytes of its weights as they are held, not of what a conversation adds.")]
    template: Annotated[bool, Field(description="Its tokenizer has a chat template; without one it goes on with the text as it stands.")]
    positions: Annotated[int | None, Field(description="Most tokens that it takes; null where its config does not say.")] = None
    seconds: Annotated[float, Field(description="That loading took; of a model that was there already, that it once took.")]


class ChatRequest(ChatLoad):
    """`chat/generate` → `ChatReply`, with a `chat/token` notification a token meanwhile. `$/cancelRequest` stops it: the reply comes at
    once, and holds what was written until then."""

    turn: Annotated[str, Field(description="Of the caller's choice; what is told of this request names it.")]
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    temperature: Annotated[float, Field(ge=0, le=2, description="0: always the likeliest token.")] = 0.0
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    max_tokens: Annotated[int, Field(ge=1, le=8192)] = 256


class ChatProgress(Record):
    """How far an answer is. Seconds are those in which its own model computed, not those in which another had its turn."""

    tokens: Annotated[int, Field(description="Written so far.")] = 0
    seconds: Annotated[float, Field(description="Of all tokens but the first.")] = 0.0
    first_seconds: Annotated[float, Field(description="Reading the prompt, the first token included.")] = 0.0


class ChatToken(ChatProgress):
    """`chat/token`"""

    turn: str
    text: Annotated[str, Field(description="What comes behind the text so far; may be empty within a character of several tokens.")]


class ChatReply(ChatProgress):
    text: str
    prompt_tokens: int
    reason: Annotated[Literal["end", "length", "stopped"], Field(description="length: the most tokens asked for, or that it takes.")]


class ChatSettings(Strict):
    """How answers are made; the same for all models of a panel."""

    system: str = ""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    seed: Annotated[int, Field(ge=0, le=2**31)] = 0
    max_tokens: Annotated[int, Field(ge=1, le=8192)] = 256


class ChatSide(Record):
    """A model as a chat panel shows it."""

    folder: str
    name: str
    bytes: Annotated[int, Field(description="Of the folder.")]
    state: Annotated[Literal["away", "loading", "ready", "failed"], Field(description="away: not in memory.")]
    facts: ChatModel | None = None
    problem: Annotated[str | None, Field(description="Why it could not be loaded.")] = None


class ChatAnswer(ChatProgress):
    text: str = ""
    state: Literal["waiting", "writing", "end", "length", "stopped", "failed"] = "waiting"
    prompt_tokens: int | None = None
    problem: str | None = None


class ChatTurn(Record):
    prompt: str
    answers: Annotated[list[ChatAnswer], Field(description="One for each model, in their order.")]


class ChatView(Record):
    """A chat panel: what the host holds and the page draws."""

    models: list[ChatSide]
    turns: list[ChatTurn] = []
    note: Annotated[str | None, Field(description="What happened to the engine's process, in a sentence.")] = None
