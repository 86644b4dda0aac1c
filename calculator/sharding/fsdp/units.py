"""FSDP2's units: the modules whose parameters are gathered and reduced together.

They are the decoder layers, the input embeddings, the final norm with the output head, and the root with the remaining
parameters.

Source: accelerate/utils/fsdp_utils.py, fsdp2_prepare_model and _find_final_norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements, named
from calculator.architecture.model import SCORE, Stack
from calculator.common.dtype import ITEMSIZE
from calculator.resident.tensors import layer_parameters, outer_parameters
from calculator.sharding.fsdp.parameters import RANKS, is_sharded, shard_shape, stored

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from calculator.architecture.dimension import Shape
    from calculator.architecture.model import Layer, Model
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.layers.sharding_hooks import Role
    from calculator.methods.prepared_model import PreparedModel
    from calculator.resident.tensor import ResidentTensor

ROOT = "root"

#: Models in whose base accelerate finds no final norm. Their `base_model_prefix` is `language_model`, an attribute that
#: they do not have. Source: transformers/models/llama4/modeling_llama4.py, Llama4ForCausalLM.
WITHOUT_BASE = ("llama4", "llama4_text")

#: Models whose vision towers have layers that are units, because their class is among the model's `_no_split_modules`.
TOWER_LAYERS = frozenset(
    {"internvl", "mistral3", "qwen2_5_vl", "qwen2_vl", "qwen3_5", "qwen3_5_moe", "qwen3_vl", "qwen3_vl_moe"}
)

#: Models whose vision towers have attention modules that are units, because their class is among `_no_split_modules`.
#: Their layers are no units, and the rest of each layer belongs to the root.
TOWER_ATTENTION = frozenset({"idefics3", "smolvlm"})

#: The path of that module in its layer.
ATTENTION = "self_attn"

#: The suffixes of the names of a unit's own tensors.
GATHERED = ": gathered"
ALL_GATHER_OUTPUT = ": all-gather output"
REDUCE_SCATTER_INPUT = ": reduce-scatter input"
REDUCE_SCATTER_OUTPUT = ": reduce-scatter output"
GRADIENT_SHARDS = ": gradient shards"
CAST_SHARDS = ": shards, cast"
UPLOADED = ": shard from host memory"
FULL = ": full tensor"
UNIT_TENSORS = (
    GATHERED,
    ALL_GATHER_OUTPUT,
    REDUCE_SCATTER_INPUT,
    REDUCE_SCATTER_OUTPUT,
    GRADIENT_SHARDS,
    CAST_SHARDS,
    UPLOADED,
    FULL,
)


@dataclass(frozen=True, kw_only=True)
class UnitParameters:
    """The whole parameters of a unit, in the order in which FSDP lists them.

    `param_dtype` is the dtype of mixed precision. Parameters of another dtype are cast before they are gathered.
    """

    name: str
    parameters: tuple[ResidentTensor, ...]
    count: int
    param_dtype: DType | None

    def gathered_dtype(self, parameter: ResidentTensor) -> DType:
        """Return the dtype of a gathered parameter, which is also that of its gradient."""
        return self.param_dtype or parameter.dtype

    def shard_elements(self, parameters: Iterable[ResidentTensor]) -> int:
        """Return the elements of these parameters' shards on one rank. Shards are padded to those of the first rank."""
        sizes = self._shard_sizes
        return sum([sizes[parameter.name] for parameter in parameters])

    @cached_property
    def _shard_shapes(self) -> dict[str, Shape]:
        """The shapes of the first rank's shards, by the parameter's name."""
        return {parameter.name: shard_shape(parameter.shape, self.count) for parameter in self.parameters}

    @cached_property
    def _shard_sizes(self) -> dict[str, int]:
        return {name: elements(shape) for name, shape in self._shard_shapes.items()}

    @cached_property
    def trained(self) -> tuple[ResidentTensor, ...]:
        """The parameters that get a gradient."""
        return tuple(parameter for parameter in self.parameters if parameter.gets_gradient)

    @cached_property
    def cast_input(self) -> tuple[Shape, DType] | None:
        """The copy of all shards that mixed precision casts. None if it casts none."""
        cast = [parameter for parameter in self.parameters if self.param_dtype not in (None, parameter.dtype)]
        if self.param_dtype is None or not cast:
            return None
        return (named(self.shard_elements(cast), "unit / N"),), self.param_dtype

    @cached_property
    def all_gather_output(self) -> tuple[Shape, DType]:
        """The buffer of an all-gather. Its dtype is uint8 if the parameters have several dtypes."""
        ranks = named(self.count, RANKS)
        dtypes = {self.gathered_dtype(parameter) for parameter in self.parameters}
        if len(dtypes) == 1:
            return (ranks, named(self.shard_elements(self.parameters), "unit / N")), dtypes.pop()
        size = sum(
            self.shard_elements([parameter]) * ITEMSIZE[self.gathered_dtype(parameter)] for parameter in self.parameters
        )
        return (ranks, named(size, "bytes of unit / N")), "uint8"

    @cached_property
    def gathered(self) -> tuple[tuple[ResidentTensor, Shape, DType], ...]:
        """Each parameter with the shape and dtype of its gathered, padded copy."""
        ranks, shapes = named(self.count, RANKS), self._shard_shapes
        return tuple(
            [
                (parameter, (ranks, *shapes[parameter.name]), self.gathered_dtype(parameter))
                for parameter in self.parameters
            ]
        )


