"""The table of choices that the extension's picker is checked against too (test/unit/choices.test.ts).

`python test/engine/test_choices.py` writes the table anew from mpo.py; the test fails when the two no longer say the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest

from bondwise import mpo

TABLE = Path(__file__).parents[1] / "fixtures" / "choices.json"
SHAPES = [
    (576, 576),
    (192, 576),
    (1536, 576),
    (576, 1536),
    (4096, 4096),
    (11008, 4096),
    (216, 216),
    (97, 101),
    (7, 3),
    (50257, 768),
]
SITES: list[int | Literal["low-rank"]] = ["low-rank", 2, 3, 4, 5]
TARGETS: list[dict[str, Any]] = [
    {"chi": 1},
    {"chi": 32},
    {"chi": 10**6},
    *({"keep": keep} for keep in (0.3, 0.1, 1.0, 0.0001)),
]


def row(shape: tuple[int, int], sites: int | Literal["low-rank"], target: dict[str, Any]) -> dict[str, Any]:
    """One line of the table; without bond dimensions where the target cannot be met."""
    out_modes, in_modes = mpo.layer_modes(*shape, sites)
    line: dict[str, Any] = {
        "shape": list(shape),
        "sites": sites,
        **target,
        "out_modes": list(out_modes),
        "in_modes": list(in_modes),
    }
    line["max_bond_dims"] = list(mpo.max_bond_dims(out_modes, in_modes))
    try:
        if "chi" in target:
            bonds = mpo.bond_dims_for_chi(out_modes, in_modes, target["chi"])
        else:
            bonds = mpo.bond_dims_for_keep(out_modes, in_modes, target["keep"], shape[0] * shape[1])
    except ValueError:
        return line
    counts = {
        "parameters": mpo.parameter_count(out_modes, in_modes, bonds),
        "orders": mpo.order_count(out_modes, in_modes, bonds),
        "multiply_adds": mpo.multiply_adds(out_modes, in_modes, bonds),
    }
    return {**line, "bond_dims": list(bonds), **counts}


def table() -> list[dict[str, Any]]:
    return [row(shape, sites, target) for shape in SHAPES for sites in SITES for target in TARGETS]


COMMITTED: list[dict[str, Any]] = json.loads(TABLE.read_text("utf-8")) if TABLE.exists() else []


def test_table_is_complete() -> None:
    assert len(COMMITTED) == len(SHAPES) * len(SITES) * len(TARGETS)


@pytest.mark.parametrize("sites", SITES)
def test_table_says_what_the_engine_does(sites: int | Literal["low-rank"]) -> None:
    lines = [line for line in COMMITTED if line["sites"] == sites]
    for line in lines:
        target = {key: line[key] for key in ("chi", "keep") if key in line}
        assert row((line["shape"][0], line["shape"][1]), sites, target) == line


if __name__ == "__main__":
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text("[\n" + ",\n".join(json.dumps(line) for line in table()) + "\n]\n", "utf-8")
