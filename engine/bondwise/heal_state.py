"""The resume points of a healing: what trains, the optimizer, and where the run stands. Whole or absent.

A resume point is a folder: `state.json` and safetensors files, in which each process of the run has left its part of the tensors
(torch.distributed.checkpoint, without pickles). Any number of processes reads it. It has a temporary name until every process has written
its part. The random numbers of a step follow from the seed and its number, so no generator's state has to be kept.
"""

from __future__ import annotations

import shutil
import warnings
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter

from bondwise import atomic
from bondwise.errors import UserError
from bondwise.schema import HealPlan

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from bondwise.team import Team

STATE = "state.json"
FILE_BYTES = 1 << 30
"""Tensors of about so many bytes are written together; while that is done they are in the host's memory twice."""


class HealState(BaseModel):
    """Where a run stands between two steps; changed as it goes on. Losses are nats per token."""

    model_config = ConfigDict(extra="forbid")

    source: str
    """Fingerprint of the model that is healed."""
    plan: HealPlan
    data: dict[str, Any]
    """What the sequences resume from."""
    step: int = 0
    validated: int = 0
    """The last step that was validated."""
    tokens: int = 0
    teacher_loss: float | None = None
    teacher_sample: str = ""
    start_loss: float
    best_loss: float
    best_step: int = 0
    worse: int = 0
    """Validations since the best one."""
    losses: list[float] = []
    """Of the last steps, and the lowest mean that they had, once there were enough: a loss that runs away is seen by them."""
    lowest: float | None = None
    stopped: str | None = None


class Saved(NamedTuple):
    state: HealState
    path: Path


class HealStore:
    """The resume points of one run, in `folder`; `keep` of them stay. The best cores are kept beside them.

    `save`, `load` and `save_best` are for every process of the team at once; the others are for one alone.
    """

    def __init__(self, folder: Path, keep: int, team: Team) -> None:
        self._folder = folder
        self._keep = keep
        self._team = team

    def clean(self) -> None:
        """Removes what killed processes left half-written; only before any process writes."""
        for left in self._folder.glob(".*.partial"):
            shutil.rmtree(left, ignore_errors=True)

    def latest(self) -> Saved | None:
        """The newest resume point that can be read."""
        return next(iter(self._saved()), None)

    def save(self, state: HealState, trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
        """Raises UserError when the disk is full; the resume points before stay."""
        tensors = _parameters(trained) | _moments(optimizer)
        number = int(self._team.first(max((_number(path) for path in self._points()), default=0))[0]) + 1
        self._write(self._folder / f"point-{number:06}", tensors, state.model_dump_json())
        if self._team.rank == 0:
            for saved in self._saved()[self._keep :]:
                _remove(saved.path)
            self._forget_all_but(state.best_step)

    def load(self, saved: Saved, trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
        """Gives parameters and optimizer what `saved` holds."""
        groups = optimizer.state_dict()["param_groups"]
        moments: dict[int, dict[str, Tensor]] = {}
        if saved.state.step:
            for index, parameter in enumerate(trained.values()):
                empty = {key: torch.zeros_like(parameter.detach()) for key in ("exp_avg", "exp_avg_sq")}
                moments[index] = {"step": torch.zeros(()), **empty}
        _read(saved.path, _parameters(trained) | _named(moments))
        optimizer.load_state_dict({"state": moments, "param_groups": groups})

    def save_best(self, step: int, trained: Mapping[str, nn.Parameter]) -> None:
        """Raises UserError when the disk is full; the best before stays, as do those that resume points go back to."""
        if not self._team.first(float(self._best(step).exists()))[0]:
            self._write(self._best(step), _parameters(trained), "{}")
        if self._team.rank == 0:
            self._forget_all_but(step)

    def best(self, step: int, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
        """The parameters after that step, the best one, whole, by the names of `shapes`: float32 on the CPU."""
        found = {name: torch.empty(shape) for name, shape in shapes.items()}
        _read(self._best(step), {f"parameter.{name}": tensor for name, tensor in found.items()}, alone=True)
        return found

    def clear(self) -> None:
        """Removes everything: of no use after the folder is published."""
        for path in (*self._points(), *self._folder.glob("best-*")):
            _remove(path)

    def _write(self, path: Path, tensors: Mapping[str, Tensor], state: str) -> None:
        """A folder of all processes' parts that appears when all are on disk; where one fails, all raise UserError."""
        temporary = path.with_name(f".{path.name}.partial")
        failure = ""
        try:
            writer = HuggingFaceStorageWriter(str(temporary), _files(tensors), save_distributed=True)
            with _quiet():
                state_dict_saver.save(dict(tensors), storage_writer=writer, no_dist=self._team.world == 1)
            if self._team.rank == 0:
                atomic.write_bytes(temporary / STATE, state.encode())
                atomic.publish_directory(temporary, path)
        except CheckpointException as found:
            # Every process is told of all failures; another one than that of a disk is none that a person can mend.
            if not (failure := "; ".join(str(one[0]) for one in found.failures.values() if isinstance(one[0], OSError))):
                raise
        except OSError as found:
            failure = str(found)
        if any(self._team.sums(float(bool(failure)))):
            if self._team.rank == 0:
                shutil.rmtree(temporary, ignore_errors=True)
            told = failure or "another process has failed, see log.txt"
            raise UserError(
                f"The resume point {path} could not be written: {told}.", "Make room, then resume the run: the one before is kept."
            )

    def _points(self) -> list[Path]:
        """Newest first."""
        return sorted(self._folder.glob("point-*"), key=_number, reverse=True)

    def _saved(self) -> list[Saved]:
        """The resume points that can be read, the newest first."""
        found: list[Saved] = []
        for path in self._points():
            with suppress(OSError, ValidationError):
                found.append(Saved(HealState.model_validate_json((path / STATE).read_bytes()), path))
        return found

    def _best(self, step: int) -> Path:
        return self._folder / f"best-{step:09}"

    def _forget_all_but(self, step: int) -> None:
        needed = {self._best(step), *(self._best(saved.state.best_step) for saved in self._saved())}
        for path in self._folder.glob("best-*"):
            if path not in needed:
                _remove(path)


def _parameters(trained: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    return {f"parameter.{name}": parameter.detach() for name, parameter in trained.items()}


def _moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return _named(optimizer.state_dict()["state"])


def _named(moments: Mapping[int, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {f"optimizer.{index}.{key}": value for index, kept in moments.items() for key, value in kept.items()}


def _files(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Which file each tensor is written to, from 1."""
    files: dict[str, int] = {}
    number, used = 1, 0
    for name, tensor in tensors.items():
        if used >= FILE_BYTES:
            number, used = number + 1, 0
        files[name] = number
        used += tensor.numel() * tensor.element_size()
    return files


def _read(path: Path, into: dict[str, Tensor], *, alone: bool = False) -> None:
    alone = alone or not torch.distributed.is_initialized()
    with _quiet():
        state_dict_loader.load(into, storage_reader=HuggingFaceStorageReader(str(path)), no_dist=alone)


@contextmanager
def _quiet() -> Generator[None]:
    """Torch warns that one process is one process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield


def _number(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _remove(path: Path) -> None:
    """In one rename, so that no half of it is left looking whole."""
    temporary = path.with_name(f".{path.name}.partial")
    with suppress(FileNotFoundError):
        path.rename(temporary)
    shutil.rmtree(temporary, ignore_errors=True)
