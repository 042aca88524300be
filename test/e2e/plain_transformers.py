"""Loads a model folder with plain transformers, nothing of Bondwise on the path, and prints what it writes as JSON."""

import importlib.util
import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

assert importlib.util.find_spec("bondwise") is None, "the engine must not be importable here"
folder, prompt = sys.argv[1:]
torch.manual_seed(0)
model, info = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32, output_loading_info=True)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
tokens = tokenizer(prompt, return_tensors="pt")
with torch.inference_mode():
    written = model.generate(**tokens, max_new_tokens=40, do_sample=False)
print(
    json.dumps(
        {
            "layer": [name for name, _ in model.get_submodule("model.layers.14.mlp.gate_proj").named_modules() if name],
            "missing": sorted(info["missing_keys"]),
            "unexpected": sorted(info["unexpected_keys"]),
            "text": tokenizer.decode(written[0], skip_special_tokens=True),
        }
    )
)
