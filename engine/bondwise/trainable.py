"""What trains when a compressed model is healed: its cores, and what the user names besides; everything else is frozen."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from bondwise import modeling_mpo
from bondwise.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from torch import nn
    from transformers import PreTrainedModel

    from bondwise.checkpoint import Checkpoint

NORMS = "norms"
"""The pattern for all normalisation layers."""
HARDLY = 0.01
"""Share of a model's parameters below which training them changes little."""


def choose_trainable(
    model: PreTrainedModel, source: Checkpoint, patterns: Sequence[str], corrections: Collection[str] = ()
) -> dict[str, nn.Parameter]:
    """The parameters that train, by the names of their tensors in the folder, in the order of the names; all others of `model` are frozen.

    These are the cores, `corrections` of layers in packed bits, and what matches `patterns`.

    A pattern is `norms`, a layer's name, a glob (`*` crosses dots) or `re:` and a regular expression for the whole name. Raises UserError
    where nothing trains, a pattern matches nothing, or what it matches is not in the model as it is in the files (fused experts).
    """
    model.requires_grad_(requires_grad=False)
    inside = [name for layer in _tensorized(source) for name in source.tensors if name.startswith(f"{layer}.cores.")]
    cores = {name for name in inside if name.endswith(".weight") or not _is_packed(source, name)}
    others = {name for pattern in patterns for name in _matching(model, source, pattern)}
    found: dict[str, nn.Parameter] = {}
    for name in sorted({*cores, *corrections} | others):
        parameter = _parameter(model, name)
        if parameter is None:
            raise UserError(
                f"{name} cannot be trained: the model does not have it as the files of {source.folder} do.", "Leave it out of --train."
            )
        if not parameter.is_floating_point():
            raise UserError(f"{name} cannot be trained: it is quantized ({parameter.dtype}).", "Leave it out of --train.")
        parameter.requires_grad_()
        found[name] = parameter
    if not found:
        raise UserError(
            f"{source.folder} has nothing to train: none of its layers is tensorized, or stored in packed bits.",
            "Compress layers first (tensorize, quantize), or name what else to train (--train norms, or layers).",
        )
    return found


def find_parameters(model: PreTrainedModel, names: Sequence[str]) -> dict[str, nn.Parameter]:
    """The parameters that `choose_trainable` named, as they are in the model now. Raises KeyError where one is not there."""
    found = {name: _parameter(model, name) for name in names}
    if missing := [name for name, parameter in found.items() if parameter is None]:
        raise KeyError(missing[0])
    return {name: parameter for name, parameter in found.items() if parameter is not None}


def hardly_any(trained: int, parameters: int) -> str | None:
    """A sentence for a model of which hardly anything trains; counts of parameters."""
    if trained >= HARDLY * parameters:
        return None
    return (
        f"Only {trained:,} of {parameters:,} parameters train ({trained / parameters:.2%}): healing can change little. "
        "--train norms, or layers by name, adds more."
    )


def _is_packed(source: Checkpoint, name: str) -> bool:
    """Whether the tensor belongs to a core that is stored in few bits."""
    return any(name.startswith(f"{core}.") for core in source.config["mpo"].get("packed", {}))


def _tensorized(source: Checkpoint) -> list[str]:
    return list(source.config.get("mpo", {}).get("layers", {}))


def _matching(model: PreTrainedModel, source: Checkpoint, pattern: str) -> list[str]:
    """Names of tensors of layers that are not tensorized."""
    inside = tuple(f"{layer}." for layer in _tensorized(source))
    names = [name for name in source.tensors if not name.startswith(inside)]
    if pattern == NORMS:
        matched = [name for name in names if _is_norm(model, name)]
    elif pattern.startswith("re:"):
        try:
            expression = re.compile(pattern.removeprefix("re:"))
        except re.error as failure:
            raise UserError(f"{pattern!r} is not a regular expression: {failure}.", "Mend it, or use a glob.") from None
        matched = [name for name in names if expression.fullmatch(_layer(name))]
    else:
        matched = [name for name in names if fnmatchcase(_layer(name), pattern)]
    if not matched:
        raise UserError(f"{pattern!r} matches no layer of {source.folder} that is not trained anyway.", "Run inspect to see the names.")
    return matched


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _is_norm(model: PreTrainedModel, name: str) -> bool:
    module = _module(model, _layer(name))
    return module is not None and "norm" in type(module).__name__.lower()


def _parameter(model: PreTrainedModel, name: str) -> nn.Parameter | None:
    module = _module(model, _layer(name))
    return None if module is None else module._parameters.get(name.rpartition(".")[2])


def _module(model: PreTrainedModel, name: str) -> nn.Module | None:
    try:
        return model.get_submodule(modeling_mpo._module_path(model, name))
    except ValueError:
        return None
