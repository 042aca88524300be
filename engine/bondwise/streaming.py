"""Models with the weights of one block in memory at a time, so that peak memory does not grow with the number of blocks.

A forward pass of that kind checks a written folder, of any size, against the dense product of its cores; and models that do not fit in
memory are calibrated and compressed so. The model is built without weights; before a block runs, transformers' own loader (renaming, fusing
of experts, dtypes, as in `from_pretrained`) fills it from the checkpoint, and after it the weights are let go. Files are read, not mapped:
mapped pages would count as memory.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from bondwise.checkpoint import check_finite
from bondwise.errors import UserError
from bondwise.loading import check_keys, empty_model
from bondwise.memory import release_freed_memory
from bondwise.modelmap import block_index, find_container, map_model

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from bondwise.checkpoint import Checkpoint
    from bondwise.modelmap import Layer

    Weights = Mapping[str, Callable[[], torch.Tensor]]
    """Name of a dense layer, a core or the head → what makes its weight, [out, in]."""


def streamed_log_probs(
    checkpoint: Checkpoint,
    input_ids: torch.Tensor,
    *,
    weights: Weights | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    allow_code: bool = False,
    step: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
    """Log-probabilities, float32 [tokens, vocabulary] on the CPU, of the next token after each of `input_ids` ([tokens], int64).

    `weights` puts other weights in the place of those of the named dense layers. `dtype` (default float32) is what is computed in.
    `step(blocks done, blocks)` is called after each block and may raise to stop. Raises UserError when the checkpoint does not fit its
    model, or is quantized, and ValueError when `weights` names a layer that is not there.
    """
    import torch

    streamed = StreamedModel(checkpoint, weights=weights, device=device, dtype=dtype or torch.float32, allow_code=allow_code)
    with torch.no_grad(), streamed.running(step):
        logits = cast("Any", streamed.model)(input_ids=input_ids[None].to(device), use_cache=False).logits[0]  # [tokens, vocabulary]
        return torch.log_softmax(logits.float(), dim=-1).cpu()


class WholeModel:
    """A model all of whose blocks have their weights all the time."""

    def __init__(self, model: PreTrainedModel, container: str | None) -> None:
        self.model = model
        self.device = str(model.device)
        self.path, self.blocks = block_modules(model, container)

    @contextmanager
    def block(self, index: int) -> Generator[None]:
        """Inside, the block with that number has its weights."""
        assert 0 <= index < len(self.blocks)
        yield


class StreamedModel(WholeModel):
    """A model whose blocks have weights, frozen, only while they are used. What is in no block (embedding, last norm, head) keeps them."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        weights: Weights | None = None,
        device: str = "cpu",
        dtype: torch.dtype,
        allow_code: bool = False,
    ) -> None:
        """`weights` and the errors are those of `streamed_log_probs`, `dtype` what is computed in."""
        if "quantization_config" in checkpoint.config:
            raise UserError(
                f"{checkpoint.folder} is quantized and cannot be read block by block.", "Start from the model before quantization."
            )
        container = find_container(checkpoint.tensors.values())
        super().__init__(empty_model(checkpoint, dtype=dtype, allow_code=allow_code), container)
        self.device = device
        self._checkpoint = checkpoint
        self._load = _loader(checkpoint, self.model, _sources(checkpoint, weights or {}), device, dtype)
        self._names: dict[int, list[str]] = {index: [] for index in range(len(self.blocks))}
        resident: list[str] = []
        for name in checkpoint.tensors:
            index = block_index(name, container)
            (resident if index is None else self._names.get(index, resident)).append(name)
        self._load(resident)
        self.model.requires_grad_(False)
        _tie_weights(self.model)
        _check_loaded(checkpoint, self.model, "", leaving_out=f"{self.path}." if self.blocks else None)

    def weight(self, layer: Layer) -> torch.Tensor:
        """Of a dense layer, [out, in], as the file holds it, on the model's device. Raises UserError when it is not finite."""
        stored = self._checkpoint.read(layer.tensors[0])
        check_finite(layer.tensors[0], stored)
        return (stored.mT if layer.transposed else stored).to(self.device)

    @contextmanager
    def block(self, index: int) -> Generator[None]:
        """Inside, the block with that number has the weights of the checkpoint; what became of them there is let go."""
        self._fill(index)
        try:
            yield
        finally:
            self._empty(index)

    @contextmanager
    def running(self, step: Callable[[int, int], None] | None = None) -> Generator[None]:
        """Inside, the model can run as a whole. `step(blocks done, blocks)` is called after each block."""

        def fill(_module: nn.Module, _arguments: object, index: int) -> None:
            self._fill(index)

        def empty(_module: nn.Module, _arguments: object, _output: object, index: int) -> None:
            self._empty(index)
            if step is not None:
                step(index + 1, len(self.blocks))

        with ExitStack() as hooks:
            for index, block in enumerate(self.blocks):
                hooks.callback(block.register_forward_pre_hook(partial(fill, index=index)).remove)
                hooks.callback(block.register_forward_hook(partial(empty, index=index)).remove)
            yield

    def _fill(self, index: int) -> None:
        block = self.blocks[index]
        self._load(self._names[index])
        block.requires_grad_(False)
        _check_loaded(self._checkpoint, block, f"{self.path}.{index}.")

    def _empty(self, index: int) -> None:
        _drop_weights(self.blocks[index])
        release_freed_memory()


