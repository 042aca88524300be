"""A model folder → a transformers model, whole, from this folder alone: no network, and no code that the user did not allow.

Our own compressed folders are loaded with the classes of this package, after `trust` found the folder's `modeling_mpo.py` equal to ours: so
not even that file is run. Where the base model's classes are in the folder too, it is loaded as plain transformers does, where allowed.
"""

from __future__ import annotations

import logging
import tempfile
from typing import TYPE_CHECKING, Any, Literal, cast

from bondwise.checkpoint import Checkpoint, open_checkpoint
from bondwise.device import device_memory
from bondwise.errors import UserError
from bondwise.trust import needs_code, runs_own_code

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def load_model(
    folder: Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype | Literal["auto"] | None = None,
    allow_code: bool = False,
    quantization: dict[str, Any] | None = None,
) -> PreTrainedModel:
    """The whole model of `folder` on `device`, in evaluation mode.

    `quantization` is a section `quantization_config` of bitsandbytes, by which transformers then quantizes the model while it is read.
    `dtype` None means float32 on the CPU and elsewhere the checkpoint's own, as `auto` does. Raises UserError as `open_checkpoint`,
    and when the memory does not suffice or a weight is missing, left over or of another shape than the model's class expects.
    """
    import torch
    from transformers import AutoModelForCausalLM

    checkpoint = open_checkpoint(folder, allow_code=allow_code)
    dtype = None if dtype == "auto" else dtype or (torch.float32 if device == "cpu" else None)
    _check_memory(checkpoint, device, dtype)
    config, options = load_config(checkpoint, allow_code=allow_code)
    section = quantization or checkpoint.config.get("quantization_config")
    if isinstance(section, dict) and cast("dict[str, Any]", section).get("quant_method") == "bitsandbytes":
        _quiet_bitsandbytes(checkpoint.folder)
    if quantization is not None:
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig.from_dict(dict(quantization))
    kind: Any = AutoModelForCausalLM
    if runs_own_code(checkpoint.folder, checkpoint.config):
        from bondwise.modeling_mpo import MPOForCausalLM

        kind = MPOForCausalLM
    # A mismatched shape is asked to be reported, as the other two are, and not to be raised: transformers' own error names no tensor.
    reported: dict[str, Any] = {"output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        model, info = kind.from_pretrained(
            checkpoint.folder, config=config, dtype=dtype or "auto", device_map={"": device}, **reported, **options
        )
    except (ImportError, ValueError, RuntimeError, OSError) as error:
        raise loading_error(checkpoint.folder, error) from error
    check_keys(checkpoint.folder, missing=info["missing_keys"], unexpected=info["unexpected_keys"], mismatched=info["mismatched_keys"])
    if dtype is not None and "quantization_config" in checkpoint.config:
        _cast_floats(model, dtype)
    return cast("PreTrainedModel", model.eval())


