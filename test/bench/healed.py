"""How much of what compression cost a healing wins back: perplexity of the original, compressed and healed model on two texts.

SmolLM2-135M-Instruct as `npm start` makes it. `p50`: q, k, v, o, gate and up of blocks 4–29 at half their parameters; `l80`, `l60`: what
the planner may compress, so that all layers together keep 80 and 60%. Method `fisher`, sizes by predicted loss, calibrated on 16 sequences
of 512 tokens of WikiText-2's training text (the built-in text where BONDWISE_TEST_DATA has none). Healed on that text and the built-in one,
measured on other sections of both, eight sequences of 512 tokens each; `won_back` is the part of the lost log-perplexity. A budget is in
tokens: as many as two quiet cores take in 5, 10 and 20 minutes, at 275 a second by the processor time of a step.

It takes hours. All that is made lies under BONDWISE_HOME/bench/healed, and when it is killed it goes on from there. BONDWISE_BENCH_STARTS,
_TOKENS (numbers), _DISTILL (shares) and _RATE make other rows.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from bondwise.allocate import Candidate, Problem, Target, choose, sweep
from bondwise.checkpoint import open_checkpoint
from bondwise.evaluate import score
from bondwise.loading import load_model, load_tokenizer
from bondwise.modelmap import map_model
from bondwise.predict import Point
from bondwise.queue import bondwise_home
from bondwise.schema import Budget
from bondwise.text import token_sequences

if TYPE_CHECKING:
    from pathlib import Path

    from bondwise.modelmap import Layer

DATA = os.environ.get("BONDWISE_TEST_DATA")
MODEL = bondwise_home() / "demo" / "SmolLM2-135M-Instruct"
MADE = bondwise_home() / "bench" / "healed"
TEXT = f"{DATA}/wikitext2/train_2mb.txt" if DATA else "builtin"
MEASURED = {"documentation": "builtin"} | ({"wikitext": f"{DATA}/wikitext2/test.txt"} if DATA else {})
STARTS = os.environ.get("BONDWISE_BENCH_STARTS", "p50 l80 l60").split()
BUDGETS = [int(tokens) for tokens in os.environ.get("BONDWISE_BENCH_TOKENS", "81920 163840 327680").split()]
SHARES = os.environ.get("BONDWISE_BENCH_DISTILL", "0.5 0").split()
RATE = os.environ.get("BONDWISE_BENCH_RATE", "2e-4")
PARTS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj")
LENGTH, BATCH, VALIDATIONS = 256, 1, 4


def engine(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "bondwise", *arguments], check=True, stdout=sys.stderr)


def layers_of(start: str) -> tuple[list[Layer], float]:
    """Which layers, and what part of their parameters stays."""
    every = map_model(open_checkpoint(MODEL)).layers
    first = 4 if start == "p50" else 1
    some = [layer for layer in every if layer.block >= first and layer.name.rsplit(".", 1)[-1] in PARTS]
    whole, theirs = (sum(layer.weight_parameters for layer in found) for found in (every, some))
    return some, 0.5 if start == "p50" else 1 - (1 - int(start[1:]) / 100) * whole / theirs


def compressed(start: str) -> Path:
    """The folder, made once: spectra of the profile, then the cheapest loss for the size."""
    made = MADE / start
    if made.is_dir():
        return made
    profile = MADE / "m.sensitivity.json"
    text = ["--data", TEXT, "--length", "512", "--sequences", "16"]
    engine(
        "profile",
        str(MODEL),
        "--spectral",
        *text,
        "--output",
        str(profile),
        "--run",
        str(MADE / "profile"),
    )
    curves = {curve["layer"]: curve for curve in json.loads(profile.read_text())["curves"]}
    some, keep = layers_of(start)
    candidates: list[Candidate] = []
    for layer in some:
        curve = curves[layer.name]
        rows = sorted(
            zip(curve["chi"], curve["parameters"], curve["fisher"], strict=True),
            key=lambda row: -row[1],
        )
        candidates.append(
            Candidate(
                layer,
                tuple(Point(*row, 0.0, 0.0) for row in rows if row[1] < layer.weight_parameters),
            )
        )
    total = sum(layer.weight_parameters for layer in some)
    problem = Problem(parameters=total, bytes=2 * total, baseline=None, candidates=tuple(candidates))
    state = choose(
        problem,
        sweep(problem),
        Target("parameters", keep * total),
        Budget(profile="", target="", floor=0, ceiling=1),
    )
    rules = [
        {"layers": [one.layer.name], "chi": one.points[at].chi, "method": "fisher"}
        for one, at in zip(candidates, state, strict=True)
        if at is not None
    ]
    options = {
        "tensorize": rules,
        "output": str(made),
        "calibration": {"data": TEXT, "length": 512, "sequences": 16},
    }
    run = MADE / f"{start}-run"
    if not run.is_dir():
        run.mkdir(parents=True)
        request = {
            "version": 1,
            "kind": "tensorize",
            "created": "2026-01-01T00:00:00Z",
            "title": start,
            "model": str(MODEL),
        }
        (run / "run.json").write_text(json.dumps({**request, "options": options}))
    engine("start", str(run))
    return made


def measured(folder: Path) -> dict[str, float]:
    """Perplexity by text, measured once."""
    kept = MADE / f"{folder.name}.perplexity.json"
    if not kept.is_file():
        tokenizer, model = load_tokenizer(MODEL), load_model(folder)
        texts = {name: token_sequences(tokenizer, text, "evaluation", length=512, sequences=8, seed=0) for name, text in MEASURED.items()}
        found = {name: math.exp(statistics.fmean(float(score(model, row).losses.mean()) for row in ids)) for name, ids in texts.items()}
        kept.write_text(json.dumps(found))
    return json.loads(kept.read_text())


def healed(start: str, tokens: int, distill: str) -> Path:
    """The folder, made once. A run that was stopped goes on."""
    made, run = (MADE / f"{start}-{tokens}-{distill}{what}" for what in ("", ".run"))
    if not made.is_dir():
        sources = [argument for data in dict.fromkeys([TEXT, "builtin"]) for argument in ("--data", data)]
        shape = [
            "--length",
            str(LENGTH),
            "--batch",
            str(BATCH),
            "--validations",
            str(VALIDATIONS),
            "--save-minutes",
            "2",
        ]
        asked = ["--tokens", str(tokens), "--distill", distill, "--learning-rate", RATE]
        engine(
            "heal",
            str(MADE / start),
            *sources,
            *shape,
            *asked,
            "--output",
            str(made),
            "--run",
            str(run),
        )
    return made


def speed(start: str, tokens: int, distill: str) -> float:
    """The fastest stretch between two told steps."""
    events = [json.loads(line) for line in (MADE / f"{start}-{tokens}-{distill}.run" / "events.ndjson").read_text().splitlines()]
    return max(event["tokens_per_second"] for event in events if event["type"] == "heal-step")


def bench() -> list[dict[str, Any]]:
    MADE.mkdir(parents=True, exist_ok=True)
    original = measured(MODEL)
    rows: list[dict[str, Any]] = []

    def row(start: str, tokens: int, distill: str, folder: Path, before: dict[str, float]) -> None:
        found = measured(folder)
        new: dict[str, Any] = {"start": start, "tokens": tokens, "distill": distill}
        for name, perplexity in found.items():
            new[f"{name}_perplexity"] = round(perplexity, 2)
            new[f"{name}_times"] = round(perplexity / original[name], 2)
            new[f"{name}_won_back"] = round(
                math.log(before[name] / perplexity) / math.log(before[name] / original[name]),
                3,
            )
        new["tokens_per_second"] = round(speed(start, tokens, distill)) if tokens else None
        print(f"healed {new}", file=sys.stderr, flush=True)
        rows.append(new)

    for start in STARTS:
        before = measured(compressed(start))
        row(start, 0, "", MADE / start, before)
        for tokens in BUDGETS:
            for distill in SHARES:
                row(start, tokens, distill, healed(start, tokens, distill), before)
    return rows
