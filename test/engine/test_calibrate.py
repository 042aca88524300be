"""Moments of tiny models of many architectures against autograd, one token at a time, in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tiny_models import make_tiny_model, save_tiny_model

from bondwise import calibrate
from bondwise.calibrate import collect_moments, draw_labels, find_directions
from bondwise.checkpoint import open_checkpoint
from bondwise.errors import Cancelled, UserError
from bondwise.modelmap import map_model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from bondwise.modelmap import Layer
    from bondwise.moments import Moments

ARCHITECTURES = ["llama", "gpt2", "qwen2", "gemma2", "phi3", "gpt_neox", "opt"]


def text(sequences: int = 3, length: int = 11, seed: int = 0) -> Tensor:
    return torch.randint(256, (sequences, length), generator=torch.Generator().manual_seed(seed))


def layers_of(architecture: str, folder: Path) -> tuple[Layer, ...]:
    return map_model(open_checkpoint(save_tiny_model(architecture, folder / architecture))).layers


def collect(model: PreTrainedModel, layers: Sequence[Layer], ids: Tensor, *, gradients: bool = True, **options: Any) -> dict[str, Moments]:
    settings: dict[str, Any] = {"seed": 0, "progress": nothing, "check_cancelled": nothing, **options}
    directions = find_directions(model, layers, progress=nothing, check_cancelled=settings["check_cancelled"]) if gradients else None
    return collect_moments(model, layers, ids, gradients=gradients, directions=directions, **settings)


def nothing(*_: float) -> None: ...


def gradients_of(moments: Moments) -> Tensor:
    assert moments.gradients is not None
    return moments.gradients


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The labels that were drawn, in order."""
    labels: list[Tensor] = []

    def draw(probabilities: Tensor, generator: torch.Generator) -> Tensor:
        labels.append(draw_labels(probabilities, generator))
        return labels[-1]

    monkeypatch.setattr(calibrate, "draw_labels", draw)
    return labels


def slowly(model: PreTrainedModel, names: Sequence[str], ids: Tensor, labels: Sequence[Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """S and G of each layer: what goes in and out kept whole, transformers' own cross entropy, outer products one token at a time."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            output.retain_grad()
            seen[name] = (arguments[0], output)

        return hook

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    for sequence, targets in zip(ids, labels, strict=True):
        model.zero_grad()
        logits = model(input_ids=sequence[None]).logits[0]
        torch.nn.functional.cross_entropy(logits, targets, reduction="sum").backward()
        for name, (read, written) in seen.items():
            assert written.grad is not None
            vectors = read.detach().double(), written.grad.double()
            products = [torch.stack([torch.outer(one, one) for one in side.flatten(0, -2)]).sum(0) for side in vectors]
            before = sums.get(name)
            sums[name] = (products[0], products[1]) if before is None else (before[0] + products[0], before[1] + products[1])
    for handle in handles:
        handle.remove()
    return {name: (inputs / ids.numel(), gradients / ids.numel()) for name, (inputs, gradients) in sums.items()}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_moments_are_those_of_autograd(architecture: str, tmp_path: Path, drawn: list[Tensor]) -> None:
    model, layers, ids = make_tiny_model(architecture), layers_of(architecture, tmp_path), text()
    found = collect(model, layers, ids)
    expected = slowly(make_tiny_model(architecture), [layer.name for layer in layers], ids, drawn)
    assert list(found) == [layer.name for layer in layers]
    for layer in layers:
        moments = found[layer.name]
        assert gradients_of(moments).shape == (layer.shape[0], layer.shape[0])
        assert moments.inputs.shape == (layer.shape[1], layer.shape[1])
        assert moments.tokens == ids.numel()
        inputs, gradients = expected[layer.name]
        torch.testing.assert_close(moments.inputs.double(), inputs, rtol=1e-4, atol=1e-5 * float(inputs.max()))
        torch.testing.assert_close(gradients_of(moments).double(), gradients, rtol=1e-3, atol=1e-4 * float(gradients.max()))
        assert float(gradients.trace()) > 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_directions_are_those_of_the_gradient_of_each_sequence(architecture: str, tmp_path: Path, drawn: list[Tensor]) -> None:
    """Against σ_i u_iᵀ(∂loss/∂W)v_i, with the gradient of the weight by autograd and torch's own singular vectors."""
    layers, ids = layers_of(architecture, tmp_path), text()
    found = collect(make_tiny_model(architecture), layers, ids)
    model = make_tiny_model(architecture)
    expected = {layer.name: torch.zeros(min(layer.shape), dtype=torch.float64) for layer in layers}
    for sequence, targets in zip(ids, drawn, strict=True):
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(input_ids=sequence[None]).logits[0], targets, reduction="sum").backward()
        for layer in layers:
            weight = model.get_parameter(f"{layer.name}.weight")
            assert weight.grad is not None
            u, sigma, v = torch.linalg.svd(weight.detach().double(), full_matrices=False)
            along = sigma * (u.mT @ weight.grad.double() @ v.mT).diagonal()
            expected[layer.name] += along.square().flip(0) / ids.numel()
    for name, directions in expected.items():
        measured = found[name].directions
        assert measured is not None
        torch.testing.assert_close(measured, directions, rtol=1e-2, atol=1e-4 * float(directions.max()))


@pytest.mark.parametrize(
    ("architecture", "together", "apart"),
    [
        ("llama", ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], ["self_attn.o_proj", "mlp.down_proj"]),
        ("qwen2", ["mlp.gate_proj", "mlp.up_proj"], ["mlp.down_proj", "self_attn.q_proj"]),
        ("gpt2", ["attn.c_attn"], ["attn.c_proj", "mlp.c_fc", "mlp.c_proj"]),
    ],
)
def test_layers_that_read_one_tensor_hold_one_moment(architecture: str, together: list[str], apart: list[str], tmp_path: Path) -> None:
    layers = layers_of(architecture, tmp_path)
    found = collect(make_tiny_model(architecture), layers, text())

    def held(name: str, block: int) -> int:
        layer = next(layer for layer in layers if layer.block == block and layer.name.endswith(name))
        return found[layer.name].inputs.data_ptr()

    places = {held(name, 0) for name in together}
    assert len(places) == 1
    others = [held(name, 0) for name in apart] + [held(together[0], 1)]
    assert len({*places, *others}) == 1 + len(others)


