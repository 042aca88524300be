"""Compressing a model whose classes are only in its own folder: what comes out stands alone, and runs nothing that was not allowed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import stored_cores
import torch
from engine_runs import events, fail, finish, make_run, tensorize_run
from own_code_models import AUTO_MAP, save_own_code_model
from safetensors.torch import load_file
from tiny_models import VOCABULARY, save_tiny_model

from bondwise import modeling_mpo, trust
from bondwise.checkpoint import open_checkpoint
from bondwise.errors import UserError
from bondwise.inspection import inspect
from bondwise.loading import load_model, load_tokenizer
from bondwise.run import Run
from bondwise.schema import MPOSection
from bondwise.streaming import streamed_log_probs
from bondwise.trust import allowing, code_hash

if TYPE_CHECKING:
    from collections.abc import Callable

CODE = ["block_foreign.py", "configuration_foreign.py", "modeling_foreign.py", "norm_foreign.py"]
EVALUATE = {"data": "builtin", "length": 32, "sequences": 2, "prompt": "a", "sample_tokens": 4}
IDS = torch.randint(VOCABULARY, (2, 24), generator=torch.Generator().manual_seed(5))

PLAIN = """
import sys, torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
folder, ids, logits, again = sys.argv[1:]
model, info = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32, output_loading_info=True)
assert not any(info.values()), info
assert type(model).__name__ == "ForeignForCausalLM" and model.config.model_type == "foreign" and model.config.inner == 48
assert type(AutoTokenizer.from_pretrained(folder, trust_remote_code=True)).__name__ == "ForeignTokenizer"
ids = torch.load(ids)
with torch.no_grad():
    torch.save(model(ids).logits, logits)
written = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=2, do_sample=False)
assert written.shape == (2, 26)
model.save_pretrained(again)
built = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder, trust_remote_code=True), trust_remote_code=True)
assert built.state_dict().keys() == model.state_dict().keys()
assert "bondwise" not in sys.modules
"""


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    return save_own_code_model(tmp_path / "foreign", mark=tmp_path / "mark", own_tokenizer=True)


@pytest.fixture
def compressed(tmp_path: Path, foreign: Path) -> Path:
    """The whole model, at two and three sites, with the measures of both."""
    rules = ({"layers": ["*.0.*"], "keep": 0.5, "sites": 3}, {"layers": ["*"], "chi": 6, "sites": 2})
    finish(tensorize_run(tmp_path / "run", foreign, tmp_path / "out", *rules, evaluate=EVALUATE, allow_code=True))
    return tmp_path / "out"


def contracted(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of the base: cores as the weight [out, in] that they stand for."""
    weights, others = stored_cores.contracted(folder)
    return others | {f"{name}.weight": torch.from_numpy(weight).float() for name, weight in weights.items()}


