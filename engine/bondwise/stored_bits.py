"""How many bytes a weight takes in each scheme: arithmetic without torch, the same as extension/plan/schemes.ts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bondwise.schema import Scheme

GROUP = 64
"""Numbers that share a scale: along a row of a packed matrix, along the whole weight in bitsandbytes."""
BITSANDBYTES: frozenset[Scheme] = frozenset(("int8", "nf4", "nf4-double"))
NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""What bitsandbytes calls the dtypes that it quantizes."""
_NESTED = 256
"""Scales of `nf4-double` that share a scale."""


def scheme_bits(scheme: Scheme) -> int:
    """Of one number of the matrix, or of the two thin ones."""
    return {"int8": 8, "nf4": 4, "nf4-double": 4, "float16": 16}.get(scheme) or int(scheme.rpartition("-")[2])


def packed_bytes(rows: int, columns: int, bits: int, *, ordered: bool) -> int:
    """Of a matrix in the format of `modeling_mpo.PackedMatrix`: codes, a float16 scale for a row and `GROUP` columns, levels, order."""
    codes = rows * columns if bits == 8 else bits * rows * _groups(columns, 8)
    return codes + 2 * rows * _groups(columns, GROUP) + 2 * 2**bits + (columns * (2 if columns <= 2**15 else 4) if ordered else 0)


def factor_bytes(out_features: int, in_features: int, rank: int, bits: int) -> int:
    """Of two thin matrices, of few bits or of 16."""
    if bits == 16:
        return 2 * rank * (out_features + in_features)
    return sum(packed_bytes(rank, size, bits, ordered=False) for size in (out_features, in_features))


def low_rank_bytes(out_features: int, in_features: int, rank: int, item_bits: int) -> int:
    """Of the two cores of a low-rank layer in full precision, with what says which columns are stored."""
    return rank * (out_features + in_features - rank) * item_bits // 8 + 4 * out_features


def bitsandbytes_bytes(out_features: int, in_features: int, scheme: Scheme, dtype: str) -> int:
    """Of the tensors in the place of a weight; with `nf4-double` give or take a few, as one number is kept as text. `dtype` as in a
    safetensors header."""
    count = out_features * in_features
    if scheme == "int8":
        return count + 4 * out_features + 1
    scales = _groups(count, GROUP)
    state: dict[str, object] = {"quant_type": "nf4", "blocksize": GROUP, "dtype": NAMES[dtype], "shape": [out_features, in_features]}
    if scheme == "nf4":
        return _groups(count, 2) + 4 * scales + 4 * 16 + len(json.dumps(state))
    state |= {"nested_blocksize": _NESTED, "nested_dtype": "float32", "nested_offset": 0.05131392180919647}
    return _groups(count, 2) + scales + 4 * _groups(scales, _NESTED) + 4 * (16 + 256) + len(json.dumps(state))


def stored_bytes(
    shape: Sequence[int],
    scheme: Scheme,
    *,
    dtype: str,
    item_bits: int,
    backend: Literal["bitsandbytes", "packed"],
    rank: int = 0,
    rank_bits: int = 0,
) -> int:
    """Of the tensors in the place of a weight [out, in] of this dtype with so many bits a number."""
    out_features, in_features = shape
    if scheme == "float16":
        return out_features * in_features * min(item_bits, 16) // 8
    if backend == "bitsandbytes":
        return bitsandbytes_bytes(out_features, in_features, scheme, dtype)
    if scheme == "low-rank-16":
        return low_rank_bytes(out_features, in_features, rank, min(item_bits, 16))
    if scheme.startswith("low-rank"):
        return factor_bytes(out_features, in_features, rank, scheme_bits(scheme))
    whole = packed_bytes(out_features, in_features, scheme_bits(scheme), ordered=scheme.startswith("compensated"))
    return whole + (factor_bytes(out_features, in_features, rank, rank_bits) if rank else 0)


def _groups(count: int, size: int) -> int:
    return -(-count // size)
