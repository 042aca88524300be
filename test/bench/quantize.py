"""Recipes of fewer bits on the sample model: size, bits a parameter, seconds, and perplexity with its standard error on two texts.

SmolLM2-135M-Instruct as `npm start` makes it; every linear layer of the blocks quantized, embedding and norms as they are. Calibrated on
WikiText-2 where BONDWISE_TEST_DATA has it, measured on other sections of that text (`same`) and on the built-in documentation (`other`);
without it on the built-in text alone. Each row is a run of the engine, with its real folder; `rise` is the rise of the mean loss and
`rise_error` the standard error of the paired difference to the original.

BONDWISE_BENCH_RECIPES chooses rows, such as `original nf4 compensated-4 3.5bits`; a budget ends in `bits`. `/alone` behind one makes each
layer for itself instead of in sequence, `/bits` leaves a budget no low rank and no corrections. Tables of schemes and moments are kept
under BONDWISE_HOME, so a second run is faster.
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
from typing import TYPE_CHECKING, Any
from unittest import mock

from bondwise import quantize_budget
from bondwise.checkpoint import open_checkpoint
from bondwise.evaluate import score
from bondwise.loading import load_model, load_tokenizer
from bondwise.modelmap import map_model
from bondwise.queue import bondwise_home
from bondwise.run import start
from bondwise.scheme_plan import plan_schemes
from bondwise.text import token_sequences

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bondwise.modelmap import Layer
    from bondwise.schema import SchemeChoice
    from bondwise.scheme_plan import SchemePlan

MODEL = bondwise_home() / "demo" / "SmolLM2-135M-Instruct"
DATA = os.environ.get("BONDWISE_TEST_DATA")
CALIBRATION = f"{DATA}/wikitext2/train_2mb.txt" if DATA else "builtin"
RECIPES = os.environ.get(
    "BONDWISE_BENCH_RECIPES",
    "original int8 nf4 nf4-double compensated-4 4.25bits 3.5bits 3.5bits/bits compensated-3/alone compensated-3 3bits/alone 3bits/bits "
    "3bits 2.5bits/alone 2.5bits/bits 2.5bits compensated-2 2.25bits/bits 2.25bits",
).split()
LENGTH, SEQUENCES = 512, int(os.environ.get("BONDWISE_BENCH_SEQUENCES", "16"))


class Bench:
    def __init__(self) -> None:
        tokenizer = load_tokenizer(MODEL)
        texts = {"same": f"{DATA}/wikitext2/test.txt"} if DATA else {}
        self.ids = {
            name: token_sequences(tokenizer, text, "evaluation", length=LENGTH, sequences=SEQUENCES)
            for name, text in {**texts, "other": "builtin"}.items()
        }
        self.losses = self._losses(MODEL)
        source = open_checkpoint(MODEL)
        self.bytes = source.bytes
        layers = map_model(source).layers
        self.numbers = sum(layer.weight_parameters for layer in layers)
        self.elsewhere = source.bytes - sum(layer.bytes for layer in layers)

    def _losses(self, folder: Path) -> dict[str, list[float]]:
        """The mean loss of each sequence, by text."""
        model = load_model(folder)
        return {name: [float(score(model, row).losses.mean()) for row in ids] for name, ids in self.ids.items()}

    def row(self, recipe: str) -> dict[str, Any]:
        if recipe == "original":
            return self._row(recipe, self.losses, self.bytes, 0.0, None)
        with tempfile.TemporaryDirectory(prefix="bondwise-bench-") as place:
            directory, output = Path(place) / "run", Path(place) / "out"
            what, _, how = recipe.partition("/")
            options: dict[str, Any] = {"output": str(output), "calibration": {"data": CALIBRATION}, "sequential": how != "alone"}
            if what.endswith("bits"):
                options["budget"] = {"target": what}
            else:
                options["quantize"] = [{"layers": ["*"], "scheme": what}]
            directory.mkdir()
            request = {"version": 1, "kind": "quantize", "created": "2026-01-01T00:00:00Z", "title": recipe, "device": "cpu"}
            (directory / "run.json").write_text(json.dumps({**request, "model": str(MODEL), "options": options}))
            started = time.perf_counter()
            with mock.patch.object(quantize_budget, "plan_schemes", plan_bits if how == "bits" else plan_schemes):
                if start(directory) != 0:
                    raise RuntimeError((directory / "status.json").read_text())
            seconds = time.perf_counter() - started
            result = json.loads((directory / "result.json").read_text())
            predicted = sum(layer["loss"] for layer in result["layers"]) if result["backend"] == "packed" else None
            return self._row(recipe, self._losses(output), result["bytes"], seconds, predicted)

    def _row(self, recipe: str, losses: dict[str, list[float]], size: int, seconds: float, predicted: float | None) -> dict[str, Any]:
        row: dict[str, Any] = {"recipe": recipe, "mb": size / 1e6, "bits": 8 * (size - self.elsewhere) / self.numbers}
        for name, found in losses.items():
            mean = statistics.fmean(found)
            rises = [after - before for after, before in zip(found, self.losses[name], strict=True)]
            row[f"{name}_perplexity"] = math.exp(mean)
            row[f"{name}_error"] = math.exp(mean) * _error(found)
            row[f"{name}_rise"], row[f"{name}_rise_error"] = statistics.fmean(rises), _error(rises)
        row |= {"predicted_rise": predicted, "seconds": round(seconds)}
        print(f"quantize {row}", file=sys.stderr, flush=True)
        return row


def plan_bits(layers: Sequence[Layer], tables: Mapping[str, Sequence[SchemeChoice]], target: str, **known: Any) -> SchemePlan:
    """`plan_schemes` among the schemes without any rank."""
    return plan_schemes(layers, {name: [one for one in table if not one.rank] for name, table in tables.items()}, target, **known)


def _error(values: list[float]) -> float:
    """Standard error of the mean."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def bench() -> list[dict[str, Any]]:
    made = Bench()
    return [made.row(recipe) for recipe in RECIPES]
