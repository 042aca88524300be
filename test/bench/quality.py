"""Perplexity, KL and agreement after compression without any retraining, ingredient by ingredient, on text of several domains.

SmolLM2-135M-Instruct as `npm start` makes it; q, k, v, o, gate and up of blocks 4–29 kept at 75, 50 and 30% of their parameters, exactly
counted, then all linear layers of all blocks at 90 and 80%. Calibrated on WikiText-2 where BONDWISE_TEST_DATA has it, measured on other
sections of that text (`same`), on captions and how-to texts (HellaSwag) and on the built-in documentation. `times` is the perplexity as a
multiple of the original model's.

BONDWISE_BENCH_KEEPS, _ALL_KEEPS and _WAYS choose some rows; BONDWISE_BENCH_CALIBRATION (a file, `builtin`, `self`), _SEQUENCES, _LENGTH and
_SEED make others.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from bondwise import als, mpo
from bondwise.allocate import Candidate, Problem, Target, choose, sweep
from bondwise.calibrate import collect_moments
from bondwise.checkpoint import open_checkpoint
from bondwise.evaluate import score
from bondwise.loading import load_model, load_tokenizer
from bondwise.modelmap import map_model
from bondwise.own_text import write_text
from bondwise.predict import Point
from bondwise.queue import bondwise_home
from bondwise.replay import layer_module
from bondwise.schema import Budget
from bondwise.sequential import walk_and_update
from bondwise.spectral import curve
from bondwise.streaming import WholeModel
from bondwise.text import token_sequences
from bondwise.walk import Walk
from bondwise.weighted import decompose_weighted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    from bondwise.modelmap import Layer

Sites = int | Literal["low-rank"]
Row = dict[str, float | str]

MODEL = bondwise_home() / "demo" / "SmolLM2-135M-Instruct"
DATA = os.environ.get("BONDWISE_TEST_DATA")


def setting(name: str, otherwise: str) -> str:
    return os.environ.get(f"BONDWISE_BENCH_{name}", otherwise)


CALIBRATION = setting("CALIBRATION", f"{DATA}/wikitext2/train_2mb.txt" if DATA else "builtin")
LENGTH, SEQUENCES, MEASURED = int(setting("LENGTH", "512")), int(setting("SEQUENCES", "16")), 8
MEASURED_LENGTH = 512
SEED = int(setting("SEED", "0"))
KEEPS = [float(keep) for keep in setting("KEEPS", "0.75 0.5 0.3").split()]
ALL_KEEPS = [float(keep) for keep in setting("ALL_KEEPS", "0.9 0.8").split()]
WAYS = setting("WAYS", "plain plain/2 plain/3 input fisher fisher/2 fisher/3 allocated sequential refit").split()
"""A method, over the number of sites where there are several; then what is added to `fisher`, one thing after another."""
OF_ALL = ("plain", "fisher", "allocated", "sequential")
"""The ways that are of interest where every layer is compressed: no dense ones are left to refit."""
PARTS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj")
QUIET: dict[str, Any] = {"progress": lambda done, total: None, "check_cancelled": lambda: None}


def captions() -> str:
    """A text file of HellaSwag's contexts with their right endings."""
    rows = [json.loads(line) for line in Path(f"{DATA}/hub/Rowan/hellaswag/validation.jsonl").read_text().split("\n") if line]
    made = Path(tempfile.mkdtemp(prefix="bondwise-bench-")) / "captions.txt"
    made.write_text("\n\n".join(f"{row['ctx']} {row['endings'][int(row['label'])]}" for row in rows))
    return str(made)


def chosen(layers: tuple[Layer, ...]) -> list[Layer]:
    return [layer for layer in layers if layer.block >= 4 and layer.name.rsplit(".", 1)[-1] in PARTS]


def uniform(layers: list[Layer], keep: float, sites: Sites = "low-rank") -> dict[str, tuple[int, ...]]:
    return {layer.name: mpo.bond_dims_for_keep(*mpo.layer_modes(*layer.shape, sites), keep) for layer in layers}


def allocated(layers: list[Layer], tables: dict[str, list[tuple[int, int, float]]], keep: float) -> dict[str, int]:
    """Bond dimensions of the layers that do not stay dense, by what each is predicted to lose (`tables`: χ, parameters, loss)."""
    candidates = [
        Candidate(
            layer,
            tuple(Point(*row, 0.0, 0.0) for row in sorted(tables[layer.name], key=lambda row: -row[1]) if row[1] < layer.weight_parameters),
        )
        for layer in layers
    ]
    total = sum(layer.weight_parameters for layer in layers)
    problem = Problem(parameters=total, bytes=2 * total, baseline=None, candidates=tuple(candidates))
    budget = Budget(profile="", target="", floor=0, ceiling=1)
    state = choose(problem, sweep(problem), Target("parameters", keep * total), budget)
    return {one.layer.name: one.points[at].chi for one, at in zip(candidates, state, strict=True) if at is not None}


