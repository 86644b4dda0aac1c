"""Published measurements: each source's rows in its own terms, with address, date and licence."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"

#: A row's fields, under the source's names.
Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A publication: its short name, title, licence, a remark, and its rows in order."""

    name: str
    title: str
    licence: str
    remark: str
    rows: tuple[Row, ...]


@cache
def sources() -> tuple[Source, ...]:
    """Return every source, by name; fields that all rows of a file share are in its `common`."""
    return tuple(_read(path) for path in sorted(DATA.glob("*.json")))


def _read(path: Path) -> Source:
    file = json.loads(path.read_text(encoding="utf-8"))
    rows = tuple({**file["common"], **row} for row in file["rows"])
    return Source(name=path.stem, title=file["title"], licence=file["licence"], remark=file["remark"], rows=rows)


def address(row: Row) -> str:
    """Return the URL of a row's figures, at the commit that they were read from, or in the package that has them."""
    if "address" in row:
        return str(row["address"])
    file, _, part = row["file"].partition("#")
    return f"{row['repository']}/blob/{row['commit']}/{file}" + (f"#{part}" if part else "")
