"""Perplexity, speed, sample text, and the distance to a reference model.

One sequence at a time and, beyond the model's own output, never more than `CHUNK` tokens' log-probabilities in memory.
"""

from __future__ import annotations

import math
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from bondwise.errors import UserError
from bondwise.loading import load_model, load_tokenizer
from bondwise.schema import EvaluateOptions, Evaluation, EvaluationEvent, PerplexityRequest, PerplexityResult
from bondwise.text import token_sequences

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bondwise.run import Run

CHUNK = 256
"""Tokens whose log-probabilities, float32 [CHUNK, vocabulary], are in memory at a time."""


class Score(NamedTuple):
    """What one sequence of T + 1 tokens says of a model; nats."""

    losses: torch.Tensor
    """[T] float32: −log p of each next token."""
    kl: torch.Tensor | None
    """[T] float32: KL(reference ‖ model) at each position."""
    agreed: torch.Tensor | None
    """[T] bool: both models rank the same token first."""
    seconds: float
    """Of the model's forward pass alone."""


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    options: EvaluateOptions,
    *,
    reference: PreTrainedModel | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
    check_cancelled: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Measures `model` on held-out text, and with `reference` its distance to that model.

    Perplexity is exp of the mean loss (nats) over `sequences`·(`length` − 1) predicted tokens; its standard error is that of the mean
    over sequences carried through exp (delta method), for a single sequence over its tokens. Speed is `length` divided by the fastest
    forward pass over one sequence, the first left out as a warm-up where there are more: the fastest is the one that the rest of the
    machine disturbed least. `progress(done, total)` counts sequences and, as one more, the sample text.
    Raises UserError when there is too little text, the model cannot take such sequences, or its output is not finite.
    """
    models = [model] if reference is None else [reference, model]
    return _evaluate(models, len(models) - 1, tokenizer, options, seed=seed, progress=progress, check_cancelled=check_cancelled)[0]


def evaluate_pair(
    original: PreTrainedModel,
    compressed: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    options: EvaluateOptions,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
    check_cancelled: Callable[[], None] = lambda: None,
) -> tuple[Evaluation, Evaluation]:
    """Measures both as `evaluate` does, by turns on each sequence: what else the machine does slows both alike, so their speeds compare."""
    models = [original, compressed]
    first, second = _evaluate(models, 0, tokenizer, options, seed=seed, progress=progress, check_cancelled=check_cancelled)
    return first, second


def _evaluate(
    models: Sequence[PreTrainedModel],
    first: int,
    tokenizer: PreTrainedTokenizerBase,
    options: EvaluateOptions,
    *,
    seed: int,
    progress: Callable[[int, int], None],
    check_cancelled: Callable[[], None],
) -> list[Evaluation]:
    """Passes every sequence through `models`, the first of which is the reference of the others, and tells of those from `first` on."""
    ids = token_sequences(tokenizer, options.data, "evaluation", length=options.length, sequences=options.sequences, seed=seed)
    for model in models:
        check_fits(model, ids)
    total = len(ids) + (len(models) - first) * (options.sample_tokens > 0)
    scores: list[list[Score]] = []  # [sequences][models]
    for sequence in ids:
        check_cancelled()
        scores.append(_scores(models, sequence))
        progress(len(scores), total)
    found: list[Evaluation] = []
    for at, model in enumerate(models[first:], start=first):
        sample = greedy_sample(model, tokenizer, options.prompt, options.sample_tokens, check_cancelled)
        found.append(_evaluation([row[at] for row in scores], options, sample))
        progress(min(len(scores) + len(found), total), total)
    return found


def _evaluation(scores: Sequence[Score], options: EvaluateOptions, sample: str) -> Evaluation:
    import torch

    losses = torch.stack([one.losses for one in scores]).double()  # [sequences, length - 1]
    mean = float(losses.mean())
    if not math.isfinite(mean):
        raise UserError(f"The model's loss on {options.data} is {mean}: its weights or its activations overflow.", "Use another dtype.")
    perplexity = _exp(mean)
    times = [one.seconds for one in scores[1:] or scores]
    return Evaluation(
        data=options.data,
        perplexity=perplexity,
        standard_error=perplexity * _standard_error(losses),
        tokens=losses.numel(),
        tokens_per_second=options.length / min(times),
        speed_noise=statistics.median(times) / min(times) - 1,
        prompt=options.prompt,
        sample=sample,
        kl=_mean([one.kl for one in scores]),
        agreement=_mean([one.agreed for one in scores]),
    )


def score(model: PreTrainedModel, sequence: torch.Tensor, reference: PreTrainedModel | None = None) -> Score:
    """Losses of `model` on `sequence` (token ids [T + 1], int64), and its distance to `reference` where one is given."""
    return _scores([model] if reference is None else [reference, model], sequence)[-1]


def _scores(models: Sequence[PreTrainedModel], sequence: torch.Tensor) -> list[Score]:
    """One score a model; the distance of all but the first is to the first. Raises UserError where their vocabularies differ."""
    import torch

    outputs: list[torch.Tensor] = []  # [T + 1, vocabulary] each
    seconds: list[float] = []
    for model in models:
        started = time.perf_counter()
        outputs.append(_logits(model, sequence))
        seconds.append(time.perf_counter() - started)
        if outputs[-1].shape != outputs[0].shape:
            raise UserError(
                f"The reference has a vocabulary of {outputs[0].shape[-1]} tokens, the model one of {outputs[-1].shape[-1]}.",
                "Compare with the model that this one was made from.",
            )
    losses: list[list[torch.Tensor]] = [[] for _ in models]
    kls: list[list[torch.Tensor]] = [[] for _ in models]
    agreed: list[list[torch.Tensor]] = [[] for _ in models]
    for rows in _chunks(len(sequence) - 1):
        expected: torch.Tensor | None = None
        for at, logits in enumerate(outputs):
            log_probabilities = logits[rows].float().log_softmax(-1)  # [chunk, vocabulary]
            targets = sequence[1:][rows].to(log_probabilities.device)
            losses[at].append(-log_probabilities.gather(-1, targets[:, None])[:, 0].cpu())
            if expected is None:
                expected = log_probabilities
                continue
            other = expected.to(log_probabilities.device)
            kls[at].append((other.exp() * (other - log_probabilities)).sum(-1).cpu())
            agreed[at].append((other.argmax(-1) == log_probabilities.argmax(-1)).cpu())
    return [
        Score(torch.cat(losses[at]), torch.cat(kls[at]) if kls[at] else None, torch.cat(agreed[at]) if agreed[at] else None, seconds[at])
        for at in range(len(models))
    ]


def greedy_sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    tokens: int,
    check_cancelled: Callable[[], None] = lambda: None,
    *,
    in_step: bool = False,
) -> str:
    """What the model writes after `prompt`, taken as it is (no chat template), always choosing the likeliest token, `tokens` at most.

    `in_step`: several processes hold parts of the model and do this together.
    """
    import torch
    from transformers import GenerationConfig

    if tokens == 0:
        return ""

    def watch(ids: torch.Tensor, _scores: torch.Tensor) -> torch.Tensor:
        check_cancelled()
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

    ids = cast("torch.Tensor", cast("Any", tokenizer)(prompt, return_tensors="pt")["input_ids"])
    if ids.shape[1] == 0:
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        ids = torch.tensor([[start or 0]])
    ids = ids.long().to(model.device)
    own = cast("Any", model.generation_config)
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=tokens,
        bos_token_id=own.bos_token_id,
        eos_token_id=own.eos_token_id,
        pad_token_id=own.pad_token_id if own.pad_token_id is not None else 0,
    )
    # Put in the place of the model's own for the while: what a passed config leaves open (penalties, beams) is taken from that one.
    model.generation_config = settings
    try:
        # Weights that are put together in inference mode could not be trained with afterwards.
        with torch.no_grad() if in_step else torch.inference_mode():
            written = cast("Any", model).generate(ids, attention_mask=torch.ones_like(ids), stopping_criteria=[watch], synced_gpus=in_step)[
                0
            ]
    finally:
        model.generation_config = own
    # Decoded together, because a decoder drops the blank before the first word.
    before = cast("str", tokenizer.decode(ids[0], skip_special_tokens=True))
    return cast("str", tokenizer.decode(written, skip_special_tokens=True))[len(before) :]


def check_fits(model: PreTrainedModel, ids: torch.Tensor) -> None:
    """Raises UserError when token ids [sequences, length] are longer than the model's context or not in its vocabulary."""
    config: Any = model.config
    name = Path(str(getattr(config, "_name_or_path", ""))).name or type(model).__name__
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    if isinstance(limit, int) and ids.shape[1] > limit:
        raise UserError(f"{name} takes at most {limit} tokens, not {ids.shape[1]}.", f"Choose a length of at most {limit} (--length).")
    vocabulary = cast("Any", model.get_input_embeddings()).weight.shape[0]
    if int(ids.max()) >= vocabulary:
        raise UserError(
            f"The tokenizer makes token {int(ids.max())}, but {name} has an embedding for {vocabulary} tokens only.",
            "The tokenizer files belong to another model: copy this model's own into the folder.",
        )


