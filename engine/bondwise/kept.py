"""Folders of what could be computed again, within a part of the disk: those that were used longest ago go first."""

from __future__ import annotations

import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from bondwise.writing import free_bytes

if TYPE_CHECKING:
    from pathlib import Path

SHARE, LARGEST = 0.2, 20 * 10**9
"""The folders of one place together take at most this part of the disk that they and free space share, and at most so many bytes."""


def make_room(folder: Path, wanted: int) -> bool:
    """Whether `wanted` more bytes may be kept in `folder`, after its neighbours that were used longest ago are gone as far as needed."""
    place = folder.parent
    used = {one: folder_bytes(one) for one in (place.iterdir() if place.is_dir() else ())}
    bound = min(LARGEST, int(SHARE * (free_bytes(place) + sum(used.values()))))
    own = used.pop(folder, 0)
    if own + wanted > bound:
        return False
    for other in sorted(used, key=_last_use):
        if own + wanted + sum(used.values()) <= bound:
            break
        shutil.rmtree(other, ignore_errors=True)
        del used[other]
    return True


def folder_bytes(folder: Path) -> int:
    total = 0
    for path in folder.glob("*"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def _last_use(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0
