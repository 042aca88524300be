"""Reading: what is whole is read to the bit, what is not is refused with the file's name and a remedy."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import save_tiny_model

from bondwise import trust
from bondwise.checkpoint import INDEX_FILE, SINGLE_FILE, check_finite, dtype_name, open_checkpoint, torch_dtype
from bondwise.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
A = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model("llama", tmp_path_factory.mktemp("sharded"), shards=3)


def make_folder(folder: Path, header: dict[str, Any] | bytes | None = None, data: bytes = bytes(8), length: int | None = None) -> Path:
    """A folder with one weight file made of exactly these bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    text = header if isinstance(header, bytes) else json.dumps(A if header is None else header).encode()
    (folder / SINGLE_FILE).write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return folder


def copy_of(source: Path, folder: Path) -> Path:
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def refusal(folder: Path, names: str, *, allow_code: bool = False) -> UserError:
    """The error of opening `folder`, which must name `names` and say what to do."""
    with pytest.raises(UserError) as caught:
        open_checkpoint(folder, allow_code=allow_code)
    assert names in caught.value.message
    assert caught.value.remedy
    return caught.value


def test_reads_every_shard_as_safetensors_does(sharded: Path) -> None:
    checkpoint = open_checkpoint(sharded)
    expected = {name: tensor for shard in sharded.glob("*.safetensors") for name, tensor in load_file(shard).items()}
    assert len(checkpoint.shards) >= 3
    assert checkpoint.tensors.keys() == expected.keys()
    assert checkpoint.parameters == sum(tensor.numel() for tensor in expected.values())
    assert checkpoint.bytes == sum(tensor.nbytes for tensor in expected.values())
    for name, tensor in expected.items():
        assert torch.equal(checkpoint.read(name), tensor)
        assert checkpoint.read(name).dtype == tensor.dtype


def test_reads_every_dtype_that_torch_has(tmp_path: Path) -> None:
    torch.manual_seed(0)
    raw = torch.randint(0, 256, (16,), dtype=torch.uint8)
    dtypes = [
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.int64, torch.int32, torch.int16, torch.int8),
        *(torch.uint64, torch.uint32, torch.uint16, torch.uint8, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz),
        *(torch.float8_e5m2fnuz, torch.float8_e8m0fnu, torch.float4_e2m1fn_x2),
    ]
    tensors = {str(dtype): raw.view(dtype).clone() for dtype in dtypes}
    tensors |= {"bool": torch.tensor([True, False]), "scalar": torch.tensor(3.5), "empty": torch.empty(0, 4)}
    save_file(tensors, make_folder(tmp_path) / SINGLE_FILE)
    checkpoint = open_checkpoint(tmp_path)
    for name, tensor in tensors.items():
        read = checkpoint.read(name)
        assert (read.dtype, read.shape) == (tensor.dtype, tensor.shape)
        assert read.view(-1).view(torch.uint8).tolist() == tensor.view(-1).view(torch.uint8).tolist()
        assert dtype_name(tensor.dtype) == checkpoint.tensors[name].dtype


def test_a_dtype_that_torch_lacks_is_named(tmp_path: Path) -> None:
    make_folder(tmp_path, {"six": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [0, 3]}}, bytes(3))
    checkpoint = open_checkpoint(tmp_path)
    with pytest.raises(UserError, match="six has the dtype F6_E2M3"):
        torch_dtype(checkpoint.tensors["six"])


def test_what_is_read_is_no_mapping_of_the_file(sharded: Path) -> None:
    checkpoint = open_checkpoint(sharded)
    kept = [checkpoint.read(name) for name in checkpoint.tensors]
    assert kept
    assert str(sharded) not in Path("/proc/self/maps").read_text()


