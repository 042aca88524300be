"""The rules of a tensorize request → one choice a layer, every shape and size checked before any work."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bondwise import mpo
from bondwise.checkpoint import BITS
from bondwise.errors import UserError
from bondwise.layers import Costs, costs, mpo_config
from bondwise.modelmap import select
from bondwise.schema import MPOLayer
from bondwise.trust import needs_code

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bondwise.checkpoint import Checkpoint
    from bondwise.modelmap import Layer
    from bondwise.schema import Method, TensorizeRule


@dataclass(frozen=True)
class Choice:
    """What a layer becomes. With `error` the bond dimensions are known only after the work; `bond_dims` are then the largest possible."""

    layer: Layer
    out_modes: tuple[int, ...]
    in_modes: tuple[int, ...]
    bond_dims: tuple[int, ...]
    error: float | None
    method: Method = "plain"

    @property
    def costs(self) -> Costs:
        return costs(self.out_modes, self.in_modes, self.bond_dims)

    @property
    def dense_parameters(self) -> int:
        """Of the weight alone, without the bias."""
        return self.layer.weight_parameters

    @property
    def parameters(self) -> int:
        """Of the cores; with `error` the dense layer's, which is what the user hopes to stay below."""
        return self.dense_parameters if self.error is not None else self.costs.parameters

    @property
    def bytes(self) -> int:
        """Of the cores as they are stored, with what says which of their columns are."""
        orders = 4 * mpo.order_count(self.out_modes, self.in_modes, self.bond_dims)
        return self.parameters * BITS[self.layer.dtype] // 8 + orders

    def section(self, bond_dims: Sequence[int]) -> MPOLayer:
        """The layer's entry in config.json."""
        out_features, in_features = self.layer.shape
        return MPOLayer(
            out_modes=list(self.out_modes),
            in_modes=list(self.in_modes),
            bond_dims=list(bond_dims),
            out_features=out_features,
            in_features=in_features,
            bias=len(self.layer.tensors) > 1,
        )


def resolve(layers: Sequence[Layer], rules: Sequence[TensorizeRule]) -> list[Choice]:
    """One choice for every layer that a rule matches, in the order of `layers`; a layer belongs to the first rule that matches it.

    Raises UserError for a pattern that matches nothing, a rule whose layers all belong to earlier rules, a layer that cannot become an
    MPO, modes that do not cover a weight, and a *keep* that not even χ = 1 fulfils.
    """
    chosen: dict[str, Choice] = {}
    for number, rule in enumerate(rules, start=1):
        matched = select(layers, rule.layers, rule.exclude)
        mine = [layer for layer in matched if layer.name not in chosen]
        if not mine:
            raise UserError(
                f"Rule {number} ({', '.join(rule.layers)}) has no layer left: all {len(matched)} belong to earlier rules.",
                "Remove the rule, or put the more special rule first.",
            )
        chosen |= {layer.name: _choose(layer, rule) for layer in mine}
    return [chosen[layer.name] for layer in layers if layer.name in chosen]


def refits(layers: Sequence[Layer], patterns: Sequence[str], choices: Sequence[Choice]) -> list[Layer]:
    """The layers that stay dense and are fitted anew. Raises UserError as `select`, and where no choice is made in sequence."""
    if not patterns:
        return []
    if all(choice.method != "sequential" for choice in choices):
        raise UserError(
            "Layers are fitted anew only beside layers of method sequential.", "Choose --method sequential, or leave out --refit."
        )
    chosen = {choice.layer.name for choice in choices}
    return [layer for layer in select(layers, patterns) if layer.name not in chosen]


def not_smaller(choices: Sequence[Choice]) -> str | None:
    """A sentence about the choices that save nothing, if there are any."""
    names = [choice.layer.name for choice in choices if choice.parameters >= choice.dense_parameters and choice.error is None]
    return f"{_listed(names)} will not be smaller than dense: choose a smaller χ." if names else None


def slower(choices: Sequence[Choice]) -> str | None:
    """A sentence about the choices that need more multiply-adds than the dense layer, if there are any."""
    known = [choice for choice in choices if choice.error is None]
    slow = {choice.layer.name: choice.costs.multiply_adds / choice.dense_parameters for choice in known}
    names = [name for name, factor in slow.items() if factor > 1]
    if not names:
        return None
    most = max(slow.values())
    return f"{_listed(names)} will need up to {most:.1f} times the multiply-adds of dense; low-rank sites need fewer."


def check_model(checkpoint: Checkpoint, choices: Sequence[Choice], *, allow_code: bool = False) -> None:
    """Builds the compressed model without weights. Raises UserError, naming the layer, when that would not load in transformers."""
    import torch

    from bondwise.loading import use_private_module_cache
    from bondwise.modeling_mpo import MPOConfig, MPOForCausalLM

    if "quantization_config" in checkpoint.config:
        raise UserError(f"{checkpoint.folder} is quantized.", "Start from the model before its quantization.")
    try:
        config = mpo_config(checkpoint.config, {choice.layer.name: choice.section(choice.bond_dims) for choice in choices})
        if own := allow_code and needs_code(checkpoint.config):
            use_private_module_cache()
        with torch.device("meta"):
            MPOForCausalLM(MPOConfig.from_dict(copy.deepcopy(config), name_or_path=str(checkpoint.folder), trust_remote_code=own))
    except Exception as failure:
        # Whatever a config.json can make transformers say: it is the folder that has to change.
        what = str(failure) if isinstance(failure, ValueError) else f"{type(failure).__name__}: {failure}"
        raise UserError(
            f"The compressed model of {checkpoint.folder} could not be built by transformers: {what}",
            "Leave the layers that it names out (--exclude), or check config.json"
            + (" and the model's Python files." if needs_code(checkpoint.config) else "."),
        ) from failure


def _choose(layer: Layer, rule: TensorizeRule) -> Choice:
    out_features, in_features = layer.shape
    if rule.out_modes is not None and rule.in_modes is not None:
        out_modes, in_modes = tuple(rule.out_modes), tuple(rule.in_modes)
        if len(out_modes) < 2 or math.prod(out_modes) < out_features or math.prod(in_modes) < in_features:
            raise UserError(
                f"{layer.name} is {out_features}×{in_features}, which output modes {out_modes} and input modes {in_modes} do not cover.",
                "Give two sites or more, whose modes multiply to at least the sizes of the layer.",
            )
    else:
        out_modes, in_modes = mpo.layer_modes(out_features, in_features, rule.sites)
    try:
        if rule.keep is not None:
            bonds = mpo.bond_dims_for_keep(out_modes, in_modes, rule.keep, layer.weight_parameters)
        elif rule.chi is not None:
            bonds = mpo.bond_dims_for_chi(out_modes, in_modes, rule.chi)
        else:
            bonds = mpo.max_bond_dims(out_modes, in_modes)
    except ValueError as failure:
        raise UserError(f"{layer.name} ({out_features}×{in_features}): {failure}.", "Choose another size or other sites.") from None
    return Choice(layer, out_modes, in_modes, bonds, rule.error, rule.method)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
