"""What one tensor holds, against numpy on the whole of it: the pieces that it is read in must not show."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bondwise.cli import main
from bondwise.errors import UserError
from bondwise.tensor_facts import BINS, find_tensor, tensor_facts, tensor_spectrum

if TYPE_CHECKING:
    from pathlib import Path

    from bondwise.checkpoint import TensorEntry

SMALL = 1 << 12
"""Bytes of a piece: a tensor of a few thousand values is read in many."""


def stored(folder: Path, tensor: torch.Tensor) -> TensorEntry:
    file = folder / "x.safetensors"
    save_file({"other": torch.zeros(3), "x": tensor.contiguous()}, file)
    return find_tensor(file, "x")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn, torch.int8])
def test_figures_are_those_of_the_whole_tensor(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = (normal(37, 91) * 20).to(dtype)
    facts = tensor_facts(stored(tmp_path, tensor), piece=SMALL)
    values = tensor.double().numpy()
    assert (facts.count, facts.zeros, facts.nan, facts.infinite) == (37 * 91, int((values == 0).sum()), 0, 0)
    assert (facts.minimum, facts.maximum) == (values.min(), values.max())
    assert facts.mean == pytest.approx(values.mean(), abs=1e-12) and facts.deviation == pytest.approx(values.std(), rel=1e-12)
    assert facts.norm == pytest.approx(np.linalg.norm(values), rel=1e-12)
    assert sum(facts.histogram) == facts.count


def test_the_histogram_is_numpys(tmp_path: Path) -> None:
    tensor = normal(5000).double()
    facts = tensor_facts(stored(tmp_path, tensor), piece=SMALL)
    counts, _ = np.histogram(tensor.numpy(), bins=BINS, range=(facts.low, facts.high))
    # A value at the border of two bins may be counted in the one or the other: rounding decides.
    assert np.abs(np.array(facts.histogram) - counts).sum() <= 2


def test_values_that_are_not_finite_are_counted_and_left_out(tmp_path: Path) -> None:
    tensor = torch.tensor([1.0, float("nan"), float("inf"), 3.0, float("-inf"), 0.0])
    facts = tensor_facts(stored(tmp_path, tensor))
    assert (facts.nan, facts.infinite, facts.zeros, facts.minimum, facts.maximum) == (1, 2, 1, 0.0, 3.0)
    assert facts.mean == pytest.approx(4 / 3) and sum(facts.histogram) == 3


@pytest.mark.parametrize("tensor", [torch.full((4, 4), float("nan")), torch.zeros(0, 8)])
def test_without_finite_values_there_are_no_figures(tmp_path: Path, tensor: torch.Tensor) -> None:
    facts = tensor_facts(stored(tmp_path, tensor))
    assert facts.minimum is None and facts.mean is None and sum(facts.histogram) == 0
    json.dumps(facts.model_dump(), allow_nan=False)


def test_equal_values_are_one_bin(tmp_path: Path) -> None:
    facts = tensor_facts(stored(tmp_path, torch.full((10,), 2.5)))
    assert facts.deviation == 0 and max(facts.histogram) == 10


@pytest.mark.parametrize("shape", [(96, 40), (40, 96), (64, 64), (24, 5, 8)])
def test_the_spectrum_is_that_of_an_svd(tmp_path: Path, shape: tuple[int, ...]) -> None:
    tensor = normal(*shape, seed=3)
    spectrum = tensor_spectrum(stored(tmp_path, tensor), piece=SMALL)
    expected = torch.linalg.svdvals(tensor.double().reshape(shape[0], -1))
    torch.testing.assert_close(torch.tensor(spectrum.values, dtype=torch.float64), expected, rtol=1e-9, atol=1e-9)


def test_marks_tell_the_error_of_the_best_low_rank(tmp_path: Path) -> None:
    tensor = normal(60, 90, seed=5)
    spectrum = tensor_spectrum(stored(tmp_path, tensor))
    left, values, right = torch.linalg.svd(tensor.double(), full_matrices=False)
    for mark in spectrum.marks:
        made = left[:, : mark.chi] * values[: mark.chi] @ right[: mark.chi]
        assert mark.relative_error == pytest.approx(float((tensor - made).norm() / tensor.norm()), rel=1e-6)
        assert mark.parameters == mark.chi * (60 + 90 - mark.chi) <= mark.keep * 60 * 90
    assert [mark.keep for mark in spectrum.marks] == [0.75, 0.5, 0.3, 0.1]


def test_what_has_no_spectrum_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x has the shape \[8\], which is no matrix"):
        tensor_spectrum(stored(tmp_path, torch.ones(8)))
    with pytest.raises(UserError, match="x holds values that are NaN"):
        tensor_spectrum(stored(tmp_path, torch.full((4, 4), float("nan"))))
    with pytest.raises(UserError, match="9000×9000"):
        tensor_spectrum(stored(tmp_path, torch.zeros(9000, 9000, dtype=torch.int8)))


def test_a_file_cut_short_and_a_name_that_is_not_there(tmp_path: Path) -> None:
    entry = stored(tmp_path, normal(64, 64))
    with pytest.raises(UserError, match="has no tensor y"):
        find_tensor(entry.file, "y")
    with entry.file.open("r+b") as file:
        file.truncate(entry.end - 8)
    with pytest.raises(UserError, match="ended inside x"):
        tensor_facts(entry)
    with pytest.raises(UserError, match="is not a whole safetensors file"):
        find_tensor(entry.file, "x")


def test_the_command_prints_json_and_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = stored(tmp_path, normal(20, 30))
    assert main(["tensor", str(entry.file), "x", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["count"] == 600
    assert main(["tensor", str(entry.file), "x", "--spectrum"]) == 0
    assert "relative error" in capsys.readouterr().out
    assert main(["tensor", str(entry.file), "none", "--json"]) == 1
    assert "has no tensor none" in capsys.readouterr().err
