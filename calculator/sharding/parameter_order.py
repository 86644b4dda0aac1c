"""The parameters of a model in the order of its modules, as its state dict and `named_parameters()` have them."""

from __future__ import annotations

from itertools import accumulate, chain
from typing import TYPE_CHECKING

from calculator.architecture.model import Stack
from calculator.resident.tensors import layer_parameters, outer_parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from calculator.methods.prepared_model import PreparedModel
    from calculator.resident.tensor import ResidentTensor

    Stored = Callable[[list[ResidentTensor]], list[ResidentTensor]]

#: The second name under which PEFT stores the embeddings of a model with virtual tokens.
WORD_EMBEDDINGS = "word_embeddings.weight"


def state_dict(prepared: PreparedModel, stored: Stored) -> Iterator[tuple[str, ResidentTensor]]:
    """Yield every parameter in the order and with the names of the state dict.

    A shared parameter comes once for each of its names. A model with virtual tokens has the embeddings again under a
    name of their own (peft/peft_model.py, _setup_prompt_encoder). `stored` returns parameters as they are kept.
    """
    return chain.from_iterable(_by_part(prepared, stored))


def named_parameters(prepared: PreparedModel) -> list[list[ResidentTensor]]:
    """Return every parameter once, by layer and outer module. Equal layers have the same list."""
    aliases, parts = {*prepared.model.tied, WORD_EMBEDDINGS}, [*_by_part(prepared, list)]
    part_parameters = {id(part): [parameter for name, parameter in part if name not in aliases] for part in parts}
    return [*map(part_parameters.__getitem__, map(id, parts))]


def _by_part(prepared: PreparedModel, stored: Stored) -> Iterator[list[tuple[str, ResidentTensor]]]:
    """Yield the named parameters of each layer and outer module. Equal layers have the same list."""
    model = prepared.model
    outer = stored(outer_parameters(prepared))
    by_name = {parameter.name: parameter for parameter in outer}
    for part in model.parts:
        if isinstance(part, Stack):
            of = {layer: _named(stored(layer_parameters(prepared, layer, part.name))) for layer, _ in part.distinct}
            yield from map(of.__getitem__, part.layers)
            continue
        own = [(parameter.name, parameter) for parameter in outer if parameter.name.startswith(f"{part.name}.")]
        aliases = (alias for alias in model.tied if alias.rpartition(".")[0] == part.name)
        yield own + [(alias, by_name[model.tied[alias]]) for alias in aliases]
    names = tuple(f"{name}." for name in model.outer)
    yield [(parameter.name, parameter) for parameter in outer if not parameter.name.startswith(names)]
    if prepared.method.virtual_tokens:
        yield [(WORD_EMBEDDINGS, by_name[f"{model.embedding.name}.weight"])]


def _named(parameters: list[ResidentTensor]) -> list[tuple[str, ResidentTensor]]:
    return [(parameter.name, parameter) for parameter in _ordered_parameters(parameters)]


def _ordered_parameters(parameters: list[ResidentTensor]) -> list[ResidentTensor]:
    """Return the parameters of a layer. Those that a method adds to a module follow the module's own."""
    first: dict[str, int] = {}
    paths = {parameter: [*accumulate(parameter.name.split("."), "{}.{}".format)] for parameter in parameters}
    for number, parameter in enumerate(parameters):
        for path in paths[parameter]:
            first.setdefault(path, number)
    return sorted(parameters, key=lambda parameter: [first[path] for path in paths[parameter]])
