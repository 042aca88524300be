"""Runs made and done in this process, as the extension and the command line make them: a directory with a run.json, then `start`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bondwise import compress
from bondwise.run import start
from bondwise.trust import code_hash

if TYPE_CHECKING:
    import pytest


def make_run(directory: Path, kind: str, options: dict[str, Any], **request: Any) -> Path:
    """Writes `directory/run.json`. `request` holds what else the kind asks for (`model`), and overrides."""
    directory.mkdir(parents=True)
    document = {"version": 1, "kind": kind, "created": "2026-01-01T00:00:00Z", "title": kind, "device": "cpu", "options": options}
    if request.get("allow_code") and "code" not in request:
        request["code"] = {request["model"]: code_hash(Path(request["model"]))}
    (directory / "run.json").write_text(json.dumps(document | request))
    return directory


def tensorize_run(
    directory: Path, model: Path, output: Path, *rules: dict[str, Any], evaluate: dict[str, Any] | None = None, **request: Any
) -> Path:
    return make_run(
        directory,
        "tensorize",
        {"tensorize": list(rules), "output": str(output), "evaluate": evaluate},
        model=str(model),
        **request,
    )


def finish(directory: Path) -> dict[str, Any]:
    """Does the run, which must succeed; its result."""
    status = start(directory)
    assert status == 0, json.loads((directory / "status.json").read_text())["error"]
    return json.loads((directory / "result.json").read_text())


def fail(directory: Path) -> str:
    """Does the run, which must fail with an error that a person can act on; message and remedy."""
    assert start(directory) == 1
    assert not (directory / "result.json").exists()
    error = json.loads((directory / "status.json").read_text())["error"]
    assert error["detail"] is None, error["detail"]  # a traceback would mean a bug, not a user's mistake
    assert error["remedy"]
    return f"{error['message']} → {error['remedy']}"


def events(directory: Path, kind: str | None = None) -> list[dict[str, Any]]:
    lines = (directory / "events.ndjson").read_text().splitlines()
    return [event for event in map(json.loads, lines) if kind in (None, event["type"])]


def cancel_after_layer(directory: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts a tensorize run and asks it to stop as soon as that layer is saved."""
    save = compress.save_layer

    def save_then_cancel(path: Path, *arguments: Any) -> None:
        save(path, *arguments)
        if path.name.startswith(f"{number:05}-"):
            (directory / "cancel").touch()

    with monkeypatch.context() as patched:
        patched.setattr(compress, "save_layer", save_then_cancel)
        assert start(directory) == 130
