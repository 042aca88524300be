"""The run directory: does what `run.json` asks, keeps the journal and the status, stops when asked, goes on after a kill.

`start` is the only door into the engine. The files and their rules are in ARCHITECTURE.md. A worker gets a `Run` and nothing else.
"""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
import threading
import time
import traceback
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from bondwise import __version__, atomic
from bondwise.errors import Cancelled, UserError, missing_module
from bondwise.journal import JOURNAL, STATUS, Journal, Observer, Status
from bondwise.predecessor import await_run
from bondwise.process import is_alive, own_identity
from bondwise.queue import hold_device, try_lock
from bondwise.ranks import Ranks
from bondwise.request import REQUEST, AnyRequest, read_request, refuse_newer
from bondwise.schema import (
    EndedEvent,
    ErrorInfo,
    Event,
    PhaseEvent,
    RunResult,
    RunStatus,
    StartedEvent,
)
from bondwise.trust import allowing

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from bondwise.schema import (
        BenchmarkResult,
        ExportResult,
        HealResult,
        PerplexityResult,
        ProfileResult,
        QuantizeResult,
        SampleModelResult,
        TensorizeResult,
    )

    AnyResult = (
        TensorizeResult
        | PerplexityResult
        | SampleModelResult
        | ProfileResult
        | HealResult
        | QuantizeResult
        | BenchmarkResult
        | ExportResult
    )
    Worker = Callable[["Run"], AnyResult]

E = TypeVar("E", bound=Event)

RESULT = "result.json"
CANCEL = "cancel"
FINISH = "finish"

WORKERS: dict[str, str] = {
    "tensorize": "bondwise.tensorize:run",
    "perplexity": "bondwise.evaluate:run_perplexity",
    "sample-model": "bondwise.sample_model:run",
    "profile": "bondwise.sensitivity:run",
    "heal": "bondwise.heal:run",
    "benchmark": "bondwise.benchmark:run",
    "export": "bondwise.export:run",
    "quantize": "bondwise.quantize:run",
}
"""Kind of a run → `module:function` of its worker; named, not imported, because torch and transformers take seconds."""

SHARES: dict[str, str] = {"tensorize": "bondwise.preparation:share", "heal": "bondwise.heal:share"}
"""Of the kinds whose work several processes share: what those after the first do (`ranks`). It returns the layers it has made."""

DONE, FAILED, WRONG_USE, CANCELLED = 0, 1, 2, 130
"""Exit statuses."""

STALE_SECONDS = 30.0
"""A status of another host that was not refreshed for this long is of a dead process."""


class Run:
    """What a worker sees of its run."""

    def __init__(
        self,
        ranks: Ranks,
        directory: Path,
        request: AnyRequest,
        device: str,
        *,
        resumed: bool,
        journal: Journal,
        status: Status,
        stop: Stop,
    ) -> None:
        self.ranks = ranks
        self.directory = directory
        self.checkpoints = directory / "checkpoints"
        self.request = request
        self.device = device
        self.resumed = resumed
        self._journal = journal
        self._status = status
        self._stop = stop

    def phase(self, text: str) -> None:
        """Says what is done from now on, in words; progress starts anew."""
        self._journal.emit(PhaseEvent, phase=text)
        self._status.set(phase=text, progress=None)

    def progress(self, done: float, total: float, unit: str) -> None:
        """How far the phase is. Cheap; written at most four times a second."""
        self._status.progress(done, total, unit)

    def emit(self, event: type[E], **fields: Any) -> None:
        """Appends an event to the journal; it is on disk when this returns. Raises ValueError on NaN or infinity, OSError when full."""
        self._journal.emit(event, **fields)

    def check_cancelled(self) -> None:
        """Raises Cancelled when the run was asked to stop; to be called at every step border."""
        self._stop.check()

    def asked_to_finish(self) -> bool:
        """Whether the run was asked to end early with what it has; that stays asked when it is resumed."""
        return (self.directory / FINISH).exists()


SAME_SIGNAL_SECONDS = 0.5
"""Signals this close are one: a shell and the npm script between us and it hand the same Ctrl-C on, each by itself."""


