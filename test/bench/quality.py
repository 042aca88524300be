"""Perplexity, KL and agreement after compression without any retraining, ingredient by ingredient, on text of several domains.

SmolLM2-135M-Instruct as `npm start` makes it; q, k, v, o, gate and up of blocks 4–29 kept at 75, 50 and 30% of their parameters, exactly
counted, then all linear layers of all blocks at 90 and 80%. Calibrated on WikiText-2 where BONDWISE_TEST_DATA has it, measured on other
sections of that text (`same`), on captions and how-to texts (HellaSwag) and on the built-in documentation. `times` is the perplexity as a
multiple of the original model's.

BONDWISE_BENCH_KEEPS, _ALL_KEEPS and _WAYS choose some rows; BONDWISE_BENCH_CALIBRATION (a file, `builtin`, `self`), _SEQUENCES, _LENGTH and
_SEED make others. With BONDWISE_BENCH_ROWS=FOLDER, rows that are there are not made again, and those that are made are added; what the
calibration text says is kept under BONDWISE_HOME as any run keeps it.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch

from bondwise import als, mpo
from bondwise.allocate import Candidate, Problem, Target, choose, sweep
from bondwise.calibrate import collect_moments
from bondwise.checkpoint import open_checkpoint
from bondwise.loading import load_model, load_tokenizer
from bondwise.modelmap import map_model
from bondwise.moments_file import MomentStore, store_key
from bondwise.own_text import write_text
from bondwise.predict import Point
from bondwise.queue import bondwise_home
from bondwise.replay import layer_module
from bondwise.schema import Budget
from bondwise.sequential import walk_and_update
from bondwise.shrinkage import shrunk
from bondwise.spectral import curve
from bondwise.streaming import WholeModel
from bondwise.text import fingerprint, token_sequences
from bondwise.walk import Walk
from bondwise.weighted import decompose_weighted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from bondwise.modelmap import Layer
    from bondwise.moments import Moments

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
WAYS = setting("WAYS", "plain plain/2 plain/3 input fisher-raw fisher fisher/2 fisher/3 allocated sequential refit").split()
"""A method, over the number of sites where there are several, `-raw` with moments as they are collected, not shrunk; then what is added to
`fisher`, one thing after another."""
ROWS = setting("ROWS", "")
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
        self.model = load_model(MODEL)
        self.dense = {layer.name: self._weight(layer).clone() for layer in self.map.layers}
        self.said = {name: self._original(ids) for name, ids in self.measured.items()}
        self.original = self._figures(original=True)
        if CALIBRATION == "self":
            self.text = write_text(self.model, tokenizer, length=LENGTH, sequences=SEQUENCES, seed=SEED, **QUIET)
        else:
            self.text = token_sequences(tokenizer, CALIBRATION, "calibration", length=LENGTH, sequences=SEQUENCES, seed=SEED)
        started = time.perf_counter()
        self.moments, self.raw = self._collect()
        self.calibration_s = time.perf_counter() - started
        self._tables: dict[str, list[tuple[int, int, float]]] = {}

    def _collect(self) -> tuple[dict[str, Moments], dict[str, Moments]]:
        """The moments of the layers, shrunk; and as they are, where a row asks for those."""
        store = MomentStore(store_key(open_checkpoint(MODEL), fingerprint(self.text), SEED, "cpu", lambda: None), print)
        if any(store.read(layer, gradients=True, directions=False, device="cpu") is None for layer in self.map.layers):
            store.write(collect_moments(self.model, self.map.layers, self.text, seed=SEED, **QUIET))
        found: dict[str, Moments] = {}
        raw: dict[str, Moments] = {}
        for layer in self.map.layers:
            moments = store.read(layer, gradients=True, directions=False, device="cpu")
            assert moments is not None
            found[layer.name] = shrunk(moments)
            if any(way.endswith("-raw") for way in WAYS):
                raw[layer.name] = replace(moments, half=None)
        return found, raw

    def tables(self, layers: list[Layer]) -> dict[str, list[tuple[int, int, float]]]:
        """Of each layer χ, parameters and the predicted loss."""
        for layer in layers:
            if layer.name not in self._tables:
                modes = mpo.layer_modes(*layer.shape, "low-rank")
                found = curve(layer.name, self.dense[layer.name], self.moments[layer.name], *modes)
                self._tables[layer.name] = list(zip(found.chi, found.parameters, found.fisher, strict=True))
        return self._tables

    def _weight(self, layer: Layer) -> Tensor:
        return layer_module(self.model, layer).get_parameter("weight").detach()

    def _log_probs(self, sequence: Tensor) -> Tensor:
        return cast("Any", self.model)(input_ids=sequence[None], use_cache=False).logits[0].float().log_softmax(-1)

    def _original(self, ids: Tensor) -> list[Tensor]:
        """What the original says of sequences, in half precision: 50 MB each."""
        kept = Path(ROWS) / f"original-{fingerprint(ids)[:16]}.pt" if ROWS else None
        if kept is not None and kept.exists():
            return torch.load(kept, mmap=True)
        said = [self._log_probs(sequence).half() for sequence in ids]
        if kept is not None:
            torch.save(said, kept)
        return said

    def _figures(self, *, original: bool = False) -> dict[str, float]:
        """Of the model as it is now, or of the original."""
        found: dict[str, float] = {}
        for name, ids in self.measured.items():
            losses, kl, agreed = list[float](), list[float](), list[float]()
            for sequence, said in zip(ids, self.said[name], strict=True):
                before = said.float()
                now = before if original else self._log_probs(sequence)
                losses.append(-float(now[:-1].gather(1, sequence[1:, None]).mean()))
                kl.append(float((before.exp() * (before - now)).sum(-1).mean()))
                agreed.append(float((before.argmax(-1) == now.argmax(-1)).float().mean()))
            found[f"{name}_perplexity"] = math.exp(statistics.fmean(losses))
            found[f"{name}_kl"], found[f"{name}_agreement"] = statistics.fmean(kl), statistics.fmean(agreed)
        return found

    def restore(self) -> None:
        for layer in self.map.layers:
            self._weight(layer).copy_(self.dense[layer.name])

    def _alone(self, layers: list[Layer], bonds: dict[str, tuple[int, ...]], method: str, sites: Sites = "low-rank") -> None:
        for layer in layers:
            if layer.name in bonds:
                weight = self._weight(layer)
                product = mpo.contract(self._cores(layer, weight, bonds[layer.name], method, sites))
                weight.copy_(product[: weight.shape[0], : weight.shape[1]])

    def _cores(self, layer: Layer, weight: Tensor, bonds: tuple[int, ...], method: str, sites: Sites) -> Sequence[Tensor]:
        modes = mpo.layer_modes(*layer.shape, sites)
        if method == "plain":
            return mpo.decompose(weight, *modes, chi=bonds).cores
        kind, _, raw = method.partition("-")
        moments = (self.raw if raw else self.moments)[layer.name]
        return als.decompose(weight, *modes, moments.inputs, moments.gradients if kind == "fisher" else None, chi=bonds).cores

    def _in_sequence(self, bonds: dict[str, tuple[int, ...]], *, refit: bool) -> None:
        downs = {layer.name for layer in self.map.layers if layer.block >= 4 and layer.name.endswith("down_proj")} if refit else set[str]()

        def make(layer: Layer, wanted: Tensor, own: Tensor) -> Tensor:
            if layer.name not in bonds:
                return wanted
            return mpo.contract(decompose_weighted(wanted, own, self.moments[layer.name].gradients, chi=bonds[layer.name][0]).cores)

        walk_and_update(Walk(WholeModel(self.model, self.map.container), self.text), self.map.layers, {*bonds, *downs}, make, **QUIET)

    def compress(self, layers: list[Layer], way: str, keep: float) -> float | None:
        """Gives the model's layers other weights; what that is predicted to cost, nats per token, where sizes are chosen by it."""
        method, _, number = way.partition("/")
        if method.partition("-")[0] in ("plain", "input", "fisher"):
            sites: Sites = int(number) if number else "low-rank"
            self._alone(layers, uniform(layers, keep, sites), method, sites)
            return None
        tables = self.tables(layers)
        bonds = {name: (chi,) for name, chi in allocated(layers, tables, keep).items()}
        if way == "allocated":
            self._alone(layers, bonds, "fisher")
        else:
            self._in_sequence(bonds, refit=way == "refit")
        return math.fsum(loss for name, (chosen,) in bonds.items() for chi, _, loss in tables[name] if chi == chosen)

    def row(self, what: str, layers: list[Layer], way: str, keep: float) -> Row:
        self.restore()
        started = time.perf_counter()
        predicted = self.compress(layers, way, keep)
        seconds = time.perf_counter() - started
        figures = self._figures()
        times = {f"{name}_times": figures[f"{name}_perplexity"] / self.original[f"{name}_perplexity"] for name in self.measured}
        row: Row = {"layers": what, "keep": keep, "way": way}
        row |= {name: round(value, 3) for name, value in {**figures, **times}.items()}
        row["predicted"] = "" if predicted is None else round(predicted, 3)
        row["compress_s"] = round(seconds)
        print(f"quality {row}", file=sys.stderr, flush=True)
        return row


