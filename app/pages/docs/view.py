"""The OpenAPI document as the documentation page shows it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Property:
    """A field of a body: its type in words, its description, and its nested fields."""

    name: str
    type: str
    required: bool
    description: str
    example: str
    properties: tuple[Property, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """An example request or response."""

    summary: str
    text: str
    curl: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """An operation: a path with an HTTP method."""

    id: str
    verb: str
    path: str
    summary: str
    description: str
    takes: tuple[Property, ...]
    requests: tuple[Example, ...]
    answers: tuple[Property, ...]
    responses: tuple[Example, ...]
    errors: tuple[tuple[str, str], ...]


def operations(document: dict[str, Any], origin: str) -> tuple[Operation, ...]:
    """Return every operation of an OpenAPI document, in order."""
    return tuple(
        _operation(document, origin, path, verb, operation)
        for path, verbs in document["paths"].items()
        for verb, operation in verbs.items()
    )


def problem(document: dict[str, Any]) -> tuple[Property, ...]:
    """Return the fields of a problem document."""
    return _properties(document, {"$ref": "#/components/schemas/ProblemDocument"})


def _operation(document: dict[str, Any], origin: str, path: str, verb: str, operation: dict[str, Any]) -> Operation:
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    answer = next(iter(operation["responses"]["200"]["content"].values()))
    return Operation(
        id=operation["operationId"],
        verb=verb.upper(),
        path=path,
        summary=operation["summary"],
        description=operation["description"],
        takes=_properties(document, body.get("schema", {})) + _parameters(operation),
        requests=tuple(
            Example(
                summary=example["summary"], text=_text(example["value"]), curl=_curl(origin + path, example["value"])
            )
            for example in body.get("examples", {}).values()
        ),
        answers=_properties(document, answer["schema"]),
        responses=tuple(
            Example(summary=example["summary"], text=_text(example["value"]))
            for example in answer.get("examples", {}).values()
        ),
        errors=tuple(
            (status, error["description"]) for status, error in operation["responses"].items() if status != "200"
        ),
    )


def _parameters(operation: dict[str, Any]) -> tuple[Property, ...]:
    return tuple(
        Property(
            name=parameter["name"],
            type=f"{parameter['schema']['type']}, in the {parameter['in']}",
            required=parameter["required"],
            description=parameter["description"],
            example=next(iter(parameter["examples"].values()))["value"],
            properties=(),
        )
        for parameter in operation.get("parameters", ())
    )


def _properties(document: dict[str, Any], schema: dict[str, Any]) -> tuple[Property, ...]:
    """Return the fields of an object; for a choice of objects, each object under its title."""
    schema = _resolved(document, schema)
    if "properties" in schema:
        required = schema.get("required", ())
        return tuple(
            _property(document, name, member_schema, required=name in required)
            for name, member_schema in schema["properties"].items()
        )
    if "items" in schema:
        return _properties(document, schema["items"])
    objects = [
        _resolved(document, member)
        for member in (*schema.get("anyOf", ()), *schema.get("oneOf", ()))
        if "properties" in _resolved(document, member)
    ]
    if len(objects) == 1:
        return _properties(document, objects[0])
    return tuple(_property(document, member["title"], member, required=False) for member in objects)


def _property(document: dict[str, Any], name: str, schema: dict[str, Any], *, required: bool) -> Property:
    examples = schema.get("examples")
    return Property(
        name=name,
        type=_type(document, schema),
        required=required,
        description=schema.get("description", ""),
        example=json.dumps(examples[0], ensure_ascii=False) if examples and not _properties(document, schema) else "",
        properties=_properties(document, schema),
    )


def _type(document: dict[str, Any], schema: dict[str, Any]) -> str:
    """Return the type of a schema in words: whole number, 1 to 65,536, default 8."""
    words = _kind(document, schema)
    if "default" in schema and not isinstance(schema["default"], dict | list):
        words += f", default {json.dumps(schema['default'])}"
    return words


def _kind(document: dict[str, Any], schema: dict[str, Any]) -> str:
    members = (*schema.get("anyOf", ()), *schema.get("oneOf", ()))
    if members:
        return " or ".join(dict.fromkeys(_kind(document, member) for member in members))
    schema = _resolved(document, schema)
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_kind(document, schema['items'])}"
    words = {"integer": "whole number", "null": "null"}.get(schema.get("type", "any"), schema.get("type", "anything"))
    return f"{words}{_limits(schema)}"


def _limits(schema: dict[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None and high is None:
        return ""
    return f", {low:,} to {high:,}" if high is not None and low is not None else f", at least {low:,}"


def _resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref")
    if reference is None:
        return schema
    found: dict[str, Any] = document["components"]["schemas"][reference.rsplit("/", 1)[-1]]
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)


def _curl(address: str, body: Any) -> str:
    return f"curl {address} -H 'Content-Type: application/json' -d '{json.dumps(body)}'"
