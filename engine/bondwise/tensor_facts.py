"""What one tensor of a safetensors file holds: statistics, a histogram, the singular values. Read in pieces, in bounded memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch

from bondwise import mpo
from bondwise.checkpoint import PIECE, read_into, read_shard, torch_dtype
from bondwise.errors import UserError
from bondwise.schema import SpectrumMark, TensorFacts, TensorSpectrum

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from bondwise.checkpoint import TensorEntry

BINS = 61
"""Of the histogram; odd, so that zero can lie in the middle of one."""
LARGEST_SIDE = 8192
"""Of the shorter side, for singular values: their Gram matrix takes 0.5 GB in float64 then."""
ROWS_PIECE = 64 << 20
"""Bytes of rows in float64: pairs of them are multiplied, so that few large ones are read again less often."""
KEEPS = (0.75, 0.5, 0.3, 0.1)


def find_tensor(file: Path, name: str) -> TensorEntry:
    """Raises UserError where the file is no safetensors file or has no such tensor."""
    found = next((entry for entry in read_shard(file).tensors if entry.name == name), None)
    if found is None:
        raise UserError(f"{file} has no tensor {name}.", "Open the file anew: it may have been replaced.")
    return found


def tensor_facts(entry: TensorEntry, *, piece: int = PIECE) -> TensorFacts:
    """Two passes over the values, `piece` bytes in memory at a time; sums in float64. A tensor without finite values has no histogram.

    Raises UserError where torch has no such dtype, or complex numbers are stored, and when the file changes meanwhile.
    """
    seen = _Sums()
    for values in _pieces(entry, piece):
        seen.add(values)
    finite = seen.finite
    low, high = (seen.low, seen.high) if finite else (0.0, 0.0)
    counts = torch.zeros(BINS, dtype=torch.int64)
    if finite and low < high:
        for values in _pieces(entry, piece):
            counts += _histogram(values, low, high)
    elif finite:
        counts[BINS // 2] = finite
    mean = seen.sum / finite if finite else None
    return TensorFacts(
        name=entry.name,
        dtype=entry.dtype,
        shape=list(entry.shape),
        count=entry.parameters,
        nan=seen.nan,
        infinite=seen.infinite,
        zeros=seen.zeros,
        minimum=low if finite else None,
        maximum=high if finite else None,
        mean=mean,
        deviation=math.sqrt(max(seen.squares / finite - (seen.sum / finite) ** 2, 0.0)) if finite else None,
        norm=math.sqrt(seen.squares) if finite else None,
        low=low,
        high=high,
        histogram=cast("list[int]", counts.tolist()),
    )


def tensor_spectrum(entry: TensorEntry, *, piece: int = ROWS_PIECE) -> TensorSpectrum:
    """The singular values of the tensor as a matrix [first axis, all others], the largest first, and what low rank would keep of it.

    From the Gram matrix of the shorter side, formed in float64 from two pieces of rows at a time: values below about 1e-8 of the largest
    are rounding. By Eckart–Young the best approximation of rank χ has the relative error √(Σ_{i>χ} σ_i² / Σ σ_i²).

    Raises UserError for a tensor that is no matrix or too large, or holds values that are not finite, and as `tensor_facts`.
    """
    if len(entry.shape) < 2 or min(entry.shape) == 0:
        raise UserError(f"{entry.name} has the shape {list(entry.shape)}, which is no matrix.", "Choose a tensor of two axes or more.")
    rows, columns = entry.shape[0], entry.parameters // entry.shape[0]
    side = min(rows, columns)
    if side > LARGEST_SIDE:
        raise UserError(
            f"{entry.name} is {rows}×{columns}: singular values are computed up to a shorter side of {LARGEST_SIDE}.",
            "The histogram and the statistics are there; a profile of the model (Profile Sensitivity…) decomposes its layers.",
        )
    gram = _gram(entry, rows, columns, piece)
    if not bool(gram.isfinite().all()):
        raise UserError(f"{entry.name} holds values that are NaN or infinite.", "The checkpoint is damaged: get it again.")
    squares = torch.linalg.eigvalsh(gram).flip(0).clamp(min=0)  # [side]
    left = squares.flip(0).cumsum(0).flip(0)  # what the values from here on hold
    total = float(left[0])
    marks: list[SpectrumMark] = []
    for keep in KEEPS:
        modes = mpo.layer_modes(rows, columns, "low-rank")
        try:
            (chi,) = mpo.bond_dims_for_keep(*modes, keep)
        except ValueError:
            continue  # too small a matrix for that
        lost = float(left[chi]) if chi < side else 0.0
        marks.append(
            SpectrumMark(
                keep=keep,
                chi=chi,
                parameters=mpo.parameter_count(*modes, (chi,)),
                relative_error=math.sqrt(lost / total) if total > 0 else 0.0,
            )
        )
    return TensorSpectrum(name=entry.name, rows=rows, columns=columns, values=cast("list[float]", squares.sqrt().tolist()), marks=marks)


@dataclass
class _Sums:
    """Over all pieces so far; of finite values only but for the counts of the others."""

    nan: int = 0
    infinite: int = 0
    finite: int = 0
    zeros: int = 0
    low: float = math.inf
    high: float = -math.inf
    sum: float = 0.0
    squares: float = 0.0

    def add(self, values: Tensor) -> None:
        finite = values[values.isfinite()]
        self.nan += int(values.isnan().sum())
        self.infinite += int(values.isinf().sum())
        self.finite += finite.numel()
        if finite.numel():
            self.zeros += int((finite == 0).sum())
            self.low, self.high = min(self.low, float(finite.min())), max(self.high, float(finite.max()))
            self.sum += float(finite.sum())
            self.squares += float(finite.square().sum())


def _histogram(values: Tensor, low: float, high: float) -> Tensor:
    """int64 [BINS]: `BINS` equal intervals from `low` to `high`."""
    finite = values[values.isfinite()]
    at = ((finite - low) * (BINS / (high - low))).long().clamp(0, BINS - 1)
    return torch.bincount(at, minlength=BINS)


def _gram(entry: TensorEntry, rows: int, columns: int, piece: int) -> Tensor:
    """float64 [s, s], s the shorter side: W Wᵀ or Wᵀ W."""
    many = max(1, piece // (8 * columns))
    starts = range(0, rows, many)
    if columns <= rows:
        gram = torch.zeros(columns, columns, dtype=torch.float64)
        for start in starts:
            block = _rows(entry, columns, start, min(many, rows - start))
            gram.addmm_(block.mT, block)
        return gram
    gram = torch.zeros(rows, rows, dtype=torch.float64)
    for start in starts:
        block = _rows(entry, columns, start, min(many, rows - start))
        gram[start : start + many, start : start + many] = block @ block.mT
        for other in range(start + many, rows, many):
            product = block @ _rows(entry, columns, other, min(many, rows - other)).mT
            gram[start : start + many, other : other + many] = product
            gram[other : other + many, start : start + many] = product.mT
    return gram


def _rows(entry: TensorEntry, columns: int, start: int, count: int) -> Tensor:
    """float64 [count, columns]."""
    return values_of(entry, start * columns, count * columns).reshape(count, columns)


def _pieces(entry: TensorEntry, piece: int) -> Iterator[Tensor]:
    """The values in order, float64, about `piece` bytes at a time."""
    many = max(1, piece // 8)
    for start in range(0, entry.parameters, many):
        yield values_of(entry, start, min(many, entry.parameters - start))


def values_of(entry: TensorEntry, start: int, count: int) -> Tensor:
    """float64 [count], from element `start` on. Raises UserError for a dtype whose values are not looked at."""
    dtype = torch_dtype(entry)
    size = dtype.itemsize
    if dtype.is_complex or size * entry.parameters != entry.bytes:
        raise UserError(f"{entry.name} has the dtype {entry.dtype}, whose values are not looked at.", "Its shape and size are shown.")
    buffer = torch.empty(count * size, dtype=torch.uint8)
    read_into(entry, memoryview(buffer.numpy()), start * size)  # pyright: ignore[reportArgumentType]
    return buffer.view(dtype).to(torch.float64)
