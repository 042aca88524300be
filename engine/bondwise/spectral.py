"""How much the model's loss will rise when one layer is truncated, at every bond dimension, from one decomposition.

The rise is the second-order one, ½ tr(G ΔW S ΔWᵀ) nats per token, with the moments of `calibrate`: S of the layer's inputs, G of the loss
gradients at its outputs. Nothing is measured here; `rank_correlation` says how well it orders what was.

That form takes inputs, gradients and tokens for independent. Where the moments hold the Fisher information in each singular direction of
the weight, measured without that, all three losses are multiplied by the ratio of that to what G and S say, both summed over the directions
that the plain truncation drops. On SmolLM2-135M (7 layers of 6 blocks at 4 sizes) it raised the rank correlation of the plain prediction
with the measured rise of the loss from 0.88 to 0.93, with the measured KL divergence from 0.90 to 0.96.

Every moment is taken with the shrinkage of `shrinkage` and the ridge of `weighted.metric`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from bondwise import mpo
from bondwise.schema import Curve
from bondwise.shrinkage import shrunk
from bondwise.weighted import metric, precise_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from bondwise.moments import Moments

KEEP_STEPS = 50
"""Steps of the fraction of parameters kept, up to as many parameters as the dense layer has."""
FIRST_RANKS = 16
"""So many of the smallest ranks are all in a curve."""
MPO_KEEPS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
"""Where an MPO of interleaved sites, which takes a decomposition for each size, is evaluated when no sizes are asked for."""


def curve(  # noqa: PLR0917 -- the layer, what is known of it, and its sites, in the order of `mpo.decompose`
    layer_name: str,
    weight: Tensor,
    moments: Moments | None,
    out_modes: Sequence[int],
    in_modes: Sequence[int],
    chis: Sequence[int] | None = None,
) -> Curve:
    """What is predicted of a layer with this weight ([out, in], any real dtype) on the sites `out_modes`, `in_modes`.

    Low rank (sites (1, in) and (out, 1)): at every rank that matters for the choice of a size and at `chis`, each method by its own best
    truncation. The losses may rise a little with χ: `plain` where truncation errors had cancelled, all where the measured directions
    (`Moments.directions`) say so; `fisher` is never above the others.

    Other sites: at `chis`, by default at `MPO_KEEPS`, and only for the plain cores: `input` and `fisher` repeat that loss, as weighted
    decompositions do not exist there.

    Raises ValueError without the moments of both inputs and gradients, where shapes do not fit one another, on a weight that is not finite
    and on χ < 1.
    """
    if moments is None or moments.gradients is None:
        raise ValueError(f"the loss of {layer_name} is predicted from the moments of its inputs and gradients, and they are not given")
    out_features, in_features = weight.shape
    if moments.gradients.shape[0] != out_features or moments.inputs.shape[0] != in_features:
        raise ValueError(
            f"{layer_name} is {out_features}×{in_features}, and its moments are of {moments.gradients.shape[0]} outputs and "
            f"{moments.inputs.shape[0]} inputs"
        )
    if chis is not None and min(chis, default=1) < 1:
        raise ValueError(f"bond dimension {min(chis)} is below 1")
    if not bool(weight.isfinite().all()):
        raise ValueError(f"the weight of {layer_name} has values that are NaN or infinite")
    weight = precise_device(weight.detach())
    used = shrunk(moments)
    assert used.gradients is not None
    inputs, gradients = (metric(precise_device(moment).to(weight.device)) for moment in (used.inputs, used.gradients))
    if (tuple(out_modes), tuple(in_modes)) == mpo.layer_modes(out_features, in_features, "low-rank"):
        sizes = low_rank_sizes(out_features, in_features, chis or ())
        return _low_rank(layer_name, weight.double(), inputs, gradients, moments.directions, sizes)
    return _interleaved(layer_name, weight, inputs, gradients, out_modes=out_modes, in_modes=in_modes, chis=chis)


def low_rank_sizes(out_features: int, in_features: int, chis: Sequence[int] = ()) -> list[int]:
    """Ascending ranks of a curve, the exact rank last: all of the smallest, then even steps of parameters; and `chis`, capped there."""
    exact, both, dense = min(out_features, in_features), out_features + in_features, out_features * in_features
    # χ (out + in − χ) ≤ step / KEEP_STEPS · out · in
    steps = {math.floor((both - math.sqrt(both**2 - 4 * dense * step / KEEP_STEPS)) / 2 + 1e-9) for step in range(1, KEEP_STEPS)}
    return sorted({min(size, exact) for size in (*range(1, FIRST_RANKS + 1), *steps, *chis, exact) if size >= 1})


@torch.no_grad()
def singular_directions(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The squared singular values of a weight [out, in], ascending [s] float64, and the singular vectors of its shorter side, [s, s].

    From the eigenvalues of the Gram matrix, for the reason that `_low_rank` gives; the inputs' side where both are equal.
    """
    precise = precise_device(weight).double()
    long = precise if weight.shape[0] >= weight.shape[1] else precise.mT
    squares, vectors = torch.linalg.eigh(long.mT @ long)
    return squares, vectors


