"""The mathematics: matrix product operators (MPO, also called TT-matrices) of weight matrices. Pure functions on tensors.

A weight W [out, in] is read as a tensor with one output and one input index for each of n sites, site 1 the slowest on both sides,

    W[(o_1 … o_n), (i_1 … i_n)] = Σ_r G_1[1, o_1, i_1, r_1] G_2[r_1, o_2, i_2, r_2] … G_n[r_{n-1}, o_n, i_n, 1],

and the cores G_k [r_{k-1}, out_k, in_k, r_k] come from sequential truncated SVDs. Sources: I. Oseledets, Tensor-train decomposition,
SIAM J. Sci. Comput. 33 (2011), Algorithm 1 and Theorem 2.2, for the decomposition; A. Tomut et al., CompactifAI (2024), for its use on
the layers of a language model. The plain low-rank factorization is the case of two sites (1, in) and (out, 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul
from typing import TYPE_CHECKING, Literal

import torch

from bondwise.split import split, sum_of_squares

if TYPE_CHECKING:
    from torch import Tensor

ORDINARY_EXPONENT = 20
"""Sums of squares of values up to 2 to this power, and of what matters beside values down to its inverse, are inside float32's range."""
GAUGE_FLOOR = 1e-8
"""Singular values below this fraction of the largest do not drive the choice of scales: they are rounding noise."""


# --- sites and counts --------------------------------------------------------------------------------------------------------------


def balanced_modes(size: int, sites: int) -> tuple[int, ...]:
    """The most balanced way to write `size` as a product of `sites` factors, in ascending order.

    Exact wherever `size` has that many prime factors; most balanced means the smallest sum of factors. Otherwise (a prime, say) the
    modes of the smallest larger size whose modes are within a factor of two of each other: the weight is padded with zeros up to it. A
    size too small to give every site two values keeps modes of 1.
    """
    if size < 1 or sites < 1:
        raise ValueError(f"size {size} and sites {sites} must be at least 1")
    if size < 2**sites:
        return (*[1] * (sites - 1), size)
    exact = _best_factors(size, sites, 2)
    while exact is None:
        size += 1
        found = _best_factors(size, sites, 2)
        exact = found if found is not None and found[-1] <= 2 * found[0] else None
    return exact


