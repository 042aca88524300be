"""Time of a layer's forward pass and training step beside dense: MPO through the cores and contracted first, int8 and nf4.

float32, square layers, all ways by turns, the best of at least three; `*_of_dense` are ratios, below 1 is faster than dense. `auto` is what
the model does by itself. A training step is forward and backward for the inputs and for what of the layer trains: the cores, or nothing of
bitsandbytes' weights; it is timed at the largest number of tokens only. `operations` is the MPO's multiply-adds per token through its
cores, as a part of dense: where a ratio is above it, the time goes into moving the states between the cores, not into arithmetic.
`break_even` is the number of tokens from which the cost model contracts. A cell is empty where the path takes more than 2·10¹⁰
multiply-adds, or there is no such path. BONDWISE_BENCH_SIZES names other sizes.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import nn

from bondwise import layers, mpo
from bondwise.modeling_mpo import ForwardPath, MPOLinear
from bondwise.speed import lay_out_for_training

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES = [int(size) for size in os.environ.get("BONDWISE_BENCH_SIZES", "576 2048 4096").split()]
CASES: list[tuple[Any, float]] = [("low-rank", 0.3), ("low-rank", 0.1), (2, 0.3), (2, 0.1), (3, 0.3), (3, 0.1)]
SCHEMES = ("int8", "nf4")
TOKENS = (1, 32, 256)
MOST = 2e10
PATHS: tuple[ForwardPath, ...] = ("cores", "contract", "auto")
LEAST_ROUNDS, MOST_ROUNDS, SECONDS = 3, 20, 1.0
"""Of one row: so many rounds, as many as fit into that time."""

Row = dict[str, float | str | None]


class Way(NamedTuple):
    layer: nn.Module
    path: ForwardPath | None = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self.path is not None:
            cast("MPOLinear", self.layer).path = self.path
        return self.layer(x)


def best_ms(functions: dict[str, Callable[[], Any]]) -> dict[str, float]:
    best = dict.fromkeys(functions, math.inf)
    started = time.perf_counter()
    for done in range(MOST_ROUNDS):
        if done >= LEAST_ROUNDS and time.perf_counter() - started > SECONDS:
            break
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            best[name] = min(best[name], 1000 * (time.perf_counter() - start))
    return best


def bench() -> list[Row]:
    torch.manual_seed(0)
    for name in ("bitsandbytes.autograd._functions", "bitsandbytes.backends.cpu.ops"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return [row for size in SIZES for row in of_size(size)]


def of_size(size: int) -> list[Row]:
    dense = nn.Linear(size, size, bias=False)
    rows: list[Row] = []
    for sites, keep in CASES:
        out_modes, in_modes = mpo.layer_modes(size, size, sites)
        layer = MPOLinear(size, size, out_modes, in_modes, mpo.bond_dims_for_keep(out_modes, in_modes, keep), bias=False)
        costs = layers.costs(out_modes, in_modes, layer.bond_dims)
        about: Row = {
            "chi": max(layer.bond_dims),
            "operations": round(costs.multiply_adds / costs.dense_multiply_adds, 2),
            "break_even": None if math.isinf(layer._break_even) else layer._break_even,
        }
        ways = {path: Way(layer, path) for path in PATHS}
        name = sites if sites == "low-rank" else f"{sites} sites"
        rows += of_layer(size, f"{name}, {keep:.0%}", dense, ways, about, through_cores=costs.multiply_adds)
    for scheme in SCHEMES:
        rows += of_layer(size, scheme, dense, {"auto": Way(in_bits(dense, scheme))}, {"chi": None, "operations": 1.0, "break_even": None})
    return rows


def of_layer(size: int, name: str, dense: nn.Module, ways: dict[Any, Way], about: Row, *, through_cores: int = 0) -> list[Row]:
    rows: list[Row] = []
    for tokens in TOKENS:
        print(f"forward {size}×{size}, {name}, {tokens} tokens", file=sys.stderr)
        x = torch.randn(tokens, size)
        fit = {path: way for path, way in ways.items() if path != "cores" or tokens * through_cores <= MOST}
        compared = {"dense": Way(dense), **fit}
        with torch.no_grad():
            forward = best_ms({path: functools.partial(way, x) for path, way in compared.items()})
        training: dict[str, float] = {}
        if tokens == TOKENS[-1]:
            for way in compared.values():
                way.layer.train()
                lay_out_for_training(way.layer)
            training = best_ms({path: functools.partial(train, way, x) for path, way in compared.items()})
            for way in compared.values():
                way.layer.eval()
        rows.append(
            {
                "size": size,
                "layer": name,
                "chi": about["chi"],
                "tokens": tokens,
                "dense_ms": round(forward["dense"], 3),
                **{f"{path}_of_dense": ratio(forward, path) for path in PATHS},
                "training_dense_ms": round(training["dense"], 3) if training else None,
                **{f"training_{path}_of_dense": ratio(training, path) for path in PATHS},
                "operations": about["operations"],
                "break_even": about["break_even"],
            }
        )
    return rows


def train(way: Way, x: torch.Tensor) -> None:
    inputs = x.detach().requires_grad_()
    way(inputs).sum().backward()
    assert inputs.grad is not None
    way.layer.zero_grad(set_to_none=True)


def in_bits(dense: nn.Linear, scheme: str) -> nn.Module:
    """The layer as bitsandbytes stores it."""
    import bitsandbytes

    kinds = cast("Any", bitsandbytes.nn)
    size = dense.in_features
    weight = dense.weight.detach().clone()
    if scheme == "int8":
        made = kinds.Linear8bitLt(size, size, bias=False, has_fp16_weights=False, threshold=6.0)
        made.weight = kinds.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    else:
        made = kinds.Linear4bit(size, size, bias=False, compute_dtype=torch.float32, quant_type="nf4")
        made.weight = kinds.Params4bit(weight, requires_grad=False, quant_type="nf4")
    return cast("nn.Module", made.to("cpu").eval())


def ratio(best: dict[str, float], path: str) -> float | None:
    return round(best[path] / best["dense"], 2) if path in best else None
