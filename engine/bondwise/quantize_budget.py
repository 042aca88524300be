"""A budget → the scheme of every layer: what each scheme would cost is computed for all layers, then chosen among.

The tables are kept beside the moments that they come from, so that another budget of the same model and text takes seconds.
"""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from pydantic import TypeAdapter, ValidationError

from bondwise import atomic
from bondwise.calibration import Wanted, each_moments
from bondwise.checkpoint import BITS
from bondwise.device import device_memory
from bondwise.errors import UserError
from bondwise.evaluate import evaluate
from bondwise.layer_files import layer_path
from bondwise.loading import load_model
from bondwise.memory import release_freed_memory
from bondwise.moments_file import MomentStore, store_key
from bondwise.preparation import check_text
from bondwise.quantize_choices import Target, matched_weights, refuse_quantized, weights_of
from bondwise.schema import EvaluateOptions, Predicted, QuantizeBudget, QuantizeRequest, SchemeChoice
from bondwise.scheme_plan import parse_scheme_target, plan_schemes
from bondwise.scheme_table import scheme_table
from bondwise.text import fingerprint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    from bondwise.checkpoint import Checkpoint
    from bondwise.modelmap import Layer, ModelMap
    from bondwise.run import Run
    from bondwise.told import Told

FORMAT = 1
"""Raised when a table would have other figures."""
_TABLE = TypeAdapter(list[SchemeChoice])


class Planned(NamedTuple):
    targets: list[Target]
    larger: Mapping[str, SchemeChoice]
    smaller: Mapping[str, SchemeChoice]
    predicted: Predicted


def possible_targets(checkpoint: Checkpoint, model_map: ModelMap, budget: QuantizeBudget) -> list[Target]:
    """The layers that the budget is about, as they would take most memory to make.

    Raises UserError for a folder that is quantized, patterns that match nothing, and a target that is none.
    """
    refuse_quantized(checkpoint, model_map)
    parse_scheme_target(budget.target, numbers=1, elsewhere=0)
    weights = matched_weights(weights_of(checkpoint, model_map), budget.layers, budget.exclude)
    return [Target(layer, "compensated-8", 0, 0, in_packed=True) for layer in weights if len(layer.shape) == 2]


def planned_targets(run: Run, checkpoint: Checkpoint, model_map: ModelMap, ids: Tensor, told: Told) -> Planned:
    """Raises UserError for a folder that is quantized, patterns that match nothing, and a target that is none or cannot be reached."""
    budget = cast("QuantizeBudget", cast("QuantizeRequest", run.request).options.budget)
    layers = [target.layer for target in possible_targets(checkpoint, model_map, budget)]
    tables = _tables(run, checkpoint, layers, ids, told)
    run.phase("Choosing schemes")
    plan = plan_schemes(
        layers,
        tables,
        budget.target,
        model_bytes=checkpoint.bytes,
        model_parameters=model_map.parameters,
        baseline=_baseline(run, checkpoint) if "perplexity" in budget.target else None,
    )
    if not plan.chosen:
        raise UserError(
            f"{budget.target} asks for nothing: the model has {checkpoint.bytes / 1e6:,.1f} MB already.",
            "Choose a smaller target, such as 4bits.",
        )
    targets = [
        Target(layer, choice.scheme, choice.rank, choice.rank_bits, in_packed=True)
        for layer in layers
        if (choice := plan.chosen.get(layer.name)) is not None
    ]
    return Planned(targets, plan.larger, plan.smaller, plan.predicted)


def _tables(run: Run, checkpoint: Checkpoint, layers: Sequence[Layer], ids: Tensor, told: Told) -> dict[str, list[SchemeChoice]]:
    store = MomentStore(store_key(checkpoint, fingerprint(ids), run.request.seed, run.device, run.check_cancelled), told.warn)
    found: dict[str, list[SchemeChoice]] = {}
    places = {layer.name: layer_path(Path("schemes"), number, layer.name).with_suffix(".json").name for number, layer in enumerate(layers)}
    key = [FORMAT, store.folder.name]
    for layer in layers:
        for folder in (store.folder, run.checkpoints):
            if layer.name not in found and (table := _read(folder / places[layer.name], [*key, layer.name])) is not None:
                found[layer.name] = table
    missing = [layer for layer in layers if layer.name not in found]
    by_name = {layer.name: layer for layer in missing}
    for name, moments in (
        each_moments(
            run,
            checkpoint,
            ids,
            [Wanted(layer) for layer in missing],
            model=functools.partial(_load, run, checkpoint),
            room=lambda: device_memory(run.device).free // 2,
            warn=told.warn,
            work="Weighing schemes",
        )
        if missing
        else ()
    ):
        run.check_cancelled()
        layer = by_name[name]
        stored = checkpoint.read(layer.tensors[0])
        if not bool(stored.isfinite().all()):
            raise UserError(f"{layer.tensors[0]} holds weights that are NaN or infinite.", "Copy the weight files of the model again.")
        weight = (stored.mT if layer.transposed else stored).to(run.device)
        found[name] = scheme_table(weight, moments, dtype=layer.dtype, item_bits=BITS[layer.dtype], core=".cores." in name)
        place = (store.folder if store.folder.is_dir() else run.checkpoints) / places[name]
        atomic.write_json(place, {"key": [*key, name], "table": [choice.model_dump() for choice in found[name]]})
        release_freed_memory()
        run.progress(len(found), len(layers), "layers")
    return found


def _read(path: Path, key: list[object]) -> list[SchemeChoice] | None:
    try:
        value = json.loads(path.read_bytes())
        return _TABLE.validate_python(value["table"]) if value["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return None


def _load(run: Run, checkpoint: Checkpoint) -> PreTrainedModel:
    run.phase(f"Loading {checkpoint.folder.name}")
    return load_model(checkpoint.folder, device=run.device, allow_code=run.request.allow_code)


def _baseline(run: Run, checkpoint: Checkpoint) -> float:
    """The original model's loss on the evaluation text, nats per token."""
    options = cast("QuantizeRequest", run.request).options.evaluate or EvaluateOptions()
    tokenizer = check_text(run, checkpoint.folder, options)
    model = _load(run, checkpoint)
    run.phase("Measuring the original model")
    measured = evaluate(
        model,
        tokenizer,
        options.model_copy(update={"sample_tokens": 0}),
        seed=run.request.seed,
        progress=lambda done, total: run.progress(done, total, "sequences"),
        check_cancelled=run.check_cancelled,
    )
    return math.log(measured.perplexity)