def test_a_hub_cache_of_links_is_read(sharded: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for file in sharded.iterdir():
        digest = hashlib.sha256(file.name.encode()).hexdigest()
        (blobs / digest).write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(Path("../../blobs") / digest)
    checkpoint, original = open_checkpoint(snapshot), open_checkpoint(sharded)
    assert checkpoint.fingerprint() == original.fingerprint()
    name = next(iter(original.tensors))
    assert torch.equal(checkpoint.read(name), original.read(name))


def test_the_fingerprint_covers_config_and_headers_but_no_weights(sharded: Path, tmp_path: Path) -> None:
    folder = copy_of(sharded, tmp_path / "copy")
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for shard in sorted(folder.glob("*.safetensors")):
        content = shard.read_bytes()
        digest.update(shard.name.encode() + b"\0" + content[: 8 + int.from_bytes(content[:8], "little")])
    assert open_checkpoint(folder).fingerprint() == digest.hexdigest()
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    assert open_checkpoint(folder).fingerprint() != digest.hexdigest()


def test_opening_needs_no_torch(sharded: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from bondwise.inspection import inspect; "
        "inspect(Path(sys.argv[1])); print('torch' in sys.modules)"
    )
    engine = Path(__file__).parents[2] / "engine"
    done = subprocess.run([sys.executable, "-c", code, str(sharded)], cwd=engine, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# --- damaged files -----------------------------------------------------------------------------------------------------------------

BAD_HEADERS: dict[str, Callable[[Path], object]] = {
    "truncated data": lambda folder: make_folder(folder, data=bytes(4)),
    "data too long": lambda folder: make_folder(folder, data=bytes(12)),
    "overlapping": lambda folder: make_folder(folder, {**A, "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, bytes(12)),
    "hole": lambda folder: make_folder(folder, {**A, "b": {"dtype": "F32", "shape": [1], "data_offsets": [12, 16]}}, bytes(16)),
    "header over the end": lambda folder: make_folder(folder, length=1 << 20),
    "header over any memory": lambda folder: make_folder(folder, length=(1 << 64) - 1),
    "not JSON": lambda folder: make_folder(folder, b"\x80\x04 pickle, renamed"),
    "JSON list": lambda folder: make_folder(folder, b"[1, 2, 3]"),
    "unknown dtype": lambda folder: make_folder(folder, {"a": {"dtype": "F31", "shape": [2], "data_offsets": [0, 8]}}),
    "shape against offsets": lambda folder: make_folder(folder, {"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}),
    "shape over 64 bits": lambda folder: make_folder(folder, {"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 8]}}),
    "negative offset": lambda folder: make_folder(folder, {"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}),
    "a key twice": lambda folder: make_folder(folder, json.dumps(A).encode()[:-1] + b"," + json.dumps(A).encode()[1:]),
    "empty file": lambda folder: (make_folder(folder) / SINGLE_FILE).write_bytes(b""),
    "five bytes": lambda folder: (make_folder(folder) / SINGLE_FILE).write_bytes(b"12345"),
}


@pytest.mark.parametrize("damage", BAD_HEADERS.values(), ids=BAD_HEADERS.keys())
def test_a_damaged_header_is_refused(damage: Callable[[Path], object], tmp_path: Path) -> None:
    damage(tmp_path)
    refusal(tmp_path, str(tmp_path / SINGLE_FILE))


def test_a_real_header_above_the_limit_is_told_apart_from_damage(tmp_path: Path) -> None:
    make_folder(tmp_path, b"{" + b" " * 100_000_001 + b"}")
    assert "more shards" in (refusal(tmp_path, "100000003 bytes").remedy or "")


def test_a_file_cut_off_after_opening_is_noticed(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(make_folder(tmp_path))
    os.truncate(tmp_path / SINGLE_FILE, 20)
    with pytest.raises(UserError, match="ended inside a"):
        checkpoint.read("a")


@pytest.mark.parametrize(
    "shard", ["../a.safetensors", "/etc/a.safetensors", "sub/a.safetensors", "..", "a\\b.safetensors", "C:x.safetensors", "", 3]
)
def test_a_shard_name_that_leaves_the_folder_is_refused(shard: object, sharded: Path, tmp_path: Path) -> None:
    folder = copy_of(sharded, tmp_path / "copy")
    index = json.loads((folder / INDEX_FILE).read_text())
    index["weight_map"]["model.norm.weight"] = shard
    (folder / INDEX_FILE).write_text(json.dumps(index))
    refusal(folder, repr(shard))


def test_an_index_is_held_to_its_shards(sharded: Path, tmp_path: Path) -> None:
    folder = copy_of(sharded, tmp_path / "copy")
    index = json.loads((folder / INDEX_FILE).read_text())
    weight_map: dict[str, str] = index["weight_map"]
    names = sorted(set(weight_map.values()))

    def write(change: dict[str, str], without: str | None = None) -> None:
        changed = {name: shard for name, shard in {**weight_map, **change}.items() if name != without}
        (folder / INDEX_FILE).write_text(json.dumps({**index, "weight_map": changed}))

    moved = next(name for name, shard in weight_map.items() if shard == names[0])
    write({moved: names[1]})
    refusal(folder, moved)
    write({"model.nowhere.weight": names[0]})
    refusal(folder, "model.nowhere.weight")
    write({}, without=moved)
    refusal(folder, moved)
    write({moved: "model.bin"})
    assert "pickle" in (refusal(folder, "model.bin").remedy or "")
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": {}}))
    refusal(folder, INDEX_FILE)
    (folder / INDEX_FILE).write_text("{")
    refusal(folder, INDEX_FILE)
    write({})
    assert open_checkpoint(folder).tensors.keys() == weight_map.keys()
    (folder / names[0]).write_bytes((folder / names[1]).read_bytes())
    refusal(folder, "again")
    (folder / names[0]).unlink()
    refusal(folder, names[0])


def test_folders_without_safetensors_are_refused_each_for_its_reason(tmp_path: Path) -> None:
    refusal(tmp_path / "nowhere", "does not exist")
    (tmp_path / "file").touch()
    refusal(tmp_path / "file", "is a file")
    refusal(tmp_path, "no .safetensors")
    (tmp_path / "model.gguf").touch()
    refusal(tmp_path, "GGUF")
    (tmp_path / "model-00001-of-00002.safetensors").touch()
    refusal(tmp_path, INDEX_FILE)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    assert "save_pretrained" in (refusal(tmp_path, "pytorch_model.bin").remedy or "")


@pytest.mark.parametrize("text", ["{", "[]", '"text"', "\xff", "[" * 100_000])
def test_a_config_that_is_no_object_is_refused(text: str, tmp_path: Path) -> None:
    make_folder(tmp_path)
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    refusal(tmp_path, str(tmp_path / "config.json"))


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    (make_folder(tmp_path) / "config.json").unlink()
    refusal(tmp_path, "config.json")


def test_a_tensor_that_is_not_there_is_named(sharded: Path) -> None:
    with pytest.raises(UserError, match=r"no tensor model\.nothing"):
        open_checkpoint(sharded).read("model.nothing")


# --- values ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e5m2])
def test_nan_and_infinity_are_counted(dtype: torch.dtype) -> None:
    values = torch.ones(40).to(dtype).float()
    check_finite("layer", values.to(dtype))
    values[3], values[5], values[7] = float("nan"), float("inf"), float("-inf")
    with pytest.raises(UserError, match="layer holds 1 NaN and 2 infinite values among 40"):
        check_finite("layer", values.to(dtype))


def test_the_largest_finite_values_are_finite() -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        check_finite("layer", torch.full((1000,), torch.finfo(dtype).max, dtype=dtype))


# --- trust -------------------------------------------------------------------------------------------------------------------------


def with_config(folder: Path, **fields: object) -> Path:
    make_folder(folder)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **fields}))
    return folder


FOREIGN: dict[str, dict[str, object]] = {
    "attention kernel": {"attn_implementation": "someone/kernel"},
    "hidden attention kernel": {"_attn_implementation_internal": "someone/kernel"},
    "attention kernel of a part": {"_attn_implementation": {"text_config": "someone/kernel"}},
    "attention kernel in a part": {"text_config": {"_attn_implementation": "someone/kernel"}},
    "attention kernel in one of several parts": {"parts": [{}, {"attn_implementation": "someone/kernel"}]},
    "experts kernel": {"experts_implementation": "someone/kernel"},
    "code of another repository": {"auto_map": {"AutoModelForCausalLM": "someone/repo--modeling.Model"}},
    "code outside the folder": {"auto_map": {"AutoModelForCausalLM": "../modeling.Model"}},
    "another config": {"configuration_files": ["config.4.0.0.json"]},
    "other weights": {"transformers_weights": "hidden.safetensors"},
    "weights of another repository": {"use_pretrained_backbone": True, "backbone": "someone/model"},
}


@pytest.mark.parametrize("fields", FOREIGN.values(), ids=FOREIGN.keys())
def test_what_would_come_from_elsewhere_is_refused_even_where_code_is_allowed(fields: dict[str, object], tmp_path: Path) -> None:
    with_config(tmp_path, **fields)
    refusal(tmp_path, next(iter(fields)))
    refusal(tmp_path, next(iter(fields)), allow_code=True)


def test_harmless_values_of_the_same_fields_pass(tmp_path: Path) -> None:
    with_config(tmp_path, attn_implementation="sdpa", transformers_weights=None, configuration_files=[], use_pretrained_backbone=False)
    open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_link_out_of_the_folder_is_refused_but_for_the_hubs_cache(name: str, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "models--a--b" / "snapshots" / "0123")
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir()
    (folder / name).rename(blobs / "abcd")
    (folder / name).symlink_to("../../blobs/abcd")
    open_checkpoint(folder)
    (blobs / "abcd").rename(tmp_path / "secret")
    (folder / name).unlink()
    (folder / name).symlink_to(tmp_path / "secret")
    refusal(folder, f"{folder / name} is a link out of its folder")


def test_an_adapter_is_refused(tmp_path: Path) -> None:
    (make_folder(tmp_path) / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/model"}')
    refusal(tmp_path, "adapter")


def test_own_code_is_refused_unless_allowed(tmp_path: Path) -> None:
    with_config(
        tmp_path, model_type="unheard_of", auto_map={"AutoConfig": "configuration_x.Config", "AutoModelForCausalLM": "modeling_x.Model"}
    )
    refusal(tmp_path, "configuration_x.py, modeling_x.py")
    open_checkpoint(tmp_path, allow_code=True)


def test_an_auto_map_beside_a_known_model_type_is_not_needed(tmp_path: Path) -> None:
    with_config(tmp_path, auto_map={"AutoModelForCausalLM": "modeling_x.Model"})
    open_checkpoint(tmp_path)


def test_only_our_own_module_runs_without_asking(tmp_path: Path) -> None:
    from bondwise import modeling_mpo

    module = Path(modeling_mpo.__file__).read_bytes()
    with_config(tmp_path, model_type="bondwise_mpo", auto_map=dict(modeling_mpo.AUTO_MAP))
    refusal(tmp_path, "modeling_mpo.py")
    (tmp_path / "modeling_mpo.py").write_bytes(module)
    assert trust.runs_own_code(tmp_path, open_checkpoint(tmp_path).config)
    (tmp_path / "modeling_mpo.py").write_bytes(module + b"\nimport os\n")
    refusal(tmp_path, "modeling_mpo.py")
    (tmp_path / "modeling_mpo.py").write_bytes(module)
    with_config(tmp_path, model_type="bondwise_mpo", auto_map={**modeling_mpo.AUTO_MAP, "AutoTokenizer": ["evil.Tokenizer", None]})
    refusal(tmp_path, "evil.py")
