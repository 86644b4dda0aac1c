"""Calls of the trained copies of modules, inside the calls of the modules that PEFT puts in their place.

A pass without adapters calls the frozen originals instead.

Source: peft/utils/other.py, ModulesToSaveWrapper; peft/tuners/ln_tuning/layer.py, LNTuningLayer.forward.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from calculator.engine.module_calls import BEFORE_BACKWARD, BEFORE_FORWARD
from calculator.methods.dense_update.method import DenseUpdate
from calculator.sharding.zero3.segment import OF_MODULES

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping

    from calculator.methods.prepared_model import PreparedModel
    from calculator.resident.module_spec import CopyName
    from calculator.sharding.zero3.segment import Placed

#: The name of the module that PEFT's layers wrap. The frozen original of a copied module has it here too.
WRAPPED = "base_layer"


class Substitutes(NamedTuple):
    """The parameters that modules use in place of their own.

    Attributes:
        tied: The names of tied parameters, with the names of those that they are tied to.
        copies: The paths of copied modules, with the names of their copies.
        added: The parameters that PEFT's layers keep in dictionaries and read themselves.
        shaped: The weights whose shape PEFT's layers read after the wrapped layer has run, which gathers them again.
    """

    tied: Mapping[str, str]
    copies: Mapping[str, CopyName]
    added: Container[str]
    shaped: Container[str]

    def owners(self, path: str) -> tuple[str, ...]:
        """Return the modules that may be called to use a module's own parameters: the wrapped one, or itself."""
        wrapped = f"{path}.{WRAPPED}"
        return (wrapped,) if path in self.copies else (wrapped, path)

    def called(self, path: str, *, without_adapters: bool) -> tuple[str, ...]:
        """Return a module that is called, and what a copied module calls."""
        copy = self.copies.get(path)
        return (path,) if copy is None else (path, f"{path}.{WRAPPED if without_adapters else copy}")

    def with_copies(self, marks: Iterable[Placed]) -> Iterator[Placed]:
        """Yield the marks of calls, each with the mark of the copy that is called inside it."""
        for mark in marks:
            if mark.kind not in OF_MODULES or mark.text not in self.copies:
                yield mark
                continue
            paths = self.called(mark.text, without_adapters=mark.wraps)
            begins = mark.kind in (BEFORE_FORWARD, BEFORE_BACKWARD)
            yield from (mark._replace(text=path) for path in (paths if begins else reversed(paths)))


def substitutes_of(prepared: PreparedModel) -> Substitutes:
    """Return the parameters that a prepared model's modules use in place of their own."""
    modules = [*prepared.distinct_modules]
    copies = {path: spec.copied for path, _, spec in modules if spec.copied is not None}
    added = [
        (path, parameter.name) for path, _, spec in modules for parameter in spec.added if "." not in parameter.name
    ]
    names = {f"{path}.{name}" for path, name in added}
    reads_shape = isinstance(prepared.method, DenseUpdate)
    shaped = {f"{path}.weight" for path, _ in added} if reads_shape else set()
    return Substitutes(prepared.model.tied, copies, names, shaped)
