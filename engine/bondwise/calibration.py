"""The moments of a run's layers: those that are kept from an earlier run, the others from the calibration text."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

from bondwise.calibrate import collect_moments, find_directions
from bondwise.estimate import moment_bytes
from bondwise.memory import runs_within
from bondwise.moments_file import MomentStore, store_key
from bondwise.text import fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    from bondwise.calibrate import Moments
    from bondwise.checkpoint import Checkpoint
    from bondwise.modelmap import Layer
    from bondwise.run import Run


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
    model: Callable[[], PreTrainedModel],
    room: Callable[[], int],
    warn: Callable[[str], None],
    work: str,
) -> Iterator[tuple[str, Moments]]:
    """Each layer once, by name, with its moments over the token ids [sequences, length] int64.

    First those that are kept, one in memory at a time; then the others, as many at a time as `room()` bytes hold, which are kept from then
    on: a run that is killed loses those of one such group at most. `model` is asked for only if there are others, and `room` after it.
    `work` is the phase of what the caller does with them. Raises UserError as `collect_moments` and `find_directions`.
    """
    run.phase("Looking for what is known of the model")
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
    for group in runs_within(missing, lambda one: moment_bytes(*one.layer.shape), room()):
        layers = [one.layer for one in group]
        directions = None
        if any(one.directions for one in group):
            run.phase("Decomposing layers")
            layer_steps = functools.partial(run.progress, unit="layers")
            directions = find_directions(loaded, layers, progress=layer_steps, check_cancelled=run.check_cancelled)
        run.phase("Reading the calibration text")
        moments = collect_moments(
            loaded,
            layers,
            ids,
            gradients=any(one.gradients for one in group),
            directions=directions,
            seed=run.request.seed,
            progress=functools.partial(run.progress, unit="sequences"),
            check_cancelled=run.check_cancelled,
        )
        store.write(moments)
        run.phase(work)
        for name in list(moments):
            yield name, moments.pop(name)
