"""Writing a model folder as a stream: whole or absent, with no more than one piece of a copied tensor in memory.

The folder grows under a hidden name beside its place, is fsynced, and takes the place by one rename. Rules of a weight file (safetensors,
"Format"): 8 bytes of length, a JSON header padded with spaces to a multiple of 8, the tensors without a gap, here those with the largest
elements first so that each is aligned.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import math
import os
import secrets
import shutil
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, BinaryIO, Self, cast

from bondwise import atomic
from bondwise.checkpoint import BITS, INDEX_FILE, PIECE, Checkpoint, Shard, TensorEntry, dtype_name, is_order, read_into
from bondwise.errors import UserError
from bondwise.trust import check_inside

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    import torch

LINEAGE_FILE = "bondwise.json"
"""Its presence says that a folder was made by Bondwise and may be replaced by it."""

COMPANIONS = (
    *("tokenizer*.json", "tokenizer*.model", "*.tiktoken", "spiece.model", "sentencepiece*.model", "spm.model", "vocab.json", "vocab.txt"),
    *("merges.txt", "added_tokens.json", "special_tokens_map.json", "tekken.json", "chat_template.json", "chat_template.jinja"),
    *("additional_chat_templates/*.jinja", "generation_config.json", "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*"),
)
"""What is copied beside the weights: names that are known and are neither weights nor code."""


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor that is not written yet; `dtype` by the format's name, such as `BF16`."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def parameters(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.parameters * BITS[self.dtype] // 8


@dataclass(frozen=True)
class Replacement:
    """The tensors `removed` of the source give way to `added`, in the shard where the first of them was.

    `tensors` is called when their turn comes and yields them in the order of `added`, each with exactly the planned dtype and shape.
    """

    removed: tuple[str, ...]
    added: tuple[PlannedTensor, ...]
    tensors: Callable[[], Iterator[torch.Tensor]]


class CheckpointWriter:
    """A model folder in the making. As a context manager: leaving the block without `publish()` removes what was written.

    Raises UserError at once, as `check_output`. What killed processes left of the same output is removed, or put back where it is the only
    whole copy.
    """

    def __init__(self, output: Path, source: Path | None = None) -> None:
        check_output(output, source)
        self.output = output.resolve()
        self.folder = _sibling(self.output, "partial")
        with _disk_errors(self.output):
            self.output.parent.mkdir(parents=True, exist_ok=True)
            # Under the parent's lock, so that nobody meets the new folder before it is locked itself. That lock ends with the process:
            # whoever finds the folder later can tell whether it still grows.
            parent, _ = _lock(self.output.parent)
            try:
                _clean_up(self.output)
                self.folder.mkdir()
                descriptor, _ = _lock(self.folder)
                self._lock: int | None = descriptor
            finally:
                os.close(parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.abandon()

    def write_weights(self, source: Checkpoint, replacements: Sequence[Replacement], step: Callable[[int, int], None] | None = None) -> int:
        """Writes every shard of `source`, with `replacements` in the place of what they remove, and the index if there was one.

        All other tensors keep name, dtype and bytes. `step(done, total)` is told the bytes after each piece and may raise to stop.
        Returns the bytes of all tensors. Raises UserError when the disk is full, ValueError when a tensor is not as planned.
        """
        plans = _plan(source, replacements)
        total, done = sum(plan.bytes for plan in plans), 0

        def count(written: int) -> None:
            nonlocal done
            done += written
            if step is not None:
                step(done, total)

        for plan in plans:
            path = self.folder / plan.shard.name
            with _disk_errors(path), path.open("wb") as file:
                _write_shard(file, plan, count)
        if source.index_metadata is not None:
            metadata = {**source.index_metadata, "total_size": total}
            if "total_parameters" in metadata:
                written = [tensor for plan in plans for tensor in plan.tensors]
                metadata["total_parameters"] = sum(tensor.parameters for tensor in written if not is_order(tensor.name))
            where = {tensor.name: plan.shard.name for plan in plans for tensor in plan.tensors}
            self.write_json(INDEX_FILE, {"metadata": metadata, "weight_map": dict(sorted(where.items()))})
        return total

    def copy_companions(self, source: Path) -> list[str]:
        """Copies the tokenizer, generation config, chat templates and licence of the folder `source`. Returns their names."""
        names = [entry.relative_to(source).as_posix() for entry in (*source.iterdir(), *source.glob("additional_chat_templates/*"))]
        copied = sorted(name for name in names if any(fnmatchcase(name, pattern) for pattern in COMPANIONS) and (source / name).is_file())
        for name in copied:
            with _disk_errors(self.folder / name):
                (self.folder / name).parent.mkdir(exist_ok=True)
                check_inside(source, name)
                shutil.copyfile(source / name, self.folder / name)
        return copied

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Writes a JSON file, indented by two as transformers does. Raises ValueError on NaN and infinity."""
        self.write_bytes(name, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())

    def write_bytes(self, name: str, data: bytes) -> None:
        """Writes a small file."""
        with _disk_errors(self.folder / name):
            (self.folder / name).write_bytes(data)

    def publish(self) -> None:
        """Makes the folder appear as `output`, all of it on disk; a folder of ours that was there is exchanged for it and then removed.

        Raises UserError when a folder that is not ours came there meanwhile; then that one stays and the new one is removed.
        """
        check_output(self.output)
        with _disk_errors(self.output):
            if _is_ours(self.output):
                whole = _sibling(self.output, "whole")
                atomic.publish_directory(self.folder, whole)
                self.folder = whole
                _replace(whole, self.output)
            else:
                atomic.publish_directory(self.folder, self.output)
        self._unlock()

    def abandon(self) -> None:
        """Removes what was written. Does nothing after `publish()`."""
        if self._lock is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def check_output(output: Path, source: Path | None = None) -> None:
    """Raises UserError when a model folder may not be made at `output`.

    That is when something not made by Bondwise is there (an empty folder is free), when another process is writing there, or when it is
    the folder `source` that is read, lies in it or around it.
    """
    place = output.resolve()
    if place.exists() and not place.is_dir():
        raise UserError(f"{output} is a file.", "Choose a name for a new folder.")
    if place.is_dir() and any(place.iterdir()) and not _is_ours(place):
        raise UserError(
            f"{output} exists and was not made by Bondwise (it has no {LINEAGE_FILE}).", "Choose another name, or move that folder away."
        )
    if source is not None:
        other = source.resolve()
        if place == other or place in other.parents or other in place.parents:
            raise UserError(f"The output {output} would overwrite or lie inside the model that is read, {source}.", "Choose another place.")


