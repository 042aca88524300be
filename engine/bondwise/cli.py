"""The command line: `python -m bondwise COMMAND …`.

Every command that works on weights writes a `run.json` into a run directory and calls `run.start`, the only door into the work. With
`--json` the last line of stdout is one JSON object; progress goes to stderr. Exit status: 0 done, 1 failed with the reason on stderr,
2 wrong use, 130 cancelled. Imports are lazy: help and the schema need neither torch nor transformers.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bondwise import __version__
from bondwise.arguments import PRESETS, SCHEMES, at_least, chi, error, fraction, names, part, positive, sites, weighted
from bondwise.errors import Cancelled, UserError, missing_module
from bondwise.terminal import say, show

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bondwise.schema import TensorDiffStep

Arguments = argparse.Namespace


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    parsed = _parser().parse_args(arguments)
    try:
        return parsed.command(parsed)
    except UserError as failure:
        say(failure.message, failure.remedy)
    except (KeyboardInterrupt, Cancelled):
        say("Cancelled.")
        return 130
    except BrokenPipeError:
        # Whoever read us, such as `head`, has enough; the interpreter must not complain again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as failure:
        say(str(failure))
    except ModuleNotFoundError as failure:
        missing = missing_module(failure)
        say(missing.message, missing.remedy)
    return 1


# --- commands ----------------------------------------------------------------------------------------------------------------------


def _inspect(parsed: Arguments) -> int:
    from bondwise.inspection import inspect
    from bondwise.summary import inspection_text

    found = inspect(Path(_absolute(parsed.model)))
    show(json.dumps(found.model_dump()) if parsed.json else inspection_text(found))
    return 0


def _tensor(parsed: Arguments) -> int:
    from bondwise.summary import spectrum_text, tensor_text
    from bondwise.tensor_facts import find_tensor, tensor_facts, tensor_spectrum

    entry = find_tensor(Path(_absolute(parsed.file)), parsed.name)
    if parsed.spectrum:
        spectrum = tensor_spectrum(entry)
        show(json.dumps(spectrum.model_dump()) if parsed.json else spectrum_text(spectrum))
    else:
        facts = tensor_facts(entry)
        show(json.dumps(facts.model_dump()) if parsed.json else tensor_text(facts))
    return 0


def _diff(parsed: Arguments) -> int:
    from bondwise.checkpoint import open_checkpoint
    from bondwise.summary import diff_text
    from bondwise.tensor_diff import tensor_diff

    # Only weights are read: a folder's own code is not run.
    model, other = (open_checkpoint(Path(_absolute(folder)), allow_code=True) for folder in (parsed.model, parsed.other))

    def step(done: TensorDiffStep) -> None:
        if parsed.json:
            show(json.dumps(done.model_dump()))

    found = tensor_diff(model, other, step)
    show(json.dumps(found.model_dump()) if parsed.json else diff_text(found, parsed.top))
    return 0


def _tensorize(parsed: Arguments) -> int:
    rule: dict[str, Any] = {"layers": parsed.layers, "exclude": parsed.exclude, "sites": parsed.sites, "method": parsed.method}
    size = next((name, value) for name in ("chi", "keep", "error") if (value := getattr(parsed, name)) is not None)
    rule[size[0]] = size[1]
    evaluate = {"data": _data(parsed.data or "builtin")} if parsed.evaluate or parsed.data else None
    calibration = _calibration(parsed)
    if calibration and parsed.method == "plain":
        raise UserError("Method plain uses no calibration text.", "Leave out --calibration and --sequences, or choose --method fisher.")
    options: dict[str, Any] = {"tensorize": [rule], "output": _absolute(parsed.output), "evaluate": evaluate}
    options |= {"calibration": calibration} if calibration else {}
    options |= {"refit": parsed.refit} if parsed.refit else {}
    shown = f"χ {size[1]}" if size[0] == "chi" else f"{size[0]} {size[1]:.4g}"
    return _work(parsed, "tensorize", f"Tensorize {_name(parsed.model)}: {', '.join(parsed.layers)} ({shown})", options)


def _calibration(parsed: Arguments) -> dict[str, Any]:
    texts = [(_data(data), weight) for data, weight in parsed.calibration or []]
    found: dict[str, Any] = {"data": texts[0][0]} if texts else {}
    if len(texts) > 1:
        found["also"] = [{"data": data, "weight": weight / texts[0][1]} for data, weight in texts[1:]]
    return found | ({"sequences": parsed.sequences} if parsed.sequences else {})


def _perplexity(parsed: Arguments) -> int:
    evaluate: dict[str, Any] = {"data": _data(parsed.data or "builtin")}
    evaluate |= {name: value for name in ("length", "sequences") if (value := getattr(parsed, name)) is not None}
    options = {"evaluate": evaluate, "reference": _absolute(parsed.reference) if parsed.reference else None}
    return _work(parsed, "perplexity", f"Perplexity of {_name(parsed.model)}", options)


def _profile(parsed: Arguments) -> int:
    options: dict[str, Any] = {"mode": parsed.mode, "exclude": parsed.exclude, "output": _absolute(parsed.output)}
    options["data"] = _data(parsed.data) if parsed.data else None
    options |= {name: getattr(parsed, name) for name in ("layers", "chi", "keep", "sites", "metric")}
    options |= {name: getattr(parsed, name) for name in ("limit", "length", "sequences", "precision")}
    return _work(parsed, "profile", f"Profile {_name(parsed.model)}", options)


def _plan(parsed: Arguments) -> int:
    from bondwise.plan import Request, make_plan
    from bondwise.plan_file import check_plan_path, write_plan
    from bondwise.plan_summary import plan_text

    output = None if parsed.dry_run else Path(_absolute(parsed.output))
    if output is not None:
        check_plan_path(output, replace=parsed.force)
    request = Request(
        model=Path(_absolute(parsed.model)),
        profile=Path(_absolute(parsed.profile)),
        target=parsed.budget,
        exclude=parsed.exclude,
        floor=parsed.floor,
        ceiling=parsed.ceiling,
        method=parsed.method,
        calibration=_data(parsed.calibration) if parsed.calibration else None,
    )
    result, file = make_plan(request, output)
    if output is not None and file is not None:
        write_plan(output, file)
    show(json.dumps(result.model_dump()) if parsed.json else plan_text(result))
    return 0


def _run(parsed: Arguments) -> int:
    from bondwise.foreground import new_run_directory
    from bondwise.plan_file import heal_options, plan_kind, read_plan, run_options
    from bondwise.plan_summary import measured_text
    from bondwise.run import RESULT

    path = Path(_absolute(parsed.plan))
    plan = read_plan(path)
    parsed.model, options = run_options(path, plan)
    healing = heal_options(path, plan)
    given, parsed.run = parsed.run, parsed.run or str(new_run_directory(plan_kind(plan)))
    status = _work(parsed, plan_kind(plan), f"Run plan {path.name}", options)
    if status == 0 and not parsed.json:
        result = json.loads((Path(_absolute(parsed.run)) / RESULT).read_bytes())
        if (text := measured_text(result)) is not None:
            show(text)
    if status != 0 or healing is None:
        return status
    parsed.run = f"{given.rstrip('/')}-heal" if given else str(new_run_directory("heal"))
    parsed.model = options["output"]
    return _work(parsed, "heal", f"Run plan {path.name}: heal", healing)


def _heal(parsed: Arguments) -> int:
    given = (
        "length",
        "batch",
        "minutes",
        "tokens",
        "epochs",
        "learning_rate",
        "distill",
        "temperature",
        "save_minutes",
        "patience",
        "teacher_device",
        "teacher_top",
    )
    more = ("train", "corrections", "recompute", "validations", "save_minutes", "patience")
    options: dict[str, Any] = {name: getattr(parsed, name) for name in (*given, *more)}
    options["data"] = [{"data": _data(data), "weight": weight} for data, weight in parsed.data or []] or None
    options["teacher"] = _absolute(parsed.teacher) if parsed.teacher else None
    options["output"] = _absolute(parsed.output)
    options["evaluate"] = {"data": _data(parsed.evaluate_data or "builtin")} if parsed.evaluate or parsed.evaluate_data else None
    return _work(parsed, "heal", f"Heal {_name(parsed.model)}", options)


def _benchmark(parsed: Arguments) -> int:
    for folder in parsed.models:
        _check_folder(_absolute(folder))
    tasks = parsed.tasks if parsed.tasks is None or parsed.tasks != ["none"] else []
    options: dict[str, Any] = {"models": [_absolute(model) for model in parsed.models], "tasks": tasks, "chat": parsed.chat}
    options["original"] = _absolute(parsed.original) if parsed.original else None
    options["datasets"] = _absolute(parsed.datasets) if parsed.datasets else None
    options["output"] = _absolute(parsed.output)
    options |= {name: getattr(parsed, name) for name in ("shots", "batch", "repeats", "speed", "training", "footprint", "prompts")}
    options |= {"limit": parsed.limit} if parsed.limit is not None else {}
    text = {"data": _data(parsed.data or "builtin")}
    text |= {name: value for name in ("length", "sequences") if (value := getattr(parsed, name)) is not None}
    options["perplexity"] = text if parsed.perplexity else None
    document = {name: value for name, value in options.items() if value is not None}
    # What is null by being asked for, beside what is left to its default.
    document |= {"limit": None} if parsed.all_items else {}
    document |= {} if parsed.perplexity else {"perplexity": None}
    names = ", ".join(_name(model) for model in parsed.models)
    return _work(parsed, "benchmark", f"Benchmark {names}", document, given=True)


def _export(parsed: Arguments) -> int:
    return _work(parsed, "export", f"Export {_name(parsed.model)}", {"dense": parsed.dense, "output": _absolute(parsed.output)})


def _tasks(parsed: Arguments) -> int:
    from bondwise.harness_tasks import known_names, library

    library()
    words = [word.lower() for word in parsed.words]
    found = {name: named.kind for name, named in sorted(known_names().items()) if all(word in name.lower() for word in words)}
    show(json.dumps({"tasks": [{"name": name, "kind": kind} for name, kind in found.items()]}) if parsed.json else "\n".join(found))
    return 0


def _quantize(parsed: Arguments) -> int:
    given = [name for name in ("preset", "budget", "scheme") if getattr(parsed, name)]
    if len(given) != 1 or (parsed.preset and parsed.layers) or (parsed.scheme and not parsed.layers):
        raise UserError(
            "Say once which layers are stored how.", f"Give --layers with --scheme, or --budget 3.5bits, or --preset {', '.join(PRESETS)}."
        )
    rules: list[dict[str, Any]] | None = None
    budget: dict[str, Any] | None = None
    if parsed.preset:
        rules = [{**rule, "exclude": [*rule.get("exclude", []), *parsed.exclude]} for rule in PRESETS[parsed.preset]]
    elif parsed.budget:
        budget = {"target": parsed.budget, "layers": parsed.layers or ["*"], "exclude": parsed.exclude}
    else:
        rules = [{"layers": parsed.layers, "exclude": parsed.exclude, "scheme": parsed.scheme, "rank": parsed.rank}]
    calibration = {name: value for name, value in (("data", _data(parsed.calibration or "")), ("sequences", parsed.sequences)) if value}
    options: dict[str, Any] = {"quantize": rules, "budget": budget, "output": _absolute(parsed.output)}
    options["calibration"] = calibration or None
    options["protect"] = False if parsed.no_protect else None
    options["sequential"] = False if parsed.no_sequence else None
    options["evaluate"] = {"data": _data(parsed.data or "builtin")} if parsed.evaluate or parsed.data else None
    what = parsed.preset or parsed.budget or f"{', '.join(parsed.layers)} ({parsed.scheme})"
    return _work(parsed, "quantize", f"Quantize {_name(parsed.model)}: {what}", options)


def _sample_model(parsed: Arguments) -> int:
    return _work(parsed, "sample-model", "Get the sample model", {"output": _absolute(parsed.directory)})


def _start(parsed: Arguments) -> int:
    from bondwise.foreground import follow
    from bondwise.request import REQUEST
    from bondwise.run import WRONG_USE

    directory = Path(_absolute(parsed.run_dir))
    if not (directory / REQUEST).is_file():
        say(f"{directory} is not a run directory: it has no {REQUEST}.", "Name a folder that holds one.")
        return WRONG_USE
    return follow(directory, as_json=parsed.json)


def _doctor(parsed: Arguments) -> int:
    from bondwise.doctor import examine
    from bondwise.summary import doctor_text

    found = examine(Path.cwd())
    show(json.dumps(found.model_dump()) if parsed.json else doctor_text(found))
    return 0


def _serve(_parsed: Arguments) -> int:
    from bondwise.serve import serve

    return serve()


def _schema(_parsed: Arguments) -> int:
    from bondwise.schema import json_schema

    show(json.dumps(json_schema()))
    return 0


# --- runs --------------------------------------------------------------------------------------------------------------------------


def _check_folder(folder: str) -> None:
    if not Path(folder).is_dir():
        raise UserError(f"There is no model folder {folder}.", "Name a folder that holds config.json and .safetensors files.")


def _work(parsed: Arguments, kind: str, title: str, options: dict[str, Any], *, given: bool = False) -> int:
    """Writes the request into a run directory and does it. Of `options` those that are None are left to their defaults, unless `given`."""
    from bondwise import atomic
    from bondwise.foreground import follow, new_run_directory, same_request
    from bondwise.journal import utc_now
    from bondwise.ranks import Ranks
    from bondwise.request import REQUEST, parse_request
    from bondwise.trust import code_hash

    document: dict[str, Any] = {
        "version": 1,
        "kind": kind,
        "created": utc_now(),
        "title": title,
        "device": parsed.device,
        "seed": parsed.seed,
        "allow_code": parsed.allow_code,
        "options": {name: value for name, value in options.items() if given or value is not None},
    }
    folders = [getattr(parsed, "model", None), options.get("reference"), options.get("teacher"), options.get("original")]
    if parsed.allow_code:
        named = [*folders, *options.get("models", [])]
        if kind == "heal" and not options.get("teacher"):
            from bondwise.heal_output import read_lineage

            named.append(str(Path(parsed.model) / read_lineage(Path(parsed.model)).base.path))
        document["code"] = {_absolute(folder): code_hash(Path(_absolute(folder))) for folder in named if folder}
    if hasattr(parsed, "model"):
        document["model"] = _absolute(parsed.model)
        for folder in (document["model"], options.get("reference"), options.get("teacher")):
            if folder:
                _check_folder(folder)
    ranks = Ranks(directory := Path(_absolute(parsed.run)) if parsed.run else new_run_directory(kind))
    if ranks.world > 1 and not parsed.run:
        raise UserError(f"{ranks.world} processes share this run, and each would make a run directory.", "Name one (--run DIR).")
    if ranks.rank > 0:
        return follow(directory, as_json=parsed.json)
    parse_request(document, directory)
    if (directory / REQUEST).exists():
        if not same_request(directory / REQUEST, document):
            raise UserError(f"{directory} holds another run.", "Choose another --run folder, or `start` that run.")
    else:
        directory.mkdir(parents=True, exist_ok=True)
        atomic.write_json(directory / REQUEST, document)
    return follow(directory, as_json=parsed.json)


# --- arguments ---------------------------------------------------------------------------------------------------------------------


def _looking(add: Callable[..., argparse.ArgumentParser], answers: argparse.ArgumentParser) -> None:
    """The commands that look at what there is."""
    inspect = add("inspect", _inspect, "Show the blocks and layers of a model, from headers alone.", answers)
    inspect.add_argument("model", metavar="MODEL", help="a model folder, original or compressed")

    tensor = add("tensor", _tensor, "Show what one tensor of a safetensors file holds.", answers)
    tensor.add_argument("file", metavar="FILE", help="a .safetensors file")
    tensor.add_argument("name", metavar="NAME", help="a tensor's name")
    tensor.add_argument("--spectrum", action="store_true", help="its singular values, and what low rank would keep")

    diff = add("diff", _diff, "Compare the tensors of two models of one base, the most changed first.", answers)
    diff.add_argument("model", metavar="MODEL", help="a model folder, such as the original")
    diff.add_argument("other", metavar="OTHER", help="another one: compressed, healed, quantized or fine-tuned")
    diff.add_argument("--top", metavar="N", type=at_least(1), default=30, help="how many of the changed ones to print (default 30)")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bondwise", description="Makes large language models small with tensor networks.")
    parser.add_argument("--version", action="version", version=f"bondwise {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    answers = argparse.ArgumentParser(add_help=False)
    answers.add_argument("--json", action="store_true", help="the last line of stdout is one JSON object")
    works = argparse.ArgumentParser(add_help=False, parents=[answers])
    works.add_argument("--run", metavar="DIR", help="the run directory (default: a new one under .bondwise/runs/)")
    works.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    works.add_argument("--seed", type=int, default=0)
    works.add_argument("--allow-code", action="store_true", help="let the model folder's own Python code run")

    def add(name: str, command: Any, text: str, parent: argparse.ArgumentParser) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, parents=[parent], allow_abbrev=False)
        sub.set_defaults(command=command)
        return sub

    _looking(add, answers)
    tensorize = add("tensorize", _tensorize, "Replace layers by matrix product operators and write a smaller model.", works)
    tensorize.add_argument("model", metavar="MODEL")
    tensorize.add_argument("--layers", metavar="PATTERN", action="append", required=True, help="a layer's name, a glob or re:…; repeatable")
    tensorize.add_argument("--exclude", metavar="PATTERN", action="append", default=[], help="layers to leave out; repeatable")
    size = tensorize.add_mutually_exclusive_group(required=True)
    size.add_argument("--chi", metavar="N", type=chi, help="largest bond dimension χ")
    size.add_argument("--keep", metavar="F", type=fraction, help="part of each layer's parameters to keep: 0.3 or 30%%")
    size.add_argument("--error", metavar="E", type=error, help="relative error of each layer to stay below: 0.1 or 10%%")
    tensorize.add_argument("--sites", type=sites, default="low-rank", help="2 to 5, or low-rank (default)")
    _add_method(tensorize)
    tensorize.add_argument(
        "--calibration",
        metavar="DATA[=WEIGHT]",
        action="append",
        type=weighted,
        help="text for all methods but plain: a file, a hub data set, builtin or self; several by turns",
    )
    tensorize.add_argument("--sequences", metavar="N", type=at_least(1), help="of 512 tokens, of that text (default 16)")
    tensorize.add_argument(
        "--refit", metavar="PATTERN", action="append", default=[], help="dense layers to fit anew beside those of method sequential"
    )
    tensorize.add_argument("--evaluate", action="store_true", help="measure both models: perplexity, speed, a sample text")
    tensorize.add_argument("--data", help="text to measure on (implies --evaluate): .txt, .jsonl, a hub data set or builtin")
    tensorize.add_argument("--output", metavar="DIR", required=True, help="the folder to make")

    _add_perplexity(add, works)
    _add_profile(add, works)
    _add_planning(add, answers, works)

    _add_heal(add, works)
    _add_benchmark(add, answers, works)
    _add_quantize(add, works)

    start = add("start", _start, "Do what a run directory's run.json asks, or go on with it.", answers)
    start.add_argument("run_dir", metavar="RUN_DIR")

    sample = add("sample-model", _sample_model, "Make the sample model, SmolLM2-135M-Instruct.", works)
    sample.add_argument("directory", metavar="DIR", help="the folder to make")

    add("doctor", _doctor, "Say what is there, what is missing and what to do.", answers)
    commands.add_parser("serve", help="Keep models in memory and answer by JSON-RPC over stdin and stdout; for the editor.").set_defaults(
        command=_serve
    )
    commands.add_parser("schema", help="Print the JSON Schema of every file.").set_defaults(command=_schema)
    return parser


def _add_perplexity(add: Callable[..., argparse.ArgumentParser], works: argparse.ArgumentParser) -> None:
    perplexity = add("perplexity", _perplexity, "Measure how well a model predicts text.", works)
    perplexity.add_argument("model", metavar="MODEL")
    perplexity.add_argument("--data", help="a .txt or .jsonl file, a hub data set or builtin")
    perplexity.add_argument("--length", metavar="N", type=at_least(8), help="tokens in a sequence")
    perplexity.add_argument("--sequences", metavar="N", type=at_least(1))
    perplexity.add_argument("--reference", metavar="MODEL", help="a model to measure KL divergence and agreement against")


def _add_profile(add: Callable[..., argparse.ArgumentParser], works: argparse.ArgumentParser) -> None:
    profile = add("profile", _profile, "Find what happens to a model when one layer is compressed, for each layer and size.", works)
    profile.add_argument("model", metavar="MODEL")
    profile.add_argument("--layers", metavar="PATTERN", action="append", help="a layer's name, a glob or re:…; repeatable (default: all)")
    profile.add_argument("--exclude", metavar="PATTERN", action="append", default=[], help="layers to leave out; repeatable")
    size = profile.add_mutually_exclusive_group()
    size.add_argument("--chi", metavar="N", type=chi, nargs="+", action="extend", help="bond dimensions χ to measure at")
    size.add_argument("--keep", metavar="F", type=fraction, nargs="+", action="extend", help="parts of a layer's parameters to measure at")
    mode = profile.add_mutually_exclusive_group()
    mode.add_argument("--spectral", dest="mode", action="store_const", const="spectral", help="predict only, from one calibration pass")
    mode.add_argument("--measured", dest="mode", action="store_const", const="measured", help="predict and measure (default)")
    profile.set_defaults(mode="measured")
    profile.add_argument("--metric", help="perplexity (default), kl, agreement or task:NAME of the LM Evaluation Harness")
    profile.add_argument("--limit", metavar="N", type=at_least(1), help="items of a task")
    profile.add_argument("--sites", type=sites, help="2 to 5, or low-rank (default)")
    profile.add_argument("--data", help="a .txt or .jsonl file, a hub data set or builtin; its calibration part is used")
    profile.add_argument("--length", metavar="N", type=at_least(8), help="tokens in a sequence")
    profile.add_argument("--sequences", metavar="N", type=at_least(1), help="at most, for a layer at a size")
    profile.add_argument("--precision", metavar="F", type=part, help="standard error to stop at, as a part of the value; 0: all sequences")
    profile.add_argument(
        "--output", metavar="FILE", required=True, help="NAME.sensitivity.json; one of the same model and text is added to"
    )


def _add_planning(add: Callable[..., argparse.ArgumentParser], answers: argparse.ArgumentParser, works: argparse.ArgumentParser) -> None:
    plan = add("plan", _plan, "Choose each layer's bond dimension for a size, from a profile.", answers)
    plan.add_argument("model", metavar="MODEL")
    plan.add_argument("--profile", metavar="FILE", required=True, help="the model's profile, NAME.sensitivity.json")
    plan.add_argument("--budget", metavar="TARGET", required=True, help="60%% of the parameters, 2GB on disk, or perplexity<30")
    left_out = plan.add_mutually_exclusive_group()
    left_out.add_argument(
        "--exclude", metavar="PATTERN", action="append", help="layers that stay dense; repeatable (default: first block, down projections)"
    )
    left_out.add_argument("--exclude-nothing", dest="exclude", action="store_const", const=[], help="no layer has to stay dense")
    plan.add_argument("--floor", metavar="F", type=part, default=0.1, help="no layer keeps less than this part (default 10%%)")
    plan.add_argument("--ceiling", metavar="F", type=fraction, default=0.95, help="above this part a layer stays dense (default 95%%)")
    _add_method(plan)
    plan.add_argument("--calibration", metavar="DATA", help="text for all methods but plain (default: the profile's)")
    goes = plan.add_mutually_exclusive_group(required=True)
    goes.add_argument("--output", metavar="FILE", help="the plan to write, NAME.bondwise.json")
    goes.add_argument("--dry-run", action="store_true", help="write nothing")
    plan.add_argument("--force", action="store_true", help="replace the plan that is there")

    run = add("run", _run, "Do what a plan says.", works)
    run.add_argument("plan", metavar="PLAN", help="NAME.bondwise.json")


def _add_heal(add: Callable[..., argparse.ArgumentParser], works: argparse.ArgumentParser) -> None:
    heal = add("heal", _heal, "Train the cores of a compressed model for a while, to win back what compression lost.", works)
    heal.add_argument("model", metavar="MODEL", help="a compressed model's folder")
    budget = heal.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", metavar="N", type=positive, help="how long")
    budget.add_argument("--tokens", metavar="N", type=at_least(1), help="on how many tokens")
    budget.add_argument("--epochs", metavar="N", type=positive, help="how often through the data")
    heal.add_argument(
        "--data",
        metavar="DATA",
        type=weighted,
        action="append",
        help="text or conversations: a .txt or .jsonl file, a hub data set, builtin (default) or self; several with =WEIGHT",
    )
    heal.add_argument("--length", metavar="N", type=at_least(8), help="tokens in a sequence (default 512)")
    heal.add_argument("--batch", metavar="N", type=at_least(1), help="sequences in a step (default 8)")
    heal.add_argument("--learning-rate", metavar="F", type=positive, help="the highest (default 2e-4)")
    heal.add_argument("--distill", metavar="F", type=part, help="share of KL to the original in the loss (default 0.5); 0: not loaded")
    heal.add_argument("--temperature", metavar="F", type=positive, help="of that KL (default 1)")
    heal.add_argument("--teacher-device", metavar="DEVICE", help="where the original computes (default: where the model does)")
    heal.add_argument(
        "--teacher-top", metavar="N", type=at_least(1), help="learn from its N likeliest tokens and keep them on disk for other runs"
    )
    heal.add_argument("--teacher", metavar="MODEL", help="the original (default: where the compressed folder says it is)")
    heal.add_argument(
        "--train", metavar="PATTERN", action="append", default=[], help="what trains besides the cores: norms, or layers; repeatable"
    )
    heal.add_argument(
        "--corrections", metavar="N", type=at_least(1), help="rank of what trains beside each layer in packed bits (default 16)"
    )
    heal.add_argument("--recompute", action="store_true", help="compute activations twice: less memory, more time")
    heal.add_argument("--validations", metavar="N", type=at_least(1), help="in the run (default 6)")
    heal.add_argument("--patience", metavar="N", type=at_least(1), help="validations without a better one after which it ends")
    heal.add_argument("--save-minutes", metavar="N", type=positive, help="between two resume points (default 5)")
    heal.add_argument("--evaluate", action="store_true", help="measure original, compressed and healed model")
    heal.add_argument("--evaluate-data", metavar="DATA", help="text to measure on (implies --evaluate)")
    heal.add_argument("--output", metavar="DIR", required=True, help="the folder to make")


def _add_benchmark(add: Callable[..., argparse.ArgumentParser], answers: argparse.ArgumentParser, works: argparse.ArgumentParser) -> None:
    benchmark = add("benchmark", _benchmark, "Measure several models alike: tasks, perplexity, speed, memory, size.", works)
    benchmark.add_argument("models", metavar="MODEL", nargs="+")
    benchmark.add_argument("--original", metavar="MODEL", help="what others are compared with (default: the one that is not compressed)")
    benchmark.add_argument(
        "--tasks", metavar="NAME", type=names, help="of the LM Evaluation Harness, with commas (default: the paper's five); none"
    )
    size = benchmark.add_mutually_exclusive_group()
    size.add_argument("--limit", metavar="N", type=at_least(1), help="items of each task, chosen by the seed (default 100)")
    size.add_argument("--all-items", action="store_true", help="every item of each task")
    benchmark.add_argument("--shots", metavar="N", type=at_least(0), help="solved examples before each item (default: as each task says)")
    benchmark.add_argument("--chat", action="store_true", help="put the model's chat template around each item")
    benchmark.add_argument("--batch", metavar="N", type=at_least(1), help="items at a time (default: 1 on a CPU, 8 elsewhere)")
    benchmark.add_argument("--datasets", metavar="DIR", help="data sets under their hub ids, read from there alone (default: the hub)")
    benchmark.add_argument("--data", help="text for the perplexity: a file, a hub data set or builtin (default)")
    benchmark.add_argument("--length", metavar="N", type=at_least(8), help="tokens in a sequence of it")
    benchmark.add_argument("--sequences", metavar="N", type=at_least(1))
    benchmark.add_argument("--no-perplexity", dest="perplexity", action="store_false")
    benchmark.add_argument("--no-speed", dest="speed", action="store_false")
    benchmark.add_argument("--no-training", dest="training", action="store_false", help="do not time a training step")
    benchmark.add_argument("--no-footprint", dest="footprint", action="store_false", help="do not measure load time and memory")
    benchmark.add_argument("--repeats", metavar="N", type=at_least(1), help="timings of each model (default 5)")
    benchmark.add_argument("--prompt", dest="prompts", metavar="TEXT", action="append", help="what the models continue; repeatable")
    benchmark.add_argument("--output", metavar="FILE", required=True, help="NAME.benchmark.json; one that is there is added to")

    tasks = add("tasks", _tasks, "List the tasks that a benchmark can use.", answers)
    tasks.add_argument("words", metavar="WORD", nargs="*", help="only those with these words in their name")

    export = add("export", _export, "Write a compressed model as its base architecture, for tools that know no other.", works)
    export.add_argument("model", metavar="MODEL", help="a compressed model's folder")
    export.add_argument("--dense", action="store_true", required=True, help="contract every MPO to a dense weight, at its full size")
    export.add_argument("--output", metavar="DIR", required=True, help="the folder to make")


def _add_quantize(add: Callable[..., argparse.ArgumentParser], works: argparse.ArgumentParser) -> None:
    quantize = add("quantize", _quantize, "Store layers of a model, original or compressed, in fewer bits.", works)
    quantize.add_argument("model", metavar="MODEL")
    quantize.add_argument(
        "--layers", metavar="PATTERN", action="append", help="layers or cores (`*.cores.*`): a name, a glob or re:…; repeatable"
    )
    quantize.add_argument("--exclude", metavar="PATTERN", action="append", default=[], help="layers to leave out; repeatable")
    quantize.add_argument(
        "--scheme", choices=SCHEMES, help="int8, nf4 and nf4-double by bitsandbytes; compensated-N: N bits that do what the layer does"
    )
    quantize.add_argument("--rank", metavar="N", type=at_least(1), help="of low-rank-N; with compensated-N, of a correction")
    quantize.add_argument("--budget", metavar="TARGET", help="choose each layer's scheme: 3.5bits a number, 60MB, or perplexity<30")
    quantize.add_argument("--preset", choices=PRESETS, help="8bit, 4bit, 4bit-compensated: all layers; paper: cores 16 bits, the rest nf4")
    quantize.add_argument(
        "--calibration", metavar="DATA", help="text for compensated-N and low-rank-N: a file, a data set, builtin or self"
    )
    quantize.add_argument("--sequences", metavar="N", type=at_least(1), help="of 512 tokens, of that text (default 16)")
    quantize.add_argument("--no-protect", action="store_true", help="no 8 bits for layers whose predicted loss stands out")
    quantize.add_argument(
        "--no-sequence", action="store_true", help="each layer for itself, not for what the quantized ones before it hand on: faster"
    )
    quantize.add_argument("--evaluate", action="store_true", help="measure both models: perplexity, speed, a sample text")
    quantize.add_argument("--data", help="text to measure on (implies --evaluate): .txt, .jsonl, a hub data set or builtin")
    quantize.add_argument("--output", metavar="DIR", required=True, help="the folder to make")


def _add_method(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--method",
        choices=["plain", "input", "fisher", "sequential"],
        default="plain",
        help="cores from the weight alone (default), or weighted by inputs, or by inputs and loss gradients, on a calibration text; "
        "sequential: so, each layer fitted to what the compressed ones before it hand on",
    )


def _absolute(path: str) -> str:
    return os.path.abspath(Path(path).expanduser())  # noqa: PTH100 — resolve() would follow links, Path.absolute keeps `..`


def _data(text: str) -> str:
    """DATA is a file when it looks like one or is one; else a hub data set's id or `builtin`."""
    return _absolute(text) if text.endswith((".txt", ".jsonl")) or Path(text).is_file() else text


def _name(model: str) -> str:
    return Path(_absolute(model)).name
