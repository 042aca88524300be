"""Moments on disk: the same again, never those of another model, and within their part of the disk."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
import torch
from engine_runs import events, finish, make_run
from safetensors.torch import load_file, save_file
from tiny_models import make_tiny_model, save_tiny_model

from bondwise import calibration, compress, kept, moments_file
from bondwise.calibrate import collect_moments, find_directions
from bondwise.checkpoint import open_checkpoint
from bondwise.modelmap import map_model
from bondwise.moments import Half, Moments
from bondwise.moments_file import MomentStore, store_key
from bondwise.queue import bondwise_home
from bondwise.schema import CalibrationOptions

if TYPE_CHECKING:
    from pathlib import Path

    from bondwise.modelmap import Layer

TEXT: dict[str, Any] = {"length": 32, "sequences": 4}
RULE: dict[str, Any] = {"layers": ["*"], "chi": 4, "method": "fisher"}


def nothing(*_: object) -> None: ...


def key_of(folder: Path, text: str = "text", seed: int = 0, device: str = "cpu") -> str:
    return store_key(open_checkpoint(folder), text, seed, device, nothing)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_tiny_model("llama", tmp_path / "base")


@pytest.fixture
def layers(base: Path) -> tuple[Layer, ...]:
    return map_model(open_checkpoint(base)).layers


@pytest.fixture
def found(layers: tuple[Layer, ...]) -> dict[str, Moments]:
    model = make_tiny_model("llama")
    directions = find_directions(model, layers, progress=nothing, check_cancelled=nothing)
    ids = torch.randint(256, (3, 16), generator=torch.Generator().manual_seed(0))
    return collect_moments(model, layers, ids, directions=directions, seed=0, progress=nothing, check_cancelled=nothing)


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def store(base: Path, warnings: list[str]) -> MomentStore:
    return MomentStore(key_of(base), warnings.append)


@pytest.fixture
def collections(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The layers that each calibration was over, in order."""
    over: list[list[str]] = []

    def collect(model: Any, layers: Any, *arguments: Any, **options: Any) -> dict[str, Moments]:
        over.append([layer.name for layer in layers])
        return collect_moments(model, layers, *arguments, **options)

    monkeypatch.setattr(calibration, "collect_moments", collect)
    return over


def tensorize(directory: Path, model: Path, rule: dict[str, Any] = RULE, seed: int = 0, **text: Any) -> dict[str, Any]:
    options = {"tensorize": [rule], "output": str(directory.with_name(f"{directory.name}-out")), "calibration": {**TEXT, **text}}
    return finish(make_run(directory, "tensorize", options, model=str(model), seed=seed))


def profile(directory: Path, model: Path) -> dict[str, Any]:
    options = {"mode": "spectral", "output": str(directory.with_name(f"{directory.name}.sensitivity.json")), **TEXT}
    return finish(make_run(directory, "profile", options, model=str(model)))


def same(one: Moments | Half, other: Moments | Half) -> bool:
    pairs = [(one.inputs, other.inputs), (one.gradients, other.gradients)]
    return one.tokens == other.tokens and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a is b for a, b in pairs
    )


def test_what_is_read_is_what_was_written(store: MomentStore, found: dict[str, Moments], layers: tuple[Layer, ...]) -> None:
    store.write(found)
    for layer in layers:
        read, written = store.read(layer, gradients=True, directions=True, device="cpu"), found[layer.name]
        assert read is not None and read.half is not None and written.half is not None
        assert same(read, written) and same(read.half, written.half) and read.half.share == written.half.share
        assert read.directions is not None and written.directions is not None and torch.equal(read.directions, written.directions)
    # q, k and v of two blocks read one tensor each, and gate and up do.
    assert len(list(store.folder.glob("*.inputs.moments"))) == len({id(one.inputs) for one in found.values()}) == 8


def test_less_is_not_taken_for_more(store: MomentStore, found: dict[str, Moments], layers: tuple[Layer, ...]) -> None:
    inputs = {name: Moments(one.inputs, None, one.tokens) for name, one in found.items()}
    store.write(inputs)
    assert store.read(layers[0], gradients=True, directions=False, device="cpu") is None
    read = store.read(layers[0], gradients=False, directions=False, device="cpu")
    assert read is not None and read.gradients is None and read.half is None
    store.write({name: Moments(one.inputs, one.gradients, one.tokens) for name, one in found.items()})
    assert store.read(layers[0], gradients=True, directions=False, device="cpu") is not None
    assert store.read(layers[0], gradients=True, directions=True, device="cpu") is None


