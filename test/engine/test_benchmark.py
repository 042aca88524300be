"""A benchmark of tiny random models on real tasks of the LM Evaluation Harness, with data sets that are made here: no network."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
import tiny_models
import torch
from engine_runs import events, fail, finish, make_run, tensorize_run
from safetensors.torch import load_file
from tiny_models import save_tiny_model, save_wide_model

from bondwise import benchmark as worker
from bondwise import speed
from bondwise.benchmark_file import read_benchmark
from bondwise.benchmark_remarks import is_chance, noise_of, remarks_of
from bondwise.harness_tasks import known_names
from bondwise.loading import load_model
from bondwise.run import start
from bondwise.schema import PAPER_TASKS, Benchmark, BenchmarkModel, Perplexity, TaskMetric, TaskResult, Timing

if TYPE_CHECKING:
    from collections.abc import Sequence

QUICK: dict[str, Any] = {
    "perplexity": None,
    "prompts": [],
    "speed": False,
    "footprint": False,
    "limit": 6,
}
"""Tasks alone: what is slow is asked for where it is tested."""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """An original and a compressed model that take contexts as long as the tasks'."""
    monkeypatch.setitem(tiny_models._SIZES, "max_position_embeddings", 4096)
    monkeypatch.setattr(tiny_models, "POSITIONS", 4096)
    original = save_tiny_model("llama", tmp_path / "original")
    finish(tensorize_run(tmp_path / "t", original, tmp_path / "small", {"layers": ["*.q_proj"], "keep": 0.5}))
    return original, tmp_path / "small"


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """BoolQ and TriviaQA under their hub ids, eight rows each."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "hub"
    boolq = [{"question": f"is {n} even", "passage": f"Numbers {n}.", "idx": n, "label": (n + 1) % 2} for n in range(8)]
    trivia = [{"question": f"What is {n}", "question_id": str(n), "answer": {"value": "x", "aliases": ["x", "y"]}} for n in range(8)]
    _dataset(folder / "aps" / "super_glue", "boolq", boolq)
    _dataset(folder / "mandarjoshi" / "trivia_qa", "rc.nocontext", trivia)
    return folder


def _dataset(folder: Path, name: str, rows: Sequence[dict[str, Any]]) -> None:
    folder.mkdir(parents=True)
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    splits: list[str] = []
    for split in ("train", "validation"):
        (folder / f"{name}-{split}.jsonl").write_text(lines)
        splits.append(f"  - split: {split}\n    path: {name}-{split}.jsonl\n")
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: {name}\n  data_files:\n{''.join(splits)}---\n")


def bench(directory: Path, models: Sequence[Path], output: Path, **options: Any) -> Path:
    request = QUICK | {"models": [str(model) for model in models], "output": str(output)} | options
    return make_run(directory, "benchmark", {**request, "datasets": str(request["datasets"]) if request.get("datasets") else None})


def by_name(report: Benchmark) -> dict[str, BenchmarkModel]:
    return {model.name: model for model in report.models}


def test_every_figure_of_several_models_in_one_file(models: tuple[Path, Path], datasets: Path, tmp_path: Path) -> None:
    output = tmp_path / "two.benchmark.json"
    text = {"length": 32, "sequences": 2}
    everything = {"perplexity": text, "prompts": ["a"], "sample_tokens": 4, "speed": True, "footprint": True, "repeats": 1, "length": 16}
    weights = {path: path.read_bytes() for model in models for path in model.glob("*.safetensors")}
    run = bench(tmp_path / "run", models, output, tasks=["boolq", "triviaqa"], datasets=datasets, **everything)
    result = finish(run)

    report = read_benchmark(output)
    assert report.complete
    assert [model.model_dump() for model in report.models] == result["models"]
    original, small = by_name(report)["original"], by_name(report)["small"]
    assert report.original == original.weights != small.weights
    assert small.base == original.fingerprint
    for model, folder in ((original, models[0]), (small, models[1])):
        assert model.bytes == sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        assert model.perplexity and model.perplexity.error > 0
        assert model.samples[0].prompt == "a"
        assert model.footprint and model.footprint.load_seconds > 0
    assert small.mpo_layers == 2
    boolq = original.tasks[0]
    assert (boolq.task, boolq.items, boolq.available, boolq.chance, boolq.data) == ("boolq", 6, 8, 0.5, "hub")
    assert boolq.outcomes is not None and boolq.metric.value == boolq.outcomes.count("1") / 6
    # The harness's own standard error of a mean, and the share of the commoner answer.
    assert boolq.metric.error == pytest.approx(math.sqrt(boolq.metric.value * (1 - boolq.metric.value) / 5))
    assert boolq.constant is not None and 0.5 <= boolq.constant <= 1
    assert original.tasks[1].chance == 0
    assert original.speed and original.speed.original is None and original.speed.forward.ratio is None
    assert small.speed and small.speed.original == original.weights
    ratio = small.speed.training and small.speed.training.ratio
    assert ratio and ratio == pytest.approx(small.speed.training.minimum / small.speed.training.original_minimum)  # type: ignore[union-attr,operator]
    assert {path: path.read_bytes() for path in weights} == weights
    assert any("guessing" in remark for remark in report.remarks)
    assert any("int8 and nf4" in remark for remark in report.remarks)


def test_quantized_folders_are_measured_like_others(tmp_path: Path) -> None:
    """int8, nf4 and packed bits, of dense layers and of cores: every figure, the sizes those of the files."""
    original = save_wide_model(tmp_path / "original")
    finish(tensorize_run(tmp_path / "t", original, tmp_path / "cores", {"layers": ["*.up_proj"], "chi": 64}))
    mixed = [{"layers": ["*.cores.*"], "scheme": "float16"}, {"layers": ["*"], "scheme": "nf4"}]
    packed = [{"layers": ["*.q_proj", "*.cores.0"], "scheme": "int8"}, {"layers": ["*"], "scheme": "nf4"}]
    recipes = {"int8": ("original", [{"layers": ["*"], "scheme": "int8"}]), "mixed": ("cores", mixed), "packed": ("cores", packed)}
    told: dict[str, dict[str, Any]] = {}
    for name, (source, rules) in recipes.items():
        options = {"quantize": rules, "output": str(tmp_path / name)}
        told[name] = finish(make_run(tmp_path / f"q-{name}", "quantize", options, model=str(tmp_path / source)))
    everything = {"perplexity": {"length": 32, "sequences": 2}, "prompts": ["a"], "sample_tokens": 4, "speed": True, "training": False}
    models = [original, *(tmp_path / name for name in recipes)]
    output = tmp_path / "bits.benchmark.json"
    finish(bench(tmp_path / "run", models, output, tasks=[], repeats=1, length=16, **everything))

    report = read_benchmark(output)
    found = by_name(report)
    assert {name: model.scheme for name, model in found.items()} == {
        "original": None,
        "int8": "int8",
        "mixed": "nf4",
        "packed": "mixed bits",
    }
    for name in recipes:
        model = found[name]
        files = [load_file(path) for path in (tmp_path / name).glob("*.safetensors")]
        assert told[name]["bytes"] == sum(tensor.nbytes for tensors in files for tensor in tensors.values())
        assert model.bytes == told[name]["file_bytes"] == sum(path.stat().st_size for path in (tmp_path / name).glob("*.safetensors"))
        assert model.original_parameters == told[name]["parameters"]
        assert model.perplexity and found["original"].perplexity
        assert model.perplexity.value == pytest.approx(found["original"].perplexity.value, rel=0.05)
        assert model.samples[0].prompt == "a"
        assert model.speed and model.speed.forward.ratio and model.speed.decode.ratio
    assert not any("in int8 is not among" in remark for remark in report.remarks)


def test_a_training_step_reaches_through_4_bit_weights_after_inference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """bitsandbytes lays them out anew for inference on some CPUs, and then passes no gradient: a step would look far too fast."""
    original = save_wide_model(tmp_path / "original")
    options = {"quantize": [{"layers": ["*"], "scheme": "nf4"}], "output": str(tmp_path / "nf4")}
    assert finish(make_run(tmp_path / "run", "quantize", options, model=str(original)))["backend"] == "bitsandbytes"
    model = load_model(tmp_path / "nf4")
    ids = torch.arange(24)[None]
    speed._forward(model, ids)
    clip = torch.nn.utils.clip_grad_norm_
    without: list[int] = []

    def look(parameters: Any, *arguments: Any) -> Any:
        without.append(sum(one.grad is None for one in parameters))
        return clip(parameters, *arguments)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", look)
    with torch.no_grad():
        before = cast("Any", model)(ids).logits
    speed._training(model, ids)
    assert without == [0, 0]
    with torch.no_grad():
        torch.testing.assert_close(cast("Any", model)(ids).logits, before, atol=1e-3, rtol=0)


def test_nothing_is_measured_twice_and_new_models_and_tasks_are_added(
    models: tuple[Path, Path], datasets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "two.benchmark.json"
    assert finish(bench(tmp_path / "1", models[:1], output, tasks=["boolq"], datasets=datasets))["measured"] == 1
    assert finish(bench(tmp_path / "2", models, output, tasks=["boolq", "triviaqa"], datasets=datasets))["measured"] == 3
    before = read_benchmark(output)

    monkeypatch.setattr(worker, "load_model", None)
    assert finish(bench(tmp_path / "3", models, output, tasks=["boolq", "triviaqa"], datasets=datasets))["measured"] == 0
    assert read_benchmark(output).models == before.models
    monkeypatch.undo()

    # Another limit is another figure; the same items are chosen again by the same seed.
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    finish(bench(tmp_path / "4", models[:1], output, tasks=["boolq"], datasets=datasets, limit=3))
    assert [task.limit for task in by_name(read_benchmark(output))["original"].tasks] == [6, 6, 3]


def test_a_changed_folder_is_noticed_though_its_headers_are_the_same(models: tuple[Path, Path], datasets: Path, tmp_path: Path) -> None:
    output = tmp_path / "one.benchmark.json"
    finish(bench(tmp_path / "1", models[:1], output, tasks=["boolq"], datasets=datasets))
    (file,) = models[0].glob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[-8:] = bytes(8)
    file.write_bytes(data)
    run = bench(tmp_path / "2", models[:1], output, tasks=["boolq"], datasets=datasets)
    assert finish(run)["measured"] == 0 + len(by_name(read_benchmark(output))["original"].tasks)
    assert "has changed since it was measured" in events(run, "warning")[0]["message"]
    assert len(read_benchmark(output).models) == 1


def test_a_cancelled_benchmark_keeps_its_tasks_and_goes_on(
    models: tuple[Path, Path], datasets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "two.benchmark.json"
    run = bench(tmp_path / "run", models[:1], output, tasks=["boolq", "triviaqa"], datasets=datasets)
    figures = worker.Harness.figures

    def then_cancel(self: Any, task: Any, **asked: Any) -> Any:
        found = figures(self, task, **asked)
        (run / "cancel").touch()
        return found

    with monkeypatch.context() as patched:
        patched.setattr(worker.Harness, "figures", then_cancel)
        assert start(run) == 130
    assert [task.task for task in read_benchmark(output).models[0].tasks] == ["boolq"]
    assert not read_benchmark(output).complete
    finish(run)
    assert [task.task for task in read_benchmark(output).models[0].tasks] == ["boolq", "triviaqa"]
    told = [event["model"]["tasks"][-1]["task"] for event in events(run, "benchmark-model")]
    assert told == ["boolq", "triviaqa"]


def test_what_is_missing_is_told_before_anything_runs(
    models: tuple[Path, Path], datasets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(name: str, **options: Any) -> str:
        return fail(bench(tmp_path / name, models[:1], tmp_path / f"{name}.benchmark.json", **options))

    message = told("unknown", tasks=["boolqq"], datasets=datasets)
    assert "has no task 'boolqq'" in message and "boolq" in message
    message = told("missing", tasks=["boolq", "hellaswag", "gsm8k"], datasets=datasets)
    assert "2 of 3 tasks" in message and f"hellaswag: {datasets} has no Rowan/hellaswag" in message and "gsm8k" in message
    message = told("offline", tasks=["hellaswag"])
    assert "hellaswag: its data set cannot be reached" in message and "--datasets" in message
    assert "no chat template" in told("chat", tasks=["boolq"], datasets=datasets, chat=True)
    assert "does not end in .benchmark.json" in fail(bench(tmp_path / "name", models[:1], tmp_path / "x.json", tasks=[]))
    assert "is named twice" in fail(bench(tmp_path / "twice", [models[0]] * 2, tmp_path / "x.benchmark.json", tasks=[]))
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert "lm_eval is not installed" in told("harness", tasks=["boolq"], datasets=datasets)
    assert not list(tmp_path.glob("*.benchmark.json"))


def test_a_gated_data_set_says_what_to_do(models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gated(*_arguments: Any, **_options: Any) -> Any:
        raise RuntimeError("Dataset 'aps/super_glue' is a gated dataset on the Hub.")

    monkeypatch.setattr("datasets.load_dataset", gated)
    told = fail(bench(tmp_path / "run", models[:1], tmp_path / "x.benchmark.json", tasks=["boolq"]))
    assert "boolq: its data set is gated: accept its terms" in told


def test_names_are_found_without_the_harness_parsing_everything() -> None:
    known = known_names()
    assert len(known) > 10_000
    assert known["mmlu"] == ("group", "mmlu")
    assert known["mmlu_astronomy"] == ("task", "mmlu")
    assert known["boolq"] == ("task", "super_glue")
    assert known["mmlu_stem_tasks"].kind == "tag"


# --- what is said ------------------------------------------------------------------------------------------------------------------------


def scored(value: float, error: float, **levels: float) -> TaskResult:
    metric = TaskMetric(name="acc", value=value, error=error)
    asked: dict[str, Any] = {"task": "t", "limit": None, "shots": None, "chat": False, "seed": 0, "data": None}
    found: dict[str, Any] = {"items": 100, "available": 100, "metric": metric, "metrics": [metric], "seconds": 1, **levels}
    return TaskResult.model_validate(asked | found)


def test_a_score_is_compared_with_guessing_and_with_one_answer() -> None:
    assert is_chance(scored(0.55, 0.05, chance=0.5))
    assert not is_chance(scored(0.65, 0.05, chance=0.5))
    assert is_chance(scored(0.65, 0.05, chance=0.5, constant=0.6))
    assert not is_chance(scored(0.3, 0.05))


def described(name: str, size: int, perplexity: float, **more: Any) -> BenchmarkModel:
    text = Perplexity(data="builtin", value=perplexity, error=0.1, length=8, sequences=2)
    given: dict[str, Any] = {"path": name, "fingerprint": name, "weights": name, "parameters": size, "dtypes": {}, "precision": "bfloat16"}
    return BenchmarkModel(name=name, bytes=size, perplexity=text, **(given | more))


def test_a_baseline_that_beats_a_compressed_model_is_named() -> None:
    report = Benchmark(
        engine="0",
        created="",
        device="cpu",
        original="original",
        models=[described("original", 100, 10), described("mpo", 60, 14, mpo_layers=3), described("quarter", 30, 12, scheme="nf4")],
    )
    remarks = remarks_of(report)
    assert remarks[0] == "quarter (nf4) is no larger than mpo and has the better perplexity (12.00 against 14.00)."
    assert any("in int8 is not among" in remark for remark in remarks)


def test_noise_of_a_ratio_is_half_the_way_to_the_median() -> None:
    quiet = Timing(minimum=1.0, median=1.0, repeats=3, original_minimum=1.0, original_median=1.0, ratio=1.0)
    assert noise_of(quiet) == 0.02
    assert noise_of(quiet.model_copy(update={"median": 1.2})) == pytest.approx(0.1)
    assert noise_of(quiet.model_copy(update={"median_ratio": 1.3})) == pytest.approx(0.3)


# --- the real five -------------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif("BONDWISE_TEST_DATA" not in os.environ, reason="BONDWISE_TEST_DATA names no folder with benchmark subsets")
def test_the_papers_five_tasks_on_real_data(models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    torch.manual_seed(0)
    output = tmp_path / "five.benchmark.json"
    data = Path(os.environ["BONDWISE_TEST_DATA"]) / "hub"
    finish(bench(tmp_path / "run", models[:1], output, tasks=PAPER_TASKS, datasets=data, limit=2, shots=0))
    (model,) = read_benchmark(output).models
    found = {task.task: task for task in model.tasks}
    assert list(found) == PAPER_TASKS
    assert [task.chance for task in model.tasks] == [0.25, 0.25, 0.5, 0.0, 0.0]
    assert found["mmlu"].items == len(found["mmlu"].subtasks) == 57
    assert all(task.metric.error is not None for task in model.tasks)
    assert found["hellaswag"].metric.name == "acc_norm"
