"""The dense weight that a layer of a checkpoint stands for, whatever is stored in its place; one layer in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from bondwise import modeling_mpo
from bondwise.errors import UserError
from bondwise.layers import contract_stored, stored_shapes
from bondwise.schema import MPOLayer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from bondwise.checkpoint import Checkpoint
    from bondwise.modelmap import Layer

_STATE = ".quant_state.bitsandbytes__"


def stored_weight(checkpoint: Checkpoint, layer: Layer) -> Tensor:
    """The weight [out, in] that `layer` stands for, on the CPU: dense ones in their dtype, contracted ones in float64, others in float32.

    Cores are contracted, packed matrices and what bitsandbytes stores are unpacked; of `int8` it is the weight without the rounding of its
    inputs. Raises UserError for what another quantizer stored, and where bitsandbytes is needed and cannot be used.
    """
    if layer.state != "mpo":
        weight = _matrix(checkpoint, layer.name, layer.scheme)
        return weight.mT if layer.transposed else weight
    described = cast("dict[str, Any]", checkpoint.config["mpo"])["layers"][layer.name]
    entry = MPOLayer.model_validate(described)
    stored: dict[str, Tensor] = {}
    for part in stored_shapes(entry.out_modes, entry.in_modes, entry.bond_dims):
        path, _, kind = f"{layer.name}.{part}".rpartition(".")
        stored[part] = _matrix(checkpoint, path, layer.scheme) if kind == "weight" else checkpoint.read(f"{path}.{kind}")
    return contract_stored(stored, entry.out_modes, entry.in_modes, entry.bond_dims, entry.out_features, entry.in_features)


def dense_of_bitsandbytes(tensors: Mapping[str, Tensor]) -> Tensor:
    """float32 [out, in], from the tensors by what follows the layer's name and a dot: `weight`, and `SCB` or the state of 4 bits."""
    if "SCB" in tensors:
        return tensors["weight"].float() * tensors["SCB"].float()[:, None] / 127
    from bitsandbytes import functional

    state = {name.removeprefix("weight."): value for name, value in tensors.items() if name != "weight"}
    whole = functional.QuantState.from_dict(state, device=tensors["weight"].device)
    return functional.dequantize_4bit(tensors["weight"], whole).float()


def _matrix(checkpoint: Checkpoint, path: str, scheme: str | None) -> Tensor:
    """What the linear layer, or core, at `path` multiplies with."""
    section = cast("dict[str, Any]", checkpoint.config.get("mpo") or {})
    packed = cast("dict[str, Any]", section.get("packed") or {})
    if path in packed:
        return _unpacked(checkpoint, path, packed[path])
    weight = checkpoint.tensors.get(f"{path}.weight")
    helpers = [name for name in checkpoint.tensors if name == f"{path}.SCB" or name.startswith(f"{path}.weight{_STATE}")]
    helpers += [name for name in (f"{path}.weight.{part}" for part in _FOUR_BITS) if name in checkpoint.tensors]
    if weight is None or (scheme is not None and not helpers and weight.dtype not in _FLOATS):
        raise UserError(f"{path} is stored as {scheme}, which is not unpacked here.", "Compare the model before its quantization.")
    if not helpers:
        return checkpoint.read(weight.name)
    tensors = {name.removeprefix(f"{path}."): checkpoint.read(name) for name in (weight.name, *helpers)}
    try:
        return dense_of_bitsandbytes(tensors)
    except (ImportError, RuntimeError, OSError) as failure:
        raise UserError(f"{path} is stored by bitsandbytes, which cannot be used here: {failure}.", "Install it for the engine.") from None


_FOUR_BITS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
_FLOATS = frozenset(("F64", "F32", "F16", "BF16"))


def _unpacked(checkpoint: Checkpoint, path: str, entry: dict[str, Any]) -> Tensor:
    fields = {key: entry[key] for key in ("in_features", "out_features", "bits", "ordered", "rank", "rank_bits") if key in entry}
    layer = modeling_mpo.PackedLinear(**fields, bias=False)
    layer.load_state_dict({name: checkpoint.read(f"{path}.{name}") for name in layer.state_dict()})
    return layer.dense()
