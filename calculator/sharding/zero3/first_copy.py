"""The events of a micro-batch with one copy of its repeated layers, of a model that runs once."""

from __future__ import annotations

from bisect import bisect_right
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from calculator.engine import module_calls
from calculator.engine.autograd import GRADIENT_OF
from calculator.sharding.zero.parameters import Key
from calculator.sharding.zero3.called_modules import Name, add_parameters
from calculator.sharding.zero3.marks import OF_VIEWS, gradient_name, layer_after, read
from calculator.sharding.zero3.parameters import Module
from calculator.sharding.zero3.segment import Event, Segment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.engine.memory_curve import Window
    from calculator.engine.tape import Tape
    from calculator.sharding.zero3.copies import Substitutes
    from calculator.sharding.zero3.followed import Followed
    from calculator.sharding.zero3.parameters import Partitioned

_POSITION = itemgetter(0)

#: The kinds of events in which a module is called or its call ends.
_CALLS = frozenset((module_calls.AFTER_FORWARD, module_calls.BEFORE_BACKWARD, module_calls.AFTER_BACKWARD))

#: A part of the marks: the number of its window, its events, and the modules whose parameters are gathered.
_Part = tuple[int | None, list[Event], list[Module]]


class FirstCopy(NamedTuple):
    """The events of a micro-batch with one copy of its repeated layers, with the attributes of `Program`.

    `Program` is for all micro-batches, and takes twice as long.
    """

    marks: Sequence[tuple[int, str]]
    forward: int
    backward: int
    end: int
    modules: dict[Name, Module]
    segments: list[Segment]
    runs: int = 1
    second_root: None = None


def first_copy(
    tape: Tape,
    windows: Sequence[Window],
    followed: Followed,
    parameters: Sequence[Partitioned],
    substitutes: Substitutes,
) -> FirstCopy | None:
    """Return the events of a micro-batch, or None if they are more than calls of a model that runs once.

    `followed` is the first copy alone.
    """
    places = {label: position for position, label in tape.marks}
    reader = _Reader(followed, parameters)
    end = places["epilogue"]
    if substitutes.copies or not reader.has_read(tape.marks[: bisect_right(tape.marks, end, key=_POSITION)]):
        return None
    add_parameters(reader.modules, parameters, reader.by_name, set(), substitutes)
    forward, backward = places["forward"], places["backward"]
    segments, at = [], forward
    for window, events, fetched in reader.parts:
        if window is None:
            start, at = at, min([window.start for window in windows if window.start >= at], default=end)
        else:
            start, at = windows[window].start, windows[window].end
        active = [
            number
            for number, (_, kind, module, _, _) in enumerate(events)
            if kind != module_calls.AFTER_FORWARD or module is None or module.parameters
        ]
        copy = None if window is None else 0
        segments.append(Segment(start, at, window, (0, 0), copy, 0, events, fetched, active))
    return FirstCopy(tape.marks, forward, backward, end, reader.modules, segments)


class _Reader:
    """The parts of the marks, and the modules that they call. Modules have no parameters yet."""

    def __init__(self, followed: Followed, parameters: Sequence[Partitioned]) -> None:
        self.by_name: dict[Name, Partitioned] = {parameter.key: parameter for parameter in parameters}
        self.modules: dict[Name, Module] = {}
        self.parts: list[_Part] = []
        self._numbers = followed.repetition.numbers
        _, start, stop = followed.repetition.boundaries
        #: The marks at which parts begin, with the windows.
        self._begins: dict[str, int | None] = {
            f"layer {start} forward": 0,
            f"layer {stop} forward": None,
            f"layer {stop} backward": 1,
            f"layer {start} backward": None,
        }

    def has_read(self, marks: Sequence[tuple[int, str]]) -> bool:
        """Read the marks. Return whether they are calls of a model that runs once and reads no others' parameters."""
        modules, by_name = self.modules, self.by_name
        events: list[Event] = []
        fetched: list[Module] = []
        window: int | None = None
        layer: int | None = None
        root: Module | None = None
        #: The layers in which views were created. They may end in another, whose parameters differ.
        viewed: dict[str, int | None] = {}
        for position, label in marks:
            kind, text, serial, in_layer = read(label)
            if not kind:
                if label.startswith((module_calls.NO_GRAD, module_calls.NO_GRAD_ENDS)):
                    return False
                if label in self._begins:
                    self.parts.append((window, events, fetched))
                    window, events, fetched = self._begins[label], [], []
                if label.startswith(GRADIENT_OF):
                    events.append((position, GRADIENT_OF, None, by_name.get(gradient_name(label, layer)), ""))
                else:
                    layer = layer_after(label, layer, self._numbers)
                continue
            key = text, layer if in_layer else None
            if kind == module_calls.BEFORE_FORWARD:
                module = modules.get(key)
                if module is None:
                    module = modules[key] = Module(len(modules), [], tuple.__new__(Key, key))  # faster than a call
                    root = root or module
                elif module is root:
                    return False
                fetched.append(module)
                events.append((position, kind, module, None, serial))
            elif kind in _CALLS:
                module = modules.get(key)
                if kind == module_calls.BEFORE_BACKWARD and module is not None:
                    fetched.append(module)
                events.append((position, kind, module, None, serial))
            elif kind == module_calls.EXTERNAL:
                return False
            else:
                if kind in OF_VIEWS:
                    key = text, viewed.setdefault(serial, key[1])
                events.append((position, kind, None, by_name.get(key), serial))
        self.parts.append((window, events, fetched))
        first = self.parts[0][1]
        return root is not None and first[0][2] is root
