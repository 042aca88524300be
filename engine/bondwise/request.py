"""`run.json`: what a run is asked to do, read with errors that name the key and the value."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from bondwise.atomic import from_json
from bondwise.errors import UserError
from bondwise.schema import (
    SCHEMA_VERSION,
    BenchmarkRequest,
    ExportRequest,
    HealRequest,
    PerplexityRequest,
    ProfileRequest,
    QuantizeRequest,
    RunRequest,
    SampleModelRequest,
    TensorizeRequest,
)

REQUEST = "run.json"

AnyRequest = (
    TensorizeRequest
    | PerplexityRequest
    | SampleModelRequest
    | ProfileRequest
    | HealRequest
    | QuantizeRequest
    | BenchmarkRequest
    | ExportRequest
)


def refuse_newer(path: Path) -> None:
    """Raises UserError when a newer Bondwise made the request. What is no request at all fails later, as the run's failure."""
    with suppress(ValueError):
        document = from_json(path.read_bytes())
        made_by = document.get("version") if isinstance(document, dict) else None
        if isinstance(made_by, int) and made_by > SCHEMA_VERSION:
            text = f"{path} was made by a newer Bondwise: it has version {made_by}, this one reads up to {SCHEMA_VERSION}."
            raise UserError(text, "Update Bondwise.")


def read_request(directory: Path) -> AnyRequest:
    """The request in `directory/run.json`, as `parse_request`. Raises UserError when it is not JSON or not a request."""
    try:
        document = from_json((directory / REQUEST).read_bytes())
    except ValueError as failure:
        raise UserError(
            f"{directory / REQUEST} is not JSON: {failure}", "Start the run again from the editor or the command line."
        ) from None
    return parse_request(document, directory)


def parse_request(document: Any, directory: Path) -> AnyRequest:
    """The content of `run.json` → the request, its relative paths taken from `directory`. Raises UserError naming the key and the value."""
    try:
        request: AnyRequest = TypeAdapter[Any](RunRequest).validate_python(document)
    except ValidationError as failure:
        raise UserError(f"{REQUEST}: {describe(failure)}", "Mend the request, or start the run again from the editor.") from None

    def absolute(path: str) -> str:
        return os.path.abspath(directory / Path(path).expanduser())  # noqa: PTH100

    def of(text: Any) -> Any:
        """The same text, a file absolute."""
        return text.model_copy(update={"data": absolute(text.data)}) if text.data.endswith((".txt", ".jsonl")) else text

    options: Any = request.options
    changes: dict[str, Any] = {
        name: absolute(value)
        for name in ("output", "reference", "teacher", "original", "datasets")
        if (value := getattr(options, name, None))
    }
    for name in ("evaluate", "calibration", "perplexity"):
        text = getattr(options, name, None)
        if text is not None:
            more = {"also": [of(one) for one in text.also]} if name == "calibration" else {}
            changes[name] = of(text).model_copy(update=more)
    if isinstance(request, ProfileRequest):
        changes["data"] = of(request.options).data
    if isinstance(request, HealRequest):
        changes["data"] = [of(one) for one in request.options.data]
    if isinstance(request, BenchmarkRequest):
        changes["models"] = [absolute(model) for model in request.options.models]
    code = {absolute(folder): digest for folder, digest in request.code.items()}
    update: dict[str, Any] = {"options": options.model_copy(update=changes), "code": code}
    if request.after is not None:
        update["after"] = absolute(request.after)
    if not isinstance(request, (SampleModelRequest, BenchmarkRequest)):
        update["model"] = absolute(request.model)
    return request.model_copy(update=update)


def describe(failure: ValidationError) -> str:
    """The first mistake that pydantic found, in one line: where, what, and the value."""
    first = failure.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "the request"
    value = first.get("input")
    shown = "" if isinstance(value, (dict, list)) or first["type"] == "missing" else f" (got {value!r})"
    return f"{place}: {first['msg'].removeprefix('Value error, ')}{shown}"
