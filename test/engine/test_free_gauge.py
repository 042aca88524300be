"""The gauge that layers train in: the same map there and back, before and after a step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from engine_runs import finish, tensorize_run
from tiny_models import VOCABULARY, save_tiny_model

from bondwise.checkpoint import open_checkpoint
from bondwise.free_gauge import fix_gauge_again, free_gauge
from bondwise.loading import load_model
from bondwise.trainable import choose_trainable, find_parameters

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module", name="small")
def _small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_tiny_model("qwen2", folder / "base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BONDWISE_HOME", str(folder / "home"))
        rules: list[dict[str, Any]] = [
            {"layers": ["re:.*(q|up|down)_proj"], "keep": 0.6},
            {"layers": ["re:.*o_proj"], "keep": 0.5, "sites": 2},
        ]
        finish(tensorize_run(folder / "run", folder / "base", folder / "small", *rules))
    return folder / "small"


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(24)[None] * 11 % VOCABULARY
    return model.eval()(input_ids=ids, use_cache=False).logits[0]


def test_there_and_back_it_is_the_same_map(small: Path) -> None:
    source, model = open_checkpoint(small), load_model(small)
    expected = logits(model)
    stored = {name: parameter.detach().clone() for name, parameter in choose_trainable(model, source, []).items()}
    layers = free_gauge(model, stored)
    # Interleaved sites stay as they are.
    assert {layer.rpartition(".")[2] for layer in layers} == {"q_proj", "up_proj", "down_proj"}
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
    cast("Any", model).set_forward_path("contract")
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
    trained = {name: parameter.detach() for name, parameter in find_parameters(model, tuple(stored)).items()}
    for layer in layers:
        first, second = (trained[f"{layer}.cores.{k}.weight"] for k in (0, 1))
        torch.testing.assert_close(second.mT @ second, first @ first.mT, rtol=1e-3, atol=1e-4)  # balanced
    orders = {layer: source.read(f"{layer}.order_1") for layer in layers}
    again = fix_gauge_again(trained, layers, orders)
    assert again.keys() == stored.keys()
    for name, tensor in stored.items():
        torch.testing.assert_close(again[name], tensor, rtol=1e-3, atol=1e-4)


def test_what_was_trained_is_what_is_stored(small: Path) -> None:
    source, model = open_checkpoint(small), load_model(small)
    names = tuple(choose_trainable(model, source, []))
    layers = free_gauge(model, names)
    trained = find_parameters(model, names)
    assert all(parameter.requires_grad for parameter in trained.values())
    optimizer = torch.optim.AdamW(trained.values(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        model.train()(input_ids=torch.arange(24)[None] * 7 % VOCABULARY, use_cache=False).logits.logsumexp(-1).sum().backward()
        optimizer.step()
    expected = logits(model)
    orders = {layer: source.read(f"{layer}.order_1") for layer in layers}
    stored = fix_gauge_again({name: parameter.detach() for name, parameter in trained.items()}, layers, orders)
    fresh = load_model(small)
    assert not torch.allclose(logits(fresh), expected, atol=1e-2)
    with torch.no_grad():
        for name, parameter in find_parameters(fresh, names).items():
            parameter.copy_(stored[name])
    torch.testing.assert_close(logits(fresh), expected, rtol=1e-3, atol=1e-3)
