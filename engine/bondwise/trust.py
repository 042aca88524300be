"""Which code and which other repositories a model folder may bring in: none that the user did not allow. And which code goes with it.

`from_pretrained` follows more than weights: `auto_map` runs Python files, an attention implementation with a slash in its name fetches a
compiled kernel (CVE-2026-4372 was such a field), and other fields replace the config or the weights that were checked by other files.
"""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bondwise.atomic import from_json
from bondwise.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

OWN_MODULE = "modeling_mpo.py"
OWN_MODEL_TYPE = "bondwise_mpo"
TOKENIZER_CONFIG = "tokenizer_config.json"

_REFERENCE = re.compile(r"\w+(-\w+)*\.\w+")
"""`MODULE.CLASS`, a class in a Python file of the folder itself."""
_CODE_MAPS = ("auto_map", "base_auto_map")
_KERNEL_FIELDS = {
    f"{prefix}{what}_implementation{suffix}" for what in ("attn", "experts") for prefix in ("", "_") for suffix in ("", "_internal")
}


_allowed: set[tuple[str, str]] | None = None
"""Name and SHA-256 of each Python file that the user allowed this run; None outside of runs, where the caller answers for `allow_code`."""


def check_config(folder: Path, config: dict[str, Any], *, allow_code: bool) -> None:
    """Raises UserError when `config` (the folder's config.json) wants code that is not allowed, or anything from outside the folder.

    Allowed without asking: `modeling_mpo.py` equal, byte for byte, to ours, and an `auto_map` beside a `model_type` that transformers has
    itself (then transformers' own class is used and the `auto_map` ignored). `allow_code` allows Python files of this folder, never
    those of other repositories.
    """
    path = folder / "config.json"
    for where, field, value in _walk(config):
        if field in _KERNEL_FIELDS:
            values: list[Any] = list(cast("dict[str, Any]", value).values()) if isinstance(value, dict) else [value]
            if foreign := [name for name in values if isinstance(name, str) and "/" in name]:
                raise _foreign(path, where, foreign[0], "which names compiled code in another repository")
        elif field in _CODE_MAPS and isinstance(value, dict):
            _check_references(path, where, cast("dict[str, Any]", value))
        elif (field == "configuration_files" and value) or (field == "use_pretrained_backbone" and value is True):
            raise _foreign(path, where, value, "which makes transformers read something else than what was checked")
        elif field == "transformers_weights" and value not in (None, "model.safetensors", "model.safetensors.index.json"):
            raise _foreign(path, where, value, "which makes transformers read other weights than those that were checked")
    if allow_code and needs_code(config):
        if not runs_own_code(folder, config):
            check_allowed(folder)
        _check_references(folder / TOKENIZER_CONFIG, "auto_map", _tokenizer_map(folder))
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"{folder} holds an adapter (adapter_config.json), which changes the weights on loading.",
            "Merge it first: peft's merge_and_unload(), then save_pretrained() into a new folder.",
        )
    if not allow_code and not runs_own_code(folder, config) and needs_code(config):
        names = ", ".join([*_files(config["auto_map"]), *_files(_base_map(config))])
        raise UserError(
            f"The model in {folder} needs its own Python code ({names}), which would run with your rights.",
            "Read that code. If you trust it, allow this folder (--allow-code, or the question that VS Code asks).",
        )


def runs_own_code(folder: Path, config: dict[str, Any]) -> bool:
    """Whether this is a compressed checkpoint of this version: our `model_type`, and no code but our `modeling_mpo.py`, byte for byte."""
    auto_map = config.get("auto_map")
    if config.get("model_type") != OWN_MODEL_TYPE or not isinstance(auto_map, dict) or _base_map(config):
        return False
    stem = OWN_MODULE.removesuffix(".py")
    if any(reference.split(".")[0] != stem for reference in _references(cast("dict[str, Any]", auto_map))):
        return False
    ours = resources.files("bondwise").joinpath(OWN_MODULE)
    theirs = folder / OWN_MODULE
    return ours.is_file() and theirs.is_file() and theirs.read_bytes() == ours.read_bytes()


def check_inside(folder: Path, name: str) -> None:
    """Raises UserError when the file `name` of `folder` is a link that leads out of it: what lies there is not the model's to read or copy.

    In the cache of the Hugging Face hub a snapshot's files are links into the `blobs` of the same repository, which is allowed.
    """
    home, target = folder.resolve(), (folder / name).resolve()
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else None
    if not target.is_relative_to(home) and not (blobs and target.is_relative_to(blobs)):
        raise UserError(
            f"{folder / name} is a link out of its folder, to {target}.",
            "If you trust it, put a copy of that file in its place; a model's files lie in its own folder.",
        )