def _cast_floats(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """What transformers leaves as it is stored beside quantized weights, whatever dtype it is asked for: norms, embedding, biases, head."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


def _quiet_bitsandbytes(folder: Path) -> None:
    """Silences what it says in each layer of each pass: that int8 casts its inputs, and that it has no compiled kernel from the hub.

    Raises UserError where it cannot be used.
    """
    try:
        import bitsandbytes  # noqa: F401  # pyright: ignore[reportUnusedImport] -- whether it can be used shows here
    except (ImportError, RuntimeError, OSError) as failure:
        raise UserError(
            f"The weights in {folder} are stored by bitsandbytes, which cannot be used here: {failure}.",
            'Run "Bondwise: Set Up Engine", or install bitsandbytes into the engine\'s environment.',
        ) from None
    for name in ("bitsandbytes.autograd._functions", "bitsandbytes.backends.cpu.ops"):
        logging.getLogger(name).setLevel(logging.ERROR)


def empty_model(checkpoint: Checkpoint, *, dtype: torch.dtype, allow_code: bool = False) -> PreTrainedModel:
    """The model of a checkpoint, in evaluation mode, its parameters on the meta device and its buffers (rotary frequencies, masks) real.

    Raises UserError when transformers cannot make it.
    """
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    config, options = load_config(checkpoint, allow_code=allow_code)
    try:
        with init_empty_weights(include_buffers=False):
            if runs_own_code(checkpoint.folder, checkpoint.config):
                from bondwise.modeling_mpo import MPOForCausalLM

                model = MPOForCausalLM._from_config(config, dtype=dtype)
            else:
                model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=options["trust_remote_code"])
    except (ImportError, ValueError, RuntimeError) as error:
        raise loading_error(checkpoint.folder, error) from error
    return cast("PreTrainedModel", model.eval())


def load_tokenizer(folder: Path, *, allow_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of `folder`. Raises UserError when there is none, or it needs code that is not allowed."""
    from transformers import AutoTokenizer

    checkpoint = open_checkpoint(folder, allow_code=allow_code)
    config, options = load_config(checkpoint, allow_code=allow_code)
    try:
        return AutoTokenizer.from_pretrained(checkpoint.folder, config=config, **options)
    except (ImportError, ValueError, OSError, KeyError, TypeError) as error:
        raise UserError(
            f"{checkpoint.folder} has no tokenizer that can be loaded: {_first_line(error)}",
            "Copy the tokenizer files of the model (tokenizer.json, tokenizer_config.json) into the folder.",
        ) from error


def load_config(checkpoint: Checkpoint, *, allow_code: bool = False) -> tuple[PreTrainedConfig, dict[str, Any]]:
    """The transformers config of a checkpoint, and what every `from_pretrained` of it gets besides.

    That is: local files only, and the folder's own code only where it is needed and allowed. Raises UserError when transformers cannot make
    the config.
    """
    from transformers import AutoConfig

    kind: Any = AutoConfig
    own = runs_own_code(checkpoint.folder, checkpoint.config)
    allowed = not own and allow_code and needs_code(checkpoint.config)
    if own:
        from bondwise.modeling_mpo import MPOConfig

        kind = MPOConfig
    elif allowed:
        use_private_module_cache()
    options: dict[str, Any] = {"local_files_only": True} if own else {"local_files_only": True, "trust_remote_code": allowed}
    try:
        return kind.from_pretrained(checkpoint.folder, **options), {"local_files_only": True, "trust_remote_code": allowed}
    except (ImportError, ValueError, OSError, KeyError, TypeError) as error:
        raise loading_error(checkpoint.folder, error) from error


def check_keys(folder: Path, *, missing: Iterable[str], unexpected: Iterable[str], mismatched: Iterable[Any]) -> None:
    """Raises UserError, naming the tensors, unless weights and model fit one another exactly: transformers only warns."""
    for keys, what in (
        (missing, "lacks weights of the model"),
        (unexpected, "holds weights that the model does not use"),
        (mismatched, "holds weights of another shape than the model's"),
    ):
        names = sorted(str(key[0]) if isinstance(key, tuple) else str(key) for key in cast("Iterable[Any]", keys))
        if names:
            raise UserError(
                f"{folder} {what}: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}.",
                "Copy config.json and all weight files of the model from one place.",
            )


def loading_error(folder: Path, error: Exception) -> UserError:
    """An error of transformers in words to act on."""
    remedy = "Check that this transformers version knows the model (`doctor` prints it), and that the folder is complete."
    if isinstance(error, ImportError):
        remedy = "Install what it asks for into the engine's environment."
    return UserError(f"transformers could not load {folder}: {_first_line(error)}", remedy)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _check_memory(checkpoint: Checkpoint, device: str, dtype: torch.dtype | None) -> None:
    quantized = "quantization_config" in checkpoint.config
    needed = checkpoint.bytes if dtype is None or quantized else checkpoint.parameters * dtype.itemsize
    free = device_memory(device).free
    if needed > free:
        raise UserError(
            f"{checkpoint.folder} needs {needed / 1e9:.1f} GB of memory on {device} to be loaded whole; {free / 1e9:.1f} GB are free.",
            "Close other programs, use another device, or a smaller model.",
        )


_module_cache: tempfile.TemporaryDirectory[str] | None = None


def use_private_module_cache() -> None:
    """Code that transformers copies before it runs it goes to a folder of this process alone, where nobody else can change it."""
    global _module_cache  # noqa: PLW0603 -- lives as long as the process, then removes itself
    if _module_cache is None:
        from transformers import dynamic_module_utils

        _module_cache = tempfile.TemporaryDirectory(prefix="bondwise-modules-")
        cast("Any", dynamic_module_utils).HF_MODULES_CACHE = _module_cache.name


def forget_private_module_cache() -> None:
    """Removes that folder; what ends this process without its usual end calls it before."""
    if _module_cache is not None:
        _module_cache.cleanup()
