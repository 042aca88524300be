"""The loss of healing: how far the model is from the original (KL, with temperature), the cross entropy with the text, or a mix.

Distillation as in G. Hinton et al., Distilling the Knowledge in a Neural Network, 2015, §2: the factor temperature² keeps the size of the
gradient. Value and gradient are made together, `CHUNK` tokens at a time, so that beyond logits and their gradient no more float32 than
[CHUNK, vocabulary] exists, a few times.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch

from bondwise.evaluate import CHUNK

if TYPE_CHECKING:
    from torch import Tensor


class Losses(NamedTuple):
    """Sums over tokens, nats; scalars in float32."""

    mixed: Tensor
    """distill · temperature² · KL + (1 − distill) · cross entropy; differentiable in the logits."""
    cross_entropy: Tensor


def mixed_loss(logits: Tensor, labels: Tensor, teacher: Tensor | None, *, distill: float, temperature: float = 1.0) -> Losses:
    """The loss of logits [tokens, vocabulary] for labels [tokens] int64, beside the teacher's logits [tokens, vocabulary].

    `distill`, 0 to 1, is the share of the KL; without a teacher it must be 0.
    """
    if teacher is None and distill > 0:
        raise ValueError(f"distill is {distill}, and there is no teacher")
    mixed, cross_entropy = cast("Any", _Mixed).apply(logits, labels, teacher, distill, temperature)
    return Losses(mixed, cross_entropy)


class _Mixed(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any, logits: Tensor, labels: Tensor, teacher: Tensor | None, distill: float, temperature: float
    ) -> tuple[Tensor, Tensor]:
        mixed = torch.zeros((), device=logits.device)
        cross_entropy = torch.zeros((), device=logits.device)
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        for start in range(0, len(logits), CHUNK):
            rows = slice(start, start + CHUNK)
            scores = logits[rows].float()  # [chunk, vocabulary]
            targets = labels[rows, None]  # [chunk, 1]
            log_probabilities = scores.log_softmax(-1)
            entropy = -log_probabilities.gather(-1, targets).sum()
            cross_entropy += entropy
            mixed += (1 - distill) * entropy
            change = None
            if gradient is not None:
                change = log_probabilities.exp_().scatter_add_(-1, targets, -torch.ones_like(targets, dtype=scores.dtype)).mul_(1 - distill)
            if distill and teacher is not None:
                expected = (teacher[rows].float() / temperature).log_softmax(-1)
                found = (scores / temperature).log_softmax(-1)
                mixed += distill * temperature**2 * (expected.exp() * (expected - found)).sum()
                if change is not None:
                    change += found.exp_().sub_(expected.exp_()).mul_(distill * temperature)
            if gradient is not None and change is not None:
                gradient[rows] = change
        ctx.gradient = gradient
        ctx.mark_non_differentiable(cross_entropy)
        return mixed, cross_entropy

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        gradient, ctx.gradient = ctx.gradient, None  # taken: the product below is made in its place
        return gradient.mul_(grad_outputs[0]), None, None, None, None
