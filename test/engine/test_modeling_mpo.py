"""Compressed checkpoints of every tiny architecture, loaded by plain transformers, against the base model with the contracted weights."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import ARCHITECTURES, save_tiny_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from bondwise import layers, modeling_mpo, mpo
from bondwise.schema import MPOLayer, MPOSection

if TYPE_CHECKING:
    from torch import Tensor

LAYER = re.compile(r".*\.(self_attn|attn|attention|mlp|layers\.\d+)\.(\w+)\.weight")
"""Weights of the linear layers in a block, in every architecture of `tiny_models`; routers and experts aside."""
SITES: list[Any] = ["low-rank", 2, 3]
TOKENS = torch.arange(24).reshape(2, 12) * 7 % 256


@dataclass(frozen=True)
class Compressed:
    base: Path
    folder: Path
    section: MPOSection
    tensors: dict[str, Tensor]


def compress(name: str, root: Path, chi: int = 6, shards: int = 1) -> Compressed:
    """A compressed checkpoint written by hand, with low rank, two and three sites in turn."""
    base, folder = save_tiny_model(name, root / "base", shards=shards), root / "compressed"
    shutil.copytree(base, folder)
    config = json.loads((base / "config.json").read_text())
    section: dict[str, MPOLayer] = {}
    tensors: dict[str, Tensor] = {}
    for file in sorted(base.glob("*.safetensors")):
        written: dict[str, Tensor] = {}
        stored = load_file(file)
        for key, value in stored.items():
            layer = key.removesuffix(".weight")
            if value.ndim != 2 or not LAYER.fullmatch(key):
                written[key] = value
                continue
            weight = value.mT if config["model_type"] == "gpt2" else value
            out_modes, in_modes = mpo.layer_modes(weight.shape[0], weight.shape[1], SITES[len(section) % 3])
            decomposed = mpo.decompose(weight, out_modes, in_modes, chi=chi)
            written |= {f"{layer}.{name}": tensor for name, tensor in layers.stored_tensors(decomposed, value.dtype).items()}
            section[layer] = MPOLayer(
                out_modes=list(out_modes),
                in_modes=list(in_modes),
                bond_dims=list(decomposed.bond_dims),
                out_features=weight.shape[0],
                in_features=weight.shape[1],
                bias=any(f"{layer}.bias" in load_file(other) for other in base.glob("*.safetensors")),
            )
        save_file(written, folder / file.name, metadata={"format": "pt"})
        tensors |= written
    index = folder / "model.safetensors.index.json"
    if index.exists():
        where = {key: file.name for file in folder.glob("*.safetensors") for key in load_file(file)}
        index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    new = layers.mpo_config(config, section)
    (folder / "config.json").write_text(json.dumps(new))
    shutil.copy(modeling_mpo.__file__, folder)
    return Compressed(base, folder, MPOSection.model_validate(new["mpo"]), tensors)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Compressed]:
    return {name: compress(name, tmp_path_factory.mktemp(name)) for name in ARCHITECTURES}


def load(folder: Path, **options: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, **options)


def reference(compressed: Compressed) -> Any:
    """The base architecture with each layer's cores contracted in float64."""
    model: Any = AutoModelForCausalLM.from_pretrained(compressed.base)
    for name, layer in compressed.section.layers.items():
        sites = (layer.out_modes, layer.in_modes, layer.bond_dims)
        stored = {inner: compressed.tensors[f"{name}.{inner}"] for inner in layers.stored_shapes(*sites)}
        weight = layers.contract_stored(stored, *sites, layer.out_features, layer.in_features).float()
        module = model.get_submodule(name)
        with torch.no_grad():
            module.weight.copy_(weight.mT if isinstance(module, Conv1D) else weight)
    return model


def logits(model: Any, **options: Any) -> Tensor:
    with torch.no_grad():
        return model(TOKENS, **options).logits


