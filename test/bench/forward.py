"""Time of a layer's forward pass by size and number of tokens: dense, and as MPO through the cores, contracted first, and what `auto`
takes.

float32, interleaved, the best of five; `*_of_dense` are ratios, below 1 is faster than dense. `operations` is the MPO's multiply-adds per
token through its cores, as a part of dense: where a ratio is above it, the time goes into moving the states between the cores,
not into arithmetic. `break_even` is the number of tokens from which the cost model contracts. A cell is empty where the path takes more
than 2·10¹⁰ multiply-adds. BONDWISE_BENCH_SIZES names other sizes.
"""

from __future__ import annotations

import math
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from bondwise import layers, mpo
from bondwise.modeling_mpo import ForwardPath, MPOLinear

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES = [int(size) for size in os.environ.get("BONDWISE_BENCH_SIZES", "576 2048 4096").split()]
CASES: list[tuple[Any, float]] = [("low-rank", 0.3), ("low-rank", 0.1), (2, 0.3), (2, 0.1), (3, 0.3), (3, 0.1)]
TOKENS = (1, 32, 256)
MOST = 2e10
PATHS = ("cores", "contract", "auto")


def best_ms(functions: dict[str, Callable[[], Any]]) -> dict[str, float]:
    best = dict.fromkeys(functions, math.inf)
    for _ in range(5):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            best[name] = min(best[name], 1000 * (time.perf_counter() - start))
    return best


def bench() -> list[dict[str, float | str | None]]:
    torch.manual_seed(0)
    return [row for size in SIZES for row in of_size(size)]


@torch.no_grad()
def of_size(size: int) -> list[dict[str, float | str | None]]:
    dense = nn.Linear(size, size, bias=False)
    rows: list[dict[str, float | str | None]] = []
    for sites, keep in CASES:
        out_modes, in_modes = mpo.layer_modes(size, size, sites)
        layer = MPOLinear(size, size, out_modes, in_modes, mpo.bond_dims_for_keep(out_modes, in_modes, keep), bias=False)
        costs = layers.costs(out_modes, in_modes, layer.bond_dims)
        for tokens in TOKENS:
            print(f"forward {size}×{size}, sites {sites}, keep {keep:g}, {tokens} tokens", file=sys.stderr)
            x = torch.randn(tokens, size)

            def through(path: ForwardPath, x: torch.Tensor = x, layer: MPOLinear = layer) -> torch.Tensor:
                layer.path = path
                return layer(x)

            functions: dict[str, Callable[[], Any]] = {"dense": lambda x=x: dense(x), "auto": lambda run=through: run("auto")}
            if tokens * costs.multiply_adds <= MOST:
                functions["cores"] = lambda run=through: run("cores")
            functions["contract"] = lambda run=through: run("contract")
            best = best_ms(functions)
            rows.append(
                {
                    "size": size,
                    "sites": str(sites),
                    "keep": keep,
                    "chi": max(layer.bond_dims),
                    "tokens": tokens,
                    "dense_ms": round(best["dense"], 3),
                    **{f"{name}_of_dense": round(best[name] / best["dense"], 2) if name in best else None for name in PATHS},
                    "operations": round(costs.multiply_adds / costs.dense_multiply_adds, 2),
                    "break_even": None if math.isinf(layer._break_even) else layer._break_even,
                }
            )
    return rows
