"""Moments on disk: another size, method or budget of the same model and text needs no second calibration.

They lie under `BONDWISE_HOME/moments/<key>/`: for each tensor that layers read `<name>.inputs.moments`, and for each layer `<name>.moments`
with what else is known of it and the name of the first; a safetensors file each, with its SHA-256 behind it. The key is over the weights
themselves, the text, the seed, the kind of device and `FORMAT`; it stands in each file too, so that a file in the wrong folder is no use to
anybody. Of a symmetric matrix the lower triangle is kept, row by row. A text that the model wrote itself lies in such a folder of its own.

All of them together stay within a part of the disk: the folders that were used longest ago go first, and what would not fit is not kept.
Two runs may use one folder at once: files appear whole, and one that is gone or damaged is calibrated again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from bondwise import atomic
from bondwise.kept import make_room
from bondwise.moments import Half, Moments
from bondwise.queue import bondwise_home
from bondwise.trust import code_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch import Tensor

    from bondwise.checkpoint import Checkpoint
    from bondwise.modelmap import Layer

FORMAT = 1
"""Raised when the same model and text would give other moments, or the files are laid out in another way."""
ABANDONED = 3600.0
"""Seconds after which an unfinished file is of a process that was killed."""
PIECE = 8 << 20
HEADER = 2048
"""Bytes of a file beside its numbers, at most, unless a layer's name is very long."""


def store_key(source: Checkpoint, text: str, seed: int, device: str, check_cancelled: Callable[[], None]) -> str:
    """What moments are of, SHA-256 in hex. `text` is the text's fingerprint; of the device only the kind counts, which decides the dtype.

    Reads every weight file: two trainings of one model may differ in nothing else, and their fingerprints are equal.
    """
    digest = hashlib.sha256(source.config_bytes)
    for name, content in sorted(code_files(source.folder, source.config).items()):
        digest.update(name.encode() + b"\0" + content)
    for shard in sorted(source.shards, key=lambda shard: shard.name):
        with shard.path.open("rb") as file:
            while piece := file.read(PIECE):
                check_cancelled()
                digest.update(piece)
    wanted = [FORMAT, digest.hexdigest(), text, seed, device.partition(":")[0]]
    return hashlib.sha256(json.dumps(wanted).encode()).hexdigest()


