"""Perplexity, speed, sample text and the distance to a reference, against transformers' own loss and plain formulas."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from engine_runs import events, fail, finish, make_run
from tiny_models import POSITIONS, make_tiny_model, make_tokenizer, save_tiny_model

from bondwise import evaluate as evaluation
from bondwise.errors import Cancelled, UserError
from bondwise.evaluate import CHUNK, evaluate, evaluate_pair, greedy_sample, score
from bondwise.schema import EvaluateOptions
from bondwise.text import token_sequences

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS = EvaluateOptions(length=96, sequences=5, sample_tokens=6)


def sequences(options: EvaluateOptions = OPTIONS) -> torch.Tensor:
    return token_sequences(make_tokenizer(), options.data, "evaluation", length=options.length, sequences=options.sequences)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_perplexity_is_exp_of_transformers_own_loss(architecture: str) -> None:
    model = make_tiny_model(architecture)
    found = evaluate(model, make_tokenizer(), OPTIONS)
    ids = sequences()
    with torch.no_grad():
        whole = float(torch.stack([model(input_ids=row[None], labels=row[None]).loss for row in ids]).double().mean())
    assert found.perplexity == pytest.approx(math.exp(whole), rel=1e-5)
    assert found.tokens == 5 * 95
    assert found.tokens_per_second > 0
    assert found.kl is None


def test_standard_error_is_that_of_the_sequences_carried_through_exp() -> None:
    model = make_tiny_model("llama")
    found = evaluate(model, make_tokenizer(), OPTIONS)
    means = torch.stack([score(model, row).losses.double().mean() for row in sequences()])
    # A different road to the same figure: perplexity moves by itself times what the mean loss moves.
    spread = float(((means - means.mean()) ** 2).sum() / 4) ** 0.5 / 5**0.5
    assert found.standard_error == pytest.approx(math.exp(float(means.mean())) * spread, rel=1e-6)
    alone = evaluate(model, make_tokenizer(), EvaluateOptions(length=96, sequences=1, sample_tokens=0))
    assert 0 < alone.standard_error < alone.perplexity


def test_pieces_of_a_long_sequence_add_up() -> None:
    torch.manual_seed(0)
    model = make_tiny_model("gpt_neox")
    row = torch.randint(256, (POSITIONS,))
    whole = score(model, row)
    original, evaluation.CHUNK = CHUNK, 7
    try:
        pieces = score(model, row, model)
    finally:
        evaluation.CHUNK = original
    torch.testing.assert_close(whole.losses, pieces.losses)
    assert pieces.losses.shape == (POSITIONS - 1,)


def test_distance_to_a_reference_is_the_kl_of_its_distribution() -> None:
    model, reference = make_tiny_model("llama", seed=0), make_tiny_model("llama", seed=1)
    found = evaluate(model, make_tokenizer(), OPTIONS, reference=reference)
    with torch.no_grad():
        p = reference(sequences()).logits[:, :-1].double().softmax(-1)
        q = model(sequences()).logits[:, :-1].double().softmax(-1)
    assert found.kl == pytest.approx(float((p * (p / q).log()).sum(-1).mean()), rel=1e-4)
    assert found.agreement == pytest.approx(float((p.argmax(-1) == q.argmax(-1)).double().mean()))
    same = evaluate(model, make_tokenizer(), OPTIONS, reference=model)
    assert same.kl == pytest.approx(0, abs=1e-6)
    assert same.agreement == 1


def test_two_models_by_turns_score_as_each_alone() -> None:
    original, compressed = make_tiny_model("llama", seed=0), make_tiny_model("llama", seed=1)
    steps: list[tuple[int, int]] = []
    first, second = evaluate_pair(original, compressed, make_tokenizer(), OPTIONS, progress=lambda done, total: steps.append((done, total)))
    timed = {"tokens_per_second", "speed_noise"}
    assert first.model_dump(exclude=timed) == evaluate(original, make_tokenizer(), OPTIONS).model_dump(exclude=timed)
    alone = evaluate(compressed, make_tokenizer(), OPTIONS, reference=original)
    assert second.model_dump(exclude=timed) == alone.model_dump(exclude=timed)
    assert min(first.speed_noise, second.speed_noise) >= 0
    assert steps[-1] == (OPTIONS.sequences + 2, OPTIONS.sequences + 2)


def test_the_sample_is_greedy_whatever_the_model_asks_for() -> None:
    model, tokenizer = make_tiny_model("llama"), make_tokenizer()
    config: Any = model.generation_config
    config.do_sample, config.temperature, config.num_beams, config.repetition_penalty = True, 5.0, 3, 4.0
    ids = tokenizer("The capital", return_tensors="pt").input_ids
    for _ in range(6):
        with torch.no_grad():
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    expected = str(tokenizer.decode(ids[0], skip_special_tokens=True))
    assert "The capital" + greedy_sample(model, tokenizer, "The capital", 6) == expected
    assert model.generation_config is config
    assert greedy_sample(model, tokenizer, "The capital", 0) == ""
    assert isinstance(greedy_sample(model, tokenizer, "", 3), str)


def test_it_can_be_stopped_between_sequences_and_between_written_tokens() -> None:
    model, tokenizer = make_tiny_model("llama"), make_tokenizer()
    calls = 0

    def stop_at(limit: int) -> Any:
        def check() -> None:
            nonlocal calls
            calls += 1
            if calls == limit:
                raise Cancelled

        return check

    seen: list[int] = []
    with pytest.raises(Cancelled):
        evaluate(model, tokenizer, OPTIONS, progress=lambda done, _: seen.append(done), check_cancelled=stop_at(3))
    assert seen == [1, 2]
    calls = 0
    with pytest.raises(Cancelled):
        greedy_sample(model, tokenizer, "x", 50, stop_at(2))


def test_what_does_not_fit_the_model_is_named() -> None:
    tokenizer = make_tokenizer()
    with pytest.raises(UserError, match=f"at most {POSITIONS} tokens, not 200"):
        evaluate(make_tiny_model("gpt2"), tokenizer, EvaluateOptions(length=200, sequences=1))
    small = make_tiny_model("llama")
    small.resize_token_embeddings(40)
    with pytest.raises(UserError, match="embedding for 40 tokens only"):
        evaluate(small, tokenizer, OPTIONS)
    with pytest.raises(UserError, match="reference has a vocabulary of 300 tokens, the model one of 258"):
        reference = make_tiny_model("llama")
        reference.resize_token_embeddings(300)
        evaluate(make_tiny_model("llama"), tokenizer, OPTIONS, reference=reference)
    broken = make_tiny_model("llama")
    broken.get_parameter("model.norm.weight").data.fill_(float("nan"))
    with pytest.raises(UserError, match="loss on builtin is nan"):
        evaluate(broken, tokenizer, OPTIONS)


# --- the run ---------------------------------------------------------------------------------------------------------------------------


def test_perplexity_of_a_folder_with_a_reference(tmp_path: Path) -> None:
    model, other = save_tiny_model("llama", tmp_path / "model"), save_tiny_model("llama", tmp_path / "other", seed=1)
    options = {"evaluate": OPTIONS.model_dump(), "reference": str(other)}
    run = make_run(tmp_path / "run", "perplexity", options, model=str(model), seed=3)
    result = finish(run)
    expected = evaluate(make_tiny_model("llama", seed=0), make_tokenizer(), OPTIONS, reference=make_tiny_model("llama", seed=1), seed=3)
    for figure in ("perplexity", "standard_error", "kl", "agreement", "tokens", "sample"):
        assert result["evaluation"][figure] == pytest.approx(getattr(expected, figure))
    assert [event["role"] for event in events(run, "evaluation")] == ["original"]


def test_perplexity_of_a_text_file_that_is_not_there(tmp_path: Path) -> None:
    model = save_tiny_model("llama", tmp_path / "model")
    options = {"evaluate": {"data": str(tmp_path / "no.txt")}}
    assert "no.txt does not exist" in fail(make_run(tmp_path / "run", "perplexity", options, model=str(model)))


def test_perplexity_without_a_tokenizer(tmp_path: Path) -> None:
    model = save_tiny_model("llama", tmp_path / "model")
    for path in model.glob("tokenizer*"):
        path.unlink()
    assert "tokenizer" in fail(make_run(tmp_path / "run", "perplexity", {}, model=str(model)))
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "failed"
