"""What a layer would cost in each scheme: bytes and predicted loss, for the choice among all of them under one budget.

All losses are ½ tr(G ΔW S ΔWᵀ), nats per token, of what the scheme really makes of the weight; where a scheme has a rank, the factors are
rounded once for all ranks (the rows of a factor are rounded independently of each other), so a smaller rank is a slice of a larger one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from bondwise.rounding import (
    TwoSided,
    refit_left,
    round_compensated,
    thin_factors,
)
from bondwise.schema import SchemeChoice
from bondwise.stored_bits import scheme_bits, stored_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from bondwise.calibrate import Moments
    from bondwise.schema import Scheme

CORRECTIONS = (4, 8, 16, 32)
"""Ranks of two thin matrices in `CORRECTION_BITS` that give back what rounding lost."""
CORRECTION_BITS = 4
KEEPS = (0.1, 0.2, 0.35, 0.5)
"""Low rank: parts of the dense parameters that the factors hold, without the gauge fixed in 4 and 8 bits."""


@torch.no_grad()
def scheme_table(weight: Tensor, moments: Moments, *, dtype: str, item_bits: int, core: bool = False) -> list[SchemeChoice]:
    """Every scheme's bytes and loss for a weight [out, in], float32 on the device of the moments; of a `core` those without a rank.

    Raises ValueError where shapes do not fit or values are not finite.
    """
    table = _Table(weight.float(), TwoSided.of(moments.inputs, moments.gradients, weight.shape[0]), dtype, item_bits)
    for scheme in ("compensated-8", "compensated-4", "compensated-3", "compensated-2"):
        table.add_compensated(scheme, moments, corrected=not core and scheme != "compensated-8")
    if not core:
        table.add_low_rank(moments)
    return table.found


class _Table:
    def __init__(self, weight: Tensor, by: TwoSided, dtype: str, item_bits: int) -> None:
        self.weight, self.by = weight, by
        self.found: list[SchemeChoice] = []
        self._dtype, self._item_bits = dtype, item_bits

    def add(self, scheme: Scheme, loss: float, rank: int = 0, rank_bits: int = 0) -> None:
        size = stored_bytes(
            self.weight.shape, scheme, dtype=self._dtype, item_bits=self._item_bits, backend="packed", rank=rank, rank_bits=rank_bits
        )
        self.found.append(SchemeChoice(scheme=scheme, rank=rank, rank_bits=rank_bits, bytes=size, loss=loss))

    def add_compensated(self, scheme: Scheme, moments: Moments, *, corrected: bool) -> None:
        lost = self.weight - round_compensated(self.weight, self.by.by_order, scheme_bits(scheme)).dense().to(self.weight)
        remains = _Remains(lost, self.by)
        self.add(scheme, remains.loss)
        ranks = [rank for rank in CORRECTIONS if rank < min(self.weight.shape) // 2]
        if ranks and corrected:
            exact = thin_factors(lost, moments.inputs, moments.gradients, ranks[-1])
            for rank, left, right in self._rounded(lost, ranks, CORRECTION_BITS, exact):
                self.add(scheme, remains.less(left, right), rank, CORRECTION_BITS)

    def add_low_rank(self, moments: Moments) -> None:
        out_features, in_features = self.weight.shape
        least = min(out_features, in_features)
        ranks = sorted({round(keep * out_features * in_features / (out_features + in_features)) for keep in KEEPS} - {0})
        ranks = [rank for rank in ranks if rank < least]
        if not ranks:
            return
        remains = _Remains(self.weight, self.by)
        exact = thin_factors(self.weight, moments.inputs, moments.gradients, ranks[-1])
        for rank in ranks:
            self.add("low-rank-16", remains.less(exact[0][:rank], exact[1][:rank]), rank)
        for scheme in ("low-rank-8", "low-rank-4"):
            for rank, left, right in self._rounded(self.weight, ranks, scheme_bits(scheme), exact):
                self.add(scheme, remains.less(left, right), rank)

    def _rounded(self, target: Tensor, ranks: Sequence[int], bits: int, exact: tuple[Tensor, Tensor]) -> list[tuple[int, Tensor, Tensor]]:
        """By rank the two thin matrices for `target` [out, in] in few bits: [rank, out] and [rank, in]."""
        right = round_compensated(exact[1], self.by.by_input, bits).dense()  # [largest rank, in]
        refitted = [refit_left(exact[0][:rank], right[:rank], target, self.by) for rank in ranks]
        lefts = round_compensated(torch.cat(refitted), self.by.by_output, bits).dense().split(ranks)
        return [(rank, left, right[:rank]) for rank, left in zip(ranks, lefts, strict=True)]


class _Remains:
    """½ tr(G ΔW S ΔWᵀ) of a ΔW [out, in] less thin matrices, in products with these alone: ΔW itself is multiplied once."""

    def __init__(self, change: Tensor, by: TwoSided) -> None:
        self._by = by
        precise = change.double().to(by.inputs.device)
        self._felt = by.outputs @ precise @ by.inputs  # [out, in]
        self._whole = float((self._felt * precise).sum())

    @property
    def loss(self) -> float:
        return max(self._whole, 0.0) / 2

    def less(self, left: Tensor, right: Tensor) -> float:
        """Of ΔW − leftᵀ·right, [rank, out] and [rank, in]."""
        by = self._by
        left, right = left.to(self._felt), right.to(self._felt)
        crossed = float(((left @ self._felt) * right).sum())
        own = float(((left @ by.outputs @ left.mT) * (right @ by.inputs @ right.mT)).sum())
        return max(self._whole - 2 * crossed + own, 0.0) / 2
