"""The leading singular vectors of a matrix without the others: a random start, a polynomial that lets them through, Rayleigh–Ritz.

Sources: N. Halko, P. Martinsson, J. Tropp, Finding structure with randomness, SIAM Review 53 (2011), for start and projection; Y. Zhou,
Y. Saad, M. Tiago, J. Chelikowsky, Parallel self-consistent-field calculations via Chebyshev-filtered subspace acceleration, Phys. Rev. E
74 (2006), for the polynomial. A power of A Aᵀ damps what is not wanted only as fast as the spectrum falls; the Chebyshev polynomial of the
same degree stays within ±1 on [0, edge] and outgrows every other one above. On white noise (1536², a sixth of the rank) with 7.7 products
by the wanted block the power ends 1.4% above the least error and the polynomial 0.4%; block Krylov spaces did no better for the time, as
the small eigenvalue problem at their end is the larger.

How near the best. ‖A − U Uᵀ A‖_F was at most 0.7% above the error of a full singular value decomposition, on white noise (of aspect 1 and
3), on linear, power and exponential spectra, on steps of 0.1 to 10⁴ and on outliers, at 8, 16 and 33% of the rank: most where all
directions are nearly as good, under 0.1% where the spectrum falls fast. This is measured, not proven; where rounding would tell, None is
the answer and the caller takes the exact way. The start has a fixed seed, so the same input gives the same bytes on one machine.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

DEGREE = 3
"""Of the polynomial. Two stages of lower degree, where the spectrum spreads too far for one, have one more in all."""
WIDER, EXTRA = 1.1, 16
"""Rows of the subspace: so many times those wanted, and so many more."""
LIFT = 2.0
"""The edge is at most so many times the smallest Ritz value, else it would damp both sides of a step in the spectrum alike."""
GROWTH = 3e8
"""The polynomial may lift the first direction so far above the edge's: its square is within what a float64 Cholesky factor resolves."""
ROUNDING = 2e4
"""The weight dropped is at least so many units of roundoff of the whole; below, rounding decides which directions are found."""
SMALLEST = 512
"""Sides below this are decomposed whole in milliseconds."""
BASIS_SMALLEST, BASIS_PART = 1024, 4
"""`leading_basis` needs only sides from the first on, and at most the inverse of the second of their length. At that part it took 1.1,
1.4 and 1.7 times less time than the whole decomposition on orders 1024, 1536 and 2048 with a spectrum that falls fast (two stages), 1.9,
2.5 and 3.1 times less on white noise; at a tenth of the order 4 to 10 times less."""
GRAM_FROM = 1.5
"""From this aspect on the Gram matrix is formed once, as a product with it is cheaper than one with the matrix and its transpose."""
SEED = 2011

GRAM_BLOCK = 1024
"""Columns summed in one product of a Gram matrix: short sums, then a sum of those, keep the proven rounding error small."""
GRAM_STRIPS = 4
"""Strips of rows a Gram matrix is summed in, each up to the diagonal: 5/8 of the work of the whole."""


def pays(short: int, long: int, count: int) -> bool:
    """Whether `leading_split` of [short, long] takes less time than the Gram matrix with all of its eigenvectors, both in one precision.

    In multiply-adds of a float32 matrix product. The factors are from times on AVX-512 cores at orders 576 to 4096: that of LAPACK's
    eigenvalue decomposition grows as the matrix leaves the caches. The same rule serves a GPU, unmeasured: its eigenvalue decomposition is
    slower yet beside its products, so that there the answer errs towards the whole one.
    """
    width = _width(count)
    whole = 0.6 * short**2 * long + (4 + short / 1024) * short**3
    if long >= GRAM_FROM * short:
        part = 0.6 * short**2 * long + 13 * short**2 * width + 7 * short * width**2 + 20 * width**3
    else:
        part = 10 * short * long * width + (7 * short + 3 * long) * width**2 + 20 * width**3
    return short >= SMALLEST and part < whole


@torch.no_grad()
def leading_split(matrix: Tensor, count: int, total: float) -> tuple[Tensor, Tensor] | None:
    """The leading left singular vectors of A [s, l], s ≤ l: Uᵀ [count, s] of orthonormal rows, and Uᵀ A [count, l], in A's precision.

    `total` is ‖A‖_F². None where the weight dropped, ‖A‖² − ‖UᵀA‖², is too small a part of it for this precision.
    """
    if matrix.shape[1] >= GRAM_FROM * matrix.shape[0]:
        lower = inner(matrix, matrix, matrix.dtype).tril()
        basis = _leading_rows(lower + lower.tril(-1).mT, count, total)
        return None if basis is None else (basis, basis @ matrix)
    start = _random(count, matrix.shape[1], matrix) @ matrix.mT  # [w, s]
    rows = _filtered(lambda given: (given @ matrix) @ matrix.mT, start, count)
    if rows is None:
        return None
    image = rows @ matrix  # [w, l]
    chosen = _chosen(rows, inner(image, image), count, total)
    return None if chosen is None else (chosen @ rows, chosen @ image)