def _best_factors(size: int, sites: int, least: int) -> tuple[int, ...] | None:
    """`sites` factors of `size` in ascending order, none below `least`, with the smallest sum; None where there are none."""
    if sites == 1:
        return (size,) if size >= least else None
    best: tuple[int, ...] | None = None
    for factor in range(least, math.floor(size ** (1 / sites) + 1e-9) + 1):
        if size % factor == 0:
            rest = _best_factors(size // factor, sites - 1, factor)
            if rest is not None and (best is None or factor + sum(rest) < sum(best)):
                best = (factor, *rest)
    return best


def layer_modes(out_features: int, in_features: int, sites: int | Literal["low-rank"]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Output and input modes of the sites of a layer.

    Output modes ascend and input modes descend: the sites are then as equal in size as they can be, and the forward pass, which goes
    from site 1 to site n, consumes the input before it makes the output, so that the state between cores stays small.
    """
    if sites == "low-rank":
        return (1, out_features), (in_features, 1)
    return balanced_modes(out_features, sites), balanced_modes(in_features, sites)[::-1]


def max_bond_dims(out_modes: Sequence[int], in_modes: Sequence[int]) -> tuple[int, ...]:
    """The exact rank of each of the n − 1 bonds: no bond ever needs more than the smaller of the two sides it joins."""
    sizes = _site_sizes(out_modes, in_modes)
    return tuple(min(math.prod(sizes[:k]), math.prod(sizes[k:])) for k in range(1, len(sizes)))


def parameter_count(out_modes: Sequence[int], in_modes: Sequence[int], bond_dims: Sequence[int]) -> int:
    """Numbers stored in the cores with the gauge of every bond fixed (`gauge`): Σ r_{k-1}·out_k·in_k·r_k − Σ r_k².

    Low rank: χ·(in + out − χ). It grows with the bond dimensions up to the product of the modes at full rank. The paper counts without
    the second sum.
    """
    bonds = (1, *bond_dims, 1)
    stored = sum(bonds[k] * size * bonds[k + 1] for k, size in enumerate(_site_sizes(out_modes, in_modes)))
    return stored - sum(bond**2 for bond in bond_dims)


def order_count(out_modes: Sequence[int], in_modes: Sequence[int], bond_dims: Sequence[int]) -> int:
    """Indices, 4 bytes each, that say which columns of the cores are stored: Σ out_k·in_k·r_k over all sites but the first."""
    return sum(size * bond for size, bond in zip(_site_sizes(out_modes, in_modes)[1:], (*bond_dims, 1)[1:], strict=True))


def multiply_adds(out_modes: Sequence[int], in_modes: Sequence[int], bond_dims: Sequence[int]) -> int:
    """Multiply-adds per token through the cores, site 1 first.

    Core k is applied once for every output index made before it and every input index still to come. Low rank: χ·(in + out − χ), as
    nothing is multiplied with the unit columns of a core; other cores are put together before they are applied.
    """
    bonds = (1, *bond_dims, 1)
    through = sum(
        math.prod(out_modes[:k]) * math.prod(in_modes[k + 1 :]) * bonds[k] * size * bonds[k + 1]
        for k, size in enumerate(_site_sizes(out_modes, in_modes))
    )
    return through - (sum(bond**2 for bond in bond_dims) if is_plain_chain(out_modes, in_modes) else 0)


def is_plain_chain(out_modes: Sequence[int], in_modes: Sequence[int]) -> bool:
    """Whether the cores follow each other as matrices: inputs at the first site only, outputs at the last."""
    return max(in_modes[1:], default=1) == 1 and max(out_modes[:-1], default=1) == 1


def bond_dims_for_chi(out_modes: Sequence[int], in_modes: Sequence[int], chi: int | Sequence[int]) -> tuple[int, ...]:
    """`chi` at every bond (or one for each), never above what the sites and bonds on either side of the bond can carry.

    Raises ValueError on χ < 1 or a wrong count.
    """
    sizes = _site_sizes(out_modes, in_modes)
    exact = max_bond_dims(out_modes, in_modes)
    wanted = tuple(chi) if isinstance(chi, Sequence) else (chi,) * len(exact)
    if len(wanted) != len(exact):
        raise ValueError(f"{len(wanted)} bond dimensions given for {len(exact)} bonds ({len(exact) + 1} sites)")
    if any(bond < 1 for bond in wanted):
        raise ValueError(f"bond dimension {min(wanted)} is below 1")
    bonds = [1, *map(min, wanted, exact), 1]
    for k in range(1, len(sizes)):
        bonds[k] = min(bonds[k], bonds[k - 1] * sizes[k - 1])
    for k in reversed(range(1, len(sizes))):
        bonds[k] = min(bonds[k], sizes[k] * bonds[k + 1])
    return tuple(bonds[1:-1])


def bond_dims_for_keep(
    out_modes: Sequence[int], in_modes: Sequence[int], keep: float, dense_parameters: int | None = None
) -> tuple[int, ...]:
    """The largest χ whose cores hold at most `keep` of the dense weight's parameters, each bond capped at its exact rank.

    `dense_parameters` is out·in of the unpadded weight; by default the product of the modes. Raises ValueError where even χ = 1 is
    more than `keep` allows.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep {keep} is not a fraction above 0 and at most 1")
    dense = math.prod(out_modes) * math.prod(in_modes) if dense_parameters is None else dense_parameters
    budget = math.floor(keep * dense + 1e-6)  # keep is often k/dense, computed with rounding

    def parameters(chi: int) -> int:
        return parameter_count(out_modes, in_modes, bond_dims_for_chi(out_modes, in_modes, chi))

    if parameters(1) > budget:
        raise ValueError(
            f"keep {keep:g} allows {budget} parameters, and bond dimension 1 with output modes {tuple(out_modes)} and input modes "
            f"{tuple(in_modes)} takes {parameters(1)}: keep at least {parameters(1) / dense:.4g}"
        )
    low, high = 1, max(max_bond_dims(out_modes, in_modes), default=1)
    while low < high:  # the count grows with χ
        middle = (low + high + 1) // 2
        low, high = (middle, high) if parameters(middle) <= budget else (low, middle - 1)
    return bond_dims_for_chi(out_modes, in_modes, low)


def _site_sizes(out_modes: Sequence[int], in_modes: Sequence[int]) -> list[int]:
    if len(out_modes) != len(in_modes) or not out_modes:
        raise ValueError(f"output modes {tuple(out_modes)} and input modes {tuple(in_modes)} do not name the same sites")
    if min(*out_modes, *in_modes) < 1:
        raise ValueError(f"modes {tuple(out_modes)} and {tuple(in_modes)} must be at least 1")
    return list(map(mul, out_modes, in_modes))


# --- decomposition -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MPO:
    """Cores of a weight and what was left out.

    `cores[k]` is float64 [r_{k-1}, out_k, in_k, r_k], all cores of equal Frobenius norm. `discarded[k]` is the weight (sum of squares)
    dropped at bond k as a fraction of ‖W‖_F²; they add up to the squared relative error, exactly but for rounding where nothing was
    padded, and to a bound on it otherwise.
    """

    cores: tuple[Tensor, ...]
    out_features: int
    in_features: int
    discarded: tuple[float, ...]

    @property
    def out_modes(self) -> tuple[int, ...]:
        return tuple(core.shape[1] for core in self.cores)

    @property
    def in_modes(self) -> tuple[int, ...]:
        return tuple(core.shape[2] for core in self.cores)

    @property
    def bond_dims(self) -> tuple[int, ...]:
        return tuple(core.shape[3] for core in self.cores[:-1])


@torch.no_grad()
def decompose(
    weight: Tensor,
    out_modes: Sequence[int],
    in_modes: Sequence[int],
    *,
    chi: int | Sequence[int] | None = None,
    keep: float | None = None,
    error: float | None = None,
) -> MPO:
    """Decomposes a weight [out, in] of any real dtype by sequential truncated SVDs (TT-SVD, Oseledets 2011, Algorithm 1).

    Give exactly one of: `chi`, the bond dimension of every bond or of each; `keep`, the fraction of the parameters; `error`, the
    relative Frobenius error to stay below. For `error`, each bond may drop an equal part of the squared error still unspent (the
    algorithm's δ = ε/√(n−1)·‖W‖_F, with what earlier bonds did not use passed on: the squared errors of the bonds add up exactly,
    because every earlier core is an isometry).

    Where the modes multiply to more than the weight's size, the weight is padded with zeros. With the best truncation of every bond the
    result is the best possible at two sites (Eckart–Young), and at n sites its error is at most √(n−1) times the best possible. How near
    each bond comes: `split`, within 1% for `chi` and `keep` of a weight below float64, else within 10⁻⁶.

    The scales are free (a gauge), and chosen for low precision: each bond's singular values are shared evenly, √σ to the left and √σ to
    the right, so that no core holds tiny columns next to huge ones, and all cores get the same Frobenius norm. In the middle cores this
    divides rows by √σ_{k-1} and multiplies columns by √σ_k, which stays bounded: the row α of the matrix being split has norm
    σ_{k-1}(α) ≥ |U[α, j]|·σ_k(j), hence (U[α, j]·√(σ_k(j)/σ_{k-1}(α)))² ≤ |U[α, j]| ≤ 1.

    Raises ValueError: not a matrix, NaN or infinity, modes that do not cover the weight, or a target that is wrong or cannot be met.
    """
    if weight.ndim != 2 or weight.numel() == 0:
        raise ValueError(f"a weight of shape {list(weight.shape)} is not a matrix")
    if not weight.is_floating_point():
        raise ValueError(f"a weight of dtype {weight.dtype} is not floating point")
    if [chi, keep, error].count(None) != 2:
        raise ValueError("give exactly one of chi, keep and error")
    if error is not None and not 0 < error < 1:
        raise ValueError(f"error {error} is not a fraction between 0 and 1")
    out_features, in_features = weight.shape
    if math.prod(out_modes) < out_features or math.prod(in_modes) < in_features:
        raise ValueError(
            f"output modes {tuple(out_modes)} and input modes {tuple(in_modes)} do not cover a weight of {out_features}×{in_features}"
        )
    low, high = map(float, torch.aminmax(weight))
    largest = max(-low, high)
    if not math.isfinite(largest):
        raise ValueError(f"{int((~torch.isfinite(weight)).sum())} of {weight.numel()} values are NaN or infinite")
    if keep is not None:
        bonds = bond_dims_for_keep(out_modes, in_modes, keep, weight.numel())
    else:
        bonds = max_bond_dims(out_modes, in_modes) if chi is None else bond_dims_for_chi(out_modes, in_modes, chi)

    state, scale = _site_tensor(weight, out_modes, in_modes, largest)
    sizes = _site_sizes(out_modes, in_modes)
    unspent = math.inf if error is None else (error**2) * sum_of_squares(state)
    kept = 0.0
    left_scale = state.new_ones(1, dtype=torch.float64)  # [r_{k-1}], what the previous bond has put on its left side
    cores: list[Tensor] = []
    discarded: list[float] = []
    for k, bond in enumerate(bonds):
        state = state.reshape(left_scale.numel() * sizes[k], -1)  # [r_{k-1}·d_k, d_{k+1} … d_n]
        allowed = None if error is None else max(0.0, unspent / (len(bonds) - k))
        left, state, dropped = split(state, bond, allowed, isometric=k < len(bonds) - 1)  # [r_{k-1}·d_k, r_k], [r_k, d_{k+1} … d_n]
        unspent -= dropped
        discarded.append(dropped)
        columns = torch.linalg.vector_norm(left, dim=0)  # [r_k]
        sigma = columns * torch.linalg.vector_norm(state, dim=1)
        kept = float(sigma.square().sum())
        sigma = torch.where(sigma > 0, sigma.clamp(min=GAUGE_FLOOR * float(sigma.max())), 1.0).sqrt()
        gauge = sigma / columns.clamp(min=torch.finfo(torch.float64).tiny)
        cores.append(_as_core(left.mul_(gauge), left_scale, out_modes[k], in_modes[k]))
        left_scale = gauge
    cores.append(_as_core(state.reshape(-1, 1).to(torch.float64, copy=True), left_scale, out_modes[-1], in_modes[-1]))
    norm_squared = (kept + math.fsum(discarded)) or 1.0
    return MPO(even_norms(cores, scale), out_features, in_features, tuple(dropped / norm_squared for dropped in discarded))


def _site_tensor(weight: Tensor, out_modes: Sequence[int], in_modes: Sequence[int], largest: float) -> tuple[Tensor, float]:
    """The weight as [d_1, d_2 … d_n], d_k the pair (out_k, in_k), divided by the power of two below its largest magnitude; and that.

    In float64 where the weight is, else in float32: exact, but for values 10⁻³⁸ times the largest. The division keeps the squares of
    extreme values inside the range, and is left out for others. The result may be a view of the weight.
    """
    if weight.device.type == "mps":
        weight = weight.cpu()  # no float64 there
    exponent = math.frexp(largest)[1] - 1
    scale = 2.0**exponent if abs(exponent) > ORDINARY_EXPONENT else 1.0
    weight = weight if weight.dtype == torch.float64 else weight.float()
    if scale != 1:
        weight = weight / scale
    rows, columns = math.prod(out_modes) - weight.shape[0], math.prod(in_modes) - weight.shape[1]
    if rows or columns:
        weight = torch.nn.functional.pad(weight, (0, columns, 0, rows))
    sites = len(out_modes)
    pairs = [index for k in range(sites) for index in (k, sites + k)]
    return weight.reshape(*out_modes, *in_modes).permute(pairs).reshape(out_modes[0] * in_modes[0], -1), scale


def _as_core(matrix: Tensor, left_scale: Tensor, out_mode: int, in_mode: int) -> Tensor:
    """[r_{k-1}·out_k·in_k, r_k] → [r_{k-1}, out_k, in_k, r_k] with the rows divided, in place, by what the bond before put on its left."""
    return matrix.reshape(left_scale.numel(), out_mode, in_mode, -1).div_(left_scale[:, None, None, None])


def even_norms(cores: Sequence[Tensor], scale: float) -> tuple[Tensor, ...]:
    """The cores times factors whose product is `scale`, in place, so that all have the same Frobenius norm (a zero weight stays)."""
    norms = [float(torch.linalg.vector_norm(core)) for core in cores]
    if min(norms) == 0:
        return tuple(cores)
    even = math.exp((sum(map(math.log, norms)) + math.log(scale)) / len(cores))
    return tuple(core.mul_(even / norm) for core, norm in zip(cores, norms, strict=True))


# --- back to a matrix --------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def contract(cores: Sequence[Tensor]) -> Tensor:
    """Cores [r_{k-1}, out_k, in_k, r_k] → the matrix [out, in] they stand for, of the padded size."""
    out_modes, in_modes = [core.shape[1] for core in cores], [core.shape[2] for core in cores]
    product = cores[0].reshape(-1, cores[0].shape[3])  # [o_1·i_1, r_1]
    for core in cores[1:]:
        product = (product @ core.reshape(core.shape[0], -1)).reshape(-1, core.shape[3])  # [o_1·i_1 … o_k·i_k, r_k]
    sites = len(cores)
    pairs = [mode for pair in zip(out_modes, in_modes, strict=True) for mode in pair]
    order = [*range(0, 2 * sites, 2), *range(1, 2 * sites, 2)]
    return product.reshape(pairs).permute(order).reshape(math.prod(out_modes), math.prod(in_modes))


@torch.no_grad()
def relative_error(weight: Tensor, approximation: Tensor) -> float:
    """‖W − Ŵ‖_F / ‖W‖_F in float64; 0 for two zero matrices, infinity where only W is zero."""
    precise = torch.float32 if weight.device.type == "mps" else torch.float64
    reference = weight.to(precise)
    difference = float(torch.linalg.vector_norm(reference - approximation.to(precise)))
    norm = float(torch.linalg.vector_norm(reference))
    if norm == 0:
        return 0.0 if difference == 0 else math.inf
    return difference / norm
