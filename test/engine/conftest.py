"""What all engine tests share: no network, few threads, locks of their own."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

# Set before anything imports torch or huggingface_hub.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"


@pytest.fixture(autouse=True)
def bondwise_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A BONDWISE_HOME of the test's own: no test waits for a device that another test, or the user, holds."""
    home = tmp_path / "bondwise-home"
    monkeypatch.setenv("BONDWISE_HOME", str(home))
    return home


@pytest.fixture(autouse=True)
def module_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """Where transformers copies a model folder's own code to, and imports it from: of the test's own, and forgotten after it."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
        del sys.modules[name]
