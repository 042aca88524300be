"""Files of figures that runs fill and add to (profiles, benchmarks): read whole or not at all, and where one may be written."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from bondwise.atomic import from_json
from bondwise.errors import UserError
from bondwise.request import describe
from bondwise.schema import SCHEMA_VERSION

if TYPE_CHECKING:
    from pathlib import Path

Document = TypeVar("Document", bound=BaseModel)


def read_figures(path: Path, kind: type[Document], what: str, remedy: str) -> Document:
    """Raises UserError, naming the file and what is wrong, when it is no whole `what`, or was made by a newer Bondwise."""
    try:
        document = from_json(path.read_bytes())
    except OSError as failure:
        raise UserError(f"{path} cannot be read: {failure.strerror}.", "Check the file and its permissions.") from None
    except ValueError as failure:
        raise UserError(f"{path} is cut off or not JSON: {failure}.", remedy) from None
    version = document.get("version") if isinstance(document, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise UserError(
            f"{path} was made by a newer Bondwise: it has version {version}, this one reads up to {SCHEMA_VERSION}.", "Update Bondwise."
        )
    try:
        return kind.model_validate(document)
    except ValidationError as failure:
        raise UserError(f"{path} is not a {what}: {describe(failure)}.", remedy) from None


def check_figures_path(output: Path, suffix: str, example: str) -> None:
    """Raises UserError where such a file cannot be written; `example` is a name for one whose own is empty."""
    if not output.name.endswith(suffix) or output.name == suffix:
        raise UserError(f"{output} does not end in {suffix}.", f"Name it so, such as {output.name.partition('.')[0] or example}{suffix}.")
    if output.is_dir():
        raise UserError(f"{output} is a folder.", "Choose another --output.")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as failure:
        raise UserError(f"{output.parent} cannot be made: {failure.strerror}.", "Choose another --output.") from None
    if not os.access(output.parent, os.W_OK):
        raise UserError(f"{output.parent} cannot be written.", "Choose another --output, or change its rights.")
