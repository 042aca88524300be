"""Reading a Hugging Face folder: headers at once, weights one tensor at a time.

Opening reads config.json, the index and the headers, and believes none of them: the safetensors library's own reader checks every header
(lengths, offsets, overlaps, shapes: CVE-2023-37470), and what it lets through but we cannot mean (a key twice, a shard outside the
folder) is refused here. Format: safetensors, "Format" section of its README; index: `model.safetensors.index.json` of transformers.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bondwise.atomic import from_json
from bondwise.errors import UserError
from bondwise.trust import check_config, check_inside

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
LARGEST_HEADER = 100_000_000
"""Bytes; the limit of the safetensors library."""
PIECE = 8 << 20
"""Bytes read or written at a time where a tensor need not be whole in memory."""

BITS = {
    **dict.fromkeys(("C64", "F64", "I64", "U64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0", "I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""Bits of one element, by the format's name of the dtype."""

_TORCH_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "C64": "complex64",
    **{f"{sign}{bits}": f"{word}{bits}" for sign, word in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)},
    "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "F4": "float4_e2m1fn_x2",
}


_ORDER = re.compile(r"\.order_\d+$")


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where a tensor lies: bytes `start` to `end` of `file`, row-major, little-endian."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def bytes(self) -> int:
        return self.end - self.start

    @property
    def parameters(self) -> int:
        return math.prod(self.shape)


def is_order(name: str) -> bool:
    """Whether a tensor says which columns of a core are stored, and so holds no parameters."""
    return _ORDER.search(name) is not None


@dataclass(frozen=True)
class Shard:
    """One weight file: its name in the folder, the free text of its header, and its tensors in the order of the bytes."""

    name: str
    path: Path
    metadata: Mapping[str, str]
    header: bytes
    tensors: tuple[TensorEntry, ...]


