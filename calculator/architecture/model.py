"""A model: its modules and layers, the name and shape of every weight, and which weights are tied."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from calculator.architecture.dimension import named
from calculator.architecture.layer_kind import ATTENTION_TYPES
from calculator.architecture.module import Buffer, Kind, Module, OwnDType, linear
from calculator.architecture.task import CAUSAL_LM, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

    from calculator.architecture.dimension import Shape
    from calculator.architecture.layer_kind import LayerKind, MixerType


#: The assumption on the batches of a model that can read images, if they contain none.
TEXT_ALONE = (
    "Batches contain only text: the vision tower and its projection are on the GPU but do not run."
    " The activations of images are not counted."
)

#: The name of the head that classifies sequences, in a decoder.
SCORE = "score"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """One kind of layer. Layers compare by identity, so that counting them is fast."""

    kind: LayerKind
    #: The modules, with names relative to the layer.
    modules: tuple[Module, ...]
    buffers: tuple[Buffer, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A list of layers, such as `model.layers`. Equal layers are the same `Layer` object."""

    name: str
    layers: tuple[Layer, ...]

    @cached_property
    def distinct(self) -> tuple[tuple[Layer, int], ...]:
        """Each kind of layer in order, with the number of layers of that kind."""
        return tuple(Counter(self.layers).items())

    @cached_property
    def windows(self) -> int:
        """The number of layers whose keys and values have a window of their own in a cache."""
        has_own = [
            layer.kind.attention == "sliding_attention" and layer.kind.shares != "reuse" for layer in self.layers
        ]
        return sum(has_own)


def stack(name: str, kinds: Sequence[LayerKind], layer: Callable[[LayerKind], tuple[Module | Buffer, ...]]) -> Stack:
    """Build a stack with layers of these kinds, in order. `layer` returns the modules and buffers of a kind."""
    built = {kind: _layer(kind, layer(kind)) for kind in dict.fromkeys(kinds)}
    return Stack(name=name, layers=tuple(built[kind] for kind in kinds))


def _cached_widths(layer: Layer) -> tuple[int, int] | None:
    """Return the widths of the keys and the values that a layer caches, if two projections return these."""
    if layer.kind.attention not in ATTENTION_TYPES or layer.kind.shares:
        return None
    widths = {module.name: +module.out_features for module in layer.modules if module.kind == "linear"}
    key, value = widths.get("self_attn.k_proj"), widths.get("self_attn.v_proj")
    return None if key is None or value is None else (key, value)


