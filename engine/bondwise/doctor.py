"""What the engine finds on this machine, what is missing and what to do. Works where torch cannot be imported."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from bondwise import __version__
from bondwise.device import Memory, device_memory, device_name, host_memory, resolve_device
from bondwise.errors import UserError
from bondwise.queue import bondwise_home, try_lock
from bondwise.schema import DeviceInfo, Doctor, Problem

NEEDED = ("accelerate", "gguf", "numpy", "psutil", "pydantic", "pygls", "safetensors", "tokenizers", "torch", "transformers")
"""What the engine imports: engine/requirements.in."""
LOW_DISK = 5_000_000_000
LOW_MEMORY = 2_000_000_000
_SET_UP = 'Run "Bondwise: Set Up Engine" in VS Code: it repairs the environment.'


class TorchState(NamedTuple):
    """What importing torch gave: its version, the CUDA it was built for, whether it sees a CUDA device, or why it cannot be imported."""

    version: str | None
    cuda_build: str | None
    cuda: bool
    failure: str | None


def examine(folder: Path) -> Doctor:
    """Examines this process's environment, and the disk that `folder` lies on."""
    torch = import_torch()
    device, memory, name = _device(torch)
    host = _host_memory()
    disk = shutil.disk_usage(folder).free
    problems = [
        *python_problems(sys.version_info[:2], sys.platform),
        *torch_problems(torch, nvidia_driver()),
        *package_problems({package: _installed(package) for package in NEEDED}, read_lock(Path(__file__).parents[1] / "requirements.lock")),
        *room_problems(folder, disk, host.free),
        *home_problems(bondwise_home()),
    ]
    return Doctor(
        engine=__version__,
        python=sys.executable,
        python_version=".".join(map(str, sys.version_info[:3])),
        torch=torch.version,
        transformers=_installed("transformers"),
        device=device,
        device_name=name,
        memory=memory.free,
        memory_total=memory.total,
        host_memory=host.free,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        devices=[
            DeviceInfo(device=one, name=called, memory=there.free, memory_total=there.total)
            for one, there, called in _devices((device, memory, name))
        ],
        disk=disk,
        problems=problems,
    )


def import_torch() -> TorchState:
    """Imports torch and asks it about CUDA. A broken installation may raise anything, a missing library of the system too."""
    try:
        torch = importlib.import_module("torch")
        return TorchState(str(torch.__version__), torch.version.cuda, bool(torch.cuda.is_available()), None)
    except ModuleNotFoundError as failure:
        if failure.name == "torch":
            there = _installed("torch")
            return TorchState(there, None, False, there and "its files are gone")
        return TorchState(_installed("torch"), None, False, str(failure))
    except Exception as failure:
        return TorchState(_installed("torch"), None, False, f"{type(failure).__name__}: {failure}")


