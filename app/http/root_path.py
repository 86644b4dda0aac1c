"""The path under which a proxy serves the application: what it strips from requests, and what links start with."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from typing import Any

#: The root path of the request that is being answered; empty without a proxy.
ROOT_PATH: ContextVar[str] = ContextVar("root_path", default="")


def route_path(scope: MutableMapping[str, Any]) -> str:
    """Return a request's path without the root path."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def from_root(address: str) -> str:
    """Return the address of this site as links spell it; other addresses are unchanged."""
    root = ROOT_PATH.get()
    return f"{root}{address}" if root and address.startswith("/") and not address.startswith("//") else address
