"""The layer on each of its paths against the dense product, einsum and finite differences."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers.pytorch_utils import Conv1D

from bondwise import layers, modeling_mpo, mpo
from bondwise.layers import MPOLinear
from bondwise.schema import MPOLayer, MPOSection

if TYPE_CHECKING:
    from torch import Tensor

PATHS: list[modeling_mpo.ForwardPath] = ["auto", "cores", "contract", "keep"]
CASES: list[tuple[int, int, Any]] = [
    (24, 36, 2),
    (36, 24, 3),
    (32, 48, 4),
    (32, 32, 5),
    (24, 36, "low-rank"),
    (36, 24, "low-rank"),
    (11, 13, 2),  # primes: padded on both sides
    (1, 16, "low-rank"),
]


def make(
    out_features: int, in_features: int, sites: Any, chi: int = 5, *, bias: bool = True, dtype: torch.dtype = torch.float64
) -> MPOLinear:
    torch.manual_seed(out_features * 1000 + in_features)
    out_modes, in_modes = mpo.layer_modes(out_features, in_features, sites)
    bonds = mpo.bond_dims_for_chi(out_modes, in_modes, chi)
    layer = MPOLinear(in_features, out_features, out_modes, in_modes, bonds, bias=bias, dtype=dtype)
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    for order in layer.buffers():
        order.copy_(torch.randperm(len(order)))
    return layer.eval()


def dense_of(layer: modeling_mpo.MPOLinear) -> Tensor:
    """The weight by one einsum over the cores, those behind the first put together column by column."""
    outs, ins, rights = "abcde", "vwxyz", "LMNOPQ"
    bonds = (1, *layer.bond_dims, 1)
    first, *others = (weight_of(core) for core in layer.cores)
    tensors = [first.reshape(layer.out_modes[0], bonds[1], 1, layer.in_modes[0]).permute(2, 0, 3, 1)]  # [r_{k-1}, out, in, r_k]
    for k, weight in enumerate(others, 1):
        columns = [*torch.eye(bonds[k], dtype=weight.dtype), *weight]
        unfolding = torch.stack([columns[at] for at in layer.get_buffer(f"order_{k}").tolist()], 1)
        tensors.append(unfolding.reshape(bonds[k], layer.out_modes[k], layer.in_modes[k], bonds[k + 1]))
    n = len(tensors)
    terms = ",".join(f"{rights[k]}{outs[k]}{ins[k]}{rights[k + 1]}" for k in range(n))
    weight = torch.einsum(f"{terms}->{outs[:n]}{ins[:n]}", *tensors)
    return weight.reshape(math.prod(layer.out_modes), -1)[: layer.out_features, : layer.in_features]


def dense_product(layer: modeling_mpo.MPOLinear, x: Tensor) -> Tensor:
    product = x @ dense_of(layer).mT
    return product if layer.bias is None else product + layer.bias


def weight_of(core: nn.Module) -> nn.Parameter:
    return core.get_parameter("weight")


# --- forward ---


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("out_features", "in_features", "sites"), CASES)
@pytest.mark.parametrize("bias", [True, False])
def test_every_path_is_the_dense_product(
    out_features: int, in_features: int, sites: Any, path: modeling_mpo.ForwardPath, bias: bool
) -> None:
    layer = make(out_features, in_features, sites, bias=bias)
    layer.path = path
    for shape in ((), (1,), (7,), (2, 3), (2, 1, 40), (0,), (3, 0)):
        x = torch.randn(*shape, in_features, dtype=torch.float64)
        expected = dense_product(layer, x)
        with torch.no_grad():
            torch.testing.assert_close(layer(x), expected.detach(), rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(layer(x), expected, rtol=1e-11, atol=1e-12)
    strided = torch.randn(in_features, 6, dtype=torch.float64).mT
    torch.testing.assert_close(layer(strided), dense_product(layer, strided))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("out_features", "in_features", "sites"), CASES)
@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_input_cores_and_bias(
    out_features: int, in_features: int, sites: Any, path: modeling_mpo.ForwardPath, training: bool
) -> None:
    layer = make(out_features, in_features, sites, chi=2).train(training)
    layer.path = path
    x = torch.randn(3, in_features, dtype=torch.float64, requires_grad=True)
    inputs = [x, *layer.parameters()]
    got = torch.autograd.grad(layer(x).square().sum(), inputs)
    expected = torch.autograd.grad(dense_product(layer, x).square().sum(), inputs, materialize_grads=True)  # some cores store nothing
    for mine, dense in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, dense, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("sites", [2, 3, "low-rank"])
def test_gradcheck(sites: Any, path: modeling_mpo.ForwardPath) -> None:
    layer = make(8, 12, sites, chi=2)
    layer.path = path
    x = torch.randn(2, 12, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]

    def apply(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(apply, (x, *layer.parameters()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("path", PATHS)
def test_half_precision(dtype: torch.dtype, path: modeling_mpo.ForwardPath) -> None:
    for sites in (2, 3, "low-rank"):
        layer = make(32, 48, sites).to(dtype)
        layer.path = path
        x = torch.randn(9, 48, dtype=dtype)
        expected = dense_product(layer.double(), x.double())
        layer.to(dtype)
        with torch.no_grad():
            y = layer(x)
        assert y.dtype == dtype
        assert mpo.relative_error(expected, y) < 4 * torch.finfo(dtype).eps


def test_autocast() -> None:
    layer = make(32, 48, 2, dtype=torch.float32)
    x = torch.randn(9, 48)
    for path in PATHS:
        layer.path = path
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            assert mpo.relative_error(layer(x), nn.functional.linear(x, dense_of(layer), layer.bias)) < 0.02


# --- cost and memory ---


@pytest.mark.parametrize(("out_features", "in_features", "sites"), CASES)
def test_multiply_adds_are_what_the_cores_path_does(out_features: int, in_features: int, sites: Any) -> None:
    layer = make(out_features, in_features, sites)
    layer.path = "cores"
    x = torch.randn(7, in_features, dtype=torch.float64)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        layer(x)
    costs = layers.costs(layer.out_modes, layer.in_modes, layer.bond_dims)
    assert counter.get_total_flops() == 2 * 7 * costs.multiply_adds
    assert costs.parameters == sum(weight_of(core).numel() for core in layer.cores)
    assert costs.dense_multiply_adds == math.prod(layer.out_modes) * math.prod(layer.in_modes)


def test_low_rank_is_two_products_and_putting_in_order() -> None:
    layer = make(24, 36, "low-rank", bias=False)
    x = torch.randn(7, 36, dtype=torch.float64)
    with torch.no_grad(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        layer(x)
    calls = {event.key: event.count for event in profile.key_averages()}
    assert (calls["aten::linear"], calls["aten::cat"], calls["aten::index_select"]) == (2, 1, 1)
    assert not calls.keys() & {"aten::copy_", "aten::clone", "aten::contiguous", "aten::add", "aten::eye"}


def test_states_stay_below_the_bound_and_pieces_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = make(36, 24, 3, chi=8)
    layer.path = "cores"
    x = torch.randn(50, 24, dtype=torch.float64, requires_grad=True)
    inputs = [x, *layer.parameters()]
    whole = layer(x)
    gradients = torch.autograd.grad(whole.square().sum(), inputs)
    seen: list[int] = []
    linear = nn.functional.linear

    def watched(given: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        made = linear(given, weight, bias)
        seen.append(max(given.numel(), made.numel()))
        return made

    monkeypatch.setattr(nn.functional, "linear", watched)
    bound = 7 * layer._state_per_token + 3
    monkeypatch.setattr(modeling_mpo, "MAX_STATE", bound)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), whole)
    assert len(seen) == 8 * len(layer.cores)  # ⌈50 / 7⌉ pieces
    assert max(seen) == 7 * layer._state_per_token <= bound
    for mine, expected in zip(torch.autograd.grad(layer(x).square().sum(), inputs), gradients, strict=True):
        torch.testing.assert_close(mine, expected)
    assert max(seen) <= bound


def test_training_in_pieces_keeps_only_inputs_for_the_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = make(36, 24, 3, chi=8)
    layer.path = "cores"
    x = torch.randn(64, 24, dtype=torch.float64, requires_grad=True)

    def kept() -> int:
        sizes: list[int] = []

        def pack(tensor: Tensor) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            layer(x)
        return sum(sizes)

    whole = kept()
    monkeypatch.setattr(modeling_mpo, "MAX_STATE", 4 * layer._state_per_token)
    assert kept() < whole / 4


def test_one_token_too_large_for_the_bound_still_goes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = make(36, 24, 3)
    layer.path = "cores"
    x = torch.randn(3, 24, dtype=torch.float64)
    monkeypatch.setattr(modeling_mpo, "MAX_STATE", 1)
    torch.testing.assert_close(layer(x), dense_product(layer, x))


def products(layer: MPOLinear, tokens: int) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        layer(torch.randn(tokens, layer.in_features, dtype=torch.float64))
    return counter.get_total_flops()


def test_auto_takes_the_cores_for_few_tokens_and_contracts_for_many() -> None:
    layer = make(256, 256, 2, chi=60, bias=False)
    costs = layers.costs(layer.out_modes, layer.in_modes, layer.bond_dims)
    even = int(layer._break_even)
    assert 1 < even < 100
    assert products(layer, even - 1) == 2 * (even - 1) * costs.multiply_adds
    once = 256 * 60 * 256
    assert products(layer, even) == 2 * (once + even * 256 * 256)
    # Where it changes over, the two cost about the same: arithmetic and moved numbers counted as documented.
    moved = modeling_mpo.MOVE * (256 + 256 * 60)
    assert (even - 1) * (costs.multiply_adds + moved) <= once + modeling_mpo.MOVE * (256 * 256 + costs.parameters) + (even - 1) * 256 * 256


@pytest.mark.parametrize("chi", [20, 48])
def test_low_rank_never_contracts(chi: int) -> None:
    """It is never more than the dense layer."""
    layer = make(64, 48, "low-rank", chi=chi)
    assert layer._break_even == math.inf
    assert layers.costs(layer.out_modes, layer.in_modes, layer.bond_dims).multiply_adds <= 64 * 48


# --- contract once and keep ---


def test_keep_contracts_once_and_notices_every_change() -> None:
    layer = make(24, 36, 2)
    layer.path = "keep"
    x = torch.randn(4, 36, dtype=torch.float64)
    dense_products = 2 * 4 * 24 * 36

    def current() -> bool:
        with torch.no_grad():
            return torch.allclose(layer(x), dense_product(layer, x))

    assert products(layer, 4) > dense_products
    assert products(layer, 4) == dense_products
    with torch.no_grad():
        weight_of(layer.cores[0]).mul_(2)
    assert current()
    layer.cores[1].register_parameter("weight", nn.Parameter(3 * weight_of(layer.cores[1]).detach()))
    assert current()
    layer.load_state_dict(
        {name: torch.randn_like(value) for name, value in layer.state_dict().items() if "order" not in name}, strict=False
    )
    assert current()
    layer.get_buffer("order_1").copy_(layer.get_buffer("order_1").flip(0))
    assert current()
    layer.float()
    layer.double()
    assert current()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer.train()
    layer(x).square().sum().backward()
    optimizer.step()
    layer.eval()
    assert current()
    weight_of(layer.cores[0]).data.mul_(2)
    layer.forget()
    assert current()
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        weight_of(twin.cores[0]).mul_(5)
        torch.testing.assert_close(twin(x), dense_product(twin, x))
    assert current()


def test_keep_made_in_inference_mode_serves_frozen_training() -> None:
    layer = make(24, 36, 2)
    layer.path = "keep"
    x = torch.randn(4, 36, dtype=torch.float64, requires_grad=True)
    with torch.inference_mode():
        layer(x)
    layer.requires_grad_(False)
    assert torch.allclose(torch.autograd.grad(layer(x).sum(), x)[0], dense_of(layer).sum(0).expand(4, -1))


def test_a_kept_weight_is_never_saved() -> None:
    layer = make(24, 36, 3)
    names = set(layer.state_dict())
    assert names == {"bias", "cores.0.weight", "cores.1.weight", "cores.2.weight", "order_1", "order_2"}
    layer.path = "keep"
    with torch.no_grad():
        layer(torch.randn(4, 36, dtype=torch.float64))
    assert set(layer.state_dict()) == names


# --- what others put in place of a core ---


class Doubling(nn.Linear):
    """Stands for a quantized or adapted layer: its weight is not the whole story."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("sites", [2, "low-rank"])
