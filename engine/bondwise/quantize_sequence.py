"""Layers in fewer bits one after the other: each rounds what makes up for what the quantized ones before it lost.

As the full update of cores (`sequential`): a layer's target is fitted to the inputs that the quantized model hands on, and rounded in their
metric. GPTQ takes the inputs of the quantized model too (E. Frantar et al., ICLR 2023, §4), its targets are the weights themselves.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, cast

from bondwise.calibration import Wanted, each_moments
from bondwise.device import device_memory
from bondwise.full_update import is_module
from bondwise.loading import load_model
from bondwise.moments import Moments
from bondwise.sequential import walk_and_update
from bondwise.shelf import Shelf
from bondwise.shrinkage import shrunk
from bondwise.streaming import WholeModel
from bondwise.walk import Walk

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor
    from transformers import PreTrainedModel

    from bondwise.modelmap import Layer
    from bondwise.quantize_choices import Target
    from bondwise.quantize_output import Source
    from bondwise.run import Run
    from bondwise.told import Told

    Make = Callable[[Target, Tensor, Moments], Tensor]
    """A target, its W* [out, in] and the moments that it is to be rounded by → the weight [out, in] that is stored."""


def quantize_in_sequence(  # noqa: PLR0917 -- as `quantize_all`
    run: Run, source: Source, targets: Mapping[str, Target], ids: Tensor, told: Told, make: Make
) -> None:
    """Calls `make` for each of the `targets`, dense layers of the model by name, in the order in which the model calls them.

    The loss gradients are those of the original model. Raises UserError as `collect_moments` and `walk_and_update`.
    """
    checkpoint = source.checkpoint

    @functools.cache
    def model() -> PreTrainedModel:
        run.phase(f"Loading {checkpoint.folder.name}")
        return load_model(checkpoint.folder, device=run.device, allow_code=run.request.allow_code)

    with Shelf(None) as gradients:
        for name, moments in each_moments(
            run,
            checkpoint,
            ids,
            [Wanted(target.layer) for target in targets.values() if target.calibrated],
            model=model,
            room=lambda: device_memory(run.device).free // 2,
            warn=told.warn,
            work="Taking the gradients of the loss",
        ):
            gradients.put(name, cast("Tensor", shrunk(moments).gradients))
        whole = WholeModel(model(), source.model_map.container)
        run.phase("Quantizing block by block")

        def one(layer: Layer, wanted: Tensor, inputs: Tensor) -> Tensor:
            target = targets[layer.name]
            felt = gradients.take(layer.name)
            moments = Moments(inputs, None if felt is None else felt.to(inputs.device), ids.numel())
            return make(target, wanted, moments).to(wanted)

        walk_and_update(
            Walk(whole, ids),
            [layer for layer in source.model_map.layers if is_module(model(), layer)],
            set(targets),
            one,
            progress=lambda done, total: run.progress(done, total, "blocks"),
            check_cancelled=run.check_cancelled,
        )
