"""The access log: one JSON object per line, without queries and bodies, which contain plans."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

log = logging.getLogger("headroom.access")


def write_to_stdout() -> None:
    """Write the lines to standard output."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers[:] = [handler]
    log.propagate = False
    log.setLevel(logging.INFO)


def line(
    *, method: str, path: str, status: int, seconds: float, size: int, client: str | None, cache: str | None
) -> str:
    """Return the line of a request. `size` is that of the response's body as it was sent."""
    members: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "method": method,
        "path": path,
        "status": status,
        "milliseconds": round(seconds * 1000, 2),
        "bytes": size,
        "client": client,
    }
    if cache is not None:
        members["cache"] = cache
    return json.dumps(members)
