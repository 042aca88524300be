"""`NAME.sensitivity.json`: read, checked against the model and text at hand, added to, written whole or not at all."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from bondwise import atomic
from bondwise.errors import UserError
from bondwise.figures_file import read_figures
from bondwise.schema import BaseModelRef, Cell, Curve, Sensitivity

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

SUFFIX = ".sensitivity.json"
WRITE_SECONDS = 60.0
"""A growing profile is written this often, so that a kill loses no more of the file; the run itself loses nothing."""


def read_profile(path: Path) -> Sensitivity:
    """Raises UserError, naming the file and what is wrong, when it is no whole profile or was made by a newer Bondwise."""
    remedy = (
        f"Delete it, or choose another --output; a run that was making it has all its figures in its own folder ({path.name} is a copy)."
    )
    return read_figures(path, Sensitivity, "profile", remedy)


def check_same(path: Path, there: Sensitivity, wanted: Sensitivity) -> None:
    """Raises UserError, naming what differs, unless figures of `wanted` may stand beside those of `there`, which `path` holds."""
    same_model = there.model.fingerprint == wanted.model.fingerprint
    differing = [] if same_model else [f"the model ({_described(there.model)} there, {_described(wanted.model)} now)"]
    differing += [
        f"{what} ({before} there, {now} now)"
        for what, before, now in (
            ("the sites", there.sites, wanted.sites),
            ("the method", there.method, wanted.method),
            ("the length", there.length, wanted.length),
            ("the number of sequences", there.sequences, wanted.sequences),
            ("the seed", there.seed, wanted.seed),
        )
        if before != now
    ]
    if not differing and there.text != wanted.text:
        differing = [f"the text ({there.data} there, {wanted.data} now; their tokens differ)"]
    if differing:
        raise UserError(
            f"{path} is a profile of something else: {', '.join(differing)} differ{'s' if len(differing) == 1 else ''}.",
            "Choose another --output, or ask for the same.",
        )


def _described(model: BaseModelRef) -> str:
    return f"{model.name}, {model.fingerprint[:12]}"


class Book:
    """A profile as it grows. A cell of the same layer and bond dimension is replaced metric by metric; a curve as a whole."""

    def __init__(self, path: Path, header: Sensitivity) -> None:
        self._path = path
        self.header = header
        self.baseline: dict[str, float] = {}
        self.curves: dict[str, Curve] = {}
        self.cells: dict[tuple[str, int], Cell] = {}
        self._written = time.monotonic()

    def add(self, *, baseline: Mapping[str, float] | None = None, curves: Iterable[Curve] = (), cells: Iterable[Cell] = ()) -> None:
        self.baseline |= dict(baseline or {})
        self.curves |= {curve.layer: curve for curve in curves}
        for cell in cells:
            before = self.cells.get((cell.layer, cell.chi))
            figures = {**(before.figures if before else {}), **cell.figures}
            self.cells[cell.layer, cell.chi] = cell.model_copy(update={"figures": figures})

    def fold(self, events: Iterable[Mapping[str, Any]]) -> bool:
        """Adds what a run's journal holds; whether it told of this profile already. The same as extension/profile/fold.ts."""
        told = False
        for event in events:
            if event["type"] == "profile":
                told = True
                self.merge(Sensitivity.model_validate(event["profile"]))
            elif event["type"] == "baseline":
                self.add(baseline=event["baseline"])
            elif event["type"] == "curve":
                self.add(curves=[Curve.model_validate(event["curve"])])
            elif event["type"] == "cell":
                self.add(cells=[Cell.model_validate(event["cell"])])
        return told

    def merge(self, there: Sensitivity) -> None:
        """Adds another profile of the same; its layers stay in the order of depth."""
        layers = {layer.name: layer for layer in (*there.layers, *self.header.layers)}
        ordered = sorted(layers.values(), key=lambda layer: layer.block)
        self.header = self.header.model_copy(update={"layers": ordered})
        self.add(baseline=there.baseline, curves=there.curves, cells=there.cells)

    def profile(self, *, correlation: float | None = None, complete: bool = False) -> Sensitivity:
        order = {layer.name: number for number, layer in enumerate(self.header.layers)}
        return self.header.model_copy(
            update={
                "baseline": dict(self.baseline),
                "curves": sorted(self.curves.values(), key=lambda curve: order[curve.layer]),
                "cells": sorted(self.cells.values(), key=lambda cell: (order[cell.layer], cell.chi)),
                "correlation": correlation,
                "complete": complete,
            }
        )

    def write(self, *, correlation: float | None = None, complete: bool = False) -> None:
        """Writes the file. Raises OSError when the disk is full or the folder cannot be written."""
        atomic.write_json(self._path, self.profile(correlation=correlation, complete=complete))
        self._written = time.monotonic()

    def write_sometimes(self) -> None:
        if time.monotonic() - self._written > WRITE_SECONDS:
            self.write()
