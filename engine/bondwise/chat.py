"""Writing with a model that stays in memory, token by token: what the warm engine process does for the chat panel."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch

from bondwise.checkpoint import open_checkpoint
from bondwise.device import resolve_device
from bondwise.errors import UserError
from bondwise.loading import load_model, load_tokenizer
from bondwise.memory import tensor_bytes
from bondwise.schema import ChatModel
from bondwise.trust import allowing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bondwise.schema import ChatLoad, ChatMessage, ChatRequest


class Loaded(NamedTuple):
    """A model in memory."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    facts: ChatModel
    fingerprint: str
    """Of the folder when it was loaded."""


class Written(NamedTuple):
    """One more token."""

    text: str
    """What it adds; empty while the token is a part of a character."""
    seconds: float
    """That the model took for it; of the first token with the prompt."""
    ends: bool
    """It is an end of text, which adds nothing."""


def load(asked: ChatLoad) -> Loaded:
    """Loads a model and its tokenizer. Raises UserError as `load_model`, before anything is read where the memory does not suffice."""
    started = time.monotonic()
    folder, device = Path(asked.model), resolve_device(asked.device)
    fingerprint = fingerprint_of(asked)
    allow_code = asked.code is not None
    with allowing({} if asked.code is None else {asked.model: asked.code}):
        tokenizer = load_tokenizer(folder, allow_code=allow_code)
        model = load_model(folder, device=device, allow_code=allow_code)
    config: Any = model.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    facts = ChatModel(
        model=asked.model,
        device=device,
        dtype=str(model.dtype).removeprefix("torch."),
        memory=tensor_bytes(model),
        template=tokenizer.chat_template is not None,
        positions=positions if isinstance(positions, int) else None,
        seconds=time.monotonic() - started,
    )
    return Loaded(model, tokenizer, facts, fingerprint)


def fingerprint_of(asked: ChatLoad) -> str:
    """Of the folder as it is now. Raises UserError where it is gone, or brings code that is not allowed."""
    return open_checkpoint(Path(asked.model), allow_code=asked.code is not None).fingerprint()


def prompt_ids(loaded: Loaded, messages: Sequence[ChatMessage]) -> Tensor:
    """Token ids [1, tokens] of the conversation, up to where the model has to go on.

    By the tokenizer's chat template; without one the text as it stands, system messages left out. Raises UserError where the template
    refuses the conversation, and where the model does not take so many tokens.
    """
    tokenizer = loaded.tokenizer
    if loaded.facts.template:
        from jinja2 import TemplateError

        turns = [message.model_dump() for message in messages]
        try:
            text = cast("str", tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        except TemplateError as failure:
            raise UserError(
                f"The chat template of {loaded.facts.model} refuses this conversation: {failure}.", "Leave the system prompt empty."
            ) from None
        # The template has written what belongs before the text.
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    else:
        text = "".join(message.content for message in messages if message.role != "system")
        ids = tokenizer(text, return_tensors="pt").input_ids
    tokens, most = ids.shape[1], loaded.facts.positions
    if tokens == 0:
        raise UserError("There is no text to go on from.", "Write a prompt.")
    if most is not None and tokens >= most:
        raise UserError(f"The conversation has {tokens:,} tokens, and {loaded.facts.model} takes {most:,}.", "Begin a new conversation.")
    return ids


def write(loaded: Loaded, ids: Tensor, asked: ChatRequest) -> Iterator[Written]:
    """The tokens that the model writes behind `ids` [1, tokens], one at a time; ends with the end of text, or when there is no room.

    The same seed gives the same text on one device. Whoever takes the tokens may leave off, or let another model write in between.
    """
    model, tokenizer = loaded.model, loaded.tokenizer
    ends = _ends(loaded)
    room = asked.max_tokens if loaded.facts.positions is None else min(asked.max_tokens, loaded.facts.positions - ids.shape[1])
    generator = torch.Generator().manual_seed(asked.seed)
    cache: Any = None
    following = ids.to(model.device)
    tokens: list[int] = []
    known, shown = 0, 0  # tokens whose text is told already, and from which on the tokens are decoded together with the next
    for _ in range(room):
        started = time.perf_counter()
        # Entered for each token alone: between two of them another model computes on this thread.
        with torch.inference_mode():
            outputs = cast("Any", model)(input_ids=following, past_key_values=cache, use_cache=True)
            cache = outputs.past_key_values
            chosen = _choose(outputs.logits[0, -1].float().cpu(), asked.temperature, generator)
        seconds = time.perf_counter() - started
        if chosen in ends:
            yield Written(_text(tokenizer, tokens[shown:])[len(_text(tokenizer, tokens[shown:known])) :], seconds, ends=True)
            return
        tokens.append(chosen)
        following = torch.tensor([[chosen]], device=model.device)
        # How a token is written depends on those before it, and a character may take several: only whole ones are told.
        before, now = _text(tokenizer, tokens[shown:known]), _text(tokenizer, tokens[shown:])
        if now.endswith("\N{REPLACEMENT CHARACTER}"):
            yield Written("", seconds, ends=False)
            continue
        shown, known = known, len(tokens)
        yield Written(now[len(before) :], seconds, ends=False)


def _choose(logits: Tensor, temperature: float, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    return int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator))


def _text(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    return cast("str", tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _ends(loaded: Loaded) -> set[int]:
    """The tokens after which a model has no more to say: many instruct models name others than their tokenizer's end of text."""
    generation: Any = loaded.model.generation_config
    named = getattr(generation, "eos_token_id", None)
    found = set(cast("list[int]", named)) if isinstance(named, list) else {named}
    return {token for token in (*found, loaded.tokenizer.eos_token_id) if isinstance(token, int)}
