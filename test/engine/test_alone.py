"""What leaves a process that works on a local model: no request, and no secret of its environment into a file that it writes."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from engine_runs import make_run, tensorize_run
from tiny_models import save_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import sys
asked = open(sys.argv[1], "a", buffering=1)
def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.gethostbyname"):
        address = arguments[1] if event in ("socket.connect", "socket.sendto") else arguments[0]
        if not isinstance(address, (str, bytes)) or event != "socket.connect":  # a name in the file system is of this machine
            print(event, address, file=asked)
sys.addaudithook(hook)
from bondwise.run import start
from pathlib import Path
sys.exit(start(Path(sys.argv[2])))
"""
SECRETS = {
    "HF_TOKEN": "hf_" + "s3cret" * 5,
    "HUGGING_FACE_HUB_TOKEN": "hf_" + "0ther" * 6,
    "WANDB_API_KEY": "wandb-" + "f00d" * 8,
    "AWS_SECRET_ACCESS_KEY": "aws-" + "b4r" * 10,
}


def test_a_run_asks_nobody_and_writes_no_secret(tmp_path: Path) -> None:
    """Without the variables that keep the libraries offline, which a user does not have set."""
    model = save_tiny_model("llama", tmp_path / "model")
    options = {
        "tensorize": [{"layers": ["*.q_proj"], "keep": 0.5, "method": "fisher"}],
        "output": str(tmp_path / "out"),
        "calibration": {"length": 32, "sequences": 4},
        "evaluate": {"length": 16, "sequences": 2, "sample_tokens": 2},
    }
    run = make_run(tmp_path / "run", "tensorize", options, model=str(model))
    online = {name: value for name, value in os.environ.items() if not name.endswith("_OFFLINE")}
    environment = online | SECRETS | {"PYTHONPATH": os.pathsep.join(sys.path), "HF_HOME": str(tmp_path / "hub")}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "asked"), str(run)]
    done = subprocess.run(command, env=environment, check=False, capture_output=True)
    (run / "log.txt").write_bytes(done.stdout + done.stderr)
    assert done.returncode == 0, (run / "status.json").read_text()
    assert (tmp_path / "asked").read_text() == ""
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 15
    leaks = [path for path in written for secret in SECRETS.values() if secret.encode() in path.read_bytes()]
    assert leaks == []


def test_a_failure_tells_no_secret(tmp_path: Path) -> None:
    run = tensorize_run(tmp_path / "run", tmp_path / "absent", tmp_path / "out", {"layers": ["*"], "keep": 0.5})
    environment = os.environ | SECRETS | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-m", "bondwise", "start", str(run)], env=environment, check=False, capture_output=True)
    assert done.returncode == 1
    said = done.stdout + done.stderr + b"".join(path.read_bytes() for path in run.rglob("*") if path.is_file())
    assert not any(secret.encode() in said for secret in SECRETS.values())