@dataclass(frozen=True)
class Checkpoint:
    """A model folder whose headers were read. Holds no weights and no open file."""

    folder: Path
    config: dict[str, Any]
    config_bytes: bytes
    shards: tuple[Shard, ...]
    index_metadata: dict[str, Any] | None
    tensors: Mapping[str, TensorEntry]

    @property
    def parameters(self) -> int:
        """Elements stored in all tensors, but for the indices of cores."""
        return sum(entry.parameters for name, entry in self.tensors.items() if not is_order(name))

    @property
    def bytes(self) -> int:
        """Bytes of all tensors, headers left out."""
        return sum(entry.bytes for entry in self.tensors.values())

    def read(self, name: str) -> torch.Tensor:
        """The tensor `name`, on the CPU, in memory of its own; F4 comes as pairs (`float4_e2m1fn_x2`), the last axis halved.

        Raises UserError when there is no such tensor, torch has no such dtype, or the file changed since it was opened.
        """
        import torch

        entry = self.tensors.get(name)
        if entry is None:
            raise UserError(f"{self.folder} has no tensor {name}.", "Run inspect to see the names.")
        buffer = torch.empty(entry.bytes, dtype=torch.uint8)
        read_into(entry, memoryview(cast("Any", buffer.numpy())))
        shape = entry.shape if entry.dtype != "F4" else (*entry.shape[:-1], entry.shape[-1] // 2)
        return buffer.view(torch_dtype(entry)).reshape(shape)

    def fingerprint(self) -> str:
        """SHA-256 in hex over config.json and, in order of name, each shard's name, a zero byte, header length (8 bytes), header."""
        digest = hashlib.sha256(self.config_bytes)
        for shard in sorted(self.shards, key=lambda shard: shard.name):
            digest.update(shard.name.encode() + b"\0" + len(shard.header).to_bytes(8, "little") + shard.header)
        return digest.hexdigest()


def open_checkpoint(folder: Path, *, allow_code: bool = False) -> Checkpoint:
    """Reads config.json, the index and every header of the model in `folder`.

    Raises UserError, naming the file and what to do, for a folder without safetensors weights, a header or an index that does not hold, a
    config that is not JSON, and a model that wants foreign code (unless `allow_code`: see `trust.check_config`).
    """
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 -- a symlinked folder keeps the name that the user gave
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {what}; a model is a folder.", "Name the folder that holds config.json and the .safetensors files.")
    names, index = _shard_names(folder)
    for name in ("config.json", INDEX_FILE, *names):
        check_inside(folder, name)
    config_bytes, config = _read_config(folder)
    check_config(folder, config, allow_code=allow_code)
    shards = tuple(read_shard(folder / name) for name in names)
    tensors: dict[str, TensorEntry] = {}
    for shard in shards:
        for entry in shard.tensors:
            if (first := tensors.get(entry.name)) is not None:
                raise UserError(f"The tensor {entry.name} is in {first.file.name} and again in {shard.path}.", _DAMAGED)
            tensors[entry.name] = entry
    if index is not None:
        _check_index(folder, index["weight_map"], tensors)
    metadata = index.get("metadata") if index is not None else None
    return Checkpoint(folder, config, config_bytes, shards, metadata if isinstance(metadata, dict) else index and {}, tensors)


def torch_dtype(entry: TensorEntry) -> torch.dtype:
    """torch's dtype for the tensor. Raises UserError where torch has none (the six-bit floats)."""
    import torch

    dtype = getattr(torch, _TORCH_NAMES.get(entry.dtype, ""), None)
    if dtype is None:
        raise UserError(
            f"{entry.name} has the dtype {entry.dtype}, which torch {torch.__version__} cannot hold.",
            "Use a checkpoint in float32, float16 or bfloat16.",
        )
    return dtype


def dtype_name(dtype: torch.dtype) -> str:
    """The format's name of a torch dtype. Raises ValueError for one that the format lacks."""
    short = str(dtype).removeprefix("torch.")
    for name, torch_name in _TORCH_NAMES.items():
        if torch_name == short:
            return name
    raise ValueError(f"safetensors has no dtype {dtype}")


def check_finite(name: str, tensor: torch.Tensor) -> None:
    """Raises UserError, naming the layer and how many values, when `tensor` (floating point) holds NaN or infinity."""
    import torch

    values = tensor if tensor.dtype.itemsize > 1 else tensor.float()
    if bool(torch.isfinite(values.sum(dtype=torch.float64))) or bool(torch.isfinite(values).all()):
        return
    nan, infinite = int(torch.isnan(values).sum()), int(torch.isinf(values).sum())
    raise UserError(
        f"{name} holds {nan} NaN and {infinite} infinite values among {tensor.numel()}.",
        "The checkpoint is damaged: get it again, or leave this layer out with --exclude.",
    )


def read_into(entry: TensorEntry, target: memoryview, offset: int = 0) -> None:
    """Fills `target` with the tensor's bytes from `offset` on. Raises UserError when the file ends before."""
    with entry.file.open("rb", buffering=0) as file:
        file.seek(entry.start + offset)
        done = 0
        while done < len(target):
            count = file.readinto(target[done : done + (1 << 30)])
            if not count:
                raise UserError(f"{entry.file} ended inside {entry.name}: it changed while it was read.", _DAMAGED)
            done += count


# --- files ---------------------------------------------------------------------------------------------------------------------------

_DAMAGED = "Get the file again from where it came; this copy is damaged."


def _shard_names(folder: Path) -> tuple[list[str], dict[str, Any] | None]:
    """The weight files, in order of name, and the index when there is one. A single `model.safetensors` goes first, as in transformers."""
    if (folder / SINGLE_FILE).is_file():
        return [SINGLE_FILE], None
    if not (folder / INDEX_FILE).is_file():
        raise _without_weights(folder)
    path = folder / INDEX_FILE
    index = read_json(path)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{path} has no weight_map that says which file holds which tensor.", _DAMAGED)
    for tensor, shard in cast("dict[str, Any]", weight_map).items():
        if not isinstance(shard, str) or not shard or shard in (".", "..") or any(mark in shard for mark in ("/", "\\", ":", "\0")):
            raise UserError(
                f"{path} puts {tensor} into {shard!r}, which is not the name of a file in this folder.",
                "Do not use this checkpoint unless you know who made it: a shard name must not leave the folder.",
            )
        if not shard.endswith(".safetensors"):
            raise UserError(f"{path} puts {tensor} into {shard!r}, which is not a .safetensors file.", _CONVERT)
    names = sorted(set(cast("dict[str, str]", weight_map).values()))
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise UserError(
            f"{folder} lacks {len(missing)} of its {len(names)} weight files: {', '.join(missing[:3])}{' …' if len(missing) > 3 else ''}.",
            "Finish the download, or copy the missing files into the folder.",
        )
    return names, index


_CONVERT = (
    "Convert it once, where you trust it: python -c \"from transformers import AutoModelForCausalLM as M; M.from_pretrained('OLD', "
    "dtype='auto').save_pretrained('NEW')\", then copy the tokenizer files. A .bin file is a pickle: opening it can run code, so Bondwise "
    "does not."
)


def _without_weights(folder: Path) -> UserError:
    files = sorted(entry.name for entry in folder.iterdir())
    if pickles := [name for name in files if name.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl"))]:
        return UserError(f"{folder} holds pickled weights ({pickles[0]}) and no .safetensors file.", _CONVERT)
    if shards := [name for name in files if name.endswith(".safetensors")]:
        return UserError(
            f"{folder} has {shards[0]}, but neither {SINGLE_FILE} nor {INDEX_FILE}, which says what belongs to the model.",
            f"Copy {INDEX_FILE} into the folder; a single weight file must be called {SINGLE_FILE}.",
        )
    if ggufs := [name for name in files if name.endswith(".gguf")]:
        return UserError(
            f"{folder} holds {ggufs[0]}, a GGUF file, and no .safetensors file.",
            "Get the model's Hugging Face folder, or convert it: AutoModelForCausalLM.from_pretrained(…, gguf_file=…).save_pretrained(…).",
        )
    return UserError(f"{folder} holds no .safetensors file.", "Name the folder that holds config.json and the .safetensors files.")


def _check_index(folder: Path, weight_map: Mapping[str, str], tensors: Mapping[str, TensorEntry]) -> None:
    remedy = f"The index belongs to other files: get {INDEX_FILE} and the shards again from one place."
    for name, shard in weight_map.items():
        entry = tensors.get(name)
        if entry is None or entry.file.name != shard:
            where = "no shard has it" if entry is None else f"it is in {entry.file.name}"
            raise UserError(f"{folder / INDEX_FILE} puts {name} into {shard}, but {where}.", remedy)
    if len(tensors) > len(weight_map):
        name = next(name for name in tensors if name not in weight_map)
        raise UserError(f"{tensors[name].file} holds {name}, which {INDEX_FILE} does not know.", remedy)


def read_shard(path: Path) -> Shard:
    """One file, by its header. Raises UserError where that does not hold or the file cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                raise UserError(f"{path} is cut off: its header should have {length} bytes, the file has {size}.", _DAMAGED)
            if length > LARGEST_HEADER:
                raise UserError(
                    f"The header of {path} has {length} bytes; safetensors reads at most {LARGEST_HEADER}.",
                    "Save the model again in more shards (save_pretrained with a smaller max_shard_size).",
                )
            header = file.read(length)
        # Opened for its checks alone and closed at once: a mapping that stays would count as memory and fault when the file changes.
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise UserError(f"{path} is not a whole safetensors file: {_plain(error)}.", _DAMAGED) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.", "Check the disk and the permissions of the file.") from error
    fields = _parse(path, header)
    # The library reads an entry that is a list of the three values too; the format's text does not know it.
    if (odd := next((name for name, field in fields.items() if name != "__metadata__" and not isinstance(field, dict)), None)) is not None:
        raise UserError(f"The header of {path} describes {odd!r} by {str(fields[odd])[:80]}, not by an object.", _DAMAGED)
    metadata = cast("dict[str, str]", fields.pop("__metadata__", None) or {})
    entries = [
        TensorEntry(name, path, field["dtype"], tuple(field["shape"]), 8 + length + begin, 8 + length + end)
        for name, field in fields.items()
        for begin, end in [field["data_offsets"]]
    ]
    return Shard(path.name, path, metadata, header, tuple(sorted(entries, key=lambda entry: (entry.start, entry.end))))


def _parse(path: Path, header: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            seen: set[str] = set()
            twice = next(name for name, _ in pairs if name in seen or seen.add(name))
            raise UserError(f"The header of {path} names {twice!r} twice, so that one tensor hides another.", _DAMAGED)
        return fields

    return json.loads(header, object_pairs_hook=unique)


def _plain(error: Exception) -> str:
    return str(error).removeprefix("Error while deserializing header: ")


def _read_config(folder: Path) -> tuple[bytes, dict[str, Any]]:
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} has no config.json.", "Copy config.json of the model into the folder.")
    return path.read_bytes(), read_json(path)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises UserError, naming the file, when it is none."""
    try:
        value = from_json(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}.", _DAMAGED) from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a JSON {type(value).__name__} where an object was expected.", _DAMAGED)
    return cast("dict[str, Any]", value)
