"""Matrix product operators of interleaved sites that keep what a layer does: the methods `input` and `fisher` beyond low rank.

Minimised over the cores, at given bond dimensions, is ½ tr(G ΔW S ΔWᵀ) with the metrics of `weighted`. They do not factor over the
sites, so no sequence of singular value decompositions gives the best cores. Source: S. Holtz, T. Rohwedder, R. Schneider, The
alternating linear scheme for tensor optimization in the tensor train format, SIAM J. Sci. Comput. 34 (2012): all cores but one are held,
orthonormal to the left and to the right of it, and the quadratic form is minimised over that one, there and back along the chain.

Three things make it fast.

1. Coordinates. With S_k and G_k the partial traces of the metrics over all sites but k, and Cholesky factors of those, every site is
   changed by an invertible map of its own, W′ = (⊗L_Gk)ᵀ W (⊗L_Sk). The bond dimensions stay, S′ and G′ are closer to the unit matrix,
   and the plain decomposition of W′ is the start (that of W where it loses less): at 50% of a query and a gate projection of SmolLM2 it
   loses a seventh and a half of what the plain one loses. Orthonormal environments keep the conditioning of S′ and G′ for the equations
   of each core: in these coordinates the same number of steps ends at a half to two thirds of the loss that it ends at in those of W.
2. The equations of a core, with (out_k·in_k·r²)² entries, are never formed: each is solved by conjugate gradients, whose operator
   spreads a change of the core over the weight, multiplies G′ · S′ and gathers the result at the core. The pull G′(W′ − Ŵ′)S′ is kept
   up to date, so that a step takes one product of the metrics and no core starts with another: out·in·(out + in) multiply-adds, and
   fewer for spreading and gathering.
3. Steps are in float32, for half the time: what they aim at is not lost with them, as the loss that decides between the result and the
   plain decomposition is in float64.

The loss never rises: a step that would raise it is not taken. A fit takes at most `SWEEPS`·2(n − 1)·`STEPS` steps. Each core is still
falling when its steps end: more of them would lose less, slowly (twice as many: 7 to 31% less).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import pad

from bondwise import mpo
from bondwise.weighted import decompose_weighted, half_norm, metrics, precise_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

STEPS = 16
"""Conjugate-gradient steps for a core. On three layers of SmolLM2 (two and three sites) as many steps in all, in twice as many sweeps
of 8 a core, ended 6 to 27% higher; in sweeps of 4 a core 14 to 61% higher."""
SWEEPS = 2
"""There and back along the chain: 2(n − 1) cores are solved for."""
TOLERANCE = 0.01
"""A sweep that lowers the loss by less than this part of it is the last."""
STEP_TOLERANCE = 2e-3
"""A step that lowers the loss by less than this part of it is the last for its core."""
SITE_RIDGE = 1e-2
"""Of the mean of a site's partial trace, added to its diagonal: channels of padding have no metric."""


@torch.no_grad()
def decompose(
    weight: Tensor,
    out_modes: Sequence[int],
    in_modes: Sequence[int],
    inputs: Tensor,
    gradients: Tensor | None,
    *,
    chi: int | Sequence[int],
) -> mpo.MPO:
    """Cores of a weight [out, in] of any real dtype that lose little by ½ tr(G ΔW S ΔWᵀ), never more than the plain ones; float64.

    `inputs` is S [in, in], `gradients` G [out, out], or None for the unit matrix; both with their ridge (`weighted.metric`). `chi` is the
    bond dimension of every bond, or of each. On low-rank sites the result is the best possible (`decompose_weighted`); on others a
    minimum of every core, as far as `STEPS` and `SWEEPS` get. Where nothing has to be lost or a metric is zero, the plain cores.
    `discarded` shares the squared relative error evenly: no bond alone drops it.

    Where the modes multiply to more than the weight's size, the rest has no metric: what the cores say there is free.

    Raises ValueError where shapes do not fit, on a weight or moment that is not finite and on χ < 1.
    """
    bonds = mpo.bond_dims_for_chi(out_modes, in_modes, chi)
    out_features, in_features = weight.shape
    if (tuple(out_modes), tuple(in_modes)) == mpo.layer_modes(out_features, in_features, "low-rank"):
        return decompose_weighted(weight, inputs, gradients, chi=bonds[0])
    by_input, by_output = metrics(weight, inputs, gradients)
    plain = mpo.decompose(weight, out_modes, in_modes, chi=bonds)
    given = [by_input] if by_output is None else [by_input, by_output]
    if bonds == mpo.max_bond_dims(out_modes, in_modes) or not all(bool(each.trace() > 0) for each in given):
        return plain
    precise = precise_device(weight.detach()).double()
    frame = Frame(precise, out_modes, in_modes, by_input, by_output)
    starts = [Fit(frame, cores) for cores in (frame.start(bonds), frame.enter(plain.cores))]
    fit = min(starts, key=lambda start: start.loss)
    del starts
    fit.run()
    cores = frame.leave(fit.cores)
    losses = [half_norm(precise - _cut(mpo.contract(each), precise), by_input, by_output) for each in (cores, plain.cores)]
    if not losses[0] < losses[1]:
        return plain
    dropped = mpo.relative_error(precise, _cut(mpo.contract(cores), precise)) ** 2
    return mpo.MPO(tuple(cores), out_features, in_features, (dropped / len(bonds),) * len(bonds))


