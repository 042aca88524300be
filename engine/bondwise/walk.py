"""Sequences through a model block by block, in two versions: as it was, and as its compressed blocks make them.

The hidden states that leave one block are kept, and are what the next one gets; a block is called with the arguments that the model itself
gives it. So a block may change after the original's states have passed it, and what comes later sees what the change did.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch

from bondwise.errors import UserError
from bondwise.replay import SAME, layer_module
from bondwise.streaming import _block_modules

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from bondwise.modelmap import Layer

    Seen = Callable[[Layer, Tensor, Tensor], None]
    """Gets a layer of the block, what it read [1, length, in] and what it wrote [1, length, out]."""


class _Enough(Exception):
    """No failure: what was wanted of a pass is there."""


class Walk:
    """A model's blocks on sequences of equal length, without gradients."""

    @torch.no_grad()
    def __init__(self, model: PreTrainedModel, container: str | None, ids: Tensor) -> None:
        """`ids` [sequences, length] int64. Raises UserError where more passes between the blocks than a hidden state."""
        self.model = model
        self.blocks = _block_modules(model, container)[1]
        self._calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.start: list[Tensor] = []
        """Of each sequence what enters the first block, [1, length, hidden]."""
        for number, sequence in enumerate(ids):
            self.start.append(self._first_state(sequence, learn=number == 0))
        self._check(ids[-1])

    @torch.no_grad()
    def step(
        self, block: int, state: Tensor, layers: Sequence[Layer] = (), seen: Seen | None = None, *, until: Layer | None = None
    ) -> Tensor:
        """What leaves the block [1, length, hidden] when `state` of that shape enters it; `seen` is told of each pass through `layers`.

        `until` stops when that layer has been called, and gives `state` back.
        """
        rest, named = self._calls[block]
        with _watching(self.model, layers, seen, until):
            try:
                made = self.blocks[block](state, *rest, **named)
            except _Enough:
                return state
        return made if isinstance(made, torch.Tensor) else cast("Tensor", made[0])

    def _first_state(self, sequence: Tensor, *, learn: bool) -> Tensor:
        found: list[Tensor] = []

        def catch(_module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            state = arguments[0] if arguments else named.get("hidden_states")
            if not isinstance(state, torch.Tensor) or state.ndim != 3:
                raise _unwalkable(self.model)
            if not found:
                found.append(state.clone())
            rest = {name: value for name, value in named.items() if name != "hidden_states"}
            if learn:
                self._calls.append((arguments[1:], rest))
            else:
                raise _Enough

        handles = [block.register_forward_pre_hook(catch, with_kwargs=True) for block in self.blocks]
        try:
            cast("Any", self.model)(input_ids=sequence[None].to(self.model.device), use_cache=False)
        except _Enough:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return found[0]

    def _check(self, sequence: Tensor) -> None:
        """Whether steps give what the model gives, on a sequence whose arguments are another one's."""
        wanted: list[Tensor] = []

        def catch(_module: nn.Module, _arguments: object, output: Any) -> None:
            wanted.append(output if isinstance(output, torch.Tensor) else output[0])

        handle = self.blocks[-1].register_forward_hook(catch)
        try:
            cast("Any", self.model)(input_ids=sequence[None].to(self.model.device), use_cache=False)
        finally:
            handle.remove()
        state = self.start[-1]
        for block in range(len(self.blocks)):
            state = self.step(block, state)
        if not float((state - wanted[0]).abs().max()) <= SAME * float(wanted[0].abs().max()):
            raise _unwalkable(self.model)


@contextmanager
def _watching(model: PreTrainedModel, layers: Sequence[Layer], seen: Seen | None, until: Layer | None) -> Generator[None]:
    def tell(layer: Layer, _module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        if seen is not None:
            seen(layer, arguments[0], output)
        if until is not None and layer.name == until.name:
            raise _Enough

    handles = [layer_module(model, layer).register_forward_hook(partial(tell, layer)) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _unwalkable(model: PreTrainedModel) -> UserError:
    return UserError(
        f"{type(model).__name__} passes more than a hidden state between its blocks, so it cannot be compressed block by block.",
        "Use --method fisher.",
    )
