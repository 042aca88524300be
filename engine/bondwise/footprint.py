"""Load time and memory of a model, measured in a process of its own: `python -m bondwise.footprint FOLDER DEVICE TOKENS [CODE-HASH]`.

In the process of a run other models, caches and what the allocator kept would be counted too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bondwise.errors import UserError
from bondwise.schema import Footprint
from bondwise.trust import allowing, check_allowed, code_hash

if TYPE_CHECKING:
    from collections.abc import Callable

POLL_SECONDS = 0.2
_STATUS = Path("/proc/self/status")


def measure_footprint(
    folder: Path, device: str, tokens: int, *, allow_code: bool, check_cancelled: Callable[[], None] = lambda: None
) -> Footprint:
    """Starts the process and waits for it. Raises UserError where it fails, for want of memory as a rule."""
    if allow_code:
        check_allowed(folder)
    command = [sys.executable, "-m", "bondwise.footprint", str(folder), device, str(tokens), *([code_hash(folder)] if allow_code else [])]
    # Where this package was found without being installed, the process finds it too.
    paths = [str(Path(__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)})
    try:
        while True:
            try:
                output, _ = process.communicate(timeout=POLL_SECONDS)
                break
            except subprocess.TimeoutExpired:
                check_cancelled()
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.returncode != 0:
        raise UserError(
            f"The memory of {folder.name} could not be measured: its process ended with status {process.returncode}.",
            "See log.txt in the run directory; --no-footprint leaves this out.",
        )
    return Footprint.model_validate_json(output.splitlines()[-1])


def main(folder: Path, device: str, tokens: int, *, allow_code: bool) -> Footprint:
    import torch

    from bondwise.checkpoint import open_checkpoint
    from bondwise.loading import empty_model, load_model

    # Brings the modules of the model's class, which are the libraries' time and memory, not the model's.
    empty_model(open_checkpoint(folder, allow_code=allow_code), dtype=torch.float32, allow_code=allow_code)
    if device == "cpu":
        torch.nn.functional.linear(torch.zeros(64, 64), torch.zeros(64, 64))  # the threads and buffers of the first product
    _forget_peak()
    before = _peak(device)
    started = time.perf_counter()
    model = load_model(folder, device=device, allow_code=allow_code)
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - started
    vocabulary = int(cast("Any", model.get_input_embeddings()).weight.shape[0])
    with torch.inference_mode():
        ids = torch.randint(vocabulary, (1, tokens), generator=torch.Generator().manual_seed(0)).to(device)
        cast("Any", model)(input_ids=ids, use_cache=True, logits_to_keep=1)
    return Footprint(load_seconds=seconds, memory=max(_peak(device) - before, 0), tokens=tokens, device=device)


def _forget_peak() -> None:
    """Linux counts the peak anew from what is in use now; elsewhere that of the imports stays, and a small model seems smaller."""
    with suppress(OSError):
        (_STATUS.parent / "clear_refs").write_text("5")


def _peak(device: str) -> int:
    """Bytes: the most memory so far, of the device or of this process."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    with suppress(OSError):
        return next(int(line.split()[1]) * 1024 for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    try:
        import resource
    except ImportError:
        import psutil

        return int(cast("Any", psutil.Process().memory_info()).peak_wset)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


if __name__ == "__main__":
    allowed = sys.argv[4:]
    with allowing({sys.argv[1]: allowed[0]} if allowed else {}):
        found = main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), allow_code=bool(allowed))
    print(json.dumps(found.model_dump()), flush=True)
