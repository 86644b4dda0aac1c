"""Traces that are kept in a file, a line each, so that an interrupted run goes on where it stopped."""

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
STACK = ("torch", "transformers", "peft", "bitsandbytes")

#: Modules and packages of this package that no trace depends on.
APART = frozenset({"benchmark", "cli", "compare", "matching", "measure", "prove", "published", "random_grid"})


def fingerprint() -> str:
    """Which libraries and which state of this package make traces now."""
    digest = hashlib.sha256(" ".join(f"{name} {version(name)}" for name in STACK).encode())
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        if APART.isdisjoint(path.relative_to(package).with_suffix("").parts):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


class Journal:
    """Results by request, those of one fingerprint, or of any where it is None."""

    def __init__(self, path: Path, made_by: str | None) -> None:
        self._path = path
        self._made_by = made_by
        self._results: dict[str, dict[str, Any]] = {}
        for kept in _kept(path):
            if made_by in (None, kept["made_by"]):
                self._results[kept["key"]] = kept

    def __contains__(self, request: dict[str, Any]) -> bool:
        return _key(request) in self._results

    def get(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """A request's result, if there is one."""
        return self._results.get(_key(request))

    def add(self, request: dict[str, Any], result: dict[str, Any]) -> None:
        """Keep a result, in the file too."""
        kept = {"key": _key(request), "made_by": self._made_by or fingerprint(), "request": request, **result}
        self._results[kept["key"]] = kept
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(kept))


def _kept(path: Path) -> Iterator[dict[str, Any]]:
    """A file's results, without a last line that was cut off."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with suppress(json.JSONDecodeError):
            yield json.loads(line)


def _key(request: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:16]
