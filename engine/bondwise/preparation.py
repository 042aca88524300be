"""Everything of a `tensorize` run that comes before its work: what is asked is read, checked and estimated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from bondwise import atomic
from bondwise.calibration_text import CalibrationText
from bondwise.checkpoint import Checkpoint, open_checkpoint
from bondwise.compress import Asked, compress_share
from bondwise.errors import UserError
from bondwise.estimate import Needs, check_disk, check_memory, estimate
from bondwise.loading import load_config, load_tokenizer
from bondwise.modelmap import map_model
from bondwise.own_text import written_text
from bondwise.resolve import check_model, not_smaller, refits, resolve, slower
from bondwise.schema import EstimateEvent, EvaluateOptions, TensorizeRequest
from bondwise.text import fingerprint, token_sequences
from bondwise.told import Told
from bondwise.trust import code_files

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from bondwise.resolve import Choice
    from bondwise.run import Run
    from bondwise.schema import CalibrationOptions

BEGUN = "begun.json"
"""Among the resume points: what they are of."""
CHECK_TOKENS = 32
"""Random tokens put through the written model and through the base architecture with the dense product of the same cores."""


class Prepared(NamedTuple):
    source: Checkpoint
    asked: Asked
    code: Mapping[str, bytes]
    """The Python files of the model's own, by name."""
    needs: Needs
    tokenizer: PreTrainedTokenizerBase | None
    """None where nothing is measured."""


def prepare(run: Run, told: Told) -> Prepared:
    """Raises UserError for everything in the request or the model that cannot be done, and where memory or disk do not suffice."""
    request = cast("TensorizeRequest", run.request)
    options, folder = request.options, Path(request.model)
    source = open_checkpoint(folder, allow_code=request.allow_code)
    model_map = map_model(source)
    choices = resolve(model_map.layers, options.tensorize)
    refitted = refits(model_map.layers, options.refit, choices)
    for warning in (not_smaller(choices), slower(choices)):
        told.warn(warning)
    code = code_files(folder, source.config)
    check_model(source, choices, allow_code=request.allow_code)
    tokenizer = None if options.evaluate is None else check_text(run, folder, options.evaluate)
    calibrated = any(choice.method != "plain" for choice in choices)
    text = calibration_text(run, folder, options.calibration) if calibrated else None
    needs = _check_needs(run, source, choices)
    run.check_cancelled()
    fits = needs.reading.way == "whole"
    ids = None if text is None else text.ids(lambda own: written_text(run, source, own, told.warn, fits=fits))
    if run.ranks.rank == 0:
        _check_as_begun(run, source, ids)
    return Prepared(source, Asked(model_map, choices, refitted, ids, needs.reading), code, needs, tokenizer)


def share(run: Run) -> list[str]:
    """What a process after the first does of the run (`ranks`); the layers it has made. Raises as `prepare` and `compress_all`."""
    told = Told(run)
    prepared = prepare(run, told)
    return compress_share(run, prepared.source, prepared.asked, told)


def _check_as_begun(run: Run, source: Checkpoint, ids: Tensor | None) -> None:
    """Raises UserError where finished layers are of other weights or of another text: half a model of each would be worth nothing."""
    weights = {shard.name: [shard.path.stat().st_size, shard.path.stat().st_mtime_ns] for shard in source.shards}
    now: dict[str, Any] = {"model": source.fingerprint(), "weights": weights, "text": "" if ids is None else fingerprint(ids)}
    path = run.checkpoints / BEGUN
    if not path.exists():
        atomic.write_json(path, now)
        return
    begun = json.loads(path.read_bytes())
    if begun == now:
        return
    changed = "The calibration text" if begun["text"] != now["text"] else f"The model in {source.folder}"
    raise UserError(
        f"{changed} was changed since this run was begun, and its finished layers are of what it was.",
        "Bring back the files as they were, or start a new run.",
    )


def check_text(run: Run, folder: Path, options: EvaluateOptions) -> PreTrainedTokenizerBase:
    """The tokenizer, after the text was found long enough: better told now than after an hour."""
    tokenizer = load_tokenizer(folder, allow_code=run.request.allow_code)
    token_sequences(tokenizer, options.data, "evaluation", length=options.length, sequences=options.sequences, seed=run.request.seed)
    return tokenizer


def calibration_text(run: Run, folder: Path, options: CalibrationOptions) -> CalibrationText:
    """Raises UserError where a text cannot be read or is too short."""
    return CalibrationText(load_tokenizer(folder, allow_code=run.request.allow_code), options, run.request.seed)


def _check_needs(run: Run, source: Checkpoint, choices: list[Choice]) -> Needs:
    options = cast("TensorizeRequest", run.request).options
    needs = estimate(
        source, map_model(source).layers, choices, options, vocabulary=vocabulary_size(run, source), tokens=CHECK_TOKENS, device=run.device
    )
    memory_available = check_memory(needs, run.device)
    present = sum(path.stat().st_size for path in run.checkpoints.glob("*.safetensors"))
    disk, disk_available = check_disk(needs, Path(options.output), run.checkpoints, present)
    run.emit(
        EstimateEvent,
        layers=len(choices),
        parameters=source.parameters - sum(choice.dense_parameters - choice.parameters for choice in choices),
        original_parameters=source.parameters,
        memory=needs.memory,
        memory_available=memory_available,
        disk=disk,
        disk_available=disk_available,
    )
    return needs


def vocabulary_size(run: Run, source: Checkpoint) -> int:
    config, _ = load_config(source, allow_code=run.request.allow_code)
    return int(cast("Any", config.get_text_config()).vocab_size)