def _layer(kind: LayerKind, owned: tuple[Module | Buffer, ...]) -> Layer:
    modules = tuple(part for part in owned if isinstance(part, Module))
    return Layer(kind=kind, modules=modules, buffers=tuple(part for part in owned if isinstance(part, Buffer)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """One parameter, as `named_parameters()` lists it."""

    name: str
    shape: Shape
    kind: Kind
    dtype: OwnDType = "model"
    #: Whether 4-bit quantization converts it.
    quantizable: bool = False
    #: The index of its layer in the stack. None outside the stacks.
    layer: int | None = None


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model built from a `config.json`, as `transformers`' class for its task would build it.

    It is immutable, so derived values are cached.
    """

    model_type: str
    #: Every field that the family reads, resolved as transformers resolves it, with aliases followed and defaults
    #: filled in. Sizes are `Dim`s. The names are canonical.
    config: Mapping[str, Any]
    #: The stacks, and the modules outside the layers, in the order of `named_parameters()`.
    parts: tuple[Module | Stack, ...]
    #: The name of the output projection, which quantization and `all-linear` leave out.
    head: str | None
    #: The prefix of the base model in the names of a model with a head ("model."). A model without a head has no
    #: prefix.
    base: str = ""
    #: The name of a parameter to the name of the parameter whose storage it shares. `weights()` lists only the latter.
    tied: Mapping[str, str] = field(default_factory=dict)
    #: The buffers outside the layers.
    buffers: tuple[Buffer, ...] = ()
    id: str | None = None
    #: Differences from the real model.
    notes: tuple[str, ...] = ()
    #: Path prefixes of modules that the batch does not use, such as a vision tower for a batch of text.
    idle: tuple[str, ...] = ()
    #: Path prefixes of modules that a batch with images does not use, such as the layers after the one that is read.
    idle_with_images: tuple[str, ...] = ()
    #: Path prefixes of modules that only images use, whether the batch has images or not.
    towers: tuple[str, ...] = ()
    #: Whether the model's code computes the load-balancing loss of the routers if output_router_logits is set.
    has_router_loss: bool = False
    #: Whether the loss includes the load-balancing loss.
    adds_router_loss: bool = False
    #: Whether the trainer runs the model on each sequence of a pair by itself.
    runs_each_of_pair: bool = False
    #: The task that the model is trained for.
    task: Task = CAUSAL_LM
    #: Whether PEFT gave it other layers than its config has (LoRA's `layer_replication`).
    replicated: bool = False

    def weights(self) -> Iterator[Weight]:
        """Yield every parameter once, in the order of `named_parameters()`."""
        not_converted = self.modules_to_not_convert
        for module, path, layer in self._with_paths():
            converted = module.quantizable and path not in not_converted
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
        """Yield every buffer, as `named_buffers()` lists them."""
        yield from self.buffers
        for part in self.parts:
            if isinstance(part, Stack):
                for index, layer in enumerate(part.layers):
                    yield from (replace(buffer, name=f"{part.name}.{index}.{buffer.name}") for buffer in layer.buffers)

    @cached_property
    def known(self) -> dict[Callable[[Model], Any], Any]:
        """A cache of results that depend on the model alone, by the function that computes them (see `per_model`)."""
        return {}

    @cached_property
    def accepted(self) -> set[Hashable]:
        """A cache for the caller: the methods whose targets were checked and accepted."""
        return set()

    @cached_property
    def modules(self) -> tuple[Module, ...]:
        """Each module once: the modules of each kind of layer, then those outside the layers."""
        inner = [module for layer, _times in self.distinct_layers for module in layer.modules]
        return (*inner, *self.outer.values())

    @cached_property
    def kinds(self) -> frozenset[Kind]:
        """The kinds of the model's modules."""
        return frozenset(module.kind for module in self.modules)

    @cached_property
    def paths(self) -> tuple[tuple[str, Module], ...]:
        """Each module once, with its path. `*` replaces the number of the layer."""
        return tuple(self._paths())

    @property
    def running(self) -> tuple[tuple[str, Module], ...]:
        """The part of `paths` that the batch uses."""
        return tuple((path, module) for path, module in self.paths if not self.is_idle(path))

    def _paths(self) -> Iterator[tuple[str, Module]]:
        for part in self.parts:
            if isinstance(part, Stack):
                for layer, _times in part.distinct:
                    yield from ((module.under(f"{part.name}.*"), module) for module in layer.modules)
            else:
                yield part.name, part

    @cached_property
    def outer(self) -> dict[str, Module]:
        """The modules outside the layers, by name."""
        return {part.name: part for part in self.parts if isinstance(part, Module)}

    @cached_property
    def decoder(self) -> Stack:
        """The layers of the decoder: the first stack that text input uses."""
        return next(part for part in self.parts if isinstance(part, Stack) and self.reads_text(part.name))

    @cached_property
    def stacks(self) -> tuple[Stack, ...]:
        """The stacks that run one after the other: the decoder's, after the encoder's if there is one."""
        running = [part for part in self.parts if isinstance(part, Stack) and self.reads_text(part.name)]
        return tuple(running if self.task.name == "seq_2_seq_lm" else running[:1])

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The layers that run, in order."""
        return tuple(layer for stack in self.stacks for layer in stack.layers)

    @cached_property
    def attention_types(self) -> frozenset[MixerType]:
        """The attention types of the layers that run."""
        return frozenset(layer.kind.attention for layer in {*self.layers})

    @cached_property
    def encoder_layers(self) -> int:
        """The number of layers that belong to an encoder."""
        return len(self.stacks[0].layers) if len(self.stacks) > 1 else 0

    @cached_property
    def has_unused_parameters(self) -> bool:
        """Whether there are parameters, or there may be trained copies of parameters, that get no gradient."""
        return bool(self.idle) or any(
            not parameter.in_graph for module in self.modules for parameter in module.parameters
        )

    def is_idle(self, path: str) -> bool:
        """Return whether the batch does not use the module at a path."""
        return path.startswith(self.idle)

    def runs(self, path: str) -> bool:
        """Return whether the forward pass calls the module at a path, even if its output is not used."""
        return self.idle == self.idle_with_images or not self.is_idle(path)

    def reads_text(self, path: str) -> bool:
        """Return whether text input uses the module at a path."""
        return not path.startswith((*self.idle, *self.towers))

    @cached_property
    def reads_audio(self) -> bool:
        """Whether the encoder reads audio. The config then gives the number of tokens."""
        return "tokens_of_audio" in self.config

    @cached_property
    def reads_ids(self) -> bool:
        """Whether ids of tokens are the model's main input (`main_input_name`), not audio or pixels."""
        return not self.reads_audio and self.task.name != "image_cls"

    @property
    def with_images(self) -> Model:
        """The model for batches with images, for which the vision tower runs."""
        return replace(self, idle=self.idle_with_images, notes=tuple(note for note in self.notes if note != TEXT_ALONE))

    @cached_property
    def parameters(self) -> int:
        """The number of parameters. Tied parameters count once."""
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
        """The paths of modules that quantization skips: the head, tied modules, and the module of the last weight.

        Source: transformers/quantizers/base.py, get_keys_to_not_convert.
        """
        names = (*self.tied, *self.tied.values(), self._last_parameter())
        owners = {name.removesuffix(".weight") for name in names if name.endswith(".weight")}
        return frozenset(owners | ({self.head} if self.head and not self.task.trains_head else set()))

    @cached_property
    def output(self) -> Module:
        """The output projection."""
        return next(module for module in self.outer.values() if module.name == self.head)

    @property
    def embedding(self) -> Module:
        """The word embeddings: the first embedding outside the layers that text input uses. There must be one."""
        return next(self._embeddings)

    @property
    def has_word_embeddings(self) -> bool:
        """Whether the model has word embeddings."""
        return any(self._embeddings)

    @property
    def _embeddings(self) -> Iterator[Module]:
        return (module for module in self.outer.values() if module.kind == "embedding" and self.reads_text(module.name))

    @property
    def runs_several_times(self) -> bool:
        """Whether a micro-batch runs the model several times, each time with a graph."""
        return self.runs_each_of_pair or self.task.embeds

    @cached_property
    def reward(self) -> Model:
        """The model with a head that rates a sequence: a classifier with one label."""
        return self if self.head == SCORE else self.with_score(1)

    @cached_property
    def reward_of_each(self) -> Model:
        """The model with such a head, which runs on each sequence of a pair by itself."""
        return replace(self.reward, runs_each_of_pair=True)

    def with_score(self, num_labels: int) -> Model:
        """Return the model for sequence classification, in which `score` replaces the output projection.

        Source: transformers/modeling_layers.py, GenericForSequenceClassification.
        """
        return self.with_head(linear(SCORE, self.embedding.out_features, named(num_labels, "num_labels")))

    def with_head(self, head: Module) -> Model:
        """Return the model with another head in place of the output projection."""
        parts = (*(part for part in self.parts if part.name != self.head), head)
        head_names = {f"{self.head}.weight", f"{self.head}.bias"}
        tied = {name: other for name, other in self.tied.items() if name not in head_names}
        return replace(self, parts=parts, head=head.name, tied=tied, has_router_loss=False, adds_router_loss=False)

    @cached_property
    def with_router_loss(self) -> Model:
        """The model whose loss includes the load-balancing loss of the routers."""
        return replace(self, adds_router_loss=True)

    @cached_property
    def without_router_loss(self) -> Model:
        """The model whose loss excludes the load-balancing loss of the routers, whatever its config sets."""
        if not self.adds_router_loss:
            return self
        return replace(self, config={**self.config, "output_router_logits": False}, adds_router_loss=False)

    @cached_property
    def distinct_layers(self) -> tuple[tuple[Layer, int], ...]:
        """Each kind of layer, with the number of layers of that kind."""
        return tuple(counted for part in self.parts if isinstance(part, Stack) for counted in part.distinct)

    @cached_property
    def cached_widths(self) -> tuple[tuple[tuple[int, int], int], ...] | None:
        """The widths of keys and values that each kind of layer of the decoder caches, with the number of layers.

        None if a layer caches others than those that two projections return.
        """
        distinct = []
        for layer, count in self.decoder.distinct:
            widths = _cached_widths(layer)
            if widths is None:
                return None
            distinct.append((widths, count))
        return tuple(distinct)

    @cached_property
    def has_experts(self) -> bool:
        """Whether a layer has experts."""
        return any(layer.kind.mlp == "sparse" for layer, _ in self.distinct_layers)

    def _with_paths(self) -> Iterator[tuple[Module, str, int | None]]:
        """Yield every module with its path, and with the index of its layer or None."""
        for part in self.parts:
            if isinstance(part, Stack):
                for index, layer in enumerate(part.layers):
                    yield from ((module, module.under(f"{part.name}.{index}"), index) for module in layer.modules)
            else:
                yield part, part.name, None

    def _last_parameter(self) -> str:
        """Return the last name of `named_parameters()`."""
        names = (
            f"{prefix}{module.name}.{parameter.name}"
            for modules, prefix in map(_last_modules, reversed(self.parts))
            for module in reversed(modules)
            for parameter in reversed(module.parameters)
        )
        return next(name for name in names if name not in self.tied)


def _last_modules(part: Module | Stack) -> tuple[tuple[Module, ...], str]:
    """Return the last modules of a part, and the prefix of their names."""
    if isinstance(part, Stack):
        return part.layers[-1].modules, f"{part.name}.{len(part.layers) - 1}."
    return (part,), ""
