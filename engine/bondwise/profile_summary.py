"""What the command line prints of a profile: the layers that bear compression least and most, at one size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bondwise.profile_file import read_profile
from bondwise.terminal import table

if TYPE_CHECKING:
    from bondwise.schema import Sensitivity

EACH = 5
"""Layers of either end."""
SIZE = 0.3
"""The part kept, or the nearest to it that a layer has."""


class _Row(NamedTuple):
    layer: str
    chi: int
    keep: float
    change: float
    """Beside the original: of the metric, or the predicted rise of the loss."""
    value: str
    error: str


def profile_text(result: dict[str, Any]) -> str:
    """From `result.json` and the file that it names."""
    profile = read_profile(Path(result["output"]))
    baseline = ", ".join(f"{name} {value:.4g}" for name, value in profile.baseline.items() if name in ("perplexity", profile.metric))
    head = f"{result['cells']:,} cells measured, {result['curves']:,} layers predicted; original: {baseline or 'not measured'}"
    if result.get("correlation") is not None:
        head += f"; rank correlation of predicted and measured {result['correlation']:.2f}"
    rows = sorted(_measured(profile) or _predicted(profile), key=lambda row: -row.change)
    if not rows:
        return head
    shown = rows if len(rows) <= 2 * EACH else [*rows[:EACH], None, *rows[-EACH:]]
    title = profile.metric if _measured(profile) else "predicted loss"
    cells = [["layer", "χ", "kept", title, "±"]]
    cells += [["…", "", "", "", ""] if row is None else [row.layer, str(row.chi), f"{row.keep:.0%}", row.value, row.error] for row in shown]
    return f"{head}\n\n{table(cells)}"


def _measured(profile: Sensitivity) -> list[_Row]:
    """A row for each layer with a cell."""
    found: dict[str, _Row] = {}
    original = profile.baseline.get(profile.metric, 0.0)
    for cell in sorted(profile.cells, key=lambda cell: abs(cell.keep - SIZE), reverse=True):
        if (figure := cell.figures.get(profile.metric)) is not None:
            change = abs(figure.value - original)
            found[cell.layer] = _Row(cell.layer, cell.chi, cell.keep, change, f"{figure.value:.4g}", f"{figure.error:.2g}")
    return list(found.values())


def _predicted(profile: Sensitivity) -> list[_Row]:
    dense = {layer.name: layer.parameters for layer in profile.layers}
    found: list[_Row] = []
    for curve in profile.curves:
        keeps = [parameters / dense[curve.layer] for parameters in curve.parameters]
        at = min(range(len(keeps)), key=lambda index: abs(keeps[index] - SIZE))
        found.append(_Row(curve.layer, curve.chi[at], keeps[at], curve.plain[at], f"+{curve.plain[at]:.3g}", ""))
    return found
