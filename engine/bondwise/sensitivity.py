"""The run that profiles a model: what happens to it when one layer is compressed, predicted for every size and measured for some.

Curves first: one calibration pass and one decomposition a layer predict the loss at all sizes (`spectral`). Then cells, coarse to fine: the
metric of the whole model with one layer at one size (`measured`). Every figure goes to the journal when it is known, so that a run that was
killed repeats none; the profile file is written every minute, and at any end.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

from bondwise import __version__
from bondwise.calibration import Wanted, each_moments
from bondwise.checkpoint import open_checkpoint
from bondwise.device import device_memory
from bondwise.errors import UserError
from bondwise.evaluate import check_fits
from bondwise.figures_file import check_figures_path
from bondwise.harness import TASK
from bondwise.journal import JOURNAL, read_events, utc_now
from bondwise.loading import load_model, load_tokenizer
from bondwise.measured import Work, measure, measure_baseline, measure_task
from bondwise.memory import release_freed_memory
from bondwise.modelmap import find_container, map_model
from bondwise.paired import METRICS
from bondwise.predict import _predicted, measured_rise
from bondwise.profile_file import SUFFIX, Book, check_same, read_profile
from bondwise.profile_needs import Budgets, check_needs
from bondwise.profile_places import EVERYTHING, Place, asked_sizes, listed, resolve_places
from bondwise.replay import layer_module
from bondwise.schema import (
    BaseModelRef,
    CurveEvent,
    EstimateEvent,
    ProfileEvent,
    ProfileRequest,
    ProfileResult,
    Sensitivity,
)
from bondwise.spectral import curve, rank_correlation
from bondwise.streaming import StreamedModel, computing_dtype
from bondwise.text import calibration_sequences, fingerprint, token_sequences
from bondwise.told import Told

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bondwise.checkpoint import Checkpoint
    from bondwise.run import Run
    from bondwise.schema import ProfileOptions


def run(run: Run) -> ProfileResult:
    """The worker of `profile`.

    Raises UserError, before any work, for everything in the request, the model or the text that cannot be done and for a file in the place
    of the output that is of something else; later for weights that are not finite. What was found until then is in the file.
    """
    started = time.monotonic()
    request = cast("ProfileRequest", run.request)
    options, folder, output = request.options, Path(request.model), Path(request.options.output)
    check_figures_path(output, SUFFIX, "model")
    _check_metric(options.metric)
    run.phase(f"Reading {folder.name}")
    told = Told(run)
    source = open_checkpoint(folder, allow_code=request.allow_code)
    places = resolve_places(map_model(source), options, told.warn)
    tokenizer = load_tokenizer(folder, allow_code=request.allow_code)
    ids = token_sequences(
        tokenizer, options.data, "calibration", length=options.length, sequences=options.sequences, seed=request.seed
    )  # [sequences, length]
    calibration = _calibration_text(tokenizer, request, ids, told)
    book = Book(output, _header(request, source, ids, places))
    there = read_profile(output) if output.exists() else None
    if there is not None:
        check_same(output, there, book.header)
    budgets = _estimate(run, source, places)
    run.check_cancelled()

    run.phase(f"Loading {folder.name}")
    streamed = None if budgets.reading.way == "whole" else _streamed(run, source, budgets, told)
    model = load_model(folder, device=run.device, allow_code=request.allow_code) if streamed is None else streamed.model
    check_fits(model, ids)
    places = _with_modules(model, places, options, told)
    book.header = book.header.model_copy(update={"layers": [place.entry for place in places]})
    _begin(run, book, there)
    work = Work(run, options, book, model, tokenizer, ids, find_container(source.tensors.values()), budgets, told, streamed)
    with _always_written(book):
        _predict(work, source, calibration, places)
        if options.mode == "spectral":
            measure_baseline(work)
        elif options.metric.startswith(TASK):
            measure_task(work, places)
        else:
            measure(work, places)
    correlation = _correlation(book)
    book.write(correlation=correlation, complete=True)
    return ProfileResult(
        output=str(output),
        cells=len(book.cells),
        curves=len(book.curves),
        baseline=book.baseline,
        correlation=correlation,
        seconds=time.monotonic() - started,
    )


# --- before the work -----------------------------------------------------------------------------------------------------------------


def _check_metric(metric: str) -> None:
    if metric not in METRICS and not (metric.startswith(TASK) and len(metric) > len(TASK)):
        raise UserError(
            f"There is no metric {metric!r}.", f"Use {', '.join(METRICS)}, or {TASK}NAME with a task of the LM Evaluation Harness."
        )


def _calibration_text(tokenizer: PreTrainedTokenizerBase, request: ProfileRequest, ids: Tensor, told: Told) -> Tensor:
    """Token ids [sequences, length] int64: as many sequences as a run after this one is calibrated on; `ids` where the text has no more."""
    options = request.options
    count = calibration_sequences(options.sequences)
    try:
        return token_sequences(tokenizer, options.data, "calibration", length=options.length, sequences=count, seed=request.seed)
    except UserError:
        told.warn(f"The text is short: curves are predicted from {options.sequences} sequences of {options.length} tokens, not {count}.")
        return ids


def _header(request: ProfileRequest, source: Checkpoint, ids: Tensor, places: Sequence[Place]) -> Sensitivity:
    options, folder = request.options, Path(request.options.output).parent
    asked, are = asked_sizes(options)
    return Sensitivity(
        engine=__version__,
        created=utc_now(),
        model=BaseModelRef(path=os.path.relpath(source.folder, folder), name=source.folder.name, fingerprint=source.fingerprint()),
        sites=options.sites,
        data=os.path.relpath(options.data, folder) if Path(options.data).is_absolute() else options.data,
        text=fingerprint(ids),
        length=options.length,
        sequences=options.sequences,
        seed=request.seed,
        metric=options.metric,
        sizes=asked,
        sizes_are=are,
        layers=[place.entry for place in places],
    )


def _estimate(run: Run, source: Checkpoint, places: Sequence[Place]) -> Budgets:
    budgets = check_needs(run, source, places)
    run.emit(
        EstimateEvent,
        layers=len(places),
        parameters=source.parameters,
        original_parameters=source.parameters,
        memory=budgets.memory,
        memory_available=budgets.memory_available,
        disk=budgets.disk,
        disk_available=budgets.disk_available,
    )
    return budgets


def _streamed(run: Run, source: Checkpoint, budgets: Budgets, told: Told) -> StreamedModel:
    told.warn(f"The model does not fit in {budgets.memory_available / 1e9:.1f} GB of memory: it is read block by block.")
    dtype = computing_dtype(source, run.device)
    return StreamedModel(source, device=run.device, dtype=dtype, allow_code=run.request.allow_code)


def _with_modules(model: PreTrainedModel, places: Sequence[Place], options: ProfileOptions, told: Told) -> list[Place]:
    """The layers that are modules of the loaded model. Raises UserError for a named one that is not, and where none is."""
    kept: list[Place] = []
    without: list[str] = []
    for place in places:
        try:
            layer_module(model, place.layer)
        except ValueError:
            without.append(place.layer.name)
        else:
            kept.append(place)
    if without:
        what = f"{listed(without)}: not a linear layer of its own in the loaded model (transformers fuses some experts)"
        if options.layers != EVERYTHING or not kept:
            raise UserError(f"{what}, so it cannot be profiled.", "Leave it out (--exclude).")
        told.warn(f"{what}; left out.")
    return kept


def _begin(run: Run, book: Book, there: Sensitivity | None) -> None:
    """Takes in what an earlier process of this run, and an earlier profile in the same file, have found, and tells what is covered."""
    journal = run.directory / JOURNAL
    events, _ = read_events(journal.read_bytes(), str(journal))
    asked = book.header
    told = book.fold(events)
    known = (len(book.curves), book.cells)
    if there is not None:
        known = (len(book.curves), dict(book.cells))
        book.merge(there)
    book.header = asked.model_copy(update={"layers": book.header.layers})
    if not told or known != (len(book.curves), book.cells):
        run.emit(ProfileEvent, profile=book.profile())


@contextmanager
def _always_written(book: Book) -> Generator[None]:
    """Whatever ends the block early, the file then has what was found; an empty one is not written."""
    try:
        yield
    except BaseException:
        if book.curves or book.cells:
            # The disk may be what failed: the first failure is the one to tell.
            with suppress(OSError):
                book.write(correlation=_correlation(book))
        raise


def _correlation(book: Book) -> float | None:
    """Of predicted and measured rise of the loss over the cells, as the planner reads them; the method is plain, and so is the curve."""
    pairs = [
        (_predicted(book.curves[cell.layer], cell.chi), rise[0])
        for cell in book.cells.values()
        if cell.layer in book.curves and (rise := measured_rise(cell, book.baseline.get("loss"))) is not None
    ]
    return rank_correlation([first for first, _ in pairs], [second for _, second in pairs])


# --- curves --------------------------------------------------------------------------------------------------------------------------


def _predict(work: Work, source: Checkpoint, ids: Tensor, places: Sequence[Place]) -> None:
    """The curves that are not there yet, from the moments of as many layers at a time as the memory holds."""
    chis = {place.layer.name: _chis(work, place) for place in places}
    missing = {place.layer.name: place for place in places if chis[place.layer.name]}
    done = len(places) - len(missing)
    for name, moments in each_moments(
        work.run,
        source,
        ids,
        [Wanted(place.layer, directions=True) for place in missing.values()],
        model=lambda: work.streamed or work.model,
        room=lambda: _room(work),
        warn=work.told.warn,
        work="Predicting the loss at every size",
        files=work.run.checkpoints / "states" if work.budgets.reading.way == "files" else None,
    ):
        work.run.check_cancelled()
        place = missing[name]
        found = curve(name, work.weight(place.layer), moments, place.out_modes, place.in_modes, chis[name])
        work.book.add(curves=[found])
        work.run.emit(CurveEvent, curve=found)
        done += 1
        work.run.progress(done, len(places), "layers")
        work.book.write_sometimes()
    release_freed_memory()


def _room(work: Work) -> int:
    """Bytes for moments."""
    if work.streamed is None:
        return work.budgets.moments
    return device_memory(work.run.device).free - work.budgets.reading.beside


def _chis(work: Work, place: Place) -> list[int]:
    """The sizes to predict a layer at; none where that was done: a low-rank curve has every size, others those that were asked for."""
    there = work.book.curves.get(place.layer.name)
    wanted = {size.chi for size in place.sizes}
    if there is not None and (work.options.sites == "low-rank" or wanted <= set(there.chi)):
        return []
    return sorted(wanted | set(there.chi if there is not None else ()))