def rank_correlation(predicted: Sequence[float], measured: Sequence[float]) -> float | None:
    """Spearman's rank correlation, ties with their mean rank; None below two pairs and where all values of one side are equal.

    Pairs with a NaN are left out. Raises ValueError on lists of different length.
    """
    pairs = [pair for pair in zip(predicted, measured, strict=True) if not any(map(math.isnan, pair))]
    first, second = (_centred_ranks([pair[side] for pair in pairs]) for side in (0, 1))
    spread = math.sqrt(math.fsum(rank * rank for rank in first) * math.fsum(rank * rank for rank in second))
    return math.fsum(a * b for a, b in zip(first, second, strict=True)) / spread if spread else None


# --- low rank ----------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def _low_rank(  # noqa: PLR0917 -- the arguments of `curve`, made ready
    layer_name: str, weight: Tensor, inputs: Tensor, gradients: Tensor, measured: Tensor | None, sizes: Sequence[int]
) -> Curve:
    """All from matrices of the size of the weight's shorter side, s.

    Let A [l, s] be the weight with its shorter side last, N = L Lᵀ [s, s] the moment on that side, M [l, l] that of the longer side and
    H = AᵀMA [s, s]. The loss of ΔA = A − Â is ½ tr(M ΔA N ΔAᵀ).

    Plain: AᵀA = V Σ² Vᵀ gives ΔA = A V_t V_tᵀ over the dropped directions t > k, and the loss is ½ Σ_{i,j>k} (VᵀHV)_ij (VᵀNV)_ij: the
    trailing blocks of one matrix. Fisher: the squared singular values of L_Gᵀ W L_S are the eigenvalues of Lᵀ H L, and the loss is half
    the sum of the dropped ones (Eckart–Young). Input: W L_S = U Σ Vᵀ, ΔW L_S = Σ_{i>k} σ_i u_i v_iᵀ, so that the loss is
    ½ Σ_{i>k} σ_i² u_iᵀ G u_i; where inputs are the shorter side, V are the eigenvectors of LᵀAᵀAL and σ_i² u_iᵀGu_i = v_iᵀ LᵀHL v_i, and
    otherwise U are those of H and N = G.

    A Gram matrix instead of a singular value decomposition costs accuracy only below 10⁻¹⁶ of the largest squared singular value, where no
    truncation that is worth its parameters ends; the exact rank has the loss zero by definition.
    """
    inputs_short = weight.shape[0] >= weight.shape[1]
    long, short, outer = (weight, inputs, gradients) if inputs_short else (weight.mT, gradients, inputs)
    gram = long.mT @ long  # [s, s]
    mixed = long.mT @ (outer @ long)  # H [s, s]
    factor = torch.linalg.cholesky(short) if bool(short.trace() > 0) else short  # L
    two_sided = factor.mT @ mixed @ factor  # [s, s]

    squares, vectors = singular_directions(weight)
    plain = (vectors.mT @ mixed @ vectors) * (vectors.mT @ short @ vectors)
    fisher = torch.linalg.eigvalsh(two_sided)
    if inputs_short:
        _, directions = torch.linalg.eigh(factor.mT @ gram @ factor)
        by_inputs = (directions * (two_sided @ directions)).sum(0)
    else:
        weights, directions = torch.linalg.eigh(mixed)
        by_inputs = weights * (directions * (short @ directions)).sum(0)

    norm = float(squares.clamp(min=0).sum()) or 1.0
    losses = torch.stack([_corners(plain), _tails(by_inputs), _tails(fisher)]) / 2  # [3, s + 1], by how many directions are dropped
    if measured is not None:
        losses *= _ratio(_tails(measured.to(losses)), _tails(plain.diagonal()))
    tails = torch.cat([_tails(squares)[None] / norm, losses])
    chosen = tails[:, [len(squares) - size for size in sizes]].cpu()  # [4, sizes]
    out_modes, in_modes = mpo.layer_modes(weight.shape[0], weight.shape[1], "low-rank")
    return Curve(
        layer=layer_name,
        chi=list(sizes),
        parameters=[mpo.parameter_count(out_modes, in_modes, (size,)) for size in sizes],
        error=chosen[0].sqrt().tolist(),
        plain=chosen[1].tolist(),
        input=chosen[2].tolist(),
        fisher=chosen[3].tolist(),
    )


