"""The cells of a profile: the metric of the whole model with one layer at one size, measured coarse to fine.

Fast by design: a layer is decomposed once for all sizes, passes start at the changed block (`replay`), and a cell gets only as many
sequences as its standard error needs (`paired`).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import torch

from bondwise.checkpoint import check_finite
from bondwise.errors import UserError
from bondwise.evaluate import _exp
from bondwise.first_order import first_order
from bondwise.harness import TASK, TaskHarness
from bondwise.paired import Reference, Samples, Spread, reference, score
from bondwise.predict import _predicted
from bondwise.profile_places import asked_sizes, rounds, spread
from bondwise.replay import Replay, is_transposed, layer_module
from bondwise.schema import BaselineEvent, Cell, CellEvent, Figure
from bondwise.terminal import duration
from bondwise.truncations import Truncations
from bondwise.walk import Walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bondwise.modelmap import Layer
    from bondwise.profile_file import Book
    from bondwise.profile_needs import Budgets
    from bondwise.profile_places import Place, Size
    from bondwise.run import Run
    from bondwise.schema import ProfileOptions
    from bondwise.streaming import StreamedModel
    from bondwise.told import Told

BATCH = {"cpu": 1}
"""Sizes of one layer that pass through the model together, by kind of device. A CPU is busy with one already."""
BATCH_ELSEWHERE = 4

Todo = list[tuple["Place", list["Size"]]]


@dataclass(frozen=True)
class Work:
    """What every step of a profile needs. `ids` [sequences, length] int64; `container` is the path of the blocks."""

    run: Run
    options: ProfileOptions
    book: Book
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    ids: Tensor
    container: str | None
    budgets: Budgets
    told: Told
    streamed: StreamedModel | None = None
    """Of the model, where its blocks have weights only one at a time."""

    def weight(self, layer: Layer) -> Tensor:
        """The dense weight [out, in], in the model's memory or read for this. Raises UserError when it is not finite."""
        if self.streamed is not None:
            return self.streamed.weight(layer)
        module = layer_module(self.model, layer)
        weight = cast("Tensor", module.weight).detach()
        check_finite(layer.tensors[0], weight)
        return weight.mT if is_transposed(module) else weight

    def missing(self, places: Sequence[Place]) -> Todo:
        """The cells without a figure of the metric as precise as is asked for, coarse to fine."""
        found = list[tuple["Place", list["Size"]]]()
        for wanted in rounds(*asked_sizes(self.options)):
            for block in spread(place.layer.block for place in places):
                for place in places:
                    sizes = [size for size in place.sizes if size.asked in wanted and not self._has(place, size)]
                    if place.layer.block == block and sizes:
                        found.append((place, sizes))
        return found

    def _has(self, place: Place, size: Size) -> bool:
        cell = self.book.cells.get((place.layer.name, size.chi))
        return cell is not None and self.options.metric in cell.figures and cell.precision <= self.options.precision

    def add(self, cell: Cell) -> None:
        self.book.add(cells=[cell])
        self.run.emit(CellEvent, cell=cell)
        self.book.write_sometimes()

    def tell_baseline(self, values: dict[str, float]) -> None:
        if any(name not in self.book.baseline for name in values):
            self.book.add(baseline=values)
            self.run.emit(BaselineEvent, baseline=values)


# --- by sequences --------------------------------------------------------------------------------------------------------------------


def measure_baseline(work: Work) -> None:
    """The figures of the original model alone."""
    if "loss" in work.book.baseline:
        return
    if work.streamed is None:
        _references(work, Replay(work.model, None, work.ids, (), budget=0).original, keep=False)
        return
    work.run.phase("Measuring the original model")
    walk = Walk(work.streamed, work.ids)
    states = walk.start
    for block in range(len(walk.blocks)):
        with walk.filled(block), torch.no_grad():
            for number, state in enumerate(states):
                work.run.check_cancelled()
                states[number] = walk.step(block, state)
        work.run.progress(block + 1, len(walk.blocks), "blocks")
    _references(work, lambda number: walk.leave(number, states[number]), keep=False)


