"""The doctor: what it says of environments that lack something, real ones and described ones."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bondwise import device, doctor
from bondwise.errors import UserError
from bondwise.schema import Doctor

ENGINE = Path(doctor.__file__).parents[1]
PYDANTIC = ("pydantic", "pydantic_core", "typing_extensions", "annotated_types", "typing_inspection")


def run_doctor(*path: Path, site: bool) -> dict[str, Any]:
    """`doctor --json` in a process of its own that imports from `path`, with or without the installed packages."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*path, ENGINE])), "LANG": "C.UTF-8"}
    flags = [] if site else ["-S"]
    command = [sys.executable, *flags, "-m", "bondwise", "doctor", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    Doctor.model_validate(found)
    return found


def link_packages(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        spec = importlib.util.find_spec(name)
        assert spec and spec.origin
        origin = Path(spec.origin)
        real = origin.parent if origin.name == "__init__.py" else origin
        (folder / real.name).symlink_to(real)
    return folder


def test_without_torch_and_all_the_others(tmp_path: Path) -> None:
    found = run_doctor(link_packages(tmp_path / "packages", *PYDANTIC), site=False)
    assert found["torch"] is None and found["transformers"] is None
    assert found["device"] == "cpu"
    assert found["host_memory"] > 0
    missing = [problem["message"] for problem in found["problems"] if "missing" in problem["message"]]
    # pydantic's metadata is not linked, so it counts as missing too: the metadata is what is asked.
    assert missing == [f"The package {name} is missing." for name in doctor.NEEDED]
    assert all("Set Up Engine" in problem["remedy"] for problem in found["problems"])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise OSError('libcudart.so.13: cannot open shared object file')", "OSError: libcudart.so.13"),
        ("import a_module_that_is_gone", "No module named 'a_module_that_is_gone'"),
    ],
)
def test_with_a_torch_that_cannot_be_imported(tmp_path: Path, body: str, said: str) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(body)
    found = run_doctor(tmp_path, site=True)
    (problem,) = [problem for problem in found["problems"] if "cannot be imported" in problem["message"]]
    assert said in problem["message"]
    assert found["device"] == "cpu"


def test_here_all_is_there() -> None:
    found = doctor.examine(Path.cwd())
    assert found.torch and found.transformers
    assert found.python == sys.executable
    assert 0 < found.memory <= found.memory_total
    assert not [problem for problem in found.problems if "package" in problem.message]


def test_a_broken_engine_says_so_instead_of_a_traceback(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ENGINE)}
    command = [sys.executable, "-S", "-m", "bondwise", "start", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "lacks pydantic" in done.stderr and "Traceback" not in done.stderr


def test_torch_and_the_driver() -> None:
    state = doctor.TorchState("2.15.0", "13.2", cuda=False, failure=None)
    assert doctor.torch_problems(state, None) == []
    assert doctor.torch_problems(state._replace(cuda=True), "535.1") == []
    (old_driver,) = doctor.torch_problems(state, "535.1")
    assert "535.1" in old_driver.message and "13.2" in old_driver.message and "driver" in old_driver.remedy
    (cpu_build,) = doctor.torch_problems(state._replace(cuda_build=None), "535.1")
    assert "without CUDA" in cpu_build.message


def test_a_hidden_gpu_is_called_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (problem,) = doctor.torch_problems(doctor.TorchState("2.15.0", "13.2", cuda=False, failure=None), "590.1")
    assert "CUDA_VISIBLE_DEVICES" in problem.remedy


def test_packages_against_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text(
        "# a comment with a==1\nnumpy==2.2.0 ; python_version < '3.12' \\\n    --hash=sha256:00\n"
        "numpy==2.5.1 ; python_version >= '3.12'\ntorch==2.15.0 \\\n"
    )
    pins = doctor.read_lock(lock)
    assert pins == {"numpy": ["2.2.0", "2.5.1"], "torch": ["2.15.0"]}
    assert doctor.package_problems({"numpy": "2.2.0", "torch": "2.15.0+cu132"}, pins) == []
    assert doctor.package_problems({"numpy": "2.10", "torch": "2.100.1"}, pins) == []
    messages = [problem.message for problem in doctor.package_problems({"numpy": "1.26.4", "torch": "2.9.1", "gguf": None}, pins)]
    assert [message.split()[2] for message in messages] == ["numpy", "torch", "gguf"]
    assert "1.26.4" in messages[0] and "missing" in messages[2]
    assert doctor.read_lock(tmp_path / "none") == {}


def test_the_lock_of_the_engine_is_read() -> None:
    pins = doctor.read_lock(ENGINE / "requirements.lock")
    assert set(doctor.NEEDED) <= set(pins)


def test_python_room_and_home(tmp_path: Path) -> None:
    assert doctor.python_problems((3, 11), "linux") == []
    assert "3.10" in doctor.python_problems((3, 10), "linux")[0].message
    assert "WSL" in doctor.python_problems((3, 12), "win32")[0].remedy
    assert doctor.room_problems(tmp_path, 10**12, 10**12) == []
    assert [problem.message[:8] for problem in doctor.room_problems(tmp_path, 10**9, 10**9)] == ["Only 1.0", "Only 1.0"]
    assert doctor.home_problems(tmp_path / "new" / "home") == []
    (tmp_path / "file").touch()
    (problem,) = doctor.home_problems(tmp_path / "file")
    assert "BONDWISE_HOME" in problem.remedy


def test_devices() -> None:
    assert device.resolve_device("cpu") == "cpu"
    chosen = device.resolve_device("auto")
    assert device.resolve_device(chosen) == chosen
    for wanted in ("cuda:63", "cuda:-1", "gpu", "CUDA"):
        with pytest.raises(UserError, match=wanted):
            device.resolve_device(wanted)


def test_the_limit_of_a_container_is_respected(tmp_path: Path) -> None:
    """The files of cgroups(7), version 2 and 1, laid out as the kernel does."""
    inner = tmp_path / "v2" / "a" / "b"
    inner.mkdir(parents=True)
    for folder, limit, used, inactive in ((inner, "max", 5, 1), (inner.parent, "1000", 400, 150)):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 3\ninactive_file {inactive}\n")
    assert device.cgroup_limits(tmp_path / "v2", "0::/a/b\n") == [(1000, 250)]
    old = tmp_path / "v1" / "memory"
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text("800\n")
    (old / "memory.usage_in_bytes").write_text("300\n")
    (old / "memory.stat").write_text("total_inactive_file 100\n")
    # Inside a container the group's path does not exist below the mount; the mount is the group.
    assert device.cgroup_limits(tmp_path / "v1", "5:cpu:/x\n4:memory:/docker/123\n0::/\n") == [(800, 200)]
    assert device.cgroup_limits(tmp_path / "none", "0::/\n") == []


def test_host_memory_is_that_of_the_machine_or_less() -> None:
    memory = device.host_memory()
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < memory.free <= memory.total <= total