def free_bytes(path: Path) -> int:
    """Bytes that this user can still write where `path` is, or will be."""
    place = path.resolve()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


# --- weight files --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _ShardPlan:
    shard: Shard
    tensors: tuple[PlannedTensor, ...]  # in the order of the bytes
    copied: tuple[TensorEntry, ...]
    replacements: tuple[Replacement, ...]

    @property
    def bytes(self) -> int:
        return sum(tensor.bytes for tensor in self.tensors)


def _plan(source: Checkpoint, replacements: Sequence[Replacement]) -> list[_ShardPlan]:
    removed = {name for replacement in replacements for name in replacement.removed}
    at = {replacement.removed[0]: replacement for replacement in replacements}
    if unknown := removed - source.tensors.keys():
        raise ValueError(f"{source.folder} has no tensor {min(unknown)} to replace")
    plans: list[_ShardPlan] = []
    seen: set[str] = set()
    for shard in source.shards:
        copied = tuple(entry for entry in shard.tensors if entry.name not in removed)
        mine = tuple(at[entry.name] for entry in shard.tensors if entry.name in at)
        tensors = [PlannedTensor(entry.name, entry.dtype, entry.shape) for entry in copied]
        tensors += [tensor for replacement in mine for tensor in replacement.added]
        for tensor in tensors:
            if tensor.name in seen:
                raise ValueError(f"{tensor.name} would be written twice")
            seen.add(tensor.name)
        plans.append(_ShardPlan(shard, tuple(sorted(tensors, key=lambda tensor: -BITS[tensor.dtype])), copied, mine))
    return plans


