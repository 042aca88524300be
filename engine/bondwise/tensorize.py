"""The run that makes a compressed checkpoint: layers of a model become matrix product operators, one layer in memory at a time.

Check everything, decompose layer by layer (each a resume point), write the folder, load it again and compare, measure, publish. A run that
was killed anywhere goes on from its resume points to the same bytes.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import time
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from bondwise import __version__, atomic
from bondwise.checkpoint import Checkpoint, open_checkpoint
from bondwise.compress import compress_all
from bondwise.errors import UserError
from bondwise.evaluate import evaluate, evaluate_pair
from bondwise.journal import utc_now
from bondwise.layer_files import read_tensors
from bondwise.loading import load_model
from bondwise.model_card import declared_licence, model_card
from bondwise.preparation import CHECK_TOKENS, prepare, vocabulary_size
from bondwise.schema import (
    BaseModelRef,
    EvaluateOptions,
    Evaluation,
    LayerFigures,
    Lineage,
    TensorizeOptions,
    TensorizeRequest,
    TensorizeResult,
    VerifiedEvent,
)
from bondwise.told import Told
from bondwise.trust import OWN_MODULE, code_files
from bondwise.writing import LINEAGE_FILE, CheckpointWriter, PlannedTensor, Replacement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from bondwise.compress import Layers
    from bondwise.estimate import Needs
    from bondwise.modelmap import Layer
    from bondwise.resolve import Choice
    from bondwise.run import Run

TOLERANCE = 0.01
"""Largest accepted difference of their log-probabilities (nats). Both compute in float32 from the same stored numbers, so only the order of
summation differs; a core that is swapped, transposed or lost moves them by 1 and more."""


def run(run: Run) -> TensorizeResult:
    """The worker of `tensorize`.

    Raises UserError, before any work, for everything in the request or the model that cannot be done, and later for weights that are not
    finite, a full disk, or a folder that does not compute what its cores say; then no folder is left.
    """
    started = time.monotonic()
    request = cast("TensorizeRequest", run.request)
    options = request.options
    output, folder = Path(options.output), Path(request.model)
    if (published := _published(run, output)) is not None:
        return published
    run.phase(f"Reading {folder.name}")
    atomic.remove_temporaries(run.checkpoints)
    with CheckpointWriter(output, folder) as writer:
        told = Told(run)
        source, asked, code, needs, tokenizer = prepare(run, told)
        layers = compress_all(run, source, asked, told)
        if code_files(folder, source.config) != code:
            raise UserError(f"The Python files of {folder} were changed while the run was at work.", "Look at them, then resume the run.")
        _write(run, writer, source, layers, code)
        difference = _verify(run, source, writer.folder, layers)
        written = open_checkpoint(writer.folder, allow_code=request.allow_code)
        original = compressed = None
        if options.evaluate is not None and tokenizer is not None:
            original, compressed = _evaluate_both(
                run, folder, writer.folder, tokenizer=tokenizer, options=options.evaluate, needs=needs, told=told
            )
        result = TensorizeResult(
            output=str(output),
            parameters=written.parameters,
            original_parameters=source.parameters,
            bytes=written.bytes,
            original_bytes=source.bytes,
            layers=[one.figures for one in layers.made],
            refitted=[layer.name for layer, _ in layers.refitted],
            original=original,
            compressed=compressed,
            predicted=options.predicted,
            logits_difference=difference,
            seconds=time.monotonic() - started,
        )
        _publish(run, writer, source, options, result, code=code)
    return result


# --- the folder ----------------------------------------------------------------------------------------------------------------------


def _write(run: Run, writer: CheckpointWriter, source: Checkpoint, layers: Layers, code: Mapping[str, bytes]) -> None:
    from bondwise.layers import mpo_config

    run.phase("Writing the compressed model")

    def step(done: int, total: int) -> None:
        run.check_cancelled()
        run.progress(round(done / 1e6, 1), round(total / 1e6, 1), "MB")

    replacements = [*(_replacement(*one) for one in layers.made), *(_refit(*one) for one in layers.refitted)]
    writer.write_weights(source, replacements, step)
    writer.copy_companions(source.folder)
    sections = {one.choice.layer.name: one.choice.section(one.figures.bond_dims) for one in layers.made}
    writer.write_json("config.json", mpo_config(source.config, sections))
    writer.write_bytes(OWN_MODULE, resources.files("bondwise").joinpath(OWN_MODULE).read_bytes())
    for name, content in code.items():
        writer.write_bytes(name, content)


def _replacement(choice: Choice, path: Path, figures: LayerFigures) -> Replacement:
    from bondwise.layers import stored_shapes

    shapes = stored_shapes(choice.out_modes, choice.in_modes, figures.bond_dims)
    added = [
        PlannedTensor(f"{choice.layer.name}.{name}", "I32" if name.startswith("order") else choice.layer.dtype, shape)
        for name, shape in shapes.items()
    ]
    return Replacement(removed=(choice.layer.tensors[0],), added=tuple(added), tensors=lambda: iter(read_tensors(path).values()))


def _refit(layer: Layer, path: Path) -> Replacement:
    name = layer.tensors[0]
    planned = PlannedTensor(name, layer.dtype, layer.shape[::-1] if layer.transposed else layer.shape)
    return Replacement(removed=(name,), added=(planned,), tensors=lambda: iter(read_tensors(path).values()))


def _refitted(layer: Layer, path: Path) -> Tensor:
    """The weight [out, in], float32, of a layer that stayed dense."""
    weight = read_tensors(path)["weight"].float()
    return weight.mT if layer.transposed else weight


def _verify(run: Run, source: Checkpoint, folder: Path, layers: Layers) -> float:
    """Loads the written folder and compares it with the base architecture: the largest difference of log-probabilities, nats.

    Raises UserError above `TOLERANCE`: then the folder must not appear.
    """
    import torch

    from bondwise.streaming import streamed_log_probs

    run.phase("Checking the written model")
    generator = torch.Generator().manual_seed(run.request.seed)
    ids = torch.randint(vocabulary_size(run, source), (CHECK_TOKENS,), generator=generator)

    def half(number: int) -> Any:
        def step(done: int, total: int) -> None:
            run.check_cancelled()
            run.progress(number * total + done, 2 * total, "blocks")

        return step

    weights = {one.choice.layer.name: functools.partial(_dense, *one) for one in layers.made}
    weights |= {layer.name: functools.partial(_refitted, layer, path) for layer, path in layers.refitted}
    expected = streamed_log_probs(
        source, ids, weights=weights, device=run.device, allow_code=run.request.allow_code, step=half(0)
    )  # [tokens, vocabulary]
    # What was allowed for the model that was read covers what was made of it: the same files, byte for byte.
    made = open_checkpoint(folder, allow_code=run.request.allow_code)
    found = streamed_log_probs(made, ids, device=run.device, allow_code=run.request.allow_code, step=half(1))
    difference = float((expected - found).abs().max())
    if not difference <= TOLERANCE:
        raise UserError(
            f"The written model does not compute what its cores say: log-probabilities differ by {difference:.3g} (allowed {TOLERANCE}).",
            "Nothing was published. If it happens again, please report it with log.txt and the model's name.",
        )
    run.emit(VerifiedEvent, logits_difference=difference, tolerance=TOLERANCE)
    return difference


def _dense(choice: Choice, path: Path, figures: LayerFigures) -> Tensor:
    """The weight [out, in], float32, that the stored cores stand for."""
    import torch

    from bondwise.layers import contract_stored

    stored = read_tensors(path)
    return contract_stored(stored, choice.out_modes, choice.in_modes, figures.bond_dims, *choice.layer.shape).to(torch.float32)


# --- figures -------------------------------------------------------------------------------------------------------------------------


def _evaluate_both(
    run: Run, source: Path, made: Path, *, tokenizer: PreTrainedTokenizerBase, options: EvaluateOptions, needs: Needs, told: Told
) -> tuple[Evaluation, Evaluation]:
    """Measures both models: by turns, and the distance between them too, where the memory holds both; else one after the other."""
    from bondwise.device import device_memory

    def progress(done: int, total: int) -> None:
        run.progress(done, total, "sequences")

    settings: dict[str, Any] = {"seed": run.request.seed, "progress": progress, "check_cancelled": run.check_cancelled}
    cached = run.checkpoints / "original.json"
    original = _read_evaluation(cached)
    told_before = original is not None
    base: Any = None
    both = needs.compare <= device_memory(run.device).free
    if not both:
        told.warn("The distance to the original model is not measured: the memory does not hold both models at once.")
    if both or original is None:
        run.phase("Loading the original model")
        base = load_model(source, device=run.device, allow_code=run.request.allow_code)
        run.check_cancelled()
    if not both:
        if original is None:
            run.phase("Measuring the original model")
            original = evaluate(base, tokenizer, options, **settings)
            atomic.write_json(cached, original)
        told.evaluation("original", original, again=not told_before)
        base = None
    run.phase("Loading the compressed model")
    model = load_model(made, device=run.device, allow_code=run.request.allow_code)
    run.check_cancelled()
    if base is None:
        run.phase("Measuring the compressed model")
        compressed = evaluate(model, tokenizer, options, **settings)
    else:
        run.phase("Measuring both models")
        original, compressed = evaluate_pair(base, model, tokenizer, options, **settings)
        told.evaluation("original", original, again=True)
    told.evaluation("compressed", compressed, again=True)
    return cast("Evaluation", original), compressed


def _read_evaluation(path: Path) -> Evaluation | None:
    with suppress(FileNotFoundError, ValidationError):
        return Evaluation.model_validate_json(path.read_bytes())
    return None


# --- the end -------------------------------------------------------------------------------------------------------------------------


def _publish(
    run: Run, writer: CheckpointWriter, source: Checkpoint, options: TensorizeOptions, result: TensorizeResult, *, code: Mapping[str, bytes]
) -> None:
    run.phase("Publishing the compressed model")
    card = model_card(
        writer.output.name,
        source.folder.name,
        result,
        licence=declared_licence(source.folder),
        calibration=options.calibration,
        code=list(code),
    )
    writer.write_bytes("README.md", card.encode())
    lineage = Lineage(
        engine=__version__,
        created=utc_now(),
        base=BaseModelRef(path=os.path.relpath(source.folder, writer.output), name=source.folder.name, fingerprint=source.fingerprint()),
        request=portable(options.model_dump(), writer.output),
        result=TensorizeResult.model_validate(portable(result.model_dump(), writer.output)),
    )
    writer.write_json(LINEAGE_FILE, lineage.model_dump())
    run.check_cancelled()
    # First the result, then the folder: a process that is killed between the two finds by this file that all is done.
    digest = hashlib.sha256((writer.folder / LINEAGE_FILE).read_bytes()).hexdigest()
    atomic.write_json(run.checkpoints / "published.json", {"lineage": digest, "result": result.model_dump()})
    writer.publish()
    for path in run.checkpoints.glob("*.safetensors"):
        path.unlink(missing_ok=True)


def _published(run: Run, output: Path) -> TensorizeResult | None:
    """The result, when an earlier process of this run was killed after its folder appeared."""
    with suppress(FileNotFoundError, NotADirectoryError, ValueError, KeyError):
        record = json.loads((run.checkpoints / "published.json").read_bytes())
        if hashlib.sha256((output / LINEAGE_FILE).read_bytes()).hexdigest() == record["lineage"]:
            return TensorizeResult.model_validate(record["result"])
    return None


def portable(values: dict[str, Any], output: Path) -> dict[str, Any]:
    """Options and results with the paths of this machine as they are seen from the folder `output`, which will be copied to others."""

    def seen(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {inner: seen(inner, each) for inner, each in cast("dict[str, Any]", value).items()}
        if isinstance(value, list):
            return [seen("", each) for each in cast("list[Any]", value)]
        if key in ("output", "data", "teacher") and isinstance(value, str) and Path(value).is_absolute():
            return os.path.relpath(value, output)
        return value

    return seen("", values)
