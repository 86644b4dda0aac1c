"""The trained parameters in the order of `named_parameters()`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from calculator.architecture.model import Stack
from calculator.engine.autograd import parameter_of

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence

    from calculator.architecture.model import Model
    from calculator.resident.tensor import ResidentTensor


class Key(NamedTuple):
    """The name of a parameter, with `*` for the number of its layer, and that number."""

    name: str
    layer: int | None

    @property
    def numbered(self) -> Key:
        """The key with the layer's number in its name instead of `*`. It then stands for one parameter."""
        return Key(self.name.replace("*", str(self.layer)), None)


def gradient_key(label: str, layer: int | None) -> Key:
    """Return the parameter of a ready gradient from the label of its mark.

    `layer` is the number of the layer that runs there.
    """
    name, own = parameter_of(label)
    return Key(name, own if own is not None else layer if "*" in name else None)


def parameters_by_part(
    model: Model, tensors: Sequence[ResidentTensor], *, frozen: bool = False
) -> Iterator[tuple[int | None, Sequence[ResidentTensor]]]:
    """Yield the parameters of each layer with its number, and those before and after the layers.

    Layers of one kind share a sequence. `frozen`: include the frozen parameters.
    """
    left = [tensor for tensor in tensors if tensor.trained or (frozen and tensor.parameters)]
    for stack in (part for part in model.parts if isinstance(part, Stack)):
        prefix = f"{stack.name}.*."
        before, left = _split(left, prefix)
        yield None, before
        own, left = _split_by_prefix(left, prefix)
        own += [tensor for tensor in left if tensor.name.startswith(prefix)]  # what a method adds follows all modules
        left = [tensor for tensor in left if not tensor.name.startswith(prefix)]
        if own:
            alike = own[0].count == len(stack.layers)
            yield from _layers(stack, own if alike else _stack_parameters(tensors, prefix), {*map(id, own)})
    yield None, left


def _split(tensors: list[ResidentTensor], prefix: str) -> tuple[list[ResidentTensor], list[ResidentTensor]]:
    """Return the tensors before the first one of a stack, and the others."""
    at = next((n for n, tensor in enumerate(tensors) if tensor.name.startswith(prefix)), 0)
    return tensors[:at], tensors[at:]


def _split_by_prefix(tensors: list[ResidentTensor], prefix: str) -> tuple[list[ResidentTensor], list[ResidentTensor]]:
    """Return the tensors of a stack, which come first, and the others."""
    end = next((n for n, tensor in enumerate(tensors) if not tensor.name.startswith(prefix)), len(tensors))
    return tensors[:end], tensors[end:]


def _stack_parameters(tensors: Sequence[ResidentTensor], prefix: str) -> list[ResidentTensor]:
    """Return every parameter of a stack, trained or not."""
    return [tensor for tensor in tensors if (tensor.parameters or tensor.trained) and tensor.name.startswith(prefix)]


def _layers(
    stack: Stack, every: list[ResidentTensor], own: Container[int]
) -> Iterator[tuple[int, Sequence[ResidentTensor]]]:
    """Yield the parameters of each layer whose identities are among `own`.

    The tensors of one kind of layer follow those of another. Kinds are distinguished by all their tensors: of two kinds
    with modules of the same names, one may have no trained parameter.
    """
    by_layer = _parameters_by_layer(stack, every)
    chosen = {
        kind: [tensor for tensor in by_layer.get(kind, ()) if id(tensor) in own] for kind in {*map(id, stack.layers)}
    }
    for number, layer in enumerate(stack.layers):
        yield number, chosen[id(layer)]


def _parameters_by_layer(stack: Stack, tensors: list[ResidentTensor]) -> dict[int, list[ResidentTensor]]:
    """Return the parameters of each kind of layer: one list for every layer, or a list for each kind.

    A kind ends before a name that it already has, or that its modules do not have. What a method adds to every layer
    follows.
    """
    if tensors[0].count == len(stack.layers):
        return dict.fromkeys(map(id, stack.layers), tensors)
    every_layer_tensors = [tensor for tensor in tensors if tensor.count == len(stack.layers)]
    tensors = tensors[: len(tensors) - len(every_layer_tensors)]
    counts = {count for _, count in stack.distinct}
    by_layer: dict[int, list[ResidentTensor]] = {}
    at = 0
    for layer, count in stack.distinct:
        owners = {module.under(f"{stack.name}.*") for module in layer.modules}
        names: set[str] = set()
        end = at
        while end < len(tensors) and tensors[end].name not in names:
            tensor = tensors[end]
            if (tensor.count in counts and tensor.count != count) or not _is_of(tensor.name, owners):
                break
            names.add(tensor.name)
            end += 1
        by_layer[id(layer)] = [*tensors[at:end], *every_layer_tensors]
        at = end
    assert at == len(tensors), tensors[at].name
    return by_layer


def _is_of(name: str, owners: Container[str]) -> bool:
    """Return whether a parameter belongs to a module, or to what a method adds to it.

    Its name starts with the module's.
    """
    while name:
        name = name.rpartition(".")[0]
        if name in owners:
            return True
    return False


def auto_hidden_size(model: Model) -> int:
    """Return the hidden size from which transformers computes sizes that are `auto`.

    PaliGemma's config has one of its own around that of the text model.

    Source: transformers/integrations/deepspeed.py, trainer_config_finalize.
    """
    config = model.config
    return int(config.get("outer_hidden_size", config["hidden_size"]))
