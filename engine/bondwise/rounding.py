"""Weights rounded to few bits so that what the layer does changes least.

A matrix W [rows, columns] is stored as codes of 2, 3, 4 or 8 bits, one float16 scale for each row and group of `GROUP` columns, and one
codebook of 2^bits levels: Ŵ = level[code] · scale. Rounding one column after the other, what each loses is made up for by those that are
still to come, as the metric S of the layer's inputs tells: GPTQ (E. Frantar et al., ICLR 2023), columns in the order of their activations'
size, so that those that matter most are rounded while the most can still follow. Below 5 bits the levels are those of S. Lloyd and J. Max
(Least squares quantization in PCM, IEEE Trans. Inf. Theory 28, 1982) for the scaled weights, each weighed by what an error there costs.

What rounding lost may be given back by two thin matrices of few bits (`correction`), and a layer may be two such matrices alone
(`low_rank`): their factors are the best for ½ tr(G ΔW S ΔWᵀ) (`weighted`), with √σ on both sides, so that their scales are alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from bondwise.weighted import decompose_weighted, metric, precise_device

if TYPE_CHECKING:
    from torch import Tensor

GROUP = 64
"""Columns that share a scale."""
UNIFORM = 5
"""From so many bits on the levels are equally spaced: what a fitted codebook wins is below what its scales lose."""
DAMPING = 0.001
"""Of the mean of the metric's diagonal, added to it before errors are handed on (Frantar et al., §3.3, Step 3, with ten times as much). On
layers of SmolLM2-135M 0.01 loses 2.6 times as much in a down projection with outliers, 0.0001 a third more in gate projections."""
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334),
    *(-0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""Levels of the 4-bit NormalFloat (T. Dettmers et al., QLoRA, NeurIPS 2023, Appendix E)."""
FITTED = 2**18
"""About so many numbers of a matrix are looked at for its levels."""
_BINS = 4096
_SHRINKS = (1.0, 0.9, 0.8, 0.7, 0.6)


@dataclass(frozen=True, eq=False)
class Rounded:
    """A matrix [rows, columns] in few bits."""

    codes: Tensor
    """[rows, columns] uint8, the columns in stored order."""
    scales: Tensor
    """[rows, ⌈columns / GROUP⌉] float16."""
    levels: Tensor
    """[2^bits] float16, ascending."""
    order: Tensor | None
    """[columns] int64: stored column j is column order[j] of the matrix; None where they are in their own order."""

    @property
    def bits(self) -> int:
        return (len(self.levels) - 1).bit_length()

    def dense(self) -> Tensor:
        """Ŵ [rows, columns] float32, the columns in their own order."""
        scales = self.scales.float().repeat_interleave(GROUP, 1)[:, : self.codes.shape[1]]
        stored = self.levels.float()[self.codes.long()] * scales
        if self.order is None:
            return stored
        dense = torch.empty_like(stored)
        dense[:, self.order] = stored
        return dense


@torch.no_grad()
def round_nearest(weight: Tensor, bits: int) -> Rounded:
    """Each number to its nearest level: those of NormalFloat in 4 bits, as bitsandbytes does, equally spaced ones otherwise.

    Raises ValueError on a weight [rows, columns] that is not finite.
    """
    exact = _checked(weight).float()
    levels = torch.tensor(NF4, device=exact.device).half() if bits == 4 else uniform_levels(bits, exact.device)
    groups = _in_groups(exact)  # [rows, groups, GROUP]
    scales = _safe(groups.abs().amax(2) / float(levels.abs().max())).half()
    scaled = (groups / scales.float()[..., None]).contiguous()
    codes = torch.bucketize(scaled, _borders(levels.float())).to(torch.uint8).flatten(1)[:, : exact.shape[1]]
    return Rounded(codes.contiguous(), scales, levels, None)


@dataclass(frozen=True, eq=False)
class Compensation:
    """How an error in one column is made up for by the columns behind it."""

    order: Tensor | None
    """[columns] int64, as in `Rounded`."""
    upper: Tensor
    """[columns, columns] float32, upper triangular: S⁻¹ = UᵀU in that order."""

    @property
    def costs(self) -> Tensor:
        """[columns]: what a squared error of 1 costs that the later columns cannot make up for."""
        return self.upper.diagonal().square().reciprocal()


@torch.no_grad()
def compensation(inputs: Tensor, *, ordered: bool) -> Compensation:
    """From a metric of the inputs [columns, columns], as `weighted.metric` makes it.

    `ordered`: columns by the size of their activations, which costs the bytes of their order. With R upper triangular and S = R Rᵀ (a
    Cholesky factorization from the last column on), U = R⁻¹.
    """
    by_input = precise_device(inputs).double()
    order = by_input.diagonal().argsort(descending=True, stable=True) if ordered else None
    if order is not None:
        by_input = by_input[order][:, order]
    damping = DAMPING * by_input.diagonal().mean() + 1e-30
    unit = torch.eye(len(by_input), dtype=by_input.dtype, device=by_input.device)
    factor = torch.linalg.cholesky((by_input + damping * unit).flip(0, 1)).flip(0, 1)
    return Compensation(order, torch.linalg.solve_triangular(factor, unit, upper=True).float())


