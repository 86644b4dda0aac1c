"""The layers of no-grad passes, in a micro-batch that lists the events of every layer.

Two periods of layers are interpreted (see `repetition`). The second period frees what the first one passes on, and
passes as much on itself. So the periods that it represents have its events with two alternating sets of rows: those
that the first period passes on, and those of the second. A period frees all of its other rows, and every period uses
these again. The exception is rows that stay until the pass ends, such as autocast's copies of trained weights: each
period has its own.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import groupby
from operator import invert
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from calculator.engine.repetition import Repetition
    from calculator.engine.tape import Tape


class Repeated(NamedTuple):
    """The events from `start` to `end`, which occur `times` times in a row."""

    start: int
    end: int
    times: int


class _Left(NamedTuple):
    """The rows that a period allocates and does not free: those that the next period frees, and those that stay."""

    passed_on: list[int]
    stays: list[int]


def with_repeated_period(layers: Repetition) -> Repetition:
    """Return the same layers to interpret, with the repeated period marked for `with_every_layer`."""
    if not layers.copies:
        return layers
    count = len(layers.numbers)
    return layers._replace(
        start=count,
        end=count,
        copies=0,
        repeated_positions=range(layers.start, layers.end),
        repeats=layers.copies,
    )


def with_every_layer(tape: Tape, passes: Iterable[tuple[str, Repetition]]) -> list[Repeated] | None:
    """Add the events of the layers of `passes` that were not interpreted to a tape. Return the repeated events.

    Return None if a period is not like the one before it.
    """
    repeated: list[Repeated] = []
    for prefix, layers in passes:
        if not layers.repeats:
            continue
        places, period = {label: at for at, label in tape.marks}, len(layers.repeated_positions)
        second = layers.repeated_positions.start
        first, start, end = (places[f"{prefix}layer {at} forward"] for at in (second - period, second, second + period))
        in_copy, rest = tape.events[start:end], tape.events[end:]
        left = _remaining_rows(tape, tape.events[first:start], in_copy, rest)
        if left is None:
            return None
        before, after = left
        other = _exchanged(before.passed_on, after.passed_on)
        if layers.repeats % 2:
            rest = [*map(other.get, rest, rest)]
        freed_at = [at for at, event in enumerate(rest, end) if ~event in after.stays] if after.stays else []
        if after.stays:
            added, rest = _with_rows_that_stay(tape, in_copy, other, after.stays, layers.repeats, rest)
        else:
            pair_events = [*in_copy, *map(other.get, in_copy, in_copy)]
            repeated.append(Repeated(start, start + len(pair_events), (layers.repeats + 1) // 2))
            added = [*pair_events[len(in_copy) :], *(() if layers.repeats % 2 else in_copy)]
        tape.events[end:] = [*added, *rest]
        tape.marks = [
            (at + len(added) + layers.repeats * bisect_left(freed_at, at) if at >= end else at, label)
            for at, label in tape.marks
        ]
    return repeated


def _remaining_rows(
    tape: Tape, first: Sequence[int], second: Sequence[int], rest: Sequence[int]
) -> tuple[_Left, _Left] | None:
    """Return the rows that the first and the second period leave, or None if the two differ."""
    rows = [_not_freed(period) for period in (first, second)]
    kinds = [[tape.rows[row] for row in own] for own in rows]
    own = {*second}
    freed_elsewhere_rows = {~event for event in own.difference(map(invert, own)) if event < 0}
    if (
        kinds[0] != kinds[1]
        or not freed_elsewhere_rows.issubset(rows[0])
        or not _has_all(rest, {~row for row in rows[1]})
    ):
        return None
    passed_on = [row in freed_elsewhere_rows for row in rows[0]]
    before, after = (
        _Left(
            [row for row, is_passed_on in zip(own, passed_on, strict=True) if is_passed_on],
            [row for row, is_passed_on in zip(own, passed_on, strict=True) if not is_passed_on],
        )
        for own in rows
    )
    return before, after


def _has_all(events: Sequence[int], wanted: set[int]) -> bool:
    """Return whether events have all of those that are wanted, most of which come early."""
    for event in events:
        wanted.discard(event)
        if not wanted:
            return True
    return not wanted


def _not_freed(period: Sequence[int]) -> list[int]:
    """Return the rows that a period allocates and does not free."""
    own = {*period}
    left = own.difference(map(invert, own))
    return [event for event in filter(left.__contains__, period) if event >= 0]


def _exchanged(rows: Sequence[int], others: Sequence[int]) -> dict[int, int]:
    """Return a map that exchanges the events of rows with those of other rows."""
    pairs = [*zip(rows, others, strict=True), *zip(others, rows, strict=True)]
    return {event: by for row, other in pairs for event, by in ((row, other), (~row, ~other))}


def _with_rows_that_stay(
    tape: Tape, own: Sequence[int], other: dict[int, int], stays: list[int], repeats: int, rest: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Return the events of `repeats` more periods, and those of the `rest`.

    Each period has its own rows that stay. An event of the `rest` that frees these rows frees those of all periods, one
    period after the other.
    """
    periods, added = [stays], list[int]()
    for n in range(1, repeats + 1):
        new = [*range(len(tape.rows), len(tape.rows) + len(stays))]
        tape.rows += [tape.rows[row] for row in stays]
        numbers = {**(other if n % 2 else {}), **dict(zip(stays, new, strict=True))}
        added += [numbers.get(event, event) for event in own]
        periods.append(new)
    places, after = {~row: at for at, row in enumerate(stays)}, list[int]()
    for frees, group in groupby(rest, places.__contains__):
        events = [*group]
        after += [~rows[places[event]] for rows in periods for event in events] if frees else events
    return added, after
