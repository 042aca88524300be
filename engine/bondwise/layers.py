"""Linear layers as matrix product operators: made from a dense layer, written to and read from the two-index form of a checkpoint.

The module itself, with its forward paths, is `modeling_mpo.MPOLinear`, which ships inside every compressed checkpoint.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from bondwise import modeling_mpo, mpo
from bondwise.gauge import FixedCore, fix_gauge, unfix_core
from bondwise.trust import needs_code

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from transformers.pytorch_utils import Conv1D

    from bondwise.schema import MPOLayer


class Costs(NamedTuple):
    """What a layer stores and computes; multiply-adds are per token, through the cores."""

    parameters: int
    multiply_adds: int
    dense_multiply_adds: int


class MPOLinear(modeling_mpo.MPOLinear):
    """The shipped module with the ways to make one."""

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear | Conv1D,
        out_modes: Sequence[int],
        in_modes: Sequence[int],
        *,
        chi: int | Sequence[int] | None = None,
        keep: float | None = None,
        error: float | None = None,
    ) -> MPOLinear:
        """Decomposes a layer; bias, dtype, device and training mode stay. A `Conv1D` stores [in, out] and is transposed.

        Options and ValueError as in `mpo.decompose`.
        """
        # Conv1D is told apart by its shape attribute and not by its class, which moves between versions of transformers.
        weight = linear.weight if isinstance(linear, nn.Linear) else linear.weight.mT  # [out, in]
        decomposed = mpo.decompose(weight.detach(), out_modes, in_modes, chi=chi, keep=keep, error=error)
        layer = cls.from_cores(decomposed, linear.bias, dtype=weight.dtype, device=weight.device)
        layer.train(linear.training)
        return layer

    @classmethod
    def from_cores(
        cls, decomposed: mpo.MPO, bias: Tensor | None = None, *, dtype: torch.dtype, device: torch.device | str | None = None
    ) -> MPOLinear:
        """A layer with these cores, rounded to `dtype`, and a copy of `bias` [out]."""
        layer = cls(
            decomposed.in_features,
            decomposed.out_features,
            decomposed.out_modes,
            decomposed.in_modes,
            decomposed.bond_dims,
            bias=bias is not None,
            device=device,
            dtype=dtype,
        )
        with torch.no_grad():
            tensors = layer.state_dict()
            for name, tensor in stored_tensors(decomposed, dtype).items():
                tensors[name].copy_(tensor)
            if layer.bias is not None and bias is not None:
                layer.bias.copy_(bias)
        return layer


def stored_shapes(out_modes: Sequence[int], in_modes: Sequence[int], bond_dims: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """The tensors of a layer in a checkpoint by what follows its name, in the order they are written; `order_K` are int32."""
    bonds = (1, *bond_dims, 1)
    sizes = [out_modes[k] * in_modes[k] * bonds[k + 1] for k in range(len(out_modes))]  # columns of each core's unfolding
    cores = {f"cores.{k}.weight": (sizes[k] - bonds[k], bonds[k]) for k in range(1, len(sizes))}
    orders = {f"order_{k}": (sizes[k],) for k in range(1, len(sizes))}
    return {"cores.0.weight": (out_modes[0] * bonds[1], in_modes[0]), **cores, **orders}


def stored_tensors(decomposed: mpo.MPO, dtype: torch.dtype) -> dict[str, Tensor]:
    """The cores as a checkpoint stores them, their gauge fixed: as `stored_shapes`, contiguous, in `dtype`."""
    first, others = fix_gauge(decomposed.cores)
    weight = first[0].permute(0, 2, 1).reshape(-1, first.shape[2])  # [out_1·r_1, in_1]
    cores = {f"cores.{k}.weight": core.rest for k, core in enumerate(others, 1)}
    orders = {f"order_{k}": core.order.to(torch.int32) for k, core in enumerate(others, 1)}
    return {name: core.to(dtype).contiguous() for name, core in {"cores.0.weight": weight, **cores}.items()} | orders


def contract_stored(  # noqa: PLR0917
    stored: Mapping[str, Tensor],
    out_modes: Sequence[int],
    in_modes: Sequence[int],
    bond_dims: Sequence[int],
    out_features: int,
    in_features: int,
) -> Tensor:
    """Stored tensors → the dense weight [out_features, in_features] in the precision that `mpo.contract` is exact in: float64, where the
    device has it. Shares no code with the forward paths.

    Raises ValueError where the shapes do not fit the modes and bonds.
    """
    for name, shape in stored_shapes(out_modes, in_modes, bond_dims).items():
        if tuple(stored[name].shape) != shape:
            raise ValueError(f"{name} has the shape {list(stored[name].shape)}, and its modes and bonds ask for {list(shape)}")
    precise = {name: tensor.to(torch.float32 if tensor.device.type == "mps" else torch.float64) for name, tensor in stored.items()}
    cores = [precise["cores.0.weight"].reshape(out_modes[0], -1, in_modes[0]).permute(0, 2, 1)[None]]
    cores += [
        unfix_core(FixedCore(precise[f"cores.{k}.weight"], stored[f"order_{k}"].long()), out_modes[k], in_modes[k])
        for k in range(1, len(out_modes))
    ]
    return mpo.contract(cores)[:out_features, :in_features]


def costs(out_modes: Sequence[int], in_modes: Sequence[int], bond_dims: Sequence[int]) -> Costs:
    """Parameters and multiply-adds per token of an MPO beside the dense layer's, padding included."""
    return Costs(
        parameters=mpo.parameter_count(out_modes, in_modes, bond_dims),
        multiply_adds=mpo.multiply_adds(out_modes, in_modes, bond_dims),
        dense_multiply_adds=math.prod(out_modes) * math.prod(in_modes),
    )


