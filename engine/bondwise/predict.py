"""What a layer costs at each size: the curve that a profile predicts, corrected by the cells that it measured. Arithmetic without torch.

A curve has the right shape (one decomposition, all χ) but not the right height: second order underrates large losses. A measured cell has
the right height at one χ only. So the ratio of measured to predicted is taken at the cells, interpolated in its logarithm over ln χ, and
multiplied into the curve. Layers without cells take the median ratio of the others, whose spread then is the uncertainty.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bondwise.schema import Cell, Curve, Method, Sensitivity

SIGNIFICANT = 2.0
"""A rise of the loss counts as measured from so many standard errors on; below, the cell only bounds it."""
UNMEASURED_SPREAD = math.log(3)
"""Standard deviation of ln(measured / predicted) where fewer than `ENOUGH` cells tell it."""
ENOUGH = 5
MAD = 1.4826
"""Median absolute deviation → standard deviation of a normal distribution."""


class Point(NamedTuple):
    """A layer at one size. `loss` is the rise of the model's mean loss, nats per token; `own` and `common` are standard deviations of its
    logarithm: of what is this layer's own, and of what all layers without cells have in common."""

    chi: int
    parameters: int
    loss: float
    own: float
    common: float


@dataclass(frozen=True)
class Correction:
    """Over the measured cells of a profile, ln(measured / predicted): its median, spread, and the standard error of the median."""

    log_ratio: float
    spread: float
    error: float


FITTED = Correction(math.log(3), UNMEASURED_SPREAD, UNMEASURED_SPREAD)
"""Of the methods that fit the very text that predicts them. SmolLM2-135M calibrated on 8,192 tokens of WikiText-2, its layers kept at 90%
(all) and at 75, 50 and 30% (all but the first four blocks and the down projections): the KL to the original is 2.1 to 2.7 times the
prediction on other sections of that text, 2.3 to 3.4 times on captions, 3.0 to 5.1 times on documentation."""


class _Ratio(NamedTuple):
    log_chi: float
    log: float
    doubt: float


def loss_tables(profile: Sensitivity, method: Method = "plain") -> dict[str, list[Point]]:
    """For each layer with a curve its points at the curve's bond dimensions, ascending in χ; the loss never rises with χ.

    Cells were measured with the profile's method, and say nothing of another one (`FITTED`).
    """
    cells: defaultdict[str, list[Cell]] = defaultdict(list)
    if method == profile.method:
        for cell in profile.cells:
            cells[cell.layer].append(cell)
    baseline = baseline_loss(profile)
    correction = median_correction(profile, baseline) if method == profile.method else FITTED
    return {
        curve.layer: _points(curve, method, _ratios(curve, cells[curve.layer], baseline, correction), correction)
        for curve in profile.curves
    }


def baseline_loss(profile: Sensitivity) -> float | None:
    """The original model's mean loss on the profile's text, nats per token; None where it was not measured."""
    if (loss := profile.baseline.get("loss")) is not None:
        return loss
    perplexity = profile.baseline.get("perplexity")
    return math.log(perplexity) if perplexity is not None and perplexity > 0 else None


def median_correction(profile: Sensitivity, baseline: float | None) -> Correction:
    """How far the measured cells lie from the curves. Without enough of them: as predicted, give or take `UNMEASURED_SPREAD`."""
    curves = {curve.layer: curve for curve in profile.curves}
    logs: list[float] = []
    for cell in profile.cells:
        curve, rise = curves.get(cell.layer), measured_rise(cell, baseline)
        predicted = _predicted(curve, cell.chi) if curve is not None else 0.0
        if rise is not None and predicted > 0 and rise[0] > SIGNIFICANT * rise[1]:
            logs.append(math.log(rise[0] / predicted))
    if len(logs) < ENOUGH:
        return Correction(median(logs) if logs else 0.0, UNMEASURED_SPREAD, UNMEASURED_SPREAD / math.sqrt(max(len(logs), 1)))
    middle = median(logs)
    spread = MAD * median(abs(log - middle) for log in logs)
    return Correction(middle, spread, spread / math.sqrt(len(logs)))


# --- one layer -----------------------------------------------------------------------------------------------------------------------


