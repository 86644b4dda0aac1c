"""A file of results, one a line, so that an interrupted run continues where it stopped."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Libraries whose code a trace runs.
STACK = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "trl", "liger_kernel")

#: Modules and packages of validation/ that no trace depends on.
UNRELATED = frozenset({"benchmark", "cli", "compare", "matching", "measure", "prove", "published", "random_grid"})


def fingerprint() -> str:
    """Return a hash of the libraries' versions and of the code that makes traces."""
    digest = hashlib.sha256(" ".join(f"{name} {version(name)}" for name in STACK).encode())
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        if UNRELATED.isdisjoint(path.relative_to(package).with_suffix("").parts):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


class Journal:
    """Results by request: those of one fingerprint, or all if it is None."""

    def __init__(self, path: Path, made_by: str | None) -> None:
        self._path = path
        self._made_by = made_by
        self._results: dict[str, dict[str, Any]] = {}
        for stored in _stored(path):
            if made_by in (None, stored["made_by"]):
                self._results[stored["key"]] = stored

    def __contains__(self, request: dict[str, Any]) -> bool:
        return _key(request) in self._results

    def get(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """Return a request's result, or None."""
        return self._results.get(_key(request))

    def add(self, request: dict[str, Any], result: dict[str, Any]) -> None:
        """Add a result, also to the file."""
        stored = {"key": _key(request), "made_by": self._made_by or fingerprint(), "request": request, **result}
        self._results[stored["key"]] = stored
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(stored))


def _stored(path: Path) -> Iterator[dict[str, Any]]:
    """Yield a file's results, except a last line that was cut off."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with suppress(json.JSONDecodeError):
            yield json.loads(line)


def _key(request: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:16]
