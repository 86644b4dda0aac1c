"""Request bodies: read up to a limit and decoded strictly."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from app.http.problems import Refusal
from calculator.estimate.request import DEEPEST

if TYPE_CHECKING:
    from starlette.requests import Request

#: The largest body that is read, in bytes.
LARGEST_BODY = 1 << 20

#: How much of a body beyond the limit is read and thrown away, so that its sender gets to read the answer.
DRAINED = 64 << 20


async def json_body(request: Request) -> Any:
    """The request's decoded JSON.

    Raises:
        Refusal: 415 for another media type, 413 for a body over the limit, 400 for one that is not strict JSON.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal(415, f"send application/json, not {kind[:100] or 'a body without Content-Type'}")
    return decoded(await body(request))


async def body(request: Request) -> bytes:
    """The request's bytes.

    Raises:
        Refusal: 413 where they are more than LARGEST_BODY.
    """
    kept = bytearray()
    seen = 0
    async for chunk in request.stream():
        seen += len(chunk)
        if seen <= LARGEST_BODY:
            kept += chunk
        elif seen > DRAINED:
            break
    if seen > LARGEST_BODY:
        raise Refusal(413, f"the body is larger than {LARGEST_BODY:,} bytes")
    return bytes(kept)


def decoded(raw: bytes) -> Any:
    """The value of JSON text: UTF-8, finite numbers, no key twice, at most DEEPEST levels.

    Raises:
        Refusal: 400, saying what it is that can't be read.
    """
    try:
        text = raw.decode("utf-8")
        value = json.loads(text, parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_once)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise Refusal(400, f"the body is not valid Unicode text: {error.reason}") from error
    except RecursionError as error:
        raise Refusal(400, f"the body is nested more than {DEEPEST} levels deep") from error
    except ValueError as error:
        raise Refusal(400, f"the body is not JSON: {error}") from error
    if _deeper_than(value, DEEPEST):
        raise Refusal(400, f"the body is nested more than {DEEPEST} levels deep")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:40]} is beyond the numbers that can be read")
    return number


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:100]!r} stands twice in one object")
    return members


def _deeper_than(value: Any, levels: int) -> bool:
    level = [value]
    for _ in range(levels):
        level = [part for whole in level if isinstance(whole, dict | list) for part in _parts(whole)]
    return any(isinstance(part, dict | list) for part in level)


def _parts(whole: dict[str, Any] | list[Any]) -> list[Any]:
    return list(whole.values()) if isinstance(whole, dict) else whole
