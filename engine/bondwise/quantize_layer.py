"""One weight in fewer bits: its tensors as the file holds them, and what it became."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, cast

import torch

from bondwise import modeling_mpo
from bondwise.errors import UserError
from bondwise.layers import contract_stored, stored_tensors
from bondwise.rounding import Factors, Rounded, TwoSided, round_compensated, round_factors, round_nearest, thin_factors
from bondwise.schema import MPOLayer, PackedLayer, QuantizedLayer
from bondwise.stored_bits import scheme_bits
from bondwise.stored_weight import dense_of_bitsandbytes
from bondwise.weighted import decompose_weighted, predicted_loss

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from bondwise.calibrate import Moments
    from bondwise.quantize_choices import Target


CORRECTION = "correction"
"""Two linear maps beside a packed matrix, [rank, in] and [out, rank], in 16 bits."""


class Made(NamedTuple):
    tensors: dict[str, Tensor]
    """By what follows the layer's name and a dot, on the CPU."""
    figures: QuantizedLayer


def quantize_layer(
    target: Target, weight: Tensor, moments: Moments | None, *, protected: bool = False, wanted: Tensor | None = None
) -> Made:
    """A weight [out, in] on the device that computes → what is stored in its place.

    `moments` are needed by the calibrated schemes. `protected`: 8 bits in the place of fewer. `wanted` [out, in] is what the stored numbers
    are to come close to, if that is not the weight (`quantize_sequence`); the loss is then that of their difference. Raises UserError for a
    weight that is not finite, and for moments that do not fit.
    """
    started = time.perf_counter()
    if not bool(weight.isfinite().all()):
        raise UserError(f"{target.weight} holds weights that are NaN or infinite.", "Copy the weight files of the model again.")
    tensors, dense = _tensors(target, weight, moments, wanted, protected=protected)
    change = dense.to(weight.device).float() - weight.float()
    loss = None
    if moments is not None and moments.gradients is not None:
        missed = change if wanted is None else dense.to(wanted) - wanted
        loss = predicted_loss(missed, moments.inputs, moments.gradients)
    section = None if target.scheme in ("float16", "low-rank-16") or not target.in_packed else packed_section(target, protected=protected)
    return Made(
        {name: tensor.cpu().contiguous() for name, tensor in tensors.items()},
        QuantizedLayer(
            name=target.name,
            scheme=target.scheme,
            bits=section.bits if section is not None else 0 if target.rank else scheme_bits(target.scheme),
            rank=target.rank,
            rank_bits=section.rank_bits if section is not None else scheme_bits(target.scheme) if target.rank else 0,
            shape=list(target.layer.shape),
            parameters=target.layer.weight_parameters,
            bytes=sum(tensor.nbytes for tensor in tensors.values()),
            original_bytes=target.original_bytes,
            relative_error=float(change.norm() / weight.float().norm().clamp(min=1e-30)),
            loss=loss,
            protected=protected,
            seconds=time.perf_counter() - started,
        ),
    )


def dense_weight(target: Target, tensors: Mapping[str, Tensor], *, protected: bool) -> Tensor:
    """The weight [out, in], float32 on the CPU, that stored tensors stand for; of `int8` that without the rounding of its inputs.

    Shares no code with `modeling_mpo.PackedLinear` but the way bits lie in bytes.
    """
    if target.scheme == "float16":
        return tensors["weight"].float()
    if not target.in_packed:
        return dense_of_bitsandbytes(tensors)
    if target.scheme == "low-rank-16" and not protected:
        section = low_rank_section(target)
        return contract_stored(tensors, section.out_modes, section.in_modes, section.bond_dims, *target.layer.shape).float()
    parts = {name: _rounded(tensors, name, columns) for name, columns in _parts(target).items() if f"{name}.codes" in tensors}
    thin = Factors(parts["left"], parts["right"]).dense() if "left" in parts else None
    if f"{CORRECTION}.0.weight" in tensors:
        thin = tensors[f"{CORRECTION}.1.weight"].float() @ tensors[f"{CORRECTION}.0.weight"].float()
    if "matrix" not in parts:
        return cast("Tensor", thin)
    return parts["matrix"].dense() + (0 if thin is None else thin)


def packed_section(target: Target, *, protected: bool) -> PackedLayer:
    """The entry in config.json of a layer that `modeling_mpo.PackedLinear` unpacks."""
    out_features, in_features = target.layer.shape
    alone = target.scheme.startswith("low-rank")
    return PackedLayer(
        out_features=out_features,
        in_features=in_features,
        bias=".cores." not in target.name and len(target.layer.tensors) > 1,
        bits=0 if alone else 8 if protected else scheme_bits(target.scheme),
        ordered=target.scheme.startswith("compensated"),
        rank=0 if protected else target.rank,
        rank_bits=0 if protected else scheme_bits(target.scheme) if alone else target.rank_bits,
        scheme=target.scheme,
    )


def low_rank_section(target: Target) -> MPOLayer:
    """The entry in config.json of a layer of two cores in 16 bits."""
    out_features, in_features = target.layer.shape
    return MPOLayer(
        out_modes=[1, out_features],
        in_modes=[in_features, 1],
        bond_dims=[target.rank],
        out_features=out_features,
        in_features=in_features,
        bias=len(target.layer.tensors) > 1,
    )


