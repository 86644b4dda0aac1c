"""The filters and the order of a GPU's rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from calculator.cards.settings import CardMethod  # noqa: TC001  its hints are read at run time
from calculator.inputs.settings import setting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from calculator.cards.card import CardRow

SortKey = Literal["parameters", "model", "method", "required_bytes", "sequence_length", "micro_batch_size"]

#: The largest number of rows in an answer, which exceeds the size of the table.
MOST_ROWS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class CardQuery:
    """The filters and the order of a GPU's rows."""

    q: str = setting(
        "",
        label="Search",
        help="Words of a model's id, its aliases or its model_type, all of which must occur.",
        example="qwen 7b",
    )
    method: CardMethod | None = setting(None, label="Method", help="Rows of one method only.", empty="all")
    fits: Literal["fits", "does_not_fit", "all"] = setting(
        "fits", label="Verdict", help="Rows of runs that fit the GPU, that do not, or all rows."
    )
    sequence_length: int | None = setting(
        None,
        label="Sequence length",
        help="Rows whose longest sequence is at least this long.",
        minimum=1,
        maximum=16_777_216,
        unit="tokens",
        example=8192,
        empty="any",
    )
    micro_batch_size: int | None = setting(
        None,
        label="Micro-batch size",
        help="Rows whose largest micro-batch is at least this large.",
        minimum=1,
        maximum=65_536,
        example=4,
        empty="any",
    )
    sort: SortKey = setting(
        "parameters", label="Sort by", help="The field that the rows are sorted by; rows without it come last."
    )
    order: Literal["descending", "ascending"] = setting("descending", label="Order", help="The order of the rows.")
    offset: int = setting(
        0, label="First row", help="The number of rows to skip.", minimum=0, maximum=MOST_ROWS, form=False
    )
    limit: int = setting(
        100, label="Rows", help="The largest number of rows in the answer.", minimum=1, maximum=MOST_ROWS, example=100
    )


def matching(rows: Iterable[CardRow], query: CardQuery) -> tuple[CardRow, ...]:
    """Return the rows that match a query, in its order. Equal rows keep the order of the table."""
    wanted = [row for row in rows if _matches(row, query)]
    with_value = [row for row in wanted if _KEYS[query.sort](row) is not None]
    with_value.sort(key=_KEYS[query.sort], reverse=query.order == "descending")
    return (*with_value, *(row for row in wanted if _KEYS[query.sort](row) is None))


def _matches(row: CardRow, query: CardQuery) -> bool:
    return (
        query.method in (None, row.method)
        and query.fits in ("all", "fits" if row.fits else "does_not_fit")
        and (query.sequence_length or 0) <= (row.sequence_length or 0)
        and (query.micro_batch_size or 0) <= (row.micro_batch_size or 0)
        and all(word in row.searched for word in query.q.lower().split())
    )


_KEYS: dict[SortKey, Callable[[CardRow], Any]] = {
    "parameters": lambda row: row.parameters,
    "model": lambda row: row.model.lower(),
    "method": lambda row: row.method,
    "required_bytes": lambda row: row.required_bytes,
    "sequence_length": lambda row: row.sequence_length,
    "micro_batch_size": lambda row: row.micro_batch_size,
}
