"""Tensor names → blocks and layers, for any decoder-only Hugging Face layout; and selectors → layers.

The blocks are the outermost numbered container with the most parameters (`model.layers.N`, `transformer.h.N`, …). The layers of a block are
the 2-D `.weight`s in it that are neither norm, router nor embedding, experts fused into one 3-D tensor, and what a compressed or quantized
checkpoint stores in the place of such a weight. The words that tell them apart are in `modelmap.json`, which extension/checkpoint reads
too: the same names give the same tree on both sides. Nothing here knows an architecture.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections import defaultdict
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from importlib import resources
from typing import TYPE_CHECKING, Any, cast

from bondwise.atomic import from_json
from bondwise.checkpoint import BITS, is_order
from bondwise.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from bondwise.checkpoint import Checkpoint, TensorEntry
    from bondwise.schema import LayerGroup, LayerState

_WORDS: dict[str, str] = json.loads(resources.files("bondwise").joinpath("modelmap.json").read_text("utf-8"))
_ATTENTION, _MLP, _NORM, _EMBEDDING, _ROUTER = (re.compile(_WORDS[key]) for key in ("attention", "mlp", "norm", "embedding", "router"))
_FLOATS = frozenset(("F64", "F32", "F16", "BF16"))
_NUMBERED = re.compile(r"([^\d.][^.]*(?:\.[^\d.][^.]*)*)\.(\d+)\.")
_PACKED = re.compile(r"(.+)\.(?:(?:matrix|left|right)\.(?:codes|scales|levels|order)|correction\.[01]\.weight)")
_GROUPS: tuple[LayerGroup, ...] = ("attention", "mlp", "other")


@dataclass(frozen=True)
class Layer:
    """One linear map in a block. `parameters` and `bytes` are of all its tensors, bias included; a quantized weight counts its elements."""

    name: str
    block: int
    group: LayerGroup
    shape: tuple[int, ...]
    """[out, in]; [experts, out, in] as far as the names tell the axes of fused experts apart."""
    dtype: str
    parameters: int
    bytes: int
    state: LayerState
    tensors: tuple[str, ...]
    """The names in the file; of a dense layer the weight comes first."""
    transposed: bool = False
    """The file holds [in, out] (GPT-2's Conv1D)."""
    bond_dims: tuple[int, ...] | None = None
    scheme: str | None = None

    @property
    def weight_parameters(self) -> int:
        """Elements of the dense weight."""
        return math.prod(self.shape)

    @property
    def is_expert(self) -> bool:
        """Not every token may reach it; by its name."""
        return "expert" in self.name


@dataclass(frozen=True)
class Block:
    index: int
    name: str
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class ModelMap:
    """`container` is the path of the list of blocks (`model.layers`); None where the model has none."""

    container: str | None
    blocks: tuple[Block, ...]
    other: tuple[TensorEntry, ...]

    @property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(layer for block in self.blocks for layer in block.layers)

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers) + sum(entry.parameters for entry in self.other)


def map_model(checkpoint: Checkpoint) -> ModelMap:
    """The blocks and layers of a checkpoint, in order of depth, attention before MLP, then by name.

    Raises UserError when `config.json` does not describe a layer that is stored as an MPO.
    """
    container = find_container(checkpoint.tensors.values())
    by_block: defaultdict[int, dict[str, TensorEntry]] = defaultdict(dict)
    other: list[TensorEntry] = []
    for name, entry in checkpoint.tensors.items():
        if (index := block_index(name, container)) is None:
            other.append(entry)
        else:
            by_block[index][name] = entry
    blocks: list[Block] = []
    for index in sorted(by_block):
        layers = list(_find_layers(checkpoint, f"{container}.{index}.", index, by_block[index]))
        taken = {name for layer in layers for name in layer.tensors}
        other += [entry for name, entry in by_block[index].items() if name not in taken]
        layers.sort(key=lambda layer: (_GROUPS.index(layer.group), natural(layer.name)))
        blocks.append(Block(index, f"{container}.{index}", tuple(layers)))
    return ModelMap(container, tuple(_orient(blocks, checkpoint)), tuple(sorted(other, key=lambda entry: natural(entry.name))))