def measured_rise(cell: Cell, baseline: float | None) -> tuple[float, float] | None:
    """Measured rise of the loss and its standard error; None where the cell has neither loss nor KL.

    KL divergence to the original is the rise that text of the original's own distribution would show. It is never negative, and much surer
    on few sequences: of the two the one with the smaller error counts.
    """
    found: list[tuple[float, float]] = []
    if (loss := cell.figures.get("loss")) is not None and baseline is not None:
        found.append((loss.value - baseline, loss.error))
    if (kl := cell.figures.get("kl")) is not None:
        found.append((kl.value, kl.error))
    finite = [each for each in found if math.isfinite(each[0]) and math.isfinite(each[1])]
    return min(finite, key=lambda each: each[1], default=None)


def _ratios(curve: Curve, cells: Sequence[Cell], baseline: float | None, correction: Correction) -> list[_Ratio]:
    """ln(measured / predicted) at the measured χ of a layer, ascending.

    A cell within noise of the baseline says only that the loss is small: it is weighed against the corrected curve by precision.
    """
    found: dict[float, _Ratio] = {}
    for cell in cells:
        rise, predicted = measured_rise(cell, baseline), _predicted(curve, cell.chi)
        if rise is None or predicted <= 0:
            continue
        value, error = rise
        if value <= SIGNIFICANT * error:
            expected = predicted * math.exp(correction.log_ratio)
            prior, noise = (correction.spread * expected) ** 2, error**2
            total = prior + noise
            error = math.sqrt(prior * noise / total) if total > 0 else 0.0
            value = max((expected * noise + value * prior) / total if total > 0 else 0.0, error / 4, expected / 1000)
        found[math.log(cell.chi)] = _Ratio(math.log(cell.chi), math.log(value / predicted), error / value)
    return [found[key] for key in sorted(found)]


def _points(curve: Curve, method: Method, ratios: Sequence[_Ratio], correction: Correction) -> list[Point]:
    corrected: list[float] = []
    doubts: list[tuple[float, float]] = []
    for chi, predicted in zip(curve.chi, _losses(curve, method), strict=True):
        log, own, common = _ratio_at(math.log(chi), ratios, correction)
        corrected.append(predicted * math.exp(log))
        doubts.append((own, common))
    losses = _never_rising(corrected)
    return [
        Point(chi, parameters, loss, own, common)
        for chi, parameters, loss, (own, common) in zip(curve.chi, curve.parameters, losses, doubts, strict=True)
    ]


def _losses(curve: Curve, method: Method) -> list[float]:
    return {"plain": curve.plain, "input": curve.input}.get(method, curve.fisher)


def _ratio_at(log_chi: float, ratios: Sequence[_Ratio], correction: Correction) -> tuple[float, float, float]:
    """ln of the ratio at ln χ and its deviations, own and common: linear between measured χ, constant beyond, less sure with distance."""
    if not ratios:
        return correction.log_ratio, correction.spread, correction.error
    after = next((index for index, ratio in enumerate(ratios) if ratio.log_chi >= log_chi), len(ratios))
    low, high = ratios[max(after - 1, 0)], ratios[min(after, len(ratios) - 1)]
    width = high.log_chi - low.log_chi
    share = (log_chi - low.log_chi) / width if width > 0 else 0.0
    distance = min(abs(log_chi - low.log_chi), abs(log_chi - high.log_chi), 1.0)
    doubt = low.doubt + share * (high.doubt - low.doubt)
    return low.log + share * (high.log - low.log), math.hypot(doubt, correction.spread * distance), 0.0


def _predicted(curve: Curve, chi: int) -> float:
    """The curve at any χ: linear in the logarithms between its own, constant beyond them; 0 where the truncation is exact."""
    if chi <= curve.chi[0]:
        return curve.plain[0]
    for (low, before), (high, after) in pairwise(zip(curve.chi, curve.plain, strict=True)):
        if low <= chi <= high:
            if chi == high or before <= 0 or after <= 0:
                return after if chi == high else before
            share = math.log(chi / low) / math.log(high / low)
            return math.exp(math.log(before) + share * math.log(after / before))
    return curve.plain[-1]


def _never_rising(values: Sequence[float]) -> list[float]:
    """The sequence without rises that is nearest in squares: pool adjacent violators (Ayer et al. 1955)."""
    pools: list[tuple[float, int]] = []
    for value in values:
        mean, count = value, 1
        while pools and pools[-1][0] < mean:
            before, size = pools.pop()
            mean, count = (before * size + mean * count) / (size + count), size + count
        pools.append((mean, count))
    return [mean for mean, count in pools for _ in range(count)]
