"""One packed sequence through a model: logits where labels follow, in the precision that the device is fast in."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, cast

import torch

from bondwise.device import fast_bfloat16

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor
    from transformers import PreTrainedModel

    from bondwise.packing import Packed


def precision(device: str) -> AbstractContextManager[Any]:
    """Products in bfloat16 where the device makes them faster so; sums, norms and what trains stay in float32."""
    return torch.autocast(device.partition(":")[0], torch.bfloat16) if fast_bfloat16(device) else nullcontext()


PLAIN_ATTENTION = 512
"""Tokens up to which the plain attention is the faster one in bfloat16 on a CPU. Measured forward and backward, 9 heads of 64, on an AMD
EPYC: 5.6 ms and torch's fused one 11 at 256 tokens, 20 and 32 at 512, 114 and 105 at 1024."""


def choose_attention(model: PreTrainedModel, device: str, length: int) -> None:
    """To be called before anything is tried on the model."""
    if device == "cpu" and fast_bfloat16(device) and length <= PLAIN_ATTENTION and model.config._attn_implementation == "sdpa":
        model.set_attn_implementation("eager")


def lower_frozen(model: PreTrainedModel, device: str) -> None:
    """Holds what does not train as the products read it: else it would be rounded anew in each of them."""
    if fast_bfloat16(device):
        for parameter in model.parameters():
            if not parameter.requires_grad and parameter.dtype == torch.float32:
                parameter.data = parameter.data.to(torch.bfloat16)


def labelled_logits(model: PreTrainedModel, pack: Packed, device: str) -> tuple[Tensor, Tensor]:
    """Logits [labelled, vocabulary] where a label follows, and those labels int64 [labelled]; the head works on no other places."""
    places = (pack.labels[1:] >= 0).nonzero()[:, 0].to(device)  # [labelled]
    only: dict[str, Any] = {"logits_to_keep": places} if _keeps_some(model) else {}
    with precision(device):
        logits = cast("Any", model)(
            input_ids=pack.input_ids[None].to(device), position_ids=pack.position_ids[None].to(device), use_cache=False, **only
        ).logits[0]
    return logits if only else logits[places], pack.labels[1:].to(device)[places]


def _keeps_some(model: PreTrainedModel) -> bool:
    return "logits_to_keep" in inspect.signature(model.forward).parameters