def find_container(tensors: Iterable[TensorEntry]) -> str | None:
    """The outermost numbered container with the most parameters, such as `model.layers`."""
    sizes: defaultdict[str, int] = defaultdict(int)
    for entry in tensors:
        if (match := _NUMBERED.match(entry.name)) is not None:
            sizes[match[1]] += entry.parameters
    return max(sizes, key=lambda path: (sizes[path], path)) if sizes else None


def block_index(name: str, container: str | None) -> int | None:
    """The number of the block that a tensor belongs to; None outside the blocks."""
    match = _NUMBERED.match(name)
    return int(match[2]) if match is not None and match[1] == container else None


def select(layers: Sequence[Layer], patterns: Sequence[str], exclude: Sequence[str] = ()) -> list[Layer]:
    """The dense 2-D layers that match one of `patterns` and none of `exclude`, in the order of `layers`.

    A pattern is an exact name, a glob (`*`, `?`, `[…]`; letter case counts, `*` crosses dots) or `re:` and a regular expression for the
    whole name. Raises UserError for a pattern, of either list, that matches nothing, for a selection that is empty, and for a selected
    layer that cannot be made into an MPO.
    """
    wanted = {name for pattern in patterns for name in matches(layers, pattern)}
    unwanted = {name for pattern in exclude for name in matches(layers, pattern)}
    chosen = [layer for layer in layers if layer.name in wanted and layer.name not in unwanted]
    if not chosen:
        raise UserError(
            f"No layer is left: all {len(wanted)} that match {_listed(patterns)} are excluded by {_listed(exclude)}.",
            "Exclude fewer layers.",
        )
    for layer in chosen:
        if layer.state == "mpo":
            bonds = ", ".join(str(bond) for bond in layer.bond_dims or ())
            raise UserError(
                f"{layer.name} is an MPO already (bond dimensions {bonds}).", "Choose other layers, or start from the original model."
            )
        if layer.state == "quantized":
            raise UserError(f"{layer.name} is quantized ({layer.scheme}).", "Start from the model before its quantization.")
        if len(layer.shape) != 2:
            raise UserError(
                f"{layer.name} has the shape {list(layer.shape)}; only a matrix, with two axes, becomes an MPO.",
                "Leave it out with --exclude.",
            )
    return chosen


def natural(name: str) -> str:
    """A key that sorts `layers.10` behind `layers.9`; the same as extension/checkpoint's."""
    return re.sub(r"\d+", lambda digits: "\0" + digits[0].zfill(20), name)


# --- blocks --------------------------------------------------------------------------------------------------------------------------


def _find_layers(checkpoint: Checkpoint, prefix: str, block: int, tensors: Mapping[str, TensorEntry]) -> Iterable[Layer]:
    cores: defaultdict[str, dict[int, list[TensorEntry]]] = defaultdict(lambda: defaultdict(list))
    for name, entry in tensors.items():
        if (match := re.match(r"(.+?)\.cores\.(\d+)\.", name)) is not None:
            cores[match[1]][int(match[2])].append(entry)
    for path, parts in cores.items():
        others = [tensors[name] for name in (*(f"{path}.order_{k}" for k in parts), f"{path}.bias") if name in tensors]
        yield _mpo_layer(checkpoint, path, parts, others, block=block, prefix=prefix)
    for path, parts in _packed_modules(tensors).items():
        if ".cores." not in path:
            yield _packed_layer(checkpoint, path, parts, tensors.get(f"{path}.bias"), block=block, prefix=prefix)
    helpers: defaultdict[str, list[TensorEntry]] = defaultdict(list)
    for name, entry in tensors.items():
        if (match := re.match(r"(.+?)\.(?:weight[._]|input_scale$|SCB$|qzeros$|scales$|g_idx$)", name)) is not None:
            helpers[match[1]].append(entry)
    for name, entry in tensors.items():
        found = None if ".cores." in name or _PACKED.fullmatch(name) is not None else _stored_weight(checkpoint, entry, tensors, helpers)
        if found is None:
            continue
        path, shape, scheme, parts = found
        inner = path.removeprefix(prefix)
        if any(words.search(inner) for words in (_NORM, _EMBEDDING, _ROUTER)):
            continue
        extra = [bias for bias in (tensors.get(f"{path}.bias"), tensors.get(f"{path}_bias")) if bias is not None]
        yield Layer(
            name=path,
            block=block,
            group=_group(inner),
            shape=shape,
            dtype=entry.dtype,
            parameters=math.prod(shape) + sum(bias.parameters for bias in extra),
            bytes=sum(part.bytes for part in (*parts, *extra)),
            state="dense" if scheme is None else "quantized",
            tensors=tuple(part.name for part in (*parts, *extra)),
            scheme=scheme,
        )


