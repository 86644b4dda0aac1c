"""A sweep's rows as an Apache Parquet file: the columns of CSV, each with its type."""

from __future__ import annotations

from importlib.util import find_spec
from itertools import islice
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args

from app.api.answers.sweep import COLUMNS, SweptFit, SweptMemory, SweptParameters, cell, problems_text
from calculator.common.errors import refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from pydantic import BaseModel

    from calculator.limit_search.sweep import Sweep

#: The rows that are written at once, which bounds memory.
ROW_GROUP = 10_000

_MODELS: dict[str, type[BaseModel]] = {"parameters": SweptParameters, "memory": SweptMemory, "fit": SweptFit}

#: Types of a grid's values that are columns of numbers or truth values; all others are text, or JSON.
_PLAIN = {bool: "bool", int: "int64", float: "double"}


def check() -> None:
    """Check that the package which writes Parquet is installed.

    Raises:
        PlanError: with the way out.
    """
    if find_spec("pyarrow") is None:
        raise refusal("parquet", "Parquet needs the package pyarrow: pip install 'headroom-gpu[parquet]'")


def write(path: Path, sweep: Sweep, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Write the rows to a file as they are read, and yield them."""
    from pyarrow import RecordBatch, parquet, schema  # noqa: PLC0415  an extra installs it

    kinds = {name: _type(values) for name, values in sweep.grid.items()}
    columns = {**kinds, **{f"{part}.{name}": _figure_type(part, name) for part, name in COLUMNS}, "problems": "string"}
    fields = schema(list(columns.items()))
    left = iter(rows)
    with parquet.ParquetWriter(path, fields, compression="zstd") as writer:
        while group := list(islice(left, ROW_GROUP)):
            cells = zip(*(_cells(row, kinds) for row in group), strict=True)
            arrays = [list(column) for column in cells]
            writer.write_batch(RecordBatch.from_pydict(dict(zip(columns, arrays, strict=True)), schema=fields))
            yield from group


def _cells(row: dict[str, Any], kinds: dict[str, str]) -> list[Any]:
    points = [cell(value) if kinds[path] == "string" else value for path, value in row["point"].items()]
    figures = [row[part][name] if row[part] is not None else None for part, name in COLUMNS]
    return [*points, *figures, problems_text(row)]


def _type(values: tuple[Any, ...]) -> str:
    """Return the type of the column of a grid's values; null fits every type."""
    kinds = {type(value) for value in values if value is not None}
    kind = kinds.pop() if len(kinds) == 1 else str
    fits = kind is not int or all(abs(value) < 1 << 63 for value in values if value is not None)
    return _PLAIN.get(kind, "string") if fits else "string"


def _figure_type(part: str, name: str) -> str:
    annotation: Any = _MODELS[part].model_fields[name].annotation
    kinds = {arg for arg in get_args(annotation) or (annotation,) if arg is not NoneType}
    return _PLAIN.get(kinds.pop(), "string") if len(kinds) == 1 else "string"
