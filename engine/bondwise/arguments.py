"""What the values on a command line may be: text → value, with an error that says what to give instead."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


SCHEMES = (
    *("int8", "nf4", "nf4-double", "float16", "compensated-8", "compensated-4", "compensated-3", "compensated-2"),
    *("low-rank-16", "low-rank-8", "low-rank-4"),
)
PRESETS: dict[str, list[dict[str, Any]]] = {
    "8bit": [{"layers": ["*"], "scheme": "int8"}],
    "4bit": [{"layers": ["*"], "scheme": "nf4"}],
    "4bit-compensated": [{"layers": ["*"], "scheme": "compensated-4"}],
    "paper": [{"layers": ["*.cores.*"], "scheme": "float16"}, {"layers": ["*"], "exclude": ["*.cores.*"], "scheme": "nf4"}],
}
"""By name, the rules of a quantize request. `paper`: cores in 16 bits, all else in 4 (A. Tomut et al., CompactifAI (2024): the model of 93%
less memory)."""


def chi(text: str) -> int:
    return _whole(text, 1, "χ")


def at_least(smallest: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        return _whole(text, smallest, "the value")

    return convert


def _whole(text: str, smallest: int, what: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = None
    if number is None or number < smallest:
        raise argparse.ArgumentTypeError(f"{what} must be a whole number of at least {smallest}, not {text!r}")
    return number


def fraction(text: str) -> float:
    number = _number(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"give a part above 0 and up to 1, such as 0.3 or 30%, not {text!r}")
    return number


def part(text: str) -> float:
    number = _number(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"give a part from 0 to 1, such as 0.1 or 10%, not {text!r}")
    return number


def error(text: str) -> float:
    number = _number(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"give a relative error above 0 and below 1, such as 0.1 or 10%, not {text!r}")
    return number


def _number(text: str) -> float:
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return math.nan


def sites(text: str) -> int | str:
    if text == "low-rank":
        return text
    if text not in ("2", "3", "4", "5"):
        raise argparse.ArgumentTypeError(f"give 2, 3, 4, 5 or low-rank, not {text!r}")
    return int(text)


def positive(text: str) -> float:
    number = _number(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"give a number above 0, not {text!r}")
    return number


def weighted(text: str) -> tuple[str, float]:
    """DATA or DATA=WEIGHT."""
    data, mark, weight = text.rpartition("=")
    return (data, positive(weight)) if mark else (text, 1.0)


def names(text: str) -> list[str]:
    """NAME,NAME,…"""
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise argparse.ArgumentTypeError("give names with commas between them, or none")
    return list(dict.fromkeys(found))
