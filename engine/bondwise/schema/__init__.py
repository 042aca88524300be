"""Every file and message that the engine and the extension both read, defined once.

`python -m bondwise schema` prints these models as one JSON Schema document; `npm run generate` turns it into the TypeScript types
and validators under `extension/protocol/`. Files are JSON in UTF-8; sizes are bytes, times are seconds, dates are ISO 8601 in UTC.
"""

from __future__ import annotations

from typing import Any, Literal

from bondwise.schema.base import SCHEMA_VERSION, LayerGroup, LayerState, Method, Predicted, Record, Scheme, Sites, Strict
from bondwise.schema.checkpoint import Healing, Lineage, MPOLayer, MPOSection, PackedLayer, Quantization
from bondwise.schema.command_line import BlockInfo, Doctor, Inspection, LayerInfo, Problem, TensorInfo
from bondwise.schema.messages import (
    CompareData,
    CompareSide,
    HostCells,
    HostCompare,
    HostMessage,
    HostPlan,
    HostProfileRun,
    HostReply,
    HostSelection,
    HostSensitivity,
    WebviewRequest,
)
from bondwise.schema.plan import Budget, ExchangePoint, PlanFile, PlanResult
from bondwise.schema.profile import BaseModelRef, Cell, Curve, Figure, ProfileLayer, Sensitivity
from bondwise.schema.requests import (
    METHOD_HELP,
    REFIT_HELP,
    SCHEME_HELP,
    CalibrationOptions,
    EvaluateOptions,
    HealData,
    HealOptions,
    HealRequest,
    PerplexityOptions,
    PerplexityRequest,
    ProfileOptions,
    ProfileRequest,
    QuantizeBudget,
    QuantizeOptions,
    QuantizeRequest,
    QuantizeRule,
    RunRequest,
    SampleModelOptions,
    SampleModelRequest,
    TensorizeOptions,
    TensorizeRequest,
    TensorizeRule,
    _Request,
)
from bondwise.schema.results import (
    Evaluation,
    HealPlan,
    HealResult,
    LayerFigures,
    PerplexityResult,
    ProfileResult,
    QuantizedLayer,
    QuantizeResult,
    RunResult,
    SampleModelResult,
    SchemeChoice,
    TensorizeResult,
)
from bondwise.schema.runs import (
    BaselineEvent,
    CellEvent,
    CurveEvent,
    EndedEvent,
    ErrorInfo,
    EstimateEvent,
    EvaluationEvent,
    Event,
    HealPlanEvent,
    HealStepEvent,
    HealValidationEvent,
    LayerEvent,
    PhaseEvent,
    ProcessIdentity,
    ProfileEvent,
    Progress,
    QuantizedEvent,
    RankStatus,
    RunEvent,
    RunState,
    RunStatus,
    StartedEvent,
    VerifiedEvent,
    WarningEvent,
)

__all__ = [
    "METHOD_HELP",
    "REFIT_HELP",
    "ROOTS",
    "SCHEMA_VERSION",
    "SCHEME_HELP",
    "BaseModelRef",
    "BaselineEvent",
    "BlockInfo",
    "Budget",
    "CalibrationOptions",
    "Cell",
    "CellEvent",
    "CompareData",
    "CompareSide",
    "Curve",
    "CurveEvent",
    "Doctor",
    "EndedEvent",
    "ErrorInfo",
    "EstimateEvent",
    "EvaluateOptions",
    "Evaluation",
    "EvaluationEvent",
    "Event",
    "ExchangePoint",
    "Figure",
    "HealData",
    "HealOptions",
    "HealPlan",
    "HealPlanEvent",
    "HealRequest",
    "HealResult",
    "HealStepEvent",
    "HealValidationEvent",
    "Healing",
    "HostCells",
    "HostCompare",
    "HostMessage",
    "HostPlan",
    "HostProfileRun",
    "HostReply",
    "HostSelection",
    "HostSensitivity",
    "Inspection",
    "LayerEvent",
    "LayerFigures",
    "LayerGroup",
    "LayerInfo",
    "LayerState",
    "Lineage",
    "MPOLayer",
    "MPOSection",
    "Method",
    "PackedLayer",
    "PerplexityOptions",
    "PerplexityRequest",
    "PerplexityResult",
    "PhaseEvent",
    "PlanFile",
    "PlanResult",
    "Predicted",
    "Problem",
    "ProcessIdentity",
    "ProfileEvent",
    "ProfileLayer",
    "ProfileOptions",
    "ProfileRequest",
    "ProfileResult",
    "Progress",
    "Quantization",
    "QuantizeBudget",
    "QuantizeOptions",
    "QuantizeRequest",
    "QuantizeResult",
    "QuantizeRule",
    "QuantizedEvent",
    "QuantizedLayer",
    "RankStatus",
    "Record",
    "RunEvent",
    "RunRequest",
    "RunResult",
    "RunState",
    "RunStatus",
    "SampleModelOptions",
    "SampleModelRequest",
    "SampleModelResult",
    "Scheme",
    "SchemeChoice",
    "Sensitivity",
    "Sites",
    "StartedEvent",
    "Strict",
    "TensorInfo",
    "TensorizeOptions",
    "TensorizeRequest",
    "TensorizeResult",
    "TensorizeRule",
    "VerifiedEvent",
    "WarningEvent",
    "WebviewRequest",
    "_Request",
    "json_schema",
]

ROOTS: dict[str, Any] = {
    "RunRequest": RunRequest,
    "RunStatus": RunStatus,
    "RunEvent": RunEvent,
    "RunResult": RunResult,
    "MPOSection": MPOSection,
    "Lineage": Lineage,
    "Sensitivity": Sensitivity,
    "PlanFile": PlanFile,
    "PlanResult": PlanResult,
    "Inspection": Inspection,
    "Doctor": Doctor,
    "WebviewRequest": WebviewRequest,
    "HostMessage": HostMessage,
}
"""What is validated on its own; each becomes one TypeScript type and one validator."""


def json_schema() -> dict[str, Any]:
    """All of the above as one JSON Schema (draft 2020-12) document: a definition for each model and each root."""
    from pydantic import TypeAdapter

    adapters: list[tuple[str, Literal["validation"], TypeAdapter[Any]]] = [
        (name, "validation", TypeAdapter(root)) for name, root in ROOTS.items()
    ]
    refs, document = TypeAdapter.json_schemas(adapters, ref_template="#/$defs/{model}")
    definitions = document.get("$defs", {})
    for name, _, _ in adapters:
        definitions.setdefault(name, refs[(name, "validation")])
    for definition in definitions.values():
        # A tag has a default in Python, but a reader needs it in the file to tell the kinds apart.
        tags = [name for name in ("kind", "type") if "const" in definition.get("properties", {}).get(name, {})]
        definition["required"] = [*definition.get("required", []), *tags]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$defs": dict(sorted(definitions.items()))}
