"""A results file: the environment, and each case's figures as soon as they are known."""

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
    """A results file was made on another machine or with other versions."""


class Results:
    """The results of one environment, on disk after every case; what is there already is kept."""

    def __init__(self, path: Path, environment: dict[str, Any], sections: tuple[Section, ...]) -> None:
        self._path = path
        self._told: dict[str, Any] = {"format": FORMAT, "environment": environment}
        self._told |= {section: [] for section in sections}
        if path.exists():
            self._told = self._continued(json.loads(path.read_text(encoding="utf-8")), environment)

    def __contains__(self, entry: tuple[Section, str]) -> bool:
        section, name = entry
        return any(row["name"] == name for row in self._told[section])

    def rows(self, section: Section) -> list[dict[str, Any]]:
        """What is measured of a section."""
        rows: list[dict[str, Any]] = self._told[section]
        return rows

    def add(self, section: Section, row: dict[str, Any]) -> None:
        """Keep a result; the file is whole at every moment."""
        self._told[section].append(row)
        self.write()

    def write(self) -> None:
        """Write the file."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_suffix(f"{self._path.suffix}.part")
        part.write_text(json.dumps(self._told, indent=1) + "\n", encoding="utf-8")
        part.replace(self._path)

    def _continued(self, told: dict[str, Any], environment: dict[str, Any]) -> dict[str, Any]:
        before = told["environment"]
        differ = [name for name in IDENTITY if before.get(name) != environment[name]]
        if told.get("format") != FORMAT or differ:
            message = (
                f"{self._path} was made elsewhere ({', '.join(differ) or 'another format'} differ): name another file"
            )
            raise AnotherEnvironmentError(message)
        return told
