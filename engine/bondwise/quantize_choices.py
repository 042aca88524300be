"""The rules of a quantize request → one target a weight, every scheme and size checked before any work."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from bondwise.checkpoint import BITS
from bondwise.errors import UserError
from bondwise.modelmap import Layer, matches
from bondwise.stored_bits import BITSANDBYTES, stored_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bondwise.checkpoint import Checkpoint
    from bondwise.modelmap import ModelMap
    from bondwise.schema import QuantizeRule, Scheme

Backend = Literal["bitsandbytes", "packed"]
_FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class Target:
    """A weight that is to be stored in fewer bits: of a dense layer, of a core, or of the head."""

    layer: Layer
    """Of a core: one whose name is the core's and whose only tensor is its weight."""
    scheme: Scheme
    rank: int
    rank_bits: int
    in_packed: bool = False

    @property
    def name(self) -> str:
        return self.layer.name

    @property
    def weight(self) -> str:
        """The tensor's name in the file."""
        return self.layer.tensors[0]

    @property
    def calibrated(self) -> bool:
        return self.scheme.startswith(("compensated", "low-rank"))

    @property
    def original_bytes(self) -> int:
        return self.layer.weight_parameters * BITS[self.layer.dtype] // 8

    @property
    def bytes(self) -> int:
        """Of the tensors in the place of the weight."""
        return stored_bytes(
            self.layer.shape,
            self.scheme,
            dtype=self.layer.dtype,
            item_bits=BITS[self.layer.dtype],
            backend="packed" if self.in_packed else "bitsandbytes",
            rank=self.rank,
            rank_bits=self.rank_bits,
        )


def resolve_targets(checkpoint: Checkpoint, model: ModelMap, rules: Sequence[QuantizeRule]) -> tuple[list[Target], Backend]:
    """One target for every weight that a rule matches, in the order of the model; a weight belongs to the first rule that matches it.

    The backend is bitsandbytes where one of its schemes is the only one (`float16` beside it counts as none) and every weight has a size
    that it computes with on every device, and the folder's own code otherwise: bitsandbytes knows one scheme a model. Raises UserError for
    a folder that is quantized, a pattern that matches nothing, a rule whose weights all belong to earlier ones, a weight that is no matrix
    of floats, a tied head, and a rank above that of the weight.
    """
    refuse_quantized(checkpoint, model)
    weights = weights_of(checkpoint, model)
    head = _head(checkpoint, model)
    chosen: dict[str, Target] = {}
    for number, rule in enumerate(rules, start=1):
        matched = _matched(weights, head, rule, checkpoint)
        mine = [layer for layer in matched if layer.name not in chosen]
        if not mine:
            raise UserError(
                f"Rule {number} ({', '.join(rule.layers)}) has no layer left: all {len(matched)} belong to earlier rules.",
                "Remove the rule, or put the more special rule first.",
            )
        chosen |= {layer.name: _target(layer, rule) for layer in mine}
    kinds = {target.scheme for target in chosen.values()} - {"float16"}
    if not kinds:
        raise UserError("No layer gets fewer bits than 16.", "Choose another scheme, such as nf4, for some of them.")
    packed = len(kinds) > 1 or not kinds <= BITSANDBYTES or any(_unfit(target) for target in chosen.values())
    targets = [chosen[layer.name] for layer in (*weights, *head) if layer.name in chosen]
    return [replace(target, in_packed=packed) for target in targets], "packed" if packed else "bitsandbytes"


def refuse_quantized(checkpoint: Checkpoint, model: ModelMap) -> None:
    """Raises UserError for a folder that is quantized."""
    if "quantization_config" in checkpoint.config or any(layer.scheme is not None for layer in model.layers):
        scheme = next((layer.scheme for layer in model.layers if layer.scheme is not None), "its config.json says so")
        raise UserError(f"{checkpoint.folder} is quantized already ({scheme}).", "Start from the model before its quantization.")


