"""Time of a training step, healing beside training the original model: one thread, processor time, interleaved, the least of four.

SmolLM2-135M-Instruct, q, k, v, o, gate and up of blocks 4–29 and the embedding as they are, low rank and two sites, at 30% of these layers'
parameters; without distillation, since the original trains without it too; all in the precision that a healing takes on this machine.
`paths` are how an MPO layer is applied: through its cores, contracted first. `times` is the original's step over that one's. `forward`,
`backward` and `optimizer` are parts of the fastest step. What trains: the cores; of the original everything, and in `same layers` those
that the others have as MPOs. Cores start from random numbers: what they are does not change the time.

BONDWISE_BENCH_LENGTH, _BATCH, _KEEP, _PATHS make other rows.
"""

from __future__ import annotations

import gc
import math
import os
import resource
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from bondwise import mpo
from bondwise.checkpoint import open_checkpoint
from bondwise.heal_loss import mixed_loss
from bondwise.heal_pass import choose_attention, labelled_logits, lower_frozen
from bondwise.loading import load_model
from bondwise.modeling_mpo import MPOLinear
from bondwise.modelmap import map_model
from bondwise.packing import Packed
from bondwise.queue import bondwise_home
from bondwise.replay import layer_module

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

    from bondwise.modelmap import Layer

MODEL = bondwise_home() / "demo" / "SmolLM2-135M-Instruct"
PARTS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj")
LENGTH, BATCH = (
    int(os.environ.get("BONDWISE_BENCH_LENGTH", "256")),
    int(os.environ.get("BONDWISE_BENCH_BATCH", "1")),
)
KEEP = float(os.environ.get("BONDWISE_BENCH_KEEP", "0.3"))
WAYS = os.environ.get(
    "BONDWISE_BENCH_PATHS",
    "all|same layers|low-rank cores|low-rank contract|2 contract",
).split("|")
"""`all` and `same layers` are the original; else sites and a path. Interleaved sites go through their cores too slowly to wait for."""
REPEATS = 4


class Trained(NamedTuple):
    model: PreTrainedModel
    optimizer: torch.optim.Optimizer
    parameters: int


class Times(NamedTuple):
    """Seconds of the processor."""

    forward: float
    backward: float
    optimizer: float

    @property
    def all(self) -> float:
        return sum(self)


def chosen() -> list[Layer]:
    return [layer for layer in map_model(open_checkpoint(MODEL)).layers if layer.block >= 4 and layer.name.rsplit(".", 1)[-1] in PARTS]


def prepared(way: str) -> Trained:
    model = load_model(MODEL)
    model.requires_grad_(way == "all")
    sites, _, path = way.partition(" ")
    for layer in chosen():
        module = layer_module(model, layer)
        if way == "same layers":
            module.requires_grad_(requires_grad=True)
        elif way != "all":
            out, into = layer.shape
            outs, ins = mpo.layer_modes(out, into, "low-rank" if sites == "low-rank" else int(sites))
            made = MPOLinear(
                into,
                out,
                outs,
                ins,
                mpo.bond_dims_for_keep(outs, ins, KEEP),
                bias=False,
            )
            made.path = path  # pyright: ignore[reportAttributeAccessIssue]
            parent, _, name = layer.name.rpartition(".")
            setattr(model.get_submodule(parent), name, made)
    choose_attention(model, "cpu", LENGTH)
    lower_frozen(model, "cpu")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return Trained(
        model,
        torch.optim.AdamW(trained, lr=1e-9, fused=True),
        sum(parameter.numel() for parameter in trained),
    )


def step(trained: Trained, packs: Sequence[Packed]) -> Times:
    trained.model.train()
    forward = backward = 0.0
    for pack in packs:
        began = time.process_time()
        logits, labels = labelled_logits(trained.model, pack, "cpu")
        loss = mixed_loss(logits, labels, None, distill=0).mixed / len(labels)
        between = time.process_time()
        loss.backward()
        forward, backward = (
            forward + between - began,
            backward + time.process_time() - between,
        )
    began = time.process_time()
    torch.nn.utils.clip_grad_norm_(trained.model.parameters(), 1.0)
    trained.optimizer.step()
    trained.optimizer.zero_grad(set_to_none=True)
    return Times(forward, backward, time.process_time() - began)


def bench() -> list[dict[str, float | str | int]]:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(40_000, (BATCH, LENGTH), generator=generator)
    packs = [Packed(row, row, torch.arange(LENGTH)) for row in ids]
    ways = {way: prepared(way) for way in WAYS}
    best: dict[str, Times] = {}
    for turn in range(REPEATS + 1):
        for way, trained in ways.items():
            found = step(trained, packs)
            print(f"heal {way}: {found.all:.2f} s", file=sys.stderr, flush=True)
            if turn and found.all < best.get(way, Times(math.inf, 0, 0)).all:
                best[way] = found
        gc.collect()
    first = best[WAYS[0]]
    rows: list[dict[str, Any]] = []
    for way, times in best.items():
        rows.append(
            {
                "what": way,
                "trained_parameters": ways[way].parameters,
                "tokens_per_second": round(BATCH * LENGTH / times.all),
                **{f"{name}_ms": round(1000 * value) for name, value in times._asdict().items()},
                "times": round(first.all / times.all, 2),
            }
        )
    print(
        f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB",
        file=sys.stderr,
    )
    return rows