def by_hand(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits of the model for `IDS`, with torch alone."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * tensors[f"{name}.weight"]

    x = tensors["trunk.embed.weight"][IDS]
    means = torch.tril(torch.ones(IDS.shape[1], IDS.shape[1])) / torch.arange(1, IDS.shape[1] + 1)[:, None]
    for block in ("trunk.layers.0", "trunk.layers.1"):
        x = x + means @ norm(x, f"{block}.first_norm") @ tensors[f"{block}.mix.weight"].T + tensors[f"{block}.mix.bias"]
        inner = norm(x, f"{block}.second_norm") @ tensors[f"{block}.up.weight"].T
        x = x + (inner * torch.sigmoid(inner)) @ tensors[f"{block}.down.weight"].T
    return norm(x, "trunk.norm") @ tensors["lm_head.weight"].T


def plain(folder: Path, tmp_path: Path) -> tuple[torch.Tensor, Path]:
    """The folder in a process without bondwise, offline and with an empty cache: its logits, and where it was saved again."""
    work = Path(tmp_path / f"plain-{folder.parent.name}-{folder.name}")
    work.mkdir(exist_ok=True)
    torch.save(IDS, work / "ids.pt")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HOME": str(work / "hf")}
    again = work / "again"
    command = [sys.executable, "-P", "-c", PLAIN, str(folder), str(work / "ids.pt"), str(work / "logits.pt"), str(again)]
    done = subprocess.run(command, env=environment, cwd=work, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(work / "logits.pt", weights_only=True), again


# --- what comes out ------------------------------------------------------------------------------------------------------------------


def test_the_folder_stands_alone_and_computes_what_its_cores_say(tmp_path: Path, foreign: Path, compressed: Path) -> None:
    expected = by_hand(contracted(compressed))
    assert (expected - by_hand(load_file(foreign / "model.safetensors"))).abs().max() > 0.05
    shutil.rmtree(foreign)
    moved = compressed.rename(tmp_path / "moved 1.0")
    found, again = plain(moved, tmp_path)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)

    # Saved by transformers, it is the same checkpoint.
    shutil.rmtree(moved / "__pycache__", ignore_errors=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "tokenization_foreign.py"):
        shutil.copy(moved / name, again)  # as the tokenizer's own save_pretrained does
    assert {path.name for path in again.glob("*.py")} == {path.name for path in moved.glob("*.py")}
    for path in again.glob("*.py"):
        assert path.read_bytes() == (moved / path.name).read_bytes()
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (moved, again))
    assert {key: after.get(key) for key in ("mpo", "auto_map", "model_type", "architectures")} == {
        key: before[key] for key in ("mpo", "auto_map", "model_type", "architectures")
    }
    shutil.rmtree(moved)
    torch.testing.assert_close(plain(again, tmp_path)[0], expected, rtol=1e-4, atol=1e-4)


def test_it_carries_the_code_and_says_where_its_classes_are(foreign: Path, compressed: Path) -> None:
    names = sorted(path.name for path in compressed.glob("*.py"))
    assert names == sorted([*CODE, "tokenization_foreign.py", "modeling_mpo.py"])
    assert all((compressed / name).read_bytes() == (foreign / name).read_bytes() for name in names if name != "modeling_mpo.py")
    config = json.loads((compressed / "config.json").read_text())
    # AutoModel of the base is gone: it would leave the cores out and be random in their place.
    tokenizer = {"AutoTokenizer": [None, "tokenization_foreign.ForeignTokenizer"]}
    assert config["auto_map"] == {**modeling_mpo.AUTO_MAP, **tokenizer}
    section = MPOSection.model_validate(config["mpo"])
    assert section.base_auto_map == {kind: AUTO_MAP[kind] for kind in ("AutoConfig", "AutoModelForCausalLM")}
    assert (section.base_model_type, section.base_architecture) == ("foreign", "ForeignForCausalLM")
    card = (compressed / "README.md").read_text()
    assert "`block_foreign.py`, `configuration_foreign.py`" in card and 'FOLDER", trust_remote_code=True)\n```' in card
    lineage = json.loads((compressed / "bondwise.json").read_text())
    assert lineage["base"]["fingerprint"] == open_checkpoint(foreign, allow_code=True).fingerprint()
    assert lineage["result"]["compressed"]["kl"] > 0


def test_files_that_nothing_imports_stay_behind(tmp_path: Path, foreign: Path) -> None:
    (foreign / "train.py").write_text("raise SystemExit")
    finish(tensorize_run(tmp_path / "run", foreign, tmp_path / "out", {"layers": ["*.up"], "keep": 0.5}, allow_code=True))
    assert not (tmp_path / "out" / "train.py").exists()


