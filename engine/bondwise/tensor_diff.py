"""How far the tensors of two models are from each other, the most changed first; read in pieces, one layer in memory at most."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from bondwise.checkpoint import PIECE, read_into
from bondwise.errors import UserError
from bondwise.modelmap import map_model
from bondwise.schema import TensorChange, TensorDiff, TensorDiffStep
from bondwise.stored_weight import stored_weight
from bondwise.tensor_facts import values_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from bondwise.checkpoint import Checkpoint, TensorEntry
    from bondwise.modelmap import Layer

_RANK = {"changed": 0, "shape": 1, "unread": 2, "only-model": 3, "only-other": 4, "equal": 5}


def tensor_diff(model: Checkpoint, other: Checkpoint, step: Callable[[TensorDiffStep], None], *, piece: int = PIECE) -> TensorDiff:
    """Compares tensors of the same name, and layers that either model stores otherwise by the weights that these stand for.

    Sums are in float64; about `piece` bytes of a tensor are in memory at a time, of a layer that has to be contracted or unpacked its
    whole weight. `step` is called after each tensor.

    Raises UserError where a file changes meanwhile, and for two folders that share no tensor's name.
    """
    started = time.monotonic()
    pairs = _pairs(model, other)
    if not any(one.entries[0] and one.entries[1] for one in pairs):
        raise UserError(
            f"{model.folder} and {other.folder} have no tensor's name in common.", "Compare models of the same architecture, of one base."
        )
    total = sum(one.bytes for one in pairs)
    done, whole = 0, _Sums()
    found: list[TensorChange] = []
    for pair in pairs:
        change, sums = _compare(model, other, pair, piece)
        whole.join(sums)
        found.append(change)
        done += pair.bytes
        step(TensorDiffStep(tensor=change, done=done, total=total))
    found.sort(key=lambda one: (_RANK[one.found], -(math.inf if one.relative is None else one.relative), -(one.largest or 0)))
    return TensorDiff(
        model=str(model.folder), other=str(other.folder), tensors=found, relative=whole.relative, seconds=time.monotonic() - started
    )


class _Pair(NamedTuple):
    """What is compared as one: tensors of one name, or all that stands for one layer's weight."""

    name: str
    entries: tuple[tuple[TensorEntry, ...], tuple[TensorEntry, ...]]
    layers: tuple[Layer | None, Layer | None]
    """Both None where the tensors are compared as they are stored."""

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entries in self.entries for entry in entries)


def _pairs(model: Checkpoint, other: Checkpoint) -> list[_Pair]:
    """In the order of the model's files; what only the other one has comes last."""
    layers = [{layer.name: layer for layer in map_model(one).layers} for one in (model, other)]
    mine, theirs = layers
    rewritten = {name for name in mine.keys() & theirs.keys() if mine[name].state != "dense" or theirs[name].state != "dense"}
    belongs = [{tensor: name for name in rewritten for tensor in _weights(side[name])} for side in layers]
    names: dict[str, None] = {}
    for one, owners in ((model, belongs[0]), (other, belongs[1])):
        for tensor in sorted(one.tensors.values(), key=lambda entry: (entry.file.name, entry.start)):
            names[f"{owners[tensor.name]}.weight" if tensor.name in owners else tensor.name] = None
    pairs: list[_Pair] = []
    for name in names:
        path = name.removesuffix(".weight")
        if path in rewritten and name.endswith(".weight"):
            one, two = mine[path], theirs[path]
            entries = tuple(model.tensors[tensor] for tensor in _weights(one)), tuple(other.tensors[tensor] for tensor in _weights(two))
            pairs.append(_Pair(name, entries, (one, two)))
        else:
            here, there = model.tensors.get(name), other.tensors.get(name)
            pairs.append(_Pair(name, ((here,) if here else (), (there,) if there else ()), (None, None)))
    return pairs


def _weights(layer: Layer) -> list[str]:
    """Its tensors without the bias, which both models have under its own name."""
    return [name for name in layer.tensors if name not in (f"{layer.name}.bias", f"{layer.name}_bias")]


