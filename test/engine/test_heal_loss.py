"""The loss of healing against plain formulas of torch, values and gradients; and the plan of a run against its own words."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bondwise import heal_loss, kept, teacher_logits
from bondwise.errors import UserError
from bondwise.heal_loss import mixed_loss
from bondwise.heal_plan import WINDOW, Timing, learning_rate, make_plan, pause, runs_away
from bondwise.packing import Packed
from bondwise.schema import HealOptions, HealPlan
from bondwise.teacher_logits import TeacherStore, likeliest

if TYPE_CHECKING:
    from pathlib import Path


def plain(logits: Tensor, labels: Tensor, teacher: Tensor | None, distill: float, temperature: float) -> Tensor:
    """In double precision, by torch's own functions."""
    loss = (1 - distill) * F.cross_entropy(logits, labels, reduction="sum")
    if teacher is not None:
        expected, found = ((one / temperature).log_softmax(-1) for one in (teacher, logits))
        loss = loss + distill * temperature**2 * F.kl_div(found, expected, reduction="sum", log_target=True)
    return loss


@pytest.mark.parametrize(("distill", "temperature"), [(0.0, 1.0), (1.0, 1.0), (0.3, 1.0), (0.7, 2.5)])
@pytest.mark.parametrize("tokens", [1, 5, 12])
def test_value_and_gradient_are_those_of_torch(distill: float, temperature: float, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heal_loss, "PIECE", {"cpu": 5 * 11})
    generator = torch.Generator().manual_seed(tokens)
    logits, teacher = (3 * torch.randn(tokens, 11, generator=generator) for _ in range(2))
    labels = torch.randint(11, (tokens,), generator=generator)
    ours, theirs = logits.clone().requires_grad_(), logits.double().requires_grad_()
    found = mixed_loss(ours, labels, teacher if distill else None, distill=distill, temperature=temperature)
    expected = plain(theirs, labels, teacher.double() if distill else None, distill, temperature)
    torch.testing.assert_close(found.mixed.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        found.cross_entropy.double(), F.cross_entropy(logits.double(), labels, reduction="sum"), rtol=1e-5, atol=1e-5
    )
    (3 * found.mixed).backward()
    (3 * expected).backward()
    assert ours.grad is not None and theirs.grad is not None
    torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-5)


def merged(scores: Tensor, ids: Tensor, temperature: float) -> Tensor:
    """Probabilities of the outcomes `ids` and of all others together."""
    probabilities = (scores / temperature).softmax(-1)
    kept = probabilities.gather(-1, ids)
    return torch.cat([kept, 1 - kept.sum(-1, keepdim=True)], -1)


@pytest.mark.parametrize(("distill", "temperature"), [(1.0, 1.0), (0.4, 2.5)])
def test_of_likeliest_tokens_the_others_count_as_one(distill: float, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heal_loss, "PIECE", {"cpu": 5 * 11})
    generator = torch.Generator().manual_seed(1)
    logits, teacher = (3 * torch.randn(7, 11, generator=generator) for _ in range(2))
    labels = torch.randint(11, (7,), generator=generator)
    said = likeliest(teacher, 4, temperature)
    assert torch.equal(said.ids.long(), teacher.topk(4, -1).indices)
    ours, theirs = logits.clone().requires_grad_(), logits.double().requires_grad_()
    found = mixed_loss(ours, labels, said, distill=distill, temperature=temperature)
    right, own = (merged(one, said.ids.long(), temperature) for one in (teacher.double(), theirs))
    expected = (1 - distill) * F.cross_entropy(theirs, labels, reduction="sum")
    expected = expected + distill * temperature**2 * (right * (right.log() - own.log())).sum()
    torch.testing.assert_close(found.mixed.double(), expected, rtol=3e-3, atol=3e-3)  # half precision of what is kept
    found.mixed.backward()
    expected.backward()
    assert ours.grad is not None and theirs.grad is not None
    torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=3e-3, atol=3e-3)


def test_with_all_tokens_kept_it_is_the_whole_kl() -> None:
    logits, teacher = torch.randn(2, 3, 11, generator=torch.Generator().manual_seed(2))
    labels = torch.zeros(3, dtype=torch.int64)
    whole, merged_all = (mixed_loss(logits, labels, one, distill=1.0).mixed for one in (teacher, likeliest(teacher, 50, 1.0)))
    torch.testing.assert_close(merged_all, whole, rtol=3e-3, atol=3e-3)


