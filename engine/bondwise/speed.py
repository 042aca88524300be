"""How fast a model is beside the original: forward pass, prefill, decoding, training step.

Both models do the same thing by turns, so that whatever else the machine does slows both alike; the fastest of several is the one that it
disturbed least. Ratios are of those; absolute figures are of this machine at this hour.
"""

from __future__ import annotations

import math
import statistics
import time
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from bondwise.errors import UserError
from bondwise.schema import Speed, Timing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel

OPTIMIZER_COPIES = 3
"""Gradient, and the two moments of AdamW, beside a parameter that trains."""


class Asked(NamedTuple):
    length: int
    decode_tokens: int
    repeats: int
    training: bool
    seed: int


def measure_speed(
    model: PreTrainedModel,
    original: PreTrainedModel | None,
    asked: Asked,
    *,
    original_weights: str | None,
    room: int,
    step: Callable[[int, int], None] = lambda done, total: None,
    check_cancelled: Callable[[], None] = lambda: None,
) -> Speed:
    """Times `model`, and by turns with it `original` where one is given. Weights are the same afterwards.

    `room` is the memory (bytes) that a training step may take besides both models. `step(done, total)` counts rounds. Raises UserError
    where the model cannot take `length` tokens.
    """
    import torch

    models = [model] if original is None else [original, model]
    ids = torch.randint(min(_vocabulary(one) for one in models), (1, asked.length), generator=torch.Generator().manual_seed(asked.seed))
    _check_length(models, asked.length + asked.decode_tokens)
    trained, note = _trainable(models, asked, room)
    kinds: dict[str, Callable[[PreTrainedModel, Tensor], float]] = {
        "forward": _forward,
        "prefill": _prefill,
        "decode": lambda one, tokens: _decode(one, tokens, asked.decode_tokens),
        **({"training": _training} if note is None or trained else {}),
    }
    done, total = 0, len(kinds) * (asked.repeats + 1)
    timings: dict[str, Timing] = {}
    for name, measure in kinds.items():
        rounds: list[list[float]] = []
        # The first round warms up: allocations, caches of contracted weights, the processor's clock.
        for _ in range(asked.repeats + 1):
            seconds: list[float] = []
            for one in models:
                check_cancelled()
                seconds.append(measure(one, ids.to(one.device)))
            rounds.append(seconds)
            done += 1
            step(done, total)
        timings[name] = _timing(rounds[1:])
    parameter = next(model.parameters())
    return Speed(
        device=str(model.device),
        dtype=str(parameter.dtype).removeprefix("torch.") if parameter.is_floating_point() else str(model.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        original=original_weights,
        length=asked.length,
        decode_tokens=asked.decode_tokens,
        forward=timings["forward"],
        prefill=timings["prefill"],
        decode=timings["decode"],
        training=timings.get("training"),
        trained=trained if "training" in timings else 0,
        training_note=note,
    )


def _timing(rounds: Sequence[Sequence[float]]) -> Timing:
    """From seconds [rounds][original, model] or [rounds][model]."""
    own = [seconds[-1] for seconds in rounds]
    timing = Timing(minimum=min(own), median=statistics.median(own), repeats=len(own))
    if len(rounds[0]) == 1:
        return timing
    other = [seconds[0] for seconds in rounds]
    first, middle = min(other), statistics.median(other)
    return timing.model_copy(
        update={
            "original_minimum": first,
            "original_median": middle,
            "ratio": timing.minimum / first,
            "median_ratio": timing.median / middle,
        }
    )


# --- what is timed -----------------------------------------------------------------------------------------------------------------------


def _forward(model: PreTrainedModel, ids: Tensor) -> float:
    import torch

    with torch.inference_mode():
        started = time.perf_counter()
        cast("Any", model)(input_ids=ids, use_cache=False)
        return _since(started, model)


def _prefill(model: PreTrainedModel, ids: Tensor) -> float:
    import torch

    with torch.inference_mode():
        started = time.perf_counter()
        cast("Any", model)(input_ids=ids, use_cache=True, logits_to_keep=1)
        return _since(started, model)


def _decode(model: PreTrainedModel, ids: Tensor, tokens: int) -> float:
    """Seconds a token, behind a filled cache."""
    import torch

    with torch.inference_mode():
        output = cast("Any", model)(input_ids=ids, use_cache=True, logits_to_keep=1)
        _since(0.0, model)
        started = time.perf_counter()
        for _ in range(tokens):
            following = output.logits[:, -1].argmax(-1, keepdim=True)  # [1, 1]
            output = cast("Any", model)(input_ids=following, past_key_values=output.past_key_values, use_cache=True)
        return _since(started, model) / tokens


def _training(model: PreTrainedModel, ids: Tensor) -> float:
    """A step at learning rate 0: it computes all that a step computes and changes nothing."""
    import torch

    parameters = [parameter for parameter in model.parameters() if parameter.is_floating_point()]
    before = [parameter.requires_grad for parameter in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=0.0, weight_decay=0.0)
    model.train()
    lay_out_for_training(model)
    try:
        for parameter in parameters:
            parameter.requires_grad = True
        # Moments are made at the first step of an optimizer, which a training pays once.
        _step(model, optimizer, ids)
        started = time.perf_counter()
        _step(model, optimizer, ids)
        return _since(started, model)
    finally:
        optimizer.zero_grad(set_to_none=True)
        for parameter, required in zip(parameters, before, strict=True):
            parameter.requires_grad = required
        model.eval()


def lay_out_for_training(model: nn.Module) -> None:
    """For inference on CPUs with AVX512-BF16 bitsandbytes lays its 4-bit weights out anew, and no gradient passes those: takes that back.

    The scales come back rounded to bfloat16, as its kernel has them.
    """
    for module in model.modules():
        if getattr(getattr(getattr(module, "weight", None), "quant_state", None), "packing_format_for_cpu", False):
            module.state_dict()  # that makes it do so, but bitsandbytes 0.50 leaves scales that are not in 8 bits themselves turned over
            state = cast("Any", module.weight).quant_state
            if state.absmax.dim() == 2:
                state.absmax = state.absmax.T.reshape(-1).float()


def _step(model: PreTrainedModel, optimizer: torch.optim.Optimizer, ids: Tensor) -> None:
    import torch

    loss = cast("Any", model)(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_([one for group in optimizer.param_groups for one in group["params"]], 1.0)
    if not math.isfinite(float(norm)):
        raise UserError(
            "The gradient of a training step is not finite on random tokens: the step cannot be timed.", "Leave it out (--no-training)."
        )
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _since(started: float, model: PreTrainedModel) -> float:
    import torch

    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    elif model.device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter() - started


# --- what can be timed -------------------------------------------------------------------------------------------------------------------


def _trainable(models: Sequence[PreTrainedModel], asked: Asked, room: int) -> tuple[int, str | None]:
    """How many parameters of the last model a step trains, and what to say of it; 0 with a note: none is timed."""
    if not asked.training:
        return 0, "not asked for"
    counts = [sum(one.numel() for one in model.parameters() if one.is_floating_point()) for model in models]
    sizes = [sum(one.numel() * one.element_size() for one in model.parameters() if one.is_floating_point()) for model in models]
    needed = OPTIMIZER_COPIES * max(sizes)
    if needed > room:
        return 0, f"a step takes about {needed / 1e9:.1f} GB beside the models, {room / 1e9:.1f} GB are free"
    quantized = any(not one.is_floating_point() for one in models[-1].parameters())
    return counts[-1], "quantized weights stay as they are; only the others train" if quantized else None


def _vocabulary(model: PreTrainedModel) -> int:
    return int(cast("Any", model.get_input_embeddings()).weight.shape[0])


def _check_length(models: Sequence[PreTrainedModel], length: int) -> None:
    for model in models:
        limit = getattr(cast("Any", model.config).get_text_config(), "max_position_embeddings", None)
        if isinstance(limit, int) and length > limit:
            raise UserError(
                f"A timed pass of {length} tokens is longer than the {limit} that a model takes.",
                "Choose fewer.",
            )