def test_the_engine_goes_on_with_it(tmp_path: Path, foreign: Path) -> None:
    folder = tmp_path / "half"
    finish(tensorize_run(tmp_path / "run", foreign, folder, {"layers": ["*.0.*"], "chi": 4, "sites": 2}, allow_code=True))
    expected = by_hand(contracted(folder))
    with torch.no_grad():
        torch.testing.assert_close(load_model(folder, allow_code=True)(IDS).logits, expected, rtol=1e-4, atol=1e-4)
    streamed = streamed_log_probs(open_checkpoint(folder, allow_code=True), IDS[0], allow_code=True)
    torch.testing.assert_close(streamed, torch.log_softmax(expected[0], -1), rtol=1e-4, atol=1e-4)
    perplexity = {"evaluate": EVALUATE, "reference": str(foreign)}
    measured = finish(make_run(tmp_path / "perplexity", "perplexity", perplexity, model=str(folder), allow_code=True))
    assert measured["evaluation"]["kl"] > 0
    profile = {"chi": [2], "length": 32, "sequences": 2, "output": str(tmp_path / "half.sensitivity.json")}
    finish(make_run(tmp_path / "profile", "profile", profile, model=str(folder), allow_code=True))
    cells = json.loads((tmp_path / "half.sensitivity.json").read_text())["cells"]
    assert {cell["layer"] for cell in cells} == {f"trunk.layers.1.{name}" for name in ("mix", "up", "down")}


