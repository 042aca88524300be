"""Tiny random models of many architectures, made on the spot: what the engine's tests run on.

Each has two or three blocks and weights of a real model's kind (its own class's initialisation, scaled up so that the logits differ),
so a test meets the real module names, fused projections, biases, tied heads and fused experts without any download.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GenerationConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OPTConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VOCABULARY = 258
"""256 bytes, then the beginning-of-text and the end-of-text token."""
BOS, EOS = 256, 257
HIDDEN, INTERMEDIATE, HEADS, BLOCKS, POSITIONS = 32, 48, 4, 2, 128

_COMMON: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": EOS}
_SIZES: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": POSITIONS,
}
_GATED: dict[str, Any] = {"intermediate_size": INTERMEDIATE, "num_key_value_heads": 2}

ARCHITECTURES: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: LlamaConfig(**_COMMON, **_SIZES, **_GATED, tie_word_embeddings=False),
    "mistral": lambda: MistralConfig(**_COMMON, **_SIZES, **_GATED, sliding_window=64),
    # Biases on q, k and v; the head shares the embedding.
    "qwen2": lambda: Qwen2Config(**_COMMON, **_SIZES, **_GATED, tie_word_embeddings=True),
    # Soft-capped logits, four norms a block, sliding and full attention in turn.
    "gemma2": lambda: Gemma2Config(**_COMMON, **_SIZES, **_GATED, head_dim=8, query_pre_attn_scalar=8, sliding_window=64),
    # qkv_proj and gate_up_proj are fused.
    "phi3": lambda: Phi3Config(**_COMMON, **_SIZES, **_GATED),
    # Conv1D stores [in, out]; the head shares the embedding.
    "gpt2": lambda: GPT2Config(**_COMMON, n_embd=HIDDEN, n_layer=BLOCKS, n_head=HEADS, n_positions=POSITIONS),
    "opt": lambda: OPTConfig(**_COMMON, **_SIZES, ffn_dim=INTERMEDIATE, word_embed_proj_dim=HIDDEN),
    "gpt_neox": lambda: GPTNeoXConfig(**_COMMON, **_SIZES, intermediate_size=INTERMEDIATE),
    # The experts are fused into 3-D parameters in memory; the files have one tensor an expert.
    "mixtral": lambda: MixtralConfig(**_COMMON, **_SIZES, **_GATED, num_local_experts=4, num_experts_per_tok=2),
}


def make_tiny_model(name: str, seed: int = 0) -> PreTrainedModel:
    """A random float32 model in evaluation mode; the same seed gives the same weights."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(ARCHITECTURES[name]())
    with torch.no_grad():
        for parameter in model.parameters():
            # The default deviation of 0.02 leaves every token nearly equally likely, and zero biases would hide a lost bias.
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, without merges: any text, one token a byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate([*alphabet, "<|bos|>", "<|eos|>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|bos|>", eos_token="<|eos|>", pad_token="<|eos|>", model_max_length=POSITIONS
    )


def save_tiny_model(name: str, folder: Path, seed: int = 0, shards: int = 1, dtype: torch.dtype = torch.float32) -> Path:
    """Writes model, tokenizer and generation config to `folder` (made if missing), in at least `shards` weight files. Returns `folder`."""
    model = make_tiny_model(name, seed)
    nn.Module.to(model, dtype)  # PreTrainedModel.to is wrapped without its types
    model.generation_config = GenerationConfig(bos_token_id=BOS, eos_token_id=EOS, pad_token_id=EOS, do_sample=False)
    limit = 2 * sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    while True:
        model.save_pretrained(folder, max_shard_size=limit)
        if len(list(folder.glob("model*.safetensors"))) >= shards:
            break
        for stale in folder.glob("model*"):
            stale.unlink()
        limit //= 2
    make_tokenizer().save_pretrained(folder)
    return folder


def save_wide_model(folder: Path) -> Path:
    """A small bfloat16 model, with tokenizer, whose layers have sizes that bitsandbytes computes with in 4 bits on every CPU. Returns
    `folder`."""
    config = ARCHITECTURES["llama"]()
    config.update({"hidden_size": 128, "intermediate_size": 192, "head_dim": 32, "max_position_embeddings": 2048})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    nn.Module.to(model, torch.bfloat16)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder
