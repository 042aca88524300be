"""Weights that a folder stores in few bits → the numbers they stand for, one weight at a time, whatever stored them.

bitsandbytes' tensors are those of its own `QuantState` and of LLM.int8 (Dettmers et al. 2022); packed ones are described at the head of
`modeling_mpo.py`.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from bondwise.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from bondwise.checkpoint import Checkpoint
    from bondwise.schema import MPOSection, PackedLayer

_STATE = ".weight.quant_state.bitsandbytes__"


class FewBits(NamedTuple):
    """A weight in few bits: of a dense layer, of a core, or of the head."""

    tensors: tuple[str, ...]
    """Its tensors in the file, without a bias."""
    shape: tuple[int, int]
    """[out, in], also where the base's class stores [in, out]."""
    read: Callable[[], Tensor]
    """The numbers, [out, in] float32."""


def weights_in_few_bits(source: Checkpoint, section: MPOSection | None) -> dict[str, FewBits]:
    """Every weight of the folder that is stored so, by the name of its module.

    Raises UserError for a folder that another method than bitsandbytes or Bondwise has quantized, and for tensors that are damaged.
    """
    settings = source.config.get("quantization_config")
    method = cast("dict[str, Any]", settings).get("quant_method") if isinstance(settings, dict) else None
    if settings is not None and method != "bitsandbytes":
        raise UserError(
            f"{source.folder} is quantized by {method or 'a method that its config.json does not name'}, whose weights are not read here.",
            "Export the model before that.",
        )
    found = {name: _packed(source, name, entry) for name, entry in (section.packed if section else {}).items()}
    for tensor in source.tensors:
        if tensor.endswith(".SCB"):
            name = tensor.removesuffix(".SCB")
            found[name] = _int8(source, name)
        elif _STATE in tensor:
            name = tensor.partition(_STATE)[0]
            found[name] = _four_bits(source, name, tensor)
    return found


def _packed(source: Checkpoint, name: str, entry: PackedLayer) -> FewBits:
    parts = tuple(f"{name}.{part}." for part in ("matrix", "left", "right", "correction"))
    tensors = tuple(tensor for tensor in source.tensors if tensor.startswith(parts))

    def read() -> Tensor:
        import torch

        from bondwise.modeling_mpo import PackedLinear

        fields: dict[str, Any] = entry.model_dump(exclude={"scheme"}) | {"bias": False}
        layer = PackedLinear(**fields)
        try:
            layer.load_state_dict({tensor.removeprefix(f"{name}."): source.read(tensor) for tensor in tensors})
        except RuntimeError as failure:
            raise _damaged(source, name, failure) from None
        with torch.no_grad():
            return layer.dense()

    return FewBits(tensors, (entry.out_features, entry.in_features), read)


def _int8(source: Checkpoint, name: str) -> FewBits:
    codes, scales = f"{name}.weight", f"{name}.SCB"
    shape = source.tensors[codes].shape if codes in source.tensors else ()
    if len(shape) != 2 or source.tensors[scales].shape != shape[:1]:
        raise _damaged(source, name, f"codes {list(shape)} and scales {list(source.tensors[scales].shape)} do not fit together")
    tensors = tuple(tensor for tensor in (codes, scales, f"{name}.weight_format") if tensor in source.tensors)
    return FewBits(tensors, (shape[0], shape[1]), lambda: source.read(codes).float() * source.read(scales).float()[:, None] / 127)


def _four_bits(source: Checkpoint, name: str, state: str) -> FewBits:
    tensors = tuple(tensor for tensor in source.tensors if tensor == f"{name}.weight" or tensor.startswith(f"{name}.weight."))
    try:
        out_features, in_features = json.loads(bytes(source.read(state).tolist()))["shape"]
    except (ValueError, TypeError, KeyError) as failure:
        raise _damaged(source, name, failure) from None
    return FewBits(tensors, (out_features, in_features), functools.partial(_read_four_bits, source, name, tensors))


def _read_four_bits(source: Checkpoint, name: str, tensors: tuple[str, ...]) -> Tensor:
    import torch
    from bitsandbytes import functional

    stored = {tensor.removeprefix(f"{name}.weight.") for tensor in tensors} - {f"{name}.weight"}
    state = functional.QuantState.from_dict({part: source.read(f"{name}.weight.{part}") for part in stored}, torch.device("cpu"))
    return functional.dequantize_4bit(source.read(f"{name}.weight"), state).float()


def _damaged(source: Checkpoint, name: str, why: object) -> UserError:
    return UserError(f"{source.folder} holds {name} in few bits, and not as its config.json says: {why}.", "Make the folder again.")
