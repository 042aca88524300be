"""The run that writes a compressed model as its base architecture: every MPO contracted to the dense weight that it stands for.

The folder is what tools load that know no MPO: plain transformers without `trust_remote_code`, converters to GGUF, vLLM. Its accuracy is
that of the compressed model, its size that of the original.
"""

from __future__ import annotations

import functools
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from bondwise import atomic
from bondwise.checkpoint import BITS, Checkpoint, open_checkpoint, torch_dtype
from bondwise.device import device_memory
from bondwise.errors import UserError
from bondwise.model_card import declared_licence, dense_card
from bondwise.modelmap import map_model
from bondwise.preparation import CHECK_TOKENS, vocabulary_size
from bondwise.schema import EstimateEvent, ExportRequest, ExportResult, MPOSection, VerifiedEvent
from bondwise.tensorize import TOLERANCE
from bondwise.terminal import size
from bondwise.trust import OWN_MODEL_TYPE, OWN_MODULE, code_files, needs_code
from bondwise.writing import CheckpointWriter, PlannedTensor, Replacement, free_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from bondwise.modelmap import Layer
    from bondwise.run import Run
    from bondwise.schema import MPOLayer

PUBLISHED = "published.json"
ROUNDING = 0.5
"""Largest accepted difference of log-probabilities (nats) where the dense weight is rounded to 16 bits: the product of two rounded factors
is another number than its own rounding. A weight that is swapped or transposed moves them by more."""


class Dense(NamedTuple):
    """A layer that is contracted."""

    layer: Layer
    entry: MPOLayer
    transposed: bool
    """The base's class stores [in, out]."""


def run(run: Run) -> ExportResult:
    """The worker of `export`.

    Raises UserError, before any work, for a model that is not compressed, that is quantized, or a folder that cannot be written; later for
    a full disk, or a folder that does not compute what the compressed model does; then no folder is left.
    """
    started = time.monotonic()
    request = cast("ExportRequest", run.request)
    folder, output = Path(request.model), Path(request.options.output)
    if (published := _published(run, output)) is not None:
        return published
    run.phase(f"Reading {folder.name}")
    source = open_checkpoint(folder, allow_code=request.allow_code)
    section = _section(source)
    code = code_files(folder, source.config)
    config = base_config(source.config, section)
    with CheckpointWriter(output, folder) as writer:
        layers = _layers(source, section, config)
        _check_disk(run, source, layers, output)
        _write(run, writer, source, layers)
        writer.write_json("config.json", config)
        for name, content in code.items():
            writer.write_bytes(name, content)
        writer.write_bytes("README.md", dense_card(writer.output.name, folder.name, section, licence=declared_licence(folder)).encode())
        made = open_checkpoint(writer.folder, allow_code=request.allow_code)
        difference = _verify(run, source, made, layers)
        result = ExportResult(
            output=str(output),
            architecture=section.base_architecture,
            layers=len(layers),
            parameters=made.parameters,
            bytes=made.bytes,
            compressed_parameters=source.parameters,
            compressed_bytes=source.bytes,
            logits_difference=difference,
            plain=not needs_code(config),
            seconds=time.monotonic() - started,
        )
        run.phase("Publishing the exported model")
        run.check_cancelled()
        # First the result, then the folder: a process that is killed between the two finds by this file that all is done.
        atomic.write_json(run.checkpoints / PUBLISHED, {"weights": made.fingerprint(), "result": result.model_dump()})
        writer.publish()
    return result


def base_config(config: dict[str, Any], section: MPOSection) -> dict[str, Any]:
    """config.json of the base architecture, from that of a compressed checkpoint."""
    kept = {key: value for key, value in config.items() if key not in ("auto_map", "mpo")}
    # Beside a base of transformers' own the auto_map names nothing but our file.
    references = {} if section.base_auto_map is None else {**_others(config.get("auto_map")), **section.base_auto_map}
    return {
        **kept,
        "model_type": section.base_model_type,
        "architectures": [section.base_architecture],
        **({"auto_map": references} if references else {}),
    }


def _others(auto_map: Any) -> dict[str, Any]:
    """What an `auto_map` names besides our file."""
    stem = OWN_MODULE.removesuffix(".py")
    named = cast("dict[str, Any]", auto_map) if isinstance(auto_map, dict) else {}
    return {kind: reference for kind, reference in named.items() if not str(reference).startswith(f"{stem}.")}


def _section(source: Checkpoint) -> MPOSection:
    if source.config.get("model_type") != OWN_MODEL_TYPE:
        raise UserError(f"{source.folder} is not a compressed model: there is nothing to contract.", "Other tools load it as it is.")
    section = MPOSection.model_validate(source.config["mpo"])
    if "quantization_config" in source.config or section.packed:
        raise UserError(f"{source.folder} is quantized, and a dense weight of it would be rounded twice.", "Export the model before that.")
    return section


