"""`python -m bondwise serve`: a process that keeps models in memory and answers by JSON-RPC over standard input and output.

The framing and dispatch are pygls' (`JsonRPCServer`, the part of it that knows nothing of language servers); the messages are those of
`schema/chat.py`. Standard output belongs to the messages alone: whatever libraries print goes to standard error. The process ends with
its standard input, so it never outlives the editor.

All models compute on one thread, a token at a time: two that write at once take turns, so what is told of their speed is not of two that
fight for the same cores.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeVar, cast

from lsprotocol.types import CANCEL_REQUEST, CancelParams
from pydantic import ValidationError
from pygls.exceptions import JsonRpcException, JsonRpcInvalidParams
from pygls.protocol import JsonRPCNotification, JsonRPCProtocol, JsonRPCRequestMessage, default_converter
from pygls.server import JsonRPCServer

from bondwise import chat
from bondwise.errors import UserError
from bondwise.loading import forget_private_module_cache
from bondwise.memory import release_freed_memory
from bondwise.schema import ChatLoad, ChatReply, ChatRequest, ChatToken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cattrs import Converter
    from pydantic import BaseModel

Message = TypeVar("Message", bound="BaseModel")
Result = TypeVar("Result")

USER_ERROR = 1
"""Code of an error that a person can act on; `data.remedy` says how."""


class _Key(NamedTuple):
    model: str
    device: str


class Models:
    """The models in memory, and the thread that they compute on."""

    def __init__(self) -> None:
        self._loaded: dict[_Key, chat.Loaded] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="models")

    async def on_thread(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """First come, first served. Whoever stops waiting does not stop the work."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    def get(self, asked: ChatLoad) -> chat.Loaded:
        """On the thread: the model, loaded where it is not there or its folder has changed since. Raises UserError."""
        key = _Key(asked.model, asked.device)
        there = self._loaded.get(key)
        if there is not None and there.fingerprint == chat.fingerprint_of(asked):
            return there
        if there is not None:
            del there
            self.drop(asked)
        return self._loaded.setdefault(key, chat.load(asked))

    def drop(self, asked: ChatLoad) -> None:
        """On the thread."""
        if self._loaded.pop(_Key(asked.model, asked.device), None) is not None:
            release_freed_memory()


def serve() -> int:
    """Answers until standard input ends, which ends the process at once."""
    output = _own_output()
    logging.getLogger("pygls").setLevel(logging.CRITICAL)  # it would log each message, and each error a second time
    server = JsonRPCServer(JsonRPCProtocol, _converter)
    models = Models()

    async def load(params: Any) -> Any:
        return (await models.on_thread(models.get, _read(ChatLoad, params))).facts.model_dump(mode="json")

    async def unload(params: Any) -> None:
        await models.on_thread(models.drop, _read(ChatLoad, params))

    async def generate(params: Any) -> Any:
        asked = _read(ChatRequest, params)
        reply = await _generate(models, asked, lambda token: server.protocol.notify("chat/token", token.model_dump(mode="json")))
        return reply.model_dump(mode="json")

    for name, handler in (("chat/load", load), ("chat/unload", unload), ("chat/generate", generate)):
        server.feature(name)(_told(handler))
    server.start_io(cast("BinaryIO", _Input(sys.stdin.buffer)), output)
    return 0


async def _generate(models: Models, asked: ChatRequest, tell: Callable[[ChatToken], None]) -> ChatReply:
    """Writes an answer. Where it is cancelled, it holds what was written until then."""
    text, tokens, seconds, first, prompt = "", 0, 0.0, 0.0, 0

    def reply(reason: Any) -> ChatReply:
        return ChatReply(text=text, tokens=tokens, seconds=seconds, first_seconds=first, prompt_tokens=prompt, reason=reason)

    def begin() -> tuple[int, Iterator[chat.Written]]:
        loaded = models.get(asked)
        ids = chat.prompt_ids(loaded, asked.messages)
        return ids.shape[1], chat.write(loaded, ids, asked)

    try:
        prompt, written = await models.on_thread(begin)

        def more() -> chat.Written | None:
            return next(written, None)

        while (one := await models.on_thread(more)) is not None:
            text += one.text
            if tokens == 0:
                first = one.seconds
            else:
                seconds += one.seconds
            tokens += 0 if one.ends else 1
            if one.text or not one.ends:
                tell(ChatToken(turn=asked.turn, text=one.text, tokens=tokens, seconds=seconds, first_seconds=first))
            if one.ends:
                return reply("end")
    except asyncio.CancelledError:
        return reply("stopped")
    return reply("length")


def _told(handler: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The handler with errors as JSON-RPC knows them: those that a person can act on with their remedy, all others with their traceback on
    standard error."""

    async def told(params: Any) -> Any:
        try:
            return await handler(params)
        except UserError as failure:
            raise JsonRpcException(failure.message, USER_ERROR, {"remedy": failure.remedy}) from None
        except JsonRpcException:
            raise
        except Exception as failure:
            traceback.print_exc()
            raise JsonRpcException(f"{type(failure).__name__}: {failure}", data={"remedy": "The log of Bondwise says more."}) from None

    return told


def _read(kind: type[Message], params: Any) -> Message:
    try:
        return kind.model_validate(params)
    except ValidationError as failure:
        raise JsonRpcInvalidParams(str(failure)) from None


def _converter() -> Converter:
    """pygls' own makes objects with named attributes of what comes; here pydantic reads it."""
    converter = default_converter()

    def request(data: dict[str, Any], _kind: Any) -> JsonRPCRequestMessage:
        return JsonRPCRequestMessage(id=data["id"], method=data["method"], jsonrpc=data["jsonrpc"], params=data.get("params"))

    def notification(data: dict[str, Any], _kind: Any) -> JsonRPCNotification:
        params = data.get("params")
        if data.get("method") == CANCEL_REQUEST:
            params = CancelParams(cast("dict[str, Any]", params)["id"])
        return JsonRPCNotification(method=data["method"], jsonrpc=data["jsonrpc"], params=params)

    converter.register_structure_hook(JsonRPCRequestMessage, request)
    converter.register_structure_hook(JsonRPCNotification, notification)
    return converter


def _own_output() -> BinaryIO:
    """Standard output for the messages alone; in its place libraries, and programs that they start, get standard error."""
    sys.stdout.flush()
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), 1)
    sys.stdout = sys.stderr
    return output


class _Input:
    """Standard input, whose end is the end of the process: at once, whatever computes. Nothing that is written could stay half done."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def readline(self) -> bytes:
        return self._or_end(self._stream.readline())

    def read(self, count: int) -> bytes:
        return self._or_end(self._stream.read(count))

    def _or_end(self, data: bytes) -> bytes:
        if not data:
            forget_private_module_cache()
            os._exit(0)
        return data
