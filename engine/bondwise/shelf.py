"""Tensors that wait for their turn: in memory, or in files where it has no room for them."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Self

from safetensors.torch import load, save_file

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


class Shelf:
    """Tensors by name, on the CPU. They are gone, and the folder with them, when the `with` block ends."""

    def __init__(self, folder: Path | None) -> None:
        """`folder` is for the files and for nothing else; None keeps the tensors in memory."""
        self._folder = folder
        self._kept: dict[str, Tensor] = {}
        self._files: dict[str, Path] = {}
        self._numbered = 0

    def __enter__(self) -> Self:
        self.clear()
        if self._folder is not None:
            self._folder.mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def clear(self) -> None:
        """Also what a process that was killed left in the folder."""
        self._kept.clear()
        self._files.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def put(self, name: str, tensor: Tensor) -> None:
        """Raises OSError where the disk is full."""
        if self._folder is None:
            self._kept[name] = tensor.detach().cpu()
            return
        if name not in self._files:
            self._files[name] = self._folder / f"{self._numbered}.safetensors"
            self._numbered += 1
        save_file({"tensor": tensor.detach().cpu().contiguous()}, self._files[name])

    def take(self, name: str, *, keep: bool = False) -> Tensor | None:
        """The tensor, which leaves the shelf unless `keep`; None where there is none of that name."""
        if self._folder is None:
            return self._kept.get(name) if keep else self._kept.pop(name, None)
        path = self._files.get(name)
        if path is None:
            return None
        found = load(path.read_bytes())["tensor"]  # read, not mapped: mapped pages would count as memory
        if not keep:
            path.unlink()
            del self._files[name]
        return found
