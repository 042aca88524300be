"""Weight by weight into fewer bits, calibrated where the scheme asks for it; each finished one is a resume point."""

from __future__ import annotations

import hashlib
import json
import statistics
from typing import TYPE_CHECKING, NamedTuple, cast

from bondwise.calibration import Wanted, each_moments
from bondwise.checkpoint import open_checkpoint
from bondwise.device import device_memory
from bondwise.layer_files import layer_path, load_told, read_tensors, save_layer
from bondwise.loading import load_model
from bondwise.memory import release_freed_memory
from bondwise.own_text import written_text
from bondwise.preparation import calibration_text
from bondwise.quantize_layer import dense_weight, quantize_layer
from bondwise.quantize_sequence import quantize_in_sequence
from bondwise.schema import QuantizedLayer, QuantizeRequest
from bondwise.stored_bits import scheme_bits
from bondwise.text import fingerprint

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedModel

    from bondwise.calibrate import Moments
    from bondwise.quantize_budget import Planned
    from bondwise.quantize_choices import Target
    from bondwise.quantize_output import Source
    from bondwise.run import Run
    from bondwise.told import Told

STANDS_OUT = 20.0
"""A layer whose predicted loss is above so many times the median of those with its scheme gets 8 bits."""


class _Way(NamedTuple):
    protected: bool = False
    """In 8 bits."""
    in_sequence: bool = False


class Finished(NamedTuple):
    target: Target
    path: Path
    """The file of its tensors."""
    figures: QuantizedLayer


def calibration_ids(run: Run, folder: Path, told: Told) -> Tensor:
    """Token ids [sequences, length] int64 of the calibration text. Raises UserError where it is too short."""
    text = calibration_text(run, folder, cast("QuantizeRequest", run.request).options.calibration)
    return text.ids(lambda own: written_text(run, open_checkpoint(folder, allow_code=run.request.allow_code), own, told.warn))


def quantize_all(  # noqa: PLR0917 -- what was asked, and what is known
    run: Run, source: Source, targets: Sequence[Target], ids: Tensor | None, told: Told, plan: Planned | None
) -> list[Finished]:
    """Quantizes the weights that no earlier process of this run has finished; in the order of `targets`. A `plan` has weighed all losses
    already, so that no layer needs protection.

    Raises UserError for weights or moments that are not finite, and for a layer that no token of the text reaches.
    """
    work = _Work(run, source, targets, ids, told, plan)
    options = cast("QuantizeRequest", run.request).options
    protect = plan is None and options.protect
    # Made in sequence; before that only to learn what stands out.
    in_turn = work.dense() if options.sequential and any(target.calibrated for target in work.dense()) else []
    work.again = {target.name for target in in_turn if target.calibrated}
    run.phase("Quantizing layers")
    for target in targets:
        work.take(target)
    work.tell()
    for target in targets:
        if not target.calibrated and target.name not in work.finished:
            work.make(target, None)
            work.tell()
    early = [target for target in targets if protect or target.name not in work.again]
    if ids is not None and (left := [target for target in early if target.name not in work.finished]):
        work.with_moments(ids, left)
    if ids is not None and protect:
        work.protect(ids)
    if ids is not None and in_turn:
        work.in_sequence(ids, in_turn)
    return [work.finished[target.name] for target in targets]


