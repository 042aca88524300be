"""The gauge of a matrix product operator, fixed: as few numbers as describe it, none of them large.

A bond of dimension r may be given any invertible r×r matrix, W = A B = (A M)(M⁻¹ B), so r² of its numbers say nothing: matrices of rank r
form a manifold of dimension r (m + n − r), tensor trains one of dimension Σ r_{k-1} n_k r_k − Σ r_k² (S. Holtz, T. Rohwedder, R. Schneider,
On manifolds of tensors of fixed TT-rank, Numer. Math. 120, 2012, Theorem 3). Here M is chosen so that r columns of B [r, n] are those of
the unit matrix, and only the others are stored. For low rank that is an interpolative decomposition: r outputs of the layer are computed,
and the others are linear combinations of them.

Which columns: the r with nearly the largest volume, so that no stored number is above `LARGEST` in magnitude, and nothing is lost in half
precision (S. Goreinov, I. Oseledets et al., How to find a good submatrix, 2010).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

LARGEST = 2.0
"""Magnitude that no stored number of a core behind the first one exceeds, but for rounding."""


class FixedCore(NamedTuple):
    """A core G [a, out, in, b] behind the first one, whose unfolding [a, n], n = out·in·b, is [1 C] with its columns in another order."""

    rest: Tensor
    """Cᵀ [n − a, a], the columns that are stored."""
    order: Tensor
    """[n] int64: column j of the unfolding is column `order[j]` of [1 C]."""


@torch.no_grad()
def fix_gauge(cores: Sequence[Tensor]) -> tuple[Tensor, list[FixedCore]]:
    """Cores [r_{k-1}, out_k, in_k, r_k] → the first core and the others, of the same product; in the dtype of the cores.

    Bonds are kept. Raises ValueError where a bond is larger than what is to its right.
    """
    fixed: list[FixedCore] = []
    last = cores[-1]
    for core in reversed(cores[:-1]):
        bond, n = last.shape[0], last[0].numel()
        if bond > n:
            raise ValueError(f"a bond of dimension {bond} is more than the {n} columns to its right")
        basis, triangle = torch.linalg.qr(last.reshape(bond, n).mT)  # [n, a], [a, a]
        chosen, coefficients = dominant_rows(basis)
        order = torch.full((n,), -1, dtype=torch.int64, device=basis.device)
        order[chosen] = torch.arange(bond, device=basis.device)
        others = order < 0
        order[others] = torch.arange(bond, n, device=basis.device)
        fixed.insert(0, FixedCore(coefficients[others], order))
        last = core @ (basis[chosen] @ triangle).mT  # [r_{k-1}, out, in, a]
    return last, fixed


def unfix_core(core: FixedCore, out_mode: int, in_mode: int) -> Tensor:
    """The core [a, out, in, b] again."""
    bond = core.rest.shape[1]
    unit = torch.eye(bond, dtype=core.rest.dtype, device=core.rest.device)
    return torch.cat([unit, core.rest.mT], 1)[:, core.order].reshape(bond, out_mode, in_mode, -1)


@torch.no_grad()
def dominant_rows(basis: Tensor) -> tuple[Tensor, Tensor]:
    """Rows B of a matrix A [n, r] of full rank, ascending [r] int64, with |A B⁻¹| ≤ `LARGEST`; and A B⁻¹ [n, r].

    Those that Gaussian elimination takes for pivots; then, while some coefficient is larger, its row takes the place of the row it
    belongs to, which makes the volume |det B| larger by that factor.
    """
    rows, rank = basis.shape
    order = list(range(rows))
    for step, pivot in enumerate(torch.linalg.lu_factor(basis)[1].tolist()):
        order[step], order[pivot - 1] = order[pivot - 1], order[step]
    chosen = torch.tensor(order[:rank], dtype=torch.int64, device=basis.device)
    coefficients = torch.linalg.solve(basis[chosen], basis, left=False)
    while True:
        at = int(coefficients.abs().argmax())
        row, column = divmod(at, rank)
        pivot = coefficients[row, column].clone()
        if not float(pivot.abs()) > LARGEST:
            break
        change = coefficients[row].clone()
        change[column] -= 1
        coefficients.addr_(coefficients[:, column].clone(), change, alpha=-1 / float(pivot))
        chosen[column] = row
    chosen = chosen.sort().values
    return chosen, torch.linalg.solve(basis[chosen], basis, left=False)
