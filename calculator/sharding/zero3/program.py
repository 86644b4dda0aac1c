"""A micro-batch as stage 3 sees it: calls of modules, ready gradients, and weights that a recomputation saves."""

from __future__ import annotations

from bisect import bisect_right
from functools import cache, cached_property
from itertools import pairwise
from operator import attrgetter, itemgetter, methodcaller
from typing import TYPE_CHECKING, Generic, TypeVar

from calculator.engine import module_calls
from calculator.engine.autograd import GRADIENT_OF
from calculator.engine.kinds import numbered
from calculator.methods.compared import REFERENCE as SECOND
from calculator.sharding.zero.parameters import Key
from calculator.sharding.zero3.called_modules import Name, add_parameters, in_order
from calculator.sharding.zero3.copies import WRAPPED, Substitutes
from calculator.sharding.zero3.marks import OF_LEAF, OF_VIEWS, gradient_name, layer_after, read
from calculator.sharding.zero3.parameters import CAST, Module
from calculator.sharding.zero3.segment import Event, Placed, Segment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from calculator.engine.memory_curve import Window
    from calculator.engine.tape import Tape
    from calculator.sharding.zero3.followed import Followed
    from calculator.sharding.zero3.parameters import Partitioned

#: A module or a parameter.
Named = TypeVar("Named")

#: The kind of an event that is a call in a no-grad pass of the trained model.
NO_GRAD_FORWARD = "before no-grad forward: "

#: The kinds of events before which a module's parameters are gathered.
FETCHES = frozenset((module_calls.BEFORE_FORWARD, NO_GRAD_FORWARD, module_calls.BEFORE_BACKWARD))

#: The numbers of the windows of the forward and of the backward pass.
FORWARD, BACKWARD = 0, 1

_POSITION, _LABEL = itemgetter(0), itemgetter(1)
#: The kind of a call.
_BEFORE = module_calls.BEFORE_FORWARD
_KIND, _WRAPS = attrgetter("kind"), attrgetter("wraps")