def layer_unit(prepared: PreparedModel, layer: Layer, stack: str | None = None) -> UnitParameters:
    """Return the unit of a layer of the decoder, or of the vision tower whose layers `stack` names.

    In some towers, it has the parameters of the layer's attention module only.
    """
    name = stack or prepared.model.decoder.name
    cached: UnitParameters | None = prepared.units.get((name, id(layer)))
    if cached is None:
        parameters = layer_parameters(prepared, layer, name)
        if name != prepared.model.decoder.name and prepared.model.model_type in TOWER_ATTENTION:
            parameters = [parameter for parameter in parameters if _is_of_attention(parameter)]
        cached = _unit(prepared, f"{name}.*", parameters)
        prepared.units[name, id(layer)] = cached
    return cached


def _is_of_attention(parameter: ResidentTensor) -> bool:
    return f".{ATTENTION}." in parameter.name


def tower_stacks(model: Model) -> Iterator[Stack]:
    """Return the stacks of layers of vision towers, if there are any."""
    parts = model.parts if model.towers else ()
    return (part for part in parts if isinstance(part, Stack) and part.name.startswith(model.towers))


@dataclass(frozen=True, slots=True, kw_only=True)
class OuterUnits:
    """The units outside the layers.

    `embeddings` is None if the head shares their weight and their unit. `norm` is the role of the norm in the tail, or
    None. `has_head`: whether the tail has the output head. Otherwise the head belongs to the root.
    """

    root: UnitParameters
    embeddings: UnitParameters | None
    tail: UnitParameters
    norm: Role | None
    has_head: bool

    @property
    def all(self) -> tuple[UnitParameters, ...]:
        """The units that have parameters."""
        units = [unit for unit in (self.root, self.embeddings, self.tail) if unit is not None]
        return tuple(unit for unit in units if unit.parameters)


def outer_units(prepared: PreparedModel) -> OuterUnits:
    """Return the units outside the layers."""
    cached: OuterUnits | None = prepared.units.get("outer")
    if cached is None:
        cached = prepared.units["outer"] = _outer_units(prepared)
    return cached


