"""The JSON Schema of result.json, made from :mod:`pytest_weightwatcher.report.model`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pytest_weightwatcher.report.model import Result
from pytest_weightwatcher.schema import DIALECT, ordered, tidied

if TYPE_CHECKING:
    from pytest_weightwatcher.schema import Schema

SCHEMA_ID = "urn:pytest-weightwatcher:result.json:1"
FILE_NAME = "result.schema.json"
"""The committed copy in the package; ``ww-gate schema --result`` makes it anew."""


def make_result_schema() -> Schema:
    """Return the JSON Schema (draft 2020-12) of result.json as plain data."""
    raw = Result.model_json_schema()
    parts = {name: tidied(part) for name, part in raw.pop("$defs").items()}
    root = {**tidied(raw), "$schema": DIALECT, "$id": SCHEMA_ID, "title": "result.json of pytest-weightwatcher"}
    # Older versions of pydantic do not say how the names of counts are limited, nor that options may be anything.
    parts["Model"]["properties"]["options"]["additionalProperties"] = True
    verdicts = parts["Check"]["properties"]["verdict"]
    root["properties"]["counts"]["propertyNames"] = {"enum": verdicts["enum"]}
    root["$defs"] = dict(sorted(parts.items()))
    schema: Schema = ordered(root)
    return schema


def render_result_schema() -> str:
    """Return the schema as the text of a file."""
    return json.dumps(make_result_schema(), indent=1) + "\n"