# --- every architecture ---


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_loads_whole_and_computes_what_its_cores_stand_for(name: str, checkpoints: dict[str, Compressed]) -> None:
    compressed = checkpoints[name]
    model, info = load(compressed.folder, output_loading_info=True)
    assert {key: found for key, found in info.items() if found} == {}
    replaced = {path for path, module in model.named_modules() if type(module).__name__ == "MPOLinear"}
    assert replaced == set(compressed.section.layers)
    assert len(replaced) >= 8
    base = reference(compressed)
    assert isinstance(model, type(base))
    assert isinstance(model.config, type(base.config))
    assert not model.training
    torch.testing.assert_close(logits(model), logits(base), rtol=1e-5, atol=1e-5)
    for path in ("contract", "keep", "cores"):
        model.set_forward_path(path)
        torch.testing.assert_close(logits(model), logits(base), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_generates_with_and_without_the_cache_like_its_base(name: str, checkpoints: dict[str, Compressed]) -> None:
    model, base = load(checkpoints[name].folder), reference(checkpoints[name])
    options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "attention_mask": torch.ones_like(TOKENS)}
    expected = base.generate(TOKENS, **options)
    assert expected.shape[1] > TOKENS.shape[1]
    assert torch.equal(model.generate(TOKENS, **options), expected)
    assert torch.equal(model.generate(TOKENS, use_cache=False, **options), expected)
    assert model.generation_config.eos_token_id == 257


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_saved_again_it_is_the_same_checkpoint(name: str, checkpoints: dict[str, Compressed], tmp_path: Path) -> None:
    compressed = checkpoints[name]
    model = load(compressed.folder)
    model.save_pretrained(tmp_path / "again")
    files = {file.name for file in (tmp_path / "again").iterdir()}
    assert files == {"config.json", "generation_config.json", "model.safetensors", "modeling_mpo.py"}
    assert (tmp_path / "again" / "modeling_mpo.py").read_bytes() == Path(modeling_mpo.__file__).read_bytes()
    saved = load_file(tmp_path / "again" / "model.safetensors")
    assert saved.keys() == compressed.tensors.keys()
    assert all(torch.equal(value, compressed.tensors[key]) for key, value in saved.items())
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (compressed.folder, tmp_path / "again"))
    assert {key: after.get(key) for key in before} == before
    assert torch.equal(logits(load(tmp_path / "again")), logits(model))


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loads_in_half_precision_by_a_device_map(name: str, dtype: torch.dtype, checkpoints: dict[str, Compressed]) -> None:
    exact = logits(load(checkpoints[name].folder))
    model, info = load(checkpoints[name].folder, dtype=dtype, device_map="auto", output_loading_info=True)
    assert {key: found for key, found in info.items() if found} == {}
    assert model.dtype == dtype
    assert all(p.dtype == dtype for module in model.modules() if type(module).__name__ == "MPOLinear" for p in module.parameters())
    assert mpo.relative_error(exact, logits(model)) < 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_trains_with_gradient_checkpointing(name: str, checkpoints: dict[str, Compressed]) -> None:
    model, base = load(checkpoints[name].folder), reference(checkpoints[name])
    model.activation_checkpointing_enable()

    def loss_of(model: Any) -> Tensor:
        torch.manual_seed(0)  # the same dropout in both
        return model.train()(TOKENS, labels=TOKENS, use_cache=False).loss

    loss, expected = loss_of(model), loss_of(base)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    gradients = {key: p.grad for key, p in model.named_parameters()}
    assert [key for key, gradient in gradients.items() if gradient is None] == []
    shared = [key for key, _ in base.named_parameters() if key in gradients]
    for key in shared:
        torch.testing.assert_close(gradients[key], base.get_parameter(key).grad, rtol=1e-3, atol=1e-5)


# --- once is enough ---