def measure(work: Work, places: Sequence[Place]) -> None:
    """The cells that are not there yet, each from as many sequences as its standard error needs.

    Raises UserError where the original's loss is not finite; a cell whose loss is not is left out with a warning.
    """
    todo = work.missing(places)
    if not todo:
        return
    blocks = {place.layer.block for place, _ in todo}
    replay = Replay(work.model, work.container, work.ids, blocks, budget=work.budgets.states)
    references, seconds = _references(work, replay.original, keep=work.budgets.probabilities)
    if not replay.reuses:
        work.told.warn("Hidden states cannot be reused in this model: every cell passes through all of it.")
    decomposed = Decomposed(work, places)
    left, total = sum(len(sizes) for _, sizes in todo), sum(len(place.sizes) for place in places)
    slopes = _slopes(work, replay, decomposed, {place.layer.name: place for place, _ in todo})
    depth = 1 + max(blocks)
    longest = sum(len(sizes) * (1 - place.layer.block / (depth + 1)) for place, sizes in todo) * seconds * len(work.ids)
    work.run.phase(f"Measuring {left:,} cells, at most {duration(longest)}")
    cells = _Cells(work, replay, references, decomposed, slopes)
    for cell in work.book.cells.values():
        cells.spread.learn(cell)
    for place, sizes in todo:
        work.run.progress(total - left, total, "cells")
        for cell in cells.of(place, sizes):
            work.add(cell)
            left -= 1
            work.run.progress(total - left, total, "cells")


@torch.no_grad()
def _references(work: Work, original: Callable[[int], Tensor], *, keep: bool) -> tuple[list[Reference], float]:
    """What the original says of each sequence, and the seconds that one takes. `original` gives its logits [length, vocabulary]."""
    work.run.phase("Measuring the original model")
    found: list[Reference] = []
    seconds: list[float] = []
    for number, sequence in enumerate(work.ids):
        work.run.check_cancelled()
        begun = time.perf_counter()
        found.append(reference(original(number), sequence, keep=keep))
        seconds.append(time.perf_counter() - begun)
        work.run.progress(len(found), len(work.ids), "sequences")
    loss = math.fsum(float(one.losses.double().mean()) for one in found) / len(found)
    if not math.isfinite(loss):
        raise UserError(
            f"The model's loss on {work.options.data} is {loss}: its weights or its activations overflow.", "Use another dtype."
        )
    work.tell_baseline({"loss": loss, "perplexity": _exp(loss), "kl": 0.0, "agreement": 1.0})
    return found, min(seconds)


class Decomposed:
    """Layers at their sizes, kept where the memory for it allows."""

    def __init__(self, work: Work, places: Sequence[Place]) -> None:
        self._work = work
        self._places = {place.layer.name: place for place in places}
        self._kept: dict[str, Truncations] = {}
        self._room = work.budgets.cores

    def __call__(self, layer: Layer) -> Truncations:
        if (there := self._kept.get(layer.name)) is not None:
            return there
        place = self._places[layer.name]
        made = Truncations(self._work.weight(layer), place.out_modes, place.in_modes, [size.bonds for size in place.sizes])
        if made.bytes <= self._room:
            self._room -= made.bytes
            self._kept[layer.name] = made
        return made


def _slopes(work: Work, replay: Replay, decomposed: Decomposed, places: dict[str, Place]) -> dict[tuple[str, int], list[float]]:
    """By layer and χ the first-order loss difference of each sequence; nothing where all sequences are measured anyway."""
    if work.options.precision == 0 or work.options.metric != "perplexity" or len(work.ids) == 1:
        return {}
    work.run.phase("Measuring the slope of the loss")
    found = first_order(
        replay,
        [place.layer for place in sorted(places.values(), key=lambda place: place.layer.block)],
        lambda layer: [decomposed(layer).weight(size.bonds) for size in places[layer.name].sizes],
        budget=work.budgets.gradients,
        progress=lambda done, total: work.run.progress(done, total, "steps"),
        check_cancelled=work.run.check_cancelled,
    )
    return {(name, size.chi): values for name, each in found.items() for size, values in zip(places[name].sizes, each, strict=True)}


