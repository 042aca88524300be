"""The full update: block by block, each layer is fitted to what the already compressed model before it hands on.

A layer W [out, in] reads x₁ in the compressed model and x₀ in the original. Its target is the weight W* that best gives, from x₁, a mixture
of what W makes of x₀ and of x₁, with a pull towards W; a layer that writes into the residual stream h makes up besides for a part of what
the stream already lacks:

    W* = (W (α E[x₀x₁ᵀ] + (1 − α) E[x₁x₁ᵀ] + λ) + β E[(h₀ − h₁) x₁ᵀ]) (E[x₁x₁ᵀ] + λ)⁻¹

W* then becomes cores in the norm of E[x₁x₁ᵀ] and of the loss gradients (`weighted`), both shrunk (`shrinkage`). The name is that of
the full update of tensor networks (R. Orús, A practical introduction to tensor networks, Ann. Phys. 349, 2014, §7.1): the environment of a
tensor is that of the changed state. Fitting to the outputs under the inputs that a layer will really get is SVD-LLM's way too (X. Wang et
al., ICLR 2025, §3.2); α = 1 leans more on the calibration text than a short one bears.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from bondwise.errors import UserError
from bondwise.modelmap import Layer
from bondwise.replay import is_transposed, layer_module
from bondwise.shrinkage import amount, drawn

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

    from bondwise.walk import Walk

ALPHA = 0.5
BETA = 0.5
"""Only in blocks all of whose writers into the residual stream are fitted: on q, k, v, o, gate and up of SmolLM2 at half their size it made
perplexity worse by 3% while the down projections stayed as they were, and better by 3% with those fitted too."""
RIDGE = 0.1
"""λ as a part of the mean diagonal of E[x₁x₁ᵀ]."""
ADDED = 1e-3
"""Largest part of a block's output by which it may differ from its input and what is written, for those to be a residual stream."""


@torch.no_grad()
def updated_weight(weight: Tensor, mixed: Tensor, own: Tensor, lacking: Tensor | None) -> Tensor:
    """W* [out, in] float64 of a weight [out, in]; `mixed` E[x₀x₁ᵀ] and `own` E[x₁x₁ᵀ] [in, in], `lacking` E[(h₀ − h₁) x₁ᵀ] [out, in]."""
    precise, own = weight.double(), own.double()
    ridge = torch.eye(len(own), dtype=own.dtype, device=own.device) * (RIDGE * float(own.diagonal().mean()))
    target = precise @ (ALPHA * mixed.double() + (1 - ALPHA) * own + ridge)
    if lacking is not None:
        target += BETA * lacking.double()
    return torch.linalg.solve(own + ridge, target, left=False)


Make = Callable[[Layer, Tensor, Tensor], Tensor]
"""A layer, its W* [out, in] float64 and E[x₁x₁ᵀ] [in, in], shrunk → its weight [out, in] from then on."""


@torch.no_grad()
def walk_and_update(
    walk: Walk,
    layers: Sequence[Layer],
    wanted: AbstractSet[str],
    make: Make,
    *,
    progress: Callable[[float, float], None],
    check_cancelled: Callable[[], None],
) -> None:
    """Gives the `wanted` of the model's `layers` the weights that `make` says, in the order in which the model calls them.

    The model is changed. `progress(done, total)` counts blocks. Raises UserError for a wanted layer that not every token reaches (an
    expert).
    """
    by_block: defaultdict[int, list[Layer]] = defaultdict(list)
    for layer in layers:
        by_block[layer.block].append(layer)
    original = changed = walk.start
    for block in range(len(walk.blocks)):
        progress(block, len(walk.blocks))
        with walk.filled(block):
            if wanted & {layer.name for layer in by_block[block]}:
                original, changed = _Block(walk, block, by_block[block], check_cancelled).update(original, changed, wanted, make)
            else:
                same = original is changed
                original = _step(walk, block, original, check_cancelled)
                changed = original if same else _step(walk, block, changed, check_cancelled)
    progress(len(walk.blocks), len(walk.blocks))


def _step(walk: Walk, block: int, states: Sequence[Tensor], check_cancelled: Callable[[], None]) -> list[Tensor]:
    found: list[Tensor] = []
    for state in states:
        check_cancelled()
        found.append(walk.step(block, state))
    return found


@dataclass
class _Pass:
    """What layers of the original block read and, of those that write into the stream, what was in it before; of each sequence."""

    reads: dict[str, list[Tensor]]  # [length, in]
    streams: dict[str, list[Tensor]]  # [length, hidden]
    leaving: list[Tensor]


