"""What a run's journal says already, so that a resumed run does not say it again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bondwise.journal import JOURNAL, read_events
from bondwise.schema import EvaluationEvent, LayerEvent, QuantizedEvent, WarningEvent

if TYPE_CHECKING:
    from bondwise.run import Run
    from bondwise.schema import Evaluation, LayerFigures, QuantizedLayer


class Told:
    def __init__(self, run: Run) -> None:
        self._run = run
        journal = run.directory / JOURNAL
        events, _ = read_events(journal.read_bytes(), str(journal)) if journal.is_file() else ([], 0)
        self._warnings = {event["message"] for event in events if event["type"] == "warning"}
        self._layers = {event["layer"]["name"] for event in events if event["type"] == "layer"}
        self._quantized = {event["layer"]["name"] for event in events if event["type"] == "quantized"}
        self._roles = {event["role"] for event in events if event["type"] == "evaluation"}

    def warn(self, message: str | None) -> None:
        if message is not None and message not in self._warnings:
            self._warnings.add(message)
            self._run.emit(WarningEvent, message=message)

    def layer(self, figures: LayerFigures, *, again: bool) -> None:
        """`again`: the layer was done in this process, whatever was said before."""
        if again or figures.name not in self._layers:
            self._layers.add(figures.name)
            self._run.emit(LayerEvent, layer=figures)

    def quantized(self, figures: QuantizedLayer, *, again: bool) -> None:
        """As `layer`."""
        if again or figures.name not in self._quantized:
            self._quantized.add(figures.name)
            self._run.emit(QuantizedEvent, layer=figures)

    def evaluation(self, role: str, found: Evaluation, *, again: bool) -> None:
        if again or role not in self._roles:
            self._run.emit(EvaluationEvent, role=role, evaluation=found)
