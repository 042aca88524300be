"""Time of a measured profile: the naive way, ours with all sequences, and ours with as many as its standard error needs (adaptive).

Some layers of SmolLM2-135M-Instruct over its depth, as `npm start` makes it; layer by layer in turns, so that the three meet the same
machine. Naive: a decomposition and passes through the whole model for every cell. `once_s` is what comes before the first cell, however
many there are (840 in a whole profile); `times_faster` counts it, `cells_faster` does not. `correlation` is Spearman's rank correlation
with the naive profile, and `difference` the largest difference from it of a cell that both measured in full (nats per token).
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from bondwise import mpo
from bondwise.calibrate import collect_moments, find_directions
from bondwise.checkpoint import open_checkpoint
from bondwise.evaluate import score
from bondwise.loading import load_model, load_tokenizer
from bondwise.measured import Decomposed, Work, _Cells, _references, _slopes
from bondwise.modelmap import map_model
from bondwise.profile_file import Book
from bondwise.profile_needs import Budgets
from bondwise.profile_places import resolve_places
from bondwise.queue import bondwise_home
from bondwise.replay import Replay, replaced_weight
from bondwise.schema import BaseModelRef, Cell, ProfileOptions, Sensitivity
from bondwise.spectral import curve, rank_correlation
from bondwise.text import token_sequences

if TYPE_CHECKING:
    from bondwise.profile_places import Place, Size

MODEL = bondwise_home() / "demo" / "SmolLM2-135M-Instruct"
LAYERS = [f"*.{block}.{name}" for block in (3, 7, 11, 15, 19, 23, 27) for name in ("*.q_proj", "*.v_proj", "*.up_proj", "*.down_proj")]
KEEPS = [0.2, 0.4, 0.6, 0.8]
LENGTH, SEQUENCES = 256, 8
IN_FULL = 3
"""One layer in so many is measured by the full way too: it only shows that the cells are the same."""
ROOM = 4 << 30


def prepare() -> tuple[Work, list[Place]]:
    """The model, text and curves that all three ways share."""
    options = ProfileOptions(layers=LAYERS, keep=KEEPS, length=LENGTH, sequences=SEQUENCES, output="profile.sensitivity.json")
    source = open_checkpoint(MODEL)
    model_map, tokenizer = map_model(source), load_tokenizer(MODEL)
    places = resolve_places(model_map, options, print)
    ids = token_sequences(tokenizer, "builtin", "calibration", length=LENGTH, sequences=SEQUENCES)
    header = Sensitivity(
        engine="",
        created="",
        model=BaseModelRef(path="", name=MODEL.name, fingerprint=""),
        sites="low-rank",
        data="builtin",
        text="",
        length=LENGTH,
        sequences=SEQUENCES,
        seed=0,
        metric="perplexity",
        sizes=KEEPS,
        sizes_are="keep",
        layers=[place.entry for place in places],
    )
    run: Any = SimpleNamespace(device="cpu", request=SimpleNamespace(seed=0))
    for name in ("check_cancelled", "phase", "progress", "emit"):
        setattr(run, name, lambda *_, **__: None)
    book = Book(MODEL / "never-written", header)
    model = load_model(MODEL)
    budgets = Budgets(ROOM, ROOM, ROOM, ROOM, True, 0, 0, 0, 0)
    work = Work(run, options, book, model, tokenizer, ids, model_map.container, budgets, run)
    layers = [place.layer for place in places]
    told: dict[str, Any] = {"progress": lambda done, total: None, "check_cancelled": lambda: None}
    moments = collect_moments(model, layers, ids, directions=find_directions(model, layers, **told), seed=0, **told)
    book.add(
        curves=[
            curve(place.layer.name, work.weight(place.layer), moments[place.layer.name], place.out_modes, place.in_modes)
            for place in places
        ]
    )
    return work, places


class Ours:
    """A way that begins once and then gives cells layer by layer."""

    def __init__(self, work: Work, places: list[Place]) -> None:
        started = time.perf_counter()
        book = Book(MODEL / "never-written", work.book.header)
        book.add(curves=work.book.curves.values())
        work = replace(work, book=book)
        replay = Replay(work.model, work.container, work.ids, {place.layer.block for place in places}, budget=ROOM)
        references, _ = _references(work, replay, keep=True)
        decomposed = Decomposed(work, places)
        slopes = _slopes(work, replay, decomposed, {place.layer.name: place for place in places})
        self.baseline = book.baseline["loss"]
        self._cells = _Cells(work, replay, references, decomposed, slopes)
        self.once = time.perf_counter() - started

    def layer(self, place: Place) -> list[Cell]:
        return list(self._cells.of(place, place.sizes))


class Naive:
    def __init__(self, work: Work) -> None:
        started = time.perf_counter()
        self._work = work
        self.baseline = statistics.fmean(float(score(work.model, row).losses.mean()) for row in work.ids)
        self.once = time.perf_counter() - started

    def layer(self, place: Place) -> list[float]:
        return [self._cell(place, size) for size in place.sizes]

    def _cell(self, place: Place, size: Size) -> float:
        work = self._work
        cores = mpo.decompose(work.weight(place.layer), place.out_modes, place.in_modes, chi=size.bonds).cores
        out_features, in_features = place.layer.shape
        weight = mpo.contract(cores)[:out_features, :in_features].float()
        with torch.no_grad(), replaced_weight(work.model, place.layer, weight):
            return statistics.fmean(float(score(work.model, row).losses.mean()) for row in work.ids)


def bench() -> list[dict[str, float | str | None]]:
    work, places = prepare()
    naive, full = Naive(work), Ours(replace(work, options=work.options.model_copy(update={"precision": 0.0})), places)
    adaptive = Ours(work, places)
    losses: list[float] = []
    ours: dict[str, list[Cell]] = {"full": [], "adaptive": []}
    seconds = dict.fromkeys(("naive", "full", "adaptive"), 0.0)
    beside = dict.fromkeys(("full", "adaptive"), 0.0)
    """Seconds of the naive way for the layers that each of ours has measured."""
    for number, place in enumerate(places):
        started = time.perf_counter()
        losses += naive.layer(place)
        spent = time.perf_counter() - started
        seconds["naive"] += spent
        for name, way in (("full", full), ("adaptive", adaptive)):
            if name == "full" and number % IN_FULL:
                continue
            started = time.perf_counter()
            # A cell comes when it needs no more sequences; the sizes of a place ascend in χ.
            ours[name] += sorted(way.layer(place), key=lambda cell: cell.chi)
            seconds[name] += time.perf_counter() - started
            beside[name] += spent
        so_far = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
        print(f"profile {place.layer.name}, {number + 1} of {len(places)}; cells so far: {so_far}", file=sys.stderr, flush=True)
    rises = {
        (place.layer.name, size.chi): loss - naive.baseline
        for (place, size), loss in zip(((place, size) for place in places for size in place.sizes), losses, strict=True)
    }
    whole = naive.once + seconds["naive"]
    rows: list[dict[str, float | str | None]] = [
        {
            "way": "naive",
            "cells": len(losses),
            "sequences": SEQUENCES,
            "once_s": round(naive.once, 1),
            "cells_s": round(seconds["naive"], 1),
        }
    ]
    for name, way in (("full", full), ("adaptive", adaptive)):
        found = [cell.figures["loss"].value - way.baseline for cell in ours[name]]
        expected = [rises[cell.layer, cell.chi] for cell in ours[name]]
        complete = [abs(one - other) for one, other, cell in zip(found, expected, ours[name], strict=True) if cell.sequences == SEQUENCES]
        share = len(found) / len(losses)
        rows.append(
            {
                "way": name,
                "cells": len(found),
                "sequences": round(statistics.fmean(cell.sequences for cell in ours[name]), 2),
                "once_s": round(way.once, 1),
                "cells_s": round(seconds[name], 1),
                "times_faster": round(whole / (way.once + seconds[name]), 2) if share == 1 else None,
                "cells_faster": round(beside[name] / seconds[name], 2),
                "correlation": rank_correlation(found, expected),
                "difference": max(complete, default=None),
            }
        )
    return rows
