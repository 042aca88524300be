"""The gauge that low-rank layers train in: two whole, balanced factors instead of one and what the other adds to the unit matrix.

W = B A has the freedom B M⁻¹ · M A. What is stored has B = [1 C] with its rows in some order (`gauge.py`): as few numbers as there can be,
but a step on A is made larger by C, by its norm in some directions. Here W = U Σ Vᵀ, B = U √Σ and A = √Σ Vᵀ, so that a step on either
changes W alike. Measured on SmolLM2-135M at half of set P, AdamW, rate 5e-4: one step in the stored gauge raised the loss of the next from
3.0 to 4.5 nats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from bondwise.modeling_mpo import MPOLinear, _module_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor
    from transformers import PreTrainedModel

FIRST, SECOND = ".cores.0.weight", ".cores.1.weight"


@torch.no_grad()
def free_gauge(model: PreTrainedModel, names: Iterable[str]) -> list[str]:
    """Brings the low-rank layers both of whose cores are among `names` into that gauge, in float32; the names of those layers.

    Their second core is then [out, χ] instead of [out − χ, χ].
    """
    layers = low_rank_layers(model, set(names))
    for layer in layers:
        module = _layer(model, layer)
        first, second = module.cores[0].get_parameter("weight").float(), module._rows(1).float()  # [χ, in], [out, χ]
        basis, upper = torch.linalg.qr(second)  # [out, χ], [χ, χ]
        left, values, right = torch.linalg.svd(upper @ first, full_matrices=False)
        roots = values.sqrt()
        whole = nn.Linear(second.shape[1], second.shape[0], bias=False, device="meta")
        whole.weight = nn.Parameter((basis @ (left * roots)).contiguous())
        module.cores[1] = whole
        module.cores[0].register_parameter("weight", nn.Parameter((roots[:, None] * right).contiguous()))
    return layers


def low_rank_layers(model: PreTrainedModel, names: set[str]) -> list[str]:
    """Those of two cores that follow each other as matrices, both among `names`."""
    found = [name.removesuffix(FIRST) for name in names if name.endswith(FIRST) and name.removesuffix(FIRST) + SECOND in names]
    return sorted(name for name in found if len(_layer(model, name).cores) == 2 and _layer(model, name)._chain_is_plain)


@torch.no_grad()
def fix_gauge_again(trained: Mapping[str, Tensor], layers: Iterable[str], orders: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What was trained as it is stored: of `layers` the rows of B that were the unit matrix, by their `orders`, are it again.

    Computed in float64; the product is the same. Training a while leaves those rows as independent as they were chosen to be.
    """
    stored = dict(trained)
    for layer in layers:
        first, whole = stored[layer + FIRST].double(), stored[layer + SECOND].double()  # [χ, in], [out, χ]
        rows = torch.empty_like(whole)
        rows[orders[layer].long()] = whole  # row j of B is row order[j] of [1 C]
        chosen = rows[: whole.shape[1]]  # [χ, χ]
        stored[layer + FIRST] = (chosen @ first).to(trained[layer + FIRST].dtype)
        rest = torch.linalg.solve(chosen, rows[whole.shape[1] :], left=False)
        stored[layer + SECOND] = rest.to(trained[layer + SECOND].dtype)
    return stored


def _layer(model: PreTrainedModel, name: str) -> MPOLinear:
    module = model.get_submodule(_module_path(model, name))
    assert isinstance(module, MPOLinear)
    return module