@torch.no_grad()
def leading_basis(symmetric: Tensor, count: int) -> Tensor:
    """Eigenvectors [s, count] of the largest eigenvalues of a positive semidefinite matrix [s, s] float64, by descending eigenvalue.

    From `_filtered` where that pays and is accurate, and otherwise from the whole decomposition.
    """
    size = symmetric.shape[0]
    if size >= BASIS_SMALLEST and BASIS_PART * count <= size:
        rows = _leading_rows(symmetric, count, float(symmetric.trace()))
        if rows is not None:
            return rows.mT
    return torch.linalg.eigh(symmetric)[1][:, -count:].flip(1)


def _leading_rows(symmetric: Tensor, count: int, total: float) -> Tensor | None:
    """`leading_basis` transposed, [count, s], in the matrix's precision; None as in `leading_split`."""
    rows = _filtered(lambda given: given @ symmetric, _random(count, symmetric.shape[0], symmetric) @ symmetric, count)
    if rows is None:
        return None
    chosen = _chosen(rows, inner(rows @ symmetric, rows), count, total)
    return None if chosen is None else chosen @ rows


def inner(left: Tensor, right: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """X Yᵀ [s, s] of X, Y [s, l] in `dtype`, summed over blocks of `GRAM_BLOCK` columns: only the lower triangle, the rest is undefined."""
    rows = left.shape[0]
    strips = [rows * i // GRAM_STRIPS for i in range(GRAM_STRIPS + 1)]
    product = left.new_zeros(rows, rows, dtype=dtype)
    buffers = [torch.empty_like(left[:, :GRAM_BLOCK], dtype=dtype) for _ in ((left,) if right is left else (left, right))]
    for first in range(0, left.shape[1], GRAM_BLOCK):
        pieces = [given[:, first : first + GRAM_BLOCK] for given in (left, right)]
        blocks = [
            piece if piece.dtype == dtype else buffer[:, : piece.shape[1]].copy_(piece)
            for piece, buffer in zip(pieces, buffers, strict=False)
        ]
        for top, bottom in pairwise(strips):
            product[top:bottom, :bottom].addmm_(blocks[0][top:bottom], blocks[-1][:bottom].mT)
    return product


def _width(count: int) -> int:
    return int(WIDER * count) + EXTRA


def _random(count: int, length: int, like: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(SEED)
    return torch.randn(_width(count), length, generator=generator, dtype=like.dtype).to(like.device)


def _filtered(times: Callable[[Tensor], Tensor], rows: Tensor, count: int) -> Tensor | None:
    """Rows [w, s] of norm 1 that nearly span the `count` leading eigenvectors of G, of which `times` gives X → X G. None: ill-conditioned.

    Stages of Rayleigh–Ritz and a polynomial. Ritz vectors before it keep the rows apart while each grows at its own rate; the degree of a
    stage is what `GROWTH` allows. The edge of what is damped is the Ritz value of the last wanted direction: in a random subspace that is
    near the eigenvalue that follows the subspace, 0.5 to 1.1 of it on the spectra above.
    """
    left, stage = DEGREE, 0
    while left:
        image = times(rows)
        found = _ritz(inner(rows, rows), inner(image, rows))
        if found is None:
            return None
        values, vectors = found[0], found[1].to(rows.dtype)
        edge = min(float(values[count - 1]), LIFT * float(values[-1]))
        if not edge > 0:
            return None
        degree = min(left, max(1, math.floor(math.log(GROWTH) / math.log(4 * float(values[0]) / edge))))
        if stage == 0 and degree < left:
            left += 1
        left, stage = left - degree, stage + 1
        before = vectors @ rows  # the polynomials of degree 0 and 1
        now = (vectors @ image).mul_(2 / edge).sub_(before)
        for _ in range(degree - 1):
            before, now = now, times(now).mul_(4 / edge).sub_(now, alpha=2).sub_(before)
        rows = now / torch.linalg.vector_norm(now, dim=1, keepdim=True)
    return rows


def _chosen(rows: Tensor, energy: Tensor, count: int, total: float) -> Tensor | None:
    """[count, w] by which rows [w, s] with the Gram matrix `energy` of their images become the leading Ritz vectors."""
    found = _ritz(inner(rows, rows), energy)
    if found is None or total - float(found[0][:count].sum()) < ROUNDING * torch.finfo(rows.dtype).eps / 2 * total:
        return None
    return found[1][:count].to(rows.dtype)


def _ritz(overlap: Tensor, energy: Tensor) -> tuple[Tensor, Tensor] | None:
    """Lower triangles of X Xᵀ and X G Xᵀ, [w, w] float64 → descending Ritz values [w], and C [w, w] with C X orthonormal.

    None where X is too near to dependent rows for a Cholesky factor.
    """
    factor, failed = torch.linalg.cholesky_ex(overlap)
    if bool(failed):
        return None
    half = torch.linalg.solve_triangular(factor, energy.tril() + energy.tril(-1).mT, upper=False)
    values, vectors = torch.linalg.eigh(torch.linalg.solve_triangular(factor, half.mT, upper=False))
    return values.flip(0), torch.linalg.solve_triangular(factor.mT, vectors.flip(1), upper=True).mT
