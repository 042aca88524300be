"""What a calibration text says of each layer: the second moments of its inputs and of the loss gradients at its outputs.

They are the two Kronecker factors of the layer's Fisher information (J. Martens and R. Grosse, Optimizing Neural Networks with
Kronecker-factored Approximate Curvature, ICML 2015): the loss rises by about ½ tr(G ΔW S ΔWᵀ) nats per token when the weight changes by ΔW.

That form takes inputs and gradients for independent, and tokens too, which errs most for keys and values: what all keys share hardly
moves an attention pattern. So, besides, the Fisher information in each singular direction of the weight is measured without it, as in
EKFAC (T. George et al., Fast Approximate Natural Gradient Descent in a Kronecker-factored Eigenbasis, NeurIPS 2018).
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from bondwise.errors import UserError
from bondwise.evaluate import check_fits
from bondwise.moments import Half, Moments
from bondwise.replay import is_transposed, layer_module
from bondwise.spectral import singular_directions

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from bondwise.modelmap import Layer

STRIPS = 12
"""Strips of rows a moment is summed in, each up to the diagonal: 13/24 of the work of the whole matrix. Measured on a CPU for sizes of 576
and 1536, three quarters and two thirds of the time of four strips."""
CHUNK = 256
"""Tokens whose probabilities, float32 [CHUNK, vocabulary], are in memory at a time beyond the logits and their gradient."""


def find_directions(
    model: PreTrainedModel, layers: Sequence[Layer], *, progress: Callable[[float, float], None], check_cancelled: Callable[[], None]
) -> dict[str, Tensor]:
    """By layer the singular vectors of the shorter side of its weight, in columns [s, s] float32 on the model's device.

    `progress(done, total)` counts layers. Raises UserError where a layer is not a module of the model or its weight is not finite.
    """
    found: dict[str, Tensor] = {}
    for done, layer in enumerate(layers):
        check_cancelled()
        progress(done, len(layers))
        module = _module(model, layer)
        weight = cast("Tensor", module.weight).detach()
        if not bool(weight.isfinite().all()):
            raise UserError(f"{layer.name} holds weights that are NaN or infinite.", "Copy the weight files of the model again.")
        _, vectors = singular_directions(weight.mT if is_transposed(module) else weight)
        found[layer.name] = vectors.to(weight.device, torch.float32)
    progress(len(layers), len(layers))
    return found


def collect_moments(
    model: PreTrainedModel,
    layers: Sequence[Layer],
    ids: Tensor,
    *,
    gradients: bool = True,
    directions: Mapping[str, Tensor] | None = None,
    seed: int,
    progress: Callable[[float, float], None],
    check_cancelled: Callable[[], None],
) -> dict[str, Moments]:
    """The moments of `layers` (by name) over token ids [sequences, length] int64, in one forward and one backward pass a sequence.

    Without `gradients` the backward passes are left out, and moments hold those of the inputs alone. With `directions`, those of
    `find_directions`, they hold the Fisher information in each of them too.

    The loss is that of labels drawn from the model's own distribution, one a position: then G is the true Fisher's and no label of the text
    is needed (Martens and Grosse, §2.2). `seed` draws them, equally on every device.

    Products are taken and summed in float32: a sum over N tokens of x_i x_j is off by at most about (length + sequences)·6e-8 of
    √(Σx_i² Σx_j²), and far less as a rule. In memory: 8 bytes for every element of the moments, which are kept of the first half of the
    sequences too, and the activations of one sequence.
    No gradient of a weight is made; `requires_grad` of the parameters is as before afterwards. `progress(done, total)` counts sequences.
    Raises UserError where a layer is not a module of the model, no token or no gradient reaches it, or what it computes is not finite.
    """
    check_fits(model, ids)
    sums = new_sums(model, layers, directions)
    generator = torch.Generator().manual_seed(seed)
    with collecting(model, list(sums.values()), gradients=gradients, check_cancelled=check_cancelled), torch.set_grad_enabled(gradients):
        for done, sequence in enumerate(ids):
            check_cancelled()
            logits = cast("Tensor", cast("Any", model)(input_ids=sequence[None].to(model.device), use_cache=False).logits)[0]
            progress(done + 0.5, len(ids))
            check_cancelled()
            if gradients:
                logits.backward(loss_gradient(logits.detach(), generator))
            note_half(sums, done + 1, len(ids))
            progress(done + 1, len(ids))
    return means(sums, ids, gradients=gradients)


def new_sums(model: PreTrainedModel, layers: Sequence[Layer], directions: Mapping[str, Tensor] | None) -> dict[str, Sums]:
    """By layer, with nothing in them. Raises UserError where a layer is not a module of the model."""
    return {layer.name: Sums(layer, _module(model, layer), None if directions is None else directions[layer.name]) for layer in layers}


def note_half(sums: Mapping[str, Sums], done: int, sequences: int) -> None:
    """To be called after each sequence."""
    if done == (sequences + 1) // 2 < sequences:
        for one in sums.values():
            one.note_half()


def means(sums: dict[str, Sums], ids: Tensor, *, gradients: bool) -> dict[str, Moments]:
    """After all of `ids` [sequences, length]; the sums are used up. Raises UserError where there are none of a layer, or not finite."""
    share = (len(ids) + 1) // 2 / len(ids)
    found = {name: one.mean(sums, ids.numel(), share) for name, one in sums.items()}
    if gradients and (without := next((one.layer for name, one in sums.items() if found[name].gradients is None), None)) is not None:
        raise no_gradient(without)
    return found


@dataclass
class Sums:
    """What is being added up of one layer. Only the lower triangles hold it."""

    layer: Layer
    module: nn.Module
    vectors: Tensor | None
    """The layer's of `find_directions`, where they are asked for."""
    leader: str | None = None
    """The layer that adds up the inputs: this one, or the first that read the same tensor. Unknown before the first forward pass."""
    inputs: Tensor | None = None
    gradients: Tensor | None = None
    directions: Tensor | None = None
    tokens: int = 0
    half: Sums | None = None
    """The sums after the first half of the sequences."""
    finished: Tensor | None = field(default=None, init=False)
    """S of the leader, once made."""

    def note_half(self) -> None:
        inputs = None if self.inputs is None else self.inputs.clone()
        gradients = None if self.gradients is None else self.gradients.clone()
        self.half = Sums(self.layer, self.module, None, self.leader, inputs, gradients, None, self.tokens)

    def mean(self, others: dict[str, Sums], tokens: int, share: float) -> Moments:
        """Of `tokens` tokens of the text, `share` of them in the first half."""
        leader = others[self.leader or self.layer.name]
        if leader.inputs is None:
            raise UserError(
                f"No token of the calibration text reached {self.layer.name}.", "Use more text (--sequences), or leave the layer out."
            )
        if leader.finished is None:
            leader.finished = _finish(leader.inputs, leader.tokens, f"The inputs of {self.layer.name}")
        gradients = None if self.gradients is None else _finish(self.gradients, tokens, f"The loss gradients of {self.layer.name}")
        directions = None if self.directions is None else self.directions / tokens
        return Moments(leader.finished, gradients, leader.tokens, directions, self._mean_half(leader, tokens, share))

    def _mean_half(self, leader: Sums, tokens: int, share: float) -> Half | None:
        ours, theirs = self.half, leader.half
        if ours is None or theirs is None or theirs.inputs is None or theirs.tokens == leader.tokens:
            return None
        if theirs.finished is None:
            theirs.finished = _finish(theirs.inputs, theirs.tokens, f"The inputs of {self.layer.name}")
        if self.gradients is None:
            return Half(theirs.finished, None, theirs.tokens, share)
        # What no token reached in the first half has no gradient there: zero, over all tokens.
        gradients = torch.zeros_like(self.gradients) if ours.gradients is None else ours.gradients
        made = _finish(gradients, round(tokens * share), f"The loss gradients of {self.layer.name}")
        return Half(theirs.finished, made, theirs.tokens, share)

    def short_side(self, read: Tensor, written: Tensor) -> Tensor:
        """What `add_gradient` will need of a pass through the layer: inputs or outputs, whichever has fewer channels."""
        return read if self.layer.shape[0] >= self.layer.shape[1] else written

    @torch.no_grad()
    def add_gradient(self, short_side: Tensor, gradient: Tensor) -> None:
        """Adds the gradient at the outputs of one pass, […, out]."""
        self.gradients = _add_products(self.gradients, gradient)
        if self.vectors is None:
            return
        ours, theirs = short_side.flatten(0, -2), gradient.flatten(0, -2)
        if self.layer.shape[0] >= self.layer.shape[1]:  # v_iᵀx, and σ_i u_iᵀg = v_iᵀWᵀg
            weight = cast("Tensor", self.module.weight).detach()
            theirs = theirs @ (weight.mT if is_transposed(self.module) else weight)
        elif (bias := cast("Tensor | None", getattr(self.module, "bias", None))) is not None:  # u_iᵀg, and σ_i v_iᵀx = u_iᵀWx
            ours = ours - bias
        along = ((ours.float() @ self.vectors) * (theirs.float() @ self.vectors)).sum(0).to(torch.float64).square()
        self.directions = along if self.directions is None else self.directions.add_(along)


