"""The verdicts in the corpus that safetensors-ts is tested on are the reference implementation's."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError, deserialize

CORPUS: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "fixtures/safetensors-corpus.json").read_text("utf-8"))["cases"]


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case["name"])
def test_verdict(case: dict[str, Any]) -> None:
    header = base64.b64decode(case["base64"]) if "base64" in case else case["header"].encode()
    length = int(case.get("length", len(header)))
    content = length.to_bytes(8, "little") + header + bytes(case["data"])
    try:
        deserialize(content)
        accepted = True
    except SafetensorError:
        accepted = False
    assert accepted == case["accept"]