class Bench:
    def __init__(self) -> None:
        self.map = map_model(open_checkpoint(MODEL))
        tokenizer = load_tokenizer(MODEL)
        texts = {"same": f"{DATA}/wikitext2/test.txt", "captions": captions()} if DATA else {}
        self.measured = {
            name: token_sequences(tokenizer, text, "evaluation", length=MEASURED_LENGTH, sequences=MEASURED, seed=0)
            for name, text in {**texts, "documentation": "builtin"}.items()
        }
        self.base = model = load_model(MODEL)
        self.original = self._figures(model)
        if CALIBRATION == "self":
            self.text = write_text(model, tokenizer, length=LENGTH, sequences=SEQUENCES, seed=SEED, **QUIET)
        else:
            self.text = token_sequences(tokenizer, CALIBRATION, "calibration", length=LENGTH, sequences=SEQUENCES, seed=SEED)
        started = time.perf_counter()
        self.moments = collect_moments(model, self.map.layers, self.text, seed=SEED, **QUIET)
        self.calibration_s = time.perf_counter() - started
        started = time.perf_counter()
        self.tables: dict[str, list[tuple[int, int, float]]] = {}
        for layer in self.map.layers:
            found = curve(layer.name, self._weight(model, layer), self.moments[layer.name], *mpo.layer_modes(*layer.shape, "low-rank"))
            self.tables[layer.name] = list(zip(found.chi, found.parameters, found.fisher, strict=True))
        self.curves_s = time.perf_counter() - started

    @staticmethod
    def _weight(model: PreTrainedModel, layer: Layer) -> Tensor:
        return layer_module(model, layer).get_parameter("weight").detach()

    def _figures(self, model: PreTrainedModel) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, ids in self.measured.items():
            scores = [score(model, sequence, self.base) for sequence in ids]
            found[f"{name}_perplexity"] = math.exp(statistics.fmean(float(one.losses.mean()) for one in scores))
            found[f"{name}_kl"] = statistics.fmean(float(one.kl.mean()) for one in scores if one.kl is not None)
            found[f"{name}_agreement"] = statistics.fmean(float(one.agreed.float().mean()) for one in scores if one.agreed is not None)
        return found

    def _alone(self, layers: list[Layer], bonds: dict[str, tuple[int, ...]], method: str, sites: Sites = "low-rank") -> PreTrainedModel:
        model = load_model(MODEL)
        for layer in layers:
            if layer.name in bonds:
                weight = self._weight(model, layer)
                product = mpo.contract(self._cores(layer, weight, bonds[layer.name], method, sites))
                weight.copy_(product[: weight.shape[0], : weight.shape[1]])
        return model

    def _cores(self, layer: Layer, weight: Tensor, bonds: tuple[int, ...], method: str, sites: Sites) -> Sequence[Tensor]:
        modes = mpo.layer_modes(*layer.shape, sites)
        if method == "plain":
            return mpo.decompose(weight, *modes, chi=bonds).cores
        moments = self.moments[layer.name]
        return als.decompose(weight, *modes, moments.inputs, moments.gradients if method == "fisher" else None, chi=bonds).cores

    def _in_sequence(self, bonds: dict[str, tuple[int, ...]], *, refit: bool) -> PreTrainedModel:
        model = load_model(MODEL)
        downs = {layer.name for layer in self.map.layers if layer.block >= 4 and layer.name.endswith("down_proj")} if refit else set[str]()

        def make(layer: Layer, wanted: Tensor, own: Tensor) -> Tensor:
            if layer.name not in bonds:
                return wanted
            return mpo.contract(decompose_weighted(wanted, own, self.moments[layer.name].gradients, chi=bonds[layer.name][0]).cores)

        walk_and_update(Walk(WholeModel(model, self.map.container), self.text), self.map.layers, {*bonds, *downs}, make, **QUIET)
        return model

    def model(self, layers: list[Layer], way: str, keep: float) -> PreTrainedModel:
        method, _, number = way.partition("/")
        if method in ("plain", "input", "fisher"):
            sites: Sites = int(number) if number else "low-rank"
            return self._alone(layers, uniform(layers, keep, sites), method, sites)
        bonds = {name: (chi,) for name, chi in allocated(layers, self.tables, keep).items()}
        return self._alone(layers, bonds, "fisher") if way == "allocated" else self._in_sequence(bonds, refit=way == "refit")

    def row(self, what: str, layers: list[Layer], way: str, keep: float) -> Row:
        started = time.perf_counter()
        model = self.model(layers, way, keep)
        seconds = time.perf_counter() - started
        figures = self._figures(model)
        times = {f"{name}_times": figures[f"{name}_perplexity"] / self.original[f"{name}_perplexity"] for name in self.measured}
        row: Row = {"layers": what, "keep": keep, "way": way}
        row |= {name: round(value, 3) for name, value in {**figures, **times}.items()}
        row["compress_s"] = round(seconds)
        print(f"quality {row}", file=sys.stderr, flush=True)
        return row


@torch.no_grad()
def bench() -> list[Row]:
    made = Bench()
    first: Row = {
        "layers": "none",
        "keep": 1.0,
        "way": f"original; calibration {made.calibration_s:.0f} s, all spectra {made.curves_s:.0f} s",
        **{name: round(value, 3) for name, value in made.original.items()},
        **{f"{name}_times": 1.0 for name in made.measured},
        "compress_s": 0,
    }
    print(f"quality {first}", file=sys.stderr, flush=True)
    some, every = chosen(made.map.layers), list(made.map.layers)
    rows = [first, *(made.row("blocks 4–29 without down", some, way, keep) for keep in KEEPS for way in WAYS)]
    return rows + [made.row("all", every, way, keep) for keep in ALL_KEEPS for way in WAYS if way in OF_ALL]
