"""What a command prints for a person: short tables of what was found or made."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from bondwise.terminal import duration, size, table

if TYPE_CHECKING:
    from collections.abc import Callable

    from bondwise.schema import Doctor, Inspection, TensorDiff, TensorFacts, TensorSpectrum


def inspection_text(found: Inspection) -> str:
    """The model in a line, then a row for each kind of layer and for the other tensors."""
    head = (
        f"{found.architecture or 'unknown architecture'}: {found.parameters:,} parameters, {size(found.bytes)}, {len(found.blocks)} blocks"
    )
    rows = [["layer", "shape", "dtype", "blocks", "parameters", "size", "share", "state"]]
    kinds: dict[tuple[str, str, str, str], list[int]] = {}
    for block in found.blocks:
        for layer in block.layers:
            state = f"MPO, χ {max(layer.bond_dims or [0])}" if layer.state == "mpo" else layer.scheme or layer.state
            key = (layer.name.removeprefix(f"{block.name}."), "×".join(map(str, layer.shape)), layer.dtype, state)
            sums = kinds.setdefault(key, [0, 0, 0])
            sums[0] += 1
            sums[1] += layer.parameters
            sums[2] += layer.bytes
    for (name, shape, dtype, state), (blocks, parameters, count) in kinds.items():
        rows.append([name, shape, dtype, str(blocks), f"{parameters:,}", size(count), f"{count / max(found.bytes, 1):.1%}", state])
    other = sum(tensor.bytes for tensor in found.other)
    parameters = sum(tensor.parameters for tensor in found.other)
    rows.append(["other tensors", "", "", "", f"{parameters:,}", size(other), f"{other / max(found.bytes, 1):.1%}", ""])
    return f"{head}\n\n{table(rows)}"


def doctor_text(found: Doctor) -> str:
    """What is there, then each problem with what to do."""
    rows = [
        ["engine", found.engine],
        ["Python", f"{found.python_version} ({found.python})"],
        ["torch", found.torch or "missing"],
        ["transformers", found.transformers or "missing"],
        ["device", f"{found.device} ({found.device_name})"],
        ["memory", f"{size(found.memory)} free of {size(found.memory_total)}"],
        ["host memory", f"{size(found.host_memory)} free"],
        ["disk", f"{size(found.disk)} free"],
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    problems = [f"\n{problem.message}\n  → {problem.remedy}" for problem in found.problems]
    return "\n".join([*lines, *(problems or ["\nNothing is missing."])])


def tensor_text(facts: TensorFacts) -> str:
    """Statistics of one tensor, then its histogram as bars on a logarithmic scale."""
    shown = {"minimum": facts.minimum, "maximum": facts.maximum, "mean": facts.mean, "deviation": facts.deviation, "norm": facts.norm}
    lines = [f"{facts.name}: {'×'.join(map(str, facts.shape)) or 'scalar'} {facts.dtype}, {facts.count:,} values"]
    lines += [f"{name:<10} {value:.6g}" for name, value in shown.items() if value is not None]
    lines += [f"{name:<10} {value:,}" for name, value in {"zeros": facts.zeros, "NaN": facts.nan, "infinite": facts.infinite}.items()]
    highest = math.log1p(max(facts.histogram, default=0)) or 1
    width = (facts.high - facts.low) / len(facts.histogram)
    for at, count in enumerate(facts.histogram):
        if count:
            lines.append(f"{facts.low + (at + 0.5) * width:>11.4g}  {'█' * max(1, round(40 * math.log1p(count) / highest))} {count:,}")
    return "\n".join(lines)


def spectrum_text(spectrum: TensorSpectrum) -> str:
    """What low rank would keep of a matrix, by size."""
    rows = [["kept", "χ", "parameters", "relative error"]]
    rows += [[f"{mark.keep:.0%}", str(mark.chi), f"{mark.parameters:,}", f"{mark.relative_error:.4f}"] for mark in spectrum.marks]
    values = spectrum.values
    head = f"{spectrum.name}: {spectrum.rows}×{spectrum.columns}, singular values from {values[0]:.4g} to {values[-1]:.4g}"
    return f"{head}\n\n{table(rows)}"


def diff_text(diff: TensorDiff, top: int) -> str:
    """The `top` most changed tensors, and how many others there are of each kind."""
    changed = [one for one in diff.tensors if one.found == "changed"]
    rows = [["relative", "largest", "tensor", "stored", "in the other"]]
    rows += [
        ["–" if one.relative is None else f"{one.relative:.4g}", f"{one.largest:.4g}", one.name, one.stored or "–", one.other_stored or "–"]
        for one in changed[:top]
    ]
    words = {"equal": "equal", "shape": "of other shapes", "unread": "not compared", "only-model": "only here", "only-other": "only there"}
    counts = [f"{count:,} {text}" for kind, text in words.items() if (count := sum(one.found == kind for one in diff.tensors))]
    head = f"{len(changed):,} of {len(diff.tensors):,} tensors changed" + (f"; {', '.join(counts)}" if counts else "")
    overall = "" if diff.relative is None else f"\nall together: {diff.relative:.4g} of the norm"
    more = f"\n… and {len(changed) - top:,} more (--top {len(changed)})" if len(changed) > top else ""
    return head + overall + (f"\n\n{table(rows)}{more}" if changed else "")


def result_text(result: dict[str, Any]) -> str:
    """The figures of a finished run, from `result.json`."""
    made = f"Wrote {result['output']} in {duration(result['seconds'])}." if "output" in result else ""
    told = _TEXTS.get(result["kind"])
    return f"{told(result)}\n\n{made}" if told else f"{made} {_evaluation_text(result['evaluation'])}".lstrip()


def _compression_text(result: dict[str, Any]) -> str:
    from bondwise.stability import stability_text

    rows = [["", "before", "after", "kept"]]
    for name, show in (("parameters", "{:,}".format), ("bytes", size)):
        before, after = result[f"original_{name}"], result[name]
        rows.append([name, show(before), show(after), f"{after / before:.1%}"])
    rows.append(["layers compressed", "", str(len(result["layers"])), ""])
    original, compressed = result.get("original"), result.get("compressed")
    if original and compressed:
        for name, show in (("perplexity", "{:.2f}".format), ("tokens_per_second", "{:,.0f}".format)):
            rows.append([name.replace("_per_", "/").replace("seconds", "s"), show(original[name]), show(compressed[name]), ""])
    samples = "".join(
        f"\n\n{side}: {evaluation['prompt']}{evaluation['sample']}"
        for side, evaluation in (("Before", original), ("After", compressed))
        if evaluation
    )
    stability = stability_text(layer.get("held_out") for layer in result["layers"])
    told = f"\n\n{stability}" if stability else ""
    return f"{table(rows)}{told}{samples}"


def _profile_text(result: dict[str, Any]) -> str:
    from bondwise.profile_summary import profile_text

    return profile_text(result)


def _benchmark_text(result: dict[str, Any]) -> str:
    from bondwise.benchmark_summary import benchmark_text

    return benchmark_text(result)


def _evaluation_text(evaluation: dict[str, Any]) -> str:
    text = f"Perplexity {evaluation['perplexity']:.3f} ± {evaluation['standard_error']:.3f} over {evaluation['tokens']:,} tokens"
    if evaluation.get("kl") is not None:
        text += f"; KL {evaluation['kl']:.4f} nats a token, the same first token {evaluation['agreement']:.1%} of the time"
    return f"{text} ({evaluation['tokens_per_second']:,.0f} tokens/s)."


def _healing_text(result: dict[str, Any]) -> str:
    rows = [["on text held back", "original", "before", "healed"]]
    losses = (result.get("teacher_loss"), result["start_loss"], result["best_loss"])
    rows.append(["cross entropy", *("" if loss is None else f"{loss:.3f}" for loss in losses)])
    rows.append(["perplexity", *("" if loss is None else f"{math.exp(min(loss, 700)):.2f}" for loss in losses)])
    measured = [result.get(role) for role in ("original", "compressed", "healed")]
    if measured[2]:
        rows.append([f"perplexity on {measured[2]['data']}", *("" if one is None else f"{one['perplexity']:.2f}" for one in measured)])
    ends = {
        "budget": "as long as asked",
        "plateau": "until nothing became better",
        "diverged": "until the loss ran away",
        "asked": "until it was asked to stop",
    }
    return (
        f"{table(rows)}\n\nTrained {result['trained']:,} of {result['parameters']:,} parameters {ends[result['stopped']]}: "
        f"{result['steps']:,} steps, {result['tokens']:,} tokens. The cores are those of step {result['best_step']:,}."
    )


def _export_text(result: dict[str, Any]) -> str:
    rows = [["", "compressed", "exported"]]
    for name, show in (("parameters", "{:,}".format), ("bytes", size)):
        rows.append([name, show(result[f"compressed_{name}"]), show(result[name])])
    code = "" if result["plain"] else ", with trust_remote_code"
    return (
        f"{table(rows)}\n\nContracted {result['layers']} layers; it loads as {result['architecture']}{code}. Its accuracy is that of the "
        "compressed model, its size that of the original."
    )


def _quantized_text(result: dict[str, Any]) -> str:
    rows = [["", "before", "after", "kept"]]
    before, after = result["original_bytes"], result["bytes"]
    rows.append(["bytes", size(before), size(after), f"{after / before:.1%}"])
    rows.append(["bits per original parameter", "", f"{result['bits_per_parameter']:.2f}", ""])
    rows.append(["in memory, loaded here", "", size(result["memory"]), ""])
    schemes: dict[str, int] = {}
    for layer in result["layers"]:
        name = "8 bits, protected" if layer["protected"] else layer["scheme"] + (f", rank {layer['rank']}" if layer["rank"] else "")
        schemes[name] = schemes.get(name, 0) + 1
    rows += [[f"weights as {name}", "", str(count), ""] for name, count in schemes.items()]
    original, quantized = result.get("original"), result.get("quantized")
    if original and quantized:
        rows.append(
            ["perplexity", f"{original['perplexity']:.2f}", f"{quantized['perplexity']:.2f} ± {quantized['standard_error']:.2f}", ""]
        )
    kept = result["unquantized_bytes"]
    note = f"Embedding, norms and all else that was not named stay as they were: {size(kept)}, {kept / after:.0%} of the folder."
    samples = "".join(f"\n\n{side}: {one['prompt']}{one['sample']}" for side, one in (("Before", original), ("After", quantized)) if one)
    return f"{table(rows)}\n\n{note}{samples}"


_TEXTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "tensorize": _compression_text,
    "profile": _profile_text,
    "heal": _healing_text,
    "benchmark": _benchmark_text,
    "export": _export_text,
    "quantize": _quantized_text,
}
