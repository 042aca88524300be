"""The README.md of a compressed checkpoint: what it is, how to load it, what was measured.

It says nothing that differs between two runs of the same request (dates, speeds): those are in bondwise.json.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING

from bondwise.stability import stability_text
from bondwise.text import OWN_TEXT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bondwise.schema import (
        CalibrationOptions,
        Evaluation,
        LayerFigures,
        Method,
        QuantizedLayer,
        QuantizeOptions,
        QuantizeResult,
        TensorizeResult,
    )

METHODS: dict[Method, str] = {
    "plain": "cut into sites by sequential truncated SVDs (CompactifAI, Tomut et al. 2024; TT-SVD, Oseledets 2011), from the weight alone",
    "input": "factored so that the layer's outputs on the calibration text change least (SVD-LLM, Wang et al. 2025)",
    "fisher": "factored so that ½ tr(G ΔW S ΔWᵀ) is least, S the second moment of the layer's inputs on the calibration text and G that of "
    "the loss gradients at its outputs (K-FAC, Martens and Grosse 2015)",
    "sequential": "fitted, block by block, to what the compressed layers before it hand on, and then factored as with `fisher`",
}


def model_card(
    name: str,
    base_name: str,
    result: TensorizeResult,
    *,
    licence: str | None,
    calibration: CalibrationOptions | None = None,
    code: Sequence[str] = (),
) -> str:
    """Markdown with the front matter that the hub reads. Names and texts come from files of others and are escaped.

    `calibration` says which text the methods but the plain one learnt from; `code` names the base model's own Python files, which the
    folder carries.
    """
    copied = f" and, copied from the original, {', '.join(map(_code, code))}" if code else ""
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation", "tags: [tensor-network, mpo, bondwise]"]
    if licence is not None:
        lines.append(f"license: {json.dumps(licence)}")
    lines += ["---", "", f"# {_plain(name)}", ""]
    share = result.parameters / result.original_parameters
    lines.append(
        f"{_code(base_name)} with {len(result.layers)} of its linear layers as matrix product operators (MPO), made by Bondwise: "
        f"{result.parameters:,} instead of {result.original_parameters:,} parameters ({share:.1%}), {_megabytes(result.bytes)} instead "
        f"of {_megabytes(result.original_bytes)}. bondwise.json has all figures and how it was made."
    )
    lines += [
        "",
        "## Loading",
        "",
        f"Plain transformers; nothing of Bondwise is needed. `trust_remote_code` lets it run `modeling_mpo.py`{copied} of this folder.",
        "",
        *_loading(", trust_remote_code=True"),
        "## Method",
        "",
        *_methods(result.layers, calibration, result.refitted),
        "",
    ]
    if result.original is not None and result.compressed is not None:
        lines += [*_measured(result.original, result.compressed), ""]
    return "\n".join([*lines, *_layers(result.layers), ""])


def quantized_card(name: str, base_name: str, result: QuantizeResult, options: QuantizeOptions, *, licence: str | None) -> str:
    """The card of an original model that was quantized; Markdown as of `model_card`."""
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation", "tags: [quantized, bondwise]"]
    if licence is not None:
        lines.append(f"license: {json.dumps(licence)}")
    trust = ", trust_remote_code=True" if result.backend == "packed" else ""
    lines += [
        "---",
        "",
        f"# {_plain(name)}",
        "",
        f"{_code(base_name)}, quantized by Bondwise. bondwise.json has all figures and how it was made.",
        "",
        *_loading(trust),
    ]
    return "\n".join([*lines, quantized_section(result, options)])


def _loading(trust: str = "") -> list[str]:
    return [
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'model = AutoModelForCausalLM.from_pretrained("PATH OF THIS FOLDER"{trust})',
        f'tokenizer = AutoTokenizer.from_pretrained("PATH OF THIS FOLDER"{trust})',
        "```",
        "",
    ]


def quantized_section(result: QuantizeResult, options: QuantizeOptions) -> str:
    """Markdown on what is in fewer bits; nothing that differs between two runs of the same request."""
    schemes = Counter(_scheme(layer) for layer in result.layers)
    own = result.backend == "packed"
    needs = "plain transformers with `trust_remote_code`" if own else "transformers and bitsandbytes"
    lines = [
        "## Quantization",
        "",
        f"{len(result.layers):,} weights are stored in fewer bits: {', '.join(f'{count:,} as {name}' for name, count in schemes.items())}. "
        f"{_megabytes(result.bytes)} instead of {_megabytes(result.original_bytes)}; {result.bits_per_parameter:.2f} bits for a parameter "
        f"of the original model, {result.layer_bits:.2f} in these weights. The rest, {_megabytes(result.unquantized_bytes)}, stays as "
        f"it was. Loads with {needs}.",
    ]
    if any(layer.loss is not None for layer in result.layers):
        text = options.calibration
        source = "written by the model itself" if text.data == OWN_TEXT else _code(text.data.rpartition("/")[2])
        lines += [
            "",
            "Rounded so that what the layers do on a calibration text changes least (GPTQ, Frantar et al. 2023, with activation order): "
            f"{source}, {text.sequences:,} sequences of {text.length:,} tokens.",
        ]
    if result.original is not None and result.quantized is not None:
        lines += ["", *_measured(result.original, result.quantized, "quantized")]
    return "\n".join([*lines, ""])


def _scheme(layer: QuantizedLayer) -> str:
    if layer.protected:
        return "int8, where fewer bits would have cost far more than elsewhere"
    corrected = f" with a correction of rank {layer.rank}" if layer.rank and layer.bits else ""
    return f"{layer.scheme}{corrected}" + (f" of rank {layer.rank}" if layer.rank and not layer.bits else "")


def declared_licence(folder: Path) -> str | None:
    """The licence in the front matter of the folder's README.md, such as `apache-2.0`."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    front = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    found = front and re.search(r"^license: *[\"']?([\w.+-]+)[\"']? *$", front[1], re.MULTILINE)
    return found[1] if found else None


