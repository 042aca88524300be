"""The moments of a run's layers: those that are kept from an earlier run, the others from the calibration text."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

from bondwise.block_moments import block_moments
from bondwise.calibrate import collect_moments, find_directions
from bondwise.estimate import moment_bytes
from bondwise.memory import runs_within
from bondwise.moments_file import MomentStore, store_key
from bondwise.shelf import Shelf
from bondwise.streaming import StreamedModel
from bondwise.text import fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedModel

    from bondwise.checkpoint import Checkpoint
    from bondwise.modelmap import Layer
    from bondwise.moments import Moments
    from bondwise.run import Run


READING = "Reading the calibration text"


class Wanted(NamedTuple):
    """What is to be known of a layer."""

    layer: Layer
    gradients: bool = True
    directions: bool = False


def each_moments(
    run: Run,
    source: Checkpoint,
    ids: Tensor,
    wanted: Sequence[Wanted],
    *,
    model: Callable[[], PreTrainedModel | StreamedModel],
    room: Callable[[], int],
    warn: Callable[[str], None],
    work: str,
    files: Path | None = None,
) -> Iterator[tuple[str, Moments]]:
    """Each layer once, by name, with its moments over the token ids [sequences, length] int64.

    First those that are kept, one in memory at a time; then the others, as many at a time as `room()` bytes hold, which are kept from then
    on: a run that is killed loses those of one such group at most. `model` is asked for only if there are others, and `room` after it; one
    that is streamed is read block by block, and `files`, if given, is the folder for the hidden states meanwhile. `work` is the phase of
    what the caller does with the moments. Raises UserError as `collect_moments`, `find_directions` and `block_moments`.
    """
    run.phase("Looking for what is known of the model")
    shelf = Shelf(files)
    shelf.clear()
    store = MomentStore(store_key(source, fingerprint(ids), run.request.seed, run.device, run.check_cancelled), warn)
    missing: list[Wanted] = []
    phase = ""
    for one in wanted:
        run.check_cancelled()
        kept = store.read(one.layer, gradients=one.gradients, directions=one.directions, device=run.device)
        if kept is None:
            missing.append(one)
            continue
        if phase != work:
            run.phase(phase := work)
        yield one.layer.name, kept
    if not missing:
        return
    loaded = model()
    found = (
        _by_blocks(run, loaded, ids, missing, room, shelf) if isinstance(loaded, StreamedModel) else _whole(run, loaded, ids, missing, room)
    )
    for moments in found:
        store.write(moments)
        run.phase(work)
        for name in list(moments):
            yield name, moments.pop(name)


def _whole(
    run: Run, model: PreTrainedModel, ids: Tensor, missing: Sequence[Wanted], room: Callable[[], int]
) -> Iterator[dict[str, Moments]]:
    for group in runs_within(missing, lambda one: moment_bytes(*one.layer.shape), room()):
        layers = [one.layer for one in group]
        directions = None
        if any(one.directions for one in group):
            run.phase("Decomposing layers")
            layer_steps = functools.partial(run.progress, unit="layers")
            directions = find_directions(model, layers, progress=layer_steps, check_cancelled=run.check_cancelled)
        run.phase(READING)
        yield collect_moments(
            model,
            layers,
            ids,
            gradients=any(one.gradients for one in group),
            directions=directions,
            seed=run.request.seed,
            progress=functools.partial(run.progress, unit="sequences"),
            check_cancelled=run.check_cancelled,
        )


def _by_blocks(  # noqa: PLR0917 -- as `_whole`
    run: Run, model: StreamedModel, ids: Tensor, missing: Sequence[Wanted], room: Callable[[], int], shelf: Shelf
) -> Iterator[dict[str, Moments]]:
    reading = False

    def progress(done: float, total: float) -> None:
        nonlocal reading
        if not reading:
            run.phase(READING)
            reading = True
        run.progress(done, total, "blocks")

    with shelf:
        for moments in block_moments(
            model,
            [one.layer for one in missing],
            ids,
            gradients=any(one.gradients for one in missing),
            directions=any(one.directions for one in missing),
            seed=run.request.seed,
            room=room,
            shelf=shelf,
            progress=progress,
            check_cancelled=run.check_cancelled,
        ):
            reading = False
            yield moments
