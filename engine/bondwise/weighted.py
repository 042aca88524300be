"""Low rank that keeps what the model does, not what the weight is: the best factorization in a norm that data gives.

The loss of a change ΔW is taken as ½ tr(G ΔW S ΔWᵀ), with the moments of `calibrate`: S of the layer's inputs, G of the loss gradients at
its outputs. G left out (`input`): the mean squared change of the layer's outputs, as in SVD-LLM (X. Wang et al., ICLR 2025, §3.1). With
both (`fisher`): K-FAC's quadratic form of the loss, weighted on both sides as in FWSVD (Y. Hsu et al., ICLR 2022), but with whole moments.

The metric. A moment M of too few tokens, or with channels that never fire, is singular. So every figure here and in `spectral`, of every
method, is taken with M + `RIDGE`·diag(M) in the place of M (and diag at least `FLOOR` of its mean): relative to each channel, because the
activations of a language model have a few channels a thousand times larger than the others, and a ridge relative to the mean would drown
the rest. It keeps the eigenvalues of the correlation matrix above `RIDGE`, far above the rounding of moments summed in float32, whatever
the scales of the channels: so the Cholesky factorization always exists, and is as accurate as if all channels were of one scale
(N. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., Theorem 10.6).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from bondwise import mpo
from bondwise.leading import leading_basis

if TYPE_CHECKING:
    from torch import Tensor

RIDGE = 1e-4
FLOOR = 1e-12


@torch.no_grad()
def decompose_weighted(weight: Tensor, inputs: Tensor, gradients: Tensor | None, *, chi: int) -> mpo.MPO:
    """The rank-`chi` factorization of a weight [out, in] of any real dtype with the least ½ tr(G ΔW S ΔWᵀ); float64 cores.

    `inputs` is S [in, in], `gradients` G [out, out], or None for the unit matrix; both with their ridge (`metric`). Sites (1, in) and
    (out, 1); a χ above the exact rank is that rank. The best possible, by Eckart–Young for L_Gᵀ W L_S.

    With the Cholesky factor L of the shorter side's metric and N the metric of the longer one, only matrices of the shorter side, s, are
    decomposed, and nothing of the longer side is: where outputs are the shorter side, the eigenvectors U of Lᵀ (W N Wᵀ) L [s, s] give
    Ŵ = (L⁻ᵀ U_k) (U_kᵀ Lᵀ W); otherwise the same of Wᵀ. Each singular value is shared evenly by the two cores, √σ each.

    Raises ValueError where shapes do not fit, on a weight or moment that is not finite and on χ < 1.
    """
    by_input, by_output = metrics(weight, inputs, gradients)
    if chi < 1:
        raise ValueError(f"bond dimension {chi} is below 1")
    out_features, in_features = weight.shape
    precise = precise_device(weight.detach()).double()
    chi = min(chi, out_features, in_features)
    if out_features <= in_features:
        left, right = _factors(precise, by_output, by_input, chi)
    else:
        right, left = (factor.mT for factor in _factors(precise.mT, by_input, by_output, chi))
    columns, rows = torch.linalg.vector_norm(left, dim=0), torch.linalg.vector_norm(right, dim=1)  # [chi]
    shared = torch.where((columns > 0) & (rows > 0), (rows / columns.clamp(min=1e-300)).sqrt(), 1.0)
    cores = ((right / shared[:, None]).mT[None, None], (left * shared).mT[:, :, None, None])  # [1, 1, in, chi], [chi, out, 1, 1]
    dropped = float((precise - left @ right).square().sum()) / (float(precise.square().sum()) or 1.0)
    return mpo.MPO(cores, out_features, in_features, (dropped,))


def predicted_loss(change: Tensor, inputs: Tensor, gradients: Tensor) -> float:
    """½ tr(G ΔW S ΔWᵀ), nats per token, of a change ΔW [out, in] of the weight; with the ridge of `metric`."""
    precise = precise_device(change).double()
    by_input, by_output = (metric(precise_device(moment).to(precise.device)) for moment in (inputs, gradients))
    return half_norm(precise, by_input, by_output)


def half_norm(change: Tensor, by_input: Tensor, by_output: Tensor | None) -> float:
    """½ tr(G ΔW S ΔWᵀ) of a change ΔW [out, in] and two metrics, all float64; None is the unit matrix. NaN where the change has one."""
    left = change if by_output is None else by_output @ change
    return max(float((left * (change @ by_input)).sum()) / 2, 0.0)  # in this order NaN stays


def metrics(weight: Tensor, inputs: Tensor, gradients: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The moments of a weight [out, in]'s inputs and gradients with their ridge, float64 on its device.

    Raises ValueError where shapes do not fit, and on a weight or moment that is not finite.
    """
    out_features, in_features = weight.shape
    wanted = [("inputs", inputs, in_features), *([("gradients", gradients, out_features)] if gradients is not None else [])]
    for what, moment, size in wanted:
        if tuple(moment.shape) != (size, size):
            raise ValueError(f"the moment of the {what} is {list(moment.shape)}, and the weight {out_features}×{in_features}")
        if not bool(moment.isfinite().all()):
            raise ValueError(f"the moment of the {what} has values that are NaN or infinite")
    if not bool(weight.isfinite().all()):
        raise ValueError("the weight has values that are NaN or infinite")
    device = precise_device(weight).device
    by_input = metric(precise_device(inputs).to(device))
    return by_input, None if gradients is None else metric(precise_device(gradients).to(device))


def metric(moment: Tensor) -> Tensor:
    """A moment [size, size] with its ridge, float64."""
    precise = moment.double()
    diagonal = precise.diagonal()
    ridge = RIDGE * diagonal.clamp(min=FLOOR * float(diagonal.mean()))
    return precise + torch.diag(ridge)


def precise_device(tensor: Tensor) -> Tensor:
    """On a device that has float64: not on Apple's."""
    return tensor.cpu() if tensor.device.type == "mps" else tensor


def _factors(weight: Tensor, short: Tensor | None, long: Tensor | None, chi: int) -> tuple[Tensor, Tensor]:
    """[s, l] → [s, chi], [chi, l], the metrics of the two sides given; None is the unit matrix."""
    mixed = weight @ (weight.mT if long is None else long @ weight.mT)  # [s, s]
    if short is None or not bool(short.trace() > 0):
        basis = leading_basis(mixed, chi)  # [s, chi]
        return basis, basis.mT @ weight
    factor = torch.linalg.cholesky(short)
    basis = leading_basis(factor.mT @ mixed @ factor, chi)
    return torch.linalg.solve_triangular(factor.mT, basis, upper=True), (factor @ basis).mT @ weight