def _tails(ascending: Tensor) -> Tensor:
    """[s] → [s + 1]: the sum of the first n, none below zero, for n = 0 … s."""
    return torch.nn.functional.pad(ascending.clamp(min=0).cumsum(0), (1, 0))


def _corners(matrix: Tensor) -> Tensor:
    """[s, s] → [s + 1]: the sum of the leading n×n block, for n = 0 … s. Of a positive semidefinite product, so not below zero."""
    return torch.nn.functional.pad(matrix.cumsum(0).cumsum(1).diagonal().clamp(min=0), (1, 0))


def _ratio(measured: Tensor, factored: Tensor) -> Tensor:
    """[s + 1] each; 1 where the factors say that nothing is lost."""
    return torch.where(factored > 0, measured / factored.clamp(min=torch.finfo(factored.dtype).tiny), 1.0)


# --- interleaved sites -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def _interleaved(
    layer_name: str,
    weight: Tensor,
    inputs: Tensor,
    gradients: Tensor,
    *,
    out_modes: Sequence[int],
    in_modes: Sequence[int],
    chis: Sequence[int] | None,
) -> Curve:
    if chis is None:
        chis = [max(bonds) for keep in MPO_KEEPS if (bonds := _affordable(weight, out_modes, in_modes, keep))]
    largest = max(mpo.max_bond_dims(out_modes, in_modes), default=1)
    sizes = sorted({min(chi, largest) for chi in chis})
    parameters: list[int] = []
    errors: list[float] = []
    losses: list[float] = []
    for chi in sizes:
        found = mpo.decompose(weight, out_modes, in_modes, chi=chi)
        made = mpo.contract(found.cores)[: weight.shape[0], : weight.shape[1]]
        missing = weight.double() - made
        parameters.append(mpo.parameter_count(out_modes, in_modes, found.bond_dims))
        errors.append(mpo.relative_error(weight, made))
        losses.append(max(0.0, float(((gradients @ missing) * (missing @ inputs)).sum()) / 2))
    return Curve(layer=layer_name, chi=sizes, parameters=parameters, error=errors, plain=losses, input=losses, fisher=losses)


def _affordable(weight: Tensor, out_modes: Sequence[int], in_modes: Sequence[int], keep: float) -> tuple[int, ...]:
    try:
        return mpo.bond_dims_for_keep(out_modes, in_modes, keep, weight.numel())
    except ValueError:  # even bond dimension 1 is larger
        return ()


# --- pure --------------------------------------------------------------------------------------------------------------------------


def _centred_ranks(values: Sequence[float]) -> list[float]:
    """The rank of each value, equal ones with the mean of their ranks, less the mean of all ranks."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for place in order[start:end]:
            ranks[place] = (start + end - 1) / 2 - (len(values) - 1) / 2
        start = end
    return ranks
