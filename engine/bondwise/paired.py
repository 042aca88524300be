"""A variant of a model beside the original, on the same sequences: figures from as few of them as their standard error needs.

For the loss there is more to know than the measured sequences say: the gradient of each sequence's loss by the changed weight, from one
backward pass, gives the first-order part of the difference for every sequence and every size at once (`first_order`). Only the rest, which
is of second order, is sampled: the method of control variates. In layers that bear compression it is several times less noisy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch

from bondwise.evaluate import _chunks, _exp
from bondwise.schema import Figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from bondwise.schema import Cell

SPREAD = 0.7
"""Standard deviation over sequences, as a part of its size, that a figure is taken to have before anything was measured. Seen on
SmolLM2-135M, 512 tokens, for KL and the second-order rest: 0.1 to 0.7, seldom more."""
FREEDOM = 2
"""Degrees of freedom that `SPREAD` counts as beside those of measured cells."""
NEGLIGIBLE = 0.7
"""A cell is done when the part of its standard error that more sequences would take away is below this part of the whole, which then is at
most 1.4 times what all sequences would leave."""

LIKE = {"perplexity": "loss", "agreement": "disagreement"}
"""What is sampled for a metric, where it is not of that name."""
METRICS = ("perplexity", "kl", "agreement")
"""What one pass through the model gives; besides `loss`."""


# --- one sequence ------------------------------------------------------------------------------------------------------------------


class Reference(NamedTuple):
    """What the original model says of one sequence of T + 1 tokens."""

    losses: Tensor
    """[T] float32: −log p of each next token, nats."""
    top: Tensor
    """[T] int64: the likeliest next token."""
    probabilities: Tensor | None
    """[T, vocabulary] float32, where the memory holds them."""
    negentropy: Tensor
    """[T] float32: Σ p log p."""


class Score(NamedTuple):
    """What a variant does on one sequence, the mean over its tokens, and the squared standard error of that over the tokens."""

    loss: tuple[float, float]
    """Loss of the variant less the original's; nats."""
    kl: tuple[float, float]
    """KL(original ‖ variant); nats."""
    disagreement: tuple[float, float]
    """Part of the tokens where the two do not rank the same next token first."""


@torch.inference_mode()
def reference(logits: Tensor, sequence: Tensor, *, keep: bool) -> Reference:
    """From the original's logits [T + 1, vocabulary] and the token ids [T + 1]; `keep` holds the probabilities in memory."""
    targets = sequence[1:].to(logits.device)
    losses, tops, kept, negentropies = [], [], [], []
    for rows in _chunks(len(targets)):
        log_probabilities = logits[rows].float().log_softmax(-1)
        losses.append(-log_probabilities.gather(-1, targets[rows, None])[:, 0])
        tops.append(log_probabilities.argmax(-1))
        probabilities = log_probabilities.exp()
        negentropies.append(_dot(probabilities, log_probabilities))
        if keep:
            kept.append(probabilities)
    return Reference(torch.cat(losses), torch.cat(tops), torch.cat(kept) if keep else None, torch.cat(negentropies))


@torch.inference_mode()
def score(logits: Tensor, sequence: Tensor, original: Reference, original_logits: Tensor | None) -> Score:
    """Of a variant's logits [T + 1, vocabulary]; `original_logits` of the same shape are needed where `original` has no probabilities."""
    targets = sequence[1:].to(logits.device)
    losses, kls, differing = [], [], []
    for rows in _chunks(len(targets)):
        values = logits[rows].float()
        total = values.logsumexp(-1)
        losses.append(total - values.gather(-1, targets[rows, None])[:, 0])
        differing.append(values.argmax(-1) != original.top[rows])
        if original.probabilities is not None:
            probabilities = original.probabilities[rows]
        else:
            assert original_logits is not None, "neither probabilities nor logits of the original"
            probabilities = original_logits[rows].float().softmax(-1)
        # Σ p (log p − log q), without the table of log q.
        kls.append(original.negentropy[rows] + total - _dot(probabilities, values))
    share, variance = _mean(torch.cat(differing))
    # That no token differs says no more than that fewer than about one would.
    return Score(_mean(torch.cat(losses) - original.losses), _mean(torch.cat(kls)), (share, max(variance, len(targets) ** -2)))


def _dot(first: Tensor, second: Tensor) -> Tensor:
    """Row by row, [rows, columns]² → [rows], without a table in between."""
    return torch.bmm(first[:, None], second[:, :, None])[:, 0, 0]


def _mean(values: Tensor) -> tuple[float, float]:
    precise = values.double()
    count = len(precise)
    return float(precise.mean()), float(precise.var()) / count if count > 1 else 0.0


# --- many sequences ----------------------------------------------------------------------------------------------------------------


