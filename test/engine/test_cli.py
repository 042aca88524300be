"""The command line: exit statuses, what is on stdout and stderr, what it writes."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from scripted_worker import write_request

from bondwise import cli
from bondwise.schema import Evaluation, Progress, RunStatus, WarningEvent, json_schema
from bondwise.summary import result_text
from bondwise.terminal import ProgressLine, describe_progress, duration, plain, size

SCRIPT = Path(__file__).with_name("scripted_worker.py")


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, str(SCRIPT), *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def bondwise(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """The command line with the scripted worker, run in `folder`."""
    return subprocess.run(command(*arguments), cwd=folder, env=environment(), capture_output=True, text=True, check=False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "COMMAND"),
        (["fly"], "fly"),
        (["tensorize", "m", "--layers", "a", "--output", "o"], "--chi --keep --error"),
        (["tensorize", "m", "--chi", "3", "--output", "o"], "--layers"),
        (["tensorize", "m", "--layers", "a", "--output", "o", "--chi", "0"], "χ must be a whole number of at least 1, not '0'"),
        (["tensorize", "m", "--layers", "a", "--output", "o", "--chi", "-3"], "not '-3'"),
        (["tensorize", "m", "--layers", "a", "--output", "o", "--chi", "lots"], "not 'lots'"),
        (["tensorize", "m", "--layers", "a", "--output", "o", "--chi", "2.5"], "not '2.5'"),
        (["tensorize", "m", "--layers", "a", "--output", "o", "--chi", "3", "--keep", "0.3"], "not allowed with"),
        (["tensorize", "m", "--layers", "a", "--output", "o", "--keep", "30"], "0.3 or 30%"),
        (["tensorize", "m", "--layers", "a", "--output", "o", "--keep", "nan"], "0.3 or 30%"),
        (["tensorize", "m", "--layers", "a", "--output", "o", "--keep", "0%"], "0.3 or 30%"),
        (["tensorize", "m", "--layers", "a", "--output", "o", "--error", "100%"], "below 1"),
        (["tensorize", "m", "--layers", "a", "--output", "o", "--chi", "3", "--sites", "6"], "low-rank"),
        (["perplexity", "m", "--length", "4"], "at least 8"),
        (["start"], "RUN_DIR"),
    ],
)
def test_wrong_use_is_2_and_said(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    shown = capsys.readouterr()
    assert said in shown.err and shown.out == ""


def test_help_and_schema_need_no_heavy_import() -> None:
    check = (
        "import sys; from bondwise.cli import main; sys.argv[0] = 'bondwise'\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'numpy'} | ({'pydantic'} if '--help' in sys.argv else set())\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    for argument in ("--help", "schema"):
        done = subprocess.run([sys.executable, "-c", check, argument], env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        if argument == "schema":
            assert json.loads(done.stdout) == json_schema()


def test_tensorize_writes_a_request_and_does_it(model: Path, tmp_path: Path) -> None:
    done = bondwise(
        *("tensorize", "./x/../model", "--layers", "steps:3", "--layers", "b*", "--exclude", "c", "--keep", "30%", "--sites", "3"),
        *("--output", "small", "--json", "--device", "cpu", "--seed", "5", "--data", "text.jsonl"),
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    (answer,) = [json.loads(line) for line in done.stdout.splitlines()]
    (directory,) = (tmp_path / ".bondwise" / "runs").iterdir()
    stamp, clock, kind, tag = directory.name.split("-")
    assert (len(stamp), len(clock), kind, len(tag)) == (8, 6, "tensorize", 6)
    request = json.loads((directory / "run.json").read_text())
    assert request["model"] == str(model)
    assert request["options"] == {
        "tensorize": [{"layers": ["steps:3", "b*"], "exclude": ["c"], "keep": 0.3, "sites": 3, "method": "plain"}],
        "output": str(tmp_path / "small"),
        "evaluate": {"data": str(tmp_path / "text.jsonl")},
    }
    assert (request["kind"], request["device"], request["seed"], request["allow_code"]) == ("tensorize", "cpu", 5, False)
    assert "keep 0.3" in request["title"] and "model" in request["title"]
    assert answer["output"] == str(tmp_path / "small")
    assert answer["state"] == "done" and answer["run"] == str(directory)
    assert answer["parameters"] == 0 + 1 + 2 and answer["bytes"] == 6
    assert [(each["name"], each["bond_dims"], each["keep"], each["relative_error"]) for each in answer["layers"]][2] == (
        "layer.2",
        [3],
        0.02,
        0.5,
    )


def test_without_json_a_table_is_on_stdout_and_progress_on_stderr(model: Path, tmp_path: Path) -> None:
    done = bondwise("tensorize", model, "--layers", "steps:2", "--chi", "4", "--output", "small", "--device", "cpu", folder=tmp_path)
    assert done.returncode == 0
    assert "parameters  " in done.stdout and f"Wrote {tmp_path / 'small'}" in done.stdout
    assert "Counting" in done.stderr and "Counting" not in done.stdout
    assert "\x1b" not in done.stderr + done.stdout and "\r" not in done.stderr


def test_the_same_command_goes_on_with_its_run_and_another_is_refused(model: Path, tmp_path: Path) -> None:
    arguments = (
        "tensorize",
        model,
        "--layers",
        "steps:3",
        "--layers",
        "raise:user",
        "--output",
        "small",
        "--device",
        "cpu",
        "--run",
        "here",
    )
    failed = bondwise(*arguments, "--chi", "4", "--json", folder=tmp_path)
    assert failed.returncode == 1
    assert "layer.2 holds NaN.\nUse another checkpoint." in failed.stderr and "Traceback" not in failed.stderr
    answer = json.loads(failed.stdout.splitlines()[-1])
    assert answer["state"] == "failed" and answer["error"] == {"message": "layer.2 holds NaN.", "remedy": "Use another checkpoint."}
    again = bondwise(*arguments, "--chi", "4", folder=tmp_path)
    assert again.returncode == 1
    assert (tmp_path / "here" / "events.ndjson").read_text().count('"started"') == 2
    other = bondwise(*arguments, "--chi", "5", folder=tmp_path)
    assert other.returncode == 1 and "holds another run" in other.stderr
    assert not (tmp_path / ".bondwise").exists()


def test_start_goes_on_and_says_when_there_is_nothing_to_do(tmp_path: Path) -> None:
    directory = write_request(tmp_path / "run", "steps:2")
    first = bondwise("start", "run", "--json", folder=tmp_path)
    assert first.returncode == 0
    assert json.loads(first.stdout)["state"] == "done"
    second = bondwise("start", directory, "--json", folder=tmp_path)
    assert second.returncode == 0 and "done already" in second.stderr
    assert json.loads(second.stdout) == json.loads(first.stdout)
    missing = bondwise("start", "nowhere", folder=tmp_path)
    assert missing.returncode == 2 and "not a run directory" in missing.stderr
    assert not (tmp_path / "nowhere").exists()


def test_a_missing_model_is_told_before_a_run_is_made(tmp_path: Path) -> None:
    done = bondwise("perplexity", "nowhere", "--json", folder=tmp_path)
    assert done.returncode == 1 and f"no model folder {tmp_path / 'nowhere'}" in done.stderr and done.stdout == ""
    assert not (tmp_path / ".bondwise").exists()


def test_everything_that_is_printed_goes_to_the_log_but_names_cannot_steer_the_terminal(tmp_path: Path) -> None:
    write_request(tmp_path / "run", "steps:2", "escape", "raise:bug")
    done = bondwise("start", "run", folder=tmp_path)
    assert done.returncode == 1
    assert "\x1b" not in done.stderr and r"\x1b[31mred" in done.stderr
    assert "KeyError: 'surprise'" in done.stderr and "Traceback" not in done.stderr
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "Traceback" in log and "KeyError: 'surprise'" in log


def test_when_stderr_is_the_log_it_holds_all(tmp_path: Path) -> None:
    """The editor starts runs so: both streams are log.txt."""
    directory = write_request(tmp_path / "run", "steps:2")
    with (directory / "log.txt").open("ab") as log:
        done = subprocess.run(command("start", directory), env=environment(), stdout=log, stderr=log, check=False)
    assert done.returncode == 0
    text = (directory / "log.txt").read_text()
    assert "Counting" in text and "Wrote" in text


def test_ctrl_c_is_130_and_what_is_finished_stays(tmp_path: Path) -> None:
    directory = write_request(tmp_path / "run", "steps:500", "sleep:0.02")
    process = subprocess.Popen(
        command("start", directory, "--json"), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not (directory / "checkpoints" / "2.json").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Cancelled" in err and "Traceback" not in err
    assert json.loads(out)["state"] == "cancelled"


def test_on_a_terminal_one_line_is_redrawn(tmp_path: Path) -> None:
    directory = write_request(tmp_path / "run", "steps:30", "sleep:0.03")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command("start", directory), env={**environment(), "TERM": "xterm"}, stdout=subprocess.DEVNULL, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait(30) == 0
    assert shown.count(b"\r\x1b[K") > 3
    assert b"[####" in shown and b"/30 layers" in shown and b"left" in shown
    # Redrawn, not scrolled; and taken away at the end.
    assert shown.count(b"\n") < 5
    assert shown.endswith(b"\r\x1b[K")


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    process = subprocess.Popen(command("schema"), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout and process.stderr
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(30) == 1


def test_progress_in_words() -> None:
    assert describe_progress("Reading", None) == "Reading"
    text = describe_progress("Compressing", Progress(done=6, total=12, unit="layers", rate=0.5, eta=3725.0))
    assert text == "Compressing  [############------------]  6/12 layers  2.0 s each  1:02:05 left"
    assert "[########################]  13/12" in describe_progress("x", Progress(done=13, total=12, unit="y"))
    assert describe_progress("x", Progress(done=0, total=0, unit="y")) == "x"
    assert [duration(7), duration(309)] == ["0:07", "5:09"]
    assert [size(999), size(1000), size(269_060_552), size(1.5e10), size(999_600)] == ["999 B", "1 kB", "269 MB", "15 GB", "1 MB"]


def test_a_file_gets_lines_and_not_too_many() -> None:
    stream = StringIO()
    line = ProgressLine(stream)
    for step in range(100):
        line.status(RunStatus(state="running", phase="Counting", progress=Progress(done=step, total=100, unit="layers"), updated="t"))
    line.status(RunStatus(state="running", phase="Writing", updated="t"))
    line.event(WarningEvent(seq=1, time="t", message="a\x1b]0;title\x07\nb"))
    line.close()
    assert stream.getvalue().splitlines()[1:] == ["Writing", r"Warning: a\x1b]0;title\x07", "b"]
    assert stream.getvalue().splitlines()[0].startswith("Counting  [")


def test_control_characters_are_written_out() -> None:
    assert plain("a\tb\nχ é 😀") == "a\tb\nχ é 😀"
    assert plain("\x1b[2J\r\x9b\u202egnp.exe\x7f") == r"\x1b[2J\r\x9b\u202egnp.exe\x7f"


def test_summaries_show_both_models() -> None:
    measured = Evaluation(
        data="builtin", perplexity=20.0, standard_error=0.5, tokens=512, tokens_per_second=1234.0, prompt="The capital", sample=" is Paris."
    )
    result: dict[str, Any] = {
        "kind": "tensorize",
        "output": "/o",
        "parameters": 75,
        "original_parameters": 100,
        "bytes": 150,
        "original_bytes": 200,
        "layers": [{}],
        "original": measured.model_dump(),
        "compressed": measured.model_copy(update={"perplexity": 25.5, "sample": " is here."}).model_dump(),
        "seconds": 61.0,
    }
    text = result_text(result)
    for expected in ("75.0%", "20.00", "25.50", "Before: The capital is Paris.", "After: The capital is here.", "Wrote /o in 1:01."):
        assert expected in text
    perplexity = {"kind": "perplexity", "evaluation": {**measured.model_dump(), "kl": 0.25, "agreement": 0.5}, "seconds": 1.0}
    assert "20.000 ± 0.500" in result_text(perplexity) and "KL 0.2500" in result_text(perplexity) and "50.0%" in result_text(perplexity)
