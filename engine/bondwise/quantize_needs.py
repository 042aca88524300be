"""What a quantize run takes, computed before it starts: upper bounds in bytes, from shapes alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from bondwise.device import device_memory
from bondwise.errors import UserError
from bondwise.estimate import SLACK, backward_bytes, companion_bytes, item_bytes, moment_bytes, weighted_bytes
from bondwise.schema import EstimateEvent, QuantizeRequest
from bondwise.writing import free_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bondwise.checkpoint import Checkpoint
    from bondwise.modelmap import ModelMap
    from bondwise.quantize_choices import Target
    from bondwise.run import Run

LAYER_COPIES = 8
"""Float32 copies of a weight that rounding it holds at most."""


def check_needs(run: Run, checkpoint: Checkpoint, model_map: ModelMap, targets: Sequence[Target], vocabulary: int) -> None:
    """Tells the estimate. Raises UserError, with what to change, where memory or disk do not suffice."""
    options = cast("QuantizeRequest", run.request).options
    item = item_bytes(checkpoint, run.device)
    largest = max(target.layer.weight_parameters for target in targets)
    saved = sum(target.original_bytes - target.bytes for target in targets)
    stored = sum(target.bytes for target in targets)
    output = checkpoint.bytes - saved + companion_bytes(checkpoint)
    calibrated = [target for target in targets if target.calibrated]
    layers = LAYER_COPIES * 4 * largest + SLACK
    calibrate = 0
    if calibrated:
        whole = backward_bytes(checkpoint, model_map.layers, length=options.calibration.length, vocabulary=vocabulary, item=item)
        calibrate = whole + max(moment_bytes(*t.layer.shape) + weighted_bytes(*t.layer.shape) for t in calibrated)
    # Embedding, head and norms in float32, the rest packed.
    verify = checkpoint.bytes - saved + 4 * sum(entry.parameters for entry in model_map.other) + SLACK
    measured = (verify + item * checkpoint.parameters + 2 * item * vocabulary * options.evaluate.length) if options.evaluate else 0
    free = device_memory(run.device).free
    for step, needed, lever in (
        ("quantizing the largest layer", layers, "Leave the largest layers out (--exclude), or use a machine with more memory."),
        ("reading the calibration text", calibrate, "Use int8 or nf4, which need no text, or a machine with more memory."),
        ("checking the result", verify, "Close other programs, or use a machine with more memory."),
        ("measuring the models", measured, "Leave the evaluation out (no --evaluate or --data)."),
    ):
        if needed > free:
            raise UserError(
                f"Not enough memory on {run.device}: {step} takes about {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free.", lever
            )
    disk, disk_free = output + stored, min(free_bytes(Path(options.output)), free_bytes(run.checkpoints))
    if disk > disk_free:
        raise UserError(
            f"The disk is too small: {disk / 1e9:.2f} GB are needed where {options.output} lies, {disk_free / 1e9:.2f} GB are free.",
            "Free space, or choose a place on another disk (--output, --run).",
        )
    run.emit(
        EstimateEvent,
        layers=len(targets),
        parameters=model_map.parameters,
        original_parameters=model_map.parameters,
        memory=max(layers, calibrate, verify, measured),
        memory_available=free,
        disk=disk,
        disk_available=disk_free,
    )
