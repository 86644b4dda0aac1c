"""The resident tensors of a prepared model: weights, quantization constants, buffers and added parameters."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from calculator.architecture.dimension import Dim, elements
from calculator.architecture.model import Layer, Stack
from calculator.architecture.module import Buffer
from calculator.architecture.per_model import per_model
from calculator.common.dtype import ITEMSIZE, DType, allocated
from calculator.resident.module_spec import new_added
from calculator.resident.tensor import new_tensor

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module, Parameter
    from calculator.inputs.training import Training
    from calculator.resident.module_spec import Added, CopyName, ModuleSpec
    from calculator.resident.stored_weight import StoredWeight
    from calculator.resident.tensor import ResidentTensor
    from calculator.stack.change import ChangeName


class AddsTensors(Protocol):
    """The part of a method that adds tensors which no module's spec contains."""

    def added(self, model: Model, training: Training) -> tuple[ResidentTensor, ...]:
        """Return the tensors that belong to no module."""

    def copy_name(self, path: str) -> CopyName | None:
        """Return the name of the copy of the module at a path, if it is copied or is inside one that is."""


class Prepared(Protocol):
    """A model to which a method has been applied."""

    @property
    def model(self) -> Model:
        """The model itself."""

    @property
    def method(self) -> AddsTensors:
        """The method."""

    @property
    def training(self) -> Training:
        """The training that the model is prepared for."""

    @property
    def given(self) -> Training:
        """The training in the request."""

    @property
    def sequences_per_row(self) -> int:
        """The number of sequences in each row of a micro-batch: two if a row is a pair."""

    @property
    def cast_to(self) -> DType | None:
        """The dtype that every parameter is cast to after the method is applied. None if they are not cast."""

    @property
    def cast_added_to(self) -> DType | None:
        """The dtype that parameters outside of the base's modules are cast to. None if they are not cast."""

    @property
    def older(self) -> frozenset[ChangeName]:
        """The differences of the requested library releases from the default ones."""

    def module_spec(self, path: str, module: Module) -> ModuleSpec:
        """Return how the method stores and trains one module."""


def resident_tensors(prepared: Prepared) -> tuple[ResidentTensor, ...]:
    """List every kind of tensor of a prepared model, without gradients and optimizer states."""
    model, method = prepared.model, prepared.method
    tensors: list[ResidentTensor] = []
    for part in model.parts:
        if isinstance(part, Stack):
            for layer, count in part.distinct:
                _layer(tensors, part.name, layer, count, prepared)
        else:
            _module(tensors, part, part.name, 1, prepared)
    tensors += outer_buffers(prepared)
    for added in method.added(model, prepared.given):
        tensors.append(_cast(added, prepared.cast_added_to))
    return tuple(_placed_in_graph(model, tensors))


def with_gradient(tensors: Iterable[ResidentTensor]) -> list[ResidentTensor]:
    """Return the tensors that are trained and that the step gives a gradient."""
    return [tensor for tensor in tensors if tensor.trained and tensor.in_graph]


def parameters(tensors: Iterable[ResidentTensor]) -> tuple[int, int, int]:
    """Return the number of parameters of the base model, of added parameters, and of trained parameters."""
    base = added = trained = 0
    for tensor in tensors:
        count = tensor.parameters * tensor.count
        if tensor.base:
            base += count
        else:
            added += count
        if tensor.trained:
            trained += count
    return base, added, trained


def _cast(tensor: ResidentTensor, dtype: DType | None) -> ResidentTensor:
    """Return a parameter in the dtype that all are cast to, if they are cast. Constants keep theirs."""
    return replace(tensor, dtype=dtype, bytes=0) if dtype is not None and tensor.parameters else tensor


def _added_parameters(prepared: Prepared) -> list[ResidentTensor]:
    """Return the parameters and constants that the method adds to no module, in the dtype that they are cast to."""
    return [
        _cast(parameter, prepared.cast_added_to)
        for parameter in prepared.method.added(prepared.model, prepared.training)
    ]


