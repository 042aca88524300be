"""The moments of `calibrate` of a model that does not fit in memory: with one block's weights in memory at a time.

The hidden states between the blocks are kept of each sequence. For inputs alone one pass forward is enough, and only the states before one
block are needed. For gradients the states before every block are; then the loss gradients at the last of them come from the head, and
block after block, from the last to the first, is computed again from its states, now with gradients (recomputation as in T. Chen et al.,
Training Deep Nets with Sublinear Memory Cost, 2016). The sums are those of `calibrate`, over the same sequences in the same order.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, cast

import torch

from bondwise.calibrate import collecting, find_directions, loss_gradient, means, new_sums, note_half
from bondwise.estimate import moment_bytes
from bondwise.memory import runs_within
from bondwise.walk import Walk

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from torch import Tensor

    from bondwise.calibrate import Sums
    from bondwise.modelmap import Layer
    from bondwise.moments import Moments
    from bondwise.shelf import Shelf
    from bondwise.streaming import WholeModel


class _Part(NamedTuple):
    """Layers of a block whose moments are collected at a time; of a block without wanted layers there is one part without any."""

    block: int
    layers: list[Layer]
    last: bool
    """Of its block."""
    share: float
    """Of its block: one over how many there are."""


def block_moments(
    model: WholeModel,
    layers: Sequence[Layer],
    ids: Tensor,
    *,
    gradients: bool,
    directions: bool,
    seed: int,
    room: Callable[[], int],
    shelf: Shelf,
    progress: Callable[[float, float], None],
    check_cancelled: Callable[[], None],
) -> Iterator[dict[str, Moments]]:
    """As `collect_moments` with the directions of `find_directions` where `directions`, some layers of one block at a time.

    They come in the order of the blocks, with `gradients` the other way round; no block has weights while the caller has them. Those of as
    many layers are collected together as `room()` bytes hold; a block with more is computed more than once. `shelf` holds the hidden states
    meanwhile. `progress(done, total)` counts blocks. Raises UserError as `collect_moments` and `Walk`.
    """
    work = _Blocks(Walk(model, ids), layers, ids, room, shelf, progress, check_cancelled)
    first, last = min(layer.block for layer in layers), max(layer.block for layer in layers)
    blocks = len(model.blocks)
    work.total = 2 * blocks - first if gradients else last + 1
    for number in range(len(ids)):
        shelf.put(f"0 {number}", work.walk.enter(number))
    if not gradients:
        for block in range(last + 1):
            for part in work.parts(block):
                if found := work.forward(part, directions=directions):
                    yield found
        return
    for block in range(blocks):
        work.forward(_Part(block, [], last=True, share=1.0), directions=False, keep=block >= first)
    work.leave(seed)
    for block in reversed(range(first, blocks)):
        for part in work.parts(block):
            if found := work.backward(part, directions=directions):
                yield found


class _Blocks:
    """The shelf holds `BLOCK SEQUENCE`, the states that enter a block, and `gradient SEQUENCE`, the loss gradients of the states that leave
    the block whose turn it is; both [1, length, hidden]."""

    def __init__(  # noqa: PLR0917 -- what `block_moments` is given
        self,
        walk: Walk,
        layers: Sequence[Layer],
        ids: Tensor,
        room: Callable[[], int],
        shelf: Shelf,
        progress: Callable[[float, float], None],
        check_cancelled: Callable[[], None],
    ) -> None:
        self.walk = walk
        self.total = 0
        self._done = 0.0
        self._by_block: defaultdict[int, list[Layer]] = defaultdict(list)
        for layer in layers:
            self._by_block[layer.block].append(layer)
        self._ids, self._room, self._shelf = ids, room, shelf
        self._progress, self._check_cancelled = progress, check_cancelled

    def parts(self, block: int) -> list[_Part]:
        groups = runs_within(self._by_block[block], lambda layer: moment_bytes(*layer.shape), self._room()) or [[]]
        return [_Part(block, group, group is groups[-1], 1 / len(groups)) for group in groups]

    def forward(self, part: _Part, *, directions: bool, keep: bool = False) -> dict[str, Moments]:
        """The moments of the inputs; the states go on to the next block with the last part, and stay before this one where `keep`."""
        with self._summing(part, directions=directions, gradients=False) as sums:
            for number in range(len(self._ids)):
                self._check_cancelled()
                leaving = self.walk.step(part.block, self._state(part, number, keep=keep or not part.last))
                if part.last:
                    self._shelf.put(f"{part.block + 1} {number}", leaving)
                self._after(sums, number, part.share)
        return means(sums, self._ids, gradients=False)

    def leave(self, seed: int) -> None:
        """From the states that leave the last block to the loss gradients there."""
        generator = torch.Generator().manual_seed(seed)
        with collecting(self.walk.model, [], gradients=True, check_cancelled=self._check_cancelled), torch.enable_grad():
            for number in range(len(self._ids)):
                self._check_cancelled()
                state = self._state(_Part(len(self.walk.blocks), [], last=True, share=1.0), number, keep=False).requires_grad_()
                logits = self.walk.leave(number, state)
                if logits.requires_grad:
                    logits.backward(loss_gradient(logits.detach(), generator))
                self._put_gradient(number, state)

    def backward(self, part: _Part, *, directions: bool) -> dict[str, Moments]:
        """The moments of inputs and gradients; the gradients go on to the block before with the last part."""
        with self._summing(part, directions=directions, gradients=True) as sums:
            for number in range(len(self._ids)):
                self._check_cancelled()
                state = self._state(part, number, keep=not part.last).requires_grad_()
                leaving = self.walk.step(part.block, state)
                gradient = self._shelf.take(f"gradient {number}", keep=not part.last)
                if gradient is not None and leaving.requires_grad:
                    leaving.backward(gradient.to(leaving))
                if part.last:
                    self._put_gradient(number, state)
                self._after(sums, number, part.share)
        return means(sums, self._ids, gradients=True)

    @contextmanager
    def _summing(self, part: _Part, *, directions: bool, gradients: bool) -> Generator[dict[str, Sums]]:
        """Inside, the block has weights and every step through it adds to the sums."""
        model = self.walk.model
        with self.walk.filled(part.block):
            found = None
            if directions:
                found = find_directions(model, part.layers, progress=lambda done, total: None, check_cancelled=self._check_cancelled)
            sums = new_sums(model, part.layers, found)
            with (
                collecting(model, list(sums.values()), gradients=gradients, check_cancelled=self._check_cancelled),
                torch.set_grad_enabled(gradients),
            ):
                yield sums

    def _state(self, part: _Part, number: int, *, keep: bool) -> Tensor:
        return cast("Tensor", self._shelf.take(f"{part.block} {number}", keep=keep)).to(self.walk.device).detach()

    def _put_gradient(self, number: int, state: Tensor) -> None:
        if state.grad is not None:
            self._shelf.put(f"gradient {number}", state.grad)

    def _after(self, sums: dict[str, Sums], number: int, share: float) -> None:
        note_half(sums, number + 1, len(self._ids))
        self._done += share / len(self._ids)
        self._progress(round(self._done, 2), self.total)
