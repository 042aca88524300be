"""What trains of a layer in packed bits: two thin matrices beside it, while its codes stay as they are.

As in QLoRA (T. Dettmers et al., NeurIPS 2023): y = Ŵ x + B A x, with Ŵ in few bits, A [rank, in] and B [out, rank]. Thin matrices that were
stored in few bits too are trained from what they stand for; where there are none, A is random and B zero, so that the model begins as the
one that was quantized. They are stored in 16 bits.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from bondwise.checkpoint import torch_dtype
from bondwise.modeling_mpo import PackedLinear, _module_path
from bondwise.writing import PlannedTensor, Replacement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    from bondwise.checkpoint import Checkpoint, TensorEntry

FIRST, SECOND = ".correction.0.weight", ".correction.1.weight"


def layer_of(tensor: str) -> str | None:
    """The layer that a tensor of that name corrects."""
    return next((tensor.removesuffix(end) for end in (FIRST, SECOND) if tensor.endswith(end)), None)


def possible_corrections(source: Checkpoint, rank: int | None) -> dict[str, torch.Size]:
    """Names and shapes of all corrections that the folder's packed layers, not cores, can have; those without one get `rank`, or none."""
    found: dict[str, torch.Size] = {}
    for name, layer in _packed(source).items():
        size = min(layer["rank"] or rank or 0, layer["out_features"], layer["in_features"])
        if size and ".cores." not in name:
            found |= {name + FIRST: torch.Size([size, layer["in_features"]]), name + SECOND: torch.Size([layer["out_features"], size])}
    return found


@torch.no_grad()
def open_corrections(model: PreTrainedModel, shapes: Mapping[str, Sequence[int]], *, seed: int = 0) -> None:
    """Gives the layers whose corrections are among `shapes` these as linear maps, float32, in the place of matrices of few bits.

    Codes do not change from then on: they are unpacked once."""
    generator = torch.Generator().manual_seed(seed)
    for name, shape in shapes.items():
        if not name.endswith(FIRST):
            continue
        module = model.get_submodule(_module_path(model, name.removesuffix(FIRST)))
        assert isinstance(module, PackedLinear)
        module.path = "keep"
        if "correction" in module._modules:
            continue
        if "right" in module._modules:
            first, second = module.right.dense(), module.left.dense().mT  # [rank, in], [out, rank]
            del module.right, module.left
        else:
            first = torch.randn(*shape, generator=generator) / math.sqrt(shape[1])
            second = torch.zeros(module.out_features, shape[0])
        module.correction = nn.Sequential(_linear(first.to(model.device)), _linear(second.to(model.device)))


def stored_type(source: Checkpoint) -> torch.dtype:
    """In which the folder holds corrections: that of most of its other numbers, if it has 16 bits, else float16."""
    return torch_dtype(_typical(source)) if _typical(source).dtype in ("F16", "BF16") else torch.float16


def replaced_corrections(source: Checkpoint, trained: Mapping[str, Tensor]) -> list[Replacement]:
    """The corrections among `trained`, where those of few bits were, else beside the layer's matrix."""
    return [_replaced(source, name.removesuffix(FIRST), trained) for name in trained if name.endswith(FIRST)]


def corrected_config(source: Checkpoint, trained: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """What config.json says with these corrections; None where there are none."""
    packed = dict(_packed(source))
    corrected = {name.removesuffix(FIRST): tensor.shape[0] for name, tensor in trained.items() if name.endswith(FIRST)}
    if not corrected:
        return None
    for layer, rank in corrected.items():
        packed[layer] = {**packed[layer], "rank": rank, "rank_bits": 16}
    return {**source.config, "mpo": {**source.config["mpo"], "packed": packed}}


# --- helpers -------------------------------------------------------------------------------------------------------------------------


def _packed(source: Checkpoint) -> dict[str, dict[str, Any]]:
    section = source.config.get("mpo")
    return cast("dict[str, Any]", section).get("packed", {}) if isinstance(section, dict) else {}


def _linear(weight: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    made.weight = nn.Parameter(weight.float().contiguous())
    return made


def _typical(source: Checkpoint) -> TensorEntry:
    floats = [entry for entry in source.tensors.values() if entry.dtype in ("F32", "F16", "BF16")]
    return max(floats, key=lambda entry: entry.parameters)


def _replaced(source: Checkpoint, layer: str, trained: Mapping[str, Tensor]) -> Replacement:
    dtype = stored_type(source)
    pair = {layer + end: trained[layer + end].to(dtype) for end in (FIRST, SECOND)}
    gone = [name for name in source.tensors if name in pair or name.startswith((f"{layer}.left.", f"{layer}.right."))]
    beside = [] if gone else [f"{layer}.matrix.levels"]
    planned = [PlannedTensor(name, source.tensors[name].dtype, source.tensors[name].shape) for name in beside]
    planned += [PlannedTensor(name, "F16" if dtype == torch.float16 else "BF16", tuple(tensor.shape)) for name, tensor in pair.items()]
    return Replacement((*beside, *gone), tuple(planned), lambda: iter([*(source.read(name) for name in beside), *pair.values()]))
