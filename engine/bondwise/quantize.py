"""The run that stores layers of a model in fewer bits, original or compressed.

Check everything, quantize weight by weight (each a resume point), write the folder, load it again and compare, measure, publish.
"""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bondwise import atomic
from bondwise.checkpoint import open_checkpoint, torch_dtype
from bondwise.errors import UserError
from bondwise.evaluate import evaluate
from bondwise.layer_files import read_tensors
from bondwise.loading import load_model
from bondwise.memory import tensor_bytes
from bondwise.modelmap import map_model
from bondwise.preparation import CHECK_TOKENS, check_text, vocabulary_size
from bondwise.quantize_budget import planned_targets, possible_targets
from bondwise.quantize_choices import resolve_targets
from bondwise.quantize_layer import dense_weight
from bondwise.quantize_needs import check_needs
from bondwise.quantize_output import Source, original_parameters, publish, published, write
from bondwise.quantize_work import calibration_ids, quantize_all
from bondwise.schema import Evaluation, QuantizeRequest, QuantizeResult, VerifiedEvent
from bondwise.told import Told
from bondwise.trust import code_files
from bondwise.writing import CheckpointWriter

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bondwise.quantize_budget import Planned
    from bondwise.quantize_work import Finished
    from bondwise.run import Run
    from bondwise.schema import EvaluateOptions

TOLERANCE = 0.01
"""Largest accepted difference of their log-probabilities (nats): both compute in float32 from the same stored numbers."""


def run(run: Run) -> QuantizeResult:
    """The worker of `quantize`.

    Raises UserError, before any work, for everything in the request or the model that cannot be done, and later for weights that are not
    finite, a full disk, or a folder that does not compute what its codes say; then no folder is left.
    """
    started = time.monotonic()
    request = cast("QuantizeRequest", run.request)
    options, folder = request.options, Path(request.model)
    output = Path(options.output)
    if run.ranks.world > 1:
        raise UserError("Quantization runs in one process.", "Start it without torchrun.")
    if (done := published(run, output)) is not None:
        return done
    run.phase(f"Reading {folder.name}")
    atomic.remove_temporaries(run.checkpoints)
    with CheckpointWriter(output, folder) as writer:
        told = Told(run)
        checkpoint = open_checkpoint(folder, allow_code=request.allow_code)
        model_map = map_model(checkpoint)
        tokenizer = None if options.evaluate is None else check_text(run, folder, options.evaluate)
        vocabulary = vocabulary_size(run, checkpoint)
        plan: Planned | None = None
        if options.budget is None:
            targets, backend = resolve_targets(checkpoint, model_map, options.quantize)
            _check_backend(backend)
            ids = calibration_ids(run, folder, told) if any(target.calibrated for target in targets) else None
        else:
            possible = possible_targets(checkpoint, model_map, options.budget)
            check_needs(run, checkpoint, model_map, possible, vocabulary)
            ids = calibration_ids(run, folder, told)
            plan = planned_targets(run, checkpoint, model_map, ids, told)
            targets, backend = plan.targets, "packed"
        source = Source(checkpoint, model_map, code_files(folder, checkpoint.config), backend)
        check_needs(run, checkpoint, model_map, targets, vocabulary)
        finished = quantize_all(run, source, targets, ids, told, plan)
        if code_files(folder, checkpoint.config) != source.code:
            raise UserError(f"The Python files of {folder} were changed while the run was at work.", "Look at them, then resume the run.")
        write(run, writer, source, finished)
        loaded, difference = _verify(run, source, writer.folder, finished)
        written = open_checkpoint(writer.folder, allow_code=request.allow_code)
        memory = tensor_bytes(loaded)
        original = quantized = None
        if options.evaluate is not None and tokenizer is not None:
            original, quantized = _evaluate_both(run, folder, loaded, tokenizer, options.evaluate, told)
        base_parameters = original_parameters(source)
        layer_bytes = sum(one.figures.bytes for one in finished)
        result = QuantizeResult(
            output=str(output),
            backend=backend,
            parameters=map_model(written).parameters,
            original_parameters=base_parameters,
            bytes=written.bytes,
            original_bytes=checkpoint.bytes,
            file_bytes=sum(shard.path.stat().st_size for shard in written.shards),
            memory=memory,
            bits_per_parameter=8 * written.bytes / base_parameters,
            layer_bits=8 * layer_bytes / sum(one.figures.parameters for one in finished),
            unquantized_bytes=written.bytes - layer_bytes,
            layers=[one.figures for one in finished],
            original=original,
            quantized=quantized,
            predicted=options.predicted if plan is None else plan.predicted,
            logits_difference=difference,
            seconds=time.monotonic() - started,
        )
        publish(run, writer, source, options, result)
    return result


