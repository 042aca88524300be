"""The profile run on tiny models, against the naive way: each layer replaced in a fresh model, all of it computed anew."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from engine_runs import events, fail, finish, make_run, tensorize_run
from safetensors.torch import load_file, save_file
from tiny_models import HIDDEN, make_tiny_model, make_tokenizer, save_tiny_model
from torch import nn

from bondwise import measured, mpo
from bondwise.checkpoint import open_checkpoint
from bondwise.first_order import first_order
from bondwise.harness import TaskScore
from bondwise.modeling_mpo import _module_path
from bondwise.modelmap import Layer, find_container, map_model
from bondwise.paired import SPREAD, Samples, Score, Spread, reference, score
from bondwise.profile_places import rounds, spread
from bondwise.replay import Replay, is_transposed, layer_module, replaced_weight
from bondwise.run import Run, start
from bondwise.schema import Cell, Sensitivity
from bondwise.text import token_sequences
from bondwise.truncations import Truncations

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel

ARCHITECTURES = ["llama", "mistral", "qwen2", "gemma2", "phi3", "gpt2", "opt", "gpt_neox"]
TEXT: dict[str, Any] = {"length": 48, "sequences": 4}


def profile_run(directory: Path, model: Path, name: str = "profile", **options: Any) -> Path:
    """A run in `directory` whose file lies beside it."""
    output = directory.with_name(f"{name}.sensitivity.json")
    request = {"seed": options.pop("seed")} if "seed" in options else {}
    return make_run(directory, "profile", {**TEXT, "precision": 0, "output": str(output), **options}, model=str(model), **request)


def written(directory: Path, name: str = "profile") -> Sensitivity:
    return Sensitivity.model_validate_json(directory.with_name(f"{name}.sensitivity.json").read_bytes())


def done_cells(directory: Path) -> list[tuple[str, int]]:
    return [(event["cell"]["layer"], event["cell"]["chi"]) for event in events(directory, "cell")]


def sequences(**changes: int) -> torch.Tensor:
    wanted = {**TEXT, **changes}
    return token_sequences(make_tokenizer(), "builtin", "calibration", length=wanted["length"], sequences=wanted["sequences"])


def dense(model: PreTrainedModel, name: str) -> tuple[nn.Parameter, bool]:
    module = model.get_submodule(_module_path(model, name))
    return cast("nn.Parameter", module.weight), not isinstance(module, nn.Linear)


@torch.no_grad()
def naive(model: PreTrainedModel, cell: Cell, out_modes: list[int], in_modes: list[int], ids: torch.Tensor) -> dict[str, float]:
    """The figures of one cell with nothing reused: its own decomposition, every sequence through the whole model, plain formulas."""
    parameter, transposed = dense(model, cell.layer)
    original = parameter.detach().clone()
    weight = original.mT if transposed else original
    product = mpo.contract(mpo.decompose(weight, out_modes, in_modes, chi=cell.bond_dims).cores)[: weight.shape[0], : weight.shape[1]]
    before = [model(input_ids=row[None]).logits[0, :-1].double().log_softmax(-1) for row in ids]
    parameter.copy_(product.mT if transposed else product)
    after = [model(input_ids=row[None]).logits[0, :-1].double().log_softmax(-1) for row in ids]
    parameter.copy_(original)
    losses = torch.stack([-one.gather(-1, row[1:, None]).mean() for one, row in zip(after, ids, strict=True)])
    return {
        "loss": float(losses.mean()),
        "perplexity": math.exp(float(losses.mean())),
        "kl": float(torch.stack([(p.exp() * (p - q)).sum(-1).mean() for p, q in zip(before, after, strict=True)]).mean()),
        "agreement": float(
            torch.stack([(p.argmax(-1) == q.argmax(-1)).double().mean() for p, q in zip(before, after, strict=True)]).mean()
        ),
    }


def replay_of(architecture: str, tmp_path: Path, ids: torch.Tensor, budget: int = 1 << 30) -> tuple[Replay, dict[str, Layer]]:
    checkpoint = open_checkpoint(save_tiny_model(architecture, tmp_path / "model"))
    layers = {layer.name: layer for layer in map_model(checkpoint).layers}
    model, container = make_tiny_model(architecture), find_container(checkpoint.tensors.values())
    return Replay(model, container, ids, {layer.block for layer in layers.values()}, budget=budget), layers


# --- the same as the naive way -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_cell_is_what_the_naive_way_gives(architecture: str, tmp_path: Path) -> None:
    folder = save_tiny_model(architecture, tmp_path / "model")
    run = profile_run(tmp_path / "run", folder, keep=[0.3, 0.7])
    result = finish(run)
    profile, model, ids = written(run), make_tiny_model(architecture), sequences()
    assert not events(run, "warning")
    assert len(profile.cells) == result["cells"] == 2 * len(profile.layers) == len(done_cells(run))
    modes = {layer.name: (layer.out_modes, layer.in_modes) for layer in profile.layers}
    for cell in profile.cells:
        expected = naive(model, cell, *modes[cell.layer], ids)
        assert {name: figure.value for name, figure in cell.figures.items()} == pytest.approx(expected, abs=1e-5, rel=1e-5), cell.layer
        assert cell.sequences == 4
    with torch.no_grad():
        whole = [float(model(input_ids=row[None], labels=row[None]).loss) for row in ids]
    assert profile.baseline["loss"] == pytest.approx(statistics.fmean(whole), rel=1e-6)
    assert profile.baseline["perplexity"] == pytest.approx(math.exp(statistics.fmean(whole)), rel=1e-5)
    assert {curve.layer for curve in profile.curves} == {layer.name for layer in profile.layers}
    assert profile.complete and result["correlation"] == profile.correlation


def test_sites_and_bond_dimensions_are_those_asked_for(tmp_path: Path) -> None:
    run = profile_run(tmp_path / "run", save_tiny_model("llama", tmp_path / "model"), chi=[3, 8], sites=3, layers=["*.q_proj", "*.up_proj"])
    finish(run)
    profile, model, ids = written(run), make_tiny_model("llama"), sequences()
    assert (profile.sites, profile.sizes, profile.sizes_are) == (3, [3.0, 8.0], "chi")
    modes = {layer.name: (layer.out_modes, layer.in_modes) for layer in profile.layers}
    assert all(len(out_modes) == 3 for out_modes, _ in modes.values())
    assert {(cell.layer, cell.chi) for cell in profile.cells} == {(name, chi) for name in modes for chi in (3, 8)}
    for cell in profile.cells:
        assert cell.parameters == mpo.parameter_count(*modes[cell.layer], cell.bond_dims)
        assert {name: figure.value for name, figure in cell.figures.items()} == pytest.approx(
            naive(model, cell, *modes[cell.layer], ids), abs=1e-5, rel=1e-5
        )


@pytest.mark.parametrize("budget", [0, 20_000])
def test_with_little_memory_passes_start_earlier_and_give_the_same(budget: int, tmp_path: Path) -> None:
    ids = sequences()
    replay, layers = replay_of("qwen2", tmp_path, ids, budget)
    layer = layers["model.layers.1.mlp.down_proj"]
    weight = cast("torch.Tensor", layer_module(replay.model, layer).weight).detach() * 0.5
    plenty, _ = replay_of("qwen2", tmp_path / "other", ids)
    for number in range(len(ids)):
        assert torch.equal(replay.original(number), plenty.original(number))
        torch.testing.assert_close(replay.variants(number, layer, [weight]), plenty.variants(number, layer, [weight]))
    assert replay.kept_bytes <= budget < plenty.kept_bytes
    assert plenty.reuses


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_pass_starts_at_the_changed_block_and_several_sizes_share_it(architecture: str, tmp_path: Path) -> None:
    replay, layers = replay_of(architecture, tmp_path, sequences())
    replay.original(1)
    replay.original(0)
    assert replay.reuses
    calls: list[int] = []

    def note(index: int) -> Callable[..., None]:
        def hook(*_: object) -> None:
            calls.append(index)

        return hook

    for index, block in enumerate(replay._blocks):
        for module in block.children():
            module.register_forward_hook(note(index))
    for layer in layers.values():
        if layer.block != 1:
            continue
        module = layer_module(replay.model, layer)
        weight = cast("torch.Tensor", module.weight).detach()
        weight = weight.mT if is_transposed(module) else weight
        weights = [weight * factor for factor in (1.0, 0.5, 0.0)]
        together = replay.variants(1, layer, weights)
        for one, logits in zip(weights, together, strict=True):
            torch.testing.assert_close(logits, replay.variants(1, layer, [one])[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(together[0], replay.original(1), atol=1e-4, rtol=1e-4)
    assert calls and set(calls) == {1}
    assert "forward" not in vars(replay._blocks[0])


def test_a_model_that_hands_on_more_than_a_hidden_state_is_computed_whole(tmp_path: Path) -> None:
    """A memory beside the hidden state, which skipped blocks would not fill."""

    class WithMemory(nn.Module):
        notes: list[torch.Tensor] = []  # noqa: RUF012 -- shared on purpose: what one block writes the next reads

        def __init__(self, block: nn.Module, first: bool) -> None:
            super().__init__()
            self.block, self.first = block, first

        def forward(self, state: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
            if self.first:
                self.notes[:] = [state * 0.5]
            else:
                state = state + self.notes.pop() if self.notes else state - 1
            return self.block(state, *arguments, **named)

    ids = sequences()
    replay, layers = replay_of("llama", tmp_path, ids)
    blocks = cast("nn.ModuleList", replay.model.get_submodule("model.layers"))
    for index in range(len(blocks)):
        blocks[index] = WithMemory(blocks[index], index == 0)
    inner = Replay(replay.model, "model.layers", ids, {0, 1}, budget=1 << 30)
    inner.original(0)
    assert not inner.reuses and inner.kept_bytes == 0
    with torch.no_grad():
        assert torch.equal(inner.original(0), cast("Any", replay.model)(input_ids=ids[:1]).logits[0])
    assert layers


def test_scores_are_those_of_evaluate(tmp_path: Path) -> None:
    """The table-free KL and the cached reference against the plain formulas, with and without kept probabilities."""
    ids, first, second = sequences(length=90), make_tiny_model("llama", 0), make_tiny_model("llama", 1)
    for row in ids:
        with torch.no_grad():
            p, q = (cast("Any", model)(input_ids=row[None]).logits[0] for model in (first, second))
        found = [score(q, row, reference(p, row, keep=keep), None if keep else p) for keep in (True, False)]
        log_p, log_q = (one[:-1].double().log_softmax(-1) for one in (p, q))
        losses = (log_p - log_q).gather(-1, row[1:, None])[:, 0]
        for one in found:
            assert one.loss[0] == pytest.approx(float(losses.mean()), abs=1e-6)
            assert one.loss[1] == pytest.approx(float(losses.var()) / 89, rel=1e-4)
            assert one.kl[0] == pytest.approx(float((log_p.exp() * (log_p - log_q)).sum(-1).mean()), abs=1e-6)
            assert one.disagreement[0] == pytest.approx(float((log_p.argmax(-1) != log_q.argmax(-1)).double().mean()))


@pytest.mark.parametrize("sites", ["low-rank", 2, 3])
def test_truncations_are_the_decompositions_one_by_one(sites: Any) -> None:
    weight = torch.randn(24, 40, generator=torch.Generator().manual_seed(0))
    modes = mpo.layer_modes(24, 40, sites)
    bonds = [mpo.bond_dims_for_chi(*modes, chi) for chi in (1, 4, 9, 1000)]
    made = Truncations(weight, *modes, bonds)
    for bond in bonds:
        expected = mpo.contract(mpo.decompose(weight, *modes, chi=bond).cores)[:24, :40].float()
        torch.testing.assert_close(made.weight(bond), expected, atol=1e-5, rtol=1e-5)


# --- fewer sequences -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_slopes_are_those_of_the_loss(architecture: str, tmp_path: Path) -> None:
    """Against central differences: the loss of each sequence with a hundredth of the change added and taken away."""
    ids = sequences()
    replay, layers = replay_of(architecture, tmp_path, ids)
    generator = torch.Generator().manual_seed(3)
    weights = {
        name: [torch.randn(layer.shape, generator=generator) * 0.1 for _ in range(2)]
        for name, layer in layers.items()
        if name.endswith(("up_proj", "c_fc", "o_proj"))
    }
    wanted = [layers[name] for name in weights]
    before = [parameter.requires_grad for parameter in replay.model.parameters()]
    found = first_order(
        replay,
        wanted,
        lambda layer: weights[layer.name],
        budget=4 * len(ids) * wanted[0].weight_parameters,  # one layer at a time
        progress=lambda done, total: None,
        check_cancelled=lambda: None,
    )
    assert [parameter.requires_grad for parameter in replay.model.parameters()] == before
    for name, changed in weights.items():
        parameter, transposed = dense(replay.model, name)
        own = parameter.detach().clone()
        for number, weight in enumerate(changed):
            change = ((weight.mT if transposed else weight) - own) * 0.01
            for sequence, row in enumerate(ids):
                losses: list[float] = []
                for sign in (1, -1):
                    with torch.no_grad():
                        parameter.copy_(own + sign * change)
                        losses.append(float(cast("Any", replay.model)(input_ids=row[None], labels=row[None]).loss))
                with torch.no_grad():
                    parameter.copy_(own)
                assert found[name][number][sequence] == pytest.approx((losses[0] - losses[1]) / 0.02, rel=0.02, abs=2e-3)


def test_with_precision_fewer_sequences_give_the_same_within_the_error(tmp_path: Path) -> None:
    folder = save_tiny_model("llama", tmp_path / "model")
    options: dict[str, Any] = {"keep": [0.3, 0.6, 0.9], "sequences": 12, "length": 64}
    full, quick = (
        profile_run(tmp_path / "a" / "run", folder, **options),
        profile_run(tmp_path / "b" / "run", folder, precision=0.2, **options),
    )
    finish(full)
    finish(quick)
    expected = {(cell.layer, cell.chi): cell for cell in written(full).cells}
    found = written(quick).cells
    assert len(found) == len(expected) == 42
    assert statistics.fmean(cell.sequences for cell in found) < 0.6 * 12
    off = [
        (cell.figures["loss"].value - expected[cell.layer, cell.chi].figures["loss"].value) / cell.figures["loss"].error for cell in found
    ]
    assert max(map(abs, off)) < 4 and statistics.pstdev(off) < 1.5
    for cell in found:
        if cell.sequences == 12:
            assert cell.figures["loss"].value == pytest.approx(expected[cell.layer, cell.chi].figures["loss"].value, abs=1e-6)


def test_estimates_are_unbiased_and_their_errors_honest() -> None:
    """Synthetic sequences: a first-order part that is known, and a rest that is sampled."""
    generator = torch.Generator().manual_seed(0)
    misses: list[float] = []
    used: list[int] = []
    for _ in range(400):
        total = 16
        slope = (torch.randn(total, generator=generator) * 0.02 + 0.005).double()
        rest = 0.01 * (1 + 0.4 * torch.randn(total, generator=generator)).double()
        values = (slope + rest).tolist()
        samples = Samples(total, 3.0, slope.tolist(), 0.01, Spread())
        for value in values:
            samples.scores.append(Score((value, 1e-4), (value, 1e-4), (0.1, 1e-4)))
            if samples.enough("perplexity", 0.1):
                break
        found = samples.estimate("loss")
        used.append(len(samples.scores))
        if found.left > 0:
            misses.append((found.value - statistics.fmean(values)) / found.left)
        assert found.error >= found.left
    assert statistics.fmean(used) < 8
    assert abs(statistics.fmean(misses)) < 0.2
    assert 0.5 < statistics.pstdev(misses) < 1.5


def test_cells_learn_from_each_other_how_much_sequences_differ() -> None:
    """Many cells of one model: the rest of each differs by a quarter of its size, which no single sequence can tell."""
    generator = torch.Generator().manual_seed(0)
    spread = Spread()
    misses: list[float] = []
    used: list[int] = []
    for number in range(600):
        size = 0.001 * 1.01**number
        values = (size * (1 + 0.25 * torch.randn(16, generator=generator))).tolist()
        samples = Samples(16, 3.0, [0.0] * 16, size, spread)
        for value in values:
            samples.scores.append(Score((value, 1e-8), (value, 1e-8), (0.1, 1e-4)))
            if samples.enough("perplexity", 0.3):
                break
        found = samples.estimate("loss")
        used.append(len(samples.scores))
        misses.append((found.value - statistics.fmean(values)) / found.left)
        figures: dict[str, Any] = {"layer": "l", "chi": 1, "bond_dims": [1], "keep": 0.5, "parameters": 1, "figures": {}, "seconds": 0.0}
        spread.learn(Cell(**figures, sequences=used[-1], spread=samples.relative_variance("perplexity")))
    assert min(used[:3]) >= 2
    assert statistics.fmean(used[-300:]) < 1.6
    assert 0.25 < spread.value < 0.5 < SPREAD
    assert abs(statistics.fmean(misses)) < 0.2
    assert 0.5 < statistics.pstdev(misses) < 1.2


def test_a_far_off_slope_is_not_used() -> None:
    scores = [Score((5 + 0.1 * number, 1e-3), (5, 1e-3), (0.9, 1e-3)) for number in range(6)]
    misled = Samples(12, 3.0, [40.0 * (-1) ** number for number in range(12)], 0.0, Spread(), scores)
    alone = Samples(12, 3.0, None, 0.0, Spread(), scores)
    assert misled.estimate("loss") == alone.estimate("loss")


def test_a_lone_sequence_has_the_error_of_its_tokens() -> None:
    samples = Samples(1, 3.0, None, 0.0, Spread(), [Score((0.5, 0.04), (0.4, 0.01), (0.25, 0.0025))])
    figures = samples.figures()
    assert (figures["loss"].value, figures["loss"].error) == (3.5, pytest.approx(0.2))
    assert (figures["kl"].error, figures["agreement"].value, figures["agreement"].error) == (pytest.approx(0.1), 0.75, pytest.approx(0.05))
    assert samples.enough("kl", 0)


# --- order ---------------------------------------------------------------------------------------------------------------------------


def test_the_order_is_coarse_to_fine(tmp_path: Path) -> None:
    assert spread(range(9)) == [0, 8, 4, 2, 6, 1, 3, 5, 7]
    assert spread([4]) == [4] and spread([]) == []
    assert rounds([0.1, 0.2, 0.3, 0.5, 0.9], "keep") == [[0.3], [0.1, 0.9], [0.2, 0.5]]
    assert rounds([4.0, 64.0], "chi") == [[64.0], [4.0]] and rounds([4.0], "chi") == [[4.0]]
    run = profile_run(tmp_path / "run", save_tiny_model("llama", tmp_path / "model"), keep=[0.2, 0.3, 0.6])
    finish(run)
    cells = [event["cell"] for event in events(run, "cell")]
    assert [round(cell["keep"], 1) for cell in cells[:14]] == [0.3] * 14 or all(cell["keep"] <= 0.3 for cell in cells[:14])
    assert len({cell["layer"] for cell in cells[:14]}) == 14
    kinds = [event["type"] for event in events(run)]
    assert kinds.index("estimate") < kinds.index("profile") < kinds.index("curve") < kinds.index("baseline") < kinds.index("cell")
    assert "at most" in next(event["phase"] for event in events(run, "phase") if event["phase"].startswith("Measuring 42 cells"))


def test_spectral_predicts_and_measures_no_cell(tmp_path: Path) -> None:
    run = profile_run(tmp_path / "run", save_tiny_model("qwen2", tmp_path / "model"), mode="spectral")
    result = finish(run)
    profile = written(run)
    assert (result["cells"], result["curves"], result["correlation"]) == (0, 14, None)
    assert len(profile.curves) == 14 and profile.complete and profile.baseline["perplexity"] > 1
    assert profile.curves[0].plain[0] > profile.curves[0].plain[-1] == 0


# --- adding and resuming -------------------------------------------------------------------------------------------------------------


def test_a_second_profile_adds_to_the_first(tmp_path: Path) -> None:
    folder = save_tiny_model("llama", tmp_path / "model")
    first = profile_run(tmp_path / "first", folder, keep=[0.3], layers=["*.0.*"])
    finish(first)
    second = profile_run(tmp_path / "second", folder, keep=[0.3, 0.6], layers=["*.q_proj"], metric="kl")
    finish(second)
    profile = written(second)
    assert set(done_cells(second)).isdisjoint(done_cells(first))
    assert {(cell.layer, cell.chi) for cell in profile.cells} == {*done_cells(first), *done_cells(second)}
    assert len(profile.cells) == 7 + 3 and profile.metric == "kl"
    (told,) = events(second, "profile")
    assert len(told["profile"]["cells"]) == len(told["profile"]["curves"]) == 7
    assert [layer.name for layer in profile.layers][-1] == "model.layers.1.self_attn.q_proj"
    assert len(profile.layers) == len(profile.curves) == 8
    # Asked for again, nothing is left to do; asked for in full, what came from fewer sequences is done again.
    third = profile_run(tmp_path / "third", folder, keep=[0.3], layers=["*.0.*"])
    finish(third)
    assert done_cells(third) == [] and written(third).cells == profile.cells


@pytest.mark.parametrize("finer", [0.0, 0.3])
def test_a_finer_profile_replaces_what_came_from_fewer_sequences(finer: float, tmp_path: Path) -> None:
    folder = save_tiny_model("llama", tmp_path / "model")
    finish(profile_run(tmp_path / "quick", folder, keep=[0.8], precision=0.9))
    few = [cell for cell in written(tmp_path / "quick").cells if cell.sequences < 4]
    assert few and all(cell.precision == 0.9 for cell in few)
    finish(profile_run(tmp_path / "fine", folder, keep=[0.8], precision=finer))
    assert set(done_cells(tmp_path / "fine")) == {(cell.layer, cell.chi) for cell in few}
    fine = written(tmp_path / "fine").cells
    assert all(cell.precision == (0 if cell.sequences == 4 else finer) for cell in fine)
    assert finer or all(cell.sequences == 4 for cell in fine)
    finish(profile_run(tmp_path / "coarse", folder, keep=[0.8], precision=0.5))
    assert done_cells(tmp_path / "coarse") == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"length": 32}, "the length (48 there, 32 now)"),
        ({"sequences": 3}, "the number of sequences (4 there, 3 now)"),
        ({"sites": 2}, "the sites (low-rank there, 2 now)"),
        ({"seed": 7}, "the seed (0 there, 7 now)"),
        ({"data": "other.txt"}, "the text (builtin there"),
        ({"model": "another"}, "the model (model, "),
    ],
)
def test_a_file_of_something_else_is_told_and_kept(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder = save_tiny_model("llama", tmp_path / "model")
    finish(profile_run(tmp_path / "first", folder, mode="spectral", layers=["*.q_proj"]))
    before = (tmp_path / "profile.sensitivity.json").read_bytes()
    if "model" in changes:
        folder = save_tiny_model("qwen2", tmp_path / changes.pop("model"))
    if "data" in changes:
        (tmp_path / "other.txt").write_text("\n\n".join(f"Paragraph {number} is about nothing at all." for number in range(2000)))
        changes["data"] = str(tmp_path / "other.txt")
    message = fail(profile_run(tmp_path / "second", folder, mode="spectral", layers=["*.q_proj"], **changes))
    assert said in message and str(tmp_path / "profile.sensitivity.json") in message and "--output" in message
    assert (tmp_path / "profile.sensitivity.json").read_bytes() == before


def test_cancel_keeps_what_is_there_and_resume_repeats_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_tiny_model("llama", tmp_path / "model")
    run = profile_run(tmp_path / "run", folder, keep=[0.3, 0.7])
    emit = Run.emit

    def cancelling(self: Run, event: Any, **fields: Any) -> None:
        emit(self, event, **fields)
        if event.__name__ == "CellEvent" and len(done_cells(run)) == 9:
            (run / "cancel").touch()

    monkeypatch.setattr(Run, "emit", cancelling)
    assert start(run) == 130
    half = written(run)
    assert not half.complete and len(half.cells) == 9 and len(half.curves) == 14 and half.correlation is not None
    monkeypatch.setattr(Run, "emit", emit)
    finish(run)
    assert len(done_cells(run)) == len(set(done_cells(run))) == 28
    assert len(events(run, "curve")) == 14 and len(events(run, "profile")) == len(events(run, "baseline")) == 1
    whole = written(run)
    assert whole.complete and len(whole.cells) == 28 and all(cell in whole.cells for cell in half.cells)


def test_a_killed_run_goes_on_without_repeating_a_cell(tmp_path: Path) -> None:
    script = Path(__file__).with_name("killed_profiles.py")
    folder = save_tiny_model("llama", tmp_path / "model")
    command = [sys.executable, str(script), str(folder), str(tmp_path / "work"), "12"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report.pop("killed") >= 11
    assert report == {"differing": [], "done_twice": [], "torn": []}


# --- bad input -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"metric": "accuracy"}, "There is no metric 'accuracy'. → Use perplexity, kl, agreement, or task:NAME"),
        ({"metric": "task:"}, "There is no metric 'task:'"),
        ({"chi": [64]}, "χ 64 is above the exact rank of model.layers.0.self_attn.k_proj"),
        ({"layers": ["*.nothing"]}, "matches no layer"),
        ({"exclude": ["*"]}, "no dense layer left"),
        ({"keep": [0.01]}, "cannot keep as little as 0.01"),
        ({"length": 64, "sequences": 9000}, "tokens for calibration; 9000 sequences of 64 need 576000"),
        ({"length": 400}, "takes at most 128 tokens"),
        ({"data": "missing.txt"}, "does not exist"),
        ({"output": "profile.json"}, "does not end in .sensitivity.json"),
    ],
)
def test_bad_requests_are_told_before_the_work(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    run = profile_run(tmp_path / "run", save_tiny_model("llama", tmp_path / "model"), **options)
    assert said in fail(run)
    assert not list(tmp_path.glob("*.sensitivity.json")) and not events(run, "curve")


def test_an_empty_list_of_sizes_is_the_default(tmp_path: Path) -> None:
    run = profile_run(tmp_path / "run", save_tiny_model("llama", tmp_path / "model"), chi=[], keep=[], layers=["*.0.*.q_proj"])
    finish(run)
    assert written(run).sizes == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9]


def test_a_size_that_some_layers_cannot_have_is_left_out_there(tmp_path: Path) -> None:
    run = profile_run(tmp_path / "run", save_tiny_model("llama", tmp_path / "model"), chi=[4, 20], layers=["*.0.self_attn.*"])
    finish(run)
    (warning,) = events(run, "warning")
    assert "χ 20 is above the exact rank of model.layers.0.self_attn.k_proj, model.layers.0.self_attn.v_proj (16 of" in warning["message"]
    assert sorted(chi for _, chi in done_cells(run)) == [4, 4, 4, 4, 20, 20]


def test_a_weight_that_is_not_finite_is_named_and_what_was_found_is_kept(tmp_path: Path) -> None:
    folder = save_tiny_model("llama", tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][0, 0] = math.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    message = fail(profile_run(tmp_path / "run", folder))
    assert "model.layers.1.mlp.down_proj" in message
    assert not (tmp_path / "profile.sensitivity.json").exists()


def test_a_cell_whose_loss_is_not_finite_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = Truncations.weight

    def broken(self: Truncations, bonds: Any) -> torch.Tensor:
        found = weight(self, bonds)
        return found * math.nan if tuple(bonds) == (2,) else found

    monkeypatch.setattr(Truncations, "weight", broken)
    run = profile_run(tmp_path / "run", save_tiny_model("llama", tmp_path / "model"), chi=[2, 5], layers=["*.0.*.q_proj"])
    finish(run)
    assert done_cells(run) == [("model.layers.0.self_attn.q_proj", 5)]
    assert "model.layers.0.self_attn.q_proj at χ 2 is left out" in events(run, "warning")[0]["message"]


def test_a_torn_file_is_named(tmp_path: Path) -> None:
    folder = save_tiny_model("llama", tmp_path / "model")
    finish(profile_run(tmp_path / "first", folder, mode="spectral", layers=["*.q_proj"]))
    path = tmp_path / "profile.sensitivity.json"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    message = fail(profile_run(tmp_path / "second", folder, mode="spectral", layers=["*.q_proj"]))
    assert f"{path} is cut off or not JSON" in message


def test_layers_that_cannot_be_compressed_are_left_out_or_named(tmp_path: Path) -> None:
    folder = save_tiny_model("llama", tmp_path / "model")
    finish(tensorize_run(tmp_path / "t", folder, tmp_path / "small", {"layers": ["*.0.mlp.*"], "chi": 4}))
    run = profile_run(tmp_path / "run", tmp_path / "small", keep=[0.5])
    finish(run)
    assert "mlp.down_proj" in events(run, "warning")[0]["message"]
    assert len(written(run).cells) == 11
    assert "is an MPO already" in fail(profile_run(tmp_path / "named", tmp_path / "small", "named", layers=["*.0.mlp.up_proj"]))
    experts = save_tiny_model("mixtral", tmp_path / "experts")
    run = profile_run(tmp_path / "moe", experts, "moe", keep=[0.5])
    finish(run)
    assert "fuses some experts" in events(run, "warning")[0]["message"]
    assert {cell.layer.split(".")[3] for cell in written(run, "moe").cells} == {"self_attn"}


# --- tasks ---------------------------------------------------------------------------------------------------------------------------


def test_a_task_without_the_harness_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    message = fail(profile_run(tmp_path / "run", save_tiny_model("llama", tmp_path / "model"), metric="task:arc_easy", layers=["*.q_proj"]))
    assert "lm_eval is not installed" in message and "`lm-eval`" in message


def fake_harness(monkeypatch: pytest.MonkeyPatch, answer: Callable[[Any, int], float]) -> None:
    """A task of `limit` items; `answer` scores one item of a model. The real ones are in test_benchmark.py."""

    class Task:
        def __init__(self, model: Any, _tokenizer: Any, name: str, limit: int, _seed: int) -> None:
            self.name, self.model, self.limit = name, model, limit

        def score(self, layer: Any = None, weight: Any = None) -> TaskScore:
            with nullcontext() if layer is None else replaced_weight(self.model, layer, weight):
                return TaskScore([answer(self.model, number) for number in range(self.limit)])

    monkeypatch.setattr(measured, "TaskHarness", Task)


def test_a_task_is_a_metric_with_its_paired_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_tiny_model("llama", tmp_path / "model")
    ids = torch.arange(20)[None]
    with torch.no_grad():
        expected = cast("Any", make_tiny_model("llama"))(input_ids=ids).logits[0].argmax(-1)

    @torch.no_grad()
    def answer(model: Any, number: int) -> float:
        return float(model(input_ids=ids).logits[0, number].argmax() == expected[number])

    fake_harness(monkeypatch, answer)
    run = profile_run(tmp_path / "run", folder, metric="task:capitals", limit=20, chi=[1, 12], layers=["*.0.*.v_proj"])
    result = finish(run)
    assert result["baseline"] == {"task:capitals": 1.0}
    cells = written(run).cells
    assert [cell.sequences for cell in cells] == [20, 20]
    worst = cells[0].figures["task:capitals"]
    assert cells[0].chi == 1 and worst.value < cells[1].figures["task:capitals"].value
    assert worst.error == pytest.approx(math.sqrt(worst.value * (1 - worst.value) / 19))
    # The same layer by perplexity adds its figures to the same cells.
    finish(profile_run(tmp_path / "second", folder, chi=[1, 12], layers=["*.0.*.v_proj"]))
    assert set(written(run).cells[0].figures) == {"task:capitals", "loss", "perplexity", "kl", "agreement"}
    monkeypatch.undo()
    message = fail(profile_run(tmp_path / "third", folder, "third", metric="task:arc_eazy", layers=["*.v_proj"]))
    assert "has no task 'arc_eazy'" in message and "arc_easy" in message


def test_the_number_of_layers_in_a_batch_does_not_change_a_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_tiny_model("opt", tmp_path / "model")
    figures: list[Any] = []
    for batch in (1, 3):
        monkeypatch.setitem(measured.BATCH, "cpu", batch)
        run = profile_run(tmp_path / str(batch) / "run", folder, keep=[0.2, 0.4, 0.6, 0.8])
        finish(run)
        figures.append({(cell.layer, cell.chi): cell.figures["loss"].value for cell in written(run).cells})
    assert figures[0] == pytest.approx(figures[1], abs=1e-5)
    assert HIDDEN == 32 and len(figures[0]) >= 40