def test_a_layer_alone_has_the_moments_that_it_has_among_others(tmp_path: Path) -> None:
    model, layers = make_tiny_model("llama"), layers_of("llama", tmp_path)
    among = collect(model, layers, text())
    up = next(layer for layer in layers if layer.name.endswith("1.mlp.up_proj"))
    alone = collect(model, [up], text())[up.name]
    torch.testing.assert_close(alone.inputs, among[up.name].inputs)
    torch.testing.assert_close(gradients_of(alone), among[up.name].gradients)


def test_expected_rise_of_the_loss(tmp_path: Path) -> None:
    """½ tr(G ΔW S ΔWᵀ) is in nats per token: the KL that a small change of a layer really causes, up to Kronecker factoring."""
    model, layers = make_tiny_model("llama"), layers_of("llama", tmp_path)
    layer = next(layer for layer in layers if layer.name.endswith("1.mlp.down_proj"))
    ids = text(sequences=40, length=32)
    moments = collect(model, [layer], ids)[layer.name]
    with torch.no_grad():
        before = model(input_ids=ids).logits.double().log_softmax(-1)
        weight = model.get_parameter(f"{layer.name}.weight")
        change = 0.003 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
        weight += change
        after = model(input_ids=ids).logits.double().log_softmax(-1)
    caused = float((before.exp() * (before - after)).sum(-1).mean())
    predicted = 0.5 * float(torch.trace(gradients_of(moments) @ change @ moments.inputs @ change.mT))
    assert predicted == pytest.approx(caused, rel=0.15)


def test_without_gradients_the_inputs_are_the_same(tmp_path: Path) -> None:
    model, layers = make_tiny_model("gpt2"), layers_of("gpt2", tmp_path)
    both, inputs = collect(model, layers, text()), collect(model, layers, text(), gradients=False)
    for name, moments in inputs.items():
        assert moments.gradients is None
        assert moments.directions is None
        torch.testing.assert_close(moments.inputs, both[name].inputs)


def test_seed_decides_the_labels(tmp_path: Path) -> None:
    model, layers = make_tiny_model("llama"), layers_of("llama", tmp_path)
    first, again, other = (collect(model, layers, text(), seed=seed) for seed in (7, 7, 8))
    for name, moments in first.items():
        assert torch.equal(gradients_of(moments), gradients_of(again[name]))
        assert not torch.allclose(gradients_of(moments), gradients_of(other[name]))
        assert torch.equal(moments.inputs, other[name].inputs)


def test_drawn_labels_have_the_models_distribution() -> None:
    probabilities = torch.tensor([0.0, 0.5, 0.2, 0.0, 0.3, 0.0])
    labels = draw_labels(probabilities.expand(20000, -1), torch.Generator().manual_seed(0))
    shares = torch.bincount(labels, minlength=6) / 20000
    assert shares[[0, 3, 5]].tolist() == [0, 0, 0]
    assert shares.tolist() == pytest.approx(probabilities.tolist(), abs=0.015)  # four standard deviations