@pytest.mark.parametrize("where", [0, 100, -40, -1])
@pytest.mark.parametrize("kind", ["*.inputs.moments", "*_proj-*[0-9a-f].moments"])
def test_a_damaged_file_is_told_and_replaced(  # noqa: PLR0917 -- fixtures
    where: int, kind: str, store: MomentStore, found: dict[str, Moments], layers: tuple[Layer, ...], warnings: list[str]
) -> None:
    store.write(found)
    path = next(path for path in sorted(store.folder.glob(kind)) if "layers.0.self_attn.o_proj" in path.name)
    data = bytearray(path.read_bytes())
    data[where] ^= 1
    path.write_bytes(data)
    layer = next(layer for layer in layers if layer.name.endswith("0.self_attn.o_proj"))
    assert store.read(layer, gradients=True, directions=False, device="cpu") is None
    assert warnings == [f"{path} is damaged: the calibration text is read again for {layer.name}."]
    store.write({layer.name: found[layer.name]})
    assert store.read(layer, gradients=True, directions=False, device="cpu") is not None


@pytest.mark.parametrize("length", [0, 7, 31, 32, 200])
def test_a_file_that_was_cut_off_is_damaged(
    length: int, store: MomentStore, found: dict[str, Moments], layers: tuple[Layer, ...], warnings: list[str]
) -> None:
    store.write(found)
    for path in store.folder.iterdir():
        path.write_bytes(path.read_bytes()[:length])
    assert store.read(layers[0], gradients=False, directions=False, device="cpu") is None
    assert len(warnings) == 1


def test_the_files_of_another_model_are_not_used(  # noqa: PLR0917 -- fixtures
    base: Path, tmp_path: Path, store: MomentStore, found: dict[str, Moments], layers: tuple[Layer, ...], warnings: list[str]
) -> None:
    """Two trainings of one model differ in their weights alone; their files, put into one another's folder, are of no use."""
    store.write(found)
    other = save_tiny_model("llama", tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][3, 4] += 0.5
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    assert open_checkpoint(other).fingerprint() == open_checkpoint(base).fingerprint()
    assert key_of(other) != key_of(base)
    foreign = MomentStore(key_of(other), warnings.append)
    assert foreign.read(layers[0], gradients=False, directions=False, device="cpu") is None and not warnings
    store.folder.rename(foreign.folder)
    assert foreign.read(layers[0], gradients=False, directions=False, device="cpu") is None
    assert "is of another model or text" in warnings[0]


def test_a_file_under_another_layers_name_is_not_used(
    store: MomentStore, found: dict[str, Moments], layers: tuple[Layer, ...], warnings: list[str]
) -> None:
    store.write(found)
    first, second = (next(store.folder.glob(f"*layers.{block}.mlp.down_proj-*[0-9a-f].moments")) for block in (0, 1))
    second.write_bytes(first.read_bytes())
    layer = next(layer for layer in layers if layer.name.endswith("1.mlp.down_proj"))
    assert store.read(layer, gradients=True, directions=False, device="cpu") is None
    assert len(warnings) == 1