def _outer_units(prepared: PreparedModel) -> OuterUnits:
    model = prepared.model
    norm, embedding = final_norm(prepared), model.embedding.name
    head = None if model.head == SCORE else model.head  # get_output_embeddings does not return a classifier's head
    tied = f"{head}.weight" in model.tied
    left = outer_parameters(prepared)
    by_name = {
        name: [tensor for tensor in left if tensor.name.startswith(f"{name}.")]
        for name in (norm, embedding, head)
        if name
    }
    tail = [name for name in (norm, embedding if tied else None, head) if name]
    placed = {
        parameter.name for parameter in (*(tensor for name in tail for tensor in by_name[name]), *by_name[embedding])
    }
    return OuterUnits(
        root=_unit(
            prepared,
            ROOT,
            [parameter for parameter in (*_root_parameters(prepared, left),) if parameter.name not in placed],
        ),
        embeddings=None if tied else _unit(prepared, embedding, by_name[embedding]),
        tail=_unit(prepared, " and ".join(tail), [tensor for name in tail for tensor in by_name[name]]),
        norm=_role(model, norm) if norm is not None else None,
        has_head=head is not None,
    )


def _root_parameters(prepared: PreparedModel, outer: list[ResidentTensor]) -> Iterator[ResidentTensor]:
    """Yield parameters outside the layers, and those of a tower's layers that belong to no unit of their own."""
    model = prepared.model
    stacks = [*tower_stacks(model)] if model.model_type in TOWER_ATTENTION else []
    at = 0
    for stack in stacks:
        before = tuple(f"{part.name}." for part in model.parts[: model.parts.index(stack)])
        end = sum(tensor.name.startswith(before) for tensor in outer)
        yield from outer[at:end]
        at = end
        for layer in stack.layers:
            yield from (
                parameter
                for parameter in layer_parameters(prepared, layer, stack.name)
                if not _is_of_attention(parameter)
            )
    yield from outer[at:]


def last_parameter(prepared: PreparedModel) -> str:
    """Return the last name of `named_parameters()`, with `*` in place of the number of a layer."""
    outer, parts = outer_parameters(prepared), prepared.model.parts
    added = [tensor for tensor in outer if not tensor.name.startswith(tuple(f"{part.name}." for part in parts))]
    last_of_parts = (
        layer_parameters(prepared, part.layers[-1], part.name)
        if isinstance(part, Stack)
        else [tensor for tensor in outer if tensor.name.startswith(f"{part.name}.")]
        for part in reversed(parts)
    )
    return next(tensors[-1].name for tensors in (added, *last_of_parts) if tensors)


def _unit(prepared: PreparedModel, name: str, parameters: list[ResidentTensor]) -> UnitParameters:
    whole = stored(parameters, prepared.method, prepared.training)
    return UnitParameters(
        name=name,
        parameters=tuple(tensor for tensor in whole if is_sharded(tensor)),
        count=prepared.device.count,
        param_dtype=prepared.training.autocast,
    )


def final_norm(prepared: PreparedModel) -> str | None:
    """Return the path of the final norm that accelerate finds, or None.

    It is the last norm that is a child of the base model. PEFT's tuners hide a base model with the name `model`, and
    wrap norms that they train.
    """
    method = prepared.method
    if prepared.model.model_type in WITHOUT_BASE:
        return None
    norms = [norm.name for norm in _child_norms(prepared.model) if not prepared.module_spec(norm.name, norm).copied]
    if not norms:
        return None
    wraps = method.name not in ("full", "adapter", "prompt", "prefix", "p_tuning")
    if wraps and norms[-1].startswith("model."):
        return None
    return norms[-1]


def _child_norms(model: Model) -> list[Module]:
    return [module for module in model.outer.values() if module.kind == "norm" and module.name.count(".") == 1]


def _role(model: Model, norm: str) -> Role:
    """Return the role of a norm outside the layers. BLOOM also has a norm after its embeddings."""
    return "final_norm" if norm == _child_norms(model)[-1].name else "embeddings_norm"


def units_of(prepared: PreparedModel) -> list[tuple[UnitParameters, int]]:
    """Return every unit with parameters, and how often it occurs."""
    model: Model = prepared.model
    stacks = (*tower_stacks(model), model.decoder)
    layers = [(layer_unit(prepared, layer, stack.name), count) for stack in stacks for layer, count in stack.distinct]
    return [*((unit, 1) for unit in outer_units(prepared).all), *layers]