class Estimate(NamedTuple):
    """What some of the sequences say of all of them."""

    value: float
    error: float
    """Standard error of the value as one of the text at large: over sequences, all of them or those that were measured."""
    left: float
    """Standard error of the value as one of these sequences: 0 once all are measured."""

    def enough(self, precision: float) -> bool:
        """Whether more sequences would change little: beside the value, or beside its error."""
        return self.left == 0 or (precision > 0 and self.left <= max(precision * abs(self.value), NEGLIGIBLE * self.error))


@dataclass
class Spread:
    """How much a figure differs from sequence to sequence, as a part of its size, learned from the cells that are done.

    Cells of one model on the same sequences are alike in this, so one of a single sequence borrows it from those of more: a pooled
    variance, with `FREEDOM` degrees of freedom for what is expected (G. Smyth, Statistical Applications in Genetics 3, 2004).
    """

    _squares: float = FREEDOM * SPREAD**2
    _freedom: int = FREEDOM

    @property
    def value(self) -> float:
        return math.sqrt(self._squares / self._freedom)

    def learn(self, cell: Cell) -> None:
        if cell.spread is not None:
            self._squares += (cell.sequences - 1) * cell.spread
            self._freedom += cell.sequences - 1


@dataclass
class Samples:
    """The sequences that a cell was measured on so far, out of `total`, in the order of the text."""

    total: int
    baseline: float
    """Mean loss of the original over all sequences; nats."""
    first_order: Sequence[float] | None
    """The first-order part of the loss difference, for each of all sequences; None where it is not known."""
    expected: float
    """What the second-order part is expected to be from the layer's curve and other cells; nats."""
    spread: Spread
    scores: list[Score] = field(default_factory=list[Score])

    def estimate(self, metric: str) -> Estimate:
        """Of `loss` (the difference), `kl` or `disagreement`."""
        pairs: list[tuple[float, float]] = [getattr(one, metric) for one in self.scores]
        values = [value for value, _ in pairs]
        within = math.fsum(variance for _, variance in pairs) / len(pairs)
        spread = self.spread.value
        plain = _estimate(values, self.total, spread=spread * abs(_average(values)), least=within)
        if metric != "loss" or self.first_order is None or len(values) == self.total:
            return plain
        rest = self._sampled(metric)
        sampled = _estimate(rest, self.total, spread=spread * max(abs(_average(rest)), self.expected), least=0.0)
        if len(values) > 1 and plain.left < sampled.left:
            # Far from the original the first order says nothing.
            return plain
        known = _variance(self.first_order) / self.total if self.total > 1 else 0.0
        return Estimate(_average(self.first_order) + sampled.value, math.sqrt(known + sampled.error**2), sampled.left)

    def relative_variance(self, metric: str) -> float | None:
        """Of what was sampled of a metric, over its sequences and as a part of its squared size; None of one sequence.

        Where the sequences nearly cancel, their size says nothing: 1 at most.
        """
        values = self._sampled(LIKE.get(metric, metric))
        return min(1.0, _variance(values) / max(_average(values) ** 2, 1e-30)) if len(values) > 1 else None

    def _sampled(self, metric: str) -> list[float]:
        """What of a figure is not known without a pass through the model, one a measured sequence."""
        values = [getattr(one, metric)[0] for one in self.scores]
        if metric != "loss" or self.first_order is None:
            return values
        return [value - part for value, part in zip(values, self.first_order, strict=False)]

    def figures(self) -> dict[str, Figure]:
        """By metric, as they stand in a profile. Raises ValueError where one is not finite."""
        loss, kl, differing = (self.estimate(metric) for metric in ("loss", "kl", "disagreement"))
        if not all(math.isfinite(one.value) for one in (loss, kl)):
            raise ValueError(f"the loss becomes {self.baseline + loss.value}")
        perplexity = _exp(self.baseline + loss.value)
        return {
            "loss": Figure(value=self.baseline + loss.value, error=loss.error),
            "perplexity": Figure(value=perplexity, error=perplexity * loss.error),
            "kl": Figure(value=max(kl.value, 0.0), error=kl.error),
            "agreement": Figure(value=1 - differing.value, error=differing.error),
        }

    def enough(self, metric: str, precision: float) -> bool:
        """Whether the cell needs no more sequences for `metric`."""
        return self.estimate(LIKE.get(metric, metric)).enough(precision)


def _estimate(values: Sequence[float], total: int, *, spread: float, least: float) -> Estimate:
    """The mean over `total` sequences from the first of them; `spread` and `least` (a variance) say what to expect of them."""
    count = len(values)
    mean = _average(values)
    if count == total:
        return Estimate(mean, math.sqrt(_variance(values) / count if count > 1 else least), 0.0)
    squares = math.fsum((value - mean) ** 2 for value in values)
    variance = (squares + max(spread**2, least)) / count  # one sequence more, one degree of freedom less
    return Estimate(mean, math.sqrt(variance / count), math.sqrt(variance / count * (1 - count / total)))


def _average(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _variance(values: Sequence[float]) -> float:
    mean = _average(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
