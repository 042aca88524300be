"""Text that a model writes itself, to calibrate it without any data (Z. Liu et al., LLM-QAT, Findings of ACL 2024, §3.1)."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, cast

import torch

from bondwise.calibrate import labels_at
from bondwise.device import device_memory
from bondwise.errors import UserError
from bondwise.evaluate import check_fits
from bondwise.loading import load_model, load_tokenizer
from bondwise.memory import release_freed_memory
from bondwise.moments_file import MomentStore, store_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bondwise.checkpoint import Checkpoint
    from bondwise.run import Run
    from bondwise.schema import CalibrationOptions

BATCH = 16
"""Sequences that are written together, where the memory holds the keys and values of so many."""


def written_text(run: Run, source: Checkpoint, options: CalibrationOptions, warn: Callable[[str], None], *, fits: bool = True) -> Tensor:
    """Token ids [sequences, length] int64 of text that the model writes itself; kept with its moments, so written once.

    Raises UserError as `load_model`, where the model takes no sequences of that length, and where it does not fit in memory (`fits`) and
    no such text is kept: token after token all of its weights would be read.
    """
    what = f"its own {options.sequences}×{options.length}"
    store = MomentStore(store_key(source, what, run.request.seed, run.device, run.check_cancelled), warn)
    if (kept := store.read_text()) is not None:
        return kept
    if not fits:
        batches = -(-options.sequences // BATCH)
        raise UserError(
            f"{source.folder.name} does not fit in memory, so it cannot write its calibration text: {options.length} tokens, one after "
            f"another, would read {batches * options.length * source.bytes / 1e9:,.0f} GB of weights.",
            "Name a text (--calibration FILE or `builtin`), or use a machine whose memory holds the model.",
        )
    run.phase(f"Loading {source.folder.name}")
    allow_code: bool = run.request.allow_code
    model = load_model(source.folder, device=run.device, allow_code=allow_code)
    run.phase("Letting the model write its calibration text")
    ids = write_text(
        model,
        load_tokenizer(source.folder, allow_code=allow_code),
        length=options.length,
        sequences=options.sequences,
        seed=run.request.seed,
        progress=functools.partial(run.progress, unit="tokens"),
        check_cancelled=run.check_cancelled,
    )
    store.write_text(ids)
    del model
    release_freed_memory()
    return ids


@torch.no_grad()
def write_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    length: int,
    sequences: int,
    seed: int,
    progress: Callable[[float, float], None],
    check_cancelled: Callable[[], None],
) -> Tensor:
    """Token ids [sequences, length] int64, each drawn from the model's own distribution (temperature 1) after those before it.

    A sequence begins with the tokenizer's beginning-of-text token, else with its end-of-text token, else with one drawn evenly from the
    vocabulary; behind an end of text another text begins. The same seed gives the same text on one device. `progress(done, total)`
    counts tokens. Raises UserError where the model takes no sequences of that length.
    """
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(sequences, length, generator=generator, dtype=torch.float64)
    begin, end = cast("tuple[int | None, int | None]", (tokenizer.bos_token_id, tokenizer.eos_token_id))
    start = begin if begin is not None else end
    vocabulary: int = cast("Any", model.get_input_embeddings()).weight.shape[0]
    ids = torch.zeros(sequences, length, dtype=torch.int64)
    ids[:, 0] = (draws[:, 0] * vocabulary).long() if start is None else start
    check_fits(model, ids)
    done = 0
    for rows in torch.arange(sequences).split(_batch(model, length)):
        cache: Any = None
        for place in range(1, length):
            check_cancelled()
            last = ids[rows, place - 1 : place].to(model.device)
            outputs = cast("Any", model)(input_ids=last, past_key_values=cache, use_cache=True)
            cache = outputs.past_key_values
            probabilities = outputs.logits[:, -1].float().softmax(-1)
            drawn = labels_at(probabilities, draws[rows, place, None]).cpu()
            if begin is not None and end is not None and begin != end:
                drawn = torch.where(last[:, 0].cpu() == end, begin, drawn)
            ids[rows, place] = drawn
            progress(done + place * len(rows), sequences * length)
        done += length * len(rows)
        progress(done, sequences * length)
    return ids


def _batch(model: PreTrainedModel, length: int) -> int:
    """How many sequences' keys and values, at most two numbers a channel and block, half of the free memory holds."""
    config: Any = model.config.get_text_config()
    each = 2 * int(config.num_hidden_layers) * int(config.hidden_size) * length * model.dtype.itemsize
    return max(1, min(BATCH, device_memory(str(model.device)).free // 2 // each))