def _layers(source: Checkpoint, section: MPOSection, config: dict[str, Any]) -> list[Dense]:
    by_name = {layer.name: layer for layer in map_model(source).layers}
    if missing := [name for name in section.layers if name not in by_name]:
        raise UserError(f"{source.folder} has no cores of {missing[0]}, which config.json names.", "The folder is damaged: make it again.")
    transposed = _transposed(config)
    return [Dense(by_name[name], entry, name in transposed) for name, entry in section.layers.items()]


def _transposed(config: dict[str, Any]) -> set[str]:
    """The layers that the base's class stores as [in, out], by the class that stands for them there."""
    if needs_code(config):
        return set()
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    described = {key: value for key, value in config.items() if key != "model_type"}
    with init_empty_weights():
        model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(config["model_type"], **described))
    found = {name for name, module in model.named_modules() if type(module).__name__ == "Conv1D"}
    # Files may leave the name of the inner model out.
    return found | {name.partition(".")[2] for name in found}


def _check_disk(run: Run, source: Checkpoint, layers: list[Dense], output: Path) -> None:
    dense = sum(one.layer.weight_parameters * BITS[one.layer.dtype] // 8 for one in layers)
    needed = source.bytes + dense
    free = free_bytes(output)
    if needed > free:
        raise UserError(f"The disk is too small: about {size(needed)} are needed where {output} lies, {size(free)} are free.", "Make room.")
    run.emit(
        EstimateEvent,
        layers=len(layers),
        parameters=source.parameters + sum(one.layer.weight_parameters for one in layers),
        original_parameters=source.parameters,
        memory=max((3 * 8 * one.layer.weight_parameters for one in layers), default=0),
        memory_available=device_memory("cpu").free,
        disk=needed,
        disk_available=free,
    )


def _write(run: Run, writer: CheckpointWriter, source: Checkpoint, layers: list[Dense]) -> None:
    run.phase("Contracting and writing")

    def step(done: int, total: int) -> None:
        run.check_cancelled()
        run.progress(round(done / 1e6, 1), round(total / 1e6, 1), "MB")

    writer.write_weights(source, [_replacement(source, one) for one in layers], step)
    writer.copy_companions(source.folder)


def _replacement(source: Checkpoint, one: Dense) -> Replacement:
    name = one.layer.name
    removed = tuple(tensor for tensor in source.tensors if tensor.startswith((f"{name}.cores.", f"{name}.order_")))
    shape = (one.entry.in_features, one.entry.out_features) if one.transposed else (one.entry.out_features, one.entry.in_features)
    planned = PlannedTensor(f"{name}.weight", source.tensors[f"{name}.cores.0.weight"].dtype, shape)
    return Replacement(removed, (planned,), functools.partial(_weight, source, one))


def _weight(source: Checkpoint, one: Dense) -> Iterator[Tensor]:
    from bondwise.layers import contract_stored, stored_shapes

    entry, name = one.entry, one.layer.name
    stored = {part: source.read(f"{name}.{part}") for part in stored_shapes(entry.out_modes, entry.in_modes, entry.bond_dims)}
    weight = contract_stored(stored, entry.out_modes, entry.in_modes, entry.bond_dims, entry.out_features, entry.in_features)
    yield (weight.mT if one.transposed else weight).to(torch_dtype(source.tensors[f"{name}.cores.0.weight"])).contiguous()


def _verify(run: Run, source: Checkpoint, made: Checkpoint, layers: list[Dense]) -> float:
    """Loads the written folder block by block, as its base architecture, and compares it with the compressed model: nats.

    Raises UserError where they differ by more than rounding: then the folder must not appear.
    """
    import torch

    from bondwise.streaming import streamed_log_probs

    run.phase("Checking the written model")
    ids = torch.randint(vocabulary_size(run, source), (CHECK_TOKENS,), generator=torch.Generator().manual_seed(run.request.seed))

    def half(number: int) -> Any:
        def step(done: int, total: int) -> None:
            run.check_cancelled()
            run.progress(number * total + done, 2 * total, "blocks")

        return step

    expected, found = (
        streamed_log_probs(one, ids, device=run.device, allow_code=run.request.allow_code, step=half(number))
        for number, one in enumerate((source, made))
    )  # [tokens, vocabulary]
    difference = float((expected - found).abs().max())
    rounded = any(BITS[one.layer.dtype] < 32 for one in layers)
    tolerance = ROUNDING if rounded else TOLERANCE
    if not difference <= tolerance:
        raise UserError(
            f"The written model does not compute what the compressed one does: log-probabilities differ by {difference:.3g} "
            f"(allowed {tolerance}).",
            "Nothing was published. If it happens again, please report it with log.txt and the model's name.",
        )
    run.emit(VerifiedEvent, logits_difference=difference, tolerance=tolerance)
    return difference


def _published(run: Run, output: Path) -> ExportResult | None:
    """The result, when an earlier process of this run was killed after its folder appeared."""
    with suppress(FileNotFoundError, NotADirectoryError, ValueError, KeyError, UserError):
        record = json.loads((run.checkpoints / PUBLISHED).read_bytes())
        if open_checkpoint(output, allow_code=run.request.allow_code).fingerprint() == record["weights"]:
            return ExportResult.model_validate(record["result"])
    return None
