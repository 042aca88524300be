"""Tensors that wait in memory or in files: the same either way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from bondwise.shelf import Shelf

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("in_files", [True, False])
def test_what_is_taken_is_what_was_put(in_files: bool, tmp_path: Path) -> None:
    folder = tmp_path / "shelf" if in_files else None
    with Shelf(folder) as shelf:
        first, second = torch.randn(2, 3, dtype=torch.float64), torch.randn(4, 5).bfloat16().mT
        shelf.put("0 1", first)
        shelf.put("0/1", second)
        for keep in (True, False):
            found = shelf.take("0 1", keep=keep)
            assert found is not None and torch.equal(found, first) and found.dtype == first.dtype
        assert shelf.take("0 1") is None
        shelf.put("0/1", first.requires_grad_())
        found = shelf.take("0/1")
        assert found is not None and torch.equal(found, first) and not found.requires_grad
        assert not in_files or not list((tmp_path / "shelf").iterdir())
    assert not list(tmp_path.glob("shelf"))


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "shelf"
    for enter in (False, True):
        folder.mkdir()
        (folder / "7.safetensors").touch()
        shelf = Shelf(folder)
        if enter:
            with shelf:
                assert not list(folder.iterdir())
        else:
            shelf.clear()
        assert not folder.exists()