@torch.no_grad()
def round_compensated(weight: Tensor, by: Compensation, bits: int) -> Rounded:
    """GPTQ's rounding of a weight [rows, columns] to `bits` (2, 3, 4 or 8). Raises ValueError where shapes do not fit or the weight is not
    finite."""
    exact = precise_device(_checked(weight))
    columns = exact.shape[1]
    if len(by.upper) != columns:
        raise ValueError(f"the metric of the inputs is of {len(by.upper)} columns, and the weight has {columns}")
    upper, costs = by.upper.to(exact.device), by.costs.to(exact.device)
    left = exact.float().mT.contiguous()  # [columns, rows]: what is left to round
    if by.order is not None:
        left = left[by.order]
    levels = uniform_levels(bits, left.device) if bits >= UNIFORM else fit_levels(left.mT, costs, bits)
    borders, exact_levels = _borders(levels.float()), levels.float()
    codes = torch.empty(left.shape, dtype=torch.uint8, device=left.device)
    scales: list[Tensor] = []
    for start in range(0, columns, GROUP):
        end = min(start + GROUP, columns)
        block = left[start:end]
        scale = _fit_scales(block.mT, costs[start:end], levels)  # [rows] float16
        scales.append(scale)
        by_scale, square = scale.float(), upper[start:end, start:end]
        errors = torch.empty_like(block)
        diagonal = square.diagonal().tolist()
        for at in range(end - start):
            code = torch.bucketize(block[at] / by_scale, borders)
            errors[at] = (block[at] - exact_levels[code] * by_scale) / diagonal[at]
            block[at + 1 :].addr_(square[at, at + 1 :], errors[at], alpha=-1)
            codes[start + at] = code
        left[end:].addmm_(upper[start:end, end:].mT, errors, alpha=-1)
    return Rounded(codes.mT.contiguous(), torch.stack(scales, 1), levels, by.order)


@dataclass(frozen=True, eq=False)
class Factors:
    """Two thin matrices: Ŵ = leftᵀ · right."""

    left: Rounded
    """[rank, out]"""
    right: Rounded
    """[rank, in]"""

    def dense(self) -> Tensor:
        """[out, in] float32."""
        return self.left.dense().mT @ self.right.dense()


@dataclass(frozen=True, eq=False)
class TwoSided:
    """The metrics of a layer's inputs and outputs, and what rounding in them needs; made once for a layer."""

    inputs: Tensor
    """S [in, in] with its ridge, float64."""
    outputs: Tensor
    """G [out, out] with its ridge, float64; the unit matrix where it is not known."""
    by_order: Compensation
    """Of the inputs, the columns by the size of their activations."""
    by_input: Compensation
    by_output: Compensation

    @staticmethod
    def of(inputs: Tensor, gradients: Tensor | None, out_features: int) -> TwoSided:
        """From the moments S [in, in] and G [out, out] without their ridge."""
        seen = metric(precise_device(inputs))
        unit = torch.eye(out_features, dtype=seen.dtype, device=seen.device)
        felt = unit if gradients is None else metric(precise_device(gradients).to(seen.device))
        return TwoSided(seen, felt, compensation(seen, ordered=True), compensation(seen, ordered=False), compensation(felt, ordered=False))


@torch.no_grad()
def round_factors(exact: tuple[Tensor, Tensor], target: Tensor, by: TwoSided, bits: int) -> Factors:
    """Two thin matrices left [rank, out] and right [rank, in], of which leftᵀ·right is to be `target` [out, in], in few bits.

    The right one is rounded first; the left one is then the best that there is for what that became, rounded in the metric of the outputs.
    """
    left, right = exact
    rounded = round_compensated(right, by.by_input, bits)
    return Factors(round_compensated(refit_left(left, rounded.dense(), target, by), by.by_output, bits), rounded)


@torch.no_grad()
def refit_left(left: Tensor, right: Tensor, target: Tensor, by: TwoSided) -> Tensor:
    """The left factor [rank, out] float64 with the least error of leftᵀ·right for a right one [rank, in]; `left` where there is none."""
    made = right.double().to(by.inputs.device)
    seen = made @ by.inputs  # [rank, in]
    gram = seen @ made.mT
    gram += torch.diag(gram.diagonal() * 1e-6 + 1e-300)
    best = torch.linalg.solve(gram, seen @ target.double().to(seen.device).mT)  # [rank, out]
    return best if bool(best.isfinite().all()) else left


