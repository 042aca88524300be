"""The run that writes a compressed or quantized model as its base architecture: every MPO contracted to the dense weight that it stands
for, every weight in few bits written out.

The folder is what tools load that know no MPO: plain transformers without `trust_remote_code`, converters to GGUF, vLLM. Its accuracy is
that of the compressed model, its size that of the original.
"""

from __future__ import annotations

import functools
import json
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from bondwise import atomic
from bondwise.checkpoint import Checkpoint, dtype_name, open_checkpoint, torch_dtype
from bondwise.dequantize import FewBits, weights_in_few_bits
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

    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

    from bondwise.run import Run
    from bondwise.schema import MPOLayer

PUBLISHED = "published.json"
ROUNDING = 0.5
"""Largest accepted difference of log-probabilities (nats) where the dense weight is rounded to 16 bits: the product of two rounded factors
is another number than its own rounding. A weight that is swapped or transposed moves them by more."""


class Dense(NamedTuple):
    """A weight that is written as a dense one."""

    name: str
    shape: tuple[int, int]
    """[out, in]"""
    entry: MPOLayer | None
    """None: it was dense, in few bits."""
    transposed: bool
    """The base's class stores [in, out]."""


class Source(NamedTuple):
    """The folder that is exported, and what of it is not written as it is."""

    checkpoint: Checkpoint
    section: MPOSection | None
    """None: no MPO, and nothing packed."""
    few_bits: dict[str, FewBits]
    config: dict[str, Any]
    """Of the base architecture."""
    dense: list[Dense]
    dtype: torch.dtype
    """Of dense weights in the place of what is stored in few bits."""

    @property
    def architecture(self) -> str:
        return self.config["architectures"][0]

    @property
    def rounds(self) -> bool:
        """Whether some of the dense weights are rounded to 16 bits."""
        return any(self.dtype_of(one).itemsize < 4 for one in self.dense)

    def dtype_of(self, one: Dense) -> torch.dtype:
        """Of the dense weight: that of the cores, or the model's where those are in few bits."""
        core = self.checkpoint.tensors.get(f"{one.name}.cores.0.weight")
        return self.dtype if core is None or f"{one.name}.cores.0" in self.few_bits else torch_dtype(core)

    def bytes_of(self, one: Dense) -> int:
        return one.shape[0] * one.shape[1] * self.dtype_of(one).itemsize


def run(run: Run) -> ExportResult:
    """The worker of `export`.

    Raises UserError, before any work, for a model that is neither compressed nor quantized, that another tool has quantized, or a folder
    that cannot be written; later for a full disk, or a folder that does not compute what the compressed model does; then no folder is left.
    """
    started = time.monotonic()
    request = cast("ExportRequest", run.request)
    folder, output = Path(request.model), Path(request.options.output)
    if (published := _published(run, output)) is not None:
        return published
    run.phase(f"Reading {folder.name}")
    source = _open(folder, allow_code=request.allow_code)
    checkpoint = source.checkpoint
    code = code_files(folder, checkpoint.config)
    with CheckpointWriter(output, folder) as writer:
        _check_disk(run, source, output)
        _write(run, writer, source)
        writer.write_json("config.json", source.config)
        for name, content in code.items():
            writer.write_bytes(name, content)
        contracted = sum(one.entry is not None for one in source.dense)
        card = dense_card(
            writer.output.name,
            folder.name,
            source.architecture,
            contracted=contracted,
            written_out=len(source.few_bits),
            licence=declared_licence(folder),
        )
        writer.write_bytes("README.md", card.encode())
        made = open_checkpoint(writer.folder, allow_code=request.allow_code)
        difference = _verify(run, source, made)
        result = ExportResult(
            output=str(output),
            architecture=source.architecture,
            layers=contracted,
            dequantized=len(source.few_bits),
            parameters=made.parameters,
            bytes=made.bytes,
            compressed_parameters=map_model(checkpoint).parameters,
            compressed_bytes=checkpoint.bytes,
            logits_difference=difference,
            plain=not needs_code(source.config),
            seconds=time.monotonic() - started,
        )
        run.phase("Publishing the exported model")
        run.check_cancelled()
        # First the result, then the folder: a process that is killed between the two finds by this file that all is done.
        atomic.write_json(run.checkpoints / PUBLISHED, {"weights": made.fingerprint(), "result": result.model_dump()})
        writer.publish()
    return result


