"""The resume points of a healing: one safetensors file with what trains, the optimizer, and where the run stands. Whole or absent.

The random numbers of a step follow from the seed and its number, so no generator's state has to be kept.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from bondwise import atomic
from bondwise.errors import UserError
from bondwise.schema import HealPlan

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn


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
    """Of the last steps, and the lowest mean that they had: a loss that runs away is seen by them."""
    lowest: float
    stopped: str | None = None


class Saved(NamedTuple):
    state: HealState
    path: Path


class HealStore:
    """The files of one run, in `folder`. `keep` resume points stay; the best cores have a file of their own."""

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder = folder
        self._keep = keep

    def latest(self) -> Saved | None:
        """The newest resume point that can be read."""
        return next(iter(self._saved()), None)

    def save(self, state: HealState, trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
        """Raises UserError when the disk is full; the resume points before stay."""
        tensors = {f"parameter.{name}": parameter.detach() for name, parameter in trained.items()}
        moments: dict[int, dict[str, Tensor]] = optimizer.state_dict()["state"]
        tensors |= {f"optimizer.{index}.{key}": value for index, kept in moments.items() for key, value in kept.items()}
        _write(self._folder / f"step-{state.step:09}.safetensors", tensors, {"state": state.model_dump_json()})
        for saved in self._saved()[self._keep :]:
            saved.path.unlink(missing_ok=True)
        self._forget_all_but(state.best_step)

    def load(self, saved: Saved, trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
        """Gives parameters and optimizer what `saved` holds."""
        tensors = load_file(saved.path)
        _fill(trained, {name.removeprefix("parameter."): value for name, value in tensors.items() if name.startswith("parameter.")})
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "optimizer":
                index, _, key = rest.partition(".")
                moments.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})

    def save_best(self, step: int, trained: Mapping[str, nn.Parameter]) -> None:
        """Raises UserError when the disk is full; the best before stays, as do those that resume points go back to."""
        _write(self._best(step), {name: parameter.detach() for name, parameter in trained.items()}, {})
        self._forget_all_but(step)

    def load_best(self, step: int, trained: Mapping[str, nn.Parameter]) -> None:
        """Gives the parameters what they were after that step, the best one."""
        _fill(trained, load_file(self._best(step)))

    def clear(self) -> None:
        """Removes everything: of no use after the folder is published."""
        for pattern in ("step-*.safetensors", "best-*.safetensors"):
            for path in self._folder.glob(pattern):
                path.unlink(missing_ok=True)

    def _saved(self) -> list[Saved]:
        """The resume points that can be read, the newest first."""
        found: list[Saved] = []
        for path in sorted(self._folder.glob("step-*.safetensors"), reverse=True):
            with suppress(SafetensorError, ValidationError, KeyError, TypeError), safe_open(path, "pt") as file:
                found.append(Saved(HealState.model_validate_json(file.metadata()["state"]), path))
        return found

    def _best(self, step: int) -> Path:
        return self._folder / f"best-{step:09}.safetensors"

    def _forget_all_but(self, step: int) -> None:
        needed = {self._best(step), *(self._best(saved.state.best_step) for saved in self._saved())}
        for path in self._folder.glob("best-*.safetensors"):
            if path not in needed:
                path.unlink(missing_ok=True)


def _fill(trained: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(tensors[name])


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    temporary = atomic.temporary_name(path)
    try:
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, temporary, metadata)
        atomic.sync_file(temporary)
        temporary.replace(path)
    except (SafetensorError, OSError) as failure:
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"The resume point {path} could not be written: {failure}.", "Make room, then resume the run: the one before is kept."
        ) from failure
    atomic.sync_directory(path.parent)
