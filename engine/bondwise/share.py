"""What a process after the first does of a run that several share (`ranks`): its part of the layers, and nothing else."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from bondwise.errors import Cancelled
from bondwise.queue import hold_device
from bondwise.request import read_request
from bondwise.run import CANCELLED, DONE, FAILED, RESULT, SHARES, Run, Stop, explain, imported, stopping_on_signals
from bondwise.trust import allowing

if TYPE_CHECKING:
    from pathlib import Path

    from bondwise.ranks import Ranks
    from bondwise.request import AnyRequest


class Helper(Run):
    """A run as such a process has it: the journal and the status are the first one's."""

    def __init__(self, ranks: Ranks, directory: Path, request: AnyRequest, device: str, stop: Stop) -> None:
        self.ranks, self.directory, self.request, self.device = ranks, directory, request, device
        self.checkpoints = directory / "checkpoints"
        self.resumed = True
        self._stop = stop

    def phase(self, text: str) -> None:
        print(f"Process {self.ranks.rank}: {text}", file=sys.stderr, flush=True)

    def progress(self, done: float, total: float, unit: str) -> None:
        """Seen in the layers that appear."""

    def emit(self, event: type[Any], **fields: Any) -> None:
        """The first tells what has become of the layers."""


def help_run(directory: Path, ranks: Ranks) -> int:
    """Does this process's share of the run and returns the exit status, as `run.start` does; a failure is told by the first process."""
    stop = Stop(directory)
    with stopping_on_signals(stop):
        try:
            if not ranks.await_first(stop.check, done=directory / RESULT):
                return DONE
            request = read_request(directory)
            device = ranks.device(request.device)
            # On the CPU the processes of a run share the one place.
            with nullcontext() if device == "cpu" else hold_device(device, lambda _ahead: stop.check()), allowing(request.code):
                layers = imported(SHARES[request.kind])(Helper(ranks, directory, request, device, stop))
        except (Cancelled, KeyboardInterrupt):
            ranks.stop()
            return CANCELLED
        except Exception as failure:
            error = explain(failure, None)
            print(error.detail or error.message, file=sys.stderr, flush=True)
            ranks.close(error=error)
            return FAILED
    ranks.close(layers=layers)
    return DONE
