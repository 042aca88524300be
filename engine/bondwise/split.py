"""One bond: a matrix as the product of two smaller ones, by the fastest way that is near enough to its truncated SVD."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from bondwise.leading import GRAM_BLOCK, inner, leading_split, pays

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

EIGH_CONSTANT = 10
"""Backward error of a symmetric eigenvalue decomposition of order p: ‖E‖_F ≤ EIGH_CONSTANT·p·u·‖G‖_F (LAPACK Users' Guide, §4.7,
where it is called a modestly growing function of p; 10 p is far above what is observed)."""
ACCEPTED_EXCESS = 1e-6
"""The Gram matrix in float64 is used only where its proven excess of dropped weight is below this fraction of the dropped weight."""
ACCEPTED_EXCESS_SINGLE = 1e-2
"""The same in float32: half of it is the bound on the error. Observed are 1e-6 and less."""
SINGLE_FROM = 64
"""Sides below this take no time in float64 either."""


@torch.no_grad()
def split(matrix: Tensor, bond: int, allowed: float | None, *, isometric: bool) -> tuple[Tensor, Tensor, float]:
    """The best A ≈ L·R [p, k]·[k, q] of a matrix A [p, q] in float64 or float32, and the weight ‖A − L·R‖_F² dropped.

    k is `bond`, or the least for which at most the weight `allowed` is dropped. `isometric` asks for orthonormal columns of L.

    Nothing to drop: with k = min(p, q) the split is exact, by the identity or a QR. Otherwise four ways, the first that is good enough.

    A. A float32 matrix of which a small part is kept (`leading.pays`): `leading_split`, measured to end within 1% of the least error.
    B. Float32: the eigenvectors U of the Gram matrix of A's smaller side, p ≤ q say, which costs p²q + O(p³) instead of an SVD's many
       times that; proven to end within 0.5% of the least error.
    C. The same in float64, for a float64 matrix or where `allowed` decides; proven to end within 1e-6 of it.
    D. A full SVD in float64, where next to nothing is dropped or the spectrum falls off a cliff.

    What the Gram matrix may lose, with u the unit roundoff and γ_n = n·u / (1 − n·u):

    1. G = A Aᵀ is summed in blocks of b columns, so the computed Ĝ = G + E₁ has |E₁| ≤ γ_{b + q/b} |A||A|ᵀ element by element, in any
       order of summation within a block (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., §3.1 and §3.5), and
       ‖ |A||A|ᵀ ‖_F ≤ ‖A‖_F². The eigenvectors found are those of Ĝ + E₂, ‖E₂‖_F ≤ c·p·u·‖G‖_F (`EIGH_CONSTANT`). Together
       ‖E₁ + E₂‖_F ≤ η·‖A‖_F² with η = γ_{b + q/b} + c·p·u·‖G‖_F/‖A‖_F².
    2. Let V be the k leading eigenvectors of G and U those of G + E. U maximises tr(Uᵀ(G + E)U) over orthonormal U (Ky Fan), so
       tr(VᵀGV) − tr(UᵀGU) ≤ tr((UUᵀ − VVᵀ) E) ≤ ‖UUᵀ − VVᵀ‖_F ‖E‖_F, and ‖UUᵀ − VVᵀ‖_F² = 2k − 2‖UᵀV‖_F² ≤ 2·min(k, p − k).
    3. tr(UᵀGU) is the weight kept. So the weight dropped exceeds the optimum by at most √(2·min(k, p − k))·η·‖A‖_F², to which one more
       η·‖A‖_F² is added for the rounding of U's orthonormality.
    4. The product R = UᵀA is rounded too, by at most γ_{p+1}·‖|U|ᵀ|A|‖_F ≤ γ_{p+1}·√k·‖A‖_F in the precision it is computed in. That
       error U·(R − UᵀA) is orthogonal to A − U·UᵀA, so the two squares add up: the weight dropped grows by γ²_{p+1}·k·‖A‖_F². In
       float64 that is nothing; in float32 it is little enough for coarse truncations of a float32 matrix, at half the time and memory.

    C is taken only where the excess of 3 and 4 is below `ACCEPTED_EXCESS` of the weight dropped each, B where that of 3 is below
    `ACCEPTED_EXCESS_SINGLE` of it.
    """
    p, q = matrix.shape
    bond = min(bond, p, q)
    if bond == min(p, q) and allowed is None:
        if p <= q:
            return torch.eye(p, dtype=torch.float64, device=matrix.device), matrix, 0.0
        left, right = torch.linalg.qr(matrix.double())
        return left, right, 0.0
    tall = p > q
    short = matrix.mT if tall else matrix  # [s, l], s ≤ l
    fast = _fast(short, bond) if allowed is None else None
    found = _precise(short, bond, allowed) if fast is None else fast
    if found is None:
        left, sigma, right = torch.linalg.svd(matrix.double(), full_matrices=False)
        squares = sigma.square().tolist()
        k = _rank(squares, bond, allowed)
        return left[:, :k], sigma[:k, None] * right[:k], math.fsum(squares[k:])
    basis, projected, dropped = found  # [k, s], [k, l]
    if not tall:
        return basis.mT.double(), projected, dropped
    if not isometric:
        return projected.mT.double(), basis, dropped
    left, triangle = torch.linalg.qr(projected.mT.double())  # [p, k], [k, k]
    return left, triangle @ basis.double(), dropped


def _fast(short: Tensor, bond: int) -> tuple[Tensor, Tensor, float] | None:
    """Ways A and B of `split`: Uᵀ [k, s], Uᵀ A [k, l] and the weight dropped, or None where neither is good enough."""
    s, length = short.shape
    if short.dtype != torch.float32 or s < SINGLE_FROM:
        return None
    if pays(s, length, bond):
        total = sum_of_squares(short)
        found = leading_split(short, bond, total)
        return None if found is None else (*found, max(0.0, total - sum_of_squares(found[1])))
    gram = inner(short, short, torch.float32)
    total = float(gram.trace())
    values, vectors = torch.linalg.eigh(gram)  # ascending
    norm, dropped = float(torch.linalg.vector_norm(values)), math.fsum(values[: s - bond].clamp(min=0).tolist())
    if not _gram_excess(s, length, bond, norm / (total or 1.0), torch.float32) * total < ACCEPTED_EXCESS_SINGLE * dropped:
        return None
    basis = vectors[:, -bond:].flip(1).mT  # [k, s]
    return basis, basis @ short, dropped


def _precise(short: Tensor, bond: int, allowed: float | None) -> tuple[Tensor, Tensor, float] | None:
    """Way C of `split`, as `_fast`."""
    s, length = short.shape
    gram = inner(short, short)
    total = float(gram.trace())
    values, vectors = torch.linalg.eigh(gram)  # ascending
    norm = float(torch.linalg.vector_norm(values))
    spectrum = values.flip(0).clamp(min=0).tolist()
    k = _rank(spectrum, bond, allowed)
    dropped = math.fsum(spectrum[k:])
    if _gram_excess(s, length, k, norm / (total or 1.0), torch.float64) * total > ACCEPTED_EXCESS * dropped:
        return None
    if _product_excess(s, k, short.dtype) * total > ACCEPTED_EXCESS * dropped:
        short = short.double()
    basis = vectors[:, -k:].flip(1).mT  # [k, s]
    return basis, basis.to(short.dtype) @ short, dropped


def _gram_excess(s: int, length: int, k: int, norm: float, dtype: torch.dtype) -> float:
    """The bound of `split`, point 3, on the extra weight dropped; this and `norm`, that is ‖G‖_F, as fractions of ‖A‖_F²."""
    u = _roundoff(dtype)
    eta = _gamma(min(length, GRAM_BLOCK) + math.ceil(length / GRAM_BLOCK), u) + EIGH_CONSTANT * s * u * norm
    return (math.sqrt(2 * min(k, s - k)) + 1) * eta


def _product_excess(s: int, k: int, dtype: torch.dtype) -> float:
    """The bound of `split`, point 4, as a fraction of ‖A‖_F²."""
    return _gamma(s + 1, _roundoff(dtype)) ** 2 * k


def _roundoff(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps / 2


def _gamma(terms: int, u: float) -> float:
    return terms * u / (1 - terms * u)


def _rank(squares: Sequence[float], bond: int, allowed: float | None) -> int:
    """How many of the descending squared singular values to keep: `bond`, or fewer where the rest is within `allowed`; at least 1."""
    if allowed is None:
        return bond
    affordable = sum(tail <= allowed for tail in accumulate(reversed(squares)))
    return max(1, min(bond, len(squares) - affordable))


def sum_of_squares(tensor: Tensor) -> float:
    """In float64, without a float64 copy of the whole."""
    return math.fsum(float(torch.linalg.vector_norm(piece, dtype=torch.float64)) ** 2 for piece in tensor.reshape(-1).split(2**18))
