"""The run that measures several models alike and gathers it all in `NAME.benchmark.json`.

Everything is checked first, for every model and task; then model by model: memory, perplexity, what it writes, the tasks, and its speed by
turns with the original. Each figure is in the journal and the file as soon as it is known, and none is measured twice of the same content.
"""

from __future__ import annotations

import os
import platform
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from bondwise import __version__
from bondwise.benchmark_file import SUFFIX, Book, read_benchmark, relative, task_key, with_known, with_task
from bondwise.benchmark_model import describe_model
from bondwise.checkpoint import open_checkpoint
from bondwise.device import device_memory
from bondwise.errors import UserError
from bondwise.evaluate import evaluate, greedy_sample
from bondwise.figures_file import check_figures_path
from bondwise.footprint import measure_footprint
from bondwise.harness import Harness
from bondwise.harness_tasks import check_names, library, library_version, load_tasks
from bondwise.journal import JOURNAL, read_events, utc_now
from bondwise.loading import load_model, load_tokenizer
from bondwise.memory import release_freed_memory
from bondwise.schema import (
    Benchmark,
    BenchmarkEvent,
    BenchmarkModel,
    BenchmarkModelEvent,
    BenchmarkRequest,
    BenchmarkResult,
    EstimateEvent,
    Perplexity,
    TaskResult,
    TextSample,
)
from bondwise.speed import Asked, measure_speed
from bondwise.text import token_sequences
from bondwise.told import Told
from bondwise.writing import free_bytes

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bondwise.checkpoint import Checkpoint
    from bondwise.harness_tasks import LoadedTask
    from bondwise.run import Run
    from bondwise.schema import BenchmarkOptions


class Subject(NamedTuple):
    """A model that is measured."""

    source: Checkpoint
    tokenizer: PreTrainedTokenizerBase
    path: str
    """As the file names it."""

    @property
    def name(self) -> str:
        return self.source.folder.name


def run(run: Run) -> BenchmarkResult:
    """The worker of `benchmark`.

    Raises UserError, before any work, for a model, a task or a text that cannot be used, naming all tasks whose data is missing; later
    where a model cannot do a task. What was measured until then is in the file.
    """
    started = time.monotonic()
    options = cast("BenchmarkRequest", run.request).options
    output = Path(options.output)
    check_figures_path(output, SUFFIX, "models")
    if options.tasks:
        library()
        check_names(options.tasks)
    told = Told(run)
    subjects = _open(run, options, output)
    there = read_benchmark(output) if output.exists() else None
    entries = _describe(run, subjects, output)
    original = _original(options, subjects, entries)
    book = Book(output, _header(run, options, entries[original].weights, there))
    _take_in(run, book, entries, there, told)
    _check_text(run, options, subjects)
    work = _Work(run, options, book, subjects, original, {}, told)
    tasks = _load_tasks(work)
    work = work._replace(tasks=tasks)
    _estimate(work)
    run.emit(BenchmarkEvent, benchmark=book.benchmark())
    before = _figures(book)
    with _always_written(book):
        _measure(work)
    book.write(complete=True)
    made = book.benchmark(complete=True)
    return BenchmarkResult(
        output=str(output),
        models=made.models,
        original=made.original,
        measured=_figures(book) - before,
        seconds=time.monotonic() - started,
    )


class _Work(NamedTuple):
    run: Run
    options: BenchmarkOptions
    book: Book
    subjects: list[Subject]
    original: int
    tasks: dict[str, LoadedTask]
    told: Told

    def entry(self, subject: Subject) -> BenchmarkModel:
        return self.book.models[subject.path]

    def put(self, entry: BenchmarkModel) -> None:
        self.book.put(entry)
        self.run.emit(BenchmarkModelEvent, model=entry, remarks=self.book.benchmark().remarks)
        self.book.write()

    def asked_task(self, name: str) -> tuple[object, ...]:
        options, output = self.options, Path(self.options.output)
        data = None if options.datasets is None else relative(Path(options.datasets), output)
        return name, options.limit, options.shots, options.chat, self.run.request.seed, data


# --- before the work -------------------------------------------------------------------------------------------------------------------