def code_hash(folder: Path) -> str:
    """SHA-256 in hex over each Python file's path, a zero byte, its length (8 bytes), and its bytes: what the user is asked about.

    The extension computes the same. Raises UserError where a file cannot be read.
    """
    digest = hashlib.sha256()
    for name, content in _python_files(folder):
        digest.update(name.encode("utf-8", "surrogatepass") + b"\0" + len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


@contextmanager
def allowing(code: Mapping[str, str]) -> Generator[None]:
    """Inside the block, code of models runs where it is, file by file, what a folder in `code` (folder → `code_hash`) holds now.

    So the folder that a run makes may carry it. Raises UserError where such a folder's code is not the one that was allowed.
    """
    global _allowed  # noqa: PLW0603 -- of the process, which does one run
    allowed: set[tuple[str, str]] = set()
    for folder, expected in code.items():
        files = list(_python_files(Path(folder)))
        if code_hash(Path(folder)) != expected:
            raise UserError(
                f"The Python files in {folder} are not those that were allowed: they have changed since.",
                "Read them again. If you trust them, start the run anew and allow them.",
            )
        allowed |= {(name, hashlib.sha256(content).hexdigest()) for name, content in files}
    before, _allowed = _allowed, allowed
    try:
        yield
    finally:
        _allowed = before


def check_allowed(folder: Path) -> None:
    """Raises UserError where `folder` holds code that the user did not allow this run."""
    if _allowed is None:
        return
    ours = resources.files("bondwise").joinpath(OWN_MODULE).read_bytes()
    for name, content in _python_files(folder):
        if (name, hashlib.sha256(content).hexdigest()) not in _allowed and not (name == OWN_MODULE and content == ours):
            raise UserError(
                f"{folder / name} is not code that was allowed for this run.",
                "Read it. If you trust it, start the run anew and allow the folder (--allow-code, or the question that VS Code asks).",
            )


def _python_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Path from the folder and content of each, in the order of JavaScript's sort; a file in a folder below can be imported too."""
    names = [os.path.relpath(Path(root, name), folder) for root, _, files in os.walk(folder) for name in files if name.endswith(".py")]
    for name in sorted(names, key=lambda name: name.encode("utf-16-be", "surrogatepass")):
        check_inside(folder, name)
        try:
            yield name, (folder / name).read_bytes()
        except OSError as failure:
            raise UserError(f"{folder / name} cannot be read: {failure.strerror}.", "Check the file and its permissions.") from None


def needs_code(config: Mapping[str, Any]) -> bool:
    """Whether the model cannot be built without the files in its `auto_map`: transformers itself has no class for its `model_type`.

    What a model's code registered there, when it ran in this process, does not count.
    """
    auto_map = config.get("auto_map")
    if not isinstance(auto_map, dict) or not auto_map:
        return False
    from transformers.models.auto import configuration_auto

    return config.get("model_type") not in cast("Any", configuration_auto).CONFIG_MAPPING_NAMES


def code_files(folder: Path, config: dict[str, Any]) -> dict[str, bytes]:
    """The Python files that a compressed model of `folder` has to carry beside ours: name → content. None where transformers has the model.

    Those are the files that its `auto_map`s name, and all that these import from beside them, as transformers finds them. Raises UserError
    for a file that is not there, that cannot be read, or that would be outside the folder.
    """
    if not needs_code(config) or (config.get("model_type") == OWN_MODEL_TYPE and not _base_map(config)):
        return {}
    from transformers.dynamic_module_utils import get_relative_imports

    waiting = dict.fromkeys(_files(_tokenizer_map(folder)), TOKENIZER_CONFIG)
    waiting |= dict.fromkeys([*_files(config["auto_map"]), *_files(_base_map(config))], "config.json")
    if config["model_type"] == OWN_MODEL_TYPE:
        waiting.pop(OWN_MODULE, None)
    found: dict[str, bytes] = {}
    while waiting:
        name, wanted_by = waiting.popitem()
        needs = f"{folder / wanted_by} needs {name}"
        if name == OWN_MODULE:
            raise UserError(f"{needs}, which is the name of Bondwise's own file.", "Rename that file, and the module where it is named.")
        if not re.fullmatch(r"\w+(-\w+)*\.py", name):
            raise UserError(f"{needs}, which is not beside it.", "All Python files of the model have to be in its folder itself.")
        try:
            found[name] = (folder / name).read_bytes()
            imported = get_relative_imports(folder / name)
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
            raise UserError(f"{needs}, which cannot be read: {why}.", "Get the Python files of the model again, all of them.") from error
        waiting |= {f"{module}.py": name for module in imported if f"{module}.py" not in found}
    return dict(sorted(found.items()))


def _base_map(config: dict[str, Any]) -> dict[str, Any]:
    """Where a compressed model says that its base's classes are in the folder's own files."""
    section = config.get("mpo")
    found = cast("dict[str, Any]", section).get("base_auto_map") if isinstance(section, dict) else None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _tokenizer_map(folder: Path) -> dict[str, Any]:
    """The `auto_map` of the tokenizer, which may name code too."""
    try:
        found: Any = from_json((folder / TOKENIZER_CONFIG).read_bytes())
    except (OSError, ValueError):
        return {}  # the tokenizer's own loader says what is wrong with it
    auto_map = cast("dict[str, Any]", found).get("auto_map") if isinstance(found, dict) else None
    if isinstance(auto_map, list):  # as older files have it: AutoTokenizer's two
        return {"AutoTokenizer": auto_map}
    return cast("dict[str, Any]", auto_map) if isinstance(auto_map, dict) else {}


def _files(auto_map: dict[str, Any]) -> list[str]:
    return sorted({reference.partition(".")[0] + ".py" for reference in _references(auto_map)})


def _check_references(path: Path, where: str, auto_map: dict[str, Any]) -> None:
    for reference in _references(auto_map):
        if not _REFERENCE.fullmatch(reference):
            raise _foreign(path, where, reference, "which names Python code in another repository or outside this folder")


def _foreign(path: Path, field: str, value: object, why: str) -> UserError:
    return UserError(
        f"{path} has {field} = {str(value)[:200]!r}, {why}.", f"Remove {field} from {path.name}; the model's weights do not need it."
    )


def _references(auto_map: dict[str, Any]) -> Iterator[str]:
    for value in auto_map.values():
        yield from (part for part in (cast("list[Any]", value) if isinstance(value, list) else [value]) if isinstance(part, str))


def _walk(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """Every field of the config and of the configs inside it, in lists too: its path, its name, its value."""
    for field, value in config.items():
        yield prefix + field, field, value
        for inner in cast("list[Any]", value) if isinstance(value, list) else [value]:
            if isinstance(inner, dict):
                yield from _walk(cast("dict[str, Any]", inner), f"{prefix}{field}.")
