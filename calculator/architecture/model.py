"""A model as its modules: every weight's name and shape, which are tied, and what repeats from layer to layer."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from calculator.architecture.module import Buffer, Kind, Module, OwnDType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from calculator.architecture.dimension import Shape
    from calculator.architecture.layer_kind import LayerKind


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """One kind of layer: its modules, named relative to the layer, and what sets it apart from other kinds.

    Layers are told apart by identity, so that counting them costs nothing.
    """

    kind: LayerKind
    modules: tuple[Module, ...]
    buffers: tuple[Buffer, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A list of layers (`model.layers`); equal layers are one `Layer` object, repeated."""

    name: str
    layers: tuple[Layer, ...]

    @cached_property
    def distinct(self) -> tuple[tuple[Layer, int], ...]:
        """Each layer of its own kind, in order, and how often it stands here."""
        return tuple(Counter(self.layers).items())


def stack(name: str, kinds: Sequence[LayerKind], layer: Callable[[LayerKind], tuple[Module | Buffer, ...]]) -> Stack:
    """A stack whose layers are of these kinds, in order; `layer` lists what one of each kind owns."""
    built = {kind: _layer(kind, layer(kind)) for kind in dict.fromkeys(kinds)}
    return Stack(name=name, layers=tuple(built[kind] for kind in kinds))


