"""What a healing will need, told and checked before its first step: upper bounds in bytes, from shapes alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from bondwise.checkpoint import open_checkpoint
from bondwise.device import device_memory
from bondwise.errors import UserError
from bondwise.estimate import companion_bytes, item_bytes, pass_bytes
from bondwise.modelmap import map_model
from bondwise.preparation import vocabulary_size
from bondwise.schema import EstimateEvent
from bondwise.writing import free_bytes

if TYPE_CHECKING:
    from bondwise.heal_output import Compressed
    from bondwise.modelmap import Layer
    from bondwise.run import Run
    from bondwise.schema import HealOptions, Quantization

OPTIMIZER = 12
"""Bytes for each parameter that trains: its gradient and two moments, float32."""
MASTER = 4
"""Bytes of it beside, where the model is not in float32 anyway."""


class HealNeeds(NamedTuple):
    """Bytes; on GPUs of one process, on CPUs, which have one memory, of all."""

    models: int
    """Beside what is in memory: of several processes their parts or copies of the model, as each loads it."""
    optimizer: int
    """Gradients and moments of what trains."""
    activations: int
    """Of one sequence, forward and backward, with the logits and the loss."""
    teacher: int
    """The original model and its logits; 0 without distillation."""
    scratch: int
    """Disk in the run directory for the resume points."""
    output: int
    """Disk for the healed folder."""


def heal_needs(run: Run, options: HealOptions, made_from: Compressed, trained: int) -> HealNeeds:
    """`trained` counts the parameters that train."""
    source = made_from.source
    item, vocabulary = item_bytes(source, run.device), vocabulary_size(run, source)
    model_map = map_model(source)
    layers = model_map.layers
    activations = _activations(layers, options, vocabulary=vocabulary, item=item)
    world = run.ranks.world
    # Of a GPU each process has its own, with its part of everything; the memory of a machine holds what each has loaded.
    parts, times = (1, world) if run.device == "cpu" else (world, 1)
    teacher = 0
    if options.distill and options.teacher_device in (None, run.device):
        original = open_checkpoint(made_from.original, allow_code=run.request.allow_code)
        teacher = item * (original.parameters // parts + 2 * options.length * vocabulary)
    return HealNeeds(
        models=0 if world == 1 else item * model_map.parameters * max(times - 1, 1) // parts,
        optimizer=trained * (OPTIMIZER + (MASTER if item < MASTER else 0)) // parts,
        activations=activations * times,
        teacher=teacher * times,
        # One more of each while it is written; the best cores beside those that resume points go back to.
        scratch=trained * ((options.keep + 1) * OPTIMIZER + (options.keep + 2) * MASTER),
        output=source.bytes + companion_bytes(source),
    )


def check_needs(run: Run, options: HealOptions, made_from: Compressed, trained: int) -> None:
    """Tells what is needed. To be called when the compressed model is in memory.

    Raises UserError, with what to change, where memory or disk do not suffice.
    """
    source, needs = made_from.source, heal_needs(run, options, made_from, trained)
    parameters = map_model(source).parameters
    loaded = item_bytes(source, run.device) * parameters
    memory, free = needs.models + needs.optimizer + needs.activations + needs.teacher, device_memory(run.device).free
    present = sum(path.stat().st_size for path in run.checkpoints.rglob("*.safetensors"))
    disk, disk_free = needs.output + max(needs.scratch - present, 0), _least_free(options, run)
    made = made_from.lineage.result or cast("Quantization", made_from.lineage.quantization).result
    run.emit(
        EstimateEvent,
        layers=len(made.layers),
        parameters=parameters,
        original_parameters=made.original_parameters,
        memory=loaded + memory,
        memory_available=loaded + free,
        disk=disk,
        disk_available=disk_free,
    )
    if memory > free:
        parts = {
            "the gradients and the optimizer": (needs.optimizer, "train less (--train)"),
            "the activations of a sequence": (
                needs.activations,
                "choose shorter ones (--length)" if options.recompute else "choose --recompute",
            ),
            "the model in the other processes": (needs.models, "start fewer"),
            "the original model": (needs.teacher, "train without it (--distill 0)"),
        }
        what, (size, lever) = max(parts.items(), key=lambda part: part[1][0])
        raise UserError(
            f"Not enough memory on {run.device}: healing takes {memory / 1e9:.2f} GB beside the model, {free / 1e9:.2f} GB are free. "
            f"Most of it, {size / 1e9:.2f} GB, is for {what}.",
            f"To need less, {lever}; or use a machine with more memory.",
        )
    if disk > disk_free:
        raise UserError(
            f"The disk is too small: resume points and the healed model take {disk / 1e9:.2f} GB, {disk_free / 1e9:.2f} GB are free.",
            "Free space, or choose places on another disk (--output, --run).",
        )


def _least_free(options: HealOptions, run: Run) -> int:
    return min(free_bytes(Path(options.output)), free_bytes(run.checkpoints))


def _activations(layers: tuple[Layer, ...], options: HealOptions, *, vocabulary: int, item: int) -> int:
    if not options.recompute:
        return pass_bytes(layers, length=options.length, vocabulary=vocabulary, item=item)
    blocks: dict[int, list[Layer]] = {}
    for layer in layers:
        blocks.setdefault(layer.block, []).append(layer)
    hidden = max((min(layer.shape) for layer in layers), default=0)
    largest = max(pass_bytes(some, length=options.length, vocabulary=vocabulary, item=item) for some in blocks.values())
    return largest + item * options.length * hidden * len(blocks)