class _Block:
    def __init__(self, walk: Walk, block: int, layers: Sequence[Layer], check_cancelled: Callable[[], None]) -> None:
        self._walk, self._block, self._layers, self._check_cancelled = walk, block, layers, check_cancelled
        self._stages: list[list[Layer]] = []
        """The layers in the order they are called, those that read the same tensor together."""
        self._writers: list[Layer] = []

    def update(
        self, original: list[Tensor], changed: list[Tensor], wanted: AbstractSet[str], make: Make
    ) -> tuple[list[Tensor], list[Tensor]]:
        """What enters the block, [1, length, hidden] of each sequence → what leaves it, of the original and of the changed one."""
        self._learn(original[0])
        reached = {layer.name for stage in self._stages for layer in stage}
        for layer in self._layers:
            if layer.name in wanted - reached:
                raise UserError(
                    f"Not every token reaches {layer.name}, so it cannot be updated in sequence.", "Use --method fisher for it."
                )
        if not {layer.name for layer in self._writers} <= wanted:
            self._writers = []
        before = self._pass(original)
        for stage in self._stages:
            chosen = [layer for layer in stage if layer.name in wanted]
            if chosen:
                self._fit(chosen, before, changed, make)
        return before.leaving, _step(self._walk, self._block, changed, self._check_cancelled)

    def _learn(self, state: Tensor) -> None:
        """In which order layers are called, and which of them write into a residual stream."""
        stages: dict[int, list[Layer]] = {}
        read_before: list[Tensor] = []  # kept, so that no two have one id
        written: dict[str, Tensor] = {}  # [length, out]

        def see(layer: Layer, read: Tensor, made: Tensor) -> None:
            read_before.append(read)
            stages.setdefault(id(read), []).append(layer)
            written[layer.name] = _rows(made)

        leaving = self._walk.step(self._block, state, self._layers, see)
        whole = {name for name, rows in written.items() if len(rows) == state.shape[1]}
        self._stages = [layers for layers in stages.values() if layers[0].name in whole]
        called = [layer for stage in self._stages for layer in stage]
        last = {layer.group: layer for layer in called}  # of attention, of the MLP
        writers = [layer for layer in called if last[layer.group] is layer and written[layer.name].shape == state[0].shape]
        added = state[0] + sum(written[layer.name] for layer in writers)
        if writers and float((leaving[0] - added).norm()) <= ADDED * float(leaving.norm()):
            self._writers = writers

    def _pass(self, states: Sequence[Tensor]) -> _Pass:
        found = _Pass({layer.name: [] for layer in self._layers}, {layer.name: [] for layer in self._writers}, [])
        for state in states:
            self._check_cancelled()
            stream = state[0]

            def see(layer: Layer, read: Tensor, made: Tensor) -> None:
                nonlocal stream
                found.reads[layer.name].append(_rows(read))
                if layer in self._writers:
                    found.streams[layer.name].append(stream)
                    stream = stream + _rows(made)

            found.leaving.append(self._walk.step(self._block, state, [layer for stage in self._stages for layer in stage], see))
        return found

    def _fit(self, layers: Sequence[Layer], before: _Pass, changed: Sequence[Tensor], make: Make) -> None:
        """Layers that read the same tensor."""
        first = layers[0]
        earlier = self._writers[: self._writers.index(first)] if first in self._writers else []
        sums: dict[str, Tensor] = {}
        half = (len(changed) + 1) // 2
        of_half: Tensor | None = None
        for number, state in enumerate(changed):
            self._check_cancelled()
            stream = state[0]
            if number == half:
                of_half = sums["own"] / sum(map(len, before.reads[first.name][:half]))

            def see(layer: Layer, read: Tensor, made: Tensor, number: int = number) -> None:
                nonlocal stream
                if layer is not first:
                    stream = stream + _rows(made)
                    return
                now = _rows(read).float()
                _add(sums, "own", now, now)
                _add(sums, "mixed", before.reads[first.name][number].float(), now)
                if first in self._writers:
                    _add(sums, "lacking", (before.streams[first.name][number] - stream).float(), now)

            self._walk.step(self._block, state, [*earlier, first], see, until=first)
        tokens = sum(len(read) for read in before.reads[first.name])
        means = {name: total / tokens for name, total in sums.items()}
        own = means["own"] if of_half is None else drawn(means["own"], amount(means["own"], of_half, half / len(changed)))
        for layer in layers:
            module = layer_module(self._walk.model, layer)
            stored = cast("Tensor", module.weight).detach()
            weight = stored.mT if is_transposed(module) else stored  # [out, in]
            wanted = updated_weight(weight, means["mixed"], means["own"], means.get("lacking"))
            weight.copy_(make(layer, wanted, own))


def _rows(states: Tensor) -> Tensor:
    """[…, size] → [tokens, size]: some models flatten a batch before their MLP."""
    return states.flatten(0, -2)


def _add(sums: dict[str, Tensor], name: str, left: Tensor, right: Tensor) -> None:
    """Adds Σ left rightᵀ over tokens, [tokens, a] and [tokens, b] → [a, b] float32."""
    if name not in sums:
        sums[name] = left.new_zeros(left.shape[1], right.shape[1])
    sums[name].addmm_(left.mT, right)