@contextmanager
def collecting(model: PreTrainedModel, sums: Sequence[Sums], *, gradients: bool, check_cancelled: Callable[[], None]) -> Generator[None]:
    """Inside the block every pass through the model adds to `sums`."""
    readers = WeakTensorKeyDictionary()

    def forward(one: Sums, _module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        check_cancelled()
        read = arguments[0].detach()
        if one.leader is None:
            one.leader = cast("str", readers.setdefault(arguments[0], one.layer.name))
        if one.leader == one.layer.name:
            one.inputs = _add_products(one.inputs, read)
            one.tokens += read.shape[:-1].numel()
        if not bool(output.sum(dtype=torch.float32).isfinite()):  # NaN and infinity survive a sum, which is cheaper than looking at each
            raise UserError(
                f"{one.layer.name} puts out NaN or infinity on the calibration text.",
                "Its weights are damaged, or its activations overflow: use another dtype.",
            )
        if gradients and not output.requires_grad:
            raise no_gradient(one.layer)
        if gradients:
            output.register_hook(partial(backward, one, one.short_side(read, output.detach())))

    def backward(one: Sums, short_side: Tensor, gradient: Tensor) -> None:
        check_cancelled()
        one.add_gradient(short_side, gradient)

    def start_graph(_module: nn.Module, _arguments: object, output: Tensor) -> Tensor:
        return output.requires_grad_() if gradients else output

    required = [parameter for parameter in model.parameters() if parameter.requires_grad]
    handles = [one.module.register_forward_hook(partial(forward, one)) for one in sums]
    handles.append(model.get_input_embeddings().register_forward_hook(start_graph))
    try:
        for parameter in required:
            parameter.requires_grad_(False)
        yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter in required:
            parameter.requires_grad_(True)


def no_gradient(layer: Layer) -> UserError:
    return UserError(
        f"The loss has no gradient at {layer.name}: the model does not use what it puts out, or detaches it (a frozen or quantized layer).",
        "Use --method input or plain for it, or leave it out (--exclude).",
    )


def _module(model: PreTrainedModel, layer: Layer) -> nn.Module:
    try:
        return layer_module(model, layer)
    except ValueError as error:
        raise UserError(f"{error}, so it cannot be calibrated.", "Leave it out (--exclude).") from None


# --- pure --------------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def _add_products(total: Tensor | None, vectors: Tensor) -> Tensor:
    """Adds Σ x xᵀ over vectors [..., size] to the lower triangle of `total` [size, size], float32, in place; None stands for zero."""
    rows = vectors.flatten(0, -2).float()
    size = rows.shape[1]
    if total is None:
        total = rows.new_zeros(size, size)
    strips = [size * i // STRIPS for i in range(STRIPS + 1)]
    for top, bottom in pairwise(strips):
        total[top:bottom, :bottom].addmm_(rows[:, top:bottom].mT, rows[:, :bottom])
    return total


def _finish(total: Tensor, count: int, what: str) -> Tensor:
    """The lower triangle of a sum [size, size] → the symmetric mean, in place. Raises UserError where it is not finite."""
    # A vector with NaN or infinity shows on the diagonal, in the square of that very element.
    if not bool(total.diagonal().isfinite().all()):
        raise UserError(f"{what} are not finite on the calibration text.", "Its activations overflow: use another dtype.")
    total.div_(count).tril_()
    return total.add_(total.tril(-1).mT)


@torch.no_grad()
def loss_gradient(logits: Tensor, generator: torch.Generator) -> Tensor:
    """The gradient p − onehot(label) [tokens, vocabulary] of the summed loss of drawn labels, in the dtype of the logits of that shape."""
    gradient = torch.empty_like(logits)
    for rows, out in zip(logits.split(CHUNK), gradient.split(CHUNK), strict=True):
        probabilities = rows.float().softmax(-1)
        labels = draw_labels(probabilities, generator)
        out.copy_(probabilities)
        out.scatter_add_(1, labels[:, None], out.new_full((len(out), 1), -1.0))
    return gradient


def draw_labels(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """One label [tokens] int64 for each row of probabilities [tokens, vocabulary], by the inverse of the cumulative distribution."""
    return labels_at(probabilities, torch.rand(len(probabilities), 1, generator=generator, dtype=torch.float64))


def labels_at(probabilities: Tensor, drawn: Tensor) -> Tensor:
    """The labels [tokens] int64 at points [tokens, 1] float64, from 0 to below 1, of the cumulative distributions [tokens, vocabulary]."""
    cumulative = probabilities.cumsum(-1)
    # Times the last sum, which rounding leaves beside 1: so a label of probability zero behind it is never drawn.
    points = drawn.to(cumulative) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, points, right=True)[:, 0].clamp(max=probabilities.shape[1] - 1)