class Frame:
    """The weight and its metrics in coordinates of each site's own, padded to the modes; float32 on the weight's device."""

    def __init__(
        self, weight: Tensor, out_modes: Sequence[int], in_modes: Sequence[int], by_input: Tensor, by_output: Tensor | None
    ) -> None:
        rows, columns = math.prod(out_modes), math.prod(in_modes)
        self._out_modes, self._in_modes = tuple(out_modes), tuple(in_modes)
        if by_output is None and rows > weight.shape[0]:
            by_output = torch.eye(weight.shape[0], dtype=torch.float64, device=weight.device)
        self._scale = float(weight.square().mean().sqrt()) or 1.0
        padded = pad(weight / self._scale, (0, columns - weight.shape[1], 0, rows - weight.shape[0]))  # [rows, columns]
        self._by_input, self._input_maps = _whitened(by_input, self._in_modes)
        padded = _by_site(padded, self._input_maps, self._in_modes)
        self._by_output: Tensor | None = None
        self._output_maps = [_unit(mode, weight) for mode in out_modes]
        if by_output is not None:
            self._by_output, self._output_maps = _whitened(by_output, self._out_modes)
            padded = _by_site(padded.mT, self._output_maps, self._out_modes).mT
        self.weight = self._to_sites(padded.float())  # [Π out_k·in_k], sites in order

    def start(self, bonds: Sequence[int]) -> list[Tensor]:
        """The plain decomposition in these coordinates."""
        found = mpo.decompose(self._to_matrix(self.weight), self._out_modes, self._in_modes, chi=bonds)
        return [core.float() for core in found.cores]

    def enter(self, cores: Sequence[Tensor]) -> list[Tensor]:
        """Cores of the weight → float32 cores of what it is here."""
        mapped = [
            torch.einsum("aoib,op,ij->apjb", core, by_output, by_input)
            for core, by_output, by_input in zip(cores, self._output_maps, self._input_maps, strict=True)
        ]
        return [(mapped[0] / self._scale).float(), *(core.float() for core in mapped[1:])]

    def leave(self, cores: Sequence[Tensor]) -> list[Tensor]:
        """Cores of what the weight is here → float64 cores of the weight, of equal Frobenius norm."""
        mapped = [
            torch.einsum("aoib,op,ij->apjb", core.double(), torch.linalg.inv(by_output), torch.linalg.inv(by_input))
            for core, by_output, by_input in zip(cores, self._output_maps, self._input_maps, strict=True)
        ]
        return list(mpo.even_norms(mapped, self._scale))

    def pull(self, change: Tensor) -> Tensor:
        """G′ · S′ of a change of the weight; both [Π out_k·in_k]."""
        matrix = self._to_matrix(change) @ self._by_input
        return self._to_sites(matrix if self._by_output is None else self._by_output @ matrix)

    def _to_sites(self, matrix: Tensor) -> Tensor:
        sites = len(self._out_modes)
        pairs = [index for k in range(sites) for index in (k, sites + k)]
        return matrix.reshape(*self._out_modes, *self._in_modes).permute(pairs).reshape(-1)

    def _to_matrix(self, tensor: Tensor) -> Tensor:
        pairs = [mode for pair in zip(self._out_modes, self._in_modes, strict=True) for mode in pair]
        order = [*range(0, len(pairs), 2), *range(1, len(pairs), 2)]
        return tensor.reshape(pairs).permute(order).reshape(math.prod(self._out_modes), -1)


