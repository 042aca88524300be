"""What a profile covers: its layers, their sizes, and the order in which they are measured. Checked before any work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from bondwise import mpo
from bondwise.checkpoint import BITS
from bondwise.errors import UserError
from bondwise.modelmap import matches, select
from bondwise.schema import ProfileLayer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from bondwise.modelmap import Layer, ModelMap
    from bondwise.schema import ProfileOptions

EVERYTHING = ["*"]
KEEPS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9)
"""Fractions to keep where none are asked for."""
FIRST_KEEP = 0.3
"""Measured first of all: small enough that layers differ, large enough to be of use."""


class Size(NamedTuple):
    """A layer at one size; `asked` is the fraction or the bond dimension that it stands for."""

    asked: float
    bonds: tuple[int, ...]
    chi: int
    parameters: int


@dataclass(frozen=True)
class Place:
    layer: Layer
    column: str
    """The name inside the block."""
    out_modes: tuple[int, ...]
    in_modes: tuple[int, ...]
    sizes: tuple[Size, ...]
    """Of different χ, in the order asked for."""

    @property
    def entry(self) -> ProfileLayer:
        return ProfileLayer(
            name=self.layer.name,
            block=self.layer.block,
            column=self.column,
            group=self.layer.group,
            shape=list(self.layer.shape),
            parameters=self.layer.weight_parameters,
            bytes=self.layer.weight_parameters * BITS[self.layer.dtype] // 8,
            out_modes=list(self.out_modes),
            in_modes=list(self.in_modes),
        )


def asked_sizes(options: ProfileOptions) -> tuple[list[float], Literal["keep", "chi"]]:
    """The sizes of a request without repetitions, ascending, and what they are."""
    if options.chi:
        return sorted({float(chi) for chi in options.chi}), "chi"
    return sorted(set(options.keep or KEEPS)), "keep"


def resolve_places(model_map: ModelMap, options: ProfileOptions, warn: Callable[[str], None]) -> list[Place]:
    """The layers that `options` name, in order, each with its sizes.

    With the default pattern, layers that cannot be compressed are left out with a warning. So is a cell that its layer cannot have: χ above
    its exact rank, or a fraction that not even χ = 1 fulfils; a size that no layer can have is an error. Raises UserError besides as
    `modelmap.select`.
    """
    layers = _layers(model_map, options, warn)
    asked, are = asked_sizes(options)
    places = [_place(model_map, layer, options) for layer in layers]
    for size in asked:
        found = [(place, _size(place, size, are)) for place in places]
        missing = [place for place, made in found if made is None]
        if missing:
            _tell_missing(missing, size, are, every=len(missing) == len(places), warn=warn)
        places = [_with(place, made) for place, made in found]
    return [place for place in places if place.sizes]


def rounds(asked: Sequence[float], are: Literal["keep", "chi"]) -> list[list[float]]:
    """The sizes (ascending) in the order of measuring, coarse to fine: one for a first picture, then its ends, then what is between."""
    left = list(asked)
    first = min(left, key=lambda size: abs(size - FIRST_KEEP)) if are == "keep" else left[len(left) // 2]
    left.remove(first)
    ends = list(dict.fromkeys([left[0], left[-1]])) if left else []
    rest = [size for size in left if size not in ends]
    return [each for each in ([first], ends, rest) if each]


def spread(blocks: Iterable[int]) -> list[int]:
    """Blocks in an order that covers the depth at any time: the first, the last, the middle, the quarters, …"""
    left = sorted(set(blocks))
    order = [left[at] for at in dict.fromkeys((0, len(left) - 1)) if left]
    gaps = [(0, len(left) - 1)]
    while gaps:
        low, high = gaps.pop(0)
        if high - low > 1:
            middle = (low + high) // 2
            order.append(left[middle])
            gaps += [(low, middle), (middle, high)]
    return order


def _layers(model_map: ModelMap, options: ProfileOptions, warn: Callable[[str], None]) -> list[Layer]:
    layers = model_map.layers
    if options.layers != EVERYTHING:
        return select(layers, options.layers, options.exclude)
    unwanted = {name for pattern in options.exclude for name in matches(layers, pattern)}
    wanted = [layer for layer in layers if layer.name not in unwanted]
    fit = [layer for layer in wanted if layer.state == "dense" and len(layer.shape) == 2]
    if layers and not fit:
        raise UserError("The model has no dense layer left to profile: all are MPOs, quantized or excluded.", "Use the original model.")
    if unfit := [layer.name for layer in wanted if layer not in fit]:
        warn(f"{listed(unfit)} cannot become an MPO (quantized, an MPO already, or no matrix): left out.")
    return select(fit, EVERYTHING)


def _place(model_map: ModelMap, layer: Layer, options: ProfileOptions) -> Place:
    column = layer.name.removeprefix(f"{model_map.container}.{layer.block}.")
    out_features, in_features = layer.shape
    return Place(layer, column, *mpo.layer_modes(out_features, in_features, options.sites), sizes=())


def _size(place: Place, asked: float, are: Literal["keep", "chi"]) -> Size | None:
    """None where the layer cannot have this size."""
    if are == "chi":
        if asked > max(mpo.max_bond_dims(place.out_modes, place.in_modes)):
            return None
        bonds = mpo.bond_dims_for_chi(place.out_modes, place.in_modes, int(asked))
    else:
        try:
            bonds = mpo.bond_dims_for_keep(place.out_modes, place.in_modes, asked, place.layer.weight_parameters)
        except ValueError:
            return None
    return Size(asked, bonds, max(bonds), mpo.parameter_count(place.out_modes, place.in_modes, bonds))


def _with(place: Place, size: Size | None) -> Place:
    """With one size more, unless the layer is too small to tell it from another."""
    if size is None or any(size.chi == there.chi for there in place.sizes):
        return place
    return Place(place.layer, place.column, place.out_modes, place.in_modes, (*place.sizes, size))


def _tell_missing(missing: Sequence[Place], size: float, are: str, *, every: bool, warn: Callable[[str], None]) -> None:
    first = missing[0]
    names = listed([place.layer.name for place in missing])
    if are == "chi":
        rank = max(mpo.max_bond_dims(first.out_modes, first.in_modes))
        what = f"χ {size:g} is above the exact rank of {names} ({rank} of {first.layer.name})"
        remedy = "Choose smaller bond dimensions (--chi), or fractions (--keep)."
    else:
        least = mpo.parameter_count(first.out_modes, first.in_modes, [1] * (len(first.out_modes) - 1)) / first.layer.weight_parameters
        what = f"{names} cannot keep as little as {size:g} of the parameters: χ 1 keeps {least:.3g} of {first.layer.name}"
        remedy = "Keep more (--keep), or choose other sites."
    if every:
        raise UserError(f"{what}.", remedy)
    warn(f"{what}: left out.")


def listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