def test_what_moments_depend_on_is_in_the_key(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [key_of(base), key_of(base, text="other"), key_of(base, seed=1), key_of(base, device="cuda:1")]
    assert key_of(base, device="cuda:0") == keys[3]
    monkeypatch.setattr(moments_file, "FORMAT", 2)
    assert len({*keys, key_of(base)}) == 5


def test_the_oldest_go_first_and_what_does_not_fit_is_not_kept(
    base: Path, found: dict[str, Moments], layers: tuple[Layer, ...], warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = [MomentStore(key_of(base, seed=seed), warnings.append) for seed in range(4)]
    for age, store in zip((10, 30, 20), stores, strict=False):
        store.write(found)
        os.utime(store.folder, (1e9 - age, 1e9 - age))
    each = sum(path.stat().st_size for path in stores[0].folder.iterdir())
    monkeypatch.setattr(kept, "LARGEST", int(each * 3.5))
    again = MomentStore(key_of(base, seed=1), warnings.append)  # used again: no longer the oldest
    assert again.read(layers[0], gradients=True, directions=False, device="cpu") is not None
    stores[3].write(found)
    assert [store.folder.exists() for store in stores] == [True, True, False, True]
    assert not warnings
    monkeypatch.setattr(kept, "LARGEST", each // 2)
    MomentStore(key_of(base, seed=5), warnings.append).write(found)
    assert "is not kept" in warnings[0]
    assert not (bondwise_home() / "moments" / key_of(base, seed=5)).exists()


def test_a_full_disk_is_told_and_no_more(store: MomentStore, found: dict[str, Moments], warnings: list[str]) -> None:
    store.folder.parent.mkdir(parents=True)
    store.folder.write_text("in the way")
    store.write(found)
    assert "is not kept" in warnings[0]


def test_another_size_or_method_needs_no_second_calibration(
    base: Path, tmp_path: Path, collections: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = tensorize(tmp_path / "first", base)
    assert len(collections) == 1

    def load(*_: Any, **__: Any) -> Any:
        raise AssertionError("the model is not needed")

    with monkeypatch.context() as patched:
        patched.setattr(compress, "load_model", load)
        smaller = tensorize(tmp_path / "second", base, {**RULE, "chi": 2})
        tensorize(tmp_path / "third", base, {**RULE, "method": "input"})
    assert len(collections) == 1
    assert all(after["loss"] > before["loss"] for before, after in zip(everything["layers"], smaller["layers"], strict=True))
    tensorize(tmp_path / "seed", base, seed=1)
    assert len(collections) == 2


def test_kept_moments_make_the_same_model(base: Path, tmp_path: Path) -> None:
    for name in ("first", "again"):
        tensorize(tmp_path / name, base)
    weights = [(tmp_path / f"{name}-out" / "model.safetensors").read_bytes() for name in ("first", "again")]
    assert weights[0] == weights[1]


def test_a_profile_serves_the_run_after_it(base: Path, tmp_path: Path, collections: list[list[str]]) -> None:
    """Whatever it measures on: it is calibrated on as many sequences as the run."""
    profile(tmp_path / "profile", base)
    tensorize(tmp_path / "run", base, length=32, sequences=CalibrationOptions().sequences)
    profile(tmp_path / "again", base)
    assert len(collections) == 1


def test_only_layers_that_are_missing_are_calibrated(base: Path, tmp_path: Path, collections: list[list[str]]) -> None:
    tensorize(tmp_path / "first", base, {**RULE, "layers": ["*.q_proj"]})
    tensorize(tmp_path / "second", base, {**RULE, "layers": ["*.q_proj", "*.k_proj"]})
    assert [[name.rpartition(".")[2] for name in over] for over in collections] == [["q_proj"] * 2, ["k_proj"] * 2]


def test_a_damaged_file_in_a_run_is_a_warning(base: Path, tmp_path: Path, collections: list[list[str]]) -> None:
    tensorize(tmp_path / "first", base)
    path = next((bondwise_home() / "moments").glob("*/*layers.1.mlp.down_proj*.inputs.moments"))
    path.write_bytes(b"not this")
    tensorize(tmp_path / "second", base)
    assert collections[1:] == [["model.layers.1.mlp.down_proj"]]
    (warning,) = [event["message"] for event in events(tmp_path / "second", "warning") if "damaged" in event["message"]]
    assert path.name in warning
    assert json.loads((tmp_path / "second" / "status.json").read_text())["state"] == "done"


def test_a_kill_while_groups_are_calibrated_loses_one(
    base: Path, tmp_path: Path, collections: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: int) -> int:
        return 10**18

    monkeypatch.setattr(calibration, "moment_bytes", no_room)  # a group for each layer
    decompose = compress.compress_layer
    done: list[str] = []

    def killed(source: Any, choice: Any, *arguments: Any) -> Any:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(choice.layer.name)
        return decompose(source, choice, *arguments)

    monkeypatch.setattr(compress, "compress_layer", killed)
    with pytest.raises(AssertionError):
        tensorize(tmp_path / "first", base)
    assert len(collections) == 4
    monkeypatch.setattr(compress, "compress_layer", decompose)
    tensorize(tmp_path / "second", base)
    assert len(collections) == 14  # 14 layers, each once