def computing_dtype(checkpoint: Checkpoint, device: str) -> torch.dtype:
    """What `load_model` computes in: float32 on a CPU, elsewhere what the checkpoint says of itself."""
    import torch

    said = checkpoint.config.get("dtype", checkpoint.config.get("torch_dtype"))
    return torch.float32 if device == "cpu" or not isinstance(said, str) else getattr(torch, said)


@dataclass(frozen=True)
class _Lazy:
    """A tensor that is read when transformers' loader asks for it (`[...]`), like a slice of an open safetensors file."""

    read: Callable[[], torch.Tensor]

    def __getitem__(self, index: object) -> torch.Tensor:
        return self.read()


def block_modules(model: PreTrainedModel, container: str | None) -> tuple[str, list[torch.nn.Module]]:
    """The list of blocks in the model and its path there: that of the file, or that with the model's own prefix before it."""
    import torch

    for path in (container, f"{model.base_model_prefix}.{container}"):
        try:
            found = model.get_submodule(path or "")
        except AttributeError:
            continue
        if isinstance(found, torch.nn.ModuleList):
            return path or "", list(found)
    raise UserError(
        f"The blocks of {model.config.model_type} are called {container} in the file and otherwise in transformers, so that the model "
        "cannot be read block by block.",
        "Save the model again with this version of transformers (save_pretrained) and use that folder.",
    )


def _tie_weights(model: PreTrainedModel) -> None:
    """Gives tied parameters (the head and the embedding) the values that the file holds once."""
    missing = {name for name, value in model.state_dict().items() if value.is_meta}
    model.tie_weights(missing_keys=missing, recompute_mapping=False)


def _check_loaded(checkpoint: Checkpoint, module: torch.nn.Module, prefix: str, leaving_out: str | None = None) -> None:
    absent = [prefix + name for name, value in module.state_dict().items() if value.is_meta]
    kept = [name for name in absent if leaving_out is None or not name.startswith(leaving_out)]
    check_keys(checkpoint.folder, missing=kept, unexpected=(), mismatched=())


def _drop_weights(module: torch.nn.Module) -> None:
    """Puts parameters without memory in the place of those of `module` and of all modules in it."""
    import torch

    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            setattr(part, name, torch.nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False))


def _sources(checkpoint: Checkpoint, weights: Weights) -> dict[str, _Lazy]:
    """For every tensor of the file what gives its values, those of `weights` in the orientation of the file."""
    layers = {layer.name: layer for layer in map_model(checkpoint).layers}
    sources = {name: _Lazy(lambda name=name: checkpoint.read(name)) for name in checkpoint.tensors}
    for name, weight in weights.items():
        layer = layers.get(name)
        stored = layer.tensors[0] if layer is not None and layer.state == "dense" else f"{name}.weight"
        if stored not in sources:
            raise ValueError(f"{checkpoint.folder} has no dense layer {name}")
        transposed = layer is not None and layer.transposed
        sources[stored] = _Lazy((lambda weight=weight: weight().T) if transposed else weight)
    return sources


def _loader(
    checkpoint: Checkpoint, model: PreTrainedModel, sources: Mapping[str, _Lazy], device: str, dtype: torch.dtype
) -> Callable[[Sequence[str]], None]:
    """A function that fills the model's parameters from the tensors that it is told by name."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import convert_and_load_state_dict_in_model
    from transformers.modeling_utils import LoadStateDictConfig

    mapping = cast("Any", get_model_conversion_mapping(model))

    def load(names: Sequence[str]) -> None:
        settings = LoadStateDictConfig(dtype=dtype, device_map={"": device}, weight_mapping=mapping)
        with _without_progress_bar():
            info, _ = convert_and_load_state_dict_in_model(model, {name: sources[name] for name in names}, settings)
        model._adjust_missing_and_unexpected_keys(info)
        check_keys(checkpoint.folder, missing=info.conversion_errors, unexpected=info.unexpected_keys, mismatched=info.mismatched_keys)

    return load


@contextmanager
def _without_progress_bar() -> Generator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
