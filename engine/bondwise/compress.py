"""Layer by layer from weights to cores; every finished layer is a resume point.

The plain method needs the weight alone, and one layer is in memory at a time. The others need what a calibration text says of the layer:
the model is loaded, and as many layers at a time as the memory holds moments of are calibrated and then decomposed.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from bondwise import als, mpo
from bondwise.calibration import Wanted, each_moments
from bondwise.checkpoint import BITS, Checkpoint, check_finite
from bondwise.device import device_memory
from bondwise.errors import Cancelled, UserError
from bondwise.full_update import compress_in_sequence
from bondwise.layer_files import is_finished, layer_key, layer_path, load_figures, save_layer
from bondwise.layers import contract_stored, costs, stored_tensors
from bondwise.loading import load_model
from bondwise.memory import release_freed_memory
from bondwise.schema import LayerFigures, TensorizeRequest
from bondwise.shrinkage import shrunk
from bondwise.stability import held_out, needs_more_text
from bondwise.streaming import StreamedModel, computing_dtype
from bondwise.text import fingerprint
from bondwise.weighted import predicted_loss

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedModel

    from bondwise.estimate import Reading
    from bondwise.modelmap import Layer, ModelMap
    from bondwise.moments import Moments
    from bondwise.resolve import Choice
    from bondwise.run import Run
    from bondwise.told import Told

TWO_SIDED = ("fisher", "sequential")
"""Methods that weigh a layer by its inputs and by the loss gradients at its outputs."""


class Finished(NamedTuple):
    """What a layer became, its resume point and its figures."""

    choice: Choice
    path: Path
    figures: LayerFigures


class Layers(NamedTuple):
    """Of the finished layers: those that became cores, and those that stayed dense with other weights and their resume points; in order."""

    made: list[Finished]
    refitted: list[tuple[Layer, Path]]


class Asked(NamedTuple):
    """What is to become of a model: `choices` become cores, `refits` stay dense and are fitted anew.

    `ids` are the token ids [sequences, length] int64 of the calibration text; None where no choice needs them. `reading` says how the model
    is there for the choices that need them.
    """

    model_map: ModelMap
    choices: list[Choice]
    refits: list[Layer]
    ids: Tensor | None
    reading: Reading


def compress_all(run: Run, source: Checkpoint, asked: Asked, told: Told) -> Layers:
    """Decomposes the layers that no earlier process of this run has finished.

    Raises UserError for weights, moments or cores that are not finite, and for a layer that no token of the text reaches.
    """
    work = Work(run, source, asked, told)
    run.phase("Decomposing layers")
    work.take_finished()
    if run.ranks.world > 1:
        _share_out(work)
    _compress_alone(work, [choice for choice in work.left() if choice.method != "sequential"])
    if work.left() or not all(work.is_refitted(layer) for layer in asked.refits):
        compress_in_sequence(work)
        release_freed_memory()
    found = [Finished(choice, work.paths[choice.layer.name], work.figures[choice.layer.name]) for choice in asked.choices]
    grown = [one.figures.name for one in found if one.choice.error is not None and one.figures.keep >= 1]
    if grown:
        told.warn(f"{', '.join(grown[:3])}{' and others' if len(grown) > 3 else ''} did not become smaller: allow a larger error.")
    return Layers(found, [(layer, work.paths[layer.name]) for layer in asked.refits])


class Work:
    """The layers of a run, and which of them are finished."""

    def __init__(self, run: Run, source: Checkpoint, asked: Asked, told: Told) -> None:
        self.run, self.source, self.told = run, source, told
        self.model_map, self.choices, self.refits, self.ids, self.reading = asked
        names = [*(choice.layer.name for choice in self.choices), *(layer.name for layer in self.refits)]
        self.paths = {name: layer_path(run.checkpoints, number, name) for number, name in enumerate(names)}
        self._layer_paths = [self.paths[choice.layer.name] for choice in self.choices]
        self.figures: dict[str, LayerFigures] = {}
        text = "" if self.ids is None else f"{fingerprint(self.ids)} {run.request.seed}"
        model = source.fingerprint()
        # What is made in sequence depends on all that the other layers become.
        others = " ".join([text, *(layer_key(model, choice, text) for choice in self.choices), *(layer.name for layer in self.refits)])
        texts = {"sequential": others}
        self._keys = {choice.layer.name: layer_key(model, choice, texts.get(choice.method, text)) for choice in self.choices}
        self._keys |= {layer.name: f"{model} {layer.name} {others}" for layer in self.refits}

    def left(self) -> list[Choice]:
        return [choice for choice in self.choices if choice.layer.name not in self.figures]

    def take_finished(self) -> None:
        for choice in self.choices:
            self.run.check_cancelled()
            name = choice.layer.name
            if (done := load_figures(self.paths[name], self._keys[name])) is not None:
                self.told.layer(done, again=False)
                self.figures[name] = done
        self.tell()

    def make(self, choice: Choice, moments: Moments | None, target: Tensor | None = None) -> LayerFigures:
        """As `compress_layer`; the layer is finished then."""
        self.run.check_cancelled()
        name = choice.layer.name
        tensors, figures = compress_layer(self.source, choice, self.run.device, moments, target)
        save_layer(self.paths[name], self._keys[name], tensors, figures)
        self.told.layer(figures, again=True)
        self.figures[name] = figures
        release_freed_memory()
        return figures

    def is_refitted(self, layer: Layer) -> bool:
        return is_finished(self.paths[layer.name], self._keys[layer.name])

    def refit(self, layer: Layer, weight: Tensor) -> None:
        """The layer stays dense with this weight [out, in]; it is finished then."""
        self.run.check_cancelled()
        stored = self.source.read(layer.tensors[0])
        made = (weight.mT if layer.transposed else weight).to(stored.dtype).cpu().contiguous()
        check_finite(layer.tensors[0], made)
        save_layer(self.paths[layer.name], self._keys[layer.name], {"weight": made}, None)

    def share(self) -> list[Choice]:
        """Of the layers that are left, this process's; those that depend on other layers are the first one's, afterwards."""
        return [choice for choice in self.left() if choice.method != "sequential" and self.run.ranks.owns(choice.layer.block)]

    def files(self, name: str) -> Path | None:
        """The folder for this process's tensors of that kind which the memory does not hold; None where it does."""
        return self.run.checkpoints / f"{name}-{self.run.ranks.rank}" if self.reading.way == "files" else None

    def load(self) -> PreTrainedModel | StreamedModel:
        """The model as `reading` says."""
        run, source, allow_code = self.run, self.source, cast("TensorizeRequest", self.run.request).allow_code
        run.phase(f"Loading {source.folder.name}")
        if self.reading.way == "whole":
            return load_model(source.folder, device=run.device, allow_code=allow_code)
        free = device_memory(run.device).free
        self.told.warn(f"The model does not fit in {free / 1e9:.1f} GB of memory: it is read block by block.")
        return StreamedModel(source, device=run.device, dtype=computing_dtype(source, run.device), allow_code=allow_code)

    def room(self) -> int:
        """Bytes for moments beside the model."""
        free = device_memory(self.run.device).free
        return free // 2 if self.reading.way == "whole" else free - self.reading.beside

    def tell(self) -> None:
        """How many layers are finished, those of other processes too."""
        self.run.progress(sum(path.exists() for path in self._layer_paths), len(self.choices), "layers")