def _compare(model: Checkpoint, other: Checkpoint, pair: _Pair, piece: int) -> tuple[TensorChange, _Sums | None]:
    (here, there), (mine, theirs) = pair.entries, pair.layers
    shapes = [_shape(entries, layer) for entries, layer in ((here, mine), (there, theirs))]
    change = TensorChange(
        name=pair.name,
        found="equal",
        shape=shapes[0],
        other_shape=shapes[1],
        stored=_stored(here, mine),
        other_stored=_stored(there, theirs),
        parameters=math.prod(shapes[0] or shapes[1] or ()),
        relative=None,
    )
    if not here or not there:
        return change.model_copy(update={"found": "only-model" if here else "only-other"}), None
    if shapes[0] != shapes[1]:
        return change.model_copy(update={"found": "shape"}), None
    if _same_bytes(here, there, piece):
        return change.model_copy(update={"relative": 0.0, "largest": 0.0}), None if mine else _norm(here[0], piece)
    sums = _Sums()
    try:
        if mine is None or theirs is None:
            for one, two in zip(_pieces(here[0], piece), _pieces(there[0], piece), strict=True):
                sums.add(one, two)
        else:
            for one, two in _rows(model, other, (mine, theirs), pair, piece):
                sums.add(one, two)
    except UserError as failure:
        return change.model_copy(update={"found": "unread", "problem": failure.message}), None
    is_equal = sums.difference == 0 and sums.not_finite == 0
    figures = {"relative": sums.relative, "largest": sums.largest, "not_finite": sums.not_finite}
    return change.model_copy(update={**figures, "found": "equal" if is_equal else "changed"}), sums


@dataclass
class _Sums:
    """Over all pieces so far, float64, where both numbers are finite."""

    difference: float = 0.0
    norm: float = 0.0
    largest: float = 0.0
    not_finite: int = 0

    def add(self, one: Tensor, two: Tensor) -> None:
        """Two pieces [n], float64."""
        change = two - one
        finite = change.isfinite()
        if not bool(finite.all()):
            self.not_finite += int((~finite).sum())
            one, change = one[finite], change[finite]
        if change.numel():
            self.difference += float(change.square().sum())
            self.norm += float(one.square().sum())
            self.largest = max(self.largest, float(change.abs().max()))

    def join(self, more: _Sums | None) -> None:
        if more is not None:
            self.difference += more.difference
            self.norm += more.norm

    @property
    def relative(self) -> float | None:
        if self.norm == 0:
            return 0.0 if self.difference == 0 else None
        return math.sqrt(self.difference / self.norm)


def _pieces(entry: TensorEntry, piece: int) -> Iterator[Tensor]:
    many = max(1, piece // 8)
    for start in range(0, entry.parameters, many):
        yield values_of(entry, start, min(many, entry.parameters - start))


def _rows(model: Checkpoint, other: Checkpoint, layers: tuple[Layer, Layer], pair: _Pair, piece: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The weights of a layer in both models by some rows at a time, flat, float64; a dense one is never whole in memory."""
    out, columns = layers[0].shape
    many = max(1, piece // (8 * columns))
    sides = [_side(one, layer, entries) for one, layer, entries in zip((model, other), layers, pair.entries, strict=True)]
    for start in range(0, out, many):
        count = min(many, out - start)
        yield sides[0](start, count).flatten(), sides[1](start, count).flatten()


def _side(checkpoint: Checkpoint, layer: Layer, entries: tuple[TensorEntry, ...]) -> Callable[[int, int], Tensor]:
    """Rows of a layer's weight [out, in], float64, by their first and their number."""
    if layer.state == "dense" and not layer.transposed:
        columns = layer.shape[1]
        return lambda start, count: values_of(entries[0], start * columns, count * columns).reshape(count, columns)
    weight = stored_weight(checkpoint, layer)
    return lambda start, count: weight[start : start + count].double()


def _norm(entry: TensorEntry, piece: int) -> _Sums | None:
    """Of a tensor that is equal in both, for the figure of all together; None where its values are not looked at."""
    sums = _Sums()
    try:
        for values in _pieces(entry, piece):
            sums.add(values, values)
    except UserError:
        return None
    return sums


def _same_bytes(here: tuple[TensorEntry, ...], there: tuple[TensorEntry, ...], piece: int) -> bool:
    """Whether the same tensors hold the same bytes: then they stand for the same numbers, whatever these are."""
    form = [[(entry.name, entry.dtype, entry.shape) for entry in entries] for entries in (here, there)]
    return form[0] == form[1] and all(_equal(one, two, piece) for one, two in zip(here, there, strict=True))


def _equal(one: TensorEntry, two: TensorEntry, piece: int) -> bool:
    for start in range(0, one.bytes, piece):
        count = min(piece, one.bytes - start)
        buffers = bytearray(count), bytearray(count)
        for entry, buffer in zip((one, two), buffers, strict=True):
            read_into(entry, memoryview(buffer), start)
        if buffers[0] != buffers[1]:
            return False
    return True


def _shape(entries: tuple[TensorEntry, ...], layer: Layer | None) -> list[int] | None:
    return None if not entries else list(entries[0].shape if layer is None else layer.shape)


def _stored(entries: tuple[TensorEntry, ...], layer: Layer | None) -> str | None:
    if not entries:
        return None
    if layer is None or layer.state == "dense":
        return entries[0].dtype
    if layer.state == "quantized":
        return layer.scheme
    bonds = "·".join(str(bond) for bond in dict.fromkeys(layer.bond_dims or ()))
    return f"cores, χ {bonds}" + (f", {layer.scheme}" if layer.scheme else "")