def _group(inner: str) -> LayerGroup:
    if _ATTENTION.search(inner):
        return "attention"
    return "mlp" if _MLP.search(inner) else "other"


def _packed_modules(tensors: Mapping[str, TensorEntry]) -> dict[str, list[TensorEntry]]:
    """By the module's path the tensors of what is stored in few bits (`modeling_mpo.PackedLinear`)."""
    found: defaultdict[str, list[TensorEntry]] = defaultdict(list)
    for name, entry in tensors.items():
        if (match := _PACKED.fullmatch(name)) is not None:
            found[match[1]].append(entry)
    return found


def _packed_layer(
    checkpoint: Checkpoint, path: str, parts: Sequence[TensorEntry], bias: TensorEntry | None, *, block: int, prefix: str
) -> Layer:
    shape = _packed_shape(checkpoint, path)
    tensors = [*parts, *([bias] if bias is not None else [])]
    return Layer(
        name=path,
        block=block,
        group=_group(path.removeprefix(prefix)),
        shape=shape,
        dtype=parts[0].dtype,
        parameters=math.prod(shape) + (0 if bias is None else bias.parameters),
        bytes=sum(part.bytes for part in tensors),
        state="quantized",
        tensors=tuple(part.name for part in tensors),
        scheme=_packed_scheme(checkpoint, path),
    )


def _packed_entry(checkpoint: Checkpoint, path: str) -> dict[str, Any]:
    section = checkpoint.config.get("mpo")
    packed = cast("dict[str, Any]", section).get("packed") if isinstance(section, dict) else None
    described = cast("dict[str, Any]", packed).get(path) if isinstance(packed, dict) else None
    return cast("dict[str, Any]", described) if isinstance(described, dict) else {}


def _packed_shape(checkpoint: Checkpoint, path: str) -> tuple[int, int]:
    info = _packed_entry(checkpoint, path)
    try:
        return int(info["out_features"]), int(info["in_features"])
    except (TypeError, KeyError, ValueError):
        raise UserError(
            f"{checkpoint.folder / 'config.json'} does not describe {path}, which is stored in few bits.",
            "Copy the config.json that was written with these weights into the folder.",
        ) from None


def _packed_scheme(checkpoint: Checkpoint, path: str) -> str:
    """`4-bit`, `3-bit + rank 8`, `rank 96, 4-bit`: what a packed module holds."""
    info = _packed_entry(checkpoint, path)
    bits, rank, rank_bits = (info.get(key, 0) for key in ("bits", "rank", "rank_bits"))
    if not bits:
        return f"rank {rank}, {rank_bits}-bit"
    return f"{bits}-bit + rank {rank}" if rank else f"{bits}-bit"


def _core(checkpoint: Checkpoint, path: str, parts: Sequence[TensorEntry]) -> tuple[int, str | None]:
    """The numbers of a core with that path, and its scheme where it is quantized."""
    weight = next((part for part in parts if part.name == f"{path}.weight"), None)
    if weight is None:
        return math.prod(_packed_shape(checkpoint, path)), _packed_scheme(checkpoint, path)
    if len(parts) == 1:
        return weight.parameters, None
    _, shape, scheme, _ = _weight(checkpoint, path, weight, [part for part in parts if part is not weight]) or (
        path,
        weight.shape,
        None,
        [],
    )
    return math.prod(shape), scheme


