"""The marks of a micro-batch under stage 3, read from its tape."""

from __future__ import annotations

from bisect import bisect_right
from functools import partial
from itertools import pairwise, repeat
from operator import itemgetter, methodcaller
from typing import TYPE_CHECKING, Any

from calculator.engine import module_calls
from calculator.engine.autograd import GRADIENT_OF, parameter_of
from calculator.sharding.zero.parameters import Key, gradient_key
from calculator.sharding.zero3.segment import Placed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from calculator.engine.memory_curve import Window
    from calculator.engine.tape import Tape
    from calculator.sharding.zero3.followed import Followed

#: The prefixes of a program's marks, in addition to that of gradients, by the text before their colon.
PREFIXES = {
    prefix.removesuffix(": "): prefix
    for prefix in (
        module_calls.BEFORE_FORWARD,
        module_calls.BEFORE_FORWARD_OF_LEAF,
        module_calls.AFTER_FORWARD,
        module_calls.BEFORE_BACKWARD,
        module_calls.AFTER_BACKWARD,
        module_calls.PINNED,
        module_calls.UNPINNED,
        module_calls.KEPT,
        module_calls.EXTERNAL,
    )
}

#: The marks of views, which begin with the number of the view.
_OF_VIEWS = frozenset((module_calls.PINNED, module_calls.UNPINNED))

#: The prefixes of the other marks, which contain nothing but the path of a module or the name of a parameter.
_PLAIN = frozenset(PREFIXES.values()) - _OF_VIEWS - {module_calls.BEFORE_FORWARD_OF_LEAF}

#: The mark of a call in a no-grad pass whose input requires a gradient, in place of the number of a view. DeepSpeed
#: counts the input again, and so does not miss the end of the backward pass.
OF_LEAF = "leaf"

_POSITION, _LABEL = itemgetter(0), itemgetter(1)
_DIVIDED = methodcaller("partition", ": ")
#: Returns a mark as a `Placed`.
_PLACED: Callable[[tuple[Any, ...]], Placed] = partial(tuple.__new__, Placed)


def parts_of(
    tape: Tape, end: int, windows: Sequence[Window], followed: Followed
) -> Iterator[tuple[int | None, list[Placed]]]:
    """Yield the marks up to a position: those outside of the windows, and those of each window with its number."""
    numbers = followed.repetition.numbers
    names, entered, left = _bounds(tape, windows, followed)
    no_grad_pass, inside, wraps = "", False, False
    window: int | None = None
    marks: list[Placed] = []
    layer: int | None = None
    #: The layers in which views were created. They may end in another, whose parameters differ.
    viewed: dict[str, int | None] = {}
    given = tape.marks[: bisect_right(tape.marks, end, key=_POSITION)]
    positions, labels = zip(*given, strict=True)
    kinds, _, texts = zip(*map(_DIVIDED, labels), strict=True)
    prefixes = [*map(PREFIXES.get, kinds)]
    others = [at for at, prefix in enumerate(prefixes) if prefix not in _PLAIN]
    for begin, at in pairwise((-1, *others, len(given))):
        # The marks before this one are of one layer and one pass.
        if begin + 1 < at:
            row = slice(begin + 1, at)
            paths = [no_grad_pass + text for text in texts[row]] if no_grad_pass else texts[row]
            of_layer = [layer if "*" in path else None for path in paths]
            marks += map(_PLACED, zip(positions[row], prefixes[row], paths, of_layer, repeat(wraps), repeat("")))
        if at == len(given):
            break
        position, label, prefix = positions[at], labels[at], prefixes[at]
        if prefix in _OF_VIEWS:
            serial, text = (no_grad_pass + texts[at]).split(maxsplit=1)
            own = viewed.setdefault(serial, layer if "*" in text else None)
            marks.append(Placed(position, prefix, text, own, wraps, serial))
            continue
        if prefix is not None:
            path = no_grad_pass + texts[at]
            own = layer if "*" in path else None
            marks.append(Placed(position, module_calls.BEFORE_FORWARD, path, own, wraps, OF_LEAF))
            continue
        if label.startswith(module_calls.NO_GRAD):
            no_grad_pass, inside = label.removeprefix(module_calls.NO_GRAD), True
        elif label == module_calls.NO_GRAD_ENDS:
            no_grad_pass, inside = "", False
        wraps = inside and not no_grad_pass
        if label in entered or label in left:
            yield window, marks
            window, marks = entered.get(label), []
        name, is_layer, number_and_pass = label.partition("layer ")
        if is_layer and name in names and label.endswith((" forward", " backward")):
            number = int(number_and_pass.split()[0])
            of = number if label.endswith("forward") else number - 1
            layer = numbers[of] if of < len(numbers) else None
        elif label.startswith(GRADIENT_OF):
            text, own = gradient_key(label, layer)
            if parameter_of(label)[1] is not None:  # of a tower, whose modules are outside the repeated layers
                text, own = Key(text, own).numbered
            marks.append(Placed(position, GRADIENT_OF, text, own))
    yield window, marks


def _bounds(
    tape: Tape, windows: Sequence[Window], followed: Followed
) -> tuple[Collection[str], dict[str, int], set[str]]:
    """Return the names of the passes whose layers are marked, and the marks at which windows begin and end.

    The marks at which they begin have the numbers of the windows.
    """
    _, start, stop = followed.repetition.boundaries
    cuts = [(f"layer {start} forward", f"layer {stop} forward"), (f"layer {stop} backward", f"layer {start} backward")]
    of_layers = filter(methodcaller("endswith", " forward"), map(_LABEL, tape.marks))
    names = dict.fromkeys(label.partition("layer ")[0] for label in of_layers)
    cuts += [(f"{name}layer {start} forward", f"{name}layer {stop} forward") for name in names if name]
    entered = {first: number for number, (first, _) in enumerate(cuts[: len(windows)])}
    return names, entered, {last for _, last in cuts[: len(windows)]}
