"""The loss of healing: how far the model is from the original (KL, with temperature), the cross entropy with the text, or a mix.

Distillation as in G. Hinton et al., Distilling the Knowledge in a Neural Network, 2015, §2: the factor temperature² keeps the size of the
gradient. Value and gradient are made together, some tokens at a time, so that beyond logits and their gradient no more float32 than `PIECE`
numbers exist, a few times; on a CPU as many as its caches hold (measured: 2.3 times as fast as 256 tokens of 49,152 scores).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from bondwise.teacher_logits import Likeliest


PIECE = {"cpu": 1 << 21}
OTHER_PIECE = 1 << 26
"""Numbers, by kind of device."""


class Losses(NamedTuple):
    """Sums over tokens, nats; scalars in float32."""

    mixed: Tensor
    """distill · temperature² · KL + (1 − distill) · cross entropy; differentiable in the logits."""
    cross_entropy: Tensor


def mixed_loss(logits: Tensor, labels: Tensor, teacher: Tensor | Likeliest | None, *, distill: float, temperature: float = 1.0) -> Losses:
    """The loss of logits [tokens, vocabulary] for labels [tokens] int64, beside the teacher's logits [tokens, vocabulary].

    Of a teacher's likeliest tokens, at that temperature, the KL is that of the distributions over those tokens and one more outcome, all
    others together: a lower bound of the whole KL, 0 where that is. `distill`, 0 to 1, is the share of the KL; without a teacher it is 0.
    """
    if teacher is None and distill > 0:
        raise ValueError(f"distill is {distill}, and there is no teacher")
    mixed, cross_entropy = cast("Any", _Mixed).apply(logits, labels, teacher, distill, temperature)
    return Losses(mixed, cross_entropy)


class _Mixed(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any, logits: Tensor, labels: Tensor, teacher: Tensor | Likeliest | None, distill: float, temperature: float
    ) -> tuple[Tensor, Tensor]:
        mixed = torch.zeros((), device=logits.device)
        cross_entropy = torch.zeros((), device=logits.device)
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        rows = max(PIECE.get(logits.device.type, OTHER_PIECE) // logits.shape[1], 1)
        for start in range(0, len(logits), rows):
            piece = slice(start, start + rows)
            scores = logits[piece].float()  # [piece, vocabulary]
            targets = labels[piece, None]  # [piece, 1]
            found = scores.log_softmax(-1)
            entropy = -found.gather(-1, targets).sum()
            cross_entropy += entropy
            mixed += (1 - distill) * entropy
            change = None
            if distill and teacher is not None:
                warm = found if temperature == 1 else (scores / temperature).log_softmax(-1)
                if isinstance(teacher, torch.Tensor):
                    right = (teacher[piece].float() / temperature).log_softmax(-1)
                    kl, change = _whole_kl(warm, right)
                else:
                    kl, change = _likeliest_kl(warm, *(one[piece].to(logits.device) for one in teacher))
                mixed += distill * temperature**2 * kl
                change.mul_(distill * temperature)
            if gradient is None:
                continue
            if distill < 1 or change is None:
                # Of a cross entropy: what the model says less what is right.
                plain = found.exp_().mul_(1 - distill)
                plain.scatter_add_(-1, targets, torch.full_like(targets, distill - 1, dtype=plain.dtype))
                change = plain if change is None else change.add_(plain)
            gradient[piece] = change
        ctx.gradient = gradient
        ctx.mark_non_differentiable(cross_entropy)
        return mixed, cross_entropy

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        gradient, ctx.gradient = ctx.gradient, None  # taken: the product below is made in its place
        return gradient.mul_(grad_outputs[0]), None, None, None, None


def _whole_kl(found: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Of log-probabilities [tokens, vocabulary]: Σ KL(right ‖ found), and its gradient in the scores behind `found`. Takes `right`."""
    expected = right.exp()
    kl = torch.dot(expected.flatten(), right.sub_(found).flatten())
    return kl, found.exp().sub_(expected)


def _likeliest_kl(found: Tensor, log_probabilities: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The same over the outcomes `ids` [tokens, kept] and the others together. With p the teacher's and q the model's probabilities, the
    gradient at token j is q_j − p_j where j is kept, else q_j − q_j p_others / q_others."""
    right, ids = log_probabilities.float(), ids.long()  # [tokens, kept + 1], [tokens, kept]
    expected = right.exp()
    others = found.exp().scatter_(-1, ids, 0)
    of_others = others.sum(-1, keepdim=True).clamp_(min=torch.finfo(torch.float32).tiny)  # [tokens, 1]
    own = torch.cat([found.gather(-1, ids), of_others.log()], -1)
    kl = (expected * (right - own)).sum()
    change = others.mul_(1 - expected[:, -1:] / of_others)
    return kl, change.scatter_(-1, ids, own[:, :-1].exp() - expected[:, :-1])