class Stop:
    """Whether the run was asked to stop: by the file `cancel` or by a first SIGTERM or SIGINT. A second signal ends the process at once."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / CANCEL
        self._signalled: float | None = None

    def asked(self) -> bool:
        return self._signalled is not None or self._file.exists()

    def check(self) -> None:
        if self.asked():
            raise Cancelled

    def on_signal(self, number: int, _frame: object) -> None:
        now = time.monotonic()
        if self._signalled is None:
            self._signalled = now
        elif now - self._signalled > SAME_SIGNAL_SECONDS:
            os._exit(128 + number)


def start(run_dir: Path, observer: Observer | None = None) -> int:
    """Does what `run_dir/run.json` asks and returns the exit status: 0 done, 1 failed, 130 cancelled.

    A run that was interrupted, cancelled or failed is taken up again from its checkpoints. A failure is in `status.json` and the journal.
    Raises UserError when the directory is not a run, is in the hands of another live process, or was made by a newer Bondwise, and OSError
    when it cannot be written: then it is left as it is.
    """
    directory = Path(os.path.abspath(run_dir))  # noqa: PTH100 — Path.absolute keeps `..`, resolve() would follow links
    if not (directory / REQUEST).is_file():
        raise UserError(f"{directory} is not a run directory: it has no {REQUEST}.", "Name a folder that holds one.")
    with ExitStack() as stack:
        stack.enter_context(_alone(directory))
        atomic.remove_temporaries(directory)
        before = _read_status(directory)
        refuse_newer(directory / REQUEST)
        status = Status(directory / STATUS, own_identity(), observer)
        if before is not None and before.state == "done" and (directory / RESULT).is_file():
            return DONE
        stop = Stop(directory)
        stack.enter_context(stopping_on_signals(stop))
        journal = Journal(directory / JOURNAL, observer)
        stack.callback(journal.close)
        _remove_stale_cancel(directory, journal)
        status.start()
        stack.callback(status.close)
        Ranks(directory).forget()
        try:
            _finish(directory, journal, status, stop)
        except BaseException as failure:
            return _end_early(failure, journal, status, Ranks(directory))
        return DONE


def explain(failure: BaseException, device: str | None) -> ErrorInfo:
    """What a person is told about a failure: what it was and what to do."""
    detail = "".join(traceback.format_exception(failure))
    if isinstance(failure, UserError):
        return ErrorInfo(message=failure.message, remedy=failure.remedy)
    if _is_out_of_memory(failure):
        where = device if device and device != "cpu" else "this machine"
        lever = "choose another device (--device cpu), " if device and device != "cpu" else ""
        remedy = f"Close what else uses its memory, {lever}or make the steps smaller: shorter or fewer sequences (--length, --sequences)."
        return ErrorInfo(message=f"Not enough memory on {where}: {str(failure) or type(failure).__name__}", remedy=remedy, detail=detail)
    if isinstance(failure, OSError) and failure.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        place = f" while writing {failure.filename}" if failure.filename else ""
        remedy = "Make room, then resume: what is finished is kept."
        return ErrorInfo(message=f"The disk is full{place}: {failure.strerror}", remedy=remedy, detail=detail)
    if isinstance(failure, ModuleNotFoundError):
        missing = missing_module(failure)
        return ErrorInfo(message=missing.message, remedy=missing.remedy, detail=detail)
    return ErrorInfo(message=f"{type(failure).__name__}: {failure}", remedy="See log.txt in the run directory.", detail=detail)


def _finish(directory: Path, journal: Journal, status: Status, stop: Stop) -> None:
    request = read_request(directory)
    if not (directory / RESULT).is_file():
        if request.after is not None:
            await_run(Path(request.after), stop.check, lambda text: status.set(phase=text))
        # The worker comes before the device is waited for: a broken environment is told at once.
        worker: Worker = imported(WORKERS[request.kind])
        status.set(phase="Looking for the device")
        ranks = Ranks(directory)
        device = ranks.device(request.device)

        def waiting(ahead: int) -> None:
            stop.check()
            text = f"Waiting for {device}: {ahead} run{'s' if ahead > 1 else ''} ahead"
            if text != status.current.phase:
                status.set(phase=text)

        with hold_device(device, waiting):
            stop.check()
            resumed = journal.started_before
            journal.emit(StartedEvent, engine=__version__, torch=_torch_version(), device=device, resumed=resumed)
            status.set(state="running", phase="Starting", device=device)
            run = Run(ranks, directory, request, device, resumed=resumed, journal=journal, status=status, stop=stop)
            run.checkpoints.mkdir(exist_ok=True)
            with _watching(stop, status), allowing(request.code):
                result = worker(run)
            TypeAdapter[Any](RunResult).validate_python(result)
            atomic.write_json(directory / RESULT, result)
    # A process that was killed between these steps left the result; there is nothing to do again.
    if not (journal.last and journal.last["type"] == "ended" and journal.last["state"] == "done"):
        journal.emit(EndedEvent, state="done")
    status.set(state="done", phase="", error=None)


def _end_early(failure: BaseException, journal: Journal, status: Status, ranks: Ranks) -> int:
    cancelled = isinstance(failure, (Cancelled, KeyboardInterrupt))
    # Torchrun ends a process whose fellow has died by the signal that also cancels a run.
    fate = None if ranks.world == 1 or (ranks.directory / CANCEL).exists() else ranks.fate(wait=not cancelled)
    if cancelled and fate and fate.how == "stopped":
        fate = None
    error = fate.error if fate else None if cancelled else explain(failure, status.current.device)
    if error and error.detail:
        print(error.detail, file=sys.stderr, flush=True)
    state = "interrupted" if fate and fate.how != "failed" else "failed" if error else "cancelled"
    writes: list[Callable[[], Any]] = [lambda: status.set(state=state, error=error)]
    if state != "interrupted":
        writes.insert(0, lambda: journal.emit(EndedEvent, state=state, error=error))
    # On a full disk the one may succeed where the other does not, and a reader sees by the process that the run has ended.
    for write in writes:
        try:
            write()
        except OSError as trouble:
            print(f"The end of the run could not be written down: {trouble}", file=sys.stderr, flush=True)
    return CANCELLED if state == "cancelled" else FAILED


def imported(name: str) -> Any:
    """What `module:function` names."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def _torch_version() -> str:
    # Asking the metadata takes a millisecond; importing torch takes seconds.
    try:
        return version("torch")
    except PackageNotFoundError:
        remedy = 'Run "Bondwise: Set Up Engine", or `doctor` to see what is missing.'
        raise UserError("torch is not installed for this Python.", remedy) from None


