"""Request bodies: read up to a size limit and decoded strictly."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from app.http.problems import HTTPProblem
from calculator.common.errors import refusal
from calculator.estimation.request import MAX_DEPTH

if TYPE_CHECKING:
    from starlette.requests import Request

#: The largest body that is accepted, in bytes.
LARGEST_BODY = 1 << 20

#: The same for the paths that receive files: a notebook has the outputs of its cells.
LARGEST_FILE = 4 << 20
FILE_PATHS = frozenset({"/import", "/api/v1/import"})

#: How many bytes of a larger body are read and discarded, so that the client gets to read the response.
DRAINED = 64 << 20

#: The name of a form button that changes fields; its value is a query string with the changes.
CHANGE = "change"


async def read_json(request: Request) -> Any:
    """Return the decoded JSON of a request.

    Raises:
        HTTPProblem: 415 for another media type, 413 for a body over the limit, 400 for one that is not strict JSON.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPProblem(415, f"send application/json, not {kind[:100] or 'a body without Content-Type'}")
    return decode_json(await read_body(request))


async def read_body(request: Request) -> bytes:
    """Return the bytes of a request.

    Raises:
        HTTPProblem: 413 if there are more than LARGEST_BODY, or than LARGEST_FILE where files are received.
    """
    largest = LARGEST_FILE if request.scope["path"] in FILE_PATHS else LARGEST_BODY
    body = bytearray()
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received <= largest:
            body += chunk
        elif received > DRAINED:
            break
    if received > largest:
        raise HTTPProblem(413, f"the body is larger than {largest:,} bytes")
    return bytes(body)


def decode_form(body: bytes) -> list[tuple[str, str]]:
    """Return the names and values of a form. The changes of the pressed button come last, and override the rest."""
    pairs = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)
    changes = [query for name, query in pairs if name == CHANGE]
    fields = [(name, value) for name, value in pairs if name != CHANGE]
    return fields + [pair for query in changes for pair in parse_qsl(query, keep_blank_values=True)]


def parse_json(raw: bytes, name: str, loc: str, given: Any = None) -> Any:
    """Return the value of JSON text that is not a request body; errors call it `name`.

    Raises:
        PlanError: at `loc` and with the input `given`, if it is not strict JSON.
    """
    try:
        return decode_json(raw)
    except HTTPProblem as error:
        raise refusal(loc, error.detail.replace("the body", name, 1), given) from error


def decode_json(raw: bytes) -> Any:
    """Return the value of JSON text: UTF-8, finite numbers, unique keys, at most MAX_DEPTH levels.

    Raises:
        HTTPProblem: 400, with the reason.
    """
    try:
        text = raw.decode("utf-8")
        value = json.loads(text, parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_unique_keys)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise HTTPProblem(400, f"the body is not valid Unicode text: {error.reason}") from error
    except RecursionError as error:
        raise HTTPProblem(400, f"the body is nested more than {MAX_DEPTH} levels deep") from error
    except ValueError as error:
        raise HTTPProblem(400, f"the body is not JSON: {error}") from error
    if text.count("{") + text.count("[") > MAX_DEPTH and _deeper_than(value, MAX_DEPTH):
        raise HTTPProblem(400, f"the body is nested more than {MAX_DEPTH} levels deep")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:40]} is too large for a number")
    return number


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:100]!r} appears twice in one object")
    return members


def _deeper_than(value: Any, levels: int) -> bool:
    level = [value]
    for _ in range(levels):
        level = [child for parent in level if isinstance(parent, dict | list) for child in _children(parent)]
    return any(isinstance(child, dict | list) for child in level)


def _children(parent: dict[str, Any] | list[Any]) -> list[Any]:
    return list(parent.values()) if isinstance(parent, dict) else parent
