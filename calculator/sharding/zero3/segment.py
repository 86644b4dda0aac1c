"""The marks of a micro-batch under stage 3, and the segments of a pass that contain them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from calculator.engine import module_calls
from calculator.sharding.zero3.parameters import Module

if TYPE_CHECKING:
    from calculator.sharding.zero3.parameters import Partitioned

#: The kinds of marks of calls.
OF_MODULES = frozenset(
    (
        module_calls.BEFORE_FORWARD,
        module_calls.AFTER_FORWARD,
        module_calls.BEFORE_BACKWARD,
        module_calls.AFTER_BACKWARD,
    )
)

#: A mark: its position on the tape, its prefix, its module or its parameter, and the number of a view.
Event = tuple[int, str, Module | None, "Partitioned | None", str]


class Placed(NamedTuple):
    """A mark with its text.

    Attributes:
        position: The position on the tape.
        kind: The prefix.
        text: The path of a module, or the name of a parameter.
        layer: The number of its layer in the first copy. None outside of layers.
        wraps: Whether it is in a pass without adapters, in which PEFT's layer only calls the module that it wraps.
        serial: The number of a view.
    """

    position: int
    kind: str
    text: str
    layer: int | None
    wraps: bool = False
    serial: str = ""


class Segment(NamedTuple):
    """A part of the pass: the events of one copy of the repeated layers, or those outside of the copies.

    Attributes:
        start: The position on the tape at which it starts.
        end: The position at which it ends.
        window: The number of its window: forward, backward, or that of a no-grad pass.
        repeats: The number of copies before it, in the forward and in the backward pass.
        copy: The number of the copy in the forward pass. None outside of the copies.
        skipped: The number of copies that are skipped after it.
        events: The events.
        fetched: The modules whose parameters are gathered before an event, in order.
        active: The indices of the events at which something can be gathered or released, or a gradient is ready.
    """

    start: int
    end: int
    window: int | None
    repeats: tuple[int, ...]
    copy: int | None
    skipped: int
    events: list[Event]
    fetched: list[Module]
    active: list[int]