def _read_status(directory: Path) -> RunStatus | None:
    try:
        return RunStatus.model_validate_json((directory / STATUS).read_bytes())
    except (OSError, ValidationError):
        return None


@contextmanager
def _alone(directory: Path) -> Generator[None]:
    """Keeps other processes out of the run directory. Raises UserError when one is in it."""
    try:
        descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as failure:
        remedy = "Choose another, or change its rights."
        raise UserError(f"The run directory {directory} cannot be written: {failure.strerror}.", remedy) from None
    try:
        status = _read_status(directory)
        process = status.process if status and status.state in ("queued", "running", "cancelling") else None
        try:
            taken = not try_lock(descriptor)
        except OSError:
            # A file system without locks: the identity of the process has to do.
            taken = process is not None and is_alive(process) is True
        if not taken and process and status and is_alive(process) is None:
            taken = time.time() - datetime.fromisoformat(status.updated).timestamp() < STALE_SECONDS
        if taken:
            owner = f"process {process.pid} on {process.host}" if process else "another process"
            raise UserError(f"{directory} is already being worked on by {owner}.", "Follow that run, or cancel it first.")
        yield
    finally:
        os.close(descriptor)


def _remove_stale_cancel(directory: Path, journal: Journal) -> None:
    """Removes a `cancel` that an earlier process of this run was asked by; one for this process stays."""
    cancel = directory / CANCEL
    with suppress(FileNotFoundError):
        asked = cancel.stat().st_mtime
        if (last := journal.last) is None:
            return
        import psutil

        answered = last["type"] == "ended" and asked <= datetime.fromisoformat(last["time"]).timestamp()
        if answered or asked < psutil.Process().create_time():
            cancel.unlink()


@contextmanager
def stopping_on_signals(stop: Stop) -> Generator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = {number: signal.signal(number, stop.on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextmanager
def _watching(stop: Stop, status: Status) -> Generator[None]:
    """Shows `cancelling` as soon as the run is asked to stop, which may be a while before the worker comes to its next step border."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.25):
            if stop.asked():
                with suppress(OSError):
                    status.set(state="cancelling")
                return

    thread = threading.Thread(target=watch, name="bondwise-cancel", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _is_out_of_memory(failure: BaseException) -> bool:
    # torch.OutOfMemoryError by name: torch need not be imported; its CPU allocator raises a plain RuntimeError.
    if isinstance(failure, MemoryError) or type(failure).__name__ == "OutOfMemoryError":
        return True
    return isinstance(failure, RuntimeError) and ("can't allocate memory" in str(failure) or "out of memory" in str(failure))