class _Work:
    def __init__(  # noqa: PLR0917 -- as `quantize_all`
        self, run: Run, source: Source, targets: Sequence[Target], ids: Tensor | None, told: Told, plan: Planned | None
    ) -> None:
        self._plan = plan
        self.run, self.source, self.targets, self.told = run, source, targets, told
        self.finished: dict[str, Finished] = {}
        self.again: set[str] = set()
        """What is made in sequence after it was made for itself; only then it is told."""
        self._text = "" if ids is None else f"{fingerprint(ids)} {run.request.seed}"
        self._model = source.checkpoint.fingerprint()
        self._paths = {target.name: layer_path(run.checkpoints, number, target.name) for number, target in enumerate(targets)}

    def dense(self) -> list[Target]:
        """The targets that are linear layers of the model which every token reaches; the others are cores, experts, the head."""
        layers = {layer.name for layer in self.source.model_map.layers if not layer.is_expert}
        return [target for target in self.targets if target.name in layers]

    def _key(self, target: Target, way: _Way) -> str:
        wanted = [target.name, target.layer.dtype, target.layer.shape, target.scheme, target.rank, target.rank_bits, target.in_packed]
        text = self._text if target.calibrated else ""
        # What comes before a layer in sequence is part of what it is made from.
        before = [[one.scheme, one.rank, one.rank_bits] for one in self.targets] if way.in_sequence else []
        return hashlib.sha256(json.dumps([self._model, *wanted, way.protected, text, before]).encode()).hexdigest()

    def take(self, target: Target, ways: Sequence[_Way] | None = None) -> bool:
        """Whether an earlier process has finished the target in one of those ways."""
        self.run.check_cancelled()
        for way in ways or ((_Way(protected=True), _Way()) if target.calibrated else (_Way(),)):
            path = self._path(target, way)
            if text := load_told(path, self._key(target, way)):
                done = QuantizedLayer.model_validate_json(text)
                self.finished[target.name] = Finished(target, path, done)
                self._tell_of(done, way, again=False)
                return True
        return False

    def _tell_of(self, figures: QuantizedLayer, way: _Way, *, again: bool) -> None:
        if way.in_sequence or figures.name not in self.again:
            self.told.quantized(figures, again=again)

    def _path(self, target: Target, way: _Way) -> Path:
        path = self._paths[target.name]
        return path.with_name(f"{'8-bit-' if way.protected else ''}{'in-sequence-' if way.in_sequence else ''}{path.name}")

    def make(self, target: Target, moments: Moments | None, way: _Way | None = None, wanted: Tensor | None = None) -> None:
        self.run.check_cancelled()
        way = way or _Way()
        stored = self.source.checkpoint.read(target.weight)
        weight = (stored.mT if target.layer.transposed else stored).to(self.run.device)  # [out, in]
        made = quantize_layer(target, weight, moments, protected=way.protected, wanted=wanted)
        path, figures = self._path(target, way), made.figures
        if self._plan is not None:
            beside = {"larger": self._plan.larger.get(target.name), "smaller": self._plan.smaller.get(target.name)}
            figures = figures.model_copy(update=beside)
        save_layer(path, self._key(target, way), made.tensors, figures)
        self.finished[target.name] = Finished(target, path, figures)
        self._tell_of(figures, way, again=True)
        release_freed_memory()

    def tell(self) -> None:
        self.run.progress(len(self.finished), len(self.targets), "layers")

    def with_moments(self, ids: Tensor, left: Sequence[Target], *, protected: bool = False) -> None:
        run, checkpoint = self.run, self.source.checkpoint

        def load() -> PreTrainedModel:
            run.phase(f"Loading {checkpoint.folder.name}")
            return load_model(checkpoint.folder, device=run.device, allow_code=run.request.allow_code)

        by_name = {target.name: target for target in left}
        for name, moments in each_moments(
            run,
            checkpoint,
            ids,
            [Wanted(target.layer) for target in left],
            model=load,
            room=lambda: device_memory(run.device).free // 2,
            warn=self.told.warn,
            work="Quantizing layers",
        ):
            self.make(by_name[name], moments, _Way(protected=protected))
            self.tell()

    def in_sequence(self, ids: Tensor, targets: Sequence[Target]) -> None:
        """Makes the calibrated ones anew, each for what the quantized ones before it hand on."""
        protected = {name for name, one in self.finished.items() if one.figures.protected}

        def make(target: Target, wanted: Tensor, moments: Moments) -> Tensor:
            way = _Way(protected=target.name in protected, in_sequence=True)
            if target.calibrated and not self.take(target, [way]):
                self.make(target, moments, way, wanted)
            one = self.finished[target.name]
            return dense_weight(target, read_tensors(one.path), protected=one.figures.protected)

        quantize_in_sequence(self.run, self.source, {target.name: target for target in targets}, ids, self.told, make)

    def protect(self, ids: Tensor) -> None:
        """Gives 8 bits to the layers whose predicted loss stands out among those of their scheme."""
        by_scheme: dict[str, list[Finished]] = {}
        for one in self.finished.values():
            if one.target.scheme.startswith("compensated") and scheme_bits(one.target.scheme) < 8:
                by_scheme.setdefault(one.target.scheme, []).append(one)
        outliers: list[Target] = []
        for group in by_scheme.values():
            middle = statistics.median(one.figures.loss or 0.0 for one in group)
            for one in group:
                loss = one.figures.loss or 0.0
                if not one.figures.protected and loss > STANDS_OUT * middle:
                    outliers.append(one.target)
                    self.told.warn(
                        f"{one.target.name} gets 8 bits: in {scheme_bits(one.target.scheme)} its predicted loss, {loss:.2g} nats a token, "
                        f"is {loss / max(middle, 1e-30):.0f} times the median."
                    )
        if outliers:
            self.with_moments(ids, outliers, protected=True)
