"""How many bytes each scheme takes: the table that the extension's picker is checked against too (test/unit/schemes.test.ts).

`python test/engine/test_stored_bits.py` writes the table anew; the test fails when the two no longer say the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from bondwise.arguments import SCHEMES
from bondwise.stored_bits import BITSANDBYTES, stored_bytes

if TYPE_CHECKING:
    from bondwise.schema import Scheme

TABLE = Path(__file__).parents[1] / "fixtures" / "schemes.json"
SHAPES = [(576, 576), (192, 576), (1536, 576), (4096, 11008), (97, 101), (7, 3), (64, 40000)]
DTYPES = {"BF16": 16, "F16": 16, "F32": 32}


def rows() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for shape in SHAPES:
        for dtype in DTYPES:
            for scheme in cast("tuple[Scheme, ...]", SCHEMES):
                backends = ["packed", "bitsandbytes"] if scheme in BITSANDBYTES else ["packed"]
                ranks = [(5, 0)] if scheme.startswith("low-rank") else [(0, 0), (6, 4), (6, 16)] if scheme == "compensated-3" else [(0, 0)]
                found += [row(shape, dtype, scheme, backend, *rank) for backend in backends for rank in ranks]
    return found


def row(shape: tuple[int, int], dtype: str, scheme: Scheme, backend: Any, rank: int, rank_bits: int) -> dict[str, Any]:  # noqa: PLR0917
    size = stored_bytes(shape, scheme, dtype=dtype, item_bits=DTYPES[dtype], backend=backend, rank=rank, rank_bits=rank_bits)
    return {
        "shape": list(shape),
        "dtype": dtype,
        "scheme": scheme,
        "backend": backend,
        "rank": rank,
        "rank_bits": rank_bits,
        "bytes": size,
    }


def test_the_table_is_what_the_engine_says() -> None:
    assert json.loads(TABLE.read_text()) == rows(), f"write it anew: python {Path(__file__).name}"


@pytest.mark.parametrize("scheme", ["int8", "nf4", "nf4-double"])
def test_bitsandbytes_stores_as_many_bytes(scheme: Scheme) -> None:
    import torch

    from bondwise.modelmap import Layer
    from bondwise.quantize_choices import Target
    from bondwise.quantize_layer import quantize_layer

    for shape in ((96, 128), (33, 65)):
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
        layer = Layer("x", 0, "mlp", shape, "BF16", weight.numel(), weight.nbytes, "dense", ("x.weight",))
        target = Target(layer, scheme, 0, 0)
        made = quantize_layer(target, weight, None)
        assert made.figures.bytes == sum(tensor.nbytes for tensor in made.tensors.values())
        assert abs(made.figures.bytes - target.bytes) <= (4 if scheme == "nf4-double" else 0)


if __name__ == "__main__":
    TABLE.write_text("[\n" + ",\n".join(json.dumps(line) for line in rows()) + "\n]\n")