def mpo_config(base: Mapping[str, Any], layers: Mapping[str, MPOLayer]) -> dict[str, Any]:
    """config.json of a compressed checkpoint, from the base model's and its tensorized layers.

    A base that is itself compressed keeps its own base, and its other MPO layers. Raises ValueError where the base names no
    architecture, or no class in its own code where it needs that.
    """
    if base.get("model_type") == modeling_mpo.MODEL_TYPE:
        section: dict[str, Any] = dict(base.get("mpo", {}))
        if section.get("version") != modeling_mpo.VERSION:
            raise ValueError(f"its section mpo has version {section.get('version')!r}, and only {modeling_mpo.VERSION} can be added to")
    else:
        section = {"version": modeling_mpo.VERSION, **_base_classes(base), "layers": {}}
    section["layers"] = {**section.get("layers", {}), **{name: layer.model_dump() for name, layer in layers.items()}}
    return {
        **{key: value for key, value in base.items() if key not in ("auto_map", "mpo")},
        "model_type": modeling_mpo.MODEL_TYPE,
        "architectures": list(modeling_mpo.ARCHITECTURES),
        "auto_map": modeling_mpo.auto_map_beside(base.get("auto_map") if section.get("base_auto_map") else None),
        "mpo": section,
    }


def _base_classes(base: Mapping[str, Any]) -> dict[str, Any]:
    """Where the classes of a model that is not compressed are."""
    model_type, architectures = base.get("model_type"), base.get("architectures") or []
    if model_type is None or not architectures:
        raise ValueError("config.json names no model_type or no architectures")
    found: dict[str, Any] = {"base_model_type": model_type, "base_architecture": architectures[0]}
    if needs_code(base):
        for kind in modeling_mpo.AUTO_MAP:
            if not isinstance(base["auto_map"].get(kind), str):
                raise ValueError(f"the auto_map of config.json names no {kind}")
        found["base_auto_map"] = {kind: base["auto_map"][kind] for kind in modeling_mpo.AUTO_MAP}
    return found