class Program:
    """The events of a micro-batch in order, with the positions at which its forward and its backward pass begin."""

    def __init__(
        self,
        tape: Tape,
        windows: Sequence[Window],
        followed: Followed,
        parameters: Sequence[Partitioned],
        substitutes: Substitutes,
        modules: dict[Name, Module] | None = None,
        leaves: set[str] | None = None,
    ) -> None:
        self.marks, self._followed, self.substitutes = tape.marks, followed, substitutes
        #: The parameters by their names and layers.
        self.by_name: dict[Name, Partitioned] = {parameter.key: parameter for parameter in parameters}
        marks = dict(zip(map(_LABEL, tape.marks), map(_POSITION, tape.marks), strict=True))
        self.forward, self.backward, self.end = marks["forward"], marks["backward"], marks["epilogue"]
        parts = [
            (window, [*substitutes.with_copies(own)] if substitutes.copies else own)
            for window, own in _marks_by_window(tape, self.end, windows, followed)
        ]
        leaves = leaves_of(tape) if leaves is None else leaves
        kinds = {kind for _, own in parts for kind in map(_KIND, own)}
        calls = [[(mark.text, mark.layer) for mark in own if mark.kind == _BEFORE] for _, own in parts]
        if modules is None:
            called = self._called([(window, own) for (window, _), own in zip(parts, calls, strict=True)])
            reads = [marks for _, marks in parts] if module_calls.EXTERNAL in kinds else []
            modules = self._with_parameters(called, reads, parameters, leaves)
        #: The modules by their paths and layers.
        self.modules = modules
        begun = [text for own in calls for text, _ in own]
        root = next(text for text in begun if not text.startswith(SECOND))
        #: How often the model runs, and whether the graph of a loss keeps gathered weights alive.
        self.runs = begun.count(root)
        self.keeps = module_calls.KEPT in kinds
        #: The outermost modules: of the model, and of a second model.
        self.root = self.modules[root, None]
        second = next((text for text in begun if text.startswith(SECOND)), None)
        self.second_root = None if second is None else self.modules[second, None]
        #: Whether modules read parameters of others.
        self._reads = module_calls.EXTERNAL in kinds
        self.segments = [*self._segments(parts, windows)]
        if leaves:
            _look_inside(self.segments)

    def _with_parameters(
        self,
        called: Sequence[Name],
        reads: Sequence[Sequence[Placed]],
        parameters: Sequence[Partitioned],
        leaves: set[str],
    ) -> dict[Name, Module]:
        """Return the called modules with their own parameters and those that they read of other modules.

        `reads` are the marks among which are those of such reads.
        """
        modules = {
            # Faster than a call of Key.
            key: Module(number, [], tuple.__new__(Key, key), in_second_model=key[0].startswith(SECOND))
            for number, key in enumerate(called)
        }
        for key, module in modules.items() if leaves else ():
            module.is_leaf = key[0].removeprefix(SECOND) in leaves
        add_parameters(modules, parameters, self.by_name, leaves, self.substitutes)
        for external in [mark for marks in reads for mark in marks if mark.kind == module_calls.EXTERNAL]:
            path, _, name = external.text.partition(": ")
            model = SECOND if path.startswith(SECOND) else ""
            for key in [key for key in modules if key[0] == path]:
                # Layers of another kind have modules of the same path without the parameter.
                parameter = self.by_name.get((model + name, key[1] if "*" in name else None))
                if parameter is not None and parameter not in modules[key].parameters:
                    modules[key].parameters.append(parameter)
        if reads:
            in_order(modules.values())
        for module in modules.values() if any(map(CAST, parameters)) else ():
            module.cast = [parameter for parameter in module.parameters if parameter.cast]
        return modules

    def module(self, path: str, layer: int | None) -> Module:
        """Return a module.

        A module that the micro-batch does not call gets its own parameters.
        """
        module = self.modules.get((path, layer))
        if module is None:
            own = [
                parameter
                for (name, of), parameter in self.by_name.items()
                if (name.rpartition(".")[0], of) == (path, layer)
            ]
            module = self.modules[path, layer] = Module(len(self.modules), own, Key(path, layer))
        return module

    def _called(self, calls: Iterable[tuple[int | None, Sequence[Name]]]) -> list[Name]:
        """Return the modules that are called, as paths with the numbers of their layers.

        `calls` are those of the first copy in each window, and those outside of the windows.
        """
        called: dict[Name, None] = {}
        for window, own in calls:
            paths = dict.fromkeys(own)
            for copy in (0,) if window is None else self._followed.numbers:
                more = copy * self._followed.period
                called.update({(path, None if layer is None else layer + more): None for path, layer in paths})
        return [*called]

    def _segments(
        self, parts: Sequence[tuple[int | None, list[Placed]]], windows: Sequence[Window]
    ) -> Iterator[Segment]:
        """Yield the segments in order.

        A window is run once for each followed copy. The backward pass runs the last copy first.
        """
        followed, at = self._followed, self.forward
        last = followed.copies - 1
        repeats = [0] * len(windows)
        for window, given in parts:
            own = [mark for mark in given if mark.kind != module_calls.EXTERNAL] if self._reads else given
            marks = [wrapped for mark in own for wrapped in self._wrapped(mark)] if any(map(_WRAPS, own)) else own
            if window is None:
                end = min([window.start for window in windows if window.start >= at], default=self.end)
                *before_runs, rest = self._split_by_run(marks)
                for own_run, next_run in pairwise((*before_runs, rest)):
                    yield Segment(at, next_run[0].position, None, tuple(repeats), None, 0, *self._events(own_run)(0))
                    at = next_run[0].position
                yield Segment(at, end, None, tuple(repeats), None, 0, *self._events(rest)(0))
                at = end
                continue
            events, backward = self._events(marks), window == BACKWARD
            before_gap = followed.before + followed.skipped if backward else followed.before - 1
            for copy in reversed(followed.numbers) if backward else followed.numbers:
                repeats[window] = last - copy if backward else copy
                skipped = followed.skipped if copy == before_gap else 0
                start, end = windows[window].start, windows[window].end
                yield Segment(start, end, window, tuple(repeats), copy, skipped, *events(copy))
            at = windows[window].end

    def _split_by_run(self, marks: Sequence[Placed]) -> list[Sequence[Placed]]:
        """Divide the marks outside of the windows where a model begins to run again."""
        roots = {root.key for root in (self.root, self.second_root) if root is not None}
        begins = [
            at
            for at, mark in enumerate(marks)
            if at and mark.kind == module_calls.BEFORE_FORWARD and (mark.text, mark.layer) in roots
        ]
        return [marks[start:end] for start, end in pairwise((0, *begins, len(marks)))]

    @cached_property
    def model_runs(self) -> list[list[Segment]]:
        """The segments of each run of a model: those under no_grad, and that of the loss, which is the last."""
        roots = (self.root, self.second_root)
        runs: list[list[Segment]] = []
        for segment in self.segments:
            _, kind, module, *_ = segment.events[0] if segment.events else (0, "", None)
            if not runs or (kind in {module_calls.BEFORE_FORWARD, NO_GRAD_FORWARD} and module in roots):
                runs.append([])
            runs[-1].append(segment)
        return runs

    def _events(self, marks: Sequence[Placed]) -> Callable[[int], tuple[list[Event], list[Module], list[int]]]:
        """Return a function that lists, for a copy, the events of marks, the fetched modules, and the active events."""
        positions, kinds, texts, layers, wraps, serials = [[*column] for column in zip(*marks, strict=True)] or [[]] * 6
        if any(wraps):
            kinds = [
                NO_GRAD_FORWARD if is_wrapped and kind == module_calls.BEFORE_FORWARD and serial != OF_LEAF else kind
                for kind, is_wrapped, serial in zip(kinds, wraps, serials, strict=True)
            ]
        names = [*zip(texts, layers, strict=True)]
        # No module has the name of a parameter.
        own: list[Module | None] = [*map(self.modules.get, names)]
        own_parameters: list[Partitioned | None] = [*map(self.by_name.get, names)]
        active = [
            number
            for number, (kind, module) in enumerate(zip(kinds, own, strict=True))
            if kind != module_calls.AFTER_FORWARD or module is None or module.parameters
        ]
        fetched = [number for number in active if kinds[number] in FETCHES]

        @cache
        def distinct() -> tuple[_Named[Module], _Named[Partitioned]]:
            modules = [name if module is not None else None for name, module in zip(names, own, strict=True)]
            parameters = [name if module is None else None for name, module in zip(names, own, strict=True)]
            period = self._followed.period
            return _Named(self.modules, modules, period), _Named(self.by_name, parameters, period)

        def events_of_copy(copy: int) -> tuple[list[Event], list[Module], list[int]]:
            event_modules, event_parameters = own, own_parameters
            if copy:
                event_modules, event_parameters = ([*named.in_copy(copy)] for named in distinct())
            events = [*zip(positions, kinds, event_modules, event_parameters, serials, strict=True)]
            return events, [event_modules[number] for number in fetched], active  # type: ignore[misc]  # fetched: all are calls

        return events_of_copy

    def _wrapped(self, mark: Placed) -> Iterator[Placed]:
        """Yield a mark, and the mark of the module that an adapter's layer calls."""
        inner = f"{mark.text}.{WRAPPED}"
        if not mark.wraps or mark.text in self.substitutes.copies or (inner, mark.layer) not in self.modules:
            yield mark
            return
        marks = [mark, mark._replace(text=inner)]
        yield from marks if mark.kind == module_calls.BEFORE_FORWARD else reversed(marks)


