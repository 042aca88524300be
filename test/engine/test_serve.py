"""The warm engine process as the extension meets it: a real subprocess, framed JSON-RPC over its pipes."""

from __future__ import annotations

import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tiny_models import make_tokenizer, save_tiny_model

from bondwise.loading import load_model

if TYPE_CHECKING:
    from collections.abc import Generator

ENGINE = Path(__file__).parents[2] / "engine"
PATIENCE = 120
"""Seconds; a busy machine takes long to import torch."""


class Client:
    """The other end of the pipes."""

    def __init__(self, home: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ENGINE), "BONDWISE_HOME": str(home)}
        # In a folder of its own, whose files are no modules.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bondwise", "serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=home,
        )
        self.replies: dict[int, dict[str, Any]] = {}
        self.told: list[dict[str, Any]] = []
        self.errors: list[str] = []
        self._arrived: queue.Queue[None] = queue.Queue()
        self._last = 0
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._read_errors, daemon=True).start()

    def send(self, method: str, params: Any, *, notify: bool = False) -> int:
        self._last += 1
        message = {"jsonrpc": "2.0", "method": method, "params": params} | ({} if notify else {"id": self._last})
        body = json.dumps(message).encode()
        assert self.process.stdin
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        self.process.stdin.flush()
        return self._last

    def wait(self, until: Any) -> None:
        """Until it is so; looked at after each message."""
        deadline = time.monotonic() + PATIENCE
        while not until():
            try:
                self._arrived.get(timeout=0.2)
            except queue.Empty:
                assert time.monotonic() < deadline, "".join(self.errors)
                assert self.process.poll() is None, "".join(self.errors)

    def reply(self, number: int) -> dict[str, Any]:
        self.wait(lambda: number in self.replies)
        return self.replies[number]

    def ask(self, method: str, params: Any) -> Any:
        answer = self.reply(self.send(method, params))
        assert "error" not in answer, answer
        return answer["result"]

    def fails(self, method: str, params: Any) -> dict[str, Any]:
        return self.reply(self.send(method, params))["error"]

    def text(self, turn: str) -> str:
        return "".join(token["text"] for token in self.told if token["turn"] == turn)

    def _read(self) -> None:
        stream = self.process.stdout
        assert stream
        while header := stream.readline():
            # Nothing but framed messages may ever stand there.
            assert header.startswith(b"Content-Length: "), header
            while stream.readline().strip():
                pass
            message = json.loads(stream.read(int(header.split()[1])))
            if "method" in message:
                assert message["method"] == "chat/token"
                self.told.append(message["params"])
            else:
                self.replies[message["id"]] = message
            self._arrived.put(None)

    def _read_errors(self) -> None:
        assert self.process.stderr
        self.errors.extend(line.decode(errors="replace") for line in self.process.stderr)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_tiny_model("llama", folder / "one", seed=1)
    save_tiny_model("gpt2", folder / "two", seed=2)
    templated = make_tokenizer()
    templated.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}[{{ m.role }}]{{ m.content }}"
        "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    templated.save_pretrained(folder / "two")
    return folder


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Generator[Client]:
    made = Client(tmp_path_factory.mktemp("serve"))
    yield made
    made.process.kill()
    made.process.wait()


def asked(model: Path, turn: str, prompt: str = "abc", **more: Any) -> dict[str, Any]:
    return {"model": str(model), "device": "cpu", "turn": turn, "messages": [{"role": "user", "content": prompt}], **more}


@torch.no_grad()
def continued(model: Path, ids: list[int], count: int) -> str:
    """By transformers' own greedy generation, the text of the first `count` tokens."""
    loaded: Any = load_model(model)
    whole = torch.tensor([ids])
    written = loaded.generate(whole, attention_mask=torch.ones_like(whole), max_new_tokens=count, do_sample=False)[0, len(ids) :]
    return str(make_tokenizer().decode(written, skip_special_tokens=True))


def test_a_model_is_loaded_once_and_its_facts_are_told(client: Client, models: Path) -> None:
    one = client.ask("chat/load", {"model": str(models / "one"), "device": "cpu"})
    held = load_model(models / "one")
    assert one["memory"] == sum(tensor.nbytes for tensor in (*held.parameters(), *held.buffers()))
    assert (one["device"], one["dtype"], one["template"], one["positions"]) == ("cpu", "float32", False, 128)
    assert client.ask("chat/load", {"model": str(models / "one"), "device": "cpu"}) == one


def test_an_answer_comes_token_by_token_and_is_what_transformers_writes(client: Client, models: Path) -> None:
    reply = client.ask("chat/generate", asked(models / "one", "plain", max_tokens=24))
    assert reply["reason"] in {"length", "end"}
    tokens = [token for token in client.told if token["turn"] == "plain"]
    assert [token["tokens"] for token in tokens] == list(range(1, reply["tokens"] + 1))
    assert reply["prompt_tokens"] == 3
    assert reply["first_seconds"] > 0 and reply["seconds"] > 0
    assert reply["text"] == client.text("plain")
    # Where a character has come in parts only, the last of it is not told.
    assert continued(models / "one", list(make_tokenizer()("abc").input_ids), 24).startswith(
        reply["text"].rstrip("\N{REPLACEMENT CHARACTER}")
    )
    with_template = client.ask("chat/generate", asked(models / "two", "template", max_tokens=8))
    assert with_template["prompt_tokens"] == len("[user]abc[assistant]")


