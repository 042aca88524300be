"""Which device a run uses and how much memory there is.

Names are torch's: `cpu`, `cuda:0`, `mps`. Sizes are bytes.
"""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bondwise.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Memory(NamedTuple):
    """Bytes."""

    free: int
    total: int


def resolve_device(wanted: str) -> str:
    """`auto`, `cpu`, `cuda`, `cuda:N` or `mps` → `cpu`, `cuda:N` or `mps`.

    `auto` is the CUDA device with the most free memory, else Apple's GPU, else the CPU. Raises UserError when the device does not
    exist here.
    """
    if wanted == "cpu":
        return "cpu"
    match = re.fullmatch(r"auto|mps|cuda(?::(\d+))?", wanted)
    if match is None:
        raise UserError(f"There is no kind of device called {wanted!r}.", "Use auto, cpu, cuda, cuda:N (such as cuda:0) or mps.")
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "mps" or (wanted == "auto" and count == 0):
        if torch.backends.mps.is_available():
            return "mps"
        if wanted == "auto":
            return "cpu"
        raise UserError("The device mps does not exist here: torch finds no Apple GPU.", "Use cpu, or auto to take the best there is.")
    if count == 0:
        raise UserError(
            f"The device {wanted} does not exist here: torch {torch.__version__} finds no CUDA device.",
            "Use cpu, or run `doctor` to see why.",
        )
    if match[1] is None:
        return max((f"cuda:{index}" for index in range(count)), key=lambda name: device_memory(name).free)
    if int(match[1]) >= count:
        there = ", ".join(f"cuda:{index}" for index in range(count))
        raise UserError(f"The device {wanted} does not exist here.", f"There is {there}.")
    return f"cuda:{int(match[1])}"


def fast_bfloat16(device: str) -> bool:
    """Whether products of bfloat16 matrices are faster than those of float32: on CUDA, and on CPUs with instructions for them.

    Measured on an AMD EPYC with avx512_bf16: 2.5 to 4 times as fast.
    """
    if device.startswith("cuda"):
        return True
    import torch

    able: Mapping[str, Any] = torch.cpu.get_capabilities() if device == "cpu" else {}
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def device_memory(device: str) -> Memory:
    """Free and total memory of `device`; the CPU's is the host's, Apple's GPU shares it."""
    if device.startswith("cuda"):
        import torch

        free, total = torch.cuda.mem_get_info(torch.device(device))
        return Memory(free, total)
    return host_memory()


def host_memory() -> Memory:
    """Memory this process can still get, and the most it could have: of the machine, or of the container (cgroup) where that is less."""
    import psutil

    machine = psutil.virtual_memory()
    free, total = machine.available, machine.total
    try:
        membership = Path("/proc/self/cgroup").read_text()
    except OSError:
        return Memory(free, total)
    for limit, used in cgroup_limits(Path("/sys/fs/cgroup"), membership):
        total = min(total, limit)
        free = min(free, max(limit - used, 0))
    return Memory(free, total)


def device_name(device: str) -> str:
    """What a person calls the device."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(torch.device(device))
    return "Apple GPU" if device == "mps" else _cpu_name()


def cgroup_limits(root: Path, membership: str) -> list[tuple[int, int]]:
    """(limit, bytes in use that cannot be reclaimed) of the memory cgroups that a process is in, from the innermost out.

    `membership` is the text of /proc/self/cgroup: `0::/path` for version 2 and `N:memory:/path` for version 1 (cgroups(7)). Inside a
    container the path may not exist below the mount; the mount itself is then the container's own group.
    """
    found: list[tuple[int, int]] = []
    for line in membership.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            top, names, reclaimable = root, ("memory.max", "memory.current"), "inactive_file"
        elif "memory" in controllers.split(","):
            top, names, reclaimable = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_inactive_file"
        else:
            continue
        inner = top / path.lstrip("/")
        for group in [inner, *inner.parents]:
            if not group.is_relative_to(top):
                break
            if (entry := _read_cgroup(group, names, reclaimable)) is not None:
                found.append(entry)
    return found


def _read_cgroup(group: Path, names: tuple[str, str], reclaimable: str) -> tuple[int, int] | None:
    try:
        limit = (group / names[0]).read_text().strip()
        if limit == "max":
            return None
        used = int((group / names[1]).read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return int(limit), max(used - int(stat.get(reclaimable, "0")), 0)
    except (OSError, ValueError):
        return None


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
