"""The resume points of a tensorize run: one safetensors file a finished layer, with its cores and its figures.

A file counts only when it was made by the same request from the same headers and its bytes are those that were written; any other is as
good as absent, and the layer is done again.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, cast

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from bondwise import atomic
from bondwise.schema import LayerFigures

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from _typeshed import ReadableBuffer as Buffer
    from torch import Tensor

    from bondwise.resolve import Choice
    from bondwise.schema import Record


def layer_path(folder: Path, number: int, name: str) -> Path:
    """`<number>-<layer>.safetensors`; the number makes it unique whatever is left of the name."""
    return folder / f"{number:05}-{re.sub(r'[^A-Za-z0-9_.-]', '_', name)[:120]}.safetensors"


def layer_key(fingerprint: str, choice: Choice, text: str) -> str:
    """What a layer was made from and how, SHA-256 in hex; `text` says which calibration text, for the methods that use one."""
    layer = choice.layer
    wanted = [layer.name, layer.dtype, layer.shape, choice.out_modes, choice.in_modes, choice.bond_dims, choice.error, choice.method]
    return hashlib.sha256(json.dumps([fingerprint, *wanted, text if choice.method != "plain" else ""]).encode()).hexdigest()


def save_layer(path: Path, key: str, tensors: Mapping[str, Tensor], figures: Record | None) -> None:
    """Writes the file, whole or not at all. The tensors are as `layers.stored_tensors` makes them, on the CPU, or the weight of a layer
    that stays dense, which has no figures."""
    told = "" if figures is None else atomic.to_json(figures)
    metadata = {"key": key, "figures": told, "digest": _digest(tensors), "names": json.dumps(list(tensors))}
    atomic.write_bytes(path, save(dict(tensors), metadata))


def load_figures(path: Path, key: str) -> LayerFigures | None:
    """The figures of a finished layer; None when the file is absent, damaged, or of another request."""
    told = load_told(path, key)
    try:
        return None if told is None else LayerFigures.model_validate_json(told)
    except ValidationError:
        return None


def is_finished(path: Path, key: str) -> bool:
    """Whether the file is there, whole and of this request."""
    return load_told(path, key) is not None


def load_told(path: Path, key: str) -> str | None:
    """The JSON of a finished layer's figures, empty where it has none; None when the file is absent, damaged, or of another request."""
    try:
        data = path.read_bytes()
        metadata = _metadata(data)
        whole = metadata["key"] == key and metadata["digest"] == _digest(_in_order(data))
        return metadata["figures"] if whole else None
    except (FileNotFoundError, SafetensorError, ValueError, KeyError, TypeError):
        return None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The stored tensors of a finished layer, in the order they are written in and in memory of their own."""
    return _in_order(path.read_bytes())


def _in_order(data: bytes) -> dict[str, Tensor]:
    tensors = load(data)
    return {name: tensors[name] for name in json.loads(_metadata(data)["names"])}


def _metadata(data: bytes) -> dict[str, str]:
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return cast("dict[str, str]", header["__metadata__"])


def _digest(tensors: Mapping[str, Tensor]) -> str:
    import torch

    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(name.encode())
        digest.update(cast("Buffer", tensor.contiguous().reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()