def nvidia_driver() -> str | None:
    """Version of the NVIDIA driver when it works and sees a GPU, by `nvidia-smi`."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return None
    return answer[0] if answer else None


def read_lock(path: Path) -> dict[str, list[str]]:
    """Name → pinned versions of a requirements file (several where markers choose between them); empty when there is no such file."""
    pins: dict[str, list[str]] = {}
    if path.is_file():
        for name, pinned in re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;\\]+)", path.read_text(), flags=re.MULTILINE):
            pins.setdefault(name.lower(), []).append(pinned)
    return pins


def python_problems(python: tuple[int, ...], platform: str) -> list[Problem]:
    """Too old a Python; a system without `flock`."""
    problems: list[Problem] = []
    if python < (3, 11):
        text = f"Python {'.'.join(map(str, python))} is too old."
        problems.append(Problem(message=text, remedy="Choose Python 3.11 or newer, or let Bondwise set up its own engine."))
    if platform == "win32":
        problems.append(Problem(message="The engine does not run on Windows itself.", remedy="Open the folder in WSL (Remote - WSL)."))
    return problems


def torch_problems(torch: TorchState, driver: str | None) -> list[Problem]:
    """torch is broken, or sees no CUDA device though the NVIDIA driver (its version) works. A missing torch is a missing package."""
    if torch.failure is not None:
        return [Problem(message=f"torch {torch.version or ''} is there but cannot be imported: {torch.failure}", remedy=_SET_UP)]
    if torch.version is None or driver is None or torch.cuda:
        return []
    if torch.cuda_build is None:
        text = f"There is an NVIDIA GPU (driver {driver}), but torch {torch.version} was built without CUDA."
        return [Problem(message=text, remedy=_SET_UP)]
    text = f"There is an NVIDIA GPU (driver {driver}), but torch {torch.version} (CUDA {torch.cuda_build}) cannot use it."
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and hidden.strip() in ("", "-1"):
        return [Problem(message=text, remedy="Unset CUDA_VISIBLE_DEVICES, which hides it.")]
    return [Problem(message=text, remedy=f"Update the NVIDIA driver to one for CUDA {torch.cuda_build}; until then runs use the CPU.")]


def package_problems(installed: dict[str, str | None], lock: dict[str, list[str]]) -> list[Problem]:
    """Packages that are missing, or older than every version that the lock names (others are untested, not wrong)."""
    problems: list[Problem] = []
    for name, there in installed.items():
        if there is None:
            problems.append(Problem(message=f"The package {name} is missing.", remedy=_SET_UP))
        elif name in lock and all(_release(there) < _release(pinned) for pinned in lock[name]):
            text = f"The package {name} {there} is older than the engine was tested with ({', '.join(lock[name])})."
            problems.append(Problem(message=text, remedy=_SET_UP))
    return problems


def room_problems(folder: Path, disk: int, memory: int) -> list[Problem]:
    """Little disk (bytes free where `folder` lies) or little host memory (bytes)."""
    problems: list[Problem] = []
    if disk < LOW_DISK:
        text = f"Only {disk / 1e9:.1f} GB of disk are free at {folder}."
        problems.append(
            Problem(message=text, remedy="Make room, or work in a folder on another disk: a compressed model needs up to its full size.")
        )
    if memory < LOW_MEMORY:
        text = f"Only {memory / 1e9:.1f} GB of memory are free."
        problems.append(Problem(message=text, remedy="Close other programs, or raise the container's memory limit."))
    return problems


def home_problems(home: Path) -> list[Problem]:
    """BONDWISE_HOME cannot be written, or its file system has no locks."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home) as file:
            try_lock(file.fileno())
    except OSError as failure:
        text = f"The folder {home} cannot be written or locked: {failure.strerror}."
        return [Problem(message=text, remedy="Set BONDWISE_HOME to a folder of yours on a local disk.")]
    return []


def _device(torch: TorchState) -> tuple[str, Memory, str]:
    try:
        device = resolve_device("auto" if torch.version and not torch.failure else "cpu")
        return device, device_memory(device), device_name(device)
    except (UserError, RuntimeError, ImportError):
        return "cpu", _host_memory(), device_name("cpu")


def _devices(chosen: tuple[str, Memory, str]) -> list[tuple[str, Memory, str]]:
    """All that a run may be given: every CUDA device, else the one that is chosen anyway."""
    if not chosen[0].startswith("cuda"):
        return [chosen]
    try:
        count: int = importlib.import_module("torch").cuda.device_count()
        return [(name, device_memory(name), device_name(name)) for name in (f"cuda:{index}" for index in range(count))]
    except (RuntimeError, ImportError):
        return [chosen]


def _host_memory() -> Memory:
    try:
        return host_memory()
    except ImportError:
        # psutil is missing, and said to be.
        page = os.sysconf("SC_PAGE_SIZE")
        return Memory(os.sysconf("SC_AVPHYS_PAGES") * page, os.sysconf("SC_PHYS_PAGES") * page)


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _release(text: str) -> tuple[int, ...]:
    """The numbers of a version: `2.15.0+cu130` → (2, 15, 0). A pre-release counts as its release."""
    match = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in match[0].split(".")) if match else ()