def _mpo_layer(
    checkpoint: Checkpoint, path: str, cores: Mapping[int, Sequence[TensorEntry]], others: Sequence[TensorEntry], *, block: int, prefix: str
) -> Layer:
    section = checkpoint.config.get("mpo")
    layers = cast("dict[str, Any]", section).get("layers") if isinstance(section, dict) else None
    described = cast("dict[str, Any]", layers).get(path) if isinstance(layers, dict) else None
    try:
        info = cast("dict[str, Any]", described)
        shape = (int(info["out_features"]), int(info["in_features"]))
        bonds = tuple(int(bond) for bond in info["bond_dims"])
    except (TypeError, KeyError, ValueError):
        raise UserError(
            f"{checkpoint.folder / 'config.json'} does not describe {path}, which is stored as {len(cores)} cores.",
            "Copy the config.json that was written with these weights into the folder.",
        ) from None
    if sorted(cores) != list(range(len(bonds) + 1)):
        raise UserError(
            f"{path} has the cores {sorted(cores)}, but config.json says {len(bonds) + 1} of them.",
            "Copy all files of the compressed model, config.json included, from one place.",
        )
    parts = [*(part for index in sorted(cores) for part in cores[index]), *others]
    found = [_core(checkpoint, f"{path}.cores.{index}", cores[index]) for index in sorted(cores)]
    schemes = sorted({scheme for _, scheme in found if scheme is not None})
    return Layer(
        name=path,
        block=block,
        group=_group(path.removeprefix(prefix)),
        shape=shape,
        dtype=cores[0][0].dtype,
        parameters=sum(count for count, _ in found) + sum(part.parameters for part in others if not is_order(part.name)),
        bytes=sum(part.bytes for part in parts),
        state="mpo",
        tensors=tuple(part.name for part in parts),
        bond_dims=bonds,
        scheme=", ".join(schemes) or None,
    )


def _orient(blocks: Sequence[Block], checkpoint: Checkpoint) -> Iterable[Block]:
    """Finds the layers stored as [in, out] by their biases; a square one, where the bias cannot tell, goes with the others of the model."""

    def stored_transposed(layer: Layer) -> bool | None:
        bias = next((checkpoint.tensors[name] for name in layer.tensors if name.endswith("bias")), None)
        if layer.state != "dense" or bias is None or layer.shape[-1] == layer.shape[-2]:
            return None
        return bias.shape[-1] == layer.shape[-1]

    told = {layer.name: stored_transposed(layer) for block in blocks for layer in block.layers}
    known = [value for value in told.values() if value is not None]
    transposed_model = bool(known) and all(known)
    for block in blocks:
        layers: list[Layer] = []
        for layer in block.layers:
            biased = layer.state == "dense" and any(name.endswith("bias") for name in layer.tensors)
            if told[layer.name] or (told[layer.name] is None and biased and transposed_model):
                layers.append(replace(layer, shape=(*layer.shape[:-2], layer.shape[-1], layer.shape[-2]), transposed=True))
            else:
                layers.append(layer)
        yield replace(block, layers=tuple(layers))


# --- what a weight is stored as ------------------------------------------------------------------------------------------------------

_Stored = tuple[str, tuple[int, ...], "str | None", "list[TensorEntry]"]
"""Module path, shape of the dense weight, scheme when it is quantized, and its tensors."""


def _stored_weight(
    checkpoint: Checkpoint, entry: TensorEntry, tensors: Mapping[str, TensorEntry], helpers: Mapping[str, Sequence[TensorEntry]]
) -> _Stored | None:
    """The layer whose main tensor is `entry`, if it is one. `helpers` are the small tensors (scales, zero points) of each module path."""
    path, _, last = entry.name.rpartition(".")
    beside = [helper for helper in helpers.get(path, ()) if helper is not entry]
    if last == "weight":
        return _weight(checkpoint, path, entry, beside)
    if last == "qweight" and len(entry.shape) == 2 and (scales := tensors.get(f"{path}.scales")) is not None:
        if entry.shape[1] != scales.shape[-1]:  # AWQ packs along the output
            return path, (scales.shape[-1], entry.shape[0]), "awq", [entry, *beside]
        order = tensors.get(f"{path}.g_idx")  # GPTQ packs along the input
        inputs = order.shape[0] if order is not None else entry.shape[0] * 32 // _config_bits(checkpoint)
        return path, (entry.shape[1], inputs), "gptq", [entry, *beside]
    if last == "weight_packed" and len(entry.shape) == 2:
        inputs = entry.shape[1] * BITS[entry.dtype] // _config_bits(checkpoint)
        return path, (entry.shape[0], inputs), "compressed-tensors", [entry, *beside]
    return _fused_experts(entry, tensors)


