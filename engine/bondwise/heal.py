"""The run that heals a compressed model: its cores are trained for a while, towards what the original model says.

Check everything, train (resumable at any step), write the folder with the best cores, load it again and compare, measure, publish.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from pydantic import ValidationError

from bondwise import atomic
from bondwise.checkpoint import open_checkpoint
from bondwise.errors import UserError
from bondwise.evaluate import evaluate
from bondwise.heal_data import open_data
from bondwise.heal_loop import Healer, Task
from bondwise.heal_needs import check_needs
from bondwise.heal_output import Compressed, publish, published, read_lineage, verify, write
from bondwise.heal_state import HealStore
from bondwise.loading import load_config, load_model, load_tokenizer
from bondwise.schema import Evaluation, EvaluationEvent, HealRequest, HealResult
from bondwise.told import Told
from bondwise.trainable import choose_trainable, hardly_any
from bondwise.trust import code_files
from bondwise.writing import CheckpointWriter

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bondwise.checkpoint import Checkpoint
    from bondwise.run import Run
    from bondwise.schema import HealOptions


def run(run: Run) -> HealResult:
    """The worker of `heal`.

    Raises UserError, before any work, for everything in the request, the models or the data that cannot be used, and later where the loss
    diverges before it became any better, the disk is full, or the written folder is not the trained model; then no folder is left.
    """
    started = time.monotonic()
    request = cast("HealRequest", run.request)
    options, output = request.options, Path(request.options.output)
    if run.ranks.world > 1:
        raise UserError("Healing runs in one process.", "Start it without torchrun.")
    if (done := published(run, output)) is not None:
        return done
    run.phase(f"Reading {Path(request.model).name}")
    atomic.remove_temporaries(run.checkpoints)
    with CheckpointWriter(output, Path(request.model)) as writer:
        told = Told(run)
        store = HealStore(run.checkpoints, options.keep)
        made_from, tokenizer = _read(run, options)
        task = _load(run, options, made_from, tokenizer, told)
        before = _evaluate(run, options, task)
        try:
            state = Healer(run, options, task, store, told).train()
        except torch.OutOfMemoryError as failure:
            levers = "shorter sequences (--length), --recompute, or --distill 0, which needs no original model"
            raise UserError(f"Not enough memory on {run.device} for a step: {str(failure).splitlines()[0]}", f"Try {levers}.") from failure
        if code_files(made_from.source.folder, made_from.source.config) != made_from.code:
            raise UserError("The Python files of the model were changed while the run was at work.", "Look at them, then resume the run.")
        write(run, writer, made_from, task.trained)
        loaded, difference = verify(run, writer.folder, task.model, made_from.source, task.trained)
        healed = _measured(run, options, "healed", loaded, task)
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


# --- before the training -------------------------------------------------------------------------------------------------------------


def _read(run: Run, options: HealOptions) -> tuple[Compressed, PreTrainedTokenizerBase]:
    """Checks both folders. Raises UserError where they do not belong together."""
    folder = Path(cast("HealRequest", run.request).model)
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


def _load(run: Run, options: HealOptions, made_from: Compressed, tokenizer: PreTrainedTokenizerBase, told: Told) -> Task:
    source, allow_code = made_from.source, run.request.allow_code
    run.phase(f"Loading {source.folder.name}")
    model = load_model(source.folder, device=run.device, allow_code=allow_code)
    trained = choose_trainable(model, source, options.train)
    count = sum(parameter.numel() for parameter in trained.values())
    check_needs(run, options, made_from, count)
    told.warn(hardly_any(count, sum(parameter.numel() for parameter in model.parameters())))
    run.check_cancelled()
    data = open_data(run, options, model, tokenizer, made_from.original, told)
    teacher = None
    if options.distill:
        run.phase(f"Loading {made_from.original.name}")
        teacher = load_model(made_from.original, device=run.device, allow_code=allow_code)
        teacher.requires_grad_(requires_grad=False)
    run.check_cancelled()
    return Task(source.fingerprint(), model, teacher, tokenizer, trained, data.feed, data.epoch, data.validation)


# --- figures -------------------------------------------------------------------------------------------------------------------------


def _evaluate(run: Run, options: HealOptions, task: Task) -> dict[str, Evaluation]:
    """Measures original and compressed model, once in a run; nothing where that is not asked for."""
    found: dict[str, Evaluation] = {}
    for role, model in (("original", task.teacher), ("compressed", task.model)):
        kept = run.checkpoints / f"{role}.json"
        try:
            evaluation = Evaluation.model_validate_json(kept.read_bytes())
        except (FileNotFoundError, ValidationError):
            evaluation = None if model is None else _measured(run, options, role, model, task)
            if evaluation is not None:
                atomic.write_json(kept, evaluation)
        if evaluation is not None:
            found[role] = evaluation
    return found


def _measured(run: Run, options: HealOptions, role: str, model: PreTrainedModel, task: Task) -> Evaluation | None:
    if options.evaluate is None:
        return None
    run.phase(f"Measuring the {role} model")
    found = evaluate(
        model,
        task.tokenizer,
        options.evaluate,
        reference=None if role == "original" else task.teacher,
        seed=run.request.seed,
        progress=lambda done, total: run.progress(done, total, "sequences"),
        check_cancelled=run.check_cancelled,
    )
    run.emit(EvaluationEvent, role=role, evaluation=found)
    return found
