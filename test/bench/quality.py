"""Perplexity, KL and agreement after compression without any retraining, ingredient by ingredient, on text of two domains.

SmolLM2-135M-Instruct as `npm start` makes it; q, k, v, o, gate and up of blocks 4–29 kept at 75, 50 and 30% of their parameters, exactly
counted. Calibrated on `CALIBRATION` (a file, or the built-in text), measured on other sections of that text (`same`) and on text of another
domain (`other`). `times` is the perplexity as a multiple of the original model's. BONDWISE_BENCH_KEEPS and BONDWISE_BENCH_WAYS choose some.
"""

from __future__ import annotations

import math
import os
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

import torch

from bondwise import mpo
from bondwise.allocate import Candidate, Problem, Target, choose, sweep
from bondwise.calibrate import collect_moments
from bondwise.checkpoint import open_checkpoint
from bondwise.evaluate import score
from bondwise.loading import load_model, load_tokenizer
from bondwise.modelmap import map_model
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
    from collections.abc import Callable

    from torch import Tensor
    from transformers import PreTrainedModel

    from bondwise.modelmap import Layer

MODEL = bondwise_home() / "demo" / "SmolLM2-135M-Instruct"
DATA = os.environ.get("BONDWISE_TEST_DATA")
CALIBRATION = f"{DATA}/wikitext2/train_2mb.txt" if DATA else "builtin"
SAME = f"{DATA}/wikitext2/test.txt" if DATA else "builtin"
OTHER = "builtin" if DATA else ""
LENGTH, SEQUENCES, MEASURED = 512, 16, 8
KEEPS = [float(keep) for keep in os.environ.get("BONDWISE_BENCH_KEEPS", "0.75 0.5 0.3").split()]
WAYS = os.environ.get("BONDWISE_BENCH_WAYS", "plain input fisher allocated sequential refit").split()
PARTS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj")
SEED = 0
QUIET: dict[str, Any] = {"progress": lambda done, total: None, "check_cancelled": lambda: None}


def chosen(layers: tuple[Layer, ...]) -> list[Layer]:
    return [layer for layer in layers if layer.block >= 4 and layer.name.rsplit(".", 1)[-1] in PARTS]


def uniform(layers: list[Layer], keep: float) -> dict[str, int]:
    return {layer.name: mpo.bond_dims_for_keep(*mpo.layer_modes(*layer.shape, "low-rank"), keep)[0] for layer in layers}


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
        self.layers = chosen(self.map.layers)
        tokenizer = load_tokenizer(MODEL)
        self.text = token_sequences(tokenizer, CALIBRATION, "calibration", length=LENGTH, sequences=SEQUENCES, seed=SEED)
        texts = {"same": SAME, **({"other": OTHER} if OTHER else {})}
        self.measured = {
            name: token_sequences(tokenizer, text, "evaluation", length=LENGTH, sequences=MEASURED, seed=SEED)
            for name, text in texts.items()
        }
        self.base = model = load_model(MODEL)
        self.original = self._figures(model)
        started = time.perf_counter()
        self.moments = collect_moments(model, self.layers, self.text, seed=SEED, **QUIET)
        self.calibration_s = time.perf_counter() - started
        self.tables: dict[str, list[tuple[int, int, float]]] = {}
        for layer in self.layers:
            found = curve(layer.name, self._weight(model, layer), self.moments[layer.name], *mpo.layer_modes(*layer.shape, "low-rank"))
            self.tables[layer.name] = list(zip(found.chi, found.parameters, found.fisher, strict=True))

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

    def _alone(self, chis: dict[str, int], decompose: Callable[[Layer, Tensor, int], mpo.MPO]) -> PreTrainedModel:
        model = load_model(MODEL)
        for layer in self.layers:
            if layer.name in chis:
                weight = self._weight(model, layer)
                weight.copy_(mpo.contract(decompose(layer, weight, chis[layer.name]).cores))
        return model

    def _weighted(self, layer: Layer, weight: Tensor, chi: int, *, fisher: bool = True) -> mpo.MPO:
        moments = self.moments[layer.name]
        return decompose_weighted(weight, moments.inputs, moments.gradients if fisher else None, chi=chi)

    def _in_sequence(self, chis: dict[str, int], *, refit: bool) -> PreTrainedModel:
        model = load_model(MODEL)
        downs = {layer.name for layer in self.map.layers if layer.block >= 4 and layer.name.endswith("down_proj")} if refit else set[str]()

        def make(layer: Layer, wanted: Tensor, own: Tensor) -> Tensor:
            if layer.name not in chis:
                return wanted
            return mpo.contract(decompose_weighted(wanted, own, self.moments[layer.name].gradients, chi=chis[layer.name]).cores)

        walk_and_update(Walk(WholeModel(model, self.map.container), self.text), self.map.layers, {*chis, *downs}, make, **QUIET)
        return model

    def model(self, way: str, keep: float) -> PreTrainedModel:
        flat = uniform(self.layers, keep)
        if way == "plain":
            return self._alone(flat, lambda layer, weight, chi: mpo.decompose(weight, *mpo.layer_modes(*layer.shape, "low-rank"), chi=chi))
        if way == "input":
            return self._alone(flat, lambda layer, weight, chi: self._weighted(layer, weight, chi, fisher=False))
        if way == "fisher":
            return self._alone(flat, self._weighted)
        chis = allocated(self.layers, self.tables, keep)
        if way == "allocated":
            return self._alone(chis, self._weighted)
        return self._in_sequence(chis, refit=way == "refit")

    def row(self, way: str, keep: float) -> dict[str, float | str | None]:
        started = time.perf_counter()
        model = self.model(way, keep)
        seconds = time.perf_counter() - started
        figures = self._figures(model)
        times = {f"{name}_times": figures[f"{name}_perplexity"] / self.original[f"{name}_perplexity"] for name in self.measured}
        row: dict[str, float | str | None] = {"keep": keep, "way": way}
        row |= {name: round(value, 3) for name, value in {**figures, **times}.items()}
        print(f"quality {row}, {seconds:.0f} s", file=sys.stderr, flush=True)
        return {**row, "compress_s": round(seconds)}


@torch.no_grad()
def bench() -> list[dict[str, float | str | None]]:
    made = Bench()
    print(f"quality: original {made.original}, calibration {made.calibration_s:.0f} s", file=sys.stderr, flush=True)
    first: dict[str, float | str | None] = {
        "keep": 1.0,
        "way": "original",
        **{name: round(value, 3) for name, value in made.original.items()},
    }
    return [first, *(made.row(way, keep) for keep in KEEPS for way in WAYS)]