def compress_share(run: Run, source: Checkpoint, asked: Asked, told: Told) -> list[str]:
    """Of a process after the first (`ranks`): decomposes its share of the layers that are left and names them. As `compress_all`."""
    work = Work(run, source, asked, told)
    work.take_finished()
    mine = work.share()
    _compress_alone(work, mine)
    return [choice.layer.name for choice in mine]


def _share_out(work: Work) -> None:
    """Makes this process's share and waits for those of the others."""
    run = work.run

    def waiting() -> None:
        run.check_cancelled()
        work.tell()

    try:
        run.ranks.open()
        _compress_alone(work, work.share())
        run.phase("Waiting for the other processes")
        run.ranks.await_others(waiting)
    except Cancelled:
        run.ranks.check_others()  # where one has failed, torchrun stops all of them
        raise
    work.take_finished()


def _compress_alone(work: Work, choices: Sequence[Choice]) -> None:
    """The layers whose cores do not depend on what the others become."""
    for choice in choices:
        if choice.method == "plain":
            work.make(choice, None)
            work.tell()
    if weighted := [choice for choice in choices if choice.method != "plain"]:
        _compress_weighted(work, weighted)
        release_freed_memory()  # of the model, before the next ones are loaded


def _compress_weighted(work: Work, choices: Sequence[Choice]) -> None:
    assert work.ids is not None
    by_name = {choice.layer.name: choice for choice in choices}
    short: list[tuple[Layer, int, float]] = []
    for name, moments in each_moments(
        work.run,
        work.source,
        work.ids,
        [Wanted(choice.layer, gradients=choice.method in TWO_SIDED) for choice in choices],
        model=work.load,
        room=work.room,
        warn=work.told.warn,
        work="Decomposing layers",
        files=work.files("states"),
    ):
        choice = by_name[name]
        made = work.make(choice, moments)
        work.tell()
        if moments.tokens < choice.layer.shape[1] or needs_more_text(made.held_out, made.loss):
            short.append((choice.layer, moments.tokens, made.held_out or 1.0))
    if short:
        work.told.warn(_little_text(short))


