"""Weights with the moments of made-up inputs and gradients, and what each method makes of them: explicitly, in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from bondwise.moments import Moments

if TYPE_CHECKING:
    from torch import Tensor


class Problem(NamedTuple):
    weight: Tensor
    moments: Moments


def moment(size: int, tokens: int, generator: torch.Generator) -> Tensor:
    """float32, of `tokens` correlated vectors whose channels differ in scale by a thousand."""
    mixing = torch.randn(size, size, generator=generator, dtype=torch.float64)
    vectors = torch.randn(tokens, size, generator=generator, dtype=torch.float64) @ mixing
    vectors *= torch.logspace(-1.5, 1.5, size, dtype=torch.float64)[torch.randperm(size, generator=generator)]
    return (vectors.mT @ vectors / tokens).float()


def problem(out_features: int, in_features: int, seed: int = 0, tokens: int = 200) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out_features, in_features, generator=generator) * torch.logspace(0, -2, in_features)
    return Problem(weight, Moments(moment(in_features, tokens, generator), moment(out_features, tokens, generator), tokens))


def ridged(matrix: Tensor) -> Tensor:
    """The metric that the module states, element by element."""
    result = matrix.double().clone()
    mean = float(result.diagonal().mean())
    for i in range(len(result)):
        result[i, i] += 1e-4 * max(float(matrix[i, i]), 1e-12 * mean)
    return result


def loss(change: Tensor, moments: Moments) -> float:
    assert moments.gradients is not None
    return 0.5 * float(torch.trace(ridged(moments.gradients) @ change @ ridged(moments.inputs) @ change.mT))


def truncated(matrix: Tensor, rank: int) -> Tensor:
    u, sigma, v = torch.linalg.svd(matrix, full_matrices=False)
    return (u[:, :rank] * sigma[:rank]) @ v[:rank]


def brute_force(given: Problem, rank: int) -> dict[str, float]:
    """The weight that each method makes of `rank`, explicitly, and what it loses."""
    weight, moments = given.weight.double(), given.moments
    assert moments.gradients is not None
    left, right = torch.linalg.cholesky(ridged(moments.gradients)), torch.linalg.cholesky(ridged(moments.inputs))
    made = {
        "plain": truncated(weight, rank),
        "input": truncated(weight @ right, rank) @ torch.linalg.inv(right),
        "fisher": torch.linalg.inv(left.mT) @ truncated(left.mT @ weight @ right, rank) @ torch.linalg.inv(right),
    }
    losses = {method: loss(weight - approximation, moments) for method, approximation in made.items()}
    return {**losses, "error": float((weight - made["plain"]).norm() / weight.norm())}