def test_pieces_of_the_vocabulary_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, layers = make_tiny_model("llama"), layers_of("llama", tmp_path)
    whole = collect(model, layers, text())
    monkeypatch.setattr(calibrate, "CHUNK", 4)
    for name, moments in collect(model, layers, text()).items():
        torch.testing.assert_close(gradients_of(moments), whole[name].gradients)


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model, layers = make_tiny_model("llama"), layers_of("llama", tmp_path)
    frozen = model.get_parameter("model.norm.weight").requires_grad_(False)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    collect(model, layers, text())
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (parameter is not frozen)
        assert parameter.grad is None
        assert torch.equal(parameter, before[name])
    assert not any(module._forward_hooks for module in model.modules())


def test_progress_counts_sequences(tmp_path: Path) -> None:
    steps: list[tuple[float, float]] = []

    def progress(done: float, total: float) -> None:
        steps.append((done, total))

    collect(make_tiny_model("llama"), layers_of("llama", tmp_path), text(), progress=progress)
    assert steps == sorted(steps)
    assert steps[-1] == (3, 3)
    assert len(steps) >= 6


@pytest.mark.parametrize("at", [1, 8, 25])
def test_cancelling_stops_between_layers(at: int, tmp_path: Path) -> None:
    """In the first sequence: before it, in the forward pass and in the backward pass."""
    model, layers = make_tiny_model("llama"), layers_of("llama", tmp_path)
    calls = 0
    done: list[float] = []

    def progress(sequences: float, _total: float) -> None:
        done.append(sequences)

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise Cancelled

    with pytest.raises(Cancelled):
        collect(model, layers, text(), check_cancelled=check, progress=progress)
    assert calls == at
    assert 1 not in done
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_damaged_weight_is_named(value: float, tmp_path: Path) -> None:
    model, layers = make_tiny_model("llama"), layers_of("llama", tmp_path)
    with torch.no_grad():
        model.get_parameter("model.layers.1.self_attn.v_proj.weight")[3, 4] = value
    with pytest.raises(UserError, match=r"model\.layers\.1\.self_attn\.v_proj"):
        collect(model, layers, text())


def test_gradients_that_overflow_are_told(tmp_path: Path) -> None:
    model, layers = make_tiny_model("llama"), layers_of("llama", tmp_path)
    model.get_submodule("model.norm").register_full_backward_hook(lambda module, made, given: (made[0] * float("inf"),))
    with pytest.raises(UserError, match=r"gradients of model\.layers\.0\."):
        collect(model, layers, text())


def test_fused_experts_are_refused_and_the_rest_goes(tmp_path: Path) -> None:
    model, layers = make_tiny_model("mixtral"), layers_of("mixtral", tmp_path)
    expert = next(layer for layer in layers if "experts" in layer.name)
    with pytest.raises(UserError, match=expert.name.replace(".", r"\.")):
        collect(model, [expert], text())
    attention = [layer for layer in layers if layer.group == "attention"]
    assert set(collect(model, attention, text())) == {layer.name for layer in attention}


def test_a_layer_that_no_token_reaches_is_named(tmp_path: Path) -> None:
    model, layers = make_tiny_model("llama"), layers_of("llama", tmp_path)
    unused = torch.nn.Linear(32, 32)
    model.get_submodule("model.layers.0").add_module("spare", unused)
    spare = replace(layers[0], name="model.layers.0.spare")
    with pytest.raises(UserError, match=r"model\.layers\.0\.spare"):
        collect(model, [*layers, spare], text())


def detached(_module: nn.Module, _arguments: object, output: Tensor) -> Tensor:
    return output.detach()


def detached_inputs(_module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(argument.detach() for argument in arguments)


def test_a_layer_that_no_gradient_reaches_is_named(tmp_path: Path) -> None:
    """Cut off before the layer, as where what comes before is quantized and not differentiable, and behind it."""
    layers = layers_of("llama", tmp_path)
    before, behind = make_tiny_model("llama"), make_tiny_model("llama")
    before.get_submodule("model.layers.1.input_layernorm").register_forward_hook(detached)
    behind.get_submodule("model.layers.1.mlp.down_proj").register_forward_pre_hook(detached_inputs)
    q_proj, up_proj = ([layer for layer in layers if layer.name.endswith(end)] for end in ("1.self_attn.q_proj", "1.mlp.up_proj"))
    for model, (layer,) in ((before, q_proj), (behind, up_proj)):
        with pytest.raises(UserError, match=f"no gradient at {layer.name}") as failure:
            collect_moments(model, [layer], text(), seed=0, progress=nothing, check_cancelled=nothing)
        assert "--method input" in (failure.value.remedy or "")
        without = collect_moments(model, [layer], text(), gradients=False, seed=0, progress=nothing, check_cancelled=nothing)
        assert without[layer.name].gradients is None


def test_sequences_longer_than_the_context_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at most 128 tokens"):
        collect(make_tiny_model("llama"), layers_of("llama", tmp_path), text(1, 129))
