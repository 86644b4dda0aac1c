"""The endpoint of a path, by which metrics count, answers are cached, and long requests are recognized."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

#: POST endpoints whose answer depends only on the body.
KEPT = frozenset(
    f"/api/v1/{name}" for name in ("estimate", "compare", "limits", "plan", "inference", "export", "import")
)

#: POST endpoints whose answer is streamed to clients that accept NDJSON. Sweeps stream their rows.
STREAMED = KEPT | {"/api/v1/run", "/api/v1/diagnose"}

#: Pages whose answer is in parts, which are streamed if they take long.
IN_PARTS = frozenset(("/", "/import", "/plan", "/limits", "/run", "/diagnose", "/difference"))

#: The addresses of the OpenAPI document: the versioned one, and the one at which clients look for it.
OPENAPI_PATHS = ("/api/v1/openapi.json", "/openapi.json")

#: Endpoints that are always answered, however many requests wait.
ALWAYS = frozenset(("/healthz", "/readyz", "/metrics"))

#: GET endpoints whose response depends only on the address and the installed files. Proxies may cache it.
CATALOGUES = frozenset(
    f"/api/v1/{name}"
    for name in (
        *("models", "models/{id}", "models/types", "gpus", "cards", "cards/{id}"),
        *("methods", "trainers", "validation"),
    )
) | set(OPENAPI_PATHS)

#: Endpoints that take milliseconds, and are not forwarded. All others may take seconds.
SHORT = (
    ALWAYS
    | (CATALOGUES - set(OPENAPI_PATHS))
    | {"/api/v1/estimate", "/api/v1/import", "/static", "/docs", "/models", "/cards", "/cards/{id}", "other"}
)

#: The name of paths without an endpoint.
OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """The paths of an application, as its routes spell them."""

    exact: frozenset[str]
    patterns: tuple[tuple[re.Pattern[str], str], ...] = field(default=())

    @classmethod
    def from_paths(cls, paths: Iterable[str]) -> Endpoints:
        """Return the endpoints of the paths of routes."""
        plain = [path.replace(":path", "") for path in paths]
        patterns = [(re.compile(_pattern(path)), path) for path in plain if "{" in path]
        return cls(exact=frozenset(path for path in plain if "{" not in path), patterns=tuple(patterns))

    def name(self, path: str) -> str:
        """Return the endpoint of a request's path: a bounded set of names."""
        if path in self.exact:
            return path
        if path.startswith("/static/"):
            return "/static"
        return next((name for pattern, name in self.patterns if pattern.fullmatch(path)), OTHER)


def _pattern(path: str) -> str:
    """Return the regular expression of a path with parameters. The id of a model has slashes."""
    return re.sub(r"\\\{(\w+)\\\}", lambda match: ".+" if match[1] == "id" else "[^/]+", re.escape(path))
