"""Memory: what a model holds, what goes together within a bound, and giving back what was freed, so that the peak is what is in use and
not what once was."""

from __future__ import annotations

import ctypes
import functools
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from transformers import PreTrainedModel

Item = TypeVar("Item")


def runs_within(items: Iterable[Item], size: Callable[[Item], int], room: int) -> list[list[Item]]:
    """The items in runs, in order, whose sizes add up to at most `room`; one that is larger is a run of its own."""
    runs: list[list[Item]] = []
    used = 0
    for item in items:
        each = size(item)
        if not runs or used + each > room:
            runs.append([])
            used = 0
        runs[-1].append(item)
        used += each
    return runs


def tensor_bytes(model: PreTrainedModel) -> int:
    """Of all parameters and buffers, those that are shared once; of bitsandbytes the scales, which are in neither."""
    seen: dict[int, int] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        seen[tensor.data_ptr()] = tensor.nbytes
        state = getattr(tensor, "quant_state", None)
        nested = getattr(state, "state2", None)
        for held in (state, nested):
            for name in ("absmax", "code"):
                if (part := getattr(held, name, None)) is not None:
                    seen[part.data_ptr()] = part.nbytes
        if (scales := getattr(tensor, "SCB", None)) is not None:
            seen[scales.data_ptr()] = scales.nbytes
    return sum(seen.values())


def release_freed_memory() -> None:
    """Returns to the system what this process has freed; call after each block or layer whose weights were let go.

    glibc raises, with each large block freed, the size from which it asks the system directly, and keeps what is smaller in pieces that
    fit the next weights badly: measured, 32 blocks of 12 MB, one after another, ended 117 MB above 8 of them; so 4 MB. Elsewhere this does
    nothing.
    """
    if (trim := _malloc_trim()) is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
