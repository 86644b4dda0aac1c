"""A micro-batch as stage 3 sees it: calls of modules, gradients, and weights that a recomputation saves."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from calculator.engine import module_calls
from calculator.engine.autograd import GRADIENT_OF
from calculator.sharding.zero3.parameters import Module

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from calculator.engine.tape import Tape
    from calculator.sharding.zero3.parameters import Partitioned

#: The prefixes of a program's marks.
PREFIXES = (
    module_calls.BEFORE_FORWARD,
    module_calls.AFTER_FORWARD,
    module_calls.BEFORE_BACKWARD,
    module_calls.AFTER_BACKWARD,
    module_calls.PINNED,
    module_calls.UNPINNED,
    module_calls.KEPT,
    GRADIENT_OF,
)

#: The names under which PEFT's layers keep the module that they wrap, and the parameter whose dtype their code reads.
WRAPPED, READ = "base_layer", "lora_A"


class Event(NamedTuple):
    """A mark: its position on the tape, its prefix, and what it is about."""

    position: int
    kind: str
    module: Module | None
    parameter: Partitioned | None
    serial: str = ""


class Program:
    """The events of a micro-batch in order, with the positions at which its forward and its backward pass begin."""

    def __init__(self, tape: Tape, parameters: Sequence[Partitioned], tied: Mapping[str, str]) -> None:
        self._by_name = {(each.key.name, each.key.layer): each for each in parameters}
        marks = {label: at for at, label in tape.marks if label in {"forward", "backward", "epilogue"}}
        self.forward, self.backward, self.end = marks["forward"], marks["backward"], marks["epilogue"]
        placed = [*_placed(tape, self.end)]
        paths = {(path, layer) for _, kind, path, layer in placed if kind == module_calls.BEFORE_FORWARD}
        self._modules = _modules(paths, parameters)
        for name, of in tied.items():
            self._modules[name.rpartition(".")[0], None].parameters.append(self._by_name[of, None])
        self.events = [self._event(*each) for each in placed]

    def _event(self, position: int, kind: str, text: str, layer: int | None) -> Event:
        if kind in (module_calls.PINNED, module_calls.UNPINNED):
            serial, name = text.split(maxsplit=1)
            return Event(position, kind, None, self._parameter(name, layer), serial)
        if kind in (GRADIENT_OF, module_calls.KEPT):
            return Event(position, kind, None, self._parameter(text, layer))
        return Event(position, kind, self._modules[text, layer if "*" in text else None], None)

    def _parameter(self, name: str, layer: int | None) -> Partitioned:
        return self._by_name[name, layer if "*" in name else None]


def _placed(tape: Tape, end: int) -> Iterator[tuple[int, str, str, int | None]]:
    """Each mark of a call, a gradient or a saved weight, with the number of the layer that runs."""
    layer: int | None = None
    for position, label in tape.marks:
        if position > end:
            continue
        if label.startswith("layer ") and label.endswith(("forward", "backward")):
            number = int(label.split()[1])
            layer = number if label.endswith("forward") else number - 1
            continue
        kind = next((prefix for prefix in PREFIXES if label.startswith(prefix)), None)
        if kind is not None:
            yield position, kind, label.removeprefix(kind), layer


def _modules(
    paths: set[tuple[str, int | None]], parameters: Sequence[Partitioned]
) -> Mapping[tuple[str, int | None], Module]:
    """The modules that are called, with their parameters."""
    keys = sorted({(path, layer if "*" in path else None) for path, layer in paths}, key=str)
    modules = {key: Module(number, []) for number, key in enumerate(keys)}
    for each in parameters:
        name, layer = each.key
        owner = name.rpartition(".")[0]
        for path in (f"{owner}.{WRAPPED}", owner):
            if (path, layer) in modules:
                modules[path, layer].parameters.append(each)
                break
        around, _, own = owner.rpartition(".")
        if own == READ and (around, layer) in modules:
            modules[around, layer].parameters.append(each)
    return modules