def run_perplexity(run: Run) -> PerplexityResult:
    """The worker of `perplexity`: loads the model, and the reference where one is named, and measures."""
    started = time.monotonic()
    request = cast("PerplexityRequest", run.request)
    options = request.options
    folder = Path(request.model)
    tokenizer = load_tokenizer(folder, allow_code=request.allow_code)
    run.phase(f"Loading {folder.name}")
    model = load_model(folder, device=run.device, allow_code=request.allow_code)
    reference = None
    if options.reference is not None:
        run.check_cancelled()
        run.phase(f"Loading the reference {Path(options.reference).name}")
        reference = load_model(Path(options.reference), device=run.device, allow_code=request.allow_code)
    run.check_cancelled()
    run.phase(f"Measuring {folder.name}")
    found = evaluate(
        model,
        tokenizer,
        options.evaluate,
        reference=reference,
        seed=request.seed,
        progress=lambda done, total: run.progress(done, total, "sequences"),
        check_cancelled=run.check_cancelled,
    )
    compressed = getattr(model.config, "mpo", None) is not None
    run.emit(EvaluationEvent, role="compressed" if compressed else "original", evaluation=found)
    return PerplexityResult(evaluation=found, seconds=time.monotonic() - started)


# --- pure --------------------------------------------------------------------------------------------------------------------------


def _logits(model: PreTrainedModel, sequence: torch.Tensor) -> torch.Tensor:
    """[T + 1, vocabulary] in the model's dtype, computed when this returns."""
    import torch

    with torch.inference_mode():
        logits = cast("Any", model)(input_ids=sequence[None].to(model.device), use_cache=False).logits[0]
    if logits.is_cuda:
        torch.cuda.synchronize(logits.device)
    elif logits.device.type == "mps":
        torch.mps.synchronize()
    return logits


def _chunks(count: int) -> Iterator[slice]:
    return (slice(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK))


def _standard_error(losses: torch.Tensor) -> float:
    """Of the mean of losses [sequences, tokens]: over sequences, whose tokens are not independent; over tokens where there is one only."""
    samples = losses.mean(1) if len(losses) > 1 else losses[0]
    return float(samples.std()) / math.sqrt(len(samples)) if len(samples) > 1 else 0.0


def _exp(nats: float) -> float:
    # JSON has no infinity; a model this far gone is as good as random anyway.
    return math.exp(min(nats, 700.0))


def _mean(values: list[torch.Tensor | None]) -> float | None:
    import torch

    given = [value for value in values if value is not None]
    return float(torch.cat(given).double().mean()) if given else None
