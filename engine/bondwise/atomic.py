"""Files and folders that are whole or absent: temporary name, fsync, rename.

A reader, or a process that comes after a kill or a power cut, sees the old content or the new, never a part. The temporary name lies in the
same folder, so that the rename stays on one file system.
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Generator

_MARK = ".partial-"


def temporary_name(path: Path) -> Path:
    """A hidden name beside `path`, of this process alone: `.<name>.partial-<pid>`."""
    return path.with_name(f".{path.name}{_MARK}{os.getpid()}")


def remove_temporaries(folder: Path) -> None:
    """Removes the temporary files that killed processes left directly in `folder`; only while no other process writes there."""
    for left in folder.glob(f".*{_MARK}*"):
        if left.is_file():
            left.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Generator[BinaryIO]:
    """A binary file to write that becomes `path` when the block ends without an exception; else `path` stays as it was.

    With `durable` the content and the name are on disk (fsync) when this returns; without it they survive the process, not the machine.
    Raises OSError when the disk is full or the folder cannot be written.
    """
    temporary = temporary_name(path)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_directory(path.parent)


def write_bytes(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replaces `path` by `data`. Raises OSError as `replacing`."""
    with replacing(path, durable=durable) as file:
        file.write(data)


def write_json(path: Path, value: BaseModel | dict[str, Any], *, durable: bool = True) -> None:
    """Replaces `path` by `value` as JSON. Raises ValueError on NaN or infinity, which JSON cannot say, and OSError as `replacing`."""
    write_bytes(path, (to_json(value, indent=1) + "\n").encode(), durable=durable)


def to_json(value: BaseModel | dict[str, Any], indent: int | None = None) -> str:
    """`value` as JSON text in plain UTF-8. Raises ValueError on NaN or infinity."""
    plain = value.model_dump() if isinstance(value, BaseModel) else value
    return json.dumps(plain, ensure_ascii=False, allow_nan=False, indent=indent, separators=None if indent else (",", ":"))


def from_json(text: bytes | str) -> Any:
    """What JSON text says. Raises ValueError where it is none, or nests deeper than Python's parser goes."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it nests too deep") from None


def publish_directory(temporary: Path, path: Path) -> None:
    """Makes the finished folder `temporary` appear as `path`: every file and folder in it is fsynced, then one rename.

    Raises OSError when `path` exists and is not an empty folder, or lies on another file system.
    """
    for folder, _, files in os.walk(temporary):
        for name in files:
            sync_file(Path(folder, name))
        sync_directory(Path(folder))
    temporary.rename(path)
    sync_directory(path.parent)


def sync_file(path: Path) -> None:
    """fsync of a file by name."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """fsync of a folder: the names in it are on disk. File systems that cannot do this are left to their own order."""
    with suppress(OSError):
        sync_file(path)