def test_a_replaced_core_is_called_and_its_weight_not_read(path: modeling_mpo.ForwardPath, sites: Any) -> None:
    layer = make(64, 64, sites, chi=40)
    layer.path = path
    x = torch.randn(200, 64, dtype=torch.float64)
    with torch.no_grad():
        twin = copy.deepcopy(layer)
        weight_of(twin.cores[1]).mul_(2)
        expected = dense_product(twin, x)
        layer(x)
        weight = weight_of(layer.cores[1])
        other = Doubling(weight.shape[1], weight.shape[0], bias=False, dtype=torch.float64)
        other.weight = weight
        layer.cores[1] = other
        torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("path", PATHS)
def test_hooks_on_a_core_are_respected(path: modeling_mpo.ForwardPath) -> None:
    layer = make(64, 64, 2, chi=64)
    layer.path = path
    calls: list[int] = []

    def count(module: nn.Module, given: Any, made: Any) -> None:
        calls.append(1)

    layer.cores[0].register_forward_hook(count)
    with torch.no_grad():
        layer(torch.randn(200, 64, dtype=torch.float64))
    assert calls


def test_meta_device() -> None:
    layer = MPOLinear(36, 24, (4, 6), (6, 6), (5,), device="meta", dtype=torch.bfloat16)
    assert all(parameter.is_meta and parameter.dtype == torch.bfloat16 for parameter in layer.parameters())
    assert layer(torch.empty(3, 36, device="meta", dtype=torch.bfloat16)).shape == (3, 24)