def leaves_of(tape: Tape) -> set[str]:
    """Return the paths of leaf modules, whose parameters are gathered with those of all modules in them."""
    labels = filter(methodcaller("startswith", module_calls.LEAF), map(_LABEL, tape.marks))
    return {label.removeprefix(module_calls.LEAF) for label in labels}


class _Named(Generic[Named]):
    """The modules, or the parameters, of marks in each copy of the repeated layers. None for a mark without one."""

    def __init__(self, named: Mapping[Name, Named], names: Sequence[Name | None], period: int) -> None:
        self._named, self._period = named, period
        self._distinct, self._numbers = numbered(names)

    def in_copy(self, copy: int) -> Iterator[Named | None]:
        """Return the modules or parameters of a copy."""
        named, more = self._named, copy * self._period
        own = [
            None if name is None else named[name[0], None if name[1] is None else name[1] + more]
            for name in self._distinct
        ]
        return map(own.__getitem__, self._numbers)


def _marks_by_window(
    tape: Tape, end: int, windows: Sequence[Window], followed: Followed
) -> Iterator[tuple[int | None, list[Placed]]]:
    """Yield the marks up to a position: those outside of the windows, and those of each window with its number."""
    numbers, (_, start, stop) = followed.repetition.numbers, followed.repetition.boundaries
    cuts = [(f"layer {start} forward", f"layer {stop} forward"), (f"layer {stop} backward", f"layer {start} backward")]
    no_grad_pass, inside, wraps = "", False, False
    if len(windows) > len(cuts):
        layer_labels = filter(methodcaller("endswith", " forward"), map(_LABEL, tape.marks))
        names = dict.fromkeys(label.partition("layer ")[0] for label in layer_labels)
        cuts += [(f"{name}layer {start} forward", f"{name}layer {stop} forward") for name in names if name]
    entered = {first: number for number, (first, _) in enumerate(cuts[: len(windows)])}
    left = {last for _, last in cuts[: len(windows)]}
    window: int | None = None
    marks: list[Placed] = []
    layer: int | None = None
    #: The layers in which views were created. They may end in another, whose parameters differ.
    viewed: dict[str, int | None] = {}
    for position, label in tape.marks[: bisect_right(tape.marks, end, key=_POSITION)]:
        prefix, text, serial, in_layer = read(label)
        if prefix:
            own = layer if in_layer else None
            if prefix in OF_VIEWS:
                own = viewed.setdefault(serial, own)
            text = no_grad_pass + text if no_grad_pass else text
            marks.append(tuple.__new__(Placed, (position, prefix, text, own, wraps, serial)))  # faster than a call
            continue
        if label.startswith(module_calls.NO_GRAD):
            no_grad_pass, inside = label.removeprefix(module_calls.NO_GRAD), True
        elif label == module_calls.NO_GRAD_ENDS:
            no_grad_pass, inside = "", False
        wraps = inside and not no_grad_pass
        if label in entered or label in left:
            yield window, marks
            window, marks = entered.get(label), []
        if label.startswith(GRADIENT_OF):
            marks.append(Placed(position, GRADIENT_OF, *gradient_name(label, layer)))
        else:
            layer = layer_after(label, layer, numbers)
    yield window, marks


def _look_inside(segments: Iterable[Segment]) -> None:
    """Store in each module the parameters of the modules that are called during its forward pass.

    Calls in recomputations are ignored, because recomputations stop before the outer modules return.
    """
    running: list[Module] = []
    for _, kind, module, *_ in (event for segment in segments for event in segment.events):
        if kind == module_calls.BEFORE_BACKWARD:
            return
        if module is None:
            continue
        if kind == module_calls.AFTER_FORWARD:
            running.pop()
        elif kind in {module_calls.BEFORE_FORWARD, NO_GRAD_FORWARD}:
            for around in running:
                if not around.is_leaf:
                    around.inside.update(
                        dict.fromkeys(
                            parameter for parameter in module.parameters if parameter not in around.parameters
                        )
                    )
            running.append(module)
