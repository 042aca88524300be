"""The full update: its formula against least squares, the walk against transformers' own hidden states, and what it gains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from tiny_models import ARCHITECTURES, VOCABULARY, save_tiny_model

from bondwise import mpo, sequential
from bondwise.checkpoint import open_checkpoint
from bondwise.errors import UserError
from bondwise.loading import load_model
from bondwise.modelmap import map_model
from bondwise.replay import is_transposed, layer_module
from bondwise.sequential import updated_weight, walk_and_update
from bondwise.streaming import WholeModel
from bondwise.walk import Walk
from bondwise.weighted import decompose_weighted

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from bondwise.modelmap import Layer

IDS = torch.randint(0, VOCABULARY, (6, 24), generator=torch.Generator().manual_seed(3))


def nothing(*_: float) -> None: ...


QUIET: dict[str, Any] = {"progress": nothing, "check_cancelled": nothing}
WRITERS = {
    "llama": ["self_attn.o_proj", "mlp.down_proj"],
    "gpt2": ["attn.c_proj", "mlp.c_proj"],
    "opt": ["self_attn.out_proj", "fc2"],
    "gpt_neox": ["attention.dense", "mlp.dense_4h_to_h"],
    "phi3": ["self_attn.o_proj", "mlp.down_proj"],
    "gemma2": [],  # norms stand between what is written and the stream
}


def opened(name: str, folder: Path) -> tuple[Any, tuple[Layer, ...], str | None]:
    base = save_tiny_model(name, folder)
    found = map_model(open_checkpoint(base))
    return load_model(base), found.layers, found.container


def same(_layer: Layer, weight: Tensor, _own: Tensor) -> Tensor:
    return weight


def dense(model: Any, layer: Layer) -> Tensor:
    module = layer_module(model, layer)
    weight = module.get_parameter("weight").detach()
    return weight.mT.clone() if is_transposed(module) else weight.clone()


def test_the_target_solves_its_least_squares_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x0, x1 = torch.randn(50, 6, dtype=torch.float64), torch.randn(50, 6, dtype=torch.float64)
    weight, lacking = torch.randn(4, 6, dtype=torch.float64), torch.randn(50, 4, dtype=torch.float64)
    monkeypatch.setattr(sequential, "ALPHA", 0.7)
    monkeypatch.setattr(sequential, "BETA", 0.3)
    found = updated_weight(weight, x0.mT @ x1 / 50, x1.mT @ x1 / 50, lacking.mT @ x1 / 50)
    ridge = (sequential.RIDGE * float(x1.square().sum() / 50 / 6)) ** 0.5
    # Σ ‖W* x₁ − W (α x₀ + (1 − α) x₁) − β (h₀ − h₁)‖² / tokens + λ ‖W* − W‖²
    rows = torch.cat([x1 / 50**0.5, ridge * torch.eye(6, dtype=torch.float64)])
    wanted = torch.cat([((0.7 * x0 + 0.3 * x1) @ weight.mT + 0.3 * lacking) / 50**0.5, ridge * weight.mT])
    torch.testing.assert_close(found, torch.linalg.lstsq(rows, wanted).solution.mT)


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_steps_are_the_models_own_hidden_states(name: str, tmp_path: Path) -> None:
    model, _, container = opened(name, tmp_path / "base")
    walk = Walk(WholeModel(model, container), IDS)
    for sequence, start in zip(IDS, walk.start, strict=True):
        expected = model(sequence[None], output_hidden_states=True).hidden_states
        torch.testing.assert_close(start, expected[0])
        for block in range(len(walk.blocks) - 1):  # the last one's is told after the final norm
            torch.testing.assert_close(walk.step(block, expected[block]), expected[block + 1])


def test_a_model_that_passes_on_more_is_refused(tmp_path: Path) -> None:
    model, _, container = opened("llama", tmp_path / "base")
    rotary = model.model.rotary_emb
    forward = rotary.forward
    tokens: list[Tensor] = []

    def remember(_module: Any, given: tuple[Tensor, ...], _made: Tensor) -> None:
        tokens.append(given[0])

    def depending(*given: Any, **named: Any) -> tuple[Tensor, ...]:
        return tuple(part * (1 + tokens[-1][..., None] / 100) for part in forward(*given, **named))

    # As models with embeddings of a layer's own do: what a block is told besides depends on the tokens.
    model.model.embed_tokens.register_forward_hook(remember)
    rotary.forward = depending
    with pytest.raises(UserError, match="passes more than a hidden state"):
        Walk(WholeModel(model, container), IDS)


@pytest.mark.parametrize("name", list(WRITERS))
def test_the_writers_of_the_residual_stream_are_found(name: str, tmp_path: Path) -> None:
    model, layers, container = opened(name, tmp_path / "base")
    walk = Walk(WholeModel(model, container), IDS)
    block = sequential._Block(walk, 0, [layer for layer in layers if layer.block == 0], lambda: None)
    with torch.no_grad():
        block._learn(walk.start[0])
    assert [layer.name.split(".0.", 1)[1] for layer in block._writers] == WRITERS[name]


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_without_a_loss_nothing_changes(name: str, tmp_path: Path) -> None:
    model, layers, container = opened(name, tmp_path / "base")
    before = {layer.name: dense(model, layer) for layer in layers}
    called: list[str] = []

    def make(layer: Layer, wanted: Tensor, _own: Tensor) -> Tensor:
        called.append(layer.name)
        torch.testing.assert_close(wanted.float(), before[layer.name], rtol=1e-3, atol=1e-4)
        return wanted

    walk_and_update(Walk(WholeModel(model, container), IDS), layers, {layer.name for layer in layers}, make, **QUIET)
    assert sorted(called) == sorted(before)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt_neox", "gpt2"])
def test_later_layers_make_up_for_earlier_ones(name: str, tmp_path: Path) -> None:
    """On the calibration text what leaves the last block is nearer to the original than when each layer is compressed by itself."""
    model, layers, container = opened(name, tmp_path / "base")
    walk = Walk(WholeModel(model, container), IDS)
    wanted = {layer.name for layer in layers}

    @torch.no_grad()
    def leaving() -> Tensor:
        states = list(walk.start)
        for block in range(len(walk.blocks)):
            states = [walk.step(block, state) for state in states]
        return torch.cat(states)

    def truncated(weight: Tensor, own: Tensor) -> Tensor:
        return mpo.contract(decompose_weighted(weight, own, None, chi=10).cores)

    original = leaving()
    dense_weights = {layer.name: dense(model, layer) for layer in layers}
    moments: dict[str, Tensor] = {}

    def keep(layer: Layer, weight: Tensor, own: Tensor) -> Tensor:
        moments[layer.name] = own
        return weight

    walk_and_update(walk, layers, wanted, keep, **QUIET)
    for layer in layers:
        module = layer_module(model, layer)
        made = truncated(dense_weights[layer.name], moments[layer.name])
        module.get_parameter("weight").detach().copy_(made.mT if is_transposed(module) else made)
    alone = float((leaving() - original).norm())
    for layer in layers:
        module = layer_module(model, layer)
        weight = dense_weights[layer.name]
        module.get_parameter("weight").detach().copy_(weight.mT if is_transposed(module) else weight)

    def fitted(_layer: Layer, weight: Tensor, own: Tensor) -> Tensor:
        return truncated(weight, own)

    walk_and_update(walk, layers, wanted, fitted, **QUIET)
    assert float((leaving() - original).norm()) < 0.97 * alone


def test_a_layer_that_not_every_token_reaches_is_refused(tmp_path: Path) -> None:
    model, layers, container = opened("llama", tmp_path / "base")
    mlp = model.model.layers[1].mlp
    forward = mlp.forward

    def expert(x: Tensor) -> Tensor:
        return torch.cat([forward(x[:, :5]), x[:, 5:]], 1)

    mlp.forward = expert
    walk = Walk(WholeModel(model, container), IDS)
    attention = {layer.name for layer in layers if layer.group == "attention"}
    walk_and_update(walk, layers, attention, same, **QUIET)
    with pytest.raises(UserError, match=r"Not every token reaches model\.layers\.1\.mlp\.gate_proj"):
        walk_and_update(walk, layers, {"model.layers.1.mlp.gate_proj"}, same, **QUIET)


def test_it_can_be_cancelled(tmp_path: Path) -> None:
    model, layers, container = opened("llama", tmp_path / "base")

    def cancel() -> None:
        raise KeyboardInterrupt

    walk = Walk(WholeModel(model, container), IDS)
    with pytest.raises(KeyboardInterrupt):
        walk_and_update(walk, layers, {layers[0].name}, same, progress=nothing, check_cancelled=cancel)
