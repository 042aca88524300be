"""The processes that train one model in step, as torchrun starts them, or one alone: who shares what, and where they wait for each other.

Parameters, gradients and moments are shared out block by block (FSDP2; Y. Zhao et al., PyTorch FSDP, VLDB 2023). Whatever decides what
comes next (stop, save, validate) is agreed on first: a process that went another way would leave the others waiting. When one dies the
others' next exchange fails or, where they cannot see that, the first ends itself; torchrun ends the rest.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist

from bondwise.errors import Cancelled
from bondwise.streaming import block_modules

if TYPE_CHECKING:
    from collections.abc import Generator

    from transformers import PreTrainedModel

    from bondwise.run import Run

TIMEOUT = timedelta(minutes=10)
"""Longest wait for another process; what one does alone between two exchanges takes seconds. One that has died is noticed long before."""
GRACE_SECONDS = 5.0
"""Time for an exchange to fail after another process has died, before the first ends itself."""


class Team:
    """This process and the others of its run; of one, everything here is done at once and costs nothing."""

    def __init__(self, run: Run) -> None:
        self.rank, self.world = run.ranks.rank, run.ranks.world
        self._run = run
        self._joined = False
        self._over = threading.Event()

    @contextmanager
    def together(self) -> Generator[None]:
        """Inside, the processes are in step. Waits for all to come here; between it and the end each does what all do, in one order."""
        if self.world == 1:
            yield
            return
        backend = "cpu:gloo,cuda:nccl" if self._run.device.startswith("cuda") else "gloo"
        if self.rank == 0:
            threading.Thread(target=self._watch, name="bondwise-team", daemon=True).start()
        try:
            # Not by the process group: whoever waits there cannot be stopped.
            self._run.ranks.meet(self._run.check_cancelled)
            dist.init_process_group(backend, timeout=TIMEOUT)
            self._joined = True
            yield
            dist.barrier()
        finally:
            self._joined = False
            if dist.is_initialized():
                dist.destroy_process_group()
            self._over.set()

    def sums(self, *values: float) -> list[float]:
        """The sum of each value over all processes, the same on each."""
        if not self._joined:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def first(self, *values: float) -> list[float]:
        """What the first process gives, on each."""
        return self.sums(*(values if self.rank == 0 else [0.0] * len(values)))

    def check(self) -> None:
        """Raises Cancelled on every process, at the same place, when any was asked to stop. Every process must come here."""
        if not self._joined:
            self._run.check_cancelled()
        elif self.sums(float(self._asked()))[0]:
            raise Cancelled

    def check_alone(self) -> None:
        """For what a process does by itself: raises Cancelled where it may stop by itself, which it may not once it has joined."""
        if not self._joined:
            self._run.check_cancelled()

    def share_out(self, model: PreTrainedModel, container: str | None) -> None:
        """Leaves this process its part of each parameter of `model`, on its device: of its blocks (`container` is their path) one by one,
        then of the rest. Parameters are other objects afterwards. Raises UserError where the model has no blocks of that name."""
        if self.world == 1:
            return
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        kind = self._run.device.partition(":")[0]
        mesh = init_device_mesh(kind, (self.world,))
        for block in block_modules(model, container)[1]:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)

    def exchange_gradients(self, model: PreTrainedModel, now: bool) -> None:
        """Whether the next backward pass adds up the gradients of all processes, or leaves this one's to a later pass."""
        if self.world > 1:
            cast("Any", model).set_requires_gradient_sync(now)

    def _asked(self) -> bool:
        try:
            self._run.check_cancelled()
        except Cancelled:
            return True
        return False

    def _watch(self) -> None:
        """Ends this process when another has died and the exchange that should fail does not: a GPU may wait for it without end."""
        while not self._over.wait(1.0):
            if self._run.ranks.fate() is not None and not self._over.wait(GRACE_SECONDS):
                # Its state stays `running`, and whoever reads that finds no process: interrupted.
                os._exit(1)


def whole(tensor: Any) -> torch.Tensor:
    """A tensor that is shared out, put together; every process must come here. Others as they are."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
