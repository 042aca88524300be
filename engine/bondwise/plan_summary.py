"""What `plan` and `run` print for a person."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from bondwise.schema import Predicted
from bondwise.terminal import size, table

if TYPE_CHECKING:
    from bondwise.schema import ExchangePoint, PlanResult

_ROWS = 12


def plan_text(plan: PlanResult) -> str:
    """What the plan makes of the model, and the exchange curve around it."""
    rows = [["", "before", "after", "kept"]]
    for name, show in (("parameters", "{:,}".format), ("bytes", size)):
        before, after = getattr(plan, f"original_{name}"), getattr(plan, name)
        rows.append([name, show(before), show(after), f"{after / before:.1%}"])
    rows.append(["layers compressed", "", str(len(plan.layers)), ""])
    predicted = plan.predicted
    lines = [
        table(rows),
        "",
        f"Predicted: {_rise(predicted)}{_perplexity(predicted)}.",
        f"Stay dense: {', '.join(plan.exclude) or 'nothing'}.",
    ]
    curve = [["size", "kept", "loss rise", "perplexity"], *(_exchange_row(plan, point) for point in _some(plan.exchange))]
    written = f"\n\nWrote {plan.output}." if plan.output else ""
    return "\n".join([*lines, "", "Other sizes, with the same exclusions:", table(curve)]) + written


def measured_text(result: dict[str, Any]) -> str | None:
    """Predicted beside measured, on the text of the evaluation, from `result.json`; None where a run had no plan or measured nothing."""
    original, compressed = result.get("original"), result.get("compressed")
    if not original or not compressed or not result.get("predicted"):
        return None
    predicted = Predicted.model_validate(result["predicted"])
    before, after = original["perplexity"], compressed["perplexity"]
    low, high = max(predicted.loss - predicted.loss_error, 0.0), predicted.loss + predicted.loss_error
    rows = [
        ["", "perplexity", "times the original", "loss rise"],
        ["original", f"{before:.4g}", "", ""],
        [
            "predicted",
            f"{_times(before, predicted.loss)} ({_times(before, low)} to {_times(before, high)})",
            _factor(predicted.loss),
            f"{predicted.loss:.4f}",
        ],
        ["measured", f"{after:.4g} ± {compressed['standard_error']:.2g}", f"{after / before:.3g}", f"{math.log(after / before):.4f}"],
    ]
    return f"\n{table(rows)}"


def _rise(predicted: Predicted) -> str:
    return f"the loss rises by {predicted.loss:.3g} ± {predicted.loss_error:.2g} nats a token"


def _perplexity(predicted: Predicted) -> str:
    if predicted.perplexity is None or predicted.perplexity_low is None or predicted.perplexity_high is None:
        return f", which multiplies the perplexity by {_factor(predicted.loss)}"
    return f", to a perplexity of {predicted.perplexity:.4g} ({predicted.perplexity_low:.4g} to {predicted.perplexity_high:.4g})"


def _exchange_row(plan: PlanResult, point: ExchangePoint) -> list[str]:
    share = point.parameters / plan.original_parameters
    return [
        size(point.bytes),
        f"{share:.1%}",
        f"{point.loss:.3g} ± {point.loss_error:.2g}",
        f"{point.perplexity:.4g}" if point.perplexity else "",
    ]


def _some(points: list[ExchangePoint]) -> list[ExchangePoint]:
    step = max(len(points) - 1, 1) / (_ROWS - 1)
    return [points[index] for index in sorted({min(round(number * step), len(points) - 1) for number in range(_ROWS)})]


def _factor(nats: float) -> str:
    return f"{math.exp(min(nats, 700.0)):.3g}"


def _times(perplexity: float, nats: float) -> str:
    return f"{perplexity * math.exp(min(nats, 600.0)):.4g}"