class Rows:
    """Those of the folder ROWS that were measured with these texts, and those that are made now."""

    def __init__(self, made: Bench) -> None:
        self._made = made
        measured = {name: fingerprint(ids) for name, ids in made.measured.items()}
        self._of = json.dumps([fingerprint(made.text), SEED, measured])
        self._file = Path(ROWS) / "rows.json" if ROWS else None
        self._kept: dict[str, Row] = json.loads(self._file.read_text()) if self._file is not None and self._file.exists() else {}

    def row(self, what: str, layers: list[Layer], way: str, keep: float) -> Row:
        key = f"{self._of} {what} {keep} {way}"
        if key not in self._kept:
            text = f"{Path(CALIBRATION).name}, {len(self._made.text)} sequences, seed {SEED}"
            self._kept[key] = {**self._made.row(what, layers, way, keep), "calibration": text}
            if self._file is not None:
                self._file.write_text(json.dumps(self._kept, indent=1))
        return self._kept[key]


@torch.no_grad()
def bench() -> list[Row]:
    made = Bench()
    first: Row = {
        "layers": "none",
        "keep": 1.0,
        "way": f"original; calibration {made.calibration_s:.0f} s",
        **{name: round(value, 3) for name, value in made.original.items()},
        **{f"{name}_times": 1.0 for name in made.measured},
        "predicted": "",
        "compress_s": 0,
        "calibration": "",
    }
    print(f"quality {first}", file=sys.stderr, flush=True)
    rows, some, every = Rows(made), chosen(made.map.layers), list(made.map.layers)
    of_some = [rows.row("blocks 4–29 without down", some, way, keep) for keep in KEEPS for way in WAYS]
    return [first, *of_some, *(rows.row("all", every, way, keep) for keep in ALL_KEEPS for way in WAYS if way in OF_ALL)]