def test_a_second_compression_keeps_the_first(tmp_path: Path, foreign: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    finish(tensorize_run(tmp_path / "run-1", foreign, first, {"layers": ["*.0.up"], "keep": 0.5}, allow_code=True))
    message = fail(tensorize_run(tmp_path / "run-2", first, second, {"layers": ["*.1.down"], "keep": 0.5}))
    assert "modeling_foreign.py" in message and "--allow-code" in message
    # By the method that runs the model to find out what its layers see.
    rules = [{"layers": ["*.1.down"], "keep": 0.5, "method": "fisher"}]
    options = {"tensorize": rules, "calibration": {"length": 32, "sequences": 4}, "output": str(second)}
    finish(make_run(tmp_path / "run-3", "tensorize", options, model=str(first), allow_code=True))
    assert set(json.loads((second / "config.json").read_text())["mpo"]["layers"]) == {"trunk.layers.0.up", "trunk.layers.1.down"}
    torch.testing.assert_close(plain(second, tmp_path)[0], by_hand(contracted(second)), rtol=1e-4, atol=1e-4)


def test_a_config_that_is_a_dataclass_of_the_library(tmp_path: Path) -> None:
    """Classes that derive from those of transformers, with no __init__ of their own."""
    base = save_tiny_model("llama", tmp_path / "base")
    config: dict[str, Any] = json.loads((base / "config.json").read_text())
    auto_map = {"AutoConfig": "derived.DerivedConfig", "AutoModelForCausalLM": "derived.DerivedForCausalLM"}
    config |= {"model_type": "derived", "architectures": ["DerivedForCausalLM"], "auto_map": auto_map}
    (base / "config.json").write_text(json.dumps(config))
    (base / "derived.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n\n\nclass DerivedConfig(LlamaConfig):\n    model_type = 'derived'\n\n\n"
        "class DerivedForCausalLM(LlamaForCausalLM):\n    config_class = DerivedConfig\n"
    )
    result = finish(tensorize_run(tmp_path / "run", base, tmp_path / "out", {"layers": ["*_proj"], "chi": 8}, allow_code=True))
    assert result["logits_difference"] < 1e-3 and len(result["layers"]) == 14
    assert load_model(tmp_path / "out", allow_code=True).config.num_attention_heads == 4


def test_from_a_repository_in_the_hubs_cache(tmp_path: Path, compressed: Path) -> None:
    repository, commit = tmp_path / "plain-someone-small" / "hf" / "hub" / "models--someone--small", "a" * 40
    shutil.copytree(compressed, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    torch.testing.assert_close(plain(Path("someone/small"), tmp_path)[0], by_hand(contracted(compressed)), rtol=1e-4, atol=1e-4)


# --- trust ---------------------------------------------------------------------------------------------------------------------------


def test_without_permission_nothing_of_it_runs(tmp_path: Path, compressed: Path) -> None:
    (tmp_path / "mark").unlink()
    config = json.loads((compressed / "config.json").read_text())
    assert trust.needs_code(config) and not trust.runs_own_code(compressed, config)
    assert [layer.state for layer in inspect(compressed).blocks[0].layers] == ["mpo"] * 3  # the headers need no code
    attempts: list[Callable[[], object]] = [
        lambda: load_model(compressed),
        lambda: load_tokenizer(compressed),
        lambda: open_checkpoint(compressed),
        lambda: modeling_mpo.MPOConfig.from_pretrained(compressed),
        lambda: modeling_mpo.MPOForCausalLM.from_pretrained(compressed),
        lambda: modeling_mpo.MPOConfig.from_dict(dict(config), name_or_path=str(compressed)),
    ]
    for attempt in attempts:
        with pytest.raises((UserError, ValueError), match=r"modeling_foreign\.py|trust_remote_code=True"):
            attempt()
    assert not (tmp_path / "mark").exists()
    assert "modeling_foreign.py" in fail(make_run(tmp_path / "refused", "perplexity", {"evaluate": EVALUATE}, model=str(compressed)))
    assert not (tmp_path / "mark").exists()


ELSEWHERE = [
    "someone/repo--modeling_foreign.Model",
    "repo--modeling_foreign.Model",
    "../modeling.Model",
    "a\\modeling.Model",
    "/tmp/m.Model",
]


@pytest.mark.parametrize("reference", [*ELSEWHERE, "..modeling.Model", ".Model", "modeling.", "modeling"])
def test_base_classes_from_elsewhere_are_refused_by_the_engine_and_by_the_shipped_file(
    reference: str, tmp_path: Path, compressed: Path
) -> None:
    config = json.loads((compressed / "config.json").read_text())
    config["mpo"]["base_auto_map"]["AutoModelForCausalLM"] = reference
    (compressed / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"mpo\.base_auto_map"):
        open_checkpoint(compressed, allow_code=True)
    (tmp_path / "mark").unlink()
    with pytest.raises(ValueError, match=r"mpo\.base_auto_map"):
        modeling_mpo.MPOForCausalLM.from_pretrained(compressed, trust_remote_code=True)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("base_auto_map", [{}, ["modeling_foreign.ForeignForCausalLM"], "modeling_foreign", {"AutoConfig": ["a.B"]}])
def test_a_base_auto_map_of_another_kind_is_refused(base_auto_map: object, tmp_path: Path, compressed: Path) -> None:
    config = json.loads((compressed / "config.json").read_text())
    config["mpo"]["base_auto_map"] = base_auto_map
    (compressed / "config.json").write_text(json.dumps(config))
    (tmp_path / "mark").unlink()
    with pytest.raises(UserError):
        load_model(compressed, allow_code=True)
    assert not (tmp_path / "mark").exists()


def test_a_tokenizer_of_another_repository_is_refused(foreign: Path) -> None:
    tokenizer = json.loads((foreign / "tokenizer_config.json").read_text())
    tokenizer["auto_map"] = {"AutoTokenizer": [None, "someone/repo--tokenization.Tokenizer"]}
    (foreign / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match="someone/repo"):
        open_checkpoint(foreign, allow_code=True)


def test_a_changed_file_is_not_what_was_allowed(tmp_path: Path, foreign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changed while the run is at work, after the user looked at it."""

    def change(run: Run) -> None:
        (foreign / "norm_foreign.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'evil')!r}).touch()\n")

    monkeypatch.setattr(Run, "check_cancelled", change)
    run = tensorize_run(tmp_path / "run", foreign, tmp_path / "out", {"layers": ["*.0.up"], "keep": 0.5}, allow_code=True)
    assert "changed while the run" in fail(run)
    assert not (tmp_path / "out").exists() and not (tmp_path / "evil").exists()
    assert not events(run, "verified")


def test_code_that_changed_since_it_was_allowed_is_not_run(tmp_path: Path, foreign: Path) -> None:
    run = tensorize_run(tmp_path / "run", foreign, tmp_path / "out", {"layers": ["*.0.up"], "keep": 0.5}, allow_code=True)
    with (foreign / "norm_foreign.py").open("a") as file:
        file.write(f"import pathlib\npathlib.Path({str(tmp_path / 'evil')!r}).touch()\n")
    assert "not those that were allowed" in fail(run)
    assert not (tmp_path / "evil").exists()


def test_code_is_allowed_by_its_hash_alone(tmp_path: Path, foreign: Path) -> None:
    """A run directory that came with a folder cannot say that the user allowed something."""
    rule = {"layers": ["*.0.up"], "keep": 0.5}
    assert "not code that was allowed" in fail(tensorize_run(tmp_path / "a", foreign, tmp_path / "out", rule, allow_code=True, code={}))
    with allowing({str(foreign): code_hash(foreign)}):
        load_model(foreign, allow_code=True)
        (foreign / "more.py").touch()
        with pytest.raises(UserError, match=r"more\.py is not code that was allowed"):
            load_model(foreign, allow_code=True)


def test_the_hash_of_code_is_that_of_the_extension(tmp_path: Path) -> None:
    """The digest that test/unit/code.test.ts computes, of the same two files."""
    (tmp_path / "b.py").write_text("two")
    (tmp_path / "a.py").write_text("1")
    content = b"a.py\0" + (1).to_bytes(8, "little") + b"1b.py\0" + (3).to_bytes(8, "little") + b"two"
    assert code_hash(tmp_path) == hashlib.sha256(content).hexdigest()


def missing(foreign: Path) -> None:
    (foreign / "norm_foreign.py").unlink()


def outside(foreign: Path) -> None:
    with (foreign / "block_foreign.py").open("a") as file:
        file.write('\n"""\nfrom ./../secret import x\n"""\n')


def of_a_package(foreign: Path) -> None:
    with (foreign / "block_foreign.py").open("a") as file:
        file.write("\nfrom ..above import x\n")


def binary(foreign: Path) -> None:
    (foreign / "norm_foreign.py").write_bytes(b"\xff\xfe\x00")


def named_as_ours(foreign: Path) -> None:
    with (foreign / "block_foreign.py").open("a") as file:
        file.write("\nfrom .modeling_mpo import x\n")


def without_a_model_class(foreign: Path) -> None:
    config = json.loads((foreign / "config.json").read_text())
    del config["auto_map"]["AutoModelForCausalLM"]
    (foreign / "config.json").write_text(json.dumps(config))


def without_the_class(foreign: Path) -> None:
    (foreign / "modeling_foreign.py").write_text("from .block_foreign import Block\n")


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a missing file": (missing, "needs norm_foreign.py, which cannot be read: No such file"),
    "a file outside the folder": (outside, "needs /../secret.py, which is not beside it"),
    "a file above the folder": (of_a_package, "needs .above.py, which is not beside it"),
    "a file that is no text": (binary, "norm_foreign.py, which cannot be read: it is not text"),
    "a file with the name of ours": (named_as_ours, "the name of Bondwise's own file"),
    "no class for the model": (without_a_model_class, "names no AutoModelForCausalLM"),
    "a class that is not there": (without_the_class, "ForeignForCausalLM"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE.keys())
def test_code_that_cannot_be_carried_is_told_before_any_work(
    damage: Callable[[Path], None], message: str, tmp_path: Path, foreign: Path
) -> None:
    damage(foreign)
    run = tensorize_run(tmp_path / "run", foreign, tmp_path / "out", {"layers": ["*.up"], "keep": 0.5}, allow_code=True)
    assert message in fail(run)
    assert not (tmp_path / "out").exists() and not events(run, "layer")