def _little_text(short: Sequence[tuple[Layer, int, float]]) -> str:
    """`short` are layers, how many tokens they saw, and what they lose on other text as a multiple of what they lose on this."""
    layer, tokens, elsewhere = max(short, key=lambda one: (one[2], one[0].shape[1] / one[1]))
    loses = f", and loses about {elsewhere:.1f} times as much on other text as on this" if elsewhere > 1 else ""
    return (
        f"The calibration text is short: {layer.name} saw {tokens:,} tokens and has {layer.shape[1]:,} inputs{loses}"
        f"{f'; {len(short) - 1} more layers saw too few' if len(short) > 1 else ''}. What it does not show of a layer is taken for "
        "independent channels. More sequences make the result better."
    )


def compress_layer(
    source: Checkpoint, choice: Choice, device: str, moments: Moments | None, target: Tensor | None = None
) -> tuple[dict[str, Tensor], LayerFigures]:
    """Reads and decomposes one layer: its tensors as they are stored, on the CPU, and its figures, which are those of the stored cores.

    `moments` are needed by every method but the plain one. `target` [out, in] is decomposed in the place of the weight. Raises UserError
    when the weight, or a core in the checkpoint's dtype, is not finite.
    """
    started = time.perf_counter()
    layer = choice.layer
    weight = source.read(layer.tensors[0])
    check_finite(layer.tensors[0], weight)
    dtype = weight.dtype
    weight = (weight.mT if layer.transposed else weight).to(device)  # [out, in]
    target = weight if target is None else target
    used = None if moments is None else shrunk(moments)
    decomposed = _decompose(choice, target, used)
    tensors = stored_tensors(decomposed, dtype)
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            check_finite(f"{layer.name}.{name} in {layer.dtype}", tensor)
    product = contract_stored(tensors, choice.out_modes, choice.in_modes, decomposed.bond_dims, *layer.shape)
    weight = weight.to(product.device)
    counted = costs(choice.out_modes, choice.in_modes, decomposed.bond_dims)
    bits = BITS[layer.dtype]
    return {name: tensor.cpu() for name, tensor in tensors.items()}, LayerFigures(
        name=layer.name,
        method=choice.method,
        out_modes=list(choice.out_modes),
        in_modes=list(choice.in_modes),
        bond_dims=list(decomposed.bond_dims),
        parameters=counted.parameters,
        original_parameters=choice.dense_parameters,
        bytes=sum(tensor.nbytes for tensor in tensors.values()),
        original_bytes=choice.dense_parameters * bits // 8,
        keep=counted.parameters / choice.dense_parameters,
        relative_error=mpo.relative_error(weight, product),
        loss=_predicted(target.to(product) - product, used) if choice.method in TWO_SIDED else None,
        held_out=None if moments is None else _held_out(choice, target, product, moments),
        multiply_adds=counted.multiply_adds,
        original_multiply_adds=choice.dense_parameters,
        seconds=time.perf_counter() - started,
    )


def _predicted(change: Tensor, moments: Moments | None) -> float:
    assert moments is not None and moments.gradients is not None
    return predicted_loss(change, moments.inputs, moments.gradients)


def _held_out(choice: Choice, weight: Tensor, product: Tensor, moments: Moments) -> float | None:
    if not mpo.is_plain_chain(choice.out_modes, choice.in_modes):
        return None  # of interleaved sites another fit would take as long again

    def solve(half: Moments) -> Tensor:
        return mpo.contract(_decompose(choice, weight, half).cores)[: weight.shape[0], : weight.shape[1]]

    # Moments read for another layer's gradients would weigh what this method did not.
    used = moments if choice.method in TWO_SIDED else replace(moments, gradients=None)
    return held_out(weight, product, used, solve)


def _decompose(choice: Choice, weight: Tensor, moments: Moments | None) -> mpo.MPO:
    if choice.method == "plain":
        target: dict[str, Any] = {"chi": choice.bond_dims} if choice.error is None else {"error": choice.error}
        return mpo.decompose(weight, choice.out_modes, choice.in_modes, **target)
    assert moments is not None
    gradients = moments.gradients if choice.method in TWO_SIDED else None
    try:
        return als.decompose(weight, choice.out_modes, choice.in_modes, moments.inputs, gradients, chi=choice.bond_dims)
    except ValueError as failure:
        raise UserError(f"{choice.layer.name}: {failure}.", "Leave it out (--exclude), or use --method plain for it.") from None