def layer_parameters(prepared: Prepared, layer: Layer, stack: str = "") -> list[ResidentTensor]:
    """List the parameters of a layer, including those that the method adds.

    `stack` is the name of a stack. Empty for the decoder.
    """
    tensors: list[ResidentTensor] = []
    stack = stack or prepared.model.decoder.name
    for module in layer.modules:
        _module(tensors, module, module.under(f"{stack}.*"), 1, prepared)
    added = (parameter for parameter in _added_parameters(prepared) if parameter.name.startswith(f"{stack}.*."))
    tensors += [replace(parameter, count=1, bytes=parameter.bytes // parameter.count) for parameter in added]
    return _placed_in_graph(prepared.model, [tensor for tensor in tensors if tensor.parameters])


def outer_parameters(prepared: Prepared) -> list[ResidentTensor]:
    """List the parameters outside the layers, including those that the method adds."""
    tensors: list[ResidentTensor] = []
    model = prepared.model
    for name, module in model.outer.items():
        _module(tensors, module, name, 1, prepared)
    stack_prefixes = tuple(f"{stack.name}.*." for stack in model.stacks)
    tensors += [parameter for parameter in _added_parameters(prepared) if not parameter.name.startswith(stack_prefixes)]
    return _placed_in_graph(model, [tensor for tensor in tensors if tensor.parameters])


def _placed_in_graph(model: Model, tensors: list[ResidentTensor]) -> list[ResidentTensor]:
    """Mark the tensors that the batch does not use. Return all tensors."""
    for tensor in tensors if model.idle else ():
        tensor.in_graph = tensor.in_graph and not model.is_idle(tensor.name)
    return tensors


def outer_buffers(prepared: Prepared) -> Iterator[ResidentTensor]:
    """Yield the buffers outside the layers, and those of layers that older releases have."""
    if prepared.older:
        for buffer, name, count in _older_buffers(prepared):
            yield from _buffer(buffer, name, count, prepared.method, prepared.given)
        return
    for buffer in prepared.model.buffers:
        yield from _buffer(buffer, buffer.name, 1, prepared.method, prepared.given)


def layer_buffers(prepared: Prepared, stack: str, layer: Layer, count: int) -> Iterator[ResidentTensor]:
    """Yield the buffers of `count` layers of a kind, without those that a method adds. `stack` is their name."""
    for buffer in layer.buffers:
        yield from _buffer(buffer, f"{stack}.*.{buffer.name}", count, prepared.method, prepared.given)


def _older_buffers(prepared: Prepared) -> Iterator[tuple[Buffer, str, int]]:
    """Yield the buffers outside the layers in older releases, and those of their layers, with names and counts."""
    older, decoder = prepared.older, prepared.model.decoder
    for buffer in prepared.model.buffers:
        if buffer.name == "model.rotary_emb.inv_freq":
            if older & {"inv_freq_of_every_layer", "tables_of_every_layer"}:
                yield buffer, f"{decoder.name}.*.self_attn.rotary_emb.inv_freq", len(decoder.layers)
            if "tables_of_all_positions" in older:
                yield from _tables_of_all_positions(prepared.model)
            if "tables_of_every_layer" in older:
                continue
        if "embeddings_scaled_by_a_number" in older and buffer.name.endswith("embed_scale"):
            continue
        if "one_inv_freq" in older and buffer.name.endswith("original_inv_freq"):
            continue
        yield buffer, buffer.name, 1
    yield from _masks_of_every_layer(prepared.model, older)


def _masks_of_every_layer(model: Model, older: frozenset[ChangeName]) -> Iterator[tuple[Buffer, str, int]]:
    """Yield the buffers that GPT-2's attention has in older releases."""
    attention, count = f"{model.decoder.name}.*.attn", len(model.decoder.layers)
    if "causal_mask_of_every_layer" in older:
        positions = Dim(int(model.config["max_position_embeddings"]), "max_position_embeddings")
        mask = Buffer(name=f"{attention}.bias", shape=(1, 1, positions, positions), dtype="bool")
        yield mask, mask.name, count
    if "masked_bias_of_every_layer" in older:
        score = Buffer(name=f"{attention}.masked_bias", shape=(), dtype="float32")
        yield score, score.name, count


def _tables_of_all_positions(model: Model) -> Iterator[tuple[Buffer, str, int]]:
    """Yield cosines and sines of every layer, in the model's dtype."""
    shape = (Dim(int(model.config["max_position_embeddings"]), "max_position_embeddings"), model.config["head_dim"])
    for name in ("cos_cached", "sin_cached"):
        name_in_layers = f"{model.decoder.name}.*.self_attn.rotary_emb.{name}"
        yield Buffer(name=name_in_layers, shape=shape, dtype="model"), name_in_layers, len(model.decoder.layers)


def _layer(tensors: list[ResidentTensor], stack: str, layer: Layer, count: int, prepared: Prepared) -> None:
    for module in layer.modules:
        _module(tensors, module, module.under(f"{stack}.*"), count, prepared)
    tensors += layer_buffers(prepared, stack, layer, count)


def _buffer(buffer: Buffer, name: str, count: int, method: AddsTensors, training: Training) -> Iterator[ResidentTensor]:
    """Yield a buffer, and its copy if its module is copied."""
    dtype = training.dtype if buffer.dtype == "model" else buffer.dtype
    original = new_tensor(name=name, shape=buffer.shape, dtype=dtype, component="base_weights", count=count)
    yield original
    owner, _, last = name.rpartition(".")
    copy = method.copy_name(owner)
    if copy:
        yield replace(original, name=f"{owner}.{copy}.{last}")


def _has_view(parameter: Parameter, prepared: Prepared) -> bool:
    """Return whether the gradient of a parameter with a `gradient_base` is a view of it.

    It is a copy if the parameter is concatenated with tensors of another 16-bit dtype, which gives float32.
    """
    training = prepared.training
    if not parameter.is_single(training.by_sequences(prepared.sequences_per_row)):
        return False
    return training.dtype == "float32" or training.autocast in {None, training.dtype}


def _module(tensors: list[ResidentTensor], module: Module, name: str, count: int, prepared: Prepared) -> None:
    module_spec, tied = prepared.module_spec(name, module), prepared.model.tied
    for parameter in module.parameters if not module.shares_weights else ():
        full_name = f"{name}.{parameter.name}" if name else parameter.name
        if full_name not in tied:
            stored = _model_parameter(prepared.model, parameter, full_name, count, module_spec)
            if parameter.gradient_base is not None and _has_view(parameter, prepared):
                stored = [replace(kept, gradient_base=parameter.gradient_base) for kept in stored]
            tensors += stored
        if module_spec.copied:
            copy = new_added(
                name=f"{module_spec.copied}.{parameter.name}",
                shape=parameter.shape,
                dtype=module_spec.trained_dtype_of(parameter),
            )
            tensors.append(_added(copy, f"{name}.{copy.name}", count, in_graph=parameter.in_graph))
    for added in module_spec.added:
        full_name = f"{name}.{added.name}"
        if full_name not in tied:
            tensors.append(_added(added, full_name, count))


def _added(added: Added, name: str, count: int, *, in_graph: bool = True) -> ResidentTensor:
    """Return a parameter that a method adds to a module."""
    size = elements(added.shape)
    return new_tensor(
        name=name,
        shape=added.shape,
        dtype=added.dtype,
        component="adapter_weights",
        count=count,
        parameters=0 if added.buffer else size,
        trained=added.trained,
        base=False,
        gradient_base=added.gradient_base,
        in_graph=in_graph,
        bytes=allocated(size, ITEMSIZE[added.dtype]) * count,
    )


@per_model
def _frozen(model: Model) -> dict[Hashable, tuple[Parameter, list[ResidentTensor]]]:  # noqa: ARG001  one for each model
    """Return the dense frozen parameters of a model that are known, by what determines each."""
    return {}


def _model_parameter(
    model: Model, parameter: Parameter, name: str, count: int, module_spec: ModuleSpec
) -> list[ResidentTensor]:
    """Return a parameter of the model itself: dense, or stored in another format with its constants."""
    if module_spec.quantization is not None and parameter.name == "weight":
        return _packed(parameter, name, count, module_spec, module_spec.quantization)
    dtype = module_spec.dtype_of(parameter)
    if module_spec.original_in_file or parameter.name in module_spec.trained:
        return _dense(parameter, name, count, module_spec, dtype)
    known, key = _frozen(model), (id(parameter), name, count, dtype, module_spec.dtype)
    own, cached = known.get(key, (None, []))
    if own is not parameter:
        cached = _dense(parameter, name, count, module_spec, dtype)
        known[key] = parameter, cached
    return cached


def _dense(parameter: Parameter, name: str, count: int, module_spec: ModuleSpec, dtype: DType) -> list[ResidentTensor]:
    shape, size = ((0,), 0) if module_spec.original_in_file else (parameter.shape, parameter.elements)
    return [
        new_tensor(
            name=name,
            shape=shape,
            dtype=dtype,
            component="base_weights",
            count=count,
            parameters=parameter.elements,
            trained=parameter.name in module_spec.trained and not module_spec.copied,
            dtype_at_optimizer_init=module_spec.dtype
            if parameter.dtype == "model" and dtype != module_spec.dtype
            else None,
            bytes=allocated(size, ITEMSIZE[dtype]) * count,
        )
    ]


def _packed(
    parameter: Parameter, name: str, count: int, module_spec: ModuleSpec, quantization: StoredWeight
) -> list[ResidentTensor]:
    """Return a stored weight and its constants."""
    owner = name.removesuffix(parameter.name)
    shape, dtype = quantization.packed(parameter.shape)
    packed = new_tensor(
        name=f"{owner}{quantization.tensor_name}",
        shape=shape,
        dtype=dtype,
        component="base_weights",
        count=count,
        parameters=parameter.elements,
        trained=parameter.name in module_spec.trained and not module_spec.copied,
        packed=True,
        in_checkpoint=quantization.is_in_checkpoint,
    )
    return [packed] + [
        new_tensor(
            name=f"{name}.{constant}" if quantization.names_constants_after_it else f"{owner}{constant}",
            shape=constant_shape,
            dtype=constant_dtype,
            component="quantization_constants",
            count=count,
        )
        for constant, constant_shape, constant_dtype in quantization.constants(parameter.shape)
    ]
