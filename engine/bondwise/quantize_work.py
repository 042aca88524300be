"""Weight by weight into fewer bits, calibrated where the scheme asks for it; each finished one is a resume point."""

from __future__ import annotations

import hashlib
import json
import statistics
from typing import TYPE_CHECKING, NamedTuple, cast

from bondwise.calibration import Wanted, each_moments
from bondwise.checkpoint import open_checkpoint
from bondwise.device import device_memory
from bondwise.layer_files import layer_path, load_told, save_layer
from bondwise.loading import load_model
from bondwise.memory import release_freed_memory
from bondwise.own_text import written_text
from bondwise.preparation import calibration_text
from bondwise.quantize_layer import quantize_layer
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
    run.phase("Quantizing layers")
    for target in targets:
        work.take(target)
    work.tell()
    for target in targets:
        if not target.calibrated and target.name not in work.finished:
            work.make(target, None)
    if ids is not None and (left := [target for target in targets if target.name not in work.finished]):
        work.with_moments(ids, left)
    if ids is not None and plan is None and cast("QuantizeRequest", run.request).options.protect:
        work.protect(ids)
    return [work.finished[target.name] for target in targets]


class _Work:
    def __init__(  # noqa: PLR0917 -- as `quantize_all`
        self, run: Run, source: Source, targets: Sequence[Target], ids: Tensor | None, told: Told, plan: Planned | None
    ) -> None:
        self._plan = plan
        self.run, self.source, self.targets, self.told = run, source, targets, told
        self.finished: dict[str, Finished] = {}
        self._text = "" if ids is None else f"{fingerprint(ids)} {run.request.seed}"
        self._model = source.checkpoint.fingerprint()
        self._paths = {target.name: layer_path(run.checkpoints, number, target.name) for number, target in enumerate(targets)}

    def _key(self, target: Target, *, protected: bool) -> str:
        wanted = [target.name, target.layer.dtype, target.layer.shape, target.scheme, target.rank, target.rank_bits, target.in_packed]
        text = self._text if target.calibrated else ""
        return hashlib.sha256(json.dumps([self._model, *wanted, protected, text]).encode()).hexdigest()

    def take(self, target: Target) -> None:
        """What an earlier process has finished."""
        self.run.check_cancelled()
        for protected in (True, False) if target.calibrated else (False,):
            path = self._path(target, protected=protected)
            if text := load_told(path, self._key(target, protected=protected)):
                done = QuantizedLayer.model_validate_json(text)
                self.finished[target.name] = Finished(target, path, done)
                self.told.quantized(done, again=False)
                return

    def _path(self, target: Target, *, protected: bool) -> Path:
        path = self._paths[target.name]
        return path.with_name(f"8-bit-{path.name}") if protected else path

    def make(self, target: Target, moments: Moments | None, *, protected: bool = False) -> None:
        self.run.check_cancelled()
        stored = self.source.checkpoint.read(target.weight)
        weight = (stored.mT if target.layer.transposed else stored).to(self.run.device)  # [out, in]
        made = quantize_layer(target, weight, moments, protected=protected)
        path, figures = self._path(target, protected=protected), made.figures
        if self._plan is not None:
            beside = {"larger": self._plan.larger.get(target.name), "smaller": self._plan.smaller.get(target.name)}
            figures = figures.model_copy(update=beside)
        save_layer(path, self._key(target, protected=protected), made.tensors, figures)
        self.finished[target.name] = Finished(target, path, figures)
        self.told.quantized(figures, again=True)
        release_freed_memory()
        self.tell()

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
            self.make(by_name[name], moments, protected=protected)

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
