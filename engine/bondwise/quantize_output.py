"""The folder that quantization makes: the source's with other tensors for the quantized weights, published whole."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from bondwise import __version__, atomic, modeling_mpo
from bondwise.checkpoint import dtype_name
from bondwise.heal_output import read_lineage
from bondwise.journal import utc_now
from bondwise.layer_files import read_tensors
from bondwise.layers import mpo_config
from bondwise.model_card import declared_licence, quantized_card, quantized_section
from bondwise.quantize_layer import low_rank_section, packed_section
from bondwise.schema import BaseModelRef, Lineage, Quantization, QuantizeResult
from bondwise.tensorize import portable
from bondwise.trust import OWN_MODEL_TYPE, OWN_MODULE
from bondwise.writing import LINEAGE_FILE, CheckpointWriter, PlannedTensor, Replacement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from bondwise.checkpoint import Checkpoint
    from bondwise.modelmap import ModelMap
    from bondwise.quantize_choices import Target
    from bondwise.quantize_work import Finished
    from bondwise.run import Run
    from bondwise.schema import QuantizeOptions

PUBLISHED = "published.json"


class Source(NamedTuple):
    """The folder that is quantized."""

    checkpoint: Checkpoint
    model_map: ModelMap
    code: Mapping[str, bytes]
    """The Python files of the base model's own, by name."""
    backend: Literal["bitsandbytes", "packed"]

    @property
    def lineage(self) -> Lineage | None:
        """None where the folder was not made by Bondwise."""
        return read_lineage(self.checkpoint.folder) if (self.checkpoint.folder / LINEAGE_FILE).is_file() else None


def original_parameters(source: Source) -> int:
    """Of the model before any compression."""
    lineage = source.lineage
    return lineage.result.original_parameters if lineage is not None and lineage.result is not None else source.model_map.parameters


def write(run: Run, writer: CheckpointWriter, source: Source, finished: Sequence[Finished]) -> None:
    """Everything but the lineage and the card: other tensors for the quantized weights, all others byte for byte."""
    run.phase("Writing the quantized model")

    def step(done: int, total: int) -> None:
        run.check_cancelled()
        run.progress(round(done / 1e6, 1), round(total / 1e6, 1), "MB")

    checkpoint = source.checkpoint
    writer.write_weights(checkpoint, [_replacement(one) for one in finished], step)
    writer.copy_companions(checkpoint.folder)
    config = _config(source, finished, allow_code=run.request.allow_code)
    writer.write_json("config.json", config)
    if config.get("model_type") == OWN_MODEL_TYPE:
        writer.write_bytes(OWN_MODULE, resources.files("bondwise").joinpath(OWN_MODULE).read_bytes())
    for name, content in source.code.items():
        writer.write_bytes(name, content)


def bitsandbytes_config(source: Source, targets: Sequence[Target], *, allow_code: bool) -> dict[str, Any]:
    """The section `quantization_config`: every linear layer that is not quantized is named in it."""
    import torch
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    from bondwise.loading import empty_model

    model = empty_model(source.checkpoint, dtype=torch.float32, allow_code=allow_code)
    chosen = {modeling_mpo._module_path(model, target.name) for target in targets if target.scheme != "float16"}
    kept = [name for name, module in model.named_modules() if type(module) in (nn.Linear, Conv1D) and name not in chosen]
    scheme = next(target.scheme for target in targets if target.scheme != "float16")
    in_8_bits = scheme == "int8"
    return {
        "quant_method": "bitsandbytes",
        "load_in_8bit": in_8_bits,
        "load_in_4bit": not in_8_bits,
        "_load_in_8bit": in_8_bits,
        "_load_in_4bit": not in_8_bits,
        "llm_int8_skip_modules": kept,
        "llm_int8_threshold": 6.0,
        "llm_int8_has_fp16_weight": False,
        "llm_int8_enable_fp32_cpu_offload": False,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": scheme == "nf4-double",
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_compute_dtype": "float32",
    }


def publish(run: Run, writer: CheckpointWriter, source: Source, options: QuantizeOptions, result: QuantizeResult) -> None:
    """Writes lineage and card, and makes the folder appear."""
    run.phase("Publishing the quantized model")
    folder, before = source.checkpoint.folder, source.lineage
    card = folder / "README.md"
    if before is not None and card.is_file():
        text = card.read_text(encoding="utf-8").rstrip("\n") + "\n\n" + quantized_section(result, options)
    else:
        text = quantized_card(writer.output.name, folder.name, result, options, licence=declared_licence(folder))
    writer.write_bytes("README.md", text.encode())
    here = BaseModelRef(path=os.path.relpath(folder, writer.output), name=folder.name, fingerprint=source.checkpoint.fingerprint())
    quantization = Quantization(
        engine=__version__,
        created=utc_now(),
        source=here,
        request=portable(options.model_dump(), writer.output),
        result=QuantizeResult.model_validate(portable(result.model_dump(), writer.output)),
    )
    if before is None:
        lineage = Lineage(engine=__version__, created=quantization.created, base=here, quantization=quantization)
    else:
        base = before.base.model_copy(update={"path": os.path.relpath(folder / before.base.path, writer.output)})
        lineage = before.model_copy(update={"base": base, "quantization": quantization})
    writer.write_json(LINEAGE_FILE, lineage.model_dump())
    run.check_cancelled()
    # First the result, then the folder: a process that is killed between the two finds by this file that all is done.
    digest = hashlib.sha256((writer.folder / LINEAGE_FILE).read_bytes()).hexdigest()
    atomic.write_json(run.checkpoints / PUBLISHED, {"lineage": digest, "result": result.model_dump()})
    writer.publish()
    for path in run.checkpoints.glob("*.safetensors"):
        path.unlink(missing_ok=True)


def published(run: Run, output: Path) -> QuantizeResult | None:
    """The result, when an earlier process of this run was killed after its folder appeared."""
    with suppress(FileNotFoundError, NotADirectoryError, ValueError, KeyError):
        record = json.loads((run.checkpoints / PUBLISHED).read_bytes())
        if hashlib.sha256((output / LINEAGE_FILE).read_bytes()).hexdigest() == record["lineage"]:
            return QuantizeResult.model_validate(record["result"])
    return None


# --- helpers -------------------------------------------------------------------------------------------------------------------------


def _replacement(one: Finished) -> Replacement:
    added = [
        PlannedTensor(f"{one.target.name}.{name}", dtype_name(tensor.dtype), tuple(tensor.shape))
        for name, tensor in read_tensors(one.path).items()
    ]
    return Replacement(removed=(one.target.weight,), added=tuple(added), tensors=lambda: iter(read_tensors(one.path).values()))


def _config(source: Source, finished: Sequence[Finished], *, allow_code: bool) -> dict[str, Any]:
    config = dict(source.checkpoint.config)
    if source.backend == "bitsandbytes":
        settings = bitsandbytes_config(source, [one.target for one in finished], allow_code=allow_code)
        return {**config, "quantization_config": settings}
    low_rank = {one.target.name: low_rank_section(one.target) for one in finished if one.target.scheme == "low-rank-16"}
    config = mpo_config(config, low_rank)
    section = cast("dict[str, Any]", config["mpo"])
    packed = {
        one.target.name: packed_section(one.target, protected=one.figures.protected).model_dump()
        for one in finished
        if one.target.scheme not in ("float16", "low-rank-16")
    }
    return {**config, "mpo": {**section, "packed": packed}}
