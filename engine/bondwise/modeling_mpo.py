"""Matrix product operators inside a Hugging Face model. This file is copied into every compressed checkpoint and stands alone:

    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)

needs torch and transformers, and nothing of Bondwise. The model is the base architecture's own class with the layers named in the
section `mpo` of config.json replaced by `MPOLinear`, so that generation, caches, attention kernels, checkpointing and device maps are the
base's own. That class is transformers' or, where the section has `base_auto_map`, in the Python files that lie beside this one. A layer X
stands for the weight W[(o_1…o_n), (i_1…i_n)] = Σ_r Π_k G_k[r_{k-1}, o_k, i_k, r_k], site 1 the slowest index on both sides (the tensor
train of Oseledets, SIAM J. Sci. Comput. 33, 2011, for matrices). Low rank is two sites (1, in) and (out, 1). The tensors:

    X.cores.0.weight    [out_1·r_1, in_1]: the first core as a linear map
    X.cores.k.weight    [n_k − r_{k-1}, r_{k-1}], n_k = out_k·in_k·r_k: as a linear map, the columns of the unfolding [r_{k-1}, n_k] of
                        G_k that are not those of the unit matrix
    X.order_k           int32 [n_k]: column j of the unfolding is column order_k[j] of [1 C], C the transpose of that weight

So of every bond its r² redundant numbers, the gauge, are not stored. Where inputs are at the first site only and outputs at the last,
nothing is put together: core k maps x to [x, C x] in that order.

The linear layers, and cores, that the section's `packed` names are stored in few bits (`PackedLinear`): W = M + LᵀR, where M [out, in] is
the matrix, R [rank, in] and L [rank, out] are two thin ones; either part may be absent. Each part P of X is four tensors:

    X.P.codes     uint8 [bits, rows, ⌈columns/8⌉]: bit b of the codes of columns 8j … 8j+7 is byte j of plane b, the first column lowest;
                  of 8 bits uint8 [rows, columns], the codes themselves
    X.P.scales    int16 [rows, ⌈columns/64⌉]: the bits of a float16, the scale of 64 stored columns
    X.P.levels    int16 [2^bits]: the bits of float16, the codebook; a number is levels[code] · scale
    X.P.order     int16 or int32 [columns]: stored column j is column order_j; absent where they are in their own order

Scales and levels are stored as integers so that no cast of the model to another dtype touches them. X.bias is as in any linear layer.
"""

import functools
import math
import re
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import CONFIG_MAPPING, PretrainedConfig, PreTrainedModel
from transformers.dynamic_module_utils import custom_object_save, get_class_from_dynamic_module
from transformers.models.auto.auto_factory import add_generation_mixin_to_remote_model
from transformers.pytorch_utils import Conv1D
from transformers.utils.hub import TRANSFORMERS_DYNAMIC_MODULE_NAME

MODEL_TYPE = "bondwise_mpo"
VERSION = 2
"""Of the section `mpo` and its tensors. Version 1 stored the cores whole."""
AUTO_MAP = {"AutoConfig": "modeling_mpo.MPOConfig", "AutoModelForCausalLM": "modeling_mpo.MPOForCausalLM"}
ARCHITECTURES = ["MPOForCausalLM"]
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")

ForwardPath = Literal["auto", "cores", "contract", "keep"]
"""How a layer is applied: site by site through its cores; contract the cores to the dense weight, then one product; contract once and
keep the dense weight (as fast as the original layer, and as large in memory); or whichever of the first two costs less."""

MAX_STATE = 2**25
"""Most numbers in the state between two cores (128 MiB in float32). More tokens than fit go through in pieces."""
MAX_UNPACKED = 2**22
"""Most numbers of a packed matrix that are unpacked at a time (16 MiB in float32), unless it is kept."""
PACKED_GROUP = 64
"""Columns of a packed matrix that share a scale."""
MOVE = 56
"""What moving one number between two cores, or to its place in the contracted weight, costs in multiply-adds.

Measured as CPU time of one thread (AMD EPYC, float32, two runs): least squares over 27 layers (1024×1024, 2048×512, 1536×576; 2–4 sites;
10, 30 and 80% kept; 4–32 tokens) give 1.7–2.0 ns a number between cores and 1.3–1.5 ns in a contraction, at 39–40 and 30–32
multiply-adds a nanosecond: 67–81 and 40–47. With 56, the break-even is within a factor of two of the measured one in 22 of the 27."""