def matched_weights(weights: Sequence[Layer], patterns: Sequence[str], exclude: Sequence[str]) -> list[Layer]:
    """The weights that match one of `patterns` and none of `exclude`; the name of a layer that is an MPO stands for its cores.

    Raises UserError for a pattern that matches nothing, and where none is left."""
    wanted: set[str] = set()
    for pattern in patterns:
        cores = [layer.name for layer in weights if layer.name.startswith(f"{pattern}.cores.")]
        wanted |= set(cores or matches(weights, pattern))
    unwanted = {name for pattern in exclude for name in matches(weights, pattern)}
    chosen = [layer for layer in weights if layer.name in wanted and layer.name not in unwanted]
    if not chosen:
        raise UserError(
            f"No layer is left: all {len(wanted)} that match {', '.join(map(repr, patterns))} are excluded.", "Exclude fewer layers."
        )
    return chosen


def _unfit(target: Target) -> bool:
    """On CPUs with AVX512-BF16 bitsandbytes 0.50 multiplies by 4-bit weights in blocks of 32 outputs and 64 inputs and fails on others,
    such as most cores."""
    return target.scheme in ("nf4", "nf4-double") and (target.layer.shape[0] % 32 > 0 or target.layer.shape[1] % 64 > 0)


def weights_of(checkpoint: Checkpoint, model: ModelMap) -> list[Layer]:
    """The weights of the blocks: of dense layers, and of each core."""
    found: list[Layer] = []
    for layer in model.layers:
        if layer.state != "mpo":
            found.append(layer)
            continue
        for name in (name for name in layer.tensors if ".cores." in name):
            entry = checkpoint.tensors[name]
            path = name.removesuffix(".weight")
            found.append(
                Layer(
                    path,
                    layer.block,
                    layer.group,
                    entry.shape,
                    entry.dtype,
                    entry.parameters,
                    entry.bytes,
                    "dense",
                    (name,),
                    transposed=False,
                )
            )
    return found


def _head(checkpoint: Checkpoint, model: ModelMap) -> list[Layer]:
    """The head, where it has a weight of its own: taken by its exact name only, never by a glob."""
    tensors = [entry for entry in model.other if entry.name == "lm_head.weight" or entry.name.endswith(".lm_head.weight")]
    return [
        Layer(
            entry.name.removesuffix(".weight"), -1, "other", entry.shape, entry.dtype, entry.parameters, entry.bytes, "dense", (entry.name,)
        )
        for entry in tensors
        if not checkpoint.config.get("tie_word_embeddings", False)
    ]


def _matched(weights: Sequence[Layer], head: Sequence[Layer], rule: QuantizeRule, checkpoint: Checkpoint) -> list[Layer]:
    if "lm_head" in rule.layers and not head:
        raise UserError(
            f"The head of {checkpoint.folder.name} is its embedding (tied weights), which stays as it is.", "Leave lm_head out of --layers."
        )
    names = {layer.name for layer in head}
    taken = [layer for layer in head if layer.name in rule.layers and layer.name not in rule.exclude]
    patterns = [pattern for pattern in rule.layers if pattern not in names]
    exclude = [pattern for pattern in rule.exclude if pattern not in names]
    return [*(matched_weights(weights, patterns, exclude) if patterns else []), *taken]


def _target(layer: Layer, rule: QuantizeRule) -> Target:
    if len(layer.shape) != 2:
        raise UserError(
            f"{layer.name} has the shape {list(layer.shape)}; only a matrix, with two axes, is quantized.", "Leave it out with --exclude."
        )
    if layer.dtype not in _FLOATS:
        raise UserError(f"{layer.name} is stored as {layer.dtype}.", "Use a checkpoint in float32, float16 or bfloat16.")
    rank, least = rule.rank or 0, min(layer.shape)
    if rank >= least:
        raise UserError(f"{layer.name} is {layer.shape[0]}×{layer.shape[1]}: a rank of {rank} saves nothing.", f"Choose one below {least}.")
    if rule.scheme.startswith("low-rank") and ".cores." in layer.name:
        raise UserError(f"{layer.name} is a core of an MPO already.", "Choose another scheme for it, or leave it out (--exclude).")
    corrected = rank > 0 and rule.scheme.startswith("compensated")
    return Target(layer, rule.scheme, rank, rule.rank_bits if corrected else 0)
