"""Time of a layer's forward pass by number of tokens: dense, through the cores, contracted first, and what `auto` takes.

float32, interleaved, the best of five; `break_even` is the number of tokens from which the cost model contracts. A cell is empty where
the path would take more than 2·10¹⁰ multiply-adds.
"""

from __future__ import annotations

import math
import sys
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from bondwise import layers, mpo
from bondwise.modeling_mpo import ForwardPath, MPOLinear

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE = 2048
CASES: list[tuple[Any, float]] = [("low-rank", 0.3), ("low-rank", 0.1), (2, 0.3), (2, 0.1), (3, 0.3), (3, 0.1)]
TOKENS = (1, 8, 32, 256)
MOST = 2e10


def best_ms(functions: dict[str, Callable[[], Any]]) -> dict[str, float]:
    best = dict.fromkeys(functions, math.inf)
    for _ in range(5):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            best[name] = min(best[name], 1000 * (time.perf_counter() - start))
    return best


@torch.no_grad()
def bench() -> list[dict[str, float | str | None]]:
    torch.manual_seed(0)
    dense = nn.Linear(SIZE, SIZE, bias=False)
    rows: list[dict[str, float | str | None]] = []
    for sites, keep in CASES:
        out_modes, in_modes = mpo.layer_modes(SIZE, SIZE, sites)
        layer = MPOLinear(SIZE, SIZE, out_modes, in_modes, mpo.bond_dims_for_keep(out_modes, in_modes, keep), bias=False)
        costs = layers.costs(out_modes, in_modes, layer.bond_dims)
        for tokens in TOKENS:
            print(f"forward {SIZE}×{SIZE}, sites {sites}, keep {keep:g}, {tokens} tokens", file=sys.stderr)
            x = torch.randn(tokens, SIZE)

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
                    "sites": str(sites),
                    "keep": keep,
                    "chi": max(layer.bond_dims),
                    "tokens": tokens,
                    **{f"{name}_ms": round(best[name], 3) if name in best else None for name in ("dense", "cores", "contract", "auto")},
                    "break_even": None if math.isinf(layer._break_even) else layer._break_even,
                }
            )
    return rows