def base_config(config: dict[str, Any], section: MPOSection | None) -> dict[str, Any]:
    """config.json of the base architecture, from that of a compressed or quantized checkpoint."""
    if section is None:
        return {key: value for key, value in config.items() if key != "quantization_config"}
    kept = {key: value for key, value in config.items() if key not in ("auto_map", "mpo", "quantization_config")}
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


def _open(folder: Path, *, allow_code: bool) -> Source:
    checkpoint = open_checkpoint(folder, allow_code=allow_code)
    own = checkpoint.config.get("model_type") == OWN_MODEL_TYPE
    section = MPOSection.model_validate(checkpoint.config["mpo"]) if own else None
    few_bits = weights_in_few_bits(checkpoint, section)
    if section is None and not few_bits:
        raise UserError(
            f"{folder} is neither compressed nor quantized: there is nothing to contract or to write out.", "Other tools load it as it is."
        )
    config = base_config(checkpoint.config, section)
    layers = section.layers if section is not None else {}
    known = {layer.name for layer in map_model(checkpoint).layers}
    if missing := [name for name in layers if name not in known]:
        raise UserError(f"{folder} has no cores of {missing[0]}, which config.json names.", "The folder is damaged: make it again.")
    transposed = _transposed(config)
    dense = [Dense(name, (entry.out_features, entry.in_features), entry, name in transposed) for name, entry in layers.items()]
    dense += [
        Dense(name, few.shape, None, name in transposed) for name, few in few_bits.items() if name.rpartition(".cores.")[0] not in layers
    ]
    return Source(checkpoint, section, few_bits, config, dense, _model_dtype(checkpoint))