@dataclass(frozen=True)
class _Cells:
    """Makes cells from passes over sequences."""

    work: Work
    replay: Replay
    references: list[Reference]
    decomposed: Decomposed
    slopes: dict[tuple[str, int], list[float]]
    spread: Spread = field(default_factory=Spread)

    def of(self, place: Place, sizes: Sequence[Size]) -> Iterator[Cell]:
        """The cells of one layer, each as soon as it needs no more sequences."""
        work, truncations = self.work, self.decomposed(place.layer)
        ratio = self._ratio(place)
        going = {size: self._samples(place, size, ratio) for size in sizes}
        seconds = dict.fromkeys(sizes, 0.0)
        for number in range(len(work.ids)):
            shared = self.replay.original(number) if self.references[number].probabilities is None and going else None
            for group in _batches(list(going), BATCH.get(work.run.device, BATCH_ELSEWHERE)):
                work.run.check_cancelled()
                begun = time.perf_counter()
                logits = self._logits(number, place.layer, [truncations.weight(size.bonds) for size in group])
                for size, one in zip(group, logits, strict=True):
                    going[size].scores.append(score(one, work.ids[number], self.references[number], shared))
                spent = (time.perf_counter() - begun) / len(group)
                seconds |= {size: seconds[size] + spent for size in group}
            for size in [size for size, samples in going.items() if samples.enough(work.options.metric, work.options.precision)]:
                samples = going.pop(size)
                try:
                    precision = 0.0 if len(samples.scores) == samples.total else work.options.precision
                    spread = samples.relative_variance(work.options.metric)
                    cell = _cell(place, size, samples.figures(), len(samples.scores), precision, seconds[size], spread)
                except ValueError as failure:
                    work.told.warn(f"{place.layer.name} at χ {size.chi} is left out: {failure}.")
                else:
                    self.spread.learn(cell)
                    yield cell

    def _logits(self, number: int, layer: Layer, weights: list[Tensor]) -> Iterator[Tensor]:
        """[length, vocabulary] of each variant."""
        try:
            together = self.replay.variants(number, layer, weights)
        except ValueError:
            for weight in weights:
                yield self.replay.variants(number, layer, [weight])[0]
        else:
            yield from together

    def _samples(self, place: Place, size: Size, ratio: float) -> Samples:
        book, name = self.work.book, place.layer.name
        slopes = self.slopes.get((name, size.chi))
        return Samples(len(self.work.ids), book.baseline["loss"], slopes, ratio * _predicted(book.curves[name], size.chi), self.spread)

    def _ratio(self, place: Place) -> float:
        """Measured to predicted rise beyond the first order, the median over the layer's cells; 1 before there is one."""
        book, name, found = self.work.book, place.layer.name, list[float]()
        for size in place.sizes:
            cell, slopes = book.cells.get((name, size.chi)), self.slopes.get((name, size.chi))
            predicted = _predicted(book.curves[name], size.chi)
            if cell is not None and "loss" in cell.figures and slopes is not None and predicted > 0:
                found.append((cell.figures["loss"].value - book.baseline["loss"] - math.fsum(slopes) / len(slopes)) / predicted)
        return max(sorted(found)[len(found) // 2], 0.0) if found else 1.0


# --- by a task -----------------------------------------------------------------------------------------------------------------------


def measure_task(work: Work, places: Sequence[Place]) -> None:
    """The cells that have no figure of the task yet. Raises UserError as `harness`."""
    todo, metric = work.missing(places), work.options.metric
    if not todo:
        return
    harness = TaskHarness(work.model, work.tokenizer, metric.removeprefix(TASK), work.options.limit, work.run.request.seed)
    work.run.phase(f"Measuring the original model on {harness.name}")
    begun = time.monotonic()
    original = harness.score()
    work.tell_baseline({metric: original.mean})
    left, total = sum(len(sizes) for _, sizes in todo), sum(len(place.sizes) for place in places)
    work.run.phase(f"Measuring {left:,} cells on {harness.name}, about {duration(left * (time.monotonic() - begun))}")
    decomposed = Decomposed(work, places)
    for place, sizes in todo:
        for size in sizes:
            work.run.check_cancelled()
            begun = time.perf_counter()
            found = harness.score(place.layer, decomposed(place.layer).weight(size.bonds))
            figure = Figure(value=found.mean, error=found.paired_error(original))
            work.add(_cell(place, size, {metric: figure}, len(found.items), 0.0, time.perf_counter() - begun))
            left -= 1
            work.run.progress(total - left, total, "cells")


# --- pure ----------------------------------------------------------------------------------------------------------------------------


def _cell(  # noqa: PLR0917 -- its fields
    place: Place, size: Size, figures: dict[str, Figure], sequences: int, precision: float, seconds: float, spread: float | None = None
) -> Cell:
    return Cell(
        layer=place.layer.name,
        chi=size.chi,
        bond_dims=list(size.bonds),
        keep=size.parameters / place.layer.weight_parameters,
        parameters=size.parameters,
        figures=figures,
        sequences=sequences,
        precision=precision,
        seconds=seconds,
        spread=spread,
    )


def _batches(sizes: list[Size], count: int) -> list[list[Size]]:
    return [sizes[start : start + count] for start in range(0, len(sizes), count)]