def test_cores_are_exact_linear_layers_of_the_documented_shape() -> None:
    layer = make(24, 36, 3, chi=4)
    bonds = (1, *layer.bond_dims, 1)
    for k, core in enumerate(layer.cores):
        assert type(core) is nn.Linear
        assert core.bias is None
        columns = layer.out_modes[k] * layer.in_modes[k] * bonds[k + 1]
        shape = (columns - bonds[k], bonds[k]) if k else (layer.out_modes[0] * bonds[1], layer.in_modes[0])
        assert weight_of(core).shape == shape


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit together"):
        MPOLinear(36, 24, (4, 6), (6, 6), (5, 5))
    with pytest.raises(ValueError, match="do not cover 24×37"):
        MPOLinear(37, 24, (4, 6), (6, 6), (5,))


# --- made from dense layers ---


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_from_linear_keeps_bias_dtype_and_mode(dtype: torch.dtype, bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(36, 24, bias=bias, dtype=dtype).eval()
    x = torch.randn(5, 36, dtype=dtype)
    for sites in (2, 3, "low-rank"):
        layer = MPOLinear.from_linear(linear, *mpo.layer_modes(24, 36, sites), chi=10_000)
        assert (layer.training, layer.bias is not None) == (False, bias)
        assert {parameter.dtype for parameter in layer.parameters()} == {dtype}
        with torch.no_grad():
            assert mpo.relative_error(linear(x), layer(x)) < 8 * torch.finfo(dtype).eps
        if layer.bias is not None:
            assert torch.equal(layer.bias, linear.bias)
            assert layer.bias is not linear.bias


@pytest.mark.parametrize("target", [{"chi": 4}, {"keep": 0.4}, {"error": 0.5}])
def test_from_linear_is_the_decomposition_of_the_weight(target: dict[str, Any]) -> None:
    torch.manual_seed(1)
    linear = nn.Linear(36, 24, dtype=torch.float64)
    for sites in (2, 3, "low-rank"):
        modes = mpo.layer_modes(24, 36, sites)
        layer = MPOLinear.from_linear(linear, *modes, **target)
        torch.testing.assert_close(dense_of(layer), mpo.contract(mpo.decompose(linear.weight.detach(), *modes, **target).cores))


def test_from_conv1d_transposes() -> None:
    torch.manual_seed(2)
    conv = Conv1D(24, 36)  # [in, out] = [36, 24]
    nn.init.normal_(conv.bias)
    x = torch.randn(5, 36)
    layer = MPOLinear.from_linear(conv, *mpo.layer_modes(24, 36, 3), chi=10_000)
    torch.testing.assert_close(layer(x), conv(x), rtol=1e-4, atol=1e-5)


def test_stored_weights_round_trip() -> None:
    weight = torch.randn(11, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    for sites in (2, "low-rank"):
        decomposed = mpo.decompose(weight, *mpo.layer_modes(11, 13, sites), chi=4)
        stored = layers.stored_tensors(decomposed, torch.float64)
        shape = (decomposed.out_modes, decomposed.in_modes, decomposed.bond_dims)
        assert all(matrix.is_contiguous() for matrix in stored.values())
        assert {name: tuple(tensor.shape) for name, tensor in stored.items()} == layers.stored_shapes(*shape)
        layer = MPOLinear.from_cores(decomposed, dtype=torch.float64)
        assert layer.state_dict().keys() == stored.keys()
        assert all(torch.equal(value, stored[name]) for name, value in layer.state_dict().items())
        torch.testing.assert_close(layers.contract_stored(stored, *shape, 11, 13), dense_of(layer))
        with pytest.raises(ValueError, match=r"cores\.1\.weight has the shape"):
            layers.contract_stored({**stored, "cores.1.weight": stored["cores.1.weight"].mT}, *shape, 11, 13)


# --- config.json ---

LAYER = MPOLayer(out_modes=[1, 8], in_modes=[4, 1], bond_dims=[2], out_features=8, in_features=4, bias=False)


def test_mpo_config_keeps_the_base_and_names_it() -> None:
    base = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 4, "auto_map": {"AutoConfig": "x.Y"}}
    config = layers.mpo_config(base, {"model.layers.0.mlp.up_proj": LAYER})
    assert (config["model_type"], config["architectures"], config["hidden_size"]) == ("bondwise_mpo", ["MPOForCausalLM"], 4)
    assert config["auto_map"] == {"AutoConfig": "modeling_mpo.MPOConfig", "AutoModelForCausalLM": "modeling_mpo.MPOForCausalLM"}
    section = MPOSection.model_validate(config["mpo"])
    assert (section.base_model_type, section.base_architecture) == ("llama", "LlamaForCausalLM")
    assert section.layers == {"model.layers.0.mlp.up_proj": LAYER}
    again = MPOSection.model_validate(layers.mpo_config(config, {"model.layers.1.mlp.up_proj": LAYER})["mpo"])
    assert (again.base_model_type, again.base_architecture) == ("llama", "LlamaForCausalLM")
    assert set(again.layers) == {"model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"}
    with pytest.raises(ValueError, match="architectures"):
        layers.mpo_config({"model_type": "llama"}, {})