class MPOLinear(nn.Module):
    """A linear map [..., in_features] → [..., out_features] whose weight is a matrix product operator.

    `out_modes` and `in_modes` multiply to the sizes, or to more: then the weight is padded, inputs with zeros and outputs cut off.
    `bond_dims` are the n − 1 interior bond dimensions. `path` chooses how it is applied. Gradients flow on every path.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        out_modes: list[int] | tuple[int, ...],
        in_modes: list[int] | tuple[int, ...],
        bond_dims: list[int] | tuple[int, ...],
        *,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if len(out_modes) != len(in_modes) or len(bond_dims) != len(out_modes) - 1:
            raise ValueError(f"output modes {out_modes}, input modes {in_modes} and bond dimensions {bond_dims} do not fit together")
        if math.prod(out_modes) < out_features or math.prod(in_modes) < in_features:
            raise ValueError(f"output modes {out_modes} and input modes {in_modes} do not cover {out_features}×{in_features}")
        self.in_features, self.out_features = in_features, out_features
        self.out_modes, self.in_modes, self.bond_dims = tuple(out_modes), tuple(in_modes), tuple(bond_dims)
        self.path: ForwardPath = "auto"
        bonds = (1, *self.bond_dims, 1)
        sizes = [self.out_modes[k] * self.in_modes[k] * bonds[k + 1] for k in range(1, len(self.out_modes))]
        self.cores = nn.ModuleList(
            nn.Linear(read, written, bias=False, device=device, dtype=dtype)
            for read, written in (
                (self.in_modes[0], self.out_modes[0] * bonds[1]),
                *((bond, size - bond) for bond, size in zip(self.bond_dims, sizes, strict=True)),
            )
        )
        for k, size in enumerate(sizes, 1):
            self.register_buffer(f"order_{k}", torch.arange(size, device=device, dtype=torch.int32))
        self.bias = nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype)) if bias else None
        self._padding = math.prod(self.in_modes) - in_features
        self._chain_is_plain = _is_plain_chain(self.out_modes, self.in_modes)
        self._state_per_token, self._break_even = _cost_model(self.out_modes, self.in_modes, bonds)
        self._kept: tuple[Any, Tensor] | None = None

    def extra_repr(self) -> str:
        modes = " · ".join(f"{o}×{i}" for o, i in zip(self.out_modes, self.in_modes, strict=True))
        return f"in_features={self.in_features}, out_features={self.out_features}, sites={modes}, bonds={list(self.bond_dims)}"

    def forward(self, x: Tensor) -> Tensor:
        tokens = math.prod(x.shape[:-1])
        path = self._choose(tokens)
        if path == "cores":
            y = self._through_cores(x, tokens)
            return y if self.bias is None else y + self.bias
        return F.linear(x, self._kept_dense() if path == "keep" else self.dense(), self.bias)

    def _choose(self, tokens: int) -> ForwardPath:
        path = self.path
        if path == "cores" or (path == "auto" and tokens < self._break_even) or not self._weights_are_plain():
            return "cores"
        if path != "keep":
            return "contract"
        trains = self.training or (torch.is_grad_enabled() and any(core.weight.requires_grad for core in self.cores))
        if not trains:
            return "keep"
        self.forget()
        return "cores" if tokens < self._break_even else "contract"

    def _weights_are_plain(self) -> bool:
        """Whether the cores' weights may be read past their modules: not where a quantizer, adapter, offloader or shard stands between."""
        return all(
            type(core) is nn.Linear
            and type(core.weight) in (nn.Parameter, Tensor)
            and not (core._forward_hooks or core._forward_pre_hooks or hasattr(core, "_hf_hook"))
            for core in self.cores
        )

    # --- site by site ---

    def _through_cores(self, x: Tensor, tokens: int) -> Tensor:
        if self._padding:
            x = F.pad(x, (0, self._padding))
        if self._chain_is_plain:
            x = self.cores[0](x)
            trains = torch.is_grad_enabled() and self._weights_are_plain() and any(core.weight.requires_grad for core in self.cores)
            for k, core in enumerate(self.cores[1:], 1):
                if self._is_whole(k):
                    x = core(x)
                    continue
                # Where it trains the rows of the map are put in order, once, and not the outputs of every token, there and back.
                x = F.linear(x, self._rows(k)) if trains else torch.cat([x, core(x)], -1).index_select(-1, self._order(k))
            return x[..., : self.out_features]
        flat = x.reshape(tokens, x.shape[-1])  # [tokens, in]
        maps = [self.cores[0], *(functools.partial(F.linear, weight=self._as_map(k, x)) for k in range(1, len(self.cores)))]
        piece = max(1, MAX_STATE // self._state_per_token)
        if tokens <= piece:
            y = self._site_by_site(flat, maps)
        elif torch.is_grad_enabled():
            # Kept for the backward pass, the states of all pieces would together break the bound: compute them again there instead.
            y = torch.cat([_tensor(checkpoint(self._site_by_site, part, maps, use_reentrant=False)) for part in flat.split(piece)])
        else:
            y = torch.cat([self._site_by_site(part, maps) for part in flat.split(piece)])
        return y[:, : self.out_features].reshape(*x.shape[:-1], self.out_features)

    def _site_by_site(self, x: Tensor, maps: list[Any]) -> Tensor:
        """[tokens, in] → [tokens, out], padded sizes; the maps are those of the cores."""
        tokens, rest = x.shape
        outer = made = bond = 1
        for core, o, i, r in zip(maps, self.out_modes, self.in_modes, (*self.bond_dims, 1), strict=True):
            rest //= i
            x = x.reshape(tokens, outer, i, rest, made, bond).permute(0, 1, 4, 3, 5, 2)  # [tokens, outer, made, rest, bond, i]
            outer *= made
            x = core(x.reshape(tokens, outer, rest, bond * i))  # [tokens, outer, rest, o·r]
            made, bond = o, r
        return x.reshape(tokens, outer * made)

    def _rows(self, k: int) -> Tensor:
        """[1; C] in the order of the columns of the unfolding: core k as a linear map where nothing is rearranged between cores, k ≥ 1."""
        rest = _tensor(self.cores[k].weight)
        if self._is_whole(k):
            return rest
        return torch.cat([torch.eye(rest.shape[1], device=rest.device, dtype=rest.dtype), rest]).index_select(0, self._order(k))

    def _is_whole(self, k: int) -> bool:
        """Whether core k has all columns of its unfolding, in their own order: so only while it trains, never in a file."""
        return getattr(self.cores[k], "out_features", None) == len(self._order(k))

    def _as_map(self, k: int, like: Tensor) -> Tensor:
        """Core k as a linear map [out_k·r_k, r_{k-1}·in_k], k ≥ 1."""
        site = self._site(k, like)
        return site.permute(1, 3, 0, 2).reshape(site.shape[1] * site.shape[3], site.shape[0] * site.shape[2])

    # --- put together ---

    def _order(self, k: int) -> Tensor:
        return self.get_buffer(f"order_{k}")

    def _site(self, k: int, like: Tensor) -> Tensor:
        """G_k [r_{k-1}, out_k, in_k, r_k]; differentiable. What a quantized core gives for the dtype and on the device of `like`."""
        bonds, core = (1, *self.bond_dims, 1), self.cores[k]
        o, i, a, b = self.out_modes[k], self.in_modes[k], bonds[k], bonds[k + 1]
        if k == 0:
            return _tensor(core.weight).reshape(o, b, 1, i).permute(2, 0, 3, 1)
        plain = self._weights_are_plain()
        rest = _tensor(core.weight).mT if plain else core(torch.eye(a, device=like.device, dtype=like.dtype))
        if self._is_whole(k):
            return rest.reshape(a, o, i, b)
        unit = torch.eye(a, device=rest.device, dtype=rest.dtype)
        return torch.cat([unit, rest], -1).index_select(-1, self._order(k)).reshape(a, o, i, b)

    def dense(self) -> Tensor:
        """The weight [out_features, in_features] the cores stand for, in their dtype; differentiable."""
        sites = len(self.out_modes)
        first = _tensor(self.cores[0].weight)
        product = self._site(0, first).reshape(-1, (*self.bond_dims, 1)[0])  # [o_1·i_1 … o_k·i_k, r_k]
        for k in range(1, sites):
            site = self._site(k, first)
            product = (product @ site.flatten(1)).reshape(-1, site.shape[3])
        pairs = [mode for pair in zip(self.out_modes, self.in_modes, strict=True) for mode in pair]
        order = [*range(0, 2 * sites, 2), *range(1, 2 * sites, 2)]
        weight = product.reshape(pairs).permute(order).reshape(math.prod(self.out_modes), math.prod(self.in_modes))
        return weight[: self.out_features, : self.in_features]

    def _kept_dense(self) -> Tensor:
        weights = [*(_tensor(core.weight) for core in self.cores), *self.buffers(recurse=False)]
        state = [(w.data_ptr(), w.dtype, w.device, -1 if w.is_inference() else w._version) for w in weights]
        if self._kept is None or self._kept[0] != state:
            with torch.inference_mode(False), torch.no_grad():
                self._kept = (state, self.dense())
        return self._kept[1]

    def forget(self) -> None:
        """Drops the kept dense weight. Done by itself when the weights change, move or train; only a write through `weight.data` while
        evaluating cannot be seen and needs this call."""
        self._kept = None

    def train(self, mode: bool = True) -> "MPOLinear":
        self.forget()
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> "MPOLinear":
        self.forget()
        return super()._apply(fn, recurse)


def _tensor(value: Any) -> Tensor:
    """Says to a type checker what an attribute of a module holds."""
    return value


def _cost_model(out_modes: tuple[int, ...], in_modes: tuple[int, ...], bonds: tuple[int, ...]) -> tuple[int, float]:
    """The largest state per token (numbers), and the number of tokens from which contracting first costs less than the cores.

    Both paths are priced in multiply-adds of a dense product, with `MOVE` of them for each number that is only moved. Cores, per token:
    multiply-adds through the cores, and the states put in order before each of them. Contracted, once: the products of the cores, and
    cores and weight put in order; then out·in multiply-adds per token.
    """
    sites = range(len(out_modes))
    states = [math.prod(out_modes[:k]) * math.prod(in_modes[k:]) * bonds[k] for k in (*sites, len(out_modes))]
    pairs = [out_modes[k] * in_modes[k] for k in sites]
    per_token = sum(states[k] * out_modes[k] * bonds[k + 1] for k in sites)
    once = sum(math.prod(pairs[: k + 1]) * bonds[k] * bonds[k + 1] for k in sites[1:])
    dense = math.prod(pairs)
    if _is_plain_chain(out_modes, in_modes):
        per_token -= sum(bond**2 for bond in bonds[1:-1])
    else:
        per_token += MOVE * sum(states[:-1])
        once += MOVE * (dense + sum(bonds[k] * pairs[k] * bonds[k + 1] for k in sites))
    return max(states), math.ceil(once / (per_token - dense)) if per_token > dense else math.inf


def _is_plain_chain(out_modes: tuple[int, ...], in_modes: tuple[int, ...]) -> bool:
    """Whether nothing is rearranged between the cores: they follow each other as matrices, inputs at the first, outputs at the last."""
    return max(in_modes[1:], default=1) == 1 and max(out_modes[:-1], default=1) == 1


# --- few bits ----------------------------------------------------------------------------------------------------------------------


class PackedMatrix(nn.Module):
    """A matrix [rows, columns] in codes of `bits` bits (2, 3, 4 or 8), with a scale for 64 columns and one codebook; not trainable."""

    def __init__(self, rows: int, columns: int, bits: int, *, ordered: bool, device: Any = None) -> None:
        super().__init__()
        self.rows, self.columns, self.bits = rows, columns, bits
        for name, (dtype, shape) in packed_tensors(rows, columns, bits, ordered=ordered).items():
            self.register_buffer(name, torch.zeros(shape, dtype=dtype, device=device))

    def extra_repr(self) -> str:
        return f"rows={self.rows}, columns={self.columns}, bits={self.bits}"

    def in_order(self, x: Tensor) -> Tensor:
        """[…, columns] in the order in which the columns are stored."""
        order = self._buffers.get("order")
        return x if order is None else x.index_select(-1, order.int())

    def unpack(self, rows: slice, dtype: torch.dtype) -> Tensor:
        """Some rows [rows, columns], the columns in stored order."""
        codes = unpack_codes(self.get_buffer("codes")[..., rows, :], self.bits)[:, : self.columns]
        scales = self.get_buffer("scales")[rows].view(torch.float16).float()
        levels = self.get_buffer("levels").view(torch.float16).float()
        numbers = levels[codes.int()]  # [rows, columns]
        whole = self.columns // PACKED_GROUP * PACKED_GROUP
        numbers[:, :whole].unflatten(1, (-1, PACKED_GROUP)).mul_(scales[:, : whole // PACKED_GROUP, None])
        if whole < self.columns:
            numbers[:, whole:].mul_(scales[:, -1:])
        return numbers.to(dtype)

    def pieces(self) -> list[slice]:
        rows = max(1, MAX_UNPACKED // self.columns)
        return [slice(start, min(start + rows, self.rows)) for start in range(0, self.rows, rows)]

    def dense(self) -> Tensor:
        """[rows, columns] float32, the columns in their own order."""
        stored = torch.cat([self.unpack(rows, torch.float32) for rows in self.pieces()])
        order = self._buffers.get("order")
        return stored if order is None else torch.empty_like(stored).index_copy_(1, order.long(), stored)


class PackedLinear(nn.Module):
    """A linear map [..., in_features] → [..., out_features] stored in few bits: a matrix, two thin ones, or both.

    `bits` 0: no matrix; `rank` 0: no thin ones; with `rank_bits` 16 these are plain linear maps, which can be trained. By `path` "keep" the
    matrix is unpacked once and kept, which is as fast as the original layer and as large in memory; else it is unpacked in each pass, no
    more than `MAX_UNPACKED` numbers at a time.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bits: int,
        ordered: bool = False,
        rank: int = 0,
        rank_bits: int = 0,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not bits and not rank:
            raise ValueError("a packed layer has a matrix, or two thin ones, or both; this one has none")
        self.in_features, self.out_features = in_features, out_features
        self.path: ForwardPath = "auto"
        if bits:
            self.matrix = PackedMatrix(out_features, in_features, bits, ordered=ordered, device=device)
        if rank and rank_bits == 16:
            thin: dict[str, Any] = {"bias": False, "device": device, "dtype": dtype}
            self.correction = nn.Sequential(nn.Linear(in_features, rank, **thin), nn.Linear(rank, out_features, **thin))
        elif rank:
            self.right = PackedMatrix(rank, in_features, rank_bits, ordered=False, device=device)
            self.left = PackedMatrix(rank, out_features, rank_bits, ordered=False, device=device)
        self.bias = nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype)) if bias else None
        self._kept: dict[str, Tensor] = {}

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor | None = None
        if "matrix" in self._modules:
            y = self._times(x, "matrix")
        if "right" in self._modules:
            thin = self._times(x, "right") @ torch.cat(
                [self._rows("left", _product_dtype(x), rows) for rows in self._part("left").pieces()]
            )
            y = thin if y is None else y + thin
        if "correction" in self._modules:
            thin = self.correction(x)
            y = thin if y is None else y + thin
        assert y is not None
        return y if self.bias is None else y + self.bias

    def _part(self, name: str) -> PackedMatrix:
        part: Any = self._modules[name]
        return part

    def _times(self, x: Tensor, name: str) -> Tensor:
        """x times the transposed part, [..., rows]."""
        part = self._part(name)
        x = part.in_order(x)
        parts = [F.linear(x, self._rows(name, _product_dtype(x), rows)) for rows in part.pieces()]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def _rows(self, name: str, dtype: torch.dtype, rows: slice) -> Tensor:
        part = self._part(name)
        if self.path != "keep":
            return part.unpack(rows, dtype)
        kept = self._kept.get(name)
        if kept is None or kept.dtype != dtype:
            with torch.inference_mode(False), torch.no_grad():
                kept = self._kept[name] = torch.cat([part.unpack(piece, dtype) for piece in part.pieces()])
        return kept[rows]

    def dense(self) -> Tensor:
        """The weight [out_features, in_features] that this layer stands for, float32."""
        found = self.matrix.dense() if "matrix" in self._modules else None
        thin = self.left.dense().mT @ self.right.dense() if "right" in self._modules else None
        if "correction" in self._modules:
            first, second = (_tensor(linear.weight).float() for linear in self.correction)
            thin = second @ first
        return _tensor(thin if found is None else found if thin is None else found + thin)

    def forget(self) -> None:
        """Drops what is kept unpacked. Done by itself when the layer moves."""
        self._kept = {}

    def _apply(self, fn: Any, recurse: bool = True) -> "PackedLinear":
        self.forget()
        return super()._apply(fn, recurse)


def _product_dtype(x: Tensor) -> torch.dtype:
    """In which a product with x is taken: within an autocast that of the context."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def packed_tensors(rows: int, columns: int, bits: int, *, ordered: bool) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """The tensors of a packed matrix: dtype and shape by what follows its name."""
    codes = (rows, columns) if bits == 8 else (bits, rows, -(-columns // 8))
    found: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
        "codes": (torch.uint8, codes),
        "scales": (torch.int16, (rows, -(-columns // PACKED_GROUP))),
        "levels": (torch.int16, (2**bits,)),
    }
    if ordered:
        found["order"] = (torch.int16 if columns <= 2**15 else torch.int32, (columns,))
    return found


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """[rows, columns] uint8 below 2^bits → the tensor `codes` of a packed matrix."""
    if bits == 8:
        return codes.contiguous()
    columns = F.pad(codes, (0, -codes.shape[1] % 8)).unflatten(1, (-1, 8))  # [rows, bytes, 8]
    places = torch.arange(8, device=codes.device, dtype=torch.uint8)
    return torch.stack([(((columns >> plane) & 1) << places).sum(2, dtype=torch.uint8) for plane in range(bits)])


def unpack_codes(packed: Tensor, bits: int) -> Tensor:
    """[bits, rows, bytes] uint8 → [rows, 8·bytes] uint8."""
    if bits == 8:
        return packed
    spread = _spread(packed.device)
    words = spread[packed[0].int()]  # [rows, bytes] int64: bit j of the byte is the lowest of byte j
    for plane in range(1, bits):
        words = words | (spread[packed[plane].int()] << plane)
    return words.view(torch.uint8)


@functools.cache
def _spread(device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        bits = (torch.arange(256)[:, None] >> torch.arange(8)) & 1
        return (bits << (8 * torch.arange(8))).sum(1).to(device)  # [256] int64


# --- the transformers classes ------------------------------------------------------------------------------------------------------


class MPOConfig(PretrainedConfig):
    """The base model's config with its own `model_type` and the section `mpo`.

    Read from a file it is an instance of the base's config class too. The class says `bondwise_mpo`, which is what files get; the
    instance says the base's model type, which is what the library looks up tensor names, tokenizers and kernels by.
    """

    model_type = MODEL_TYPE
    _auto_class = "AutoConfig"
    base_code: ClassVar[tuple[Any, ...]] = ()
    """The base's own classes, config and model, where transformers does not have them."""

    mpo: dict[str, Any] | None = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        if cls is not MPOConfig:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        trusted = kwargs.pop("trust_remote_code", None)
        fields, unused = cls.get_config_dict(pretrained_model_name_or_path, **kwargs)
        concrete = _config_class(fields.get("mpo"), pretrained_model_name_or_path, trusted, kwargs)
        return concrete.from_dict(fields, **{**unused, "name_or_path": pretrained_model_name_or_path})

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        if cls is MPOConfig:
            trusted = kwargs.pop("trust_remote_code", None)
            concrete = _config_class(config_dict.get("mpo"), kwargs.get("name_or_path"), trusted, {})
            return concrete.from_dict(config_dict, **kwargs)
        config: Any = super().from_dict(config_dict, **kwargs)
        (config[0] if isinstance(config, tuple) else config).model_type = config_dict["mpo"]["base_model_type"]
        return config

    def to_dict(self) -> dict[str, Any]:
        own = {"model_type": MODEL_TYPE, "architectures": list(ARCHITECTURES), "auto_map": auto_map_beside(getattr(self, "auto_map", None))}
        return {**super().to_dict(), **own}

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        for base in self.base_code:
            custom_object_save(base, save_directory)  # its file and all that this imports from beside it
        super().save_pretrained(save_directory, *args, **kwargs)


def auto_map_beside(base: dict[str, Any] | None) -> dict[str, Any]:
    """The `auto_map` of a compressed model. Of its base's it keeps tokenizers and the like, but no other way to make a model of the
    folder: that would leave out the cores, and be random where they belong."""
    kept = {kind: reference for kind, reference in (base or {}).items() if kind not in AUTO_MAP and not kind.startswith("AutoModel")}
    return {**AUTO_MAP, **kept}


def _config_class(section: Any, folder: Any, trusted: bool | None, options: dict[str, Any]) -> type[MPOConfig]:
    """The config class for this section `mpo` of a folder (or repository); `options` say how that is reached."""
    if not isinstance(section, dict) or "base_model_type" not in section:
        raise ValueError("config.json has no section mpo that names a base model")
    if section.get("version") != VERSION:
        raise ValueError(f"config.json has mpo version {section.get('version')!r}; this modeling_mpo.py reads version {VERSION}")
    references = section.get("base_auto_map")
    if references is None:
        base_model_type = section["base_model_type"]
        if base_model_type not in CONFIG_MAPPING:
            raise ValueError(f"transformers {transformers.__version__} does not know the base model type {base_model_type!r}")
        return _config_class_of(CONFIG_MAPPING[base_model_type])
    # Where transformers loaded this file from the folder, the user has trusted the folder's code.
    if not trusted and not __name__.startswith(f"{TRANSFORMERS_DYNAMIC_MODULE_NAME}."):
        raise ValueError(f"the base model of {folder} is made by Python files in that folder; trust_remote_code=True allows them")
    config, model = (_class_in_folder(references, kind, folder, options) for kind in AUTO_MAP)
    return _config_class_of(config, model)


def _class_in_folder(references: Any, kind: str, folder: Any, options: dict[str, Any]) -> Any:
    """A class of the base, from a Python file of the folder that config.json came from and of no other."""
    reference = references.get(kind) if isinstance(references, dict) else None
    if not isinstance(reference, str) or not re.fullmatch(r"\w+(-\w+)*\.\w+", reference):
        raise ValueError(f"config.json has {kind} = {reference!r} in mpo.base_auto_map, and not a MODULE.CLASS of its own folder")
    if not folder:
        raise ValueError(f"{reference} is in the folder of config.json, which is not known here: use from_pretrained, or give name_or_path")
    return get_class_from_dynamic_module(reference, folder, **{key: options[key] for key in HUB_OPTIONS if key in options})


@functools.cache
def _config_class_of(base: Any, model: Any = None) -> type[MPOConfig]:
    # The base comes first: its defaults and its reading of the file are the ones that count.
    overrides = {"__module__": __name__, "model_type": MODEL_TYPE, "from_dict": MPOConfig.__dict__["from_dict"]}
    if model is not None:
        # Many have an __init__ of their own, which the library would cover with a generated one.
        overrides |= {"base_code": (base, add_generation_mixin_to_remote_model(model)), "__init__": base.__init__}
    return type("MPOConfig", (base, MPOConfig), overrides)


class MPOForCausalLM(PreTrainedModel):
    """Any decoder-only model with some linear layers as `MPOLinear`.

    Building or loading it gives an instance of the base architecture's class too, such as LlamaForCausalLM.
    """

    config_class = MPOConfig
    _auto_class = "AutoModelForCausalLM"

    def __new__(cls, config: Any, *args: Any, **kwargs: Any) -> "MPOForCausalLM":
        concrete: Any = _model_class(config) if cls is MPOForCausalLM else cls
        return super().__new__(concrete)

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        for name, layer in config.mpo["layers"].items():
            _replace(self, name, layer, MPOLinear)
        for name, layer in config.mpo.get("packed", {}).items():
            _replace(self, name, layer, PackedLinear)
        # The base's plan shards the layers by their dense weights; without one, tensor parallelism is refused with a reason.
        self._tp_plan = {}

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, config: Any = None, **kwargs: Any) -> Any:
        if cls is not MPOForCausalLM:
            return super().from_pretrained(pretrained_model_name_or_path, *args, config=config, **kwargs)
        kwargs["use_safetensors"] = True  # never a pickle
        if not isinstance(config, MPOConfig):
            options = {key: kwargs[key] for key in (*HUB_OPTIONS, "trust_remote_code") if key in kwargs}
            config = MPOConfig.from_pretrained(pretrained_model_name_or_path if config is None else config, **options)
        return _model_class(config).from_pretrained(pretrained_model_name_or_path, *args, config=config, **kwargs)

    @classmethod
    def _from_config(cls, config: Any, **kwargs: Any) -> Any:
        if cls is not MPOForCausalLM:
            return super()._from_config(config, **kwargs)
        return _model_class(config)._from_config(config, **kwargs)

    @classmethod
    def is_custom_code(cls) -> bool:
        """Only where the base is: else the modules are the library's own, and so are the names its files use for them."""
        config_class: Any = cls.config_class
        return bool(config_class.base_code)

    def set_forward_path(self, path: ForwardPath) -> None:
        """Chooses how every MPO and every packed layer is applied; see `ForwardPath`."""
        for module in self.modules():
            if isinstance(module, (MPOLinear, PackedLinear)):
                module.path = path
                module.forget()


def _model_class(config: Any) -> type[MPOForCausalLM]:
    return _model_class_of(type(config), config.mpo["base_architecture"])


@functools.cache
def _model_class_of(config_class: type[MPOConfig], architecture: str) -> type[MPOForCausalLM]:
    base = config_class.base_code[1] if config_class.base_code else getattr(transformers, architecture, None)
    if not (isinstance(base, type) and issubclass(base, PreTrainedModel)):
        raise ValueError(f"transformers {transformers.__version__} has no model class {architecture!r}")
    # It keeps the base's name, by which the library finds losses and tensor names.
    return type(base.__name__, (MPOForCausalLM, base), {"__module__": __name__, "config_class": config_class})


_MPO_FIELDS = ("in_features", "out_features", "out_modes", "in_modes", "bond_dims", "bias")
_PACKED_FIELDS = ("in_features", "out_features", "bits", "ordered", "rank", "rank_bits", "bias")


def _replace(model: Any, name: str, layer: dict[str, Any], kind: type[MPOLinear] | type[PackedLinear]) -> None:
    path = _module_path(model, name)
    old = model.get_submodule(path)
    if isinstance(old, Conv1D):
        shape = (old.weight.shape[1], old.weight.shape[0])
    elif isinstance(old, nn.Linear):
        shape = (old.out_features, old.in_features)
    else:
        raise ValueError(f"layer {name} is a {type(old).__name__}, not a linear layer, in {type(model).__name__}")
    if shape != (layer["out_features"], layer["in_features"]):
        raise ValueError(f"layer {name} is {shape[0]}×{shape[1]}, and the section mpo says {layer['out_features']}×{layer['in_features']}")
    if f"{path}.weight" in (getattr(model, "all_tied_weights_keys", None) or {}):
        raise ValueError(f"layer {name} shares its weight with another, so it cannot be stored otherwise")
    weight = old.weight
    fields = {key: layer[key] for key in (_MPO_FIELDS if kind is MPOLinear else _PACKED_FIELDS)}
    new = kind(**fields, device=weight.device, dtype=weight.dtype)
    parent_path, _, attribute = path.rpartition(".")
    parent = model.get_submodule(parent_path)
    setattr(parent, attribute, new)
    if not any(True for _ in (*parent.parameters(recurse=False), *parent.buffers(recurse=False))):
        # After loading, the library initialises what is still unset, and some parents (GPT-2's) would scale their layer's `weight` then.
        parent._is_hf_initialized = True


def _module_path(model: Any, name: str) -> str:
    """Where the layer that the files call `name` is in the model: files may leave out the base model's prefix, or use older names."""
    prefix = f"{model.base_model_prefix}."
    for renamed in (name, _renamed(model, name)):
        for path in (renamed, prefix + renamed, renamed.removeprefix(prefix)):
            try:
                model.get_submodule(path)
            except AttributeError:
                continue
            return path
    raise ValueError(f"{type(model).__name__} has no layer {name}")


def _renamed(model: Any, name: str) -> str:
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightRenaming
    except ImportError:  # before transformers 5 files and modules had the same names
        return name
    key = f"{name}.weight"
    for transform in get_model_conversion_mapping(model):
        if isinstance(transform, WeightRenaming):
            key, _ = transform.rename_source_key(key)
    return key.removesuffix(".weight")
