"""Peak memory of tensorizing every MLP layer of 8 and of 32 blocks of the same shape: it must not grow with the number of blocks.

Llama-shaped folders with random weights are written as a stream; each run is a process of its own, started as the command line starts it.
`imports_mb` is the peak of a process that only imports what the run imports; the ratio is of the whole peaks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HIDDEN, INTERMEDIATE, HEADS, VOCABULARY = 1024, 2816, 16, 512
BLOCKS = (8, 32)
LIMIT = 1.10

MEASURED = """
import resource, sys
if sys.argv[1:]:
    from bondwise.run import start
    from pathlib import Path
    status = start(Path(sys.argv[1]))
    if status:
        sys.exit(Path(sys.argv[1], "status.json").read_text())
else:
    import bondwise.tensorize, bondwise.streaming, transformers.models.llama.modeling_llama
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak * (1 if sys.platform == "darwin" else 1024))
"""


def write_model(folder: Path, blocks: int) -> None:
    """A Llama folder in bfloat16, one block's weights in memory at a time."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    folder.mkdir(parents=True)
    config = LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=blocks,
        num_attention_heads=HEADS,
        vocab_size=VOCABULARY,
        tie_word_embeddings=True,
        dtype="bfloat16",
    )
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator) / shape[-1] ** 0.5).to(torch.bfloat16)

    weight_map: dict[str, str] = {}

    def shard(name: str, tensors: dict[str, torch.Tensor]) -> None:
        save_file(tensors, folder / name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, name))

    shard("rest.safetensors", {"model.embed_tokens.weight": random(VOCABULARY, HIDDEN), "model.norm.weight": torch.ones(HIDDEN).bfloat16()})
    for index in range(blocks):
        prefix = f"model.layers.{index}"
        tensors = {f"{prefix}.self_attn.{name}_proj.weight": random(HIDDEN, HIDDEN) for name in "qkvo"}
        tensors |= {f"{prefix}.mlp.{name}_proj.weight": random(INTERMEDIATE, HIDDEN) for name in ("gate", "up")}
        tensors |= {f"{prefix}.mlp.down_proj.weight": random(HIDDEN, INTERMEDIATE)}
        tensors |= {f"{prefix}.{name}_layernorm.weight": torch.ones(HIDDEN).bfloat16() for name in ("input", "post_attention")}
        shard(f"block-{index}.safetensors", tensors)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def peak(*arguments: str) -> int:
    """Bytes."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TRANSFORMERS_OFFLINE": "1"},
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return int(done.stdout.splitlines()[-1])


def measure(folder: Path, blocks: int) -> tuple[int, int]:
    """(peak of the run, what it had estimated beforehand), bytes."""
    print(f"memory: {blocks} blocks", file=sys.stderr)
    write_model(folder / "model", blocks)
    rule = {"layers": ["*.mlp.*"], "keep": 0.3}
    request = {
        "version": 1,
        "kind": "tensorize",
        "created": "2026-01-01T00:00:00Z",
        "title": "memory",
        "device": "cpu",
        "model": str(folder / "model"),
        "options": {"tensorize": [rule], "output": str(folder / "out")},
    }
    run = folder / "run"
    run.mkdir()
    (run / "run.json").write_text(json.dumps(request))
    found = peak(str(run))
    events = [json.loads(line) for line in (run / "events.ndjson").read_text().splitlines()]
    return found, next(event["memory"] for event in events if event["type"] == "estimate")


def bench() -> list[dict[str, float | bool]]:
    base = peak()
    rows: list[dict[str, float | bool]] = []
    first = 0
    for blocks in BLOCKS:
        with tempfile.TemporaryDirectory(prefix="bondwise-memory-") as name:
            found, estimated = measure(Path(name), blocks)
        first = first or found
        rows.append(
            {
                "blocks": blocks,
                "model_mb": round(blocks * 2 * (4 * HIDDEN * HIDDEN + 3 * HIDDEN * INTERMEDIATE) / 1e6, 1),
                "peak_mb": round(found / 1e6, 1),
                "imports_mb": round(base / 1e6, 1),
                "above_imports_mb": round((found - base) / 1e6, 1),
                "estimated_mb": round(estimated / 1e6, 1),
                "times_the_first": round(found / first, 4),
                "within_10_percent": 1 / LIMIT <= found / first <= LIMIT,
            }
        )
    return rows
