"""What a tensorize run will need, computed before it starts: upper bounds in bytes, from shapes alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal, NamedTuple

from bondwise.checkpoint import BITS
from bondwise.device import device_memory, host_memory
from bondwise.errors import UserError
from bondwise.evaluate import CHUNK
from bondwise.modelmap import block_index, find_container
from bondwise.writing import free_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bondwise.checkpoint import Checkpoint
    from bondwise.modelmap import Layer
    from bondwise.resolve import Choice
    from bondwise.schema import TensorizeOptions

LAYER_COPIES = 6
"""Float64 copies of a weight that decomposing and checking it hold at most: the weight, the split state and its work space, the cores,
the product of the rounded cores and the difference."""
METRIC_COPIES = 5
"""Float64 copies of the moment of the longer side that a weighted decomposition holds at most: it, shrunk, with its ridge, and what they
make."""
ACTIVATIONS = 2
"""Numbers kept for the backward pass, as a multiple of the inputs and outputs of the layers: norms, gates and attention add to those."""
SLACK = 256 << 20
"""Bytes for what does not depend on the model: workspaces of the libraries, the allocator's own."""


class Reading(NamedTuple):
    """How a model is there for its calibration."""

    way: Literal["whole", "blocks", "files"]
    """Whole in memory; or one block at a time, with the hidden states between blocks in memory or in files. The first of them for which the
    memory suffices, the last where it suffices for none."""
    beside: int = 0
    """Bytes of memory for what there is at most beside the moments, where it is one block at a time."""


class Sizes(NamedTuple):
    """Parameters."""

    outside: int
    """Of what is in no block."""
    block: int
    """Of the largest."""


class Needs(NamedTuple):
    """Bytes, but for `reading`."""

    layers: int
    """Memory for the largest layer while it is decomposed."""
    calibrate: int
    """Memory for the model or one block of it, a pass forward and backward, and the moments of one layer; 0 where none is calibrated."""
    verify: int
    """Memory for checking the written folder block by block."""
    evaluate: int
    """Memory for measuring the larger of the two models; 0 without evaluation."""
    compare: int
    """Memory for both models at once, for the distance between them; 0 without evaluation."""
    output: int
    """Disk for the compressed folder."""
    scratch: int
    """Disk in the run directory for the finished layers, and for hidden states that the memory does not hold."""
    reading: Reading

    @property
    def memory(self) -> int:
        return max(self.layers, self.calibrate, self.verify, self.evaluate)


