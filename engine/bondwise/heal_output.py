"""The folder that a healing makes: that of the compressed model with other cores, checked by loading it, published whole."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch

from bondwise import __version__, atomic
from bondwise.checkpoint import torch_dtype
from bondwise.corrections import corrected_config, layer_of, open_corrections, replaced_corrections, stored_type
from bondwise.errors import UserError
from bondwise.journal import utc_now
from bondwise.loading import load_model
from bondwise.preparation import CHECK_TOKENS
from bondwise.schema import Healing, HealResult, Lineage, VerifiedEvent
from bondwise.tensorize import TOLERANCE, portable
from bondwise.trainable import find_parameters
from bondwise.trust import OWN_MODULE
from bondwise.writing import LINEAGE_FILE, CheckpointWriter, PlannedTensor, Replacement

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedModel

    from bondwise.checkpoint import Checkpoint
    from bondwise.run import Run
    from bondwise.schema import HealOptions

PUBLISHED = "published.json"


class Compressed(NamedTuple):
    """The folder that is healed."""

    source: Checkpoint
    lineage: Lineage
    code: Mapping[str, bytes]
    """The Python files of the base model's own, by name."""
    original: Path
    """The folder of the model that it was made from."""


def read_lineage(folder: Path) -> Lineage:
    """Raises UserError where the folder was not made by Bondwise, and where bitsandbytes quantized it."""
    try:
        lineage = Lineage.model_validate_json((folder / LINEAGE_FILE).read_bytes())
    except (OSError, ValueError):
        raise UserError(
            f"{folder} is not a compressed model of Bondwise: it has no {LINEAGE_FILE} that can be read.", "Compress it first (tensorize)."
        ) from None
    if lineage.quantization is not None and lineage.quantization.result.backend == "bitsandbytes":
        raise UserError(
            f"{folder} is quantized by bitsandbytes, and has nothing beside its weights in few bits that trains.",
            "Heal the folder that it was made from, then quantize; or quantize that to compensated-4, which can be healed.",
        )
    return lineage


def write(run: Run, writer: CheckpointWriter, made_from: Compressed, trained: Mapping[str, Tensor]) -> None:
    """Everything but the lineage: the trained tensors in the dtypes of the folder, all others byte for byte."""
    run.phase("Writing the healed model")
    source = made_from.source

    def step(done: int, total: int) -> None:
        run.check_cancelled()
        run.progress(round(done / 1e6, 1), round(total / 1e6, 1), "MB")

    def replaced(name: str, tensor: Tensor) -> Replacement:
        entry = source.tensors[name]
        planned = PlannedTensor(name, entry.dtype, entry.shape)
        return Replacement((name,), (planned,), lambda: iter([tensor.to(torch_dtype(entry))]))

    whole = [replaced(*one) for one in trained.items() if layer_of(one[0]) is None]
    writer.write_weights(source, [*whole, *replaced_corrections(source, trained)], step)
    writer.copy_companions(source.folder)
    config = corrected_config(source, trained)
    if config is None:
        writer.write_bytes("config.json", source.config_bytes)
    else:
        writer.write_json("config.json", config)
    writer.write_bytes(OWN_MODULE, resources.files("bondwise").joinpath(OWN_MODULE).read_bytes())
    for name, content in made_from.code.items():
        writer.write_bytes(name, content)


@torch.no_grad()
def verify(run: Run, folder: Path, source: Checkpoint, trained: Mapping[str, Tensor]) -> tuple[PreTrainedModel, float]:
    """Loads the written folder: that model, and how far its log-probabilities are from those of the compressed one with the trained
    parameters, rounded to what the folder can hold, in nats. Raises UserError above `TOLERANCE`: then the folder must not appear.
    """
    run.phase("Checking the written model")
    model, loaded = (load_model(one, device=run.device, allow_code=run.request.allow_code) for one in (source.folder, folder))
    open_corrections(model, {name: tensor.shape for name, tensor in trained.items()})
    for name, parameter in find_parameters(model, tuple(trained)).items():
        held = stored_type(source) if layer_of(name) is not None else torch_dtype(source.tensors[name])
        parameter.copy_(trained[name].to(held))
    vocabulary: int = cast("Any", model.get_input_embeddings()).weight.shape[0]
    ids = torch.randint(vocabulary, (1, CHECK_TOKENS), generator=torch.Generator().manual_seed(run.request.seed)).to(run.device)
    expected, found = (_log_probs(one, ids) for one in (model, loaded))
    difference = float((expected - found).abs().max())
    if not difference <= TOLERANCE:
        raise UserError(
            f"The written model is not the trained one: log-probabilities differ by {difference:.3g} (allowed {TOLERANCE}).",
            "Nothing was published. If it happens again, please report it with log.txt and the model's name.",
        )
    run.emit(VerifiedEvent, logits_difference=difference, tolerance=TOLERANCE)
    return loaded, difference


def _log_probs(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """[tokens, vocabulary] float32 for ids [1, tokens]."""
    return cast("Any", model.eval())(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)


def publish(run: Run, writer: CheckpointWriter, made_from: Compressed, options: HealOptions, result: HealResult) -> None:
    run.phase("Publishing the healed model")
    source, before = made_from.source, made_from.lineage
    card = source.folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else f"# {writer.output.name}\n"
    writer.write_bytes("README.md", (text.rstrip("\n") + "\n\n" + "\n".join(_section(options, result)) + "\n").encode())
    healing = Healing(
        engine=__version__,
        created=utc_now(),
        request=portable(options.model_dump(), writer.output),
        result=HealResult.model_validate(portable(result.model_dump(), writer.output)),
    )
    base = before.base.model_copy(update={"path": os.path.relpath(source.folder / before.base.path, writer.output)})
    # The result of the compression stays as it is, but for its place, which is this folder now.
    lineage = before.model_copy(update={"base": base, "healing": [*before.healing, healing]})
    writer.write_json(LINEAGE_FILE, lineage.model_dump())
    run.check_cancelled()
    # First the result, then the folder: a process that is killed between the two finds by this file that all is done.
    digest = hashlib.sha256((writer.folder / LINEAGE_FILE).read_bytes()).hexdigest()
    atomic.write_json(run.checkpoints / PUBLISHED, {"lineage": digest, "result": result.model_dump()})
    writer.publish()


def published(run: Run, output: Path) -> HealResult | None:
    """The result, when an earlier process of this run was killed after its folder appeared."""
    with suppress(FileNotFoundError, NotADirectoryError, ValueError, KeyError):
        record = json.loads((run.checkpoints / PUBLISHED).read_bytes())
        if hashlib.sha256((output / LINEAGE_FILE).read_bytes()).hexdigest() == record["lineage"]:
            return HealResult.model_validate(record["result"])
    return None


def _section(options: HealOptions, result: HealResult) -> list[str]:
    """Markdown on what was trained; nothing that differs between two runs of the same request."""
    loss = f"{options.distill:.0%} KL(original ‖ model), the rest cross entropy" if options.distill else "cross entropy"
    return [
        "## Healing",
        "",
        f"{result.trained:,} of {result.parameters:,} parameters were trained for {result.steps:,} steps of {options.batch} sequences of "
        f"{options.length} tokens ({loss}). Cross entropy on text held back: {result.start_loss:.3f} before, {result.best_loss:.3f} after "
        f"step {result.best_step:,}, which is this model"
        + (f"; {result.teacher_loss:.3f} of the original." if result.teacher_loss is not None else "."),
    ]
