"""Profiles of models that the memory does not hold whole: curves and baseline are those of the whole model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from engine_runs import events, fail, finish
from test_read_by_blocks import fresh_home
from test_sensitivity import profile_run, written
from tiny_models import save_tiny_model

from bondwise import profile_needs, sensitivity
from bondwise.device import Memory
from bondwise.estimate import Reading

if TYPE_CHECKING:
    from pathlib import Path


def read_as(reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    real = sensitivity.check_needs

    def chosen(*arguments: Any) -> profile_needs.Budgets:
        return real(*arguments)._replace(reading=reading)

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("the whole model was loaded")

    monkeypatch.setattr(sensitivity, "check_needs", chosen)
    monkeypatch.setattr(sensitivity, "load_model", refused)


@pytest.mark.parametrize(
    ("name", "reading"), [("llama", Reading("blocks", 0)), ("gpt2", Reading("files", 1 << 60)), ("gemma2", Reading("files", 1 << 60))]
)
def test_what_is_predicted_is_what_the_whole_model_gives(
    name: str, reading: Reading, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save_tiny_model(name, tmp_path / "base")
    fresh_home(tmp_path / "home1", monkeypatch)
    finish(profile_run(tmp_path / "whole", model, "whole", mode="spectral"))
    fresh_home(tmp_path / "home2", monkeypatch)
    read_as(reading, monkeypatch)
    run = profile_run(tmp_path / "blocks", model, "blocks", mode="spectral")
    finish(run)
    expected, found = written(tmp_path / "whole", "whole"), written(run, "blocks")
    assert [event["message"] for event in events(run, "warning") if "block by block" in event["message"]]
    assert found.baseline == pytest.approx(expected.baseline, rel=1e-5)
    curves = {curve.layer: curve for curve in found.curves}
    assert found.complete and curves.keys() == {curve.layer for curve in expected.curves} == {layer.name for layer in found.layers}
    for curve in expected.curves:
        assert curves[curve.layer].chi == curve.chi
        for method in ("error", "plain", "input", "fisher"):
            largest = max(getattr(curve, method))
            assert getattr(curves[curve.layer], method) == pytest.approx(getattr(curve, method), rel=1e-2, abs=1e-3 * largest)
    assert not list((run / "checkpoints").glob("states*"))


def test_where_the_memory_is_too_small_the_profile_is_predicted_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save_tiny_model("llama", tmp_path / "base")
    free = 0

    def memory(_device: str) -> Memory:
        return Memory(free, free)

    monkeypatch.setattr(profile_needs, "device_memory", memory)
    message = fail(profile_run(tmp_path / "measured", model, keep=[0.5]))
    assert "Not enough memory" in message and "--spectral" in message
    message = fail(profile_run(tmp_path / "none", model, mode="spectral"))
    assert "one block at a time" in message and "--length" in message