def estimate(
    checkpoint: Checkpoint,
    layers: Sequence[Layer],
    choices: Sequence[Choice],
    request: TensorizeOptions,
    *,
    vocabulary: int,
    tokens: int,
    device: str,
) -> Needs:
    """`layers` are all of the model, `tokens` is how many are put through it to check it, `vocabulary` how many it can predict."""
    options = request.evaluate
    sizes = sizes_of(checkpoint)
    largest_weight = max(choice.dense_parameters for choice in choices)
    saved = sum(choice.dense_parameters - choice.parameters for choice in choices)
    compressed = checkpoint.parameters - saved
    item = item_bytes(checkpoint, device)
    calibration = _calibration(checkpoint, layers, choices, request, vocabulary=vocabulary, sizes=sizes, item=item, device=device)
    # The logits in the model's dtype, twice where a cap or a scale makes another copy, and the float32 pieces of the loss and of KL.
    outputs = 0 if options is None else vocabulary * (2 * options.length * item + 5 * 4 * CHUNK) + SLACK
    stored = sum(choice.bytes for choice in choices)
    replaced = sum(choice.dense_parameters * BITS[choice.layer.dtype] // 8 for choice in choices)
    return Needs(
        layers=LAYER_COPIES * 8 * largest_weight + SLACK,
        calibrate=calibration.memory,
        verify=4 * (sizes.outside + 2 * sizes.block) + 2 * 8 * largest_weight + 5 * 4 * tokens * vocabulary + SLACK,
        evaluate=0 if options is None else item * max(checkpoint.parameters, compressed) + outputs,
        compare=0 if options is None else item * (checkpoint.parameters + compressed) + 2 * outputs,
        output=checkpoint.bytes - replaced + stored + companion_bytes(checkpoint),
        scratch=stored + calibration.disk,
        reading=calibration.reading,
    )


def sizes_of(checkpoint: Checkpoint) -> Sizes:
    container = find_container(checkpoint.tensors.values())
    blocks: dict[int | None, int] = {}
    for name, entry in checkpoint.tensors.items():
        index = block_index(name, container)
        blocks[index] = blocks.get(index, 0) + entry.parameters
    outside = blocks.pop(None, 0)
    return Sizes(outside, max(blocks.values(), default=0))


class Calibration(NamedTuple):
    """`memory` and `disk` in bytes, beside what the model that is made takes."""

    reading: Reading
    memory: int
    disk: int


def _calibration(
    checkpoint: Checkpoint,
    layers: Sequence[Layer],
    choices: Sequence[Choice],
    request: TensorizeOptions,
    *,
    vocabulary: int,
    sizes: Sizes,
    item: int,
    device: str,
) -> Calibration:
    weighted = [choice for choice in choices if choice.method != "plain"]
    if not weighted:
        return Calibration(Reading("whole"), 0, 0)
    length, tokens = request.calibration.length, request.calibration.sequences * request.calibration.length
    decompose = max(weighted_bytes(*choice.layer.shape) for choice in weighted)
    moments = max(moment_bytes(*choice.layer.shape) for choice in weighted)
    in_sequence = [choice for choice in weighted if choice.method == "sequential"]
    gradients = sum(4 * choice.layer.shape[0] ** 2 for choice in in_sequence)
    walk = walk_bytes(layers, tokens=tokens) if in_sequence else 0
    whole = decompose + max(
        moments + backward_bytes(checkpoint, layers, length=length, vocabulary=vocabulary, item=item),
        item * checkpoint.parameters + walk + gradients if in_sequence else 0,
    )
    if whole <= device_memory(device).free:
        return Calibration(Reading("whole"), whole, 0)
    two_sided = any(choice.method != "input" for choice in weighted)
    return block_calibration(
        layers,
        sizes,
        length=length,
        tokens=tokens,
        vocabulary=vocabulary,
        item=item,
        device=device,
        decompose=decompose,
        moments=moments,
        gradients=two_sided,
        walk=walk if in_sequence else None,
        kept=gradients,
    )


def block_calibration(
    layers: Sequence[Layer],
    sizes: Sizes,
    *,
    length: int,
    tokens: int,
    vocabulary: int,
    item: int,
    device: str,
    decompose: int,
    moments: int,
    gradients: bool,
    walk: int | None = None,
    kept: int = 0,
) -> Calibration:
    """Of a model of these linear layers that is read block by block.

    `decompose` and `moments` are the bytes for the layer that takes most, `walk` for walking the layers where that is done too, and `kept`
    for tensors that wait for it.
    """
    # The moments are collected while a block is in memory, and used while none is; a walk makes layers while one is.
    by_block: dict[int, list[Layer]] = {}
    for layer in layers:
        by_block.setdefault(layer.block, []).append(layer)
    one_pass = max(pass_bytes(some, length=length, vocabulary=vocabulary, item=item) for some in by_block.values())
    block = item * (sizes.outside + 2 * sizes.block)
    beside = max(block + one_pass, item * sizes.outside + decompose + SLACK)
    memory = max(beside + moments, 0 if walk is None else block + walk + decompose)
    states = 4 * tokens * _hidden(layers) * (len(by_block) + 2 if gradients else 2) + kept
    free = device_memory(device).free if device == "cpu" else host_memory().free
    if memory + states <= free:
        return Calibration(Reading("blocks", beside), memory + (states if device == "cpu" else 0), 0)
    return Calibration(Reading("files", beside), memory, states)


def backward_bytes(checkpoint: Checkpoint, layers: Sequence[Layer], *, length: int, vocabulary: int, item: int) -> int:
    """Memory for a model of these linear layers, `item` bytes a number, and one pass forward and backward over `length` tokens."""
    return item * checkpoint.parameters + pass_bytes(layers, length=length, vocabulary=vocabulary, item=item)


def pass_bytes(layers: Sequence[Layer], *, length: int, vocabulary: int, item: int) -> int:
    """Memory for one pass forward and backward through these linear layers and the head, beside the weights."""
    # The logits, their gradient and the loss between them, and the pieces of the score.
    outputs = vocabulary * (4 * length * max(item, 4) + 5 * 4 * CHUNK)
    return outputs + ACTIVATIONS * item * length * sum(sum(layer.shape) for layer in layers) + SLACK


def walk_bytes(layers: Sequence[Layer], *, tokens: int) -> int:
    """Memory for walking these linear layers block by block, beside weights and moments: what the layers of a block read of so many tokens,
    and the states of both models between and inside it."""
    of_block: dict[int, int] = {}
    for layer in layers:
        of_block[layer.block] = of_block.get(layer.block, 0) + layer.shape[1]
    return 4 * tokens * (max(of_block.values(), default=0) + 6 * _hidden(layers)) + SLACK


def _hidden(layers: Sequence[Layer]) -> int:
    """At least the size of a hidden state: some layer of a block reads it and some writes it."""
    return max((min(layer.shape) for layer in layers), default=0)


def weighted_bytes(out_features: int, in_features: int) -> int:
    """Memory for decomposing a weight in the norm of its moments."""
    return 8 * (LAYER_COPIES * out_features * in_features + METRIC_COPIES * max(out_features, in_features) ** 2)


def moment_bytes(out_features: int, in_features: int) -> int:
    """Of a layer while it is calibrated: both moments, those of half of the text, and the singular vectors of the shorter side, float32."""
    return 4 * (2 * (out_features**2 + in_features**2) + min(out_features, in_features) ** 2)


def item_bytes(checkpoint: Checkpoint, device: str) -> int:
    """Of a number in a model that computes: float32 on a CPU, elsewhere the widest dtype of the files."""
    return 4 if device == "cpu" else max(BITS[entry.dtype] for entry in checkpoint.tensors.values()) // 8


def companion_bytes(checkpoint: Checkpoint) -> int:
    """Room for the small files: those beside the weights, and the headers, which name more tensors than before."""
    small = sum(path.stat().st_size for path in checkpoint.folder.iterdir() if path.is_file() and path.suffix != ".safetensors")
    headers = sum(len(shard.header) for shard in checkpoint.shards)
    return small + 3 * headers + len(json.dumps(checkpoint.config)) + (1 << 20)


def check_memory(needs: Needs, device: str) -> int:
    """Free bytes on `device`. Raises UserError, with the step that does not fit and what to change, when there are too few."""
    free = device_memory(device).free
    levers = {
        "decomposing the largest layer": (needs.layers, "Leave the largest layers out (--exclude), or use a machine with more memory."),
        "reading the calibration text": (
            needs.calibrate,
            "Shorten its sequences, use --method plain, which needs no text, or use a machine with more memory.",
        ),
        "checking the result": (needs.verify, "Close other programs, or use a machine with more memory."),
        "measuring the models": (needs.evaluate, "Leave the evaluation out (no --evaluate or --data), or shorten its sequences."),
    }
    for step, (needed, lever) in levers.items():
        if needed > free:
            raise UserError(f"Not enough memory on {device}: {step} takes about {_gb(needed)}, {_gb(free)} are free.", lever)
    # A weight passes through the host's memory on its way to the device.
    if device != "cpu" and needs.layers // LAYER_COPIES > (host := host_memory().free):
        raise UserError(
            f"Not enough memory: reading the largest layer takes about {_gb(needs.layers // LAYER_COPIES)}, {_gb(host)} are free.",
            "Close other programs.",
        )
    return free


def check_disk(needs: Needs, output: Path, scratch: Path, scratch_present: int = 0) -> tuple[int, int]:
    """(bytes needed, bytes free) where the output will lie. Raises UserError when the output or the resume points do not fit.

    `scratch_present` are bytes of resume points that are there already.
    """
    free, missing = free_bytes(output), max(needs.scratch - scratch_present, 0)
    shared = _file_system(output) == _file_system(scratch)
    needed = needs.output + (missing if shared else 0)
    for place, wanted in ((output, needed), *(() if shared else ((scratch, missing),))):
        if wanted > free_bytes(place):
            raise UserError(
                f"The disk is too small: {_gb(wanted)} are needed where {place} lies, {_gb(free_bytes(place))} are free.",
                "Free space, or choose a place on another disk (--output, --run).",
            )
    return needed, free


def _file_system(path: Path) -> int:
    place = path.resolve()
    while not place.exists():
        place = place.parent
    return place.stat().st_dev


def _gb(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
