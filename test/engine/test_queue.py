"""The queue for a device: real processes that hold it, wait for it, and are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from bondwise.process import is_alive, own_identity, process_start
from bondwise.queue import bondwise_home, hold_device, queue_folder

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

# Says how many are ahead whenever that changes, then that it holds the device; lets go when its stdin closes.
HOLDER = """
import sys
from bondwise.queue import hold_device
seen = []
def waiting(ahead):
    if seen[-1:] != [ahead]:
        seen.append(ahead)
        print(ahead, flush=True)
with hold_device(sys.argv[1], waiting):
    print("held", flush=True)
    sys.stdin.read()
"""

# Takes the device several times; while it has it nobody else may have made the file.
EXCLUDER = """
import os, sys, time
from bondwise.queue import hold_device
for _ in range(4):
    with hold_device("cpu", lambda ahead: None):
        os.close(os.open(sys.argv[1], os.O_CREAT | os.O_EXCL))
        time.sleep(0.005)
        os.unlink(sys.argv[1])
"""


class Process:
    """A process that wants a device."""

    def __init__(self, device: str = "cpu") -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-c", HOLDER, device], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
        )

    def says(self) -> str:
        """The next line it prints; empty when it ended."""
        assert self.popen.stdout
        return self.popen.stdout.readline().strip()

    def let_go(self) -> None:
        assert self.popen.stdin
        self.popen.stdin.close()
        assert self.popen.wait(20) == 0

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()


def environment() -> dict[str, str]:
    """For a process that imports what this one imports."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


@contextmanager
def processes(count: int) -> Generator[list[Process]]:
    """The first holds the cpu, the others wait in order."""
    started: list[Process] = []
    try:
        for place in range(count):
            started.append(Process())
            assert started[place].says() == (str(place) if place else "held")
        yield started
    finally:
        for process in started:
            process.kill()


def test_first_come_first_served() -> None:
    with processes(4) as (a, b, c, d):
        a.let_go()
        assert b.says() == "held"
        assert c.says() == "1"
        assert d.says() == "2"
        b.let_go()
        assert c.says() == "held"
        assert d.says() == "1"
        c.let_go()
        assert d.says() == "held"


def test_a_killed_holder_gives_the_device_to_the_next() -> None:
    with processes(3) as (a, b, c):
        a.kill()
        assert b.says() == "held"
        assert c.says() == "1"


def test_a_killed_waiter_is_passed_over() -> None:
    with processes(4) as (a, b, c, d):
        b.kill()
        assert c.says() == "1"
        assert d.says() == "2"
        c.kill()
        a.let_go()
        while (said := d.says()) != "held":
            assert said == "1"
        assert [ticket.name for ticket in queue_folder("cpu").glob("ticket-*")] == ["ticket-00000004"]


def test_a_holder_that_stands_still_keeps_the_device() -> None:
    with processes(1) as (a,):
        a.popen.send_signal(signal.SIGSTOP)

        def waiting(ahead: int) -> None:
            assert ahead == 1
            raise TimeoutError

        with pytest.raises(TimeoutError), hold_device("cpu", waiting):
            pytest.fail("two have the device")


def test_devices_do_not_wait_for_each_other() -> None:
    with processes(1):
        other = Process("cuda:1")
        assert other.says() == "held"
        other.let_go()


def test_giving_up_leaves_no_ticket() -> None:
    def cancelled(ahead: int) -> None:
        raise InterruptedError

    with processes(1) as (a,):
        with pytest.raises(InterruptedError), hold_device("cpu", cancelled):
            pytest.fail("two have the device")
        a.let_go()
    assert list(queue_folder("cpu").glob("ticket-*")) == []


def test_many_processes_never_hold_it_together(tmp_path: Path) -> None:
    command = [sys.executable, "-c", EXCLUDER, str(tmp_path / "held")]
    racers = [subprocess.Popen(command, env=environment()) for _ in range(6)]
    assert [racer.wait(60) for racer in racers] == [0] * 6


def test_a_cuda_index_counts_among_the_visible_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    third = queue_folder("cuda:2")
    assert third.name == "cuda-2"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    assert queue_folder("cuda:1") == third
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8f3a/../x")
    assert queue_folder("cuda:0").parent == third.parent


def test_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BONDWISE_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert bondwise_home() == tmp_path / "bondwise"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert bondwise_home() == tmp_path / "me" / ".local" / "share" / "bondwise"


def test_a_process_is_more_than_its_number() -> None:
    me = own_identity()
    assert is_alive(me) is True
    # The same number, another start: what a reused process id looks like.
    assert is_alive(me.model_copy(update={"started": me.started + "1"})) is False
    assert is_alive(me.model_copy(update={"host": "another-host"})) is None
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = me.model_copy(update={"pid": child.pid, "started": process_start(child.pid)})
    assert is_alive(identity) is True
    child.kill()
    # Not yet waited for: a zombie is no longer alive.
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert is_alive(identity) is False
    child.wait()
    assert is_alive(identity) is False


def test_the_start_of_a_process_elsewhere_comes_from_ps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    start = process_start(os.getpid())
    shown = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(os.getpid())], capture_output=True, text=True, check=True, env={**os.environ, "LC_ALL": "C"}
    )
    assert start == f"ps:{shown.stdout.strip()}"
    assert process_start(2**22 + 1) is None