def _methods(layers: Sequence[LayerFigures], calibration: CalibrationOptions | None, refitted: Sequence[str]) -> list[str]:
    used: list[Method] = [method for method in METHODS if any(layer.method == method for layer in layers)]
    lines = [f"{_counted(layers, method)} {METHODS[method]}." for method in used]
    if calibration is not None and used != ["plain"]:
        texts = [calibration.data, *(one.data for one in calibration.also)]
        source = " and ".join("written by the model itself" if text == OWN_TEXT else _code(text.rpartition("/")[2]) for text in texts)
        lines.append(f"Calibration text: {source}, {calibration.sequences:,} sequences of {calibration.length:,} tokens.")
    if (stability := stability_text(layer.held_out for layer in layers)) is not None:
        lines.append(stability)
    if refitted:
        shown = ", ".join(map(_code, refitted[:3])) + (f" and {len(refitted) - 3:,} more" if len(refitted) > 3 else "")
        lines.append(f"Stayed dense, with other weights than the original's, fitted to what the cores hand on: {shown}.")
    return [*lines, "Nothing was retrained. The relative error is ‖W − Ŵ‖ / ‖W‖ (Frobenius) with the cores as stored."]


def _counted(layers: Sequence[LayerFigures], method: Method) -> str:
    count = sum(layer.method == method for layer in layers)
    if count == len(layers):
        return "Each weight was"
    return f"{count} weights were" if count > 1 else "One weight was"


def _measured(original: Evaluation, compressed: Evaluation, made: str = "compressed") -> list[str]:
    source = original.data.rpartition("/")[2]
    lines = [
        "## Measured",
        "",
        f"On {_code(source)}, {original.tokens:,} predicted tokens that were not used to make the model.",
        "",
        f"| | original | {made} |",
        "|---|---|---|",
        f"| perplexity | {_figure(original)} | {_figure(compressed)} |",
    ]
    if compressed.kl is not None and compressed.agreement is not None:
        lines.append(f"| KL divergence from the original, nats a token | | {compressed.kl:.4f} |")
        lines.append(f"| same most likely token as the original | | {compressed.agreement:.1%} |")
    for label, evaluation in (("original", original), (made, compressed)):
        lines += ["", f"What the {label} model writes after {_code(evaluation.prompt)}:", "", *_fenced(evaluation.sample)]
    return lines


def _layers(layers: list[LayerFigures]) -> list[str]:
    head = ["## Layers", "", "| layer | sites (out×in) | χ | kept | relative error |", "|---|---|---|---|---|"]
    return head + [
        f"| {_code(layer.name)} | {' · '.join(f'{o}×{i}' for o, i in zip(layer.out_modes, layer.in_modes, strict=True))} "
        f"| {', '.join(map(str, layer.bond_dims))} | {layer.keep:.1%} | {layer.relative_error:.3g} |"
        for layer in layers
    ]


def _figure(evaluation: Evaluation) -> str:
    return f"{evaluation.perplexity:.2f} ± {evaluation.standard_error:.2f}"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _plain(text: str) -> str:
    """A single line in which Markdown and HTML mean nothing."""
    return re.sub(r"([\\`*_{}\[\]()#+!|<>&~])", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    """Inline code that the text cannot end, safe inside a table too."""
    line = " ".join(text.split()).replace("|", "¦")
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    return f"{ticks} {line} {ticks}" if "`" in line else f"`{line}`"


def _fenced(text: str) -> list[str]:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return [f"{fence}text", *text.splitlines(), fence]


def dense_card(name: str, source_name: str, architecture: str, *, contracted: int, written_out: int, licence: str | None) -> str:
    """Markdown for a folder that `export` made: what it is, and what it is not. `contracted` counts MPO layers, `written_out` weights that
    were stored in few bits."""
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation", "tags: [bondwise]"]
    if licence is not None:
        lines.append(f"license: {json.dumps(licence)}")
    lines += ["---", "", f"# {_plain(name)}", ""]
    mpo = [f"{contracted:,} linear layers as matrix product operators"] if contracted else []
    bits = [f"{written_out:,} weights in few bits"] if written_out else []
    became = [
        *(["each MPO was contracted to the dense weight that it stands for"] if contracted else []),
        *(["each weight in few bits was written out as the numbers that it stands for"] if written_out else []),
    ]
    lines.append(
        f"{_code(source_name)}, a model with {' and '.join([*mpo, *bits])}, written by Bondwise as {_code(architecture)}: "
        f"{', and '.join(became)}. It computes what that model computes, at the size and speed of the original: for tools that know no "
        "such layers, such as GGUF converters."
    )
    return "\n".join([*lines, "", *_loading()])
