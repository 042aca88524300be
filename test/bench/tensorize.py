"""Time to decompose a weight and the error reached: ours beside tensorly, full SVDs and randomized ones, at the same bond dimensions.

Four shapes of layers, white noise (the spectrum that is slowest to fall), 30% of the parameters kept, as three sites and as low rank. The
ways take turns in one process, on all threads; the best of each counts, and errors are measured on the product. Only a quiet machine
gives the ratios. tensorly-torch is left out: it is not in the lock, and its factorization is tensorly's.
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
    from collections.abc import Callable, Sequence

    from torch import Tensor

SHAPES = [(576, 1536), (2048, 2048), (4096, 4096), (4096, 11008)]
SITES: list[Any] = [3, "low-rank"]
KEEP = 0.3
REPEATS, REPEATS_OF_LARGE = 3, 2
LARGE = 2**24
"""Numbers in a weight from which on fewer repeats must do."""
POWER_ITERATIONS, EXTRA = 3, 64
"""Of the randomized way (N. Halko, P. Martinsson, J. Tropp, Finding Structure with Randomness, SIAM Review 53 (2011), Algorithm 4.4)."""

Split = tuple[torch.Tensor, torch.Tensor]


def full(matrix: Tensor, bond: int) -> Split:
    left, sigma, right = torch.linalg.svd(matrix, full_matrices=False)
    return left[:, :bond], sigma[:bond, None] * right[:bond]


def randomized(matrix: Tensor, bond: int) -> Split:
    width = bond + EXTRA
    if 2 * width > min(matrix.shape):
        return full(matrix, bond)
    basis = torch.linalg.qr(matrix @ torch.randn(matrix.shape[1], width)).Q
    for _ in range(POWER_ITERATIONS):
        basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.mT @ basis).Q).Q
    left, right = full(basis.mT @ matrix, bond)
    return basis @ left, right


def lowrank(matrix: Tensor, bond: int) -> Split:
    """torch.svd_lowrank with its own two power iterations, and the exact one where it would be no smaller."""
    if 2 * bond > min(matrix.shape):
        return full(matrix, bond)
    left, sigma, right = torch.svd_lowrank(matrix, q=bond + 16, niter=2)
    return left[:, :bond], (right * sigma).mT[:bond]


def chain(
    weight: Tensor, out_modes: Sequence[int], in_modes: Sequence[int], bonds: Sequence[int], split: Callable[..., Split]
) -> list[Tensor]:
    """Cores [r_{k-1}, out_k, in_k, r_k] by splits from left to right, as in Oseledets' algorithm."""
    sites = len(out_modes)
    pairs = [index for k in range(sites) for index in (k, sites + k)]
    state = weight.reshape(*out_modes, *in_modes).permute(pairs).reshape(1, -1)
    cores: list[Tensor] = []
    for out_mode, in_mode, bond in zip(out_modes, in_modes, bonds, strict=False):
        rank = state.shape[0]
        left, state = split(state.reshape(rank * out_mode * in_mode, -1), bond)
        cores.append(left.reshape(rank, out_mode, in_mode, -1))
    return [*cores, state.reshape(-1, out_modes[-1], in_modes[-1], 1)]


def ways(
    weight: Tensor, out_modes: Sequence[int], in_modes: Sequence[int], bonds: Sequence[int]
) -> dict[str, Callable[[], Sequence[Tensor]]]:
    tensor = weight.reshape(*out_modes, *in_modes)
    return {
        "bondwise": lambda: mpo.decompose(weight, out_modes, in_modes, chi=bonds).cores,
        "tensorly": lambda: list(tensor_train_matrix(tensor, rank=[1, *bonds, 1])),
        "full SVD": lambda: chain(weight, out_modes, in_modes, bonds, full),
        "randomized SVD": lambda: chain(weight, out_modes, in_modes, bonds, randomized),
        "torch.svd_lowrank": lambda: chain(weight, out_modes, in_modes, bonds, lowrank),
    }


def bench() -> list[dict[str, float | str]]:
    tensorly.set_backend("pytorch")
    rows: list[dict[str, float | str]] = []
    for out_features, in_features in SHAPES:
        weight = torch.randn(out_features, in_features, generator=torch.Generator().manual_seed(0))
        for sites in SITES:
            out_modes, in_modes = mpo.layer_modes(out_features, in_features, sites)
            bonds = mpo.bond_dims_for_keep(out_modes, in_modes, KEEP)
            best: dict[str, float] = {}
            errors: dict[str, float] = {}
            repeats = REPEATS_OF_LARGE if weight.numel() >= LARGE else REPEATS
            for repeat in range(repeats):
                for way, function in ways(weight, out_modes, in_modes, bonds).items():
                    print(f"{out_features}×{in_features}, sites {sites}, {repeat + 1} of {repeats}: {way}", file=sys.stderr)
                    start = time.perf_counter()
                    cores = function()
                    best[way] = min(best.get(way, float("inf")), time.perf_counter() - start)
                    errors[way] = mpo.relative_error(weight, mpo.contract([core.double() for core in cores]))
            rows.extend(
                {
                    "weight": f"{out_features}×{in_features}",
                    "sites": str(sites),
                    "chi": max(bonds),
                    "way": way,
                    "seconds": round(seconds, 4),
                    "error": round(errors[way], 5),
                    "percent_above_full_svd": round(100 * (errors[way] / errors["full SVD"] - 1), 3),
                    "bondwise_times_faster": round(seconds / best["bondwise"], 2),
                }
                for way, seconds in best.items()
            )
    return rows