def _check_backend(backend: str) -> None:
    if backend != "bitsandbytes":
        return
    try:
        import bitsandbytes  # noqa: F401  # pyright: ignore[reportUnusedImport] -- whether it can be used shows here
    except (ImportError, RuntimeError, OSError) as failure:
        raise UserError(
            f"bitsandbytes, which int8 and nf4 are stored by, cannot be used here: {failure}.",
            'Run "Bondwise: Set Up Engine", or install bitsandbytes beside torch, or use compensated-4, which needs none.',
        ) from None


def _verify(run: Run, source: Source, folder: Path, finished: Sequence[Finished]) -> tuple[PreTrainedModel, float]:
    """Loads the written folder: that model, and how far its log-probabilities are from those of the source with the weights that the codes
    stand for, nats. Raises UserError above `TOLERANCE`: then the folder must not appear."""
    import torch

    from bondwise.streaming import streamed_log_probs

    run.phase("Checking the written model")
    allow_code = run.request.allow_code
    generator = torch.Generator().manual_seed(run.request.seed)
    ids = torch.randint(vocabulary_size(run, source.checkpoint), (CHECK_TOKENS,), generator=generator)

    def step(done: int, total: int) -> None:
        run.check_cancelled()
        run.progress(done, total, "blocks")

    dtype = torch.float32
    if source.backend == "bitsandbytes":
        # Its products round more than the weights: what transformers makes of the source by itself is what the folder has to be.
        dtype = torch_dtype(source.checkpoint.tensors[finished[0].target.weight])
        expected = _log_probs(_quantized_by_transformers(source, finished, device=run.device, dtype=dtype, allow_code=allow_code), ids)
    else:
        weights = {one.target.name: functools.partial(_dense, one) for one in finished}
        expected = streamed_log_probs(source.checkpoint, ids, weights=weights, device=run.device, allow_code=allow_code, step=step)
    run.check_cancelled()
    loaded = load_model(folder, device=run.device, dtype=dtype, allow_code=allow_code)
    difference = float((expected - _log_probs(loaded, ids)).abs().max())
    if not difference <= TOLERANCE:
        raise UserError(
            f"The written model does not compute what its codes say: log-probabilities differ by {difference:.3g} (allowed {TOLERANCE}).",
            "Nothing was published. If it happens again, please report it with log.txt and the model's name.",
        )
    run.emit(VerifiedEvent, logits_difference=difference, tolerance=TOLERANCE)
    del loaded
    return load_model(folder, device=run.device, allow_code=allow_code), difference


def _dense(one: Finished) -> Tensor:
    return dense_weight(one.target, read_tensors(one.path), protected=one.figures.protected)


def _quantized_by_transformers(
    source: Source, finished: Sequence[Finished], *, device: str, dtype: torch.dtype, allow_code: bool
) -> PreTrainedModel:
    from bondwise.quantize_output import bitsandbytes_config

    settings = bitsandbytes_config(source, [one.target for one in finished], allow_code=allow_code)
    return load_model(source.checkpoint.folder, device=device, dtype=dtype, allow_code=allow_code, quantization=settings)


def _log_probs(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """[tokens, vocabulary] float32 on the CPU for ids [tokens]."""
    import torch

    with torch.no_grad():
        logits = cast("Any", model)(input_ids=ids[None].to(model.device), use_cache=False).logits[0]
    return logits.float().log_softmax(-1).cpu()


def _evaluate_both(  # noqa: PLR0917 -- both models and how they are measured
    run: Run, folder: Path, loaded: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: EvaluateOptions, told: Told
) -> tuple[Evaluation, Evaluation]:
    run.phase(f"Loading {folder.name}")
    original = load_model(folder, device=run.device, allow_code=run.request.allow_code)
    found: list[Evaluation] = []
    for role, model in (("original", original), ("quantized", loaded)):
        run.check_cancelled()
        run.phase(f"Measuring the {role} model")
        one = evaluate(
            model,
            tokenizer,
            options,
            reference=None if role == "original" else original,
            seed=run.request.seed,
            progress=lambda done, total: run.progress(done, total, "sequences"),
            check_cancelled=run.check_cancelled,
        )
        told.evaluation(role, one, again=True)
        found.append(one)
    return found[0], found[1]