def packed(seed: int) -> Packed:
    ids = torch.randint(11, (8,), generator=torch.Generator().manual_seed(seed))
    return Packed(ids, ids, torch.arange(8))


def test_what_the_original_says_is_kept_within_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BONDWISE_HOME", str(tmp_path))
    monkeypatch.setattr(teacher_logits, "AT_ONCE", 1000)
    monkeypatch.setattr(kept, "LARGEST", 2500)
    said = likeliest(torch.randn(7, 11), 4, 1.0)
    warnings: list[str] = []
    store = TeacherStore("key", warnings.append)
    for seed in range(30):
        store.write(packed(seed), said)
    there = [seed for seed in range(30) if store.read(packed(seed)) is not None]
    assert 0 < len(there) < 30 and len(warnings) == 1
    assert kept.folder_bytes(store.folder) <= 2500
    found = TeacherStore("key", warnings.append).read(packed(there[0]))
    assert found is not None and torch.equal(found.ids, said.ids) and torch.equal(found.log_probabilities, said.log_probabilities)
    assert TeacherStore("other", warnings.append).read(packed(there[0])) is None
    # Another place in the sequence to learn at is another sequence; a torn file is none.
    assert store.read(packed(there[0])._replace(labels=torch.full((8,), -100))) is None
    for path in store.folder.iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    assert store.read(packed(there[0])) is None


def test_a_share_of_distillation_without_a_teacher_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="no teacher"):
        mixed_loss(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), None, distill=0.5)


def options(**given: object) -> HealOptions:
    return HealOptions.model_validate({"output": "out", **given})


def plan_of(given: HealOptions, timing: Timing | None = None, epoch: int | None = None) -> HealPlan:
    return make_plan(given, timing=timing, epoch=epoch, trained=1, parameters=2)


def test_a_budget_becomes_steps() -> None:
    assert plan_of(options(tokens=10_001, length=100, batch=10)).steps == 11
    assert plan_of(options(epochs=1.5, batch=4), epoch=10).steps == 4
    plan = plan_of(options(minutes=2, validations=4), timing=Timing(step=1.5, validation=3.0))
    assert plan.steps == (120 - 12) / 1.5
    assert plan.validate_every * 4 == plan.steps
    # Where four would take more than a tenth of the time there are fewer.
    plan = plan_of(options(minutes=2, validations=4), timing=Timing(step=1.5, validation=6.0))
    assert plan.steps == (120 - 12) / 1.5 and plan.validate_every * 2 == plan.steps
    assert plan_of(options(minutes=2, validations=4), timing=Timing(step=1.5, validation=60.0)).steps == 60 / 1.5


def test_a_budget_that_is_too_short_or_has_no_end_is_told() -> None:
    with pytest.raises(UserError, match="too short"):
        plan_of(options(minutes=0.04), timing=Timing(step=1, validation=2))
    with pytest.raises(UserError, match="stream"):
        plan_of(options(epochs=1))


def test_the_learning_rate_rises_then_falls_along_a_cosine() -> None:
    plan = plan_of(options(tokens=100 * 8 * 512, warmup=0.1))
    rates = [learning_rate(step, plan, 1.0) for step in range(plan.steps)]
    assert plan.steps == 100 and plan.warmup_steps == 10
    assert rates[:11] == pytest.approx([*(0.1 * number for number in range(1, 11)), 1.0])
    assert rates[55] == pytest.approx(0.5)
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[10:]))
    assert 0 < rates[-1] < 0.001


def test_a_loss_that_runs_away_is_seen_and_noise_is_not() -> None:
    assert not runs_away([2.0 + 1.5 * (-1) ** step for step in range(WINDOW)], lowest=2.0)
    assert runs_away([5.0] * WINDOW, lowest=2.0)
    assert not runs_away([5.0] * (WINDOW - 1), lowest=2.0)


def test_the_journal_of_a_day_stays_small() -> None:
    elapsed, told = 0.0, 0
    while elapsed < 24 * 3600:
        elapsed += pause(elapsed)
        told += 1
    assert told < 3000
    assert math.isclose(pause(0), 1)