def test_sharded(tmp_path: Path) -> None:
    compressed = compress("llama", tmp_path, shards=3)
    model, info = load(compressed.folder, output_loading_info=True)
    assert len(list(compressed.folder.glob("model-*.safetensors"))) >= 3
    assert {key: found for key, found in info.items() if found} == {}
    torch.testing.assert_close(logits(model), logits(reference(compressed)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("path", ["auto", "contract", "keep"])
def test_offloaded_to_disk(path: modeling_mpo.ForwardPath, checkpoints: dict[str, Compressed], tmp_path: Path) -> None:
    compressed = checkpoints["llama"]
    whole = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    devices = {**whole, "model.layers.0": "cpu", "model.layers.1": "disk"}
    model = load(compressed.folder, device_map=devices, offload_folder=tmp_path)
    assert model.get_parameter("model.layers.1.mlp.up_proj.cores.0.weight").is_meta
    model.set_forward_path(path)
    torch.testing.assert_close(logits(model), logits(reference(compressed)), rtol=1e-5, atol=1e-5)


def test_attention_kernels_are_the_base_models(checkpoints: dict[str, Compressed]) -> None:
    for implementation in ("eager", "sdpa"):
        model = load(checkpoints["llama"].folder, attn_implementation=implementation)
        assert model.config._attn_implementation == implementation
        torch.testing.assert_close(logits(model), logits(reference(checkpoints["llama"])), rtol=1e-5, atol=1e-5)


def test_hidden_states_are_recorded(checkpoints: dict[str, Compressed]) -> None:
    model = load(checkpoints["llama"].folder)
    with torch.no_grad():
        assert len(model(TOKENS, output_hidden_states=True).hidden_states) == 3


def test_without_permission_nothing_loads(checkpoints: dict[str, Compressed]) -> None:
    for auto in (AutoModelForCausalLM, AutoConfig):
        with pytest.raises(ValueError, match="trust_remote_code=True"):
            auto.from_pretrained(checkpoints["llama"].folder, trust_remote_code=False)


def test_the_base_class_does_not_load_it_as_its_own(checkpoints: dict[str, Compressed], tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoints["llama"].folder, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    del config["auto_map"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="bondwise_mpo"):
        AutoModelForCausalLM.from_pretrained(folder)


def test_pickled_weights_are_not_read(checkpoints: dict[str, Compressed], tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoints["llama"].folder, tmp_path / "copy")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match=re.escape("model.safetensors")):
        load(folder)


def test_the_tokenizer_loads(checkpoints: dict[str, Compressed]) -> None:
    for options in ({}, {"trust_remote_code": True}):
        tokenizer: Any = AutoTokenizer.from_pretrained(checkpoints["llama"].folder, **options)
        assert tokenizer.decode(tokenizer("déjà vu 12").input_ids) == "déjà vu 12"


def test_stands_alone(checkpoints: dict[str, Compressed], tmp_path: Path) -> None:
    """In a process that cannot import bondwise, from an empty folder, with an empty cache."""
    code = """
import sys, torch
from transformers import AutoModelForCausalLM
try:
    import bondwise
except ImportError:
    pass
else:
    sys.exit("bondwise can be imported")
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
tokens = torch.arange(24).reshape(2, 12) * 7 % 256
with torch.no_grad():
    torch.save(model(tokens).logits, sys.argv[2])
model.generate(tokens, max_new_tokens=3, attention_mask=torch.ones_like(tokens))
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-P", "-c", code, str(checkpoints["llama"].folder), str(tmp_path / "logits.pt")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert torch.equal(torch.load(tmp_path / "logits.pt", weights_only=True), logits(load(checkpoints["llama"].folder)))


def test_two_bases_in_one_process(checkpoints: dict[str, Compressed]) -> None:
    first, second, again = (load(checkpoints[name].folder) for name in ("llama", "qwen2", "llama"))
    assert type(first) is type(again)
    assert type(first) is not type(second)
    assert torch.equal(logits(first), logits(again))


def test_built_from_its_config(checkpoints: dict[str, Compressed]) -> None:
    config = AutoConfig.from_pretrained(checkpoints["llama"].folder, trust_remote_code=True)
    random: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=True)
    assert random.state_dict().keys() == load(checkpoints["llama"].folder).state_dict().keys()
    assert bool(torch.isfinite(logits(random)).all())


def test_our_own_class_loads_it_too(checkpoints: dict[str, Compressed]) -> None:
    compressed = checkpoints["llama"]
    direct: Any = modeling_mpo.MPOForCausalLM.from_pretrained(compressed.folder, dtype=torch.float32)
    assert isinstance(direct, modeling_mpo.MPOForCausalLM)
    assert torch.equal(logits(direct), logits(load(compressed.folder)))
    config = modeling_mpo.MPOConfig.from_pretrained(compressed.folder)
    assert config.model_type == "llama"
    assert config.to_dict()["model_type"] == "bondwise_mpo"
    built: Any = modeling_mpo.MPOForCausalLM(config)
    built.load_state_dict(direct.state_dict())
    assert torch.equal(logits(built.eval()), logits(direct))


def test_files_may_leave_out_the_base_models_prefix(tmp_path: Path) -> None:
    """As GPT-2's own do: `h.0.attn.c_attn.weight` is `transformer.h.0.attn.c_attn.weight` in the model."""
    compressed = compress("gpt2", tmp_path)
    expected = logits(load(compressed.folder))
    tensors = {key.removeprefix("transformer."): value for key, value in compressed.tensors.items()}
    save_file(tensors, compressed.folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((compressed.folder / "config.json").read_text())
    config["mpo"]["layers"] = {key.removeprefix("transformer."): value for key, value in config["mpo"]["layers"].items()}
    (compressed.folder / "config.json").write_text(json.dumps(config))
    model, info = load(compressed.folder, output_loading_info=True)
    assert {key: found for key, found in info.items() if found} == {}
    assert torch.equal(logits(model), expected)


def test_tensor_parallelism_has_no_plan(checkpoints: dict[str, Compressed]) -> None:
    model = load(checkpoints["llama"].folder)
    assert isinstance(model, PreTrainedModel)
    assert model.tp_plan == {}


# --- bad sections ---


def edited(compressed: Compressed, root: Path, changes: dict[str, Any]) -> Path:
    """A copy with keys of the section mpo (`layers.NAME` for a layer's) changed; None removes one."""
    folder = shutil.copytree(compressed.folder, root / "edited")
    config = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        if key.startswith("layers."):
            layer = config["mpo"]["layers"].setdefault(key.removeprefix("layers."), dict(LOW_RANK))
            layer |= value
        elif value is None:
            del config["mpo"][key]
        else:
            config["mpo"][key] = value
    (folder / "config.json").write_text(json.dumps(config))
    return folder


LOW_RANK = {"out_modes": [1, 32], "in_modes": [32, 1], "bond_dims": [4], "out_features": 32, "in_features": 32, "bias": False}
Q = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 1}, "mpo version 1"),
        ({"base_model_type": None}, "no section mpo that names a base model"),
        ({"base_model_type": "nonesuch"}, "does not know the base model type 'nonesuch'"),
        ({"base_architecture": "os"}, "no model class 'os'"),
        ({f"layers.{Q}": {"out_features": 31}}, f"layer {Q} is 32×32"),
        ({f"layers.{Q}": {"bond_dims": []}}, "do not fit together"),
        ({"layers.absent": {}}, "has no layer absent"),
        ({"layers.model.norm": {}}, "layer model.norm is a LlamaRMSNorm"),
    ],
)
def test_a_section_that_does_not_fit_the_model_is_refused(
    changes: dict[str, Any], message: str, checkpoints: dict[str, Compressed], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        load(edited(checkpoints["llama"], tmp_path, changes))


def test_a_tied_head_is_refused(checkpoints: dict[str, Compressed], tmp_path: Path) -> None:
    head = {"layers.lm_head": {"out_modes": [1, 258], "out_features": 258}}
    with pytest.raises(ValueError, match="lm_head shares its weight"):
        load(edited(checkpoints["qwen2"], tmp_path, head))


def test_fused_experts_are_refused(checkpoints: dict[str, Compressed], tmp_path: Path) -> None:
    expert = "model.layers.0.block_sparse_moe.experts.0.w1"
    with pytest.raises(ValueError, match=f"has no layer {re.escape(expert)}"):
        load(edited(checkpoints["mixtral"], tmp_path, {f"layers.{expert}": {}}))