class Fit:
    """Cores on their way, those left of the current one with orthonormal columns, those right of it with orthonormal rows; float32."""

    def __init__(self, frame: Frame, cores: Sequence[Tensor]) -> None:
        self.frame = frame
        self.cores = list(cores)
        unit = frame.weight.new_ones(1, 1)
        self._left = [unit] * len(self.cores)
        """Of each core, what lies left of it: [Π out_j·in_j for j < k, r_{k-1}], orthonormal columns."""
        self._right = [unit] * len(self.cores)
        """[r_k, Π out_j·in_j for j > k], orthonormal rows."""
        for k in range(len(self.cores) - 1, 0, -1):
            self._step_left(k)
        self._missing = frame.weight - self._spread(0, self.cores[0])
        self._pull = frame.pull(self._missing)
        self.loss = float(self._missing @ self._pull) / 2

    def run(self) -> None:
        last = len(self.cores) - 1
        for _ in range(SWEEPS):
            before = self.loss
            for k in range(last):
                self.improve(k)
                self._step_right(k)
            for k in range(last, 0, -1):
                self.improve(k)
                self._step_left(k)
            if before - self.loss < TOLERANCE * before:
                break

    def improve(self, k: int) -> None:
        """Conjugate gradients for core k, all others held. Singular equations are no harm: the start's part in their kernel stays."""
        residual = self._gather(k, self._pull)
        direction, square = residual, float(residual.square().sum())
        for _ in range(STEPS):
            change = self._spread(k, direction)
            pulled = self.frame.pull(change)
            curvature = float(change @ pulled)
            if not curvature > 0:
                break
            length = square / curvature
            missing, pull = self._missing - length * change, self._pull - length * pulled
            loss = float(missing @ pull) / 2
            if not loss < self.loss:
                break
            gain = self.loss - loss
            self.cores[k] = self.cores[k] + length * direction
            self._missing, self._pull, self.loss = missing, pull, loss
            if gain < STEP_TOLERANCE * loss:
                break
            residual = self._gather(k, pull)
            previous, square = square, float(residual.square().sum())
            direction = residual + (square / previous) * direction

    def _spread(self, k: int, core: Tensor) -> Tensor:
        """What a core [r_{k-1}, out_k, in_k, r_k] in the place of core k adds up to: [Π out_k·in_k]."""
        right = core.reshape(-1, core.shape[3]) @ self._right[k]  # [r_{k-1}·d_k, d_{k+1} … d_n]
        return (self._left[k] @ right.reshape(core.shape[0], -1)).reshape(-1)

    def _gather(self, k: int, pull: Tensor) -> Tensor:
        """The transpose of `_spread`: [Π out_k·in_k] → [r_{k-1}, out_k, in_k, r_k]."""
        left = self._left[k].mT @ pull.reshape(self._left[k].shape[0], -1)  # [r_{k-1}, d_k … d_n]
        return (left.reshape(-1, self._right[k].shape[1]) @ self._right[k].mT).reshape(self.cores[k].shape)

    def _step_right(self, k: int) -> None:
        """Core k gets orthonormal columns; what it was besides goes to the next one."""
        core = self.cores[k]
        basis, rest = torch.linalg.qr(core.reshape(-1, core.shape[3]))
        self.cores[k] = basis.reshape(core.shape)
        self.cores[k + 1] = torch.tensordot(rest, self.cores[k + 1], 1)
        self._left[k + 1] = (self._left[k] @ basis.reshape(core.shape[0], -1)).reshape(-1, core.shape[3])

    def _step_left(self, k: int) -> None:
        core = self.cores[k]
        basis, rest = torch.linalg.qr(core.reshape(core.shape[0], -1).mT)
        self.cores[k] = basis.mT.reshape(core.shape)
        self.cores[k - 1] = self.cores[k - 1] @ rest.mT
        self._right[k - 1] = (self.cores[k].reshape(-1, core.shape[3]) @ self._right[k]).reshape(core.shape[0], -1)


# --- one side of the weight ---------------------------------------------------------------------------------------------------------


def _whitened(metric: Tensor, modes: tuple[int, ...]) -> tuple[Tensor, list[Tensor]]:
    """A metric M [size, size] → L⁻¹ M L⁻ᵀ [Π modes, Π modes] float32 of mean diagonal 1, L = ⊗L_k; and the L_k [mode, mode], float64."""
    missing = math.prod(modes) - metric.shape[0]
    padded = pad(metric, (0, missing, 0, missing))
    maps = [torch.linalg.cholesky(_site(padded, modes, k)) for k in range(len(modes))]
    inverses = [torch.linalg.inv(each).mT for each in maps]
    white = _by_site(_by_site(padded, inverses, modes).mT, inverses, modes)
    return (white / white.diagonal().mean()).float(), maps


def _site(metric: Tensor, modes: tuple[int, ...], k: int) -> Tensor:
    """The partial trace over all sites but k, [mode, mode], of mean diagonal 1, with `SITE_RIDGE`."""
    shape = (math.prod(modes[:k]), modes[k], math.prod(modes[k + 1 :]))
    traced = torch.einsum("aicajc->ij", metric.reshape(shape * 2))
    return traced / traced.diagonal().mean() + SITE_RIDGE * _unit(modes[k], metric)


def _by_site(matrix: Tensor, maps: Sequence[Tensor], modes: tuple[int, ...]) -> Tensor:
    """[rows, Π modes] times ⊗ maps, each [mode, mode]."""
    rows = matrix.shape[0]
    for each, mode in zip(maps, modes, strict=True):  # every turn takes the first site and puts it last
        matrix = matrix.reshape(rows, mode, -1).mT.reshape(-1, mode) @ each
    return matrix.reshape(rows, -1)


def _unit(size: int, like: Tensor) -> Tensor:
    return torch.eye(size, dtype=torch.float64, device=like.device)


def _cut(product: Tensor, weight: Tensor) -> Tensor:
    """What the cores say of the weight itself, without the padding."""
    return product[: weight.shape[0], : weight.shape[1]]
