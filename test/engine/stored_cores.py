"""What a compressed checkpoint stands for, by the formula of ARCHITECTURE.md in numpy and nothing of ours."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
from safetensors.torch import load_file

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from numpy.typing import NDArray


def contracted(folder: Path) -> tuple[dict[str, NDArray[np.float64]], dict[str, torch.Tensor]]:
    """Layer name → the weight [out, in] of its cores, float64; and the tensors that belong to no cores."""
    tensors = {name: tensor for shard in folder.glob("*.safetensors") for name, tensor in load_file(shard).items()}
    weights: dict[str, NDArray[np.float64]] = {}
    for name, layer in json.loads((folder / "config.json").read_text())["mpo"]["layers"].items():
        bonds = [1, *layer["bond_dims"], 1]
        state = np.ones((1, 1, 1))  # [o_1 … o_k, i_1 … i_k, r_k]
        for k, (o, i) in enumerate(zip(layer["out_modes"], layer["in_modes"], strict=True)):
            stored = tensors.pop(f"{name}.cores.{k}.weight").double().numpy()
            if k == 0:
                core = stored.reshape(o, bonds[1], i).transpose(0, 2, 1)[None]  # [r_{k-1}, o, i, r_k]
            else:
                order = tensors.pop(f"{name}.order_{k}").numpy()
                assert stored.shape == (o * i * bonds[k + 1] - bonds[k], bonds[k])
                core = np.concatenate([np.eye(bonds[k]), stored.T], 1)[:, order].reshape(bonds[k], o, i, bonds[k + 1])
            state = np.einsum("OIr,rois->OoIis", state, core)
            state = state.reshape(state.shape[0] * o, state.shape[2] * i, bonds[k + 1])
        assert f"{name}.weight" not in tensors
        weights[name] = state[: layer["out_features"], : layer["in_features"], 0]
    return weights, tensors
