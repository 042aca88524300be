"""The run directory: real processes, killed at any moment, and what is left of the files."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import TypeAdapter
from scripted_worker import layer, write_request

from bondwise import run
from bondwise.errors import UserError
from bondwise.journal import Journal, Rate, utc_now
from bondwise.process import own_identity
from bondwise.queue import hold_device
from bondwise.schema import LayerEvent, PhaseEvent, RunEvent, RunStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

SCRIPT = Path(__file__).with_name("scripted_worker.py")


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in run.WORKERS:
        monkeypatch.setitem(run.WORKERS, kind, "scripted_worker:work")


@pytest.fixture
def server() -> Generator[subprocess.Popen[str]]:
    process = launch("--serve")
    yield process
    assert process.stdin
    process.stdin.close()
    assert process.wait(20) == 0


def launch(*arguments: str, before: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        preexec_fn=before,  # noqa: PLW1509 — this process has no threads when it is given
    )


def journal(directory: Path) -> list[dict[str, Any]]:
    """The events, each valid by the schema; fails when seq has a gap."""
    lines = (directory / "events.ndjson").read_bytes().split(b"\n")
    assert lines.pop() == b""
    events = [json.loads(line) for line in lines]
    for event in events:
        TypeAdapter[Any](RunEvent).validate_python(event)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    return events


def status(directory: Path) -> RunStatus:
    return RunStatus.model_validate_json((directory / "status.json").read_bytes())


def wait_for(condition: Callable[[], object]) -> None:
    """Polls; a minute means that something is broken, not that the machine is slow."""
    for _ in range(12000):
        if condition():
            return
        time.sleep(0.005)
    pytest.fail("waited for a minute")


def has_state(directory: Path, state: str) -> Callable[[], bool]:
    return lambda: (directory / "status.json").exists() and status(directory).state == state


# --- killed ------------------------------------------------------------------------------------------------------------------------


def test_killed_at_random_moments_and_resumed(server: subprocess.Popen[str], tmp_path: Path) -> None:
    steps, kills, attempts = 60, 0, 0
    moments = random.Random(7)
    assert server.stdin and server.stdout
    while kills < 48:
        attempts += 1
        directory = write_request(tmp_path / f"run{attempts}", f"steps:{steps}", "sleep:0.004")
        readable = b""
        while True:
            server.stdin.write(f"{directory}\n")
            server.stdin.flush()
            pid = int(server.stdout.readline())
            # At a random moment, but after up to four more steps: on a slow disk, too, the run comes to its end.
            goal = len(list(directory.glob("checkpoints/*.json"))) + moments.choice([0, 0, 1, 2, 3, 4])
            wait_for(lambda: len(list(directory.glob("checkpoints/*.json"))) >= goal or (directory / "result.json").exists())  # noqa: B023
            time.sleep(moments.uniform(0, 0.03))
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            exit_status = int(server.stdout.readline())
            before, readable = readable, (directory / "events.ndjson").read_bytes() if (directory / "events.ndjson").exists() else b""
            whole = readable[: readable.rfind(b"\n") + 1]
            assert readable.startswith(before[: before.rfind(b"\n") + 1]), "a line that was readable is gone"
            if (directory / "status.json").exists():
                status(directory)
            if exit_status == 0 or (whole and json.loads(whole.splitlines()[-1])["type"] == "ended"):
                break
            assert exit_status == -signal.SIGKILL
            kills += 1
        assert run.start(directory) == 0
        events = journal(directory)
        names = [event["layer"]["name"] for event in events if event["type"] == "layer"]
        # Killed between a checkpoint and its event: the checkpoint counts, the event is not repeated. No step is done twice.
        assert names == sorted(set(names), key=lambda name: int(name.split(".")[1]))
        assert [event["resumed"] for event in events if event["type"] == "started"][:1] == [False]
        assert all(event["resumed"] for event in events if event["type"] == "started" and event["seq"] > 1)
        assert events[-1]["type"] == "ended" and events[-1]["state"] == "done"
        result = json.loads((directory / "result.json").read_bytes())
        assert result["layers"] == [layer(step).model_dump() for step in range(steps)]
        assert result["parameters"] == sum(range(steps))
        assert status(directory).state == "done"
        assert not list(directory.glob(".*partial*"))


def test_a_result_without_its_end_is_ended_without_doing_it_again(tmp_path: Path) -> None:
    directory = write_request(tmp_path / "run", "steps:2")
    assert run.start(directory) == 0
    events, result = journal(directory), (directory / "result.json").read_bytes()
    # As a kill leaves it between writing the result and the last event.
    cut = b"".join((directory / "events.ndjson").read_bytes().splitlines(keepends=True)[:-1])
    (directory / "events.ndjson").write_bytes(cut)
    (directory / "status.json").write_text(status(directory).model_copy(update={"state": "running"}).model_dump_json())
    run.WORKERS["tensorize"] = "nowhere:work"
    assert run.start(directory) == 0
    assert [event["type"] for event in journal(directory)] == [event["type"] for event in events]
    assert status(directory).state == "done"
    assert (directory / "result.json").read_bytes() == result


@pytest.mark.parametrize("torn", [b'{"seq":4,"time":"2026-', b"\0\0\0\0\0\0", b'{"seq":4}\n', b"{}\n\0\0\0"])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "events.ndjson"
    whole = b"".join(b'{"seq":%d,"time":"t","type":"phase","phase":"a"}\n' % seq for seq in (1, 2, 3))
    path.write_bytes(whole + torn)
    opened = Journal(path)
    assert path.read_bytes() == whole
    assert opened.emit(PhaseEvent, phase="b").seq == 4
    opened.close()
    assert [json.loads(line)["seq"] for line in path.read_bytes().splitlines()] == [1, 2, 3, 4]


def test_a_last_line_that_lacks_only_its_newline_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    path.write_bytes(b'{"seq":1,"time":"t","type":"phase","phase":"a"}')
    opened = Journal(path)
    opened.emit(PhaseEvent, phase="b")
    opened.close()
    assert [json.loads(line)["phase"] for line in path.read_bytes().splitlines()] == ["a", "b"]


@pytest.mark.parametrize(
    "damage",
    [
        b'{"seq":1,"time":"t","type":"phase","phase":"a"}\nx\n{"seq":3,"time":"t","type":"phase","phase":"a"}\n',
        b'{"seq":2,"time":"t","type":"phase","phase":"a"}\n',
    ],
)
def test_a_journal_damaged_before_its_end_is_refused_and_left(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "events.ndjson"
    path.write_bytes(damage)
    with pytest.raises(UserError, match=r"events\.ndjson: line [12]"):
        Journal(path)
    assert path.read_bytes() == damage


# --- cancelled ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["file", "SIGTERM", "SIGINT"])
def test_cancelled_at_the_next_step_and_resumed(tmp_path: Path, how: str) -> None:
    directory = write_request(tmp_path / "run", "steps:200", "sleep:0.02")
    process = launch("start", str(directory))
    wait_for(lambda: len(list((directory / "checkpoints").glob("?.json"))) > 2)
    if how == "file":
        (directory / "cancel").touch()
    else:
        process.send_signal(getattr(signal, how))
    assert process.wait(30) == 130
    assert status(directory).state == "cancelled"
    assert journal(directory)[-1]["state"] == "cancelled"
    finished = len(list((directory / "checkpoints").glob("*.json")))
    assert 2 < finished < 200
    # Started again with `cancel` still there, as the command line does: it was answered, so it no longer counts.
    (directory / "run.json").write_text((directory / "run.json").read_text().replace("sleep:0.02", "sleep:0"))
    assert run.start(directory) == 0
    assert not (directory / "cancel").exists()
    assert len([event for event in journal(directory) if event["type"] == "layer"]) == 200


def test_a_run_cancelled_before_its_first_start_does_nothing(tmp_path: Path) -> None:
    directory = write_request(tmp_path / "run", "steps:2")
    (directory / "cancel").touch()
    assert run.start(directory) == 130
    assert [event["type"] for event in journal(directory)] == ["ended"]
    assert status(directory).state == "cancelled"


def test_a_deaf_step_shows_cancelling_and_a_second_signal_ends_it(tmp_path: Path) -> None:
    directory = write_request(tmp_path / "run", "steps:10000", "sleep:0.02", "deaf")
    process = launch("start", str(directory))
    wait_for(has_state(directory, "running"))
    process.terminate()
    wait_for(has_state(directory, "cancelling"))
    time.sleep(run.SAME_SIGNAL_SECONDS)
    process.terminate()
    assert process.wait(30) == 128 + signal.SIGTERM
    assert not (directory / "result.json").exists()


def test_a_signal_that_a_shell_hands_on_again_is_one_signal(tmp_path: Path) -> None:
    stop = run.Stop(tmp_path)
    for _ in range(3):
        stop.on_signal(signal.SIGINT, None)
    assert stop.asked()


# --- one at a time -----------------------------------------------------------------------------------------------------------------


def test_runs_on_one_device_wait_for_each_other_in_order(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    first = write_request(tmp_path / "first", "steps:2", f"wait:{gate}")
    others = [write_request(tmp_path / name, "steps:2") for name in ("second", "third", "fourth")]
    processes = [launch("start", str(first))]
    wait_for(has_state(first, "running"))
    for place, directory in enumerate(others, start=1):
        processes.append(launch("start", str(directory)))
        wait_for(lambda: has_state(directory, "queued")() and status(directory).phase.startswith(f"Waiting for cpu: {place} run"))  # noqa: B023
    # A waiter is cancelled, another is killed: the last still waits for the first alone.
    (others[0] / "cancel").touch()
    assert processes[1].wait(30) == 130
    processes[2].kill()
    wait_for(lambda: status(others[2]).phase == "Waiting for cpu: 1 run ahead")
    assert not (others[2] / "checkpoints").exists()
    gate.touch()
    assert processes[0].wait(30) == 0
    assert processes[3].wait(30) == 0
    processes[2].wait()
    ended, started = journal(first)[-1], journal(others[2])[0]
    assert ended["type"] == "ended" and started["type"] == "started"
    assert started["time"] >= ended["time"]


def test_the_status_is_refreshed_while_a_run_waits(tmp_path: Path) -> None:
    directory = write_request(tmp_path / "run", "steps:1")
    with hold_device("cpu", lambda ahead: None):
        process = launch("start", str(directory))
        wait_for(lambda: has_state(directory, "queued")() and "Waiting" in status(directory).phase)
        seen = status(directory)
        wait_for(lambda: status(directory).updated > seen.updated)
        assert status(directory).process == seen.process
    assert process.wait(30) == 0


def test_a_run_that_is_going_on_is_refused_and_not_touched(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    directory = write_request(tmp_path / "run", "steps:1", f"wait:{gate}")
    process = launch("start", str(directory))
    wait_for(lambda: has_state(directory, "running")() and status(directory).phase == "Counting")
    before = (directory / "events.ndjson").read_bytes()
    with pytest.raises(UserError, match=f"already being worked on by process {process.pid} on {socket.gethostname()}"):
        run.start(directory)
    assert (directory / "events.ndjson").read_bytes() == before
    gate.touch()
    assert process.wait(30) == 0


def test_another_host_counts_as_alive_while_its_status_is_fresh(tmp_path: Path) -> None:
    directory = write_request(tmp_path / "run", "steps:1")
    elsewhere = own_identity().model_copy(update={"host": "another-host"})
    there = RunStatus(state="running", process=elsewhere, updated=utc_now())
    (directory / "status.json").write_text(there.model_dump_json())
    with pytest.raises(UserError, match="on another-host"):
        run.start(directory)
    (directory / "status.json").write_text(there.model_copy(update={"updated": "2026-01-01T00:00:00Z"}).model_dump_json())
    assert run.start(directory) == 0


def test_a_reused_process_number_is_not_the_run(tmp_path: Path) -> None:
    directory = write_request(tmp_path / "run", "steps:1")
    reused = own_identity().model_copy(update={"started": "linux:another-boot:1"})
    (directory / "status.json").write_text(RunStatus(state="running", process=reused, updated=utc_now()).model_dump_json())
    assert run.start(directory) == 0


# --- failed ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "message", "remedy"),
    [
        ("user", "layer.2 holds NaN.", "Use another checkpoint."),
        ("memory", "Not enough memory on this machine: MemoryError", "--length"),
        ("torch", "can't allocate memory", "--length"),
        ("bug", "KeyError: 'surprise'", "log.txt"),
        ("exit", "SystemExit: 3", "log.txt"),
    ],
)
def test_a_failure_is_written_down_and_can_be_resumed(tmp_path: Path, how: str, message: str, remedy: str) -> None:
    directory = write_request(tmp_path / "run", "steps:3", f"raise:{how}")
    assert run.start(directory) == 1
    error = status(directory).error
    assert status(directory).state == "failed"
    assert error and message in error.message and remedy in (error.remedy or "")
    assert (error.detail is None) == (how == "user")
    assert journal(directory)[-1]["error"]["message"] == error.message
    assert not (directory / "result.json").exists()
    write_request(directory, "steps:3")
    assert run.start(directory) == 0
    assert status(directory).error is None
    assert len([event for event in journal(directory) if event["type"] == "layer"]) == 3


def test_a_full_disk_fails_the_run_and_leaves_whole_files(tmp_path: Path) -> None:
    """A limit on the size of a file stands for the disk: the journal meets it first, the small files still fit."""
    directory = write_request(tmp_path / "run", "steps:60")
    limit = 6_000
    process = launch("start", str(directory), before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "The disk is full while writing" in shown and "events.ndjson" in shown
    error = status(directory).error
    assert status(directory).state == "failed"
    assert error and "Make room" in (error.remedy or "")
    before = journal(directory)
    assert before[-1]["type"] == "layer"
    assert run.start(directory) == 0
    assert journal(directory)[: len(before)] == before
    assert len(json.loads((directory / "result.json").read_bytes())["layers"]) == 60


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"version": 1, "kind": "tens', "not JSON"),
        ("[]", "run.json"),
        ("[" * 100_000, "nests too deep"),
        ('{"version": 1, "kind": "fry"}', "fry"),
        ('{"kind": "perplexity", "created": "t", "title": "t", "model": "m", "options": {"evaluate": {"length": 1}}}', "length.*got 1"),
        ('{"kind": "perplexity", "created": "t", "title": "t", "model": "m", "options": {}, "colour": "red"}', "colour.*'red'"),
        ('{"kind": "perplexity", "created": "t", "title": "t", "options": {}}', "model: Field required"),
    ],
)
def test_a_bad_request_fails_the_run_with_the_key_and_the_value(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "run.json").write_text(text)
    assert run.start(tmp_path) == 1
    error = status(tmp_path).error
    assert status(tmp_path).state == "failed"
    assert error
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(error.message)


def test_a_run_of_a_newer_version_is_refused_and_not_touched(tmp_path: Path) -> None:
    directory = write_request(tmp_path / "run", "steps:1", version=2)
    with pytest.raises(UserError, match="made by a newer Bondwise"):
        run.start(directory)
    assert sorted(path.name for path in directory.iterdir()) == [".lock", "run.json"]


def test_a_folder_without_a_request_is_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run directory"):
        run.start(tmp_path)


def test_a_device_that_does_not_exist_is_named(tmp_path: Path) -> None:
    directory = write_request(tmp_path / "run", "steps:1", device="tpu")
    assert run.start(directory) == 1
    error = status(directory).error
    assert error and "'tpu'" in error.message


# --- the rest ----------------------------------------------------------------------------------------------------------------------


def test_a_finished_run_is_not_done_again(tmp_path: Path) -> None:
    directory = write_request(tmp_path / "run", "steps:2")
    assert run.start(directory) == 0
    before = {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}
    assert run.start(directory) == 0
    assert {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()} == before


def test_paths_of_a_request_are_taken_from_its_directory(tmp_path: Path) -> None:
    document: dict[str, Any] = {
        "kind": "perplexity",
        "created": "t",
        "title": "t",
        "model": "../models/a",
        "options": {"evaluate": {"data": "text.jsonl"}, "reference": "/models/b"},
    }
    request = run.read_request(write_request(tmp_path / "runs" / "one", **document))
    assert request.kind == "perplexity"
    assert request.model == str(tmp_path / "runs" / "models" / "a")
    assert request.options.reference == "/models/b"
    assert request.options.evaluate.data == str(tmp_path / "runs" / "one" / "text.jsonl")
    document["options"] = {"evaluate": {"data": "Salesforce/wikitext"}}
    request = run.read_request(write_request(tmp_path / "runs" / "one", **document))
    assert request.kind == "perplexity"
    assert request.options.evaluate.data == "Salesforce/wikitext"


def test_figures_that_json_cannot_say_are_refused(tmp_path: Path) -> None:
    opened = Journal(tmp_path / "events.ndjson")
    with pytest.raises(ValueError, match="JSON"):
        opened.emit(LayerEvent, layer=layer(1).model_copy(update={"relative_error": float("nan")}))
    assert (tmp_path / "events.ndjson").read_bytes() == b""
    opened.close()


def test_the_rate_forgets_an_old_pace() -> None:
    rate = Rate()
    assert rate.update(0, 0.0) is None
    assert rate.update(10, 1.0) == pytest.approx(10)
    # A hundred seconds at one a second: the first ten are out of the window.
    assert [rate.update(10 + second, 1.0 + second) for second in range(1, 101)][-1] == pytest.approx(1.0)
    # Called often within one instant: the last counts, the rate does not jump.
    steady = Rate()
    for step in range(1001):
        steady.update(step, step / 1000)
    assert steady.update(1001, 1.001) == pytest.approx(1000)
    # Progress that starts anew starts a new rate.
    assert steady.update(0, 2.0) is None