def _open(run: Run, options: BenchmarkOptions, output: Path) -> list[Subject]:
    """Raises UserError for a folder that is no model, is named twice, or has no chat template where one is asked for."""
    folders = [Path(folder) for folder in options.models]
    if options.original is not None and Path(options.original) not in folders:
        folders.insert(0, Path(options.original))
    subjects: list[Subject] = []
    for folder in folders:
        run.phase(f"Reading {folder.name}")
        run.check_cancelled()
        source = open_checkpoint(folder, allow_code=run.request.allow_code)
        if any(source.folder.samefile(other.source.folder) for other in subjects):
            raise UserError(f"{folder} is named twice.", "Name each model once.")
        tokenizer = load_tokenizer(folder, allow_code=run.request.allow_code)
        if options.chat and not getattr(tokenizer, "chat_template", None):
            raise UserError(
                f"The tokenizer of {folder} has no chat template.", "Measure without one (leave out --chat), or leave the model out."
            )
        subjects.append(Subject(source, tokenizer, relative(source.folder, output)))
    return subjects


def _describe(run: Run, subjects: Sequence[Subject], output: Path) -> list[BenchmarkModel]:
    total = sum(subject.source.bytes for subject in subjects)
    done = 0

    def step(count: int) -> None:
        nonlocal done
        done += count
        run.check_cancelled()
        run.progress(round(min(done, total) / 1e6, 1), round(total / 1e6, 1), "MB")

    run.phase("Reading the models' files")
    return [describe_model(subject.source, output, step) for subject in subjects]


def _original(options: BenchmarkOptions, subjects: Sequence[Subject], entries: Sequence[BenchmarkModel]) -> int:
    """Which model the others are compared with: the named one, else the base of another, else the first that is dense, else the first."""
    if options.original is not None:
        return next(at for at, one in enumerate(subjects) if one.source.folder.samefile(options.original))
    bases = {entry.base for entry in entries}
    plain = [at for at, entry in enumerate(entries) if not entry.mpo_layers and entry.scheme is None]
    return next((at for at in plain if entries[at].fingerprint in bases), plain[0] if plain else 0)


def _header(run: Run, options: BenchmarkOptions, original: str, there: Benchmark | None) -> Benchmark:
    return Benchmark(
        engine=__version__,
        harness=library_version() if options.tasks or there is None else there.harness,
        created=utc_now(),
        machine=_machine(run.device),
        device=run.device,
        original=original,
        models=there.models if there is not None else [],
    )


def _machine(device: str) -> str:
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def _take_in(run: Run, book: Book, entries: Sequence[BenchmarkModel], there: Benchmark | None, told: Told) -> None:
    """What an earlier process of this run, and an earlier report in the same file, have found of the same content."""
    journal = run.directory / JOURNAL
    events, _ = read_events(journal.read_bytes(), str(journal))
    filed = {model.path: model for model in (there.models if there is not None else [])}
    book.fold(events)
    by_content = {model.weights: model for model in [*filed.values(), *book.models.values()]}
    for entry in entries:
        known = book.models.get(entry.path) or filed.get(entry.path)
        if known is not None and known.weights != entry.weights:
            told.warn(f"{entry.name} has changed since it was measured: its figures are taken anew.")
        # A model that was moved or copied keeps its figures.
        book.put(with_known(entry, by_content.get(entry.weights)))


def _check_text(run: Run, options: BenchmarkOptions, subjects: Sequence[Subject]) -> None:
    if (text := options.perplexity) is None:
        return
    for subject in subjects:
        token_sequences(subject.tokenizer, text.data, "evaluation", length=text.length, sequences=text.sequences, seed=run.request.seed)


def _load_tasks(work: _Work) -> dict[str, LoadedTask]:
    """Those that a model still lacks, with their data: what is missing is told before anything is measured."""
    wanted = [name for name in dict.fromkeys(work.options.tasks) if any(_lacks_task(work, subject, name) for subject in work.subjects)]
    if not wanted:
        return {}
    work.run.phase("Loading the tasks")

    def step(done: int) -> None:
        work.run.check_cancelled()
        work.run.progress(done, len(wanted), "tasks")

    return load_tasks(wanted, Path(work.options.datasets) if work.options.datasets else None, step=step)


