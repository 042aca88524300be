"""What a profile will need, computed before it starts, and how the memory that is left is shared out: bytes, from shapes alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from bondwise.device import device_memory
from bondwise.errors import UserError
from bondwise.estimate import LAYER_COPIES, Reading, backward_bytes, block_calibration, item_bytes, moment_bytes, sizes_of
from bondwise.loading import load_config
from bondwise.modelmap import map_model
from bondwise.terminal import size
from bondwise.text import calibration_sequences
from bondwise.writing import free_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bondwise.checkpoint import Checkpoint
    from bondwise.profile_places import Place
    from bondwise.run import Run
    from bondwise.schema import ProfileRequest

CELL_BYTES, CURVE_BYTES = 600, 12000
"""Of one in the journal and the file."""


class Budgets(NamedTuple):
    """Bytes."""

    moments: int
    """For the moments of the layers that are predicted at a time."""
    states: int
    """For hidden states of the original."""
    gradients: int
    """For the weight gradients of the layers whose slope is measured at a time."""
    cores: int
    """For decomposed layers, so that none is decomposed twice."""
    probabilities: bool
    """Whether those of the original are kept, or computed anew from its last hidden states."""
    memory: int
    memory_available: int
    disk: int
    disk_available: int
    reading: Reading = Reading("whole")


def check_needs(run: Run, source: Checkpoint, places: Sequence[Place]) -> Budgets:
    """Raises UserError when the memory holds not even one pass forward and backward, or the disk not the file.

    A model that the memory does not hold is read block by block where nothing is measured.
    """
    options = cast("ProfileRequest", run.request).options
    config, _ = load_config(source, allow_code=run.request.allow_code)
    text: Any = config.get_text_config()
    vocabulary, hidden = int(text.vocab_size), int(text.hidden_size)
    item = item_bytes(source, run.device)
    length, sequences = options.length, options.sequences
    shapes = [place.layer.shape for place in places]
    moments = [moment_bytes(out, into) for out, into in shapes]
    largest = max(math.prod(shape) for shape in shapes)
    layers = map_model(source).layers
    model_and_pass = backward_bytes(source, layers, length=length, vocabulary=vocabulary, item=item)
    fixed = model_and_pass + max(*moments, 8 * LAYER_COPIES * largest)
    free = device_memory(run.device).free
    measured = options.mode == "measured"
    if fixed > free and not measured:
        found = block_calibration(
            layers,
            sizes_of(source),
            length=length,
            tokens=calibration_sequences(sequences) * length,
            vocabulary=vocabulary,
            item=item,
            device=run.device,
            decompose=8 * LAYER_COPIES * largest,
            moments=max(moments),
            gradients=True,
        )
        if found.memory > free:
            raise _no_room(run.device, f"{length} tokens, one block at a time,", found.memory, free)
        disk = found.disk + 2 * CURVE_BYTES * len(places)
        if disk > (disk_free := free_bytes(run.checkpoints)):
            raise UserError(
                f"The disk is too small: {size(disk)} are needed where {run.checkpoints} lies, {size(disk_free)} are free.", "Make room."
            )
        return Budgets(0, 0, 0, 0, False, found.memory, free, disk, disk_free, found.reading)
    if fixed > free:
        otherwise = " Predicting alone (--spectral) reads the model block by block."
        raise _no_room(run.device, f"{length} tokens through the whole model, as measuring needs it,", fixed, free, otherwise)
    room = free - fixed
    each = room // 4
    states = len({place.layer.block for place in places}) * sequences * length * hidden * item if measured else 0
    gradients = sequences * sum(4 * out * into for out, into in shapes) if measured else 0
    cores = sum(4 * max((one.parameters for one in place.sizes), default=0) for place in places) if measured else 0
    probabilities = sequences * length * vocabulary * 4 if measured else 0
    states, gradients, cores = (min(each, wanted) for wanted in (states, gradients, cores))
    keeps = 0 < probabilities <= each
    used = max(min(sum(moments), room), states + gradients + cores + (probabilities if keeps else 0))
    disk = CELL_BYTES * sum(len(place.sizes) for place in places) * measured + CURVE_BYTES * len(places)
    output = Path(options.output)
    if 2 * disk > (disk_free := free_bytes(output)):
        raise UserError(
            f"The disk is too small: {size(2 * disk)} are needed where {output} lies, {size(disk_free)} are free.", "Make room."
        )
    return Budgets(room, states, gradients, cores, keeps, fixed + used, free, 2 * disk, disk_free)


def _no_room(device: str, over: str, needed: int, free: int, otherwise: str = "") -> UserError:
    return UserError(
        f"Not enough memory on {device}: a pass forward and backward over {over} takes about {size(needed)}, {size(free)} are free.",
        f"Choose a shorter --length, close other programs, or use another device.{otherwise}",
    )