def test_two_models_take_turns_and_seeds_are_kept(client: Client, models: Path) -> None:
    """Both write at once, by chance, and each what it writes alone."""
    drawn: dict[str, Any] = {"temperature": 1.0, "seed": 7, "max_tokens": 40}
    alone = {name: client.ask("chat/generate", asked(models / name, f"alone-{name}", **drawn))["text"] for name in ("one", "two")}
    start = len(client.told)
    numbers = [client.send("chat/generate", asked(models / name, f"both-{name}", **drawn)) for name in ("one", "two")]
    replies = [client.reply(number)["result"] for number in numbers]
    assert [reply["text"] for reply in replies] == list(alone.values())
    order = [token["turn"] for token in client.told[start:]]
    switches = sum(before != after for before, after in itertools.pairwise(order))
    assert switches > min(reply["tokens"] for reply in replies)
    assert client.ask("chat/generate", asked(models / "one", "other", temperature=1.0, seed=8, max_tokens=40))["text"] != alone["one"]


def test_a_stop_is_answered_at_once_with_what_was_written(client: Client, models: Path) -> None:
    number = client.send("chat/generate", asked(models / "one", "stopped", max_tokens=120, temperature=2.0))
    client.wait(lambda: client.text("stopped"))
    client.send("$/cancelRequest", {"id": number}, notify=True)
    reply = client.reply(number)["result"]
    assert reply["reason"] == "stopped"
    assert reply["text"] == client.text("stopped")
    assert 0 < reply["tokens"] < 120
    # And the next one is not held up.
    assert client.ask("chat/generate", asked(models / "one", "next", max_tokens=2))["tokens"] <= 2


def test_what_cannot_be_done_is_said_and_the_process_goes_on(client: Client, models: Path, tmp_path: Path) -> None:
    assert "does not exist" in client.fails("chat/load", {"model": str(tmp_path / "nowhere")})["message"]
    long = client.fails("chat/generate", asked(models / "one", "long", "x" * 200))
    assert "200 tokens" in long["message"] and "Begin a new conversation" in long["data"]["remedy"]
    refused = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    told = client.fails("chat/generate", {**asked(models / "two", "refused"), "messages": refused})
    assert "no system" in told["message"] and "system prompt" in told["data"]["remedy"]
    assert client.fails("chat/generate", asked(models / "one", "hot", temperature=9))["code"] == -32602
    assert client.fails("chat/nothing", {})["code"] == -32601
    assert client.ask("chat/generate", asked(models / "one", "after", max_tokens=1))["tokens"] == 1


def test_a_changed_folder_is_loaded_anew(client: Client, tmp_path: Path) -> None:
    folder = save_tiny_model("llama", tmp_path / "changing", seed=1)
    first = client.ask("chat/generate", asked(folder, "first", max_tokens=20))["text"]
    save_tiny_model("mistral", folder, seed=5)
    assert client.ask("chat/generate", asked(folder, "second", max_tokens=20))["text"] != first
    assert client.ask("chat/unload", {"model": str(folder), "device": "cpu"}) is None


def test_it_ends_with_its_input_also_while_it_writes(models: Path, tmp_path: Path) -> None:
    client = Client(tmp_path)
    client.send("chat/generate", asked(models / "one", "orphan", max_tokens=120))
    client.wait(lambda: client.told)
    assert client.process.stdin
    client.process.stdin.close()
    assert client.process.wait(timeout=10) == 0


def test_what_libraries_print_does_not_come_between(tmp_path: Path) -> None:
    """Python's and a program's output, in a server whose model prints while it loads."""
    code = (
        "import os, sys; from bondwise import chat, serve\n"
        "def load(asked):\n"
        "    print('from python'); os.system('echo from a program'); raise SystemError('as it broke')\n"
        "chat.load = load\n"
        "serve.serve()"
    )
    message = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "chat/load", "params": {"model": "x"}}).encode()
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ENGINE)},
    )  # fmt: skip
    assert process.stdin and process.stdout and process.stderr
    process.stdin.write(b"Content-Length: %d\r\n\r\n%b" % (len(message), message))
    process.stdin.flush()
    header = process.stdout.readline()
    assert header.startswith(b"Content-Length: ")
    process.send_signal(signal.SIGKILL)
    errors = process.stderr.read().decode()
    assert "from python" in errors and "from a program" in errors and "as it broke" in errors
    rest = process.stdout.read()
    assert b"from" not in rest and b"as it broke" in rest
    process.wait()
