"""Which code and which other repositories a model folder may bring in: none that the user did not allow.

`from_pretrained` follows more than weights: `auto_map` runs Python files, an attention implementation with a slash in its name fetches a
compiled kernel (CVE-2026-4372 was such a field), and other fields replace the config or the weights that were checked by other files.
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Any, cast

from bondwise.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OWN_MODULE = "modeling_mpo.py"
OWN_MODEL_TYPE = "bondwise_mpo"

_KERNEL_FIELDS = {
    f"{prefix}{what}_implementation{suffix}" for what in ("attn", "experts") for prefix in ("", "_") for suffix in ("", "_internal")
}


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
        elif field == "auto_map" and isinstance(value, dict):
            for reference in _references(cast("dict[str, Any]", value)):
                if "--" in reference or "/" in reference or "\\" in reference:
                    raise _foreign(path, where, reference, "which names Python code in another repository")
        elif (field == "configuration_files" and value) or (field == "use_pretrained_backbone" and value is True):
            raise _foreign(path, where, value, "which makes transformers read something else than what was checked")
        elif field == "transformers_weights" and value not in (None, "model.safetensors", "model.safetensors.index.json"):
            raise _foreign(path, where, value, "which makes transformers read other weights than those that were checked")
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"{folder} holds an adapter (adapter_config.json), which changes the weights on loading.",
            "Merge it first: peft's merge_and_unload(), then save_pretrained() into a new folder.",
        )
    if not allow_code and not runs_own_code(folder, config) and needs_code(config):
        names = ", ".join(sorted({reference.split(".")[0] + ".py" for reference in _references(config["auto_map"])}))
        raise UserError(
            f"The model in {folder} needs its own Python code ({names}), which would run with your rights.",
            "Read that code. If you trust it, allow this folder (--allow-code, or the question that VS Code asks).",
        )


def runs_own_code(folder: Path, config: dict[str, Any]) -> bool:
    """Whether this is a compressed checkpoint of this version: our `model_type`, and no code but our `modeling_mpo.py`, byte for byte."""
    auto_map = config.get("auto_map")
    if config.get("model_type") != OWN_MODEL_TYPE or not isinstance(auto_map, dict):
        return False
    stem = OWN_MODULE.removesuffix(".py")
    if any(reference.split(".")[0] != stem for reference in _references(cast("dict[str, Any]", auto_map))):
        return False
    ours = resources.files("bondwise").joinpath(OWN_MODULE)
    theirs = folder / OWN_MODULE
    return ours.is_file() and theirs.is_file() and theirs.read_bytes() == ours.read_bytes()


def needs_code(config: dict[str, Any]) -> bool:
    """Whether the model cannot be built without the files in its `auto_map`: transformers has no class for its `model_type`."""
    auto_map = config.get("auto_map")
    if not isinstance(auto_map, dict) or not auto_map:
        return False
    from transformers import CONFIG_MAPPING

    return config.get("model_type") not in CONFIG_MAPPING


def _foreign(path: Path, field: str, value: object, why: str) -> UserError:
    return UserError(f"{path} has {field} = {value!r}, {why}.", f"Remove {field} from {path.name}; the model's weights do not need it.")


def _references(auto_map: dict[str, Any]) -> Iterator[str]:
    for value in auto_map.values():
        yield from (part for part in (cast("list[Any]", value) if isinstance(value, list) else [value]) if isinstance(part, str))


def _walk(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """Every field of the config and of the configs inside it: its path, its name, its value."""
    for field, value in config.items():
        yield prefix + field, field, value
        if isinstance(value, dict):
            yield from _walk(cast("dict[str, Any]", value), f"{prefix}{field}.")
