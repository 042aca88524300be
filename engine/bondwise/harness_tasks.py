"""The tasks of the LM Evaluation Harness: which there are, and those that are asked for with their data.

The harness's own index parses its 14,000 files, which takes half a minute; here they are searched for names, and only the folders that a
task needs are parsed.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from bondwise.errors import Cancelled, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Kind = Literal["task", "group", "tag"]

_WORD = rb"""["']?([\w.:+-]+)["']?"""
_NAME = re.compile(
    rb"""^["']?(task|group|tag)["']?[ \t]*:[ \t]*(?:""" + _WORD + rb"""[ \t]*(?:\#.*)?)?\r?$"""
    rb"""((?:\n[ \t]*-[ \t]*["']?[\w.:+-]+["']?[ \t]*\r?$)*)""",
    re.MULTILINE,
)
"""`task: NAME`, `group: NAME`, `tag: NAME`, or one of them and a list below; not indented, which would be a member of a group."""
_ITEM = re.compile(rb"""-[ \t]*["']?([\w.:+-]+)""")
_UNREACHABLE = {"OfflineModeIsEnabled", "ConnectionError", "ConnectError", "LocalEntryNotFoundError", "TimeoutException"}
"""Names of exceptions, of several libraries, that mean that there is no way to the hub."""
INSTALL = "Install `lm-eval` into the engine's environment (Bondwise: Set Up Engine does), or leave tasks out."


class Named(NamedTuple):
    """A name that can be asked for."""

    kind: Kind
    folder: str
    """The folder under the harness's tasks that holds its file."""


class LoadedTask(NamedTuple):
    """What a name stands for, its data in memory."""

    name: str
    manager: Any
    built: list[Any]
    """Tasks and groups of the harness."""
    leaves: dict[str, Any]
    """The tasks themselves, by name."""


def library() -> Any:
    """The package. Raises UserError where it is not installed."""
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    try:
        return importlib.import_module("lm_eval")
    except ImportError as failure:
        missing = failure.name or "lm_eval"
        raise UserError(f"Tasks need the LM Evaluation Harness, and {missing} is not installed.", INSTALL) from None


def library_version() -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    with contextlib.suppress(PackageNotFoundError):
        return version("lm_eval")
    return None


def known_names() -> dict[str, Named]:
    """Every task, group and tag, by name, from the text of the harness's files; a second where the system has them in memory.

    Raises UserError where the package is not installed.
    """
    root = _root()
    found: dict[str, Named] = {}
    tags: dict[str, Named] = {}
    for folder, _, files in os.walk(root):
        top = Path(folder).relative_to(root).parts[:1]
        for file in files:
            if not file.endswith(".yaml") or not top:
                continue
            for key, value, members in _NAME.findall(Path(folder, file).read_bytes()):
                kind = key.decode()
                if kind == "tag":
                    names = [value] if value else _ITEM.findall(members)
                    tags |= {name.decode(): Named("tag", top[0]) for name in names}
                elif value:
                    found[value.decode()] = Named(kind, top[0])
    return tags | found


def check_names(names: Sequence[str]) -> None:
    """Raises UserError for a name that the harness does not have, with the nearest ones."""
    known = _known(names)
    if unknown := [name for name in names if name not in known]:
        near = difflib.get_close_matches(unknown[0], known, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(near)}?" if near else "`tasks WORD` lists those with a word in their name."
        raise UserError(f"The LM Evaluation Harness has no task {', '.join(repr(name) for name in unknown)}.", hint)


def _known(names: Sequence[str]) -> dict[str, Named]:
    """`known_names`, and where that lacks one of `names`, the harness's own index: a few tasks have their names from files they include."""
    known = known_names()
    if all(name in known for name in names):
        return known
    tasks: Any = importlib.import_module("lm_eval.tasks")
    kinds: dict[str, Kind] = {"GROUP": "group", "TAG": "tag"}
    root = _root()
    for name, entry in tasks.TaskManager().task_index.items():
        if name not in known and entry.yaml_path is not None:
            known[name] = Named(kinds.get(entry.kind.name, "task"), Path(entry.yaml_path).relative_to(root).parts[0])
    return known


def load_tasks(
    names: Sequence[str],
    datasets: Path | None,
    *,
    step: Callable[[int], None] = lambda done: None,
) -> dict[str, LoadedTask]:
    """The tasks by name, with their data: from the folder `datasets` alone, or from the hub and its cache.

    `step(done)` is told how many are loaded, and may raise. Raises UserError for unknown names, and once for all tasks whose data is not to
    be had, with a reason for each.
    """
    library()
    check_names(names)
    if datasets is not None and not datasets.is_dir():
        raise UserError(f"There is no folder {datasets} with data sets.", "Name a folder that holds them under their hub ids, as ORG/NAME.")
    found: dict[str, LoadedTask] = {}
    troubles: list[str] = []
    for name in dict.fromkeys(names):
        step(len(found) + len(troubles))
        try:
            found[name] = _load(name, datasets)
        except Cancelled:
            raise
        except Exception as failure:
            troubles.append(f"{name}: {_reason(failure, datasets)}")
    if troubles:
        remedy = "Leave these tasks out, or get their data: " + (
            f"{datasets} is read alone, by hub id." if datasets else "with a network, or in a local folder (--datasets DIR)."
        )
        head = f"{len(troubles)} of {len(found) + len(troubles)} tasks cannot be done."
        raise UserError("\n  ".join([head, *troubles]), remedy)
    return found


def _root() -> Path:
    found = importlib.util.find_spec("lm_eval")
    if found is None or not found.submodule_search_locations:
        library()  # says what is missing
        raise UserError("The package lm_eval has no folder.", INSTALL)
    return Path(next(iter(found.submodule_search_locations))) / "tasks"


def _load(name: str, datasets: Path | None) -> LoadedTask:
    tasks: Any = importlib.import_module("lm_eval.tasks")
    manager = _manager(tasks, name)
    entries = list(_leaves(manager.task_index, name))
    if datasets is not None:
        missing = {path for entry in entries if (path := (entry.cfg or {}).get("dataset_path")) and not _there(datasets, str(path))}
        if missing:
            raise _Missing(f"{datasets} has no {', '.join(sorted(map(str, missing)))}")
    with contextlib.chdir(datasets) if datasets is not None else contextlib.nullcontext():
        loaded: dict[str, Any] = manager.load([name])
    leaves: dict[str, Any] = loaded["tasks"]
    if unsafe := [task for task, built in leaves.items() if getattr(built, "UNSAFE_CODE", False)]:
        raise _Missing(f"{unsafe[0]} runs code that the model writes, which Bondwise does not do")
    entry = manager.task_index[name]
    built = [group for group in loaded.get("groups", {}).values() if group.name == name] if entry.kind.name == "GROUP" else []
    return LoadedTask(name, manager, built or list(leaves.values()), leaves)


class _Missing(Exception):
    """What is not there, in words."""


def _there(datasets: Path, path: str) -> bool:
    return (datasets / path).is_dir() or path in ("json", "csv", "parquet", "text")


def _manager(tasks: Any, name: str) -> Any:
    """The harness's index of the folders that `name` and all its members are in."""
    known, root = _known([name]), _root()
    folders = {known[name].folder}
    while True:
        manager = tasks.TaskManager(include_path=[str(root / folder) for folder in sorted(folders)], include_defaults=False)
        elsewhere = [member for member in _members(manager.task_index, name) if member not in manager.task_index]
        wanted = {known[member].folder for member in elsewhere if member in known}
        if wanted <= folders:
            return manager
        folders |= wanted


def _members(index: dict[str, Any], name: str) -> Iterator[str]:
    """Names that a group or tag consists of, of its groups too, whether they are in the index or not."""
    entry = index.get(name)
    if entry is None:
        return
    listed = (entry.cfg or {}).get("task") if entry.kind.name == "GROUP" else sorted(entry.tags) if entry.kind.name == "TAG" else []
    for member in listed if isinstance(listed, list) else []:
        child = member if isinstance(member, str) else (member.get("group") or member.get("task")) if isinstance(member, dict) else None
        if isinstance(child, str) and child != name:
            yield child
            yield from _members(index, child)


def _leaves(index: dict[str, Any], name: str) -> Iterator[Any]:
    for member in dict.fromkeys([name, *_members(index, name)]):
        entry = index.get(member)
        if entry is not None and entry.kind.name in ("TASK", "PY_TASK"):
            yield entry


def _reason(failure: Exception, datasets: Path | None) -> str:
    """Why a task's data is not to be had, in words."""
    text = next((line.strip() for line in str(failure).splitlines() if line.strip()), type(failure).__name__)
    if isinstance(failure, ModuleNotFoundError):
        return f"it needs the package {failure.name}, which is not in the engine's environment"
    if isinstance(failure, _Missing):
        return text
    kinds = {kind.__name__ for each in (failure, failure.__cause__, failure.__context__) if each for kind in type(each).__mro__}
    if "gated" in str(failure).lower() or "GatedRepoError" in kinds:
        return f"its data set is gated: accept its terms on the hub and log in there ({text})"
    if kinds & _UNREACHABLE and datasets is None:
        return f"its data set cannot be reached and is not in the cache ({text})"
    return f"{type(failure).__name__}: {text}"