def _write_shard(file: BinaryIO, plan: _ShardPlan, count: Callable[[int], None]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **plan.shard.metadata}}
    offsets: dict[str, int] = {}
    end = 0
    for tensor in plan.tensors:
        offsets[tensor.name] = end
        end += tensor.bytes
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [offsets[tensor.name], end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    start = 8 + len(text)
    for entry in plan.copied:
        file.seek(start + offsets[entry.name])
        _copy(entry, file, count)
    for replacement in plan.replacements:
        for tensor, values in zip(replacement.added, replacement.tensors(), strict=True):
            if dtype_name(values.dtype) != tensor.dtype or tuple(values.shape) != tensor.shape:
                raise ValueError(
                    f"{tensor.name} was planned as {tensor.dtype} {list(tensor.shape)}, and is {values.dtype} {list(values.shape)}"
                )
            file.seek(start + offsets[tensor.name])
            file.write(_raw(values))
            count(tensor.bytes)


def _copy(entry: TensorEntry, file: BinaryIO, count: Callable[[int], None]) -> None:
    piece = memoryview(bytearray(min(PIECE, entry.bytes)))
    for offset in range(0, entry.bytes, PIECE):
        part = piece[: entry.bytes - offset]
        read_into(entry, part, offset)
        file.write(part)
        count(len(part))


def _raw(tensor: torch.Tensor) -> memoryview:
    import torch

    return memoryview(cast("Any", tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()))


# --- names and renames ---------------------------------------------------------------------------------------------------------------


def _sibling(output: Path, kind: str) -> Path:
    return output.with_name(f".{output.name}.{kind}-{secrets.token_hex(6)}")


def _is_ours(folder: Path) -> bool:
    return (folder / LINEAGE_FILE).is_file()


def _clean_up(output: Path) -> None:
    """Removes what dead processes left of `output`. Raises UserError when a living one is at it."""
    kinds = tuple(f".{output.name}.{kind}-" for kind in ("partial", "whole", "old"))
    left = [path for path in output.parent.iterdir() if path.name.startswith(kinds) and path.is_dir()]
    for path in left:
        descriptor, free = _lock(path, wait=False)
        os.close(descriptor)
        if not free:
            raise UserError(f"Another run is writing {output} now.", "Wait for it, cancel it, or choose another name.")
    for path in left:
        if path.name.startswith(kinds[-1]) and not output.exists():
            path.rename(output)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _lock(folder: Path, *, wait: bool = True) -> tuple[int, bool]:
    """Takes the `flock` of a folder: its descriptor, and whether it was had. A file system that cannot lock folders (NFS) says yes."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return descriptor, False
    except OSError as error:
        if error.errno not in (errno.EBADF, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL):
            os.close(descriptor)
            raise
    return descriptor, True


def _replace(whole: Path, output: Path) -> None:
    """Puts `whole` in the place of `output`: in one step where the system can, else over a name from which `_clean_up` puts it back."""
    old = whole
    if not _exchange(whole, output):
        old = _sibling(output, "old")
        output.rename(old)
        try:
            whole.rename(output)
        except OSError:
            old.rename(output)
            raise
    atomic.sync_directory(output.parent)
    shutil.rmtree(old, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Exchanges two names at once: renameat2(2) with RENAME_EXCHANGE, renamex_np with RENAME_SWAP. False where the system cannot."""
    library = ctypes.CDLL(None, use_errno=True)
    one, two = os.fsencode(first), os.fsencode(second)
    if sys.platform == "linux" and hasattr(library, "renameat2"):
        at_cwd, exchange = -100, 2
        failed = library.renameat2(at_cwd, one, at_cwd, two, exchange)
    elif sys.platform == "darwin":
        swap = 2
        failed = library.renamex_np(one, two, swap)
    else:
        return False
    if failed and ctypes.get_errno() not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(second))
    return not failed


@contextmanager
def _disk_errors(path: Path) -> Generator[None]:
    """Turns what the disk says into something to act on."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"The disk is full: {path} could not be written.", "Free space, or choose an output on another disk."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG):
            raise UserError(f"{path} cannot be written: {error.strerror}.", "Choose a folder that you may write to.") from error
        raise
