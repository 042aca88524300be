"""The run that heals a compressed model: its cores are trained for a while, towards what the original model says.

Check everything, train (resumable at any step), write the folder with the best cores, load it again and compare, measure, publish.
"""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from pydantic import ValidationError

from bondwise import atomic
from bondwise.checkpoint import open_checkpoint
from bondwise.corrections import open_corrections, possible_corrections
from bondwise.device import resolve_device
from bondwise.errors import UserError
from bondwise.evaluate import evaluate
from bondwise.free_gauge import fix_gauge_again, free_gauge
from bondwise.heal_data import open_data
from bondwise.heal_loop import Healer, Task
from bondwise.heal_needs import check_needs
from bondwise.heal_output import Compressed, publish, published, read_lineage, verify, write
from bondwise.heal_pass import choose_attention
from bondwise.heal_state import HealStore
from bondwise.loading import load_config, load_model, load_tokenizer
from bondwise.memory import release_freed_memory
from bondwise.modelmap import map_model
from bondwise.moments_file import store_key
from bondwise.schema import Evaluation, EvaluationEvent, HealRequest, HealResult
from bondwise.teacher_logits import TeacherStore, teacher_key
from bondwise.team import Team
from bondwise.told import Told
from bondwise.trainable import choose_trainable, find_parameters, hardly_any
from bondwise.trust import code_files
from bondwise.writing import CheckpointWriter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bondwise.checkpoint import Checkpoint
    from bondwise.heal_state import HealState
    from bondwise.run import Run
    from bondwise.schema import EvaluateOptions, HealOptions


def run(run: Run) -> HealResult:
    """The worker of `heal`.

    Raises UserError, before any work, for everything in the request, the models or the data that cannot be used, and later where the loss
    diverges before it became any better, the disk is full, or the written folder is not the trained model; then no folder is left.
    """
    started = time.monotonic()
    request = cast("HealRequest", run.request)
    options, output = request.options, Path(request.options.output)
    if (done := published(run, output)) is not None:
        return done
    run.phase(f"Reading {Path(request.model).name}")
    atomic.remove_temporaries(run.checkpoints)
    with CheckpointWriter(output, Path(request.model)) as writer:
        told, team = Told(run), Team(run)
        store = HealStore(run.checkpoints, options.keep, team)
        store.clean()
        made_from, tokenizer = _read(run, options)
        task = _load(run, options, made_from, tokenizer, told, team)
        before = _evaluate(run, options, task)
        state = _train(run, options, task, store, told, team)
        cores = _stored(made_from.source, store.best(state.best_step, task.shapes), task.free)
        del task
        gc.collect()  # models that were shared out refer to themselves
        release_freed_memory()
        if code_files(made_from.source.folder, made_from.source.config) != made_from.code:
            raise UserError("The Python files of the model were changed while the run was at work.", "Look at them, then resume the run.")
        write(run, writer, made_from, cores)
        loaded, difference = verify(run, writer.folder, made_from.source, cores)
        healed = _measure_healed(run, options, made_from, loaded, tokenizer)
        result = HealResult(
            output=str(output),
            stopped=cast("Any", state.stopped),
            teacher_loss=state.teacher_loss,
            start_loss=state.start_loss,
            best_loss=state.best_loss,
            best_step=state.best_step,
            steps=state.step,
            tokens=state.tokens,
            trained=state.plan.trained,
            parameters=state.plan.parameters,
            original=before.get("original"),
            compressed=before.get("compressed"),
            healed=healed,
            logits_difference=difference,
            seconds=time.monotonic() - started,
        )
        publish(run, writer, made_from, options, result)
    store.clear()
    return result


def share(run: Run) -> list[str]:
    """What a process after the first does of the run (`ranks`): its part of every step. It makes no layers. Raises as `run`."""
    options = cast("HealRequest", run.request).options
    told, team = Told(run), Team(run)
    made_from, tokenizer = _read(run, options)
    task = _load(run, options, made_from, tokenizer, told, team)
    _train(run, options, task, HealStore(run.checkpoints, options.keep, team), told, team)
    return []


