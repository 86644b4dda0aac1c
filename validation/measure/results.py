"""A results file: the environment, and the figures of every case measured so far."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from validation.measure.environment import IDENTITY

if TYPE_CHECKING:
    from pathlib import Path

    from validation.measure.agenda import Section

#: The file's format, which schema.json describes.
FORMAT = 1


class AnotherEnvironmentError(Exception):
    """A results file is of another machine or other versions."""


class Results:
    """The results of one environment, written after every case; results already in the file are kept."""

    def __init__(self, path: Path, environment: dict[str, Any], sections: tuple[Section, ...]) -> None:
        self._path = path
        self._document: dict[str, Any] = {"format": FORMAT, "environment": environment}
        self._document |= {section: [] for section in sections}
        if path.exists():
            self._document = self._continued(json.loads(path.read_text(encoding="utf-8")), environment)

    def __contains__(self, entry: tuple[Section, str]) -> bool:
        section, name = entry
        return any(row["name"] == name for row in self._document[section])

    def rows(self, section: Section) -> list[dict[str, Any]]:
        """Return the results of a section."""
        rows: list[dict[str, Any]] = self._document[section]
        return rows

    def add(self, section: Section, row: dict[str, Any]) -> None:
        """Add a result and write the file."""
        self._document[section].append(row)
        self.write()

    def write(self) -> None:
        """Write the file; a reader never sees a partial one."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_suffix(f"{self._path.suffix}.part")
        part.write_text(json.dumps(self._document, indent=1) + "\n", encoding="utf-8")
        part.replace(self._path)

    def _continued(self, document: dict[str, Any], environment: dict[str, Any]) -> dict[str, Any]:
        before = document["environment"]
        differ = [name for name in IDENTITY if before.get(name) != environment[name]]
        if document.get("format") != FORMAT or differ:
            message = (
                f"{self._path} is of another environment ({', '.join(differ) or 'format'} differ): name another file"
            )
            raise AnotherEnvironmentError(message)
        return self._document | document
