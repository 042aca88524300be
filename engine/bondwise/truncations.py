"""A weight at several sizes, dense again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from bondwise import mpo

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor


class Truncations:
    """A weight at several sizes, from one decomposition where two sites allow it: the truncation to χ is then its first χ terms."""

    @torch.no_grad()
    def __init__(self, weight: Tensor, out_modes: Sequence[int], in_modes: Sequence[int], bonds: Iterable[Sequence[int]]) -> None:
        """`weight` [out, in]; `bonds` are the bond dimensions that will be asked for. Raises ValueError as `mpo.decompose`."""
        self._shape = weight.shape
        self._exact = mpo.max_bond_dims(out_modes, in_modes)
        self._whole = weight.float()
        cut = {tuple(bond) for bond in bonds} - {self._exact}
        self._nested = len(out_modes) == 2
        made = {max(cut)} if self._nested and cut else cut
        self._cores = {bond: [core.float() for core in mpo.decompose(weight, out_modes, in_modes, chi=bond).cores] for bond in made}

    @property
    def bytes(self) -> int:
        return sum(core.numel() * core.element_size() for cores in self._cores.values() for core in cores)

    @torch.no_grad()
    def weight(self, bonds: Sequence[int]) -> Tensor:
        """The weight [out, in], float32, that the MPO with these bond dimensions stands for; its cores are not rounded before."""
        if tuple(bonds) == self._exact:
            return self._whole
        if self._nested:
            (left, right), chi = next(iter(self._cores.values())), bonds[0]
            cores = [left[..., :chi], right[:chi]]
        else:
            cores = self._cores[tuple(bonds)]
        return mpo.contract(cores)[: self._shape[0], : self._shape[1]]
