"""The first-order part of what a truncated weight does to the loss, ⟨∂L/∂W, ΔW⟩: all sizes of a layer from one backward pass a sequence."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from bondwise.memory import runs_within
from bondwise.replay import is_transposed, layer_module

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from torch import Tensor

    from bondwise.modelmap import Layer
    from bondwise.replay import Replay

    Weights = Callable[[Layer], Sequence[Tensor]]
    """A layer's weight [out, in] at each size."""


def first_order(
    replay: Replay,
    layers: Sequence[Layer],
    weights: Weights,
    *,
    budget: int,
    progress: Callable[[float, float], None],
    check_cancelled: Callable[[], None],
) -> dict[str, list[list[float]]]:
    """By layer, for each of its `weights` and each sequence: ⟨∂L/∂W, ΔW⟩ in nats per token, L the mean loss of the sequence.

    The gradients of as many layers as `budget` bytes hold, of all sequences, are in memory at a time; each such group costs a pass over the
    sequences. `requires_grad` of the parameters is as before afterwards.
    """
    groups = runs_within(layers, lambda layer: 4 * replay.sequences * layer.weight_parameters, budget)
    steps, total = 0, len(groups) * replay.sequences + len(layers)
    found: dict[str, list[list[float]]] = {}
    for group in groups:
        modules = [layer_module(replay.model, layer) for layer in group]
        parameters = [cast("Tensor", module.weight) for module in modules]
        gradients: list[list[Tensor]] = []  # [sequences][layers of the group]
        with _only(replay.model, parameters):
            for sequence in range(replay.sequences):
                check_cancelled()
                loss = replay.loss(sequence, min(layer.block for layer in group))
                # None where the sequence has no token for the layer (an expert).
                made = cast("Sequence[Tensor | None]", torch.autograd.grad(loss, parameters, allow_unused=True))
                gradients.append([torch.zeros_like(own) if one is None else one for one, own in zip(made, parameters, strict=True)])
                progress(steps := steps + 1, total)
        for number, (layer, module) in enumerate(zip(group, modules, strict=True)):
            check_cancelled()
            found[layer.name] = _products(module, weights(layer), [each[number] for each in gradients])
            progress(steps := steps + 1, total)
    return found


@torch.no_grad()
def _products(module: nn.Module, weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[list[float]]:
    own = cast("Tensor", module.weight)
    dense = own.mT if is_transposed(module) else own  # [out, in]
    oriented = [gradient.mT if is_transposed(module) else gradient for gradient in gradients]
    products: list[list[float]] = []
    for weight in weights:
        change = weight.to(dense.device, torch.float32) - dense.float()
        products.append([float((gradient.float() * change).sum()) for gradient in oriented])
    return products


@contextmanager
def _only(model: nn.Module, wanted: Sequence[Tensor]) -> Generator[None]:
    """Inside the block only `wanted` require gradients."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(False)
        for parameter in wanted:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)