def _estimate(work: _Work) -> None:
    """Raises UserError where not even one model at a time fits."""
    run = work.run
    free = device_memory(run.device).free
    largest = max(work.subjects, key=lambda subject: _bytes_loaded(subject, run.device))
    needed = _bytes_loaded(largest, run.device)
    if needed > free:
        raise UserError(
            f"{largest.source.folder} takes {needed / 1e9:.1f} GB on {run.device}; {free / 1e9:.1f} GB are free.",
            "Close other programs, use another device, or leave this model out.",
        )
    disk = 1 << 20
    run.emit(
        EstimateEvent,
        layers=0,
        parameters=max(subject.source.parameters for subject in work.subjects),
        original_parameters=work.subjects[work.original].source.parameters,
        memory=needed,
        memory_available=free,
        disk=disk,
        disk_available=free_bytes(Path(work.options.output)),
    )


def _bytes_loaded(subject: Subject, device: str) -> int:
    quantized = "quantization_config" in subject.source.config
    return 4 * subject.source.parameters if device == "cpu" and not quantized else subject.source.bytes


# --- the work ----------------------------------------------------------------------------------------------------------------------------


def _measure(work: _Work) -> None:
    """The original first: it stays in memory, where that holds two models, until the last one was timed beside it."""
    order = [work.original, *(at for at in range(len(work.subjects)) if at != work.original)]
    waiting = [at for at in order if any(True for _ in _left(work, work.subjects[at]))]
    kept: PreTrainedModel | None = None
    for number, at in enumerate(waiting, start=1):
        subject = work.subjects[at]
        is_original = at == work.original
        where = f"{subject.name} ({number} of {len(waiting)})" if len(waiting) > 1 else subject.name
        if work.options.footprint and work.entry(subject).footprint is None:
            work.run.phase(f"{where}: load time and memory")
            _footprint(work, subject)
        if not any(True for _ in _left(work, subject)):
            continue
        work.run.check_cancelled()
        work.run.phase(f"{where}: loading")
        if kept is not None and _bytes_loaded(subject, work.run.device) > device_memory(work.run.device).free:
            # It comes again where the two fit together after all.
            kept = None
            release_freed_memory()
        model = _load(work, subject)
        _texts(work, subject, model, where)
        _tasks(work, subject, model, where)
        if _lacks_speed(work, subject):
            other = None
            if not is_original:
                kept = kept or _load_beside(work, model)
                other = kept
            _speed(work, subject, model, other, where)
        if is_original:
            kept = model
        del model
        release_freed_memory()


def _left(work: _Work, subject: Subject) -> Iterator[str]:
    """What is not known of a model yet."""
    entry, options = work.entry(subject), work.options
    if options.footprint and entry.footprint is None:
        yield "footprint"
    if _lacks_text(work, subject):
        yield "perplexity"
    if any(_lacks_sample(work, subject, prompt) for prompt in options.prompts):
        yield "samples"
    yield from (name for name in work.tasks if _lacks_task(work, subject, name))
    if _lacks_speed(work, subject):
        yield "speed"


def _lacks_task(work: _Work, subject: Subject, name: str) -> bool:
    return work.asked_task(name) not in [task_key(one) for one in work.entry(subject).tasks]


def _lacks_text(work: _Work, subject: Subject) -> bool:
    asked, found = work.options.perplexity, work.entry(subject).perplexity
    if asked is None or found is None:
        return asked is not None
    return (found.data, found.length, found.sequences) != (_data(work, asked.data), asked.length, asked.sequences)


def _lacks_sample(work: _Work, subject: Subject, prompt: str) -> bool:
    return not any(one.prompt == prompt and one.chat == work.options.chat for one in work.entry(subject).samples)


def _lacks_speed(work: _Work, subject: Subject) -> bool:
    options, found = work.options, work.entry(subject).speed
    if not options.speed:
        return False
    beside = None if subject is work.subjects[work.original] else work.entry(work.subjects[work.original]).weights
    if found is None or (found.device, found.original) != (work.run.device, beside):
        return True
    if (found.length, found.decode_tokens) != (options.length, options.decode_tokens) or found.forward.repeats < options.repeats:
        return True
    return options.training and found.training is None and found.training_note == "not asked for"


def _load(work: _Work, subject: Subject) -> PreTrainedModel:
    return load_model(subject.source.folder, device=work.run.device, allow_code=work.run.request.allow_code)


def _load_beside(work: _Work, model: PreTrainedModel) -> PreTrainedModel | None:
    """The original, where the memory holds it beside a model."""
    original = work.subjects[work.original]
    needed = _bytes_loaded(original, work.run.device)
    if needed > device_memory(work.run.device).free:
        work.told.warn(
            f"{original.name} does not fit into memory beside {Path(str(model.config._name_or_path)).name}: "
            "their times are not taken by turns, and are not given as ratios."
        )
        return None
    work.run.phase(f"{original.name}: loading")
    return _load(work, original)


