"""The layers of the method `sequential` of a run: the model is walked block by block, and each layer is made of what reaches it there."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from bondwise.calibration import Wanted, each_moments
from bondwise.errors import UserError
from bondwise.layer_files import read_tensors
from bondwise.layers import contract_stored
from bondwise.moments import Moments
from bondwise.replay import layer_module
from bondwise.sequential import walk_and_update
from bondwise.shelf import Shelf
from bondwise.shrinkage import shrunk
from bondwise.streaming import StreamedModel, WholeModel
from bondwise.walk import Walk

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from bondwise.compress import Work
    from bondwise.modelmap import Layer


def compress_in_sequence(work: Work) -> None:
    """Makes the layers of `work` that are left, all of the method `sequential`, and fits those anew that stay dense.

    Layers that are finished are taken as they are.

    The loss gradients are those of the original model. Raises UserError as `collect_moments` and `walk_and_update`.
    """
    assert work.ids is not None
    loaded: list[PreTrainedModel | StreamedModel] = []

    def model() -> PreTrainedModel | StreamedModel:
        if not loaded:
            loaded.append(work.load())
        return loaded[0]

    with Shelf(work.files("gradients")) as gradients:
        for name, moments in each_moments(
            work.run,
            work.source,
            work.ids,
            [Wanted(choice.layer) for choice in work.left()],
            model=model,
            room=work.room,
            warn=work.told.warn,
            work="Taking the gradients of the loss",
            files=work.files("states"),
        ):
            gradients.put(name, cast("Tensor", shrunk(moments).gradients))
        there = model()
        whole = there if isinstance(there, StreamedModel) else WholeModel(there, work.model_map.container)
        _walk(work, whole, gradients)


def _walk(work: Work, model: WholeModel, gradients: Shelf) -> None:
    """`gradients` are the moments of the loss gradients of the layers that are left, shrunk."""
    assert work.ids is not None
    work.run.phase("Compressing block by block")
    by_name = {choice.layer.name: choice for choice in work.choices}
    tokens = work.ids.numel()

    def make(layer: Layer, wanted: Tensor, inputs: Tensor) -> Tensor:
        if layer.name not in by_name:
            if not work.is_refitted(layer):
                work.refit(layer, wanted)
            stored = read_tensors(work.paths[layer.name])["weight"].to(wanted)
            return stored.mT if layer.transposed else stored
        choice = by_name[layer.name]
        if layer.name not in work.figures:
            weighed = cast("Tensor", gradients.take(layer.name)).to(inputs.device)
            work.make(choice, Moments(inputs, weighed, tokens), target=wanted)
        stored = {name: tensor.to(wanted.device) for name, tensor in read_tensors(work.paths[layer.name]).items()}
        made = contract_stored(stored, choice.out_modes, choice.in_modes, work.figures[layer.name].bond_dims, *layer.shape)
        return made.to(wanted.dtype)

    walk_and_update(
        Walk(model, work.ids),
        [layer for layer in work.model_map.layers if is_module(model.model, layer)],
        {*by_name, *(layer.name for layer in work.refits)},
        make,
        progress=lambda done, total: work.run.progress(done, total, "blocks"),
        check_cancelled=work.run.check_cancelled,
    )


def is_module(model: PreTrainedModel, layer: Layer) -> bool:
    """Whether the model has the layer as a module of its own: not so of experts that transformers fuses."""
    try:
        layer_module(model, layer)
    except (ValueError, UserError):
        return False
    return True
