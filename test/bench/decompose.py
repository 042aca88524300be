"""Time to decompose a weight: ours beside tensorly's tensor_train_matrix (a full SVD at each cut), at the same bond dimensions.

Interleaved, the best of three, on all threads; both errors are measured on the product. Only a quiet machine gives the ratio.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import tensorly
import torch
from tensorly.decomposition import tensor_train_matrix

from bondwise import mpo

if TYPE_CHECKING:
    from collections.abc import Callable

CASES: list[tuple[int, int, Any, float]] = [(4096, 4096, 3, 0.3), (4096, 11008, 3, 0.3), (2048, 2048, "low-rank", 0.3)]


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def bench() -> list[dict[str, float | str]]:
    tensorly.set_backend("pytorch")
    rows: list[dict[str, float | str]] = []
    for out_features, in_features, sites, keep in CASES:
        weight = torch.randn(out_features, in_features, generator=torch.Generator().manual_seed(0))
        out_modes, in_modes = mpo.layer_modes(out_features, in_features, sites)
        bonds = mpo.bond_dims_for_keep(out_modes, in_modes, keep)
        tensor = weight.reshape(*out_modes, *in_modes)

        def ours(weight: torch.Tensor = weight, modes: Any = (out_modes, in_modes), bonds: Any = bonds) -> mpo.MPO:
            return mpo.decompose(weight, *modes, chi=bonds)

        def theirs(tensor: torch.Tensor = tensor, bonds: Any = bonds) -> Any:
            return tensor_train_matrix(tensor, rank=[1, *bonds, 1])

        best_ours = best_theirs = float("inf")
        factors, decomposed = theirs(), ours()
        for repeat in range(3):
            print(f"decompose {out_features}×{in_features}, sites {sites}, repeat {repeat + 1} of 3", file=sys.stderr)
            seconds, _ = timed(theirs)
            best_theirs = min(best_theirs, seconds)
            seconds, _ = timed(ours)
            best_ours = min(best_ours, seconds)
        rows.append(
            {
                "weight": f"{out_features}×{in_features}",
                "sites": str(sites),
                "chi": max(bonds),
                "tensorly_s": round(best_theirs, 3),
                "bondwise_s": round(best_ours, 3),
                "times_faster": round(best_theirs / best_ours, 1),
                "tensorly_error": round(mpo.relative_error(weight, mpo.contract(list(factors))), 6),
                "bondwise_error": round(mpo.relative_error(weight, mpo.contract(decomposed.cores)), 6),
            }
        )
    return rows
