"""Runs a model with one layer's weight replaced, from that layer's block on: what comes before it is computed once and kept.

A sequence passes through the original model once; the hidden states that enter its blocks are kept. For another weight the model is called
as always, but the blocks before the changed one hand on what was kept instead of computing, so that masks, position embeddings and whatever
else an architecture prepares are its own. Nothing here knows an architecture: where the states between blocks are not all that a model
passes on (found by comparing logits), every pass starts at the embedding.
"""

from __future__ import annotations

import math
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from bondwise import modeling_mpo
from bondwise.errors import UserError
from bondwise.streaming import block_modules

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    from bondwise.modelmap import Layer

SAME = 1e-3
"""Largest difference of logits, as a part of their largest magnitude, by which a pass over kept states may differ from the whole one. A
state that was not kept moves them by far more; equal operations on equal numbers by nothing."""


class Replay:
    """The original model on fixed sequences, and any variant of it that differs in one layer."""

    def __init__(self, model: PreTrainedModel, container: str | None, ids: Tensor, starts: Collection[int], *, budget: int) -> None:
        """`ids` [sequences, length] int64; `starts` are the blocks that will be changed, `budget` bytes are for the kept states."""
        self.model = model
        self._ids = ids
        self._budget = budget
        self._starts = sorted(starts)
        self._kept: list[dict[int, Tensor]] = [{} for _ in ids]  # by sequence, by block: [1, length, hidden]
        self._answers: list[Callable[[Tensor], Any]] = []  # by block: a hidden state as that block returns it
        try:
            self._blocks = block_modules(model, container)[1]
        except UserError:
            self._blocks = []
        self.reuses = bool(self._blocks)
        """Passes start at the changed block."""

    @property
    def sequences(self) -> int:
        return len(self._ids)

    @property
    def kept_bytes(self) -> int:
        return sum(state.numel() * state.element_size() for states in self._kept for state in states.values())

    @torch.no_grad()
    def original(self, sequence: int) -> Tensor:
        """Logits [length, vocabulary] of the original model. The first call for a sequence keeps its hidden states, later ones use them."""
        if not self.reuses or self._kept[sequence]:
            return self._original_from(sequence, len(self._blocks))
        states: dict[int, Tensor] = {}
        with ExitStack() as hooks:
            for index, block in enumerate(self._blocks):
                hooks.callback(block.register_forward_pre_hook(self._keep(index, states), with_kwargs=True).remove)
                if len(self._answers) < len(self._blocks):
                    hooks.callback(block.register_forward_hook(self._learn_answer).remove)
            logits = self._logits(sequence, 1)[0]
        self._thin(states)
        self._kept[sequence] = states
        if sequence == 0 and self.reuses:
            self.reuses = self._reproduces(logits)
        if not self.reuses:
            self._kept = [{} for _ in self._ids]
        return logits

    @torch.no_grad()
    def variants(self, sequence: int, layer: Layer, weights: Sequence[Tensor]) -> Tensor:
        """Logits [variants, length, vocabulary] of the model with each of `weights` [out, in] in the place of the layer's, in one batch.

        Raises ValueError where the layer does not see the variants one after another, so that they cannot share a batch.
        """
        module = layer_module(self.model, layer)
        with _forward(module, _linear(module, weights)), self._from_block(sequence, layer.block, len(weights)):
            return self._logits(sequence, len(weights))

    def loss(self, sequence: int, block: int) -> Tensor:
        """The original's mean loss, nats per token, as a function of what requires a gradient in `block` and after it."""
        logits = self._original_from(sequence, block)
        return nn.functional.cross_entropy(logits[:-1].float(), self._ids[sequence][1:].to(logits.device))

    def _original_from(self, sequence: int, block: int) -> Tensor:
        with self._from_block(sequence, block, 1):
            return self._logits(sequence, 1)[0]

    def _logits(self, sequence: int, batch: int) -> Tensor:
        ids = self._ids[sequence].to(self.model.device).expand(batch, -1)
        return cast("Any", self.model)(input_ids=ids, use_cache=False).logits

    @contextmanager
    def _from_block(self, sequence: int, block: int, batch: int) -> Generator[None]:
        """Inside the block of code the model computes nothing before the last kept state up to `block`."""
        start = max((index for index in self._kept[sequence] if index <= block), default=0)
        with ExitStack() as replaced:
            if start > 0:
                # A copy: some models add to the hidden state in place.
                state = self._kept[sequence][start].to(self.model.device).repeat(batch, 1, 1)
                for skipped, answer in zip(self._blocks[:start], self._answers[:start], strict=True):
                    replaced.enter_context(_forward(skipped, _hand_on(answer, state)))
            yield

    def _keep(self, index: int, states: dict[int, Tensor]) -> Callable[..., None]:
        def hook(_block: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            state = arguments[0] if arguments else named.get("hidden_states")
            if not isinstance(state, torch.Tensor) or state.ndim != 3:
                self.reuses = False
            elif index in self._starts and index > 0:
                states[index] = state.clone()

        return hook

    def _learn_answer(self, _block: nn.Module, _arguments: object, output: object) -> None:
        if isinstance(output, torch.Tensor):
            self._answers.append(lambda state: state)
        elif isinstance(output, tuple) and all(part is None for part in cast("tuple[Any, ...]", output)[1:]):
            rest = cast("tuple[Any, ...]", output)[1:]
            self._answers.append(lambda state: (state, *rest))
        else:
            # It hands on more than a hidden state.
            self._answers.append(lambda state: state)
            self.reuses = False

    def _thin(self, states: dict[int, Tensor]) -> None:
        """Keeps as many states as the memory for them allows, evenly over the depth; a pass then starts at the nearest one before."""
        each = max((state.numel() * state.element_size() for state in states.values()), default=1)
        room = self._budget // (each * len(self._kept))
        step = math.ceil(len(states) / room) if room else 0
        for number, index in enumerate(sorted(states)):
            if room == 0 or number % step:
                del states[index]

    def _reproduces(self, logits: Tensor) -> bool:
        """Whether passes over the kept states of sequence 0 give its logits [length, vocabulary] again."""
        kept = sorted(self._kept[0])
        for start in {kept[len(kept) // 2], kept[-1]} if kept else ():
            if not float((self._original_from(0, start) - logits).abs().max()) <= SAME * float(logits.abs().max()):
                return False
        return True


def layer_module(model: PreTrainedModel, layer: Layer) -> nn.Module:
    """The module of a dense layer, whose `weight` is [out, in], or [in, out] in GPT-2's Conv1D.

    Raises ValueError where the model has no module of its own for it: transformers fuses some experts.
    """
    module = model.get_submodule(modeling_mpo._module_path(model, layer.name))
    weight = getattr(module, "weight", None)
    if not isinstance(weight, torch.Tensor) or tuple(weight.shape) not in (layer.shape, layer.shape[::-1]):
        raise ValueError(f"{layer.name} is a {type(module).__name__} in {type(model).__name__}, not a linear layer")
    return module


@contextmanager
def replaced_weight(model: PreTrainedModel, layer: Layer, weight: Tensor) -> Generator[None]:
    """Inside the block of code the layer multiplies by `weight` [out, in], whatever passes through the model."""
    module = layer_module(model, layer)
    with _forward(module, _linear(module, [weight])):
        yield


def is_transposed(module: nn.Module) -> bool:
    """Its weight is [in, out]."""
    return not isinstance(module, nn.Linear)


def _linear(module: nn.Module, weights: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
    """A forward pass that gives every part of the batch a weight [out, in] of its own."""
    own = cast("Tensor", module.weight)
    bias = cast("Tensor | None", getattr(module, "bias", None))
    cast_weights = [weight.to(own) for weight in weights]

    def forward(x: Tensor) -> Tensor:
        if len(cast_weights) == 1:
            return nn.functional.linear(x, cast_weights[0], bias)
        # Some models flatten [batch, length, in] to [batch·length, in] before their MLP.
        parts = x if x.ndim > 2 else x.unflatten(0, (len(cast_weights), -1)) if len(x) % len(cast_weights) == 0 else x
        if len(parts) != len(cast_weights):
            raise ValueError(f"the layer sees {list(x.shape)}, which is not a batch of {len(cast_weights)}")
        out = torch.stack([nn.functional.linear(part, weight, bias) for part, weight in zip(parts, cast_weights, strict=True)])
        return out if x.ndim > 2 else out.flatten(0, 1)

    return forward


def _hand_on(answer: Callable[[Tensor], Any], state: Tensor) -> Callable[..., Any]:
    def forward(*_arguments: object, **_named: object) -> Any:
        return answer(state)

    return forward


@contextmanager
def _forward(module: nn.Module, forward: Callable[..., Any]) -> Generator[None]:
    """Inside the block of code `module` computes `forward`; hooks stay in force."""
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