def _layer(kind: LayerKind, owned: tuple[Module | Buffer, ...]) -> Layer:
    modules = tuple(each for each in owned if isinstance(each, Module))
    return Layer(kind=kind, modules=modules, buffers=tuple(each for each in owned if isinstance(each, Buffer)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """One parameter as `named_parameters()` lists it; `dtype` as the parameter's.

    `quantizable` says whether 4-bit quantisation takes it; `layer` is the layer's index in its stack.
    """

    name: str
    shape: Shape
    kind: Kind
    dtype: OwnDType = "model"
    quantizable: bool = False
    layer: int | None = None


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model built from a `config.json`, as `transformers`' `AutoModelForCausalLM.from_config` would build it.

    Nothing changes one, so what is asked of it again and again is worked out once.

    `config` holds every field that the family reads, resolved as `transformers` resolves it (aliases followed, defaults
    filled in), sizes as `Dim`s under their canonical names. `parts` follow `named_parameters()`; `buffers` are those
    outside the layers. `tied` maps a parameter's name to the one whose storage it shares; such a parameter is not
    listed among the weights. `head` names the output projection, which quantisation and `all-linear` leave out. `notes`
    say what of the real model is not so. Modules whose paths begin with one of `idle` do nothing with text.
    `adds_router_loss` is whether its loss includes that of its routers.
    """

    model_type: str
    config: Mapping[str, Any]
    parts: tuple[Module | Stack, ...]
    head: str | None
    tied: Mapping[str, str] = field(default_factory=dict)
    buffers: tuple[Buffer, ...] = ()
    id: str | None = None
    notes: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()
    adds_router_loss: bool = False

    def weights(self) -> Iterator[Weight]:
        """Every parameter once, in the order of `named_parameters()`."""
        whole = self.modules_to_not_convert
        for module, path, layer in self._placed():
            converted = module.quantizable and path not in whole
            for parameter in module.parameters:
                name = f"{path}.{parameter.name}"
                if name not in self.tied:
                    yield Weight(
                        name=name,
                        shape=parameter.shape,
                        kind=module.kind,
                        dtype=parameter.dtype,
                        quantizable=converted and parameter.name == "weight",
                        layer=layer,
                    )

    def named_buffers(self) -> Iterator[Buffer]:
        """Every buffer as `named_buffers()` lists them, those inside layers too."""
        yield from self.buffers
        for part in self.parts:
            if isinstance(part, Stack):
                for index, layer in enumerate(part.layers):
                    yield from (replace(each, name=f"{part.name}.{index}.{each.name}") for each in layer.buffers)

    @cached_property
    def modules(self) -> tuple[Module, ...]:
        """Every kind of module once: each outer one, and those of each kind of layer."""
        inner = [module for layer, _times in self.distinct_layers for module in layer.modules]
        return (*inner, *self.outer.values())

    @cached_property
    def paths(self) -> tuple[tuple[str, Module], ...]:
        """Every kind of module with its path, in which a layer's number is `*`."""
        return tuple(self._paths())

    @property
    def running(self) -> tuple[tuple[str, Module], ...]:
        """Those of `paths` that text comes to."""
        return tuple((path, module) for path, module in self.paths if not self.is_idle(path))

    def _paths(self) -> Iterator[tuple[str, Module]]:
        for part in self.parts:
            if isinstance(part, Stack):
                for layer, _times in part.distinct:
                    yield from ((f"{part.name}.*.{module.name}", module) for module in layer.modules)
            else:
                yield part.name, part

    @cached_property
    def outer(self) -> dict[str, Module]:
        """The modules outside the layers, by name."""
        return {part.name: part for part in self.parts if isinstance(part, Module)}

    @cached_property
    def decoder(self) -> Stack:
        """The decoder's layers: the first stack that reads text."""
        return next(part for part in self.parts if isinstance(part, Stack) and not self.is_idle(part.name))

    def is_idle(self, path: str) -> bool:
        """Whether what is at a path does nothing with text."""
        return path.startswith(self.idle)

    @cached_property
    def parameters(self) -> int:
        """The number of parameters, tied ones counted once."""
        layers = sum(
            sum(p.elements for module in layer.modules for p in module.parameters) * times
            for layer, times in self.distinct_layers
        )
        return layers + sum(
            p.elements
            for module in self.outer.values()
            for p in module.parameters
            if f"{module.name}.{p.name}" not in self.tied
        )

    @cached_property
    def modules_to_not_convert(self) -> frozenset[str]:
        """The paths of modules that quantisation leaves alone: the head, tied ones, and the owner of the last weight.

        Source: transformers/quantizers/base.py, get_keys_to_not_convert.
        """
        names = (*self.tied, *self.tied.values(), self._last_parameter())
        owners = {name.removesuffix(".weight") for name in names if name.endswith(".weight")}
        return frozenset(owners | ({self.head} if self.head else set()))

    @property
    def output(self) -> Module:
        """The output projection."""
        return next(module for module in self.outer.values() if module.name == self.head)

    @property
    def embedding(self) -> Module:
        """The word embeddings: the first embedding of text outside the layers."""
        return next(each for each in self.outer.values() if each.kind == "embedding" and not self.is_idle(each.name))

    @cached_property
    def distinct_layers(self) -> tuple[tuple[Layer, int], ...]:
        """Each layer of its own kind, and how often it stands in its stack."""
        return tuple(counted for part in self.parts if isinstance(part, Stack) for counted in part.distinct)

    def _placed(self) -> Iterator[tuple[Module, str, int | None]]:
        """Every module with its path, and its layer's index where it is in one."""
        for part in self.parts:
            if isinstance(part, Stack):
                for index, layer in enumerate(part.layers):
                    yield from ((module, f"{part.name}.{index}.{module.name}", index) for module in layer.modules)
            else:
                yield part, part.name, None

    def _last_parameter(self) -> str:
        """The name of the last of `named_parameters()`."""
        names = (
            f"{prefix}{module.name}.{parameter.name}"
            for modules, prefix in map(_tail, reversed(self.parts))
            for module in reversed(modules)
            for parameter in reversed(module.parameters)
        )
        return next(name for name in names if name not in self.tied)


def _tail(part: Module | Stack) -> tuple[tuple[Module, ...], str]:
    """A part's last modules and the prefix of their names."""
    if isinstance(part, Stack):
        return part.layers[-1].modules, f"{part.name}.{len(part.layers) - 1}."
    return (part,), ""