def _footprint(work: _Work, subject: Subject) -> None:
    found = measure_footprint(
        subject.source.folder,
        work.run.device,
        work.options.length,
        allow_code=work.run.request.allow_code,
        check_cancelled=work.run.check_cancelled,
    )
    work.put(work.entry(subject).model_copy(update={"footprint": found}))


def _texts(work: _Work, subject: Subject, model: PreTrainedModel, where: str) -> None:
    run, options = work.run, work.options
    if options.perplexity is not None and _lacks_text(work, subject):
        run.phase(f"{where}: perplexity")
        found = evaluate(
            model,
            subject.tokenizer,
            options.perplexity.model_copy(update={"sample_tokens": 0}),
            seed=run.request.seed,
            progress=lambda done, total: run.progress(done, total, "sequences"),
            check_cancelled=run.check_cancelled,
        )
        perplexity = Perplexity(
            data=_data(work, found.data),
            value=found.perplexity,
            error=found.standard_error,
            length=options.perplexity.length,
            sequences=options.perplexity.sequences,
        )
        work.put(work.entry(subject).model_copy(update={"perplexity": perplexity}))
    for prompt in options.prompts:
        if _lacks_sample(work, subject, prompt):
            run.phase(f"{where}: sample text")
            text = greedy_sample(
                model, subject.tokenizer, _asked_as_chat(subject, prompt, options), options.sample_tokens, run.check_cancelled
            )
            made = TextSample(prompt=prompt, text=text, chat=options.chat)
            work.put(work.entry(subject).model_copy(update={"samples": [*work.entry(subject).samples, made]}))


def _asked_as_chat(subject: Subject, prompt: str, options: BenchmarkOptions) -> str:
    if not options.chat:
        return prompt
    turns = [{"role": "user", "content": prompt}]
    return cast("Any", subject.tokenizer).apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def _tasks(work: _Work, subject: Subject, model: PreTrainedModel, where: str) -> None:
    run, options = work.run, work.options
    missing = [name for name in work.tasks if _lacks_task(work, subject, name)]
    if not missing:
        return
    harness = Harness(
        model,
        subject.tokenizer,
        seed=run.request.seed,
        batch=options.batch or (1 if run.device == "cpu" else 8),
        progress=lambda done, total: run.progress(done, total, "requests"),
        check_cancelled=run.check_cancelled,
    )
    for name in missing:
        run.check_cancelled()
        run.phase(f"{where}: {name}")
        found = harness.figures(work.tasks[name], limit=options.limit, shots=options.shots, chat=options.chat)
        task, limit, shots, chat, seed, data = work.asked_task(name)
        asked: dict[str, Any] = {"task": task, "limit": limit, "shots": shots, "chat": chat, "seed": seed, "data": data}
        work.put(with_task(work.entry(subject), TaskResult(**asked, **found._asdict())))


def _speed(work: _Work, subject: Subject, model: PreTrainedModel, original: PreTrainedModel | None, where: str) -> None:
    run, options = work.run, work.options
    beside = f" beside {work.subjects[work.original].name}" if original is not None else ""
    run.phase(f"{where}: speed{beside}")
    is_original = subject is work.subjects[work.original]
    found = measure_speed(
        model,
        original,
        Asked(options.length, options.decode_tokens, options.repeats, options.training, run.request.seed),
        original_weights=None if is_original else work.entry(work.subjects[work.original]).weights,
        room=device_memory(run.device).free,
        step=lambda done, total: run.progress(done, total, "rounds"),
        check_cancelled=run.check_cancelled,
    )
    work.put(work.entry(subject).model_copy(update={"speed": found}))


def _data(work: _Work, data: str) -> str:
    return relative(Path(data), Path(work.options.output)) if Path(data).is_absolute() else data


# --- the end -----------------------------------------------------------------------------------------------------------------------------


def _figures(book: Book) -> int:
    """How many figures the report has."""
    return sum(
        len(model.tasks) + len(model.samples) + sum(one is not None for one in (model.footprint, model.perplexity, model.speed))
        for model in book.models.values()
    )


@contextmanager
def _always_written(book: Book) -> Generator[None]:
    """Whatever ends the block early, the file then has what was found."""
    try:
        yield
    except BaseException:
        book.write_what_is_there()
        raise
