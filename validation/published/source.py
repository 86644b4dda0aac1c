"""What others published: each source's rows as they tell them, with where they stand, since when, and the licence."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"

#: What a row says, under the names that its source uses.
Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A publication: its name here, its title, its licence, a remark, and its rows in order."""

    name: str
    title: str
    licence: str
    remark: str
    rows: tuple[Row, ...]


@cache
def sources() -> tuple[Source, ...]:
    """Every source, by name. What all rows of a file share stands once in it, under `common`."""
    return tuple(_read(path) for path in sorted(DATA.glob("*.json")))


def _read(path: Path) -> Source:
    told = json.loads(path.read_text(encoding="utf-8"))
    rows = tuple({**told["common"], **row} for row in told["rows"])
    return Source(name=path.stem, title=told["title"], licence=told["licence"], remark=told["remark"], rows=rows)


def address(row: Row) -> str:
    """Where a row's figures stand, at the commit from which they were read."""
    file, _, part = row["file"].partition("#")
    return f"{row['repository']}/blob/{row['commit']}/{file}" + (f"#{part}" if part else "")
