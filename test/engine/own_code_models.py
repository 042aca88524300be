"""A tiny model that transformers does not know: its classes are in four Python files of its own folder, which import each other."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from tiny_models import BLOCKS, BOS, EOS, HIDDEN, INTERMEDIATE, POSITIONS, VOCABULARY, make_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

AUTO_MAP = {
    "AutoConfig": "configuration_foreign.ForeignConfig",
    "AutoModel": "modeling_foreign.ForeignModel",
    "AutoModelForCausalLM": "modeling_foreign.ForeignForCausalLM",
}

CONFIGURATION = '''\
from transformers import PretrainedConfig


class ForeignConfig(PretrainedConfig):
    """With an __init__ of its own, as most have: defaults, and a field that is computed."""

    model_type = "foreign"

    def __init__(self, vocab_size=258, width=32, depth=2, inner_factor=1.5, **kwargs):
        self.vocab_size = vocab_size
        self.width = width
        self.depth = depth
        self.inner = int(inner_factor * width)
        self.num_hidden_layers = depth
        self.hidden_size = width
        super().__init__(**kwargs)
'''

NORM = """\
import torch
from torch import nn


class Norm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight
"""

BLOCK = """\
import torch
from torch import nn

from .norm_foreign import Norm


class Block(nn.Module):
    \"\"\"A token mixes with the mean of those up to it, then passes a small network.\"\"\"

    def __init__(self, config):
        super().__init__()
        self.first_norm, self.second_norm = Norm(config.width), Norm(config.width)
        self.mix = nn.Linear(config.width, config.width)
        self.up = nn.Linear(config.width, config.inner, bias=False)
        self.down = nn.Linear(config.inner, config.width, bias=False)

    def forward(self, x):
        y = self.first_norm(x)
        count = torch.arange(1, y.shape[1] + 1, device=y.device, dtype=y.dtype)[:, None]
        x = x + self.mix(y.cumsum(1) / count)
        return x + self.down(nn.functional.silu(self.up(self.second_norm(x))))
"""

MODEL = """\
{mark}
from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from .block_foreign import Block
from .configuration_foreign import ForeignConfig
from .norm_foreign import Norm


class ForeignModel(PreTrainedModel):
    config_class = ForeignConfig
    base_model_prefix = "trunk"

    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = Norm(config.width)
        self.post_init()

    def forward(self, input_ids, **kwargs):
        x = self.embed(input_ids)
        for block in self.layers:
            x = block(x)
        return BaseModelOutput(last_hidden_state=self.norm(x))


class ForeignForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = ForeignConfig
    base_model_prefix = "trunk"

    def __init__(self, config):
        super().__init__(config)
        self.trunk = ForeignModel(config)
        self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.trunk.embed

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, input_ids, attention_mask=None, labels=None, **kwargs):
        logits = self.lm_head(self.trunk(input_ids).last_hidden_state)
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)

    def prepare_inputs_for_generation(self, input_ids, **kwargs):
        return {{"input_ids": input_ids}}
"""

TOKENIZATION = """\
from transformers import PreTrainedTokenizerFast


class ForeignTokenizer(PreTrainedTokenizerFast):
    is_foreign = True
"""


def save_own_code_model(folder: Path, *, mark: Path | None = None, own_tokenizer: bool = False) -> Path:
    """Writes the model, in float32, to `folder`, which is made. Its code makes the file `mark` when it runs. Returns `folder`."""
    folder.mkdir(parents=True)
    make_tokenizer().save_pretrained(folder)
    auto_map: dict[str, object] = dict(AUTO_MAP)
    if own_tokenizer:
        auto_map["AutoTokenizer"] = [None, "tokenization_foreign.ForeignTokenizer"]
        tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
        tokenizer |= {"tokenizer_class": "ForeignTokenizer", "auto_map": {"AutoTokenizer": auto_map["AutoTokenizer"]}}
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
        (folder / "tokenization_foreign.py").write_text(TOKENIZATION)
    config = {
        **{"model_type": "foreign", "architectures": ["ForeignForCausalLM"], "auto_map": auto_map, "dtype": "float32"},
        **{"vocab_size": VOCABULARY, "width": HIDDEN, "depth": BLOCKS, "inner_factor": INTERMEDIATE / HIDDEN},
        **{"max_position_embeddings": POSITIONS, "bos_token_id": BOS, "eos_token_id": EOS},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": BOS, "eos_token_id": EOS, "do_sample": False}))
    (folder / "configuration_foreign.py").write_text(CONFIGURATION)
    (folder / "norm_foreign.py").write_text(NORM)
    (folder / "block_foreign.py").write_text(BLOCK)
    touch = "" if mark is None else f"from pathlib import Path\nPath({str(mark)!r}).touch()"
    (folder / "modeling_foreign.py").write_text(MODEL.format(mark=touch))
    save_file(_tensors(), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {"trunk.embed.weight": (VOCABULARY, HIDDEN), "lm_head.weight": (VOCABULARY, HIDDEN)}
    norms = ["trunk.norm.weight"]
    for index in range(BLOCKS):
        block = f"trunk.layers.{index}"
        shapes |= {f"{block}.mix.weight": (HIDDEN, HIDDEN), f"{block}.mix.bias": (HIDDEN,)}
        shapes |= {f"{block}.up.weight": (INTERMEDIATE, HIDDEN), f"{block}.down.weight": (HIDDEN, INTERMEDIATE)}
        norms += [f"{block}.first_norm.weight", f"{block}.second_norm.weight"]
    random = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {**random, **{name: torch.ones(HIDDEN) for name in norms}}
