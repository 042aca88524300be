"""Several processes on one run, as torchrun starts them: each makes the layers of its own blocks, on a device of its own.

The first (rank 0) is the run as it always is: it alone keeps the journal, the status and the result. The others read the same `run.json`,
leave their layers in the run directory as the resume points that layers are in any run, and say in `rank-N.json` how far they are. So
nothing but the file system is between them, on several machines a shared one; and whatever of them dies, the run resumes.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import ValidationError

from bondwise import atomic
from bondwise.device import resolve_device
from bondwise.errors import UserError
from bondwise.process import is_alive, own_identity
from bondwise.schema import ErrorInfo, RankStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


POLL_SECONDS = 0.2
FATE_SECONDS = 3.0


class Fate(NamedTuple):
    """What ended another process."""

    error: ErrorInfo
    how: Literal["failed", "died", "stopped"]
    """By an error that it told, without a word, or because it was asked to."""


class Ranks:
    """This process among those of its run. The environment is that of torchrun: RANK, WORLD_SIZE and LOCAL_RANK."""

    def __init__(self, directory: Path) -> None:
        self.rank, self.world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self._local = int(os.environ.get("LOCAL_RANK", "0"))
        self.directory = directory

    def owns(self, block: int) -> bool:
        """Whether the layers of a block are this process's: whole blocks, because layers of one read the same inputs."""
        return block % self.world == self.rank

    def device(self, wanted: str) -> str:
        """As `resolve_device`, on CUDA the one with this process's number on its machine. Raises UserError where one is named."""
        if self.world == 1:
            return resolve_device(wanted)
        if wanted.startswith("cuda:"):
            raise UserError(
                f"The device {wanted} is for one process, and there are {self.world}.", "Use --device cuda: each takes its own."
            )
        found = resolve_device(wanted)
        return resolve_device(f"cuda:{self._local}") if found.startswith("cuda") else found

    def forget(self) -> None:
        """Of the first, when it begins: what was said in earlier processes of the run is gone."""
        if self.world > 1:
            for rank in range(self.world):
                self._path(rank).unlink(missing_ok=True)

    def open(self) -> None:
        """Of the first: lets the others begin."""
        if self.world > 1:
            self._say("running")

    def await_first(self, check_cancelled: Callable[[], None], done: Path) -> bool:
        """Of the others: waits until the first has begun, or has nothing to share, and has written `done`.

        Returns whether there is something to do. `check_cancelled` may raise to stop.
        """
        while (first := self._read(0)) is None or is_alive(first.process) is False:
            check_cancelled()
            if done.exists():
                return False
            time.sleep(POLL_SECONDS)
        self._say("running")
        return True

    def close(self, *, layers: Sequence[str] = (), error: ErrorInfo | None = None) -> None:
        """Of the others: these are the layers it has made, or this is why it made no more."""
        self._say("failed" if error else "done", layers, error)

    def stop(self) -> None:
        """Of the others: it was asked to stop, and does."""
        self._say("cancelled")

    def await_others(self, waiting: Callable[[], None]) -> None:
        """Of the first: until the others have made their layers. `waiting` is called meanwhile and may raise. Raises as `check_others`."""
        while any(status is None or status.state == "running" for status in self._others()):
            self.check_others()
            waiting()
            time.sleep(POLL_SECONDS)
        self.check_others()

    def meet(self, check: Callable[[], None]) -> None:
        """Of each: until all are here. `check` may raise meanwhile. Raises UserError where another one has failed or died."""
        if self.rank > 0:
            self._say("ready")
        while not all(status is not None and status.state == "ready" for status in (self._others() if self.rank == 0 else [self._read(0)])):
            check()
            if self.rank == 0:
                self.check_others()
            time.sleep(POLL_SECONDS)
        if self.rank == 0:
            self._say("ready")

    def check_others(self) -> None:
        """Of the first: raises UserError, with what it said, where another one has failed, and where one has died."""
        if (fate := self.fate()) is not None:
            raise UserError(fate.error.message, fate.error.remedy)

    def fate(self, *, wait: bool = False) -> Fate | None:
        """Of the first: what has become of another one that has failed or died, None where none has. `wait`: it may just be ending."""
        until = time.monotonic() + (FATE_SECONDS if wait else 0)
        while True:
            found = [fate for rank, status in enumerate(self._others(), start=1) if status and (fate := self._fate(rank, status))]
            if found:
                return min(found, key=lambda fate: ("failed", "died", "stopped").index(fate.how))
            if time.monotonic() >= until:
                return None
            time.sleep(POLL_SECONDS)

    def _fate(self, rank: int, status: RankStatus) -> Fate | None:
        name, remedy = f"Process {rank} of {self.world}", "Resume the run: it goes on from what is finished."
        if status.error is not None:
            return Fate(ErrorInfo(message=f"{name}: {status.error.message}", remedy=status.error.remedy), "failed")
        if status.state == "cancelled":
            return Fate(ErrorInfo(message=f"{name} was stopped.", remedy=remedy), "stopped")
        if status.state != "done" and is_alive(status.process) is False:
            return Fate(ErrorInfo(message=f"{name} has died.", remedy=remedy), "died")
        return None

    def _others(self) -> list[RankStatus | None]:
        return [self._read(rank) for rank in range(1, self.world)]

    def _say(self, state: str, layers: Sequence[str] = (), error: ErrorInfo | None = None) -> None:
        status = RankStatus.model_validate({"state": state, "process": own_identity(), "layers": list(layers), "error": error})
        atomic.write_json(self._path(self.rank), status, durable=False)

    def _read(self, rank: int) -> RankStatus | None:
        try:
            return RankStatus.model_validate_json(self._path(rank).read_bytes())
        except (OSError, ValidationError):
            return None

    def _path(self, rank: int) -> Path:
        return self.directory / f"rank-{rank}.json"
