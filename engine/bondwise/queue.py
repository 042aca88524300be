"""One run at a time on a device, first come first served, with nobody to keep the order but the file system.

Each run that wants a device takes a ticket: a numbered file in `BONDWISE_HOME/locks/<host>/<device>/` that it holds by `flock` for as long
as it lives. The lowest ticket that is held owns the device. A kill lets go of the lock, so a ticket that nobody holds is of a dead process,
be it the owner or a waiter, and is removed by whoever looks next. Tickets are taken and looked at under the lock `mutex`, so that none is
seen between being made and being held.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

POLL_SECONDS = 0.2


def bondwise_home() -> Path:
    """`BONDWISE_HOME`, by default `$XDG_DATA_HOME/bondwise`, that is `~/.local/share/bondwise`."""
    if home := os.environ.get("BONDWISE_HOME"):
        return Path(home)
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "bondwise"


def queue_folder(device: str) -> Path:
    """Where the tickets for `device` lie. A CUDA index counts among the visible devices, so it is translated to the machine's own name."""
    name = device
    if device.startswith("cuda:"):
        visible = [entry.strip() for entry in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if entry.strip()]
        index = int(device.removeprefix("cuda:"))
        name = f"cuda-{visible[index] if index < len(visible) else index}"
    # A home on a network file system is seen by several machines, each with devices of its own.
    return bondwise_home() / "locks" / _file_name(socket.gethostname()) / _file_name(name)


@contextmanager
def hold_device(device: str, waiting: Callable[[int], None]) -> Generator[None]:
    """Holds `device` inside the block, after waiting for every run that came before.

    `waiting` is called with the number of runs ahead about five times a second while there are any; what it raises (such as Cancelled) ends
    the wait and gives the place up. Raises OSError when the folder of locks cannot be written.
    """
    folder = queue_folder(device)
    folder.mkdir(parents=True, exist_ok=True)
    number, ticket = _take_ticket(folder, waiting)
    try:
        while ahead := _count_ahead(folder, number, waiting):
            waiting(ahead)
            time.sleep(POLL_SECONDS)
        yield
    finally:
        # Removed while still held: another process can see it held or not at all.
        with suppress(OSError):
            _ticket_path(folder, number).unlink(missing_ok=True)
        os.close(ticket)


def try_lock(descriptor: int) -> bool:
    """Takes the `flock` of an open file if nobody holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _take_ticket(folder: Path, waiting: Callable[[int], None]) -> tuple[int, int]:
    """A new ticket behind all others: its number and its descriptor, whose `flock` is held."""
    with _mutex(folder, waiting):
        number = max(_tickets(folder), default=0) + 1
        # O_CLOEXEC (Python's default): a program that a run starts must not keep the device after the run.
        ticket = os.open(_ticket_path(folder, number), os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(ticket, fcntl.LOCK_EX)
        return number, ticket


def _count_ahead(folder: Path, number: int, waiting: Callable[[int], None]) -> int:
    """Living tickets before `number`; those of dead processes are removed."""
    ahead = 0
    with _mutex(folder, waiting):
        for other in sorted(_tickets(folder)):
            if other >= number:
                break
            try:
                descriptor = os.open(_ticket_path(folder, other), os.O_RDWR)
            except FileNotFoundError:
                continue
            try:
                if try_lock(descriptor):
                    _ticket_path(folder, other).unlink(missing_ok=True)
                else:
                    ahead += 1
            finally:
                os.close(descriptor)
    return ahead


@contextmanager
def _mutex(folder: Path, waiting: Callable[[int], None]) -> Generator[None]:
    descriptor = os.open(folder / "mutex", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        # Held for microseconds; polled all the same, so that a stopped process cannot keep others from being cancelled.
        while not try_lock(descriptor):
            waiting(1)
            time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)


def _tickets(folder: Path) -> list[int]:
    return [int(entry.name.removeprefix("ticket-")) for entry in folder.iterdir() if re.fullmatch(r"ticket-\d+", entry.name)]


def _ticket_path(folder: Path, number: int) -> Path:
    return folder / f"ticket-{number:08d}"


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "-", text) or "-"