@torch.no_grad()
def thin_factors(weight: Tensor, inputs: Tensor, gradients: Tensor | None, rank: int) -> tuple[Tensor, Tensor]:
    """The left [rank, out] and right [rank, in] factor, float64, with the least ½ tr(G ΔW S ΔWᵀ), √σ on both sides; those of a smaller rank
    are their first rows. The moments are without their ridge. Raises ValueError as `decompose_weighted`."""
    cores = decompose_weighted(weight, inputs, gradients, chi=rank).cores
    return cores[1][:, :, 0, 0], cores[0][0, 0].mT


def uniform_levels(bits: int, device: torch.device | str = "cpu") -> Tensor:
    """−(2^(bits−1) − 1) … 2^(bits−1) − 1 in 2^bits levels, float16; the lowest stands twice, so that zero is a level."""
    most = 2 ** (bits - 1) - 1
    return torch.arange(-most - 1, most + 1, device=device).clamp(min=-most).half()


@torch.no_grad()
def fit_levels(weight: Tensor, costs: Tensor, bits: int) -> Tensor:
    """The 2^bits levels for the numbers of a weight [rows, columns] by the scales of their groups, float16, ascending, at most 1.

    `costs` [columns]: what a squared error in each column costs. Lloyd's iteration on a histogram, and new scales for the levels that come
    out, by turns.
    """
    count = 2**bits
    normal = torch.distributions.Normal(0.0, 1.0)
    levels = normal.icdf((torch.arange(count, dtype=torch.float32) + 0.5) / count).to(weight.device)
    levels = levels / levels.abs().max()
    few = max(1, len(weight) * weight.shape[1] // FITTED)
    groups = _in_groups(weight[::few].float()).contiguous()
    by_column = _in_groups(costs.float()[None])[0]  # [groups, GROUP], zero where there is no column
    for _ in range(3):
        scales = _best_scales(groups, by_column, levels)  # [rows, groups]
        scaled = (groups / scales[..., None]).clamp(-2, 2)
        mass = by_column * scales.square()[..., None]
        bins = ((scaled + 2) * (_BINS / 4)).long().clamp(max=_BINS - 1).flatten()
        weights = torch.zeros(_BINS, dtype=torch.float64, device=weight.device).index_add_(0, bins, mass.double().flatten())
        centres = (torch.arange(_BINS, device=weight.device, dtype=torch.float64) + 0.5) * (4 / _BINS) - 2
        levels = _lloyd(centres, weights, levels.double()).float()
        levels = levels / levels.abs().max()
    return levels.half()


# --- helpers -------------------------------------------------------------------------------------------------------------------------


def _checked(weight: Tensor) -> Tensor:
    if not bool(weight.isfinite().all()):
        raise ValueError("the weight has values that are NaN or infinite")
    return weight.detach()


def _in_groups(matrix: Tensor) -> Tensor:
    """[rows, columns] → [rows, groups, GROUP], filled up with zeros."""
    columns = matrix.shape[1]
    return torch.nn.functional.pad(matrix, (0, -columns % GROUP)).unflatten(1, (-1, GROUP))


def _borders(levels: Tensor) -> Tensor:
    return (levels[1:] + levels[:-1]) / 2


def _safe(scales: Tensor) -> Tensor:
    """Scales that float16 holds and that can be divided by; 1 for a group of zeros."""
    return torch.where(scales > 0, scales, 1.0).clamp(2.0**-24, 65504.0)


def _fit_scales(group: Tensor, costs: Tensor, levels: Tensor) -> Tensor:
    """The scale of each row of a group [rows, columns], float16."""
    return _best_scales(group.contiguous()[:, None], costs[None], levels.float())[:, 0].half()


def _best_scales(groups: Tensor, costs: Tensor, levels: Tensor) -> Tensor:
    """[rows, groups, size], [groups, size] → [rows, groups], as float16 holds them: from several starts by least squares, the best."""
    borders = _borders(levels)
    top = _safe(groups.abs().amax(2) / float(levels.abs().max()))
    best, least = top, torch.full_like(top, torch.inf)
    for shrink in _SHRINKS if len(levels) < 2**UNIFORM else (1.0,):
        scale = top * shrink
        for last in (False, True):
            scale = _safe(scale).half().float()
            found = levels[torch.bucketize(groups / scale[..., None], borders)]
            if last:
                break
            over = (costs * found.square()).sum(2)
            scale = torch.where(over > 0, (costs * found * groups).sum(2) / over.clamp(min=1e-30), scale)
        error = (costs * (groups - found * scale[..., None]).square()).sum(2)
        better = error < least
        best, least = torch.where(better, scale, best), torch.where(better, error, least)
    return best


def _lloyd(centres: Tensor, weights: Tensor, levels: Tensor) -> Tensor:
    """Levels that are the means of the numbers nearest to them; `centres` and `weights` are a histogram's."""
    for _ in range(30):
        nearest = torch.bucketize(centres, _borders(levels))
        mass = torch.zeros_like(levels).index_add_(0, nearest, weights)
        sums = torch.zeros_like(levels).index_add_(0, nearest, weights * centres)
        levels = torch.where(mass > 0, sums / mass.clamp(min=1e-300), levels)
    return levels.sort().values
