"""Hostile texts for parsers, and hostile requests for the application: mutations of what is accepted."""

import json
import re
from dataclasses import dataclass
from functools import cache
from urllib.parse import quote_from_bytes

from app.api import POST_EXAMPLES
from app.application import ALL_ROUTERS
from app.service.endpoints import OPENAPI_PATHS
from tests.hostile import mutations
from tests.hostile.parsers import ADDRESSES, CONFIGS, corpus

#: A small model: what a request of it takes is the application's time, not the estimate's.
SMALL = {"model": "HuggingFaceTB/SmolLM2-135M", "reserved": "rule", "engine": "calculator"}

#: The share of requests of pages. Most pages have an answer, whatever is mutated, and take 100 times as long as errors.
PAGES = 0.002

#: How often a body is mutated: once leads deep into the application, more often to a refusal at its edge.
ROUNDS = (1, 2, 2, 2)

#: Values for the parameters of paths.
PARAMETERS = {"id": "gpt2", "name": "papers", "filename": "fsdp.yaml"}

METHODS = ("GET", "GET", "GET", "POST", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "x" * 40)

HEADERS = (
    *((b"content-type", value) for value in (b"", b"application/json; charset=utf-16", b"text/plain", b"\xff", b"*/*")),
    *(
        (b"accept", value)
        for value in (b"", b"text/html;q=9", b"*/*;q=", b",,;=", b"application/json;q=0", b"\xfe" * 50)
    ),
    *((b"accept-encoding", value) for value in (b"", b"gzip;q=0", b"br, gzip", b"identity", b"\x80")),
    *((b"host", value) for value in (b"", b"a b", b"[::", b"evil.example:99999", b"\xff")),
    *((b"cookie", b"\xff=;;"), (b"range", b"bytes=9-1"), (b"if-none-match", b'"'), (b"if-modified-since", b"x")),
    *((b"content-length", b"-1"), (b"transfer-encoding", b"chunked"), (b"x" * 300, b"y" * 3000), (b"origin", b"null")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hostile:
    """A request as the server hands it to the application."""

    method: str
    path: str
    query: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""


def parsed_text(chance, parser):
    """Return a mutated text for a parser."""
    original = chance.choice(corpus()[parser])
    if original.startswith("{") and chance.random() < 0.6:
        body = mutations.several(chance, mutations.value, json.loads(original))
        return json.dumps(body, ensure_ascii=chance.random() < 0.9)
    return mutations.several(chance, mutations.text, original)


@cache
def route_paths():
    """Return the declared path of every route."""
    return [*(route.path for router in ALL_ROUTERS for route in router.routes), *OPENAPI_PATHS, "/metrics"]


@cache
def paths():
    """Every path of the application, with something in place of a parameter."""
    static = ["/static/app.css", "/static/", "/nothing", "//", "/.."]
    return [*(re.sub(r"{(\w+)(:path)?}", lambda found: PARAMETERS[found[1]], path) for path in route_paths()), *static]


@cache
def bodies():
    """Request bodies by path; those of estimates and the like have a small model and the rule."""
    found = []
    for examples in POST_EXAMPLES:
        for _, body in examples.requests.values():
            small = {key: value for key, value in SMALL.items() if key in examples.request_model.model_fields}
            nested = {"request": {**body["request"], **SMALL}} if isinstance(body.get("request"), dict) else {}
            added = {} if isinstance(body.get("model"), dict) or body.get("accounting") else small
            found.append((examples.path, {**body, **added, **nested}))
    found += [
        ("/api/v1/estimate", {**SMALL, "model": {"config": config}, "method": {"name": "lora"}})
        for config in CONFIGS.values()
    ]
    return found


def request(chance):
    """Return a hostile request."""
    draw = chance.random()
    if draw < 0.6:
        return _body(chance)
    if draw < 0.6 + PAGES:
        return _page(chance)
    path = _path(chance)
    method = chance.choice(METHODS)
    headers = tuple(chance.choice(HEADERS) for _ in range(chance.randint(0, 3)))
    return Hostile(method=method, path=path, query=_query(chance), headers=headers, body=_some_bytes(chance))


def _path(chance):
    """A mutated path, and a few times one of the application."""
    path = chance.choice(paths())
    if chance.random() < PAGES:
        return path
    while path in paths():
        path = mutations.text(chance, path)
        path = path if path.startswith("/") else f"/{path}"
    return path


def _body(chance):
    path, body = chance.choice(bodies())
    for _ in range(chance.choice(ROUNDS)):
        body = mutations.several(chance, mutations.value, body)
    encoded = mutations.dumped(body)
    if chance.random() < 0.3:
        encoded = mutations.several(chance, mutations.raw, encoded)
    headers = ((b"content-type", b"application/json"), *([chance.choice(HEADERS)] if chance.random() < 0.1 else []))
    return Hostile(method="POST", path=path, headers=headers, body=encoded)


def _page(chance):
    """A page or its JSON, by GET with an address or by POST with a form."""
    path = chance.choice(
        ("/estimate.json", "/compare.json", "/limits", "/inference", "/plan", "/difference", "/", "/export")
    )
    if chance.random() < 0.1:
        form = ((b"content-type", b"application/x-www-form-urlencoded"),)
        return Hostile(method="POST", path="/", headers=form, body=_query(chance))
    return Hostile(method="GET", path=path, query=_query(chance))


def _query(chance):
    query = mutations.several(chance, mutations.text, chance.choice(ADDRESSES))
    return quote_from_bytes(query.encode("utf-8", "surrogatepass"), safe="%&=+/;:,[]{}'\"").encode()


def _some_bytes(chance):
    return chance.choice((b"", b"{}", b"[" * 5000, b"\xff\xfe", b'{"model": ', b"a=b&c=d", b"9" * 6000))