# --- helpers -------------------------------------------------------------------------------------------------------------------------


def _tensors(
    target: Target, weight: Tensor, moments: Moments | None, wanted: Tensor | None, *, protected: bool
) -> tuple[dict[str, Tensor], Tensor]:
    """The stored tensors and the weight [out, in] that they stand for."""
    if target.scheme == "float16":
        stored = weight.half() if weight.dtype == torch.float32 else weight
        if not bool(stored.isfinite().all()):
            raise UserError(f"{target.weight} has numbers that float16 does not hold.", "Leave it as it is (--exclude).")
        return {"weight": stored}, stored
    if not target.in_packed:
        tensors = _by_bitsandbytes(target, weight)
        return tensors, dense_of_bitsandbytes(tensors)
    if not target.calibrated:
        rounded = round_nearest(weight, scheme_bits(target.scheme))
        return _stored("matrix", rounded), rounded.dense()
    assert moments is not None
    try:
        aim = weight if wanted is None else wanted.to(weight.device)
        return _calibrated(replace(target, scheme="compensated-8", rank=0) if protected else target, aim, moments, weight.dtype)
    except ValueError as failure:
        raise UserError(f"{target.name}: {failure}.", "Leave it out (--exclude), or choose int8 or nf4 for it.") from None


def _calibrated(target: Target, weight: Tensor, moments: Moments, dtype: torch.dtype) -> tuple[dict[str, Tensor], Tensor]:
    inputs, gradients = moments.inputs, moments.gradients
    if target.scheme == "low-rank-16":
        section = low_rank_section(target)
        half = torch.float16 if dtype == torch.float32 else dtype
        stored = stored_tensors(decompose_weighted(weight, inputs, gradients, chi=target.rank), half)
        return stored, contract_stored(stored, section.out_modes, section.in_modes, section.bond_dims, *weight.shape)
    by = TwoSided.of(inputs, gradients, weight.shape[0])
    if target.scheme.startswith("low-rank"):
        exact = thin_factors(weight, inputs, gradients, target.rank)
        factors = round_factors(exact, weight, by, scheme_bits(target.scheme))
        return _stored("left", factors.left) | _stored("right", factors.right), factors.dense()
    rounded = round_compensated(weight, by.by_order, scheme_bits(target.scheme))
    tensors, dense = _stored("matrix", rounded), rounded.dense()
    if target.rank:
        lost = weight.float() - dense.to(weight.device)
        if target.rank_bits == 16:
            left, right = thin_factors(lost, inputs, gradients, target.rank)  # [rank, out], [rank, in]
            half = torch.float16 if dtype == torch.float32 else dtype
            tensors |= {f"{CORRECTION}.0.weight": right.to(half), f"{CORRECTION}.1.weight": left.mT.to(half)}
            return tensors, dense + (left.to(half).float().mT @ right.to(half).float()).to(dense.device)
        factors = round_factors(thin_factors(lost, inputs, gradients, target.rank), lost, by, target.rank_bits)
        tensors |= _stored("left", factors.left) | _stored("right", factors.right)
        dense = dense + factors.dense().to(dense.device)
    return tensors, dense


def _parts(target: Target) -> dict[str, int]:
    """The columns of each part of a packed layer."""
    out_features, in_features = target.layer.shape
    return {"matrix": in_features, "left": out_features, "right": in_features}


def _stored(part: str, rounded: Rounded) -> dict[str, Tensor]:
    order = {}
    if rounded.order is not None:
        order[f"{part}.order"] = rounded.order.to(torch.int16 if len(rounded.order) <= 2**15 else torch.int32)
    return {
        f"{part}.codes": modeling_mpo.pack_codes(rounded.codes, rounded.bits),
        f"{part}.scales": rounded.scales.view(torch.int16),
        f"{part}.levels": rounded.levels.view(torch.int16),
        **order,
    }


def _rounded(tensors: Mapping[str, Tensor], part: str, columns: int) -> Rounded:
    levels = tensors[f"{part}.levels"].view(torch.float16)
    codes = modeling_mpo.unpack_codes(tensors[f"{part}.codes"], (len(levels) - 1).bit_length())[:, :columns]
    order = tensors.get(f"{part}.order")
    return Rounded(codes, tensors[f"{part}.scales"].view(torch.float16), levels, None if order is None else order.long())


def _by_bitsandbytes(target: Target, weight: Tensor) -> dict[str, Tensor]:
    from bitsandbytes import functional

    if target.scheme == "int8":
        codes, scales, _ = functional.int8_vectorwise_quant(weight.half())
        return {"weight": codes, "SCB": scales, "weight_format": torch.zeros((), dtype=torch.uint8)}
    packed, state = functional.quantize_4bit(
        weight.contiguous(), blocksize=64, compress_statistics=target.scheme == "nf4-double", quant_type="nf4"
    )
    return {"weight": packed} | {f"weight.{name}": value for name, value in state.as_dict(packed=True).items()}
