"""What the gate uses of SARIF 2.1.0, as a JSON Schema written by hand after the standard, and stricter than its own.

Every object is closed here, so that a property which SARIF does not know, or which this list forgot, is an error. The
official schema comes in a package of 40 MB (npm: @microsoft/sarif-multitool-linux, beside Microsoft's validator), too
much for every run: ``make sarif`` fetches it and runs these tests with it, by way of the environment variable
WW_SARIF_SCHEMA, which names a copy, and asks the validator.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def closed(required: str, **properties: Schema) -> Schema:
    return {
        "type": "object",
        "required": required.split(),
        "properties": properties,
        "additionalProperties": False,
    }


def listed(items: Schema, **bounds: Any) -> Schema:
    return {"type": "array", "items": items, **bounds}


TEXT: Schema = {"type": "string", "minLength": 1}
PLAIN_MESSAGE = closed("text", text=TEXT)
ARTIFACT = closed("uri", uri={"type": "string", "pattern": r"^[A-Za-z0-9._~:/%+-]*$"}, uriBaseId={"const": "%SRCROOT%"})
REGION = closed("startLine", startLine={"type": "integer", "minimum": 1})
PHYSICAL = closed("artifactLocation", artifactLocation=ARTIFACT, region=REGION)
LOGICAL = closed("name fullyQualifiedName kind", name=TEXT, fullyQualifiedName=TEXT, kind={"const": "module"})
LOCATION = closed(
    "physicalLocation logicalLocations",
    physicalLocation=PHYSICAL,
    logicalLocations=listed(LOGICAL, minItems=1, maxItems=1),
)
BAG: Schema = {"type": "object", "additionalProperties": {"type": ["string", "number"]}}
TAGS = closed("tags", tags=listed(TEXT, uniqueItems=True))
LEVEL: Schema = {"enum": ["none", "note", "warning", "error"]}
RESULT = closed(
    "ruleId ruleIndex level message locations partialFingerprints",
    ruleId=TEXT,
    ruleIndex={"type": "integer", "minimum": 0},
    level=LEVEL,
    message=PLAIN_MESSAGE,
    locations=listed(LOCATION, minItems=1, maxItems=1),
    partialFingerprints={"type": "object", "additionalProperties": {"type": "string"}},
    properties=BAG,
)
RULE = closed(
    "id shortDescription fullDescription help",
    id=TEXT,
    shortDescription=PLAIN_MESSAGE,
    fullDescription=PLAIN_MESSAGE,
    help=PLAIN_MESSAGE,
    properties=TAGS,
)
DRIVER = closed("name version rules", name=TEXT, version=TEXT, rules=listed(RULE, uniqueItems=True))
NOTIFICATION = closed("message level", message=PLAIN_MESSAGE, level=LEVEL)
INVOCATION = closed(
    "executionSuccessful",
    executionSuccessful={"type": "boolean"},
    toolExecutionNotifications=listed(NOTIFICATION, uniqueItems=True),
)
RUN = closed(
    "tool results invocations",
    tool=closed("driver", driver=DRIVER),
    results=listed(RESULT, maxItems=5000),
    invocations=listed(INVOCATION, minItems=1, maxItems=1),
    columnKind={"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
)
LOG: Schema = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    **closed(
        "version runs",
        version={"const": "2.1.0"},
        runs=listed(RUN, minItems=1, maxItems=1),
        **{"$schema": {"type": "string", "pattern": "sarif-schema-2.1.0.json$"}},
    ),
}
