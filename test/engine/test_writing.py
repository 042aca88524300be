"""Writing: what is kept is kept to the bit, what is replaced is replaced, and a kill leaves the old folder or the new one whole."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import time
import tracemalloc
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_models import save_tiny_model

from bondwise import writing
from bondwise.checkpoint import BITS, INDEX_FILE, PIECE, SINGLE_FILE, open_checkpoint
from bondwise.errors import UserError
from bondwise.writing import LINEAGE_FILE, CheckpointWriter, PlannedTensor, Replacement, check_output, free_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model("llama", tmp_path_factory.mktemp("source"), shards=3, dtype=torch.bfloat16)


def load_folder(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for shard in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(shard).items()}


def replacement(removed: str, **tensors: Tensor) -> Replacement:
    names = {torch.bfloat16: "BF16", torch.float32: "F32", torch.int64: "I64"}
    planned = tuple(PlannedTensor(name, names[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items())
    return Replacement((removed,), planned, lambda: iter(tensors.values()))


def write_model(output: Path, source: Path, replacements: list[Replacement] | None = None) -> None:
    checkpoint = open_checkpoint(source)
    with CheckpointWriter(output, source) as writer:
        writer.write_weights(checkpoint, replacements or [])
        writer.copy_companions(source)
        writer.write_json("config.json", checkpoint.config)
        writer.write_json(LINEAGE_FILE, {})
        writer.publish()


def cannot_exchange(first: Path, second: Path) -> bool:
    """A system without renameat2."""
    return False


def left_beside(output: Path) -> list[str]:
    return [path.name for path in output.parent.iterdir() if path.name.startswith(f".{output.name}.")]


def test_no_link_takes_a_file_of_the_users_into_a_folder_that_may_be_published(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "source"
    shutil.copytree(source, folder)
    (tmp_path / "secret").write_text("a token")
    (folder / "tokenizer_config.json").unlink()
    (folder / "tokenizer_config.json").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="is a link out of its folder"):
        write_model(tmp_path / "out", folder)
    assert not (tmp_path / "out").exists() and left_beside(tmp_path / "out") == []


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "opt", "gpt_neox", "mixtral"])
@pytest.mark.parametrize("shards", [1, 3])
def test_a_copy_is_the_same_model(name: str, shards: int, tmp_path: Path) -> None:
    folder = save_tiny_model(name, tmp_path / "source", shards=shards)
    write_model(tmp_path / "copy", folder)
    before, after = load_folder(folder), load_folder(tmp_path / "copy")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert [path.name for path in sorted(folder.glob("*.safetensors"))] == [
        path.name for path in sorted((tmp_path / "copy").glob("*.safetensors"))
    ]
    if (folder / INDEX_FILE).exists():
        assert json.loads((folder / INDEX_FILE).read_text()) == json.loads((tmp_path / "copy" / INDEX_FILE).read_text())


def test_replaced_tensors_stay_in_the_shard_of_what_they_replace(source: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(source)
    chosen = ["model.layers.0.mlp.up_proj", "model.layers.1.self_attn.q_proj"]
    torch.manual_seed(0)
    cores = {name: [torch.randn(7, 32).bfloat16(), torch.randn(5, 7).bfloat16()] for name in chosen}
    done: list[tuple[int, int]] = []
    with CheckpointWriter(tmp_path / "out", source) as writer:
        total = writer.write_weights(
            checkpoint,
            [replacement(f"{name}.weight", **{f"{name}.cores.{k}.weight": core for k, core in enumerate(cores[name])}) for name in chosen],
            step=lambda count, whole: done.append((count, whole)),
        )
        writer.write_json("config.json", checkpoint.config)
        writer.publish()
    index = json.loads((tmp_path / "out" / INDEX_FILE).read_text())
    written = open_checkpoint(tmp_path / "out")
    for name in chosen:
        assert f"{name}.weight" not in written.tensors
        for k, core in enumerate(cores[name]):
            assert torch.equal(written.read(f"{name}.cores.{k}.weight"), core)
            assert index["weight_map"][f"{name}.cores.{k}.weight"] == checkpoint.tensors[f"{name}.weight"].file.name
    for name, tensor in load_folder(source).items():
        if name.removesuffix(".weight") not in chosen:
            assert torch.equal(written.read(name), tensor)
    assert done[-1] == (total, total)
    assert total == written.bytes == index["metadata"]["total_size"]
    assert index["metadata"]["total_parameters"] == written.parameters


def test_every_tensor_is_aligned_and_the_library_reads_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    save_file(
        {"w": torch.ones(3, 3).bfloat16(), "odd": torch.ones(3, dtype=torch.uint8), "big": torch.ones(3, dtype=torch.float64)},
        folder / SINGLE_FILE,
        metadata={"format": "pt", "origin": "a test"},
    )
    added = {"w.pivots": torch.arange(3), "w.core": torch.ones(3).bfloat16(), "w.scale": torch.tensor(2.0)}
    with CheckpointWriter(tmp_path / "out", folder) as writer:
        writer.write_weights(open_checkpoint(folder), [replacement("w", **added)])
        writer.write_json("config.json", {"model_type": "llama"})
        writer.publish()
    for entry in open_checkpoint(tmp_path / "out").tensors.values():
        assert entry.start % max(1, BITS[entry.dtype] // 8) == 0
    with safe_open(tmp_path / "out" / SINGLE_FILE, framework="pt") as file:
        assert file.metadata() == {"format": "pt", "origin": "a test"}
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in added.items())


@pytest.mark.parametrize("wrong", [torch.ones(2, 2), torch.ones(2, 3).bfloat16()])
def test_a_tensor_that_is_not_as_planned_stops_the_writing(wrong: Tensor, source: Path, tmp_path: Path) -> None:
    plan = Replacement(("model.norm.weight",), (PlannedTensor("core", "F32", (2, 3)),), lambda: iter([wrong]))
    with pytest.raises(ValueError, match="planned"), CheckpointWriter(tmp_path / "out", source) as writer:
        writer.write_weights(open_checkpoint(source), [plan])
    assert not left_beside(tmp_path / "out")


def test_names_that_are_not_there_or_written_twice_are_mistakes(source: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(source)
    with CheckpointWriter(tmp_path / "out", source) as writer:
        with pytest.raises(ValueError, match="nowhere"):
            writer.write_weights(checkpoint, [replacement("nowhere", core=torch.ones(1))])
        with pytest.raises(ValueError, match="twice"):
            writer.write_weights(checkpoint, [replacement("model.norm.weight", **{"lm_head.weight": torch.ones(1)})])


def test_companions_are_what_is_known_and_neither_weights_nor_code(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "source"
    (folder / "additional_chat_templates").mkdir(parents=True)
    (folder / ".git").mkdir()
    wanted = [
        "LICENSE",
        "additional_chat_templates/rag.jinja",
        "chat_template.jinja",
        "generation_config.json",
        "merges.txt",
        "tokenizer.json",
    ]
    unwanted = [
        "pytorch_model.bin",
        "model.gguf",
        "modeling.py",
        "training_args.bin",
        "tokenizer.pkl",
        "adapter.safetensors",
        ".git/config",
    ]
    for name in (*wanted, *unwanted):
        (folder / name).write_text(name)
    (folder / "vocab.json").symlink_to(folder / "merges.txt")
    with CheckpointWriter(tmp_path / "out") as writer:
        assert writer.copy_companions(folder) == sorted([*wanted, "vocab.json"])
        assert not (writer.folder / "vocab.json").is_symlink()
        assert (writer.folder / "additional_chat_templates/rag.jinja").read_text() == "additional_chat_templates/rag.jinja"


def test_files_can_be_read_by_others(source: Path, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_model(tmp_path / "out", source)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir() if path.is_file()} == {0o644}


# --- the place ---------------------------------------------------------------------------------------------------------------------


def test_what_is_not_ours_is_never_replaced(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("ten years")
    for place, names in ((tmp_path / "file", "is a file"), (tmp_path / "full", "was not made by Bondwise")):
        with pytest.raises(UserError, match=names) as caught:
            CheckpointWriter(place, source)
        assert caught.value.remedy
    for place in (source, source / "inside", source.parent):
        with pytest.raises(UserError):
            check_output(place, source)
    assert (tmp_path / "full" / "thesis.txt").read_text() == "ten years"


def test_an_empty_folder_and_missing_parents_are_places(source: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "a" / "b" / "out"):
        write_model(place, source)
        open_checkpoint(place)
        assert not left_beside(place)


def test_a_folder_that_came_meanwhile_stays(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with CheckpointWriter(output, source) as writer:
        writer.write_weights(open_checkpoint(source), [])
        output.mkdir()
        (output / "theirs").touch()
        with pytest.raises(UserError, match="not made by Bondwise"):
            writer.publish()
    assert [path.name for path in output.iterdir()] == ["theirs"]
    assert not left_beside(output)


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two renames"])
def test_ours_is_replaced_only_by_a_whole_one(exchange: bool, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not exchange:
        monkeypatch.setattr(writing, "_exchange", cannot_exchange)
    output = tmp_path / "out"
    write_model(output, source)
    (output / "mark").touch()
    with pytest.raises(KeyboardInterrupt), CheckpointWriter(output, source) as writer:
        writer.write_weights(open_checkpoint(source), [])
        raise KeyboardInterrupt
    assert (output / "mark").exists()
    write_model(output, source)
    assert not (output / "mark").exists()
    assert not left_beside(output)


def test_two_writers_of_one_folder_do_not_meet(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with CheckpointWriter(output, source), pytest.raises(UserError, match="Another run"):
        CheckpointWriter(output, source)
    CheckpointWriter(output, source).abandon()


def test_a_full_disk_is_told_and_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing, "_copy", full)
    with pytest.raises(UserError, match="disk is full"), CheckpointWriter(tmp_path / "out", source) as writer:
        writer.write_weights(open_checkpoint(source), [])
    assert not left_beside(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_free_bytes_of_a_place_that_is_not_there_yet(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "a" / "b") == pytest.approx(os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize, rel=0.1)


def test_memory_while_copying_is_a_piece_and_not_a_tensor(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    save_file({"big": torch.ones(12 * PIECE, dtype=torch.uint8)}, folder / SINGLE_FILE)
    checkpoint = open_checkpoint(folder)
    tracemalloc.start()
    try:
        with CheckpointWriter(tmp_path / "out", folder) as writer:
            writer.write_weights(checkpoint, [])
            peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert PIECE <= peak < 2 * PIECE


# --- kills -------------------------------------------------------------------------------------------------------------------------


def versions(source: Path) -> Iterator[Replacement]:
    """Endless replacements of one tensor in each shard, all by the same number."""
    for shard in open_checkpoint(source).shards:
        entry = shard.tensors[0]
        yield Replacement((entry.name,), (PlannedTensor(entry.name, "I64", (1,)),), lambda: iter([torch.tensor([_version])]))


_version = 0


def write_version(output: Path, source: Path, version: int) -> None:
    global _version  # noqa: PLW0603 -- what the replacements above yield
    _version = version
    checkpoint = open_checkpoint(source)
    with CheckpointWriter(output, source) as writer:
        writer.write_json(LINEAGE_FILE, {"version": version})
        writer.write_weights(checkpoint, list(versions(source)))
        writer.write_json("config.json", {**checkpoint.config, "version": version})
        writer.publish()


def version_of(output: Path) -> int:
    """The version of a folder; all of its files must be of the same."""
    checkpoint = open_checkpoint(output)
    found = {int(checkpoint.read(shard.tensors[0].name)) for shard in checkpoint.shards}
    found |= {checkpoint.config["version"], json.loads((output / LINEAGE_FILE).read_text())["version"]}
    assert len(found) == 1
    return found.pop()


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two renames"])
def test_a_kill_at_any_moment_leaves_the_old_or_the_new(
    exchange: bool, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:
        monkeypatch.setattr(writing, "_exchange", cannot_exchange)
    output = tmp_path / "out"
    write_version(output, source, 0)
    started = time.monotonic()
    write_version(output, source, 1)
    once = time.monotonic() - started
    moments = random.Random(0)
    unfinished, last = 0, 1
    for trial in range(1, 31):
        child = os.fork()
        if child == 0:
            try:
                for version in range(trial * 1000, trial * 1000 + 1000):
                    write_version(output, source, version)
            finally:
                os._exit(1)
        time.sleep(moments.uniform(0, 3 * once))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        unfinished += bool(left_beside(output))
        if exchange:
            assert version_of(output) >= last
        # Where two names cannot be exchanged, a kill between the renames is mended by whoever comes next.
        CheckpointWriter(output, source).abandon()
        assert not left_beside(output)
        last = version_of(output)
        assert last == 1 or last >= 1000
    assert unfinished > 0
    assert last >= 1000