def _train(run: Run, options: HealOptions, task: Task, store: HealStore, told: Told, team: Team) -> HealState:  # noqa: PLR0917
    if team.rank == 0:
        run.ranks.open()
    try:
        with team.together():
            return Healer(run, options, task, store, told, team).train()
    except torch.OutOfMemoryError as failure:
        levers = "shorter sequences (--length), --recompute, or --distill 0, which needs no original model"
        raise UserError(f"Not enough memory on {run.device} for a step: {str(failure).splitlines()[0]}", f"Try {levers}.") from failure


# --- before the training -------------------------------------------------------------------------------------------------------------


def _read(run: Run, options: HealOptions) -> tuple[Compressed, PreTrainedTokenizerBase]:
    """Checks both folders. Raises UserError where they do not belong together."""
    folder = Path(cast("HealRequest", run.request).model)
    if options.batch % run.ranks.world:
        raise UserError(
            f"{options.batch} sequences in a step cannot be shared by {run.ranks.world} processes.",
            f"Choose a multiple of {run.ranks.world} (--batch).",
        )
    if options.teacher_device is not None and run.ranks.world > 1:
        raise UserError("Several processes share the original model too, each on its own device.", "Leave the device of the original out.")
    allow_code = run.request.allow_code
    source = open_checkpoint(folder, allow_code=allow_code)
    lineage = read_lineage(folder)
    original = Path(options.teacher) if options.teacher else (folder / lineage.base.path).resolve()
    if options.distill and not original.is_dir():
        raise UserError(
            f"The original model, {lineage.base.name}, is not at {original}.",
            "Say where it is (--teacher), or train without (--distill 0).",
        )
    tokenizer = load_tokenizer(folder, allow_code=allow_code)
    if options.distill:
        _check_teacher(run, source, original, tokenizer)
    return Compressed(source, lineage, code_files(folder, source.config), original), tokenizer


