"""A checkpoint of LLaMA-7B's shapes through `tensorize --method input` with 10 GB of memory: seconds a layer and a block, and peak memory.

The weights are random bf16, in 2 and in 4 blocks; of the last block some layers are compressed, with 8 sequences of 512 tokens. The engine
runs in a process of its own that is told of 10 GB, so that it reads the model block by block: all 32 blocks would be 13 GB in bf16, and
27 GB as it computes. `pass_s` is a block that is only passed, `calibrate_s` one with moments. `whole_hours` is what 32 blocks with all
their layers would take at these rates.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HIDDEN, INTERMEDIATE, HEADS, VOCABULARY, BLOCKS = 4096, 11008, 32, 32000, 32
LIMIT = 10 * 10**9
KEEP = 0.3
SHAPES = {"self_attn.q_proj": 4, "mlp.gate_proj": 2, "mlp.down_proj": 1}
"""One layer of each shape, and how many of them a block has."""
DEPTHS = {2: ["mlp.down_proj"], 4: list(SHAPES)}
"""Blocks of the model → what is compressed in the last one. Of all shapes down_proj takes the most memory."""

RUN = f"""
import json, sys, time
from pathlib import Path
import psutil
from bondwise import block_moments, device
from bondwise.run import start

def told():
    used = psutil.Process().memory_info().rss
    return device.Memory(max({LIMIT} - used, 0), {LIMIT})

device.host_memory = told
forward, seconds = block_moments._Blocks.forward, []

def timed(self, part, **options):
    started = time.perf_counter()
    found = forward(self, part, **options)
    seconds.append([len(part.layers), time.perf_counter() - started])
    return found

block_moments._Blocks.forward = timed
if start(Path(sys.argv[1])):
    sys.exit(Path(sys.argv[1], "status.json").read_text())
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(json.dumps({{"peak": int(status["VmHWM"].split()[0]) * 1024, "blocks": seconds}}))
"""


def write_model(folder: Path, blocks: int) -> None:
    """One block's weights in memory at a time, cut out of one random buffer at different places."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    folder.mkdir(parents=True)
    config = LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=blocks,
        num_attention_heads=HEADS,
        vocab_size=VOCABULARY,
        tie_word_embeddings=False,
        dtype="bfloat16",
    )
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0").save_pretrained(folder)
    buffer = torch.randn(VOCABULARY * HIDDEN + 10**6, generator=torch.Generator().manual_seed(0)).div_(HIDDEN**0.5).to(torch.bfloat16)
    weight_map: dict[str, str] = {}
    cut = 0

    def piece(*shape: int) -> torch.Tensor:
        nonlocal cut
        cut = (cut + 7919) % 10**6
        size = shape[0] * shape[1]
        return buffer[cut : cut + size].view(*shape).clone()

    def shard(name: str, tensors: dict[str, torch.Tensor]) -> None:
        save_file(tensors, folder / name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, name))

    ones = torch.ones(HIDDEN, dtype=torch.bfloat16)
    rest = {"model.embed_tokens.weight": piece(VOCABULARY, HIDDEN), "lm_head.weight": piece(VOCABULARY, HIDDEN)}
    shard("rest.safetensors", {**rest, "model.norm.weight": ones})
    for index in range(blocks):
        prefix = f"model.layers.{index}"
        tensors = {f"{prefix}.self_attn.{name}_proj.weight": piece(HIDDEN, HIDDEN) for name in "qkvo"}
        tensors |= {f"{prefix}.mlp.{name}_proj.weight": piece(INTERMEDIATE, HIDDEN) for name in ("gate", "up")}
        tensors |= {f"{prefix}.mlp.down_proj.weight": piece(HIDDEN, INTERMEDIATE)}
        tensors |= {f"{prefix}.{name}_layernorm.weight": ones.clone() for name in ("input", "post_attention")}
        shard(f"block-{index}.safetensors", tensors)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def measure(folder: Path, blocks: int, names: list[str]) -> dict[str, Any]:
    print(f"big: {blocks} blocks", file=sys.stderr)
    write_model(folder / "model", blocks)
    chosen = random.Random(0)
    (folder / "text.txt").write_text("\n\n".join(" ".join(f"w{chosen.randrange(VOCABULARY)}" for _ in range(600)) for _ in range(40)))
    rule = {"layers": [f"model.layers.{blocks - 1}.{name}" for name in names], "keep": KEEP, "method": "input"}
    text = {"data": str(folder / "text.txt"), "sequences": 8, "length": 512}
    request = {
        "version": 1,
        "kind": "tensorize",
        "created": "2026-01-01T00:00:00Z",
        "title": "big",
        "device": "cpu",
        "model": str(folder / "model"),
        "options": {"tensorize": [rule], "output": str(folder / "out"), "calibration": text},
    }
    run = folder / "run"
    run.mkdir()
    (run / "run.json").write_text(json.dumps(request))
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(run)],
        check=False,
        stdout=subprocess.PIPE,
        text=True,
        # Moments of its own: none of another run are taken, and these go with the folder.
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TRANSFORMERS_OFFLINE": "1", "BONDWISE_HOME": str(folder / "home")},
    )
    if done.returncode:
        raise RuntimeError(f"the run of {blocks} blocks failed")
    told = json.loads(done.stdout.splitlines()[-1])
    events = [json.loads(line) for line in (run / "events.ndjson").read_text().splitlines()]
    layers = {
        event["layer"]["name"].partition(f".{blocks - 1}.")[2]: event["layer"]["seconds"] for event in events if event["type"] == "layer"
    }
    passed = [seconds for count, seconds in told["blocks"] if count == 0]
    calibrated = sum(seconds for count, seconds in told["blocks"] if count > 0)
    return {
        "blocks": blocks,
        "told_gb": LIMIT / 1e9,
        "estimated_gb": round(next(event["memory"] for event in events if event["type"] == "estimate") / 1e9, 2),
        "peak_gb": round(told["peak"] / 1e9, 2),
        "pass_s": round(sum(passed) / len(passed), 1),
        "calibrate_s": round(calibrated, 1),
        **{f"{name.rpartition('.')[2]}_s": round(layers[name], 1) if name in layers else None for name in SHAPES},
        "run_s": round(time.perf_counter() - started, 1),
        "whole_hours": None
        if len(layers) < len(SHAPES)
        else round(BLOCKS * (calibrated + sum(count * layers[name] for name, count in SHAPES.items())) / 3600, 2),
    }


def bench() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for blocks, names in DEPTHS.items():
        with tempfile.TemporaryDirectory(prefix="bondwise-big-") as name:
            rows.append(measure(Path(name), blocks, names))
    return rows
