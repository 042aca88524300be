"""Sequences through a model block by block, in two versions: as it was, and as its compressed blocks make them.

The hidden states that leave one block are kept, and are what the next one gets; a block is called with the arguments that the model itself
gives it. So a block may change after the original's states have passed it, and what comes later sees what the change did; and no other
block need have weights meanwhile.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch

from bondwise.errors import UserError
from bondwise.evaluate import check_fits
from bondwise.replay import _forward, layer_module
from bondwise.streaming import StreamedModel

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from bondwise.modelmap import Layer
    from bondwise.streaming import WholeModel

    Seen = Callable[[Layer, Tensor, Tensor], None]
    """Gets a layer of the block, what it read [1, length, in] and what it wrote [1, length, out]."""


class _Enough(Exception):
    """No failure: what was wanted of a pass is there."""


class Walk:
    """A model's blocks on sequences of equal length. Gradients are recorded where the caller has them recorded."""

    @torch.no_grad()
    def __init__(self, model: WholeModel, ids: Tensor) -> None:
        """`ids` [sequences, length] int64. Raises UserError where more passes between the blocks than a hidden state, and where the model
        does not take such sequences."""
        check_fits(model.model, ids)
        self._whole, self._ids = model, ids
        self.model, self.blocks, self.device = model.model, model.blocks, model.device
        self._answer = self._learn_answer()
        self._calls = self._learn_calls(ids[0])
        if not _alike(self._calls, self._learn_calls(ids[-1])):
            raise self._refusal()

    @property
    def sequences(self) -> int:
        return len(self._ids)

    @property
    def start(self) -> list[Tensor]:
        """Of each sequence what enters the first block, [1, length, hidden]."""
        return [self.enter(number) for number in range(self.sequences)]

    def filled(self, block: int) -> AbstractContextManager[None]:
        """Inside, that block has its weights and `step` can be called for it."""
        return self._whole.block(block)

    @torch.no_grad()
    def enter(self, number: int) -> Tensor:
        """What enters the first block, [1, length, hidden], of the sequence with that number."""
        found: list[Tensor] = []

        def catch(state: Tensor, *_rest: Any, **_named: Any) -> None:
            found.append(state)
            raise _Enough

        self._run(self._ids[number], [catch])
        return found[0].clone()

    def step(
        self, block: int, state: Tensor, layers: Sequence[Layer] = (), seen: Seen | None = None, *, until: Layer | None = None
    ) -> Tensor:
        """What leaves the block [1, length, hidden] when `state` of that shape enters it; `seen` is told of each pass through `layers`.

        `until` stops when that layer has been called, and gives `state` back.
        """
        rest, named = self._calls[block]
        with _watching(self.model, layers, seen, until):
            try:
                made = self.blocks[block](state.clone(), *rest, **named)  # a copy: some models add to the hidden state in place
            except _Enough:
                return state
        return self._state(made)

    def leave(self, number: int, state: Tensor) -> Tensor:
        """The logits [length, vocabulary] of the sequence with that number, when `state` [1, length, hidden] leaves the last block."""

        def hand_on(*_arguments: Any, **_named: Any) -> Any:
            return self._answer(state.clone())

        return self._run(self._ids[number], [hand_on] * len(self.blocks))[0]

    def _learn_answer(self) -> Callable[[Tensor], Any]:
        """How a block returns a hidden state."""
        found: list[Any] = []

        def catch(_module: nn.Module, _arguments: object, output: object) -> None:
            found.append(output)
            raise _Enough

        handle = self.blocks[0].register_forward_hook(catch)
        try:
            with self.filled(0):
                self._run(self._ids[0], [])
        finally:
            handle.remove()
        self._state(found[0])
        if isinstance(found[0], torch.Tensor):
            return lambda state: state
        rest = cast("tuple[Any, ...]", found[0])[1:]
        return lambda state: (state, *rest)

    def _learn_calls(self, sequence: Tensor) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        """With what, beside a hidden state, each block is called. Raises UserError where a block's state is not the one before's."""
        calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        left: list[Tensor] = []

        def pass_on(*arguments: Any, **named: Any) -> Any:
            state = arguments[0] if arguments else named.pop("hidden_states", None)
            if not isinstance(state, torch.Tensor) or state.ndim != 3 or (left and not torch.equal(state, left[-1])):
                raise self._refusal()
            left.append(state)
            calls.append((arguments[1:], named))
            if len(calls) == len(self.blocks):
                raise _Enough
            return self._answer(state)

        self._run(sequence, [pass_on] * len(self.blocks))
        if len(calls) < len(self.blocks):
            raise self._refusal()
        return calls

    def _run(self, sequence: Tensor, forwards: Iterable[Callable[..., Any]]) -> Tensor:
        """The logits [1, length, vocabulary] with these forward passes in the place of the first blocks'; empty where one had enough."""
        with ExitStack() as replaced:
            for block, forward in zip(self.blocks, forwards, strict=False):
                replaced.enter_context(_forward(block, forward))
            try:
                return cast("Any", self.model)(input_ids=sequence[None].to(self.device), use_cache=False).logits
            except _Enough:
                return torch.empty(1, 0, 0)

    def _state(self, made: object) -> Tensor:
        """The hidden state of what a block returned. Raises UserError where it returned more."""
        if isinstance(made, torch.Tensor):
            return made
        parts = cast("tuple[Any, ...]", made) if isinstance(made, tuple) else (None,)
        if not isinstance(parts[0], torch.Tensor) or any(part is not None for part in parts[1:]):
            raise self._refusal()
        return parts[0]

    def _refusal(self) -> UserError:
        streamed = isinstance(self._whole, StreamedModel)
        return UserError(
            f"{type(self.model).__name__} passes more than a hidden state between its blocks, so it cannot be compressed block by block.",
            "Use a machine whose memory holds the whole model, or --method plain." if streamed else "Use --method fisher.",
        )


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


def _alike(one: Any, other: Any) -> bool:
    """Whether two arguments are the same, as far as they hold tensors, numbers and the like."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
        left, right = cast("Sequence[Any]", one), cast("Sequence[Any]", other)
        return len(left) == len(right) and all(map(_alike, left, right))
    if isinstance(one, dict) and isinstance(other, dict):
        first, second = cast("dict[Any, Any]", one), cast("dict[Any, Any]", other)
        return first.keys() == second.keys() and all(_alike(first[name], second[name]) for name in first)
    # Objects without an equality of their own are made anew for each pass.
    return type(one) is type(other) and (one == other or type(one).__eq__ is object.__eq__)