def _check_teacher(run: Run, source: Checkpoint, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    allow_code = run.request.allow_code
    teacher = open_checkpoint(folder, allow_code=allow_code)
    sizes = [int(cast("Any", load_config(one, allow_code=allow_code)[0].get_text_config()).vocab_size) for one in (source, teacher)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"{folder} has a vocabulary of {sizes[1]} tokens, the model one of {sizes[0]}.",
            "Name the model that this one was made from (--teacher), or train without (--distill 0).",
        )
    if load_tokenizer(folder, allow_code=allow_code).get_vocab() != tokenizer.get_vocab():
        raise UserError(
            f"The tokens of {folder} mean something else than those of the model.",
            "Name the model that this one was made from (--teacher), or train without (--distill 0).",
        )


def _load(run: Run, options: HealOptions, made_from: Compressed, tokenizer: PreTrainedTokenizerBase, told: Told, team: Team) -> Task:  # noqa: PLR0917
    """Both models, whole, on the device, or where they are shared out from, and the data."""
    source, allow_code = made_from.source, run.request.allow_code
    run.phase(f"Loading {source.folder.name}")
    model = _loaded(run, source.folder)
    choose_attention(model, run.device, options.length)
    corrections = possible_corrections(source, options.corrections)
    open_corrections(model, corrections, seed=run.request.seed)
    names = tuple(choose_trainable(model, source, options.train, corrections))
    trains, parameters = (sum(one.numel() for one in found) for found in (find_parameters(model, names).values(), model.parameters()))
    told.warn(hardly_any(trains, parameters))
    free = free_gauge(model, names)
    trained = find_parameters(model, names)
    if team.rank == 0:
        check_needs(run, options, made_from, sum(parameter.numel() for parameter in trained.values()))
    run.check_cancelled()
    data = open_data(run, options, model, tokenizer, made_from.original, told, team)
    teacher = None
    if options.distill:
        run.phase(f"Loading {made_from.original.name}")
        if options.teacher_device is None:
            teacher = _loaded(run, made_from.original)
        else:
            teacher = load_model(made_from.original, device=resolve_device(options.teacher_device), allow_code=allow_code)
        choose_attention(teacher, str(teacher.device), options.length)
        teacher.requires_grad_(requires_grad=False)
    run.check_cancelled()
    return Task(
        source=source.fingerprint(),
        container=map_model(source).container,
        model=model,
        teacher=teacher,
        tokenizer=tokenizer,
        shapes={name: parameter.shape for name, parameter in trained.items()},
        free=free,
        trains=trains,
        parameters=parameters,
        data=data.feed,
        kept=_kept(run, options, made_from, told) if options.distill else None,
        epoch=data.epoch,
        validation=data.validation,
    )


def _kept(run: Run, options: HealOptions, made_from: Compressed, told: Told) -> TeacherStore | None:
    if options.teacher_top is None:
        return None
    original = open_checkpoint(made_from.original, allow_code=run.request.allow_code)
    weights = store_key(original, "", 0, run.device, run.check_cancelled)
    return TeacherStore(teacher_key(weights, options.teacher_top, options.temperature, options.teacher_device or run.device), told.warn)


def _stored(source: Checkpoint, trained: dict[str, Tensor], free: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of the folder that `trained` is."""
    return fix_gauge_again(trained, free, {layer: source.read(f"{layer}.order_1") for layer in free})


def _loaded(run: Run, folder: Path) -> PreTrainedModel:
    """A model that several processes share is put together in the host's memory and never whole on one GPU."""
    where, dtype = (run.device, None) if run.ranks.world == 1 or run.device == "cpu" else ("cpu", "auto")
    return load_model(folder, device=where, dtype=dtype, allow_code=run.request.allow_code)


# --- figures -------------------------------------------------------------------------------------------------------------------------


def _evaluate(run: Run, options: HealOptions, task: Task) -> dict[str, Evaluation]:
    """Measures original and compressed model, once in a run; nothing where that is not asked for."""
    found: dict[str, Evaluation] = {}
    for role, model in (("original", task.teacher), ("compressed", task.model)):
        kept = run.checkpoints / f"{role}.json"
        try:
            evaluation = Evaluation.model_validate_json(kept.read_bytes())
        except (FileNotFoundError, ValidationError):
            evaluation = None
            if model is not None and options.evaluate is not None:
                reference = None if role == "original" else task.teacher
                # What several processes will share lies in the host's memory until then.
                waiting = [one for one in (model, reference) if one is not None and run.ranks.world > 1]
                for one in waiting:
                    torch.nn.Module.to(one, run.device)
                evaluation = _measured(run, options.evaluate, role, model, reference, task.tokenizer)
                for one in waiting:
                    torch.nn.Module.to(one, "cpu")
                atomic.write_json(kept, evaluation)
        if evaluation is not None:
            found[role] = evaluation
    return found


def _measure_healed(
    run: Run, options: HealOptions, made_from: Compressed, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> Evaluation | None:
    if options.evaluate is None:
        return None
    reference = load_model(made_from.original, device=run.device, allow_code=run.request.allow_code) if options.distill else None
    return _measured(run, options.evaluate, "healed", model, reference, tokenizer)


def _measured(  # noqa: PLR0917
    run: Run,
    asked: EvaluateOptions,
    role: str,
    model: PreTrainedModel,
    reference: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase,
) -> Evaluation:
    run.phase(f"Measuring the {role} model")
    found = evaluate(
        model,
        tokenizer,
        asked,
        reference=reference,
        seed=run.request.seed,
        progress=lambda done, total: run.progress(done, total, "sequences"),
        check_cancelled=run.check_cancelled,
    )
    run.emit(EvaluationEvent, role=role, evaluation=found)
    return found
