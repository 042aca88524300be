"""Moments of a model that is read block by block against those of the whole model in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from tiny_models import ARCHITECTURES, BLOCKS, VOCABULARY, save_tiny_model

from bondwise.block_moments import block_moments
from bondwise.calibrate import collect_moments, find_directions
from bondwise.checkpoint import open_checkpoint
from bondwise.errors import Cancelled, UserError
from bondwise.loading import load_model
from bondwise.modelmap import map_model
from bondwise.moments import Moments
from bondwise.shelf import Shelf
from bondwise.streaming import StreamedModel

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from bondwise.modelmap import Layer

IDS = torch.randint(0, VOCABULARY, (5, 24), generator=torch.Generator().manual_seed(3))
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-6}


def nothing(*_: float) -> None: ...


QUIET: dict[str, Any] = {"progress": nothing, "check_cancelled": nothing}


def opened(name: str, folder: Path) -> tuple[Path, StreamedModel, list[Layer]]:
    """Without layers that are no modules of the model, as experts that transformers fuses."""
    base = save_tiny_model(name, folder)
    layers = [layer for layer in map_model(open_checkpoint(base)).layers if "experts" not in layer.name]
    return base, StreamedModel(open_checkpoint(base), dtype=torch.float32), layers


def streamed(
    model: StreamedModel, layers: list[Layer], folder: Path | None = None, room: int = 1 << 30, **options: Any
) -> dict[str, Moments]:
    wanted: dict[str, Any] = {"gradients": True, "directions": False, "seed": 7, "room": lambda: room, **QUIET, **options}
    found: dict[str, Moments] = {}
    with Shelf(folder) as shelf:
        for some in block_moments(model, layers, IDS, shelf=shelf, **wanted):
            assert all(parameter.is_meta for block in model.blocks for parameter in block.parameters())
            found |= some
    return found


def check(found: dict[str, Moments], expected: dict[str, Moments]) -> None:
    assert set(found) == set(expected)
    for name, wanted in expected.items():
        made = found[name]
        assert made.tokens == wanted.tokens
        assert made.half is not None and wanted.half is not None
        assert (made.half.tokens, made.half.share) == (wanted.half.tokens, wanted.half.share)
        pairs = [(made.inputs, wanted.inputs), (made.gradients, wanted.gradients), (made.directions, wanted.directions)]
        pairs += [(made.half.inputs, wanted.half.inputs), (made.half.gradients, wanted.half.gradients)]
        for one, other in pairs:
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5 * float(other.abs().max()))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_moments_are_those_of_the_whole_model(name: str, tmp_path: Path) -> None:
    base, model, layers = opened(name, tmp_path / "base")
    whole = load_model(base)
    directions = find_directions(whole, layers, **QUIET)
    check(streamed(model, layers, directions=True), collect_moments(whole, layers, IDS, directions=directions, seed=7, **QUIET))
    check(streamed(model, layers, gradients=False), collect_moments(whole, layers, IDS, gradients=False, seed=7, **QUIET))


def test_files_and_little_room_change_nothing(tmp_path: Path) -> None:
    base, model, layers = opened("llama", tmp_path / "base")
    expected = collect_moments(load_model(base), layers, IDS, seed=7, **QUIET)
    seen: list[int] = []

    def watch(*_: float) -> None:
        seen.append(len(list((tmp_path / "states").iterdir())))

    check(streamed(model, layers, tmp_path / "states", room=1, progress=watch), expected)
    assert max(seen) == (BLOCKS + 1) * len(IDS) and not (tmp_path / "states").exists()
    seen.clear()
    inputs = {name: Moments(one.inputs, None, one.tokens, None, one.half) for name, one in expected.items()}
    for name, one in streamed(model, layers, tmp_path / "states", room=1, progress=watch, gradients=False).items():
        assert torch.equal(one.inputs, inputs[name].inputs)
    assert max(seen) <= len(IDS) + 1


@pytest.mark.parametrize("gradients", [True, False])
def test_what_is_not_wanted_is_only_passed(gradients: bool, tmp_path: Path) -> None:
    base, model, layers = opened("qwen2", tmp_path / "base")
    some = [layer for layer in layers if layer.block == 1 and layer.name.endswith(("k_proj", "down_proj"))]
    expected = collect_moments(load_model(base), some, IDS, gradients=gradients, seed=7, **QUIET)
    done: list[tuple[float, float]] = []

    def progress(blocks: float, total: float) -> None:
        done.append((blocks, total))

    check(streamed(model, some, gradients=gradients, progress=progress), expected)
    assert done == sorted(done) and done[-1] == ((3, 3) if gradients else (2, 2))


def test_it_can_be_cancelled_and_leaves_no_files(tmp_path: Path) -> None:
    _, model, layers = opened("llama", tmp_path / "base")
    calls = 0

    def cancel() -> None:
        nonlocal calls
        calls += 1
        if calls > 30:
            raise Cancelled

    with pytest.raises(Cancelled):
        streamed(model, layers, tmp_path / "states", check_cancelled=cancel)
    assert not (tmp_path / "states").exists() and torch.is_grad_enabled()
    assert all(parameter.is_meta for block in model.blocks for parameter in block.parameters())


def detached(_module: nn.Module, _given: object, made: Tensor) -> Tensor:
    return made.detach()


@pytest.mark.parametrize("cut", ["model.layers.1.mlp.gate_proj", "model.norm"])
def test_a_missing_gradient_is_told(cut: str, tmp_path: Path) -> None:
    """Behind one layer, and behind all of them."""
    _, model, layers = opened("llama", tmp_path / "base")
    model.model.get_submodule(cut).register_forward_hook(detached)
    with pytest.raises(UserError, match=r"no gradient at model\.layers\.1\.") as told:
        streamed(model, layers)
    assert "--method input" in (told.value.remedy or "")


def test_a_model_that_passes_on_more_is_refused(tmp_path: Path) -> None:
    _, model, layers = opened("llama", tmp_path / "base")
    rotary: Any = model.model.get_submodule("model.rotary_emb")
    forward = rotary.forward
    tokens: list[Tensor] = []

    def remember(_module: nn.Module, given: tuple[Tensor, ...], _made: Tensor) -> None:
        tokens.append(given[0])

    def depending(*given: Any, **named: Any) -> tuple[Tensor, ...]:
        return tuple(part * (1 + tokens[-1][..., None] / 100) for part in forward(*given, **named))

    model.model.get_input_embeddings().register_forward_hook(remember)
    rotary.forward = depending
    with pytest.raises(UserError, match="passes more than a hidden state") as told:
        streamed(model, layers)
    assert "memory holds the whole model" in (told.value.remedy or "")
