"""GGUF files that are nearly right through the sample model's conversion, each in a process of its own with bounds on memory and time.

The sample model's package is held to a hash, so such a file would have to come from whoever made the package; all the same it may end a
conversion in an error only, never in a crash, a hang, memory without bound or a file outside the folder.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import struct
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

COUNTS = {"short": 0, "usual": 60, "long": 1_000}
SECONDS = 60.0
MEMORY = 6 << 30
"""Bytes of address space more than this process has already: torch alone maps some."""


def write_gguf(path: Path) -> None:
    """A llama of one block with 40 tokens."""
    import gguf
    import numpy as np

    tokens = [chr(letter) for letter in range(ord("a"), ord("z") + 1)] + ["ab", "cd"] + [f"<{n}>" for n in range(10)] + ["<s>", "</s>"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges(["a b", "c d"])
    writer.add_bos_token_id(38)
    writer.add_eos_token_id(39)
    draw = np.random.default_rng(0)
    shapes = {"token_embd": (40, 32), "output": (40, 32), "blk.0.attn_q": (32, 32), "blk.0.attn_k": (16, 32), "blk.0.attn_v": (16, 32)}
    shapes |= {"blk.0.attn_output": (32, 32), "blk.0.ffn_gate": (64, 32), "blk.0.ffn_up": (64, 32), "blk.0.ffn_down": (32, 64)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", draw.standard_normal(shape, dtype=np.float32))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(32, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def broken(content: bytes, chance: random.Random) -> bytes:
    """One to three places changed, most of them where counts, lengths, types and offsets stand."""
    changed = bytearray(content)
    head = content.index(b"blk.0.ffn_norm.weight") + 60
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(4, head) if chance.random() < 0.9 else chance.randrange(len(changed))
        match chance.randrange(5):
            case 0:
                changed[at] = chance.randrange(256)
            case 1:
                value = chance.choice([0, 1, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1])
                changed[at : at + 8] = struct.pack("<Q", value)
            case 2:
                changed[at : at + 4] = struct.pack("<I", chance.choice([0, 7, 8, 9, 12, 99, 2**32 - 1]))
            case 3:
                del changed[at : at + chance.randrange(1, 40)]
            case _:
                changed[at:at] = bytes(chance.randrange(256) for _ in range(chance.randrange(1, 20)))
    return bytes(changed) if chance.random() < 0.9 else bytes(changed[: chance.randrange(len(changed))])


def convert_in_child(gguf: Path, output: Path) -> str:
    """`converted`, `refused`, or what else became of the process."""
    if (child := os.fork()) == 0:
        os.setsid()
        for stream in (1, 2):
            os.dup2(os.open(gguf.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") if Path("/proc/self/statm").exists() else 0
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        status = 9
        try:
            from bondwise.errors import UserError
            from bondwise.sample_model import convert

            try:
                convert(gguf, output)
                status = 0
            except UserError as failure:
                print(failure.message, flush=True)
                status = 1
            except MemoryError:
                status = 3
            except BaseException:
                traceback.print_exc()
        finally:
            os._exit(status)
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return {0: "converted", 1: "refused", 3: "asked for memory without bound"}.get(code, f"ended with {code}")
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return f"was at it for {SECONDS:.0f} s"


def torture(size: str, seed: int) -> list[dict[str, Any]]:
    # Loaded once, for all children; nothing is computed here.
    import transformers.integrations.ggml  # pyright: ignore[reportUnusedImport]
    import transformers.modeling_gguf_pytorch_utils  # noqa: F401 # pyright: ignore[reportUnusedImport]
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, LlamaForCausalLM  # noqa: F401 # pyright: ignore[reportUnusedImport]

    import bondwise.sample_model  # noqa: F401 # pyright: ignore[reportUnusedImport]

    work = Path(tempfile.mkdtemp(prefix="bondwise-torture-"))
    outcomes: dict[str, int] = {}
    failures: list[str] = []
    try:
        (work / "in").mkdir()
        whole = work / "in" / "model.gguf"
        if (child := os.fork()) == 0:
            write_gguf(whole)
            os._exit(0)
        os.waitpid(child, 0)
        content = whole.read_bytes()
        if (said := convert_in_child(whole, work / "whole")) != "converted":
            log = whole.with_suffix(".log").read_text()[-800:]
            return [{"what": "GGUF files", "unit": "inputs", "tried": 1, "stood": 0, "failures": [f"the whole file {said}: {log}"]}]
        for number in range(COUNTS[size]):
            whole.write_bytes(broken(content, random.Random(f"{seed} {number}")))
            whole.with_suffix(".log").unlink(missing_ok=True)
            said = convert_in_child(whole, work / "out")
            outcomes[said] = outcomes.get(said, 0) + 1
            if said not in ("converted", "refused"):
                failures.append(f"input {number} of seed {seed}: {said}: {whole.with_suffix('.log').read_text()[-300:]!r}")
            if astray := sorted(path.name for path in work.iterdir() if path.name not in ("in", "whole", "out")):
                failures.append(f"input {number} of seed {seed}: it wrote {astray}")
            shutil.rmtree(work / "out", ignore_errors=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    note = ", ".join(f"{count} {said}" for said, count in sorted(outcomes.items()))
    counted = {"unit": "inputs", "tried": COUNTS[size], "stood": COUNTS[size] - len(failures), "failures": failures, "note": note}
    return [{"what": "GGUF files of the sample model's path", **counted}]