class MomentStore:
    """The moments of one model over one text that are kept. `warn` is told of what cannot be used or kept."""

    def __init__(self, key: str, warn: Callable[[str], None]) -> None:
        self._key = key
        self._warn = warn
        self.folder = bondwise_home() / "moments" / key
        with suppress(FileNotFoundError):
            os.utime(self.folder)
        for left in self.folder.glob(".*"):
            with suppress(FileNotFoundError):
                if time.time() - left.stat().st_mtime > ABANDONED:
                    left.unlink()

    def read(self, layer: Layer, *, gradients: bool, directions: bool, device: str) -> Moments | None:
        """The moments of a layer on `device`, or None where they, or the gradients or directions that are asked for, are not kept."""
        own = self._load(f"{_file_name(layer.name)}.moments", layer.name)
        if own is None or (gradients and "gradients" not in own[0]) or (directions and "directions" not in own[0]):
            return None
        tensors, metadata = own
        reader = metadata.get("reads", "")
        shared = self._load(f"{_file_name(reader)}.inputs.moments", reader)
        if shared is None:
            return None
        inputs, counts = shared
        halved = "half" in inputs and (not gradients or "gradients_half" in tensors)
        return Moments(
            _unpack(inputs["inputs"]).to(device),
            _unpack(tensors["gradients"]).to(device) if gradients else None,
            int(counts["tokens"]),
            tensors["directions"] if directions else None,
            Half(
                _unpack(inputs["half"]).to(device),
                _unpack(tensors["gradients_half"]).to(device) if gradients else None,
                int(counts["half_tokens"]),
                float(counts["half_share"]),
            )
            if halved
            else None,
        )

    def read_text(self) -> Tensor | None:
        """Token ids [sequences, length] int64 of a text that the model wrote; None where none is kept."""
        kept = self._load("text.moments", "text")
        return None if kept is None else kept[0]["ids"]

    def write_text(self, ids: Tensor) -> None:
        """Keeps token ids [sequences, length] int64, where there is room."""
        if make_room(self.folder, ids.nbytes + HEADER):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._save("text.moments", "text", {"ids": ids}, {})

    def write(self, found: Mapping[str, Moments]) -> None:
        """Keeps the moments of layers, by name, as far as there is room; what is there already of those layers is replaced."""
        if not make_room(self.folder, _stored_bytes(found.values())):
            self._warn(
                "What the calibration text says of the model is not kept: the disk is too full. Another run will read the text again."
            )
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write(found)
        except OSError as failure:
            self._warn(f"What the calibration text says of the model is not kept: {failure.strerror} ({self.folder}).")

    def _write(self, found: Mapping[str, Moments]) -> None:
        readers: dict[int, str] = {}
        for name, moments in found.items():
            reader = readers.setdefault(id(moments.inputs), name)
            half = moments.half
            if reader == name:
                tensors = {"inputs": _pack(moments.inputs)}
                metadata = {"tokens": str(moments.tokens)}
                if half is not None:
                    tensors["half"] = _pack(half.inputs)
                    metadata |= {"half_tokens": str(half.tokens), "half_share": repr(half.share)}
                self._save(f"{_file_name(name)}.inputs.moments", name, tensors, metadata)
            tensors = dict[str, "Tensor"]()
            if moments.gradients is not None:
                tensors["gradients"] = _pack(moments.gradients)
            if half is not None and half.gradients is not None:
                tensors["gradients_half"] = _pack(half.gradients)
            if moments.directions is not None:
                tensors["directions"] = moments.directions.cpu()
            self._save(f"{_file_name(name)}.moments", name, tensors, {"reads": reader})

    def _save(self, file: str, name: str, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        from safetensors.torch import save

        told = {**metadata, "key": self._key, "layer": name}
        data = save(tensors, told)
        atomic.write_bytes(self.folder / file, data + hashlib.sha256(data).digest(), durable=False)

    def _load(self, file: str, name: str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        """Tensors and metadata of a file; None where it is absent, damaged or of something else."""
        from safetensors.torch import load

        path = self.folder / file
        try:
            content = path.read_bytes()
        except OSError:
            return None
        data, digest = content[:-32], content[-32:]
        if hashlib.sha256(data).digest() != digest:
            self._warn(f"{path} is damaged: the calibration text is read again for {name}.")
            return None
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        metadata = cast("dict[str, str]", header["__metadata__"])
        if (metadata["key"], metadata["layer"]) != (self._key, name):
            self._warn(f"{path} is of another model or text: the calibration text is read again for {name}.")
            return None
        return load(data), metadata


# --- pure --------------------------------------------------------------------------------------------------------------------------


def _pack(matrix: Tensor) -> Tensor:
    """The lower triangle of a symmetric matrix [n, n], row by row: [n (n + 1) / 2], float32, on the CPU."""
    import torch

    return torch.cat([row[: index + 1] for index, row in enumerate(matrix.cpu())])


def _unpack(triangle: Tensor) -> Tensor:
    """[n (n + 1) / 2] → [n, n]."""
    import math

    size = (math.isqrt(8 * len(triangle) + 1) - 1) // 2
    matrix = triangle.new_zeros(size, size)
    for index, row in enumerate(triangle.split(list(range(1, size + 1)))):
        matrix[index, : index + 1] = row
    return matrix.add_(matrix.tril(-1).mT)


def _stored_bytes(found: Iterable[Moments]) -> int:
    """An upper bound."""
    total = 0
    shared: set[int] = set()
    for moments in found:
        sides = [len(moments.gradients)] if moments.gradients is not None else []
        if id(moments.inputs) not in shared:
            sides.append(len(moments.inputs))
            shared.add(id(moments.inputs))
        directions = 0 if moments.directions is None else 8 * len(moments.directions)
        total += 2 * HEADER + directions + (1 if moments.half is None else 2) * sum(2 * size * (size + 1) for size in sides)
    return total


def _file_name(layer: str) -> str:
    """Unique whatever of the name may stand in a file's."""
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', layer)[:120]}-{hashlib.sha256(layer.encode()).hexdigest()[:8]}"
