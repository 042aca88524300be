"""Peak memory of calibrating block by block, in a process of its own: it must not grow with the number of blocks."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import torch
from transformers import LlamaConfig, LlamaForCausalLM

if TYPE_CHECKING:
    from pathlib import Path

HIDDEN, INTERMEDIATE = 512, 1408
BLOCK = 4 * (4 * HIDDEN**2 + 3 * HIDDEN * INTERMEDIATE)
"""Bytes of a block in memory."""

MEASURED = """
import resource, sys, torch
from pathlib import Path
from bondwise.block_moments import block_moments
from bondwise.checkpoint import open_checkpoint
from bondwise.modelmap import map_model
from bondwise.shelf import Shelf
from bondwise.streaming import StreamedModel

def peak():
    # Linux counts the parent's memory in ru_maxrss, from before the exec.
    status = Path("/proc/self/status")
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines()) if status.exists() else {}
    return int(lines["VmHWM"].split()[0]) * 1024 if lines else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

folder = Path(sys.argv[1])
source = open_checkpoint(folder)
ids = torch.randint(256, (4, 64), generator=torch.Generator().manual_seed(0))
model = StreamedModel(source, dtype=torch.float32)
told = dict(progress=lambda *_: None, check_cancelled=lambda: None)
for gradients in (False, True):
    found = 0
    with Shelf(folder / "states") as shelf:
        for some in block_moments(
            model, map_model(source).layers, ids, gradients=gradients, directions=False, seed=0, room=lambda: 1 << 25, shelf=shelf, **told
        ):
            found += len(some)
    print(found, peak())
"""


def peaks(folder: Path, blocks: int) -> list[int]:
    """Bytes: of moments of inputs, and of gradients too after them."""
    config = LlamaConfig(
        vocab_size=258, hidden_size=HIDDEN, intermediate_size=INTERMEDIATE, num_hidden_layers=blocks, num_attention_heads=8
    )
    model = LlamaForCausalLM(config)
    torch.nn.Module.to(model, torch.bfloat16)  # PreTrainedModel.to is wrapped without its types
    model.save_pretrained(folder)
    done = subprocess.run([sys.executable, "-c", MEASURED, str(folder)], check=True, capture_output=True, text=True)
    lines = [[int(word) for word in line.split()] for line in done.stdout.splitlines()]
    assert [found for found, _ in lines] == [7 * blocks] * 2
    return [used for _, used in lines]


def test_sixteen_blocks_need_hardly_more_than_four(tmp_path: Path) -> None:
    shallow, deep = (peaks(tmp_path / str(blocks), blocks) for blocks in (4, 16))
    # Twelve more blocks in memory would be 154 MB.
    for few, many in zip(shallow, deep, strict=True):
        assert many - few < 1.5 * BLOCK