def _model_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """What config.json says of the weights, else what most of those are stored in that are not in few bits."""
    import torch

    said = checkpoint.config.get("dtype", checkpoint.config.get("torch_dtype"))
    found = getattr(torch, said, None) if isinstance(said, str) else None
    if isinstance(found, torch.dtype):
        return found
    sizes: Counter[str] = Counter()
    for entry in checkpoint.tensors.values():
        if entry.dtype in ("F32", "F16", "BF16"):
            sizes[entry.dtype] += entry.bytes
    return {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[max(sizes, key=lambda name: sizes[name], default="F16")]


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


def _check_disk(run: Run, source: Source, output: Path) -> None:
    numbers = [one.shape[0] * one.shape[1] for one in source.dense]
    needed = source.checkpoint.bytes + sum(map(source.bytes_of, source.dense))
    free = free_bytes(output)
    if needed > free:
        raise UserError(f"The disk is too small: about {size(needed)} are needed where {output} lies, {size(free)} are free.", "Make room.")
    run.emit(
        EstimateEvent,
        layers=len(source.dense),
        parameters=source.checkpoint.parameters + sum(numbers),
        original_parameters=source.checkpoint.parameters,
        memory=3 * 8 * max(numbers),
        memory_available=device_memory("cpu").free,
        disk=needed,
        disk_available=free,
    )


def _write(run: Run, writer: CheckpointWriter, source: Source) -> None:
    run.phase("Contracting and writing")

    def step(done: int, total: int) -> None:
        run.check_cancelled()
        run.progress(round(done / 1e6, 1), round(total / 1e6, 1), "MB")

    writer.write_weights(source.checkpoint, [_replacement(source, one) for one in source.dense], step)
    writer.copy_companions(source.checkpoint.folder)


def _replacement(source: Source, one: Dense) -> Replacement:
    removed = (
        source.few_bits[one.name].tensors
        if one.entry is None
        else tuple(tensor for tensor in source.checkpoint.tensors if tensor.startswith((f"{one.name}.cores.", f"{one.name}.order_")))
    )
    shape = one.shape[::-1] if one.transposed else one.shape
    planned = PlannedTensor(f"{one.name}.weight", dtype_name(source.dtype_of(one)), shape)
    return Replacement(removed, (planned,), functools.partial(_weight, source, one))


def _weight(source: Source, one: Dense) -> Iterator[Tensor]:
    from bondwise.layers import contract_stored, stored_shapes

    entry, name = one.entry, one.name
    if entry is None:
        weight = source.few_bits[name].read()
    else:
        stored = {part: _stored(source, f"{name}.{part}") for part in stored_shapes(entry.out_modes, entry.in_modes, entry.bond_dims)}
        weight = contract_stored(stored, entry.out_modes, entry.in_modes, entry.bond_dims, entry.out_features, entry.in_features)
    yield (weight.mT if one.transposed else weight).to(source.dtype_of(one)).contiguous()


def _stored(source: Source, tensor: str) -> Tensor:
    """A tensor of an MPO as a number for a parameter, also where its core is in few bits."""
    few = source.few_bits.get(tensor.removesuffix(".weight"))
    return source.checkpoint.read(tensor) if few is None else few.read()


def _verify(run: Run, source: Source, made: Checkpoint) -> float:
    """Loads the written folder block by block, as its base architecture, and compares it with the compressed model: nats.

    Raises UserError where they differ by more than rounding: then the folder must not appear.
    """
    import torch

    from bondwise.streaming import streamed_log_probs

    run.phase("Checking the written model")
    device, allow_code = run.device, run.request.allow_code
    ids = torch.randint(vocabulary_size(run, source.checkpoint), (CHECK_TOKENS,), generator=torch.Generator().manual_seed(run.request.seed))

    def half(number: int) -> Any:
        def step(done: int, total: int) -> None:
            run.check_cancelled()
            run.progress(number * total + done, 2 * total, "blocks")

        return step

    if source.few_bits:
        expected = _whole_log_probs(_loaded(run, source), ids)  # [tokens, vocabulary]
    else:
        expected = streamed_log_probs(source.checkpoint, ids, device=device, allow_code=allow_code, step=half(0))
    found = streamed_log_probs(made, ids, device=device, allow_code=allow_code, step=half(1))
    difference = float((expected - found).abs().max())
    tolerance = ROUNDING if source.rounds else TOLERANCE
    if not difference <= tolerance:
        raise UserError(
            f"The written model does not compute what the compressed one does: log-probabilities differ by {difference:.3g} "
            f"(allowed {tolerance}).",
            "Nothing was published. If it happens again, please report it with log.txt and the model's name.",
        )
    run.emit(VerifiedEvent, logits_difference=difference, tolerance=tolerance)
    return difference


def _loaded(run: Run, source: Source) -> PreTrainedModel:
    """A model with weights in few bits, whole; those of bitsandbytes written out by transformers itself: its int8 rounds inputs too, which
    no dense weight does."""
    import torch

    from bondwise.loading import load_model

    model = load_model(source.checkpoint.folder, device=run.device, dtype=torch.float32, allow_code=run.request.allow_code)
    if "quantization_config" not in source.checkpoint.config:
        return model
    return cast("Any", model).dequantize(torch.float32).to(run.device)


def _whole_log_probs(model: PreTrainedModel, ids: Tensor) -> Tensor:
    import torch

    with torch.no_grad():
        logits = cast("Any", model)(input_ids=ids[None].to(model.device), use_cache=False).logits[0]
    return logits.float().log_softmax(-1).cpu()


def _published(run: Run, output: Path) -> ExportResult | None:
    """The result, when an earlier process of this run was killed after its folder appeared."""
    with suppress(FileNotFoundError, NotADirectoryError, ValueError, KeyError, UserError):
        record = json.loads((run.checkpoints / PUBLISHED).read_bytes())
        if open_checkpoint(output, allow_code=run.request.allow_code).fingerprint() == record["weights"]:
            return ExportResult.model_validate(record["result"])
    return None
