"""The modules that a step calls, each with the parameters that DeepSpeed gathers before its call."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from calculator.methods.compared import REFERENCE as SECOND

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from calculator.sharding.zero3.copies import Substitutes
    from calculator.sharding.zero3.parameters import Module, Partitioned

_ORDER = attrgetter("order")

#: A name or a path with `*` for the number of its layer, and that number.
Name = tuple[str, int | None]

#: The name of the parameter whose dtype the code of PEFT's layers reads.
READ = "lora_A"

#: The name of DoRA's module, whose code reads the parameters of the wrapped layer.
MAGNITUDES = "lora_magnitude_vector"


def add_parameters(
    modules: Mapping[Name, Module],
    parameters: Sequence[Partitioned],
    by_name: Mapping[Name, Partitioned],
    leaves: set[str],
    substitutes: Substitutes,
) -> None:
    """Add to the modules that are called their parameters, in the order of the model.

    `leaves` are the paths of modules that own the parameters of all modules inside.
    """
    readers: dict[str, _Readers] = {}
    for parameter in parameters:
        name, layer = parameter.key
        if name not in readers:
            readers[name] = _readers(name, leaves, substitutes)
        owners, reader, wrapper = readers[name]
        for path in owners:
            if (path, layer) in modules:
                modules[path, layer].parameters.append(parameter)
                break
        if (reader, layer) in modules and not parameter.persists:  # reading a gathered parameter registers nothing
            modules[reader, layer].parameters.append(parameter)
        if wrapper is not None and (wrapper, layer) in modules:
            modules[wrapper, layer].parameters.append(parameter)
            modules[wrapper, layer].read.append(parameter)
    for model in ("", SECOND):
        for name, source in substitutes.tied.items():
            owners = substitutes.owners(model + name.rpartition(".")[0])
            owner = next((path for path in owners if (path, None) in modules), None)
            if owner is not None:
                modules[owner, None].parameters.append(by_name[model + source, None])
    in_order(modules.values())


def in_order(modules: Iterable[Module]) -> None:
    """Sort the parameters of modules by their ids (ds_id), as DeepSpeed does."""
    for module in modules:
        if len(module.parameters) > 1:
            module.parameters.sort(key=_ORDER)


class _Readers(NamedTuple):
    """The paths of modules that read a parameter: the first one that is called owns it, the others also read it."""

    owners: tuple[str, ...]
    reader: str
    wrapper: str | None


def _readers(name: str, leaves: set[str], substitutes: Substitutes) -> _Readers:
    """Return the modules that read a parameter."""
    owner = name.rpartition(".")[0]
    model = SECOND if name.startswith(SECOND) else ""
    leaf = [model + path for path in leaves if owner.startswith(f"{model}{path}.")]
    around, _, own = owner.rpartition(".")
    owners = (owner,) if name in substitutes.added else (*substitutes.owners(owner), *leaf)
    reader = owner if name in substitutes.shaped else f"{owner}.{MAGNITUDES}"
    return _Readers(owners, reader, around if own == READ else None)