def _weight(checkpoint: Checkpoint, path: str, entry: TensorEntry, beside: Sequence[TensorEntry]) -> _Stored | None:
    if (state := next((helper for helper in beside if ".quant_state.bitsandbytes__" in helper.name), None)) is not None:
        return path, _bitsandbytes_shape(checkpoint, state) or entry.shape, state.name.rpartition("__")[2], [entry, *beside]
    if len(entry.shape) != 2 and not _is_stack_of_experts(entry):
        return None
    if entry.dtype in _FLOATS and not beside:
        return path, entry.shape, None, [entry]
    scheme = "fp8" if entry.dtype.startswith("F8") else {"I8": "int8", "U8": "uint8"}.get(entry.dtype, entry.dtype.lower())
    return path, entry.shape, scheme, [entry, *beside]


def _fused_experts(entry: TensorEntry, tensors: Mapping[str, TensorEntry]) -> _Stored | None:
    stem = entry.name.removesuffix("_blocks")
    if stem != entry.name and len(entry.shape) == 4 and (scales := tensors.get(f"{stem}_scales")) is not None:
        experts, out, groups, packed = entry.shape
        return stem, (experts, out, groups * packed * 2), "mxfp4", [entry, scales]
    if _is_stack_of_experts(entry) and entry.dtype in _FLOATS and not entry.name.endswith(("bias", "scales", "_scale")):
        return entry.name, entry.shape, None, [entry]
    return None


def _is_stack_of_experts(entry: TensorEntry) -> bool:
    return len(entry.shape) == 3 and min(entry.shape) > 1 and "expert" in entry.name


def _bitsandbytes_shape(checkpoint: Checkpoint, state: TensorEntry) -> tuple[int, ...] | None:
    """bitsandbytes keeps the shape of a 4-bit weight in a small tensor that holds JSON."""
    if state.bytes > 1 << 16:
        return None
    try:
        value = from_json(bytes(checkpoint.read(state.name).tolist()))
        return tuple(int(length) for length in value["shape"])
    except (ValueError, TypeError, KeyError):
        return None


def _config_bits(checkpoint: Checkpoint) -> int:
    """Bits of a quantized weight, from config.json; 4 where it does not say."""
    quantization = checkpoint.config.get("quantization_config")
    text = json.dumps(quantization) if isinstance(quantization, dict) else ""
    found = re.search(r'"(?:bits|num_bits)": (\d+)', text)
    return int(found[1]) if found is not None and int(found[1]) in (2, 3, 4, 8) else 4


# --- selectors -----------------------------------------------------------------------------------------------------------------------


def matches(layers: Sequence[Layer], pattern: str) -> list[str]:
    if pattern.startswith("re:"):
        try:
            expression = re.compile(pattern[3:])
        except re.error as error:
            raise UserError(f"The pattern {pattern!r} is not a regular expression: {error}.", "Mend it, or use a glob.") from error
        names = [layer.name for layer in layers if expression.fullmatch(layer.name)]
    else:
        names = [layer.name for layer in layers if layer.name == pattern] or [
            layer.name for layer in layers if fnmatchcase(layer.name, pattern)
        ]
    if names:
        return names
    if not layers:
        raise UserError(f"The pattern {pattern!r} matches nothing: the model has no layers in blocks.", "Use another model.")
    near = difflib.get_close_matches(pattern.removeprefix("re:"), [layer.name for layer in layers], n=3, cutoff=0.3)
    raise UserError(f"The pattern {pattern!r} matches no layer.", f"Names are like {', '.join(near or [layers[0].name])}.")


def _listed(patterns: Sequence[str]) -> str:
    return ", ".join(repr(pattern) for pattern in patterns)
