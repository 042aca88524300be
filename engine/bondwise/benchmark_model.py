"""What a model's folder says of it before anything runs: size, precision, where it comes from, and a digest of its content."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, cast

from bondwise.benchmark_file import relative
from bondwise.checkpoint import PIECE, Checkpoint, is_order
from bondwise.modelmap import map_model
from bondwise.schema import BenchmarkModel, Lineage
from bondwise.writing import LINEAGE_FILE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def describe_model(source: Checkpoint, output: Path, step: Callable[[int], None] = lambda done: None) -> BenchmarkModel:
    """The entry of a model without figures. `step(bytes)` is told what was read of its files since, and may raise to stop."""
    lineage = _lineage(source.folder)
    dtypes: dict[str, int] = {}
    for name, entry in source.tensors.items():
        if not is_order(name):
            dtypes[entry.dtype] = dtypes.get(entry.dtype, 0) + entry.bytes
    section = cast("dict[str, Any]", source.config.get("mpo") or {})
    layers = map_model(source).layers
    schemes = list(dict.fromkeys(layer.scheme for layer in layers if layer.scheme is not None))
    quantized = scheme(source.config) or (schemes[0] if len(schemes) == 1 else "mixed bits" if schemes else None)
    packed = {tensor for layer in layers for tensor in layer.tensors}
    elements = sum(layer.parameters for layer in layers) + sum(
        entry.parameters for name, entry in source.tensors.items() if name not in packed and not is_order(name)
    )
    return BenchmarkModel(
        path=relative(source.folder, output),
        name=source.folder.name,
        fingerprint=source.fingerprint(),
        weights=content_digest(source, step),
        base=lineage.base.fingerprint if lineage else None,
        bytes=sum(shard.path.stat().st_size for shard in source.shards),
        parameters=source.parameters,
        original_parameters=elements if quantized is not None else None,
        dtypes=dict(sorted(dtypes.items(), key=lambda item: -item[1])),
        scheme=quantized,
        precision=precision(dtypes, quantized, cores=bool(section.get("layers"))),
        mpo_layers=len(section.get("layers", {})),
        healed=bool(lineage and lineage.healing),
    )


def content_digest(source: Checkpoint, step: Callable[[int], None] = lambda done: None) -> str:
    """SHA-256 in hex over config.json and all weight files: a healed model has the headers of the one it was made from."""
    digest = hashlib.sha256(source.config_bytes)
    for shard in sorted(source.shards, key=lambda shard: shard.name):
        digest.update(shard.name.encode() + b"\0")
        with shard.path.open("rb", buffering=0) as file:
            while piece := file.read(PIECE):
                digest.update(piece)
                step(len(piece))
    return digest.hexdigest()


def scheme(config: dict[str, Any]) -> str | None:
    """How a model is quantized, from the `quantization_config` of transformers: `int8`, `nf4`, `fp4`, or the method's own name."""
    found = config.get("quantization_config")
    if not isinstance(found, dict):
        return None
    section = cast("dict[str, Any]", found)
    if section.get("load_in_8bit"):
        return "int8"
    if section.get("load_in_4bit"):
        return str(section.get("bnb_4bit_quant_type") or "4-bit")
    return str(section.get("quant_method") or "quantized")


_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def precision(dtypes: dict[str, int], quantized: str | None, *, cores: bool) -> str:
    """In words: `bfloat16`, `int8, the rest bfloat16`, `nf4, cores float16`; from the bytes by stored dtype."""
    largest = sorted(dtypes, key=lambda name: -dtypes[name])
    plain = next((_DTYPES[name] for name in largest if name in _DTYPES), None)
    if quantized is None:
        return plain or ", ".join(largest[:1])
    return f"{quantized}, {'cores' if cores else 'the rest'} {plain}" if plain else quantized


def _lineage(folder: Path) -> Lineage | None:
    try:
        return Lineage.model_validate_json((folder / LINEAGE_FILE).read_bytes())
    except (OSError, ValueError):
        return None
