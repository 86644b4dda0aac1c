"""Tensors with the shapes of trained parameters: optimizer states and gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from calculator.common.total import total_bytes
from calculator.resident.tensor import ResidentTensor, new_tensor
from calculator.resident.tensors import with_gradient

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

    from calculator.common.names import ComponentName
    from calculator.resident.optimizer import Optimizer


class PerParameter:
    """One tensor per parameter and name, with the parameter's shape and dtype, repeated `times`.

    The bytes are computed at once. The tensors are created only when the object is iterated over.
    """

    __slots__ = ("bytes", "component", "names", "of", "rows", "times")

    def __init__(
        self, of: Sequence[ResidentTensor], names: tuple[str, ...], component: ComponentName, times: int = 1
    ) -> None:
        self.of = of
        self.names = names
        self.component = component
        self.times = times
        self.bytes = total_bytes(of) * len(names) * times
        #: The rows in a ledger, cached by the ledger.
        self.rows: Any = None

    def __iter__(self) -> Iterator[ResidentTensor]:
        for tensor in self.of:
            for name in self.names:
                yield new_tensor(
                    name=f"{tensor.name}: {name}",
                    shape=tensor.shape,
                    dtype=tensor.dtype,
                    component=self.component,
                    count=tensor.count * self.times,
                    bytes=tensor.bytes * self.times,
                )


#: One kind of resident tensor, or one for each parameter.
ResidentTensors = ResidentTensor | PerParameter


def tensors(resident: Iterable[ResidentTensors]) -> Iterator[ResidentTensor]:
    """Yield every kind of resident tensor by itself."""
    for tensor in resident:
        if isinstance(tensor, PerParameter):
            yield from tensor
        else:
            yield tensor


def sizes(resident: Iterable[ResidentTensors], more: Mapping[int, int] | None = None) -> dict[int, int]:
    """Return the number of tensors by size in bytes, added to `more`."""
    counts = dict(more or ())
    for own in resident:
        if isinstance(own, PerParameter):
            times = own.times * len(own.names)
            for tensor in own.of:
                size = tensor.bytes // tensor.count
                counts[size] = counts.get(size, 0) + tensor.count * times
        else:
            size = own.bytes // own.count
            counts[size] = counts.get(size, 0) + own.count
    return counts


def optimizer_states(
    tensors: Iterable[ResidentTensor], optimizer: Optimizer, in_32_bits: Container[str] = ()
) -> tuple[ResidentTensors, ...]:
    """Return the optimizer's states of every trained parameter, from its second step on, and those that all share.

    A parameter without a gradient has states only if the optimizer creates them early. Parameters in `in_32_bits` have
    no 8-bit states.
    """
    tensors = tuple(tensors)
    if optimizer.is_like_parameters:
        return (_like_parameters(tensors, optimizer),)
    return (*own_states(tensors, optimizer, in_32_bits), *shared_states(tensors, optimizer, in_32_bits))


def _like_parameters(tensors: Sequence[ResidentTensor], optimizer: Optimizer) -> PerParameter:
    return PerParameter(_with_states(tensors, optimizer), optimizer.names, "optimizer_states")


def own_states(
    tensors: Sequence[ResidentTensor], optimizer: Optimizer, in_32_bits: Container[str] = ()
) -> Iterator[ResidentTensors]:
    """Yield the states that each parameter has of its own."""
    if optimizer.is_like_parameters:
        yield _like_parameters(tensors, optimizer)
        return
    for tensor in _with_states(tensors, optimizer):
        early = tensor.dtype_at_optimizer_init if optimizer.early else None
        states = optimizer.for_parameter(tensor.name)
        of = states.in_32_bits if tensor.name in in_32_bits else states
        for name, shape, dtype in of.states(tensor.shape, early or tensor.dtype):
            yield new_tensor(
                name=f"{tensor.name}: {name}",
                shape=shape,
                dtype=dtype,
                component="optimizer_states",
                count=tensor.count,
            )


def shared_states(
    tensors: Sequence[ResidentTensor], optimizer: Optimizer, in_32_bits: Container[str] = ()
) -> Iterator[ResidentTensor]:
    """Yield the states that all parameters share, which are code books."""
    if optimizer.is_like_parameters:
        return
    in_8_bits = (
        optimizer.shape_of_states(tensor.name, tensor.shape)
        for tensor in _with_states(tensors, optimizer)
        if tensor.name not in in_32_bits
    )
    for name, shape, dtype in optimizer.shared_states(in_8_bits):
        yield new_tensor(name=name, shape=shape, dtype=dtype, component="optimizer_states")


def _with_states(tensors: Sequence[ResidentTensor], optimizer: Optimizer) -> list[ResidentTensor]:
    if optimizer.for_frozen:
        return [tensor for tensor in tensors if tensor.parameters or tensor.trained]
    return [tensor for tensor in tensors if tensor.trained] if optimizer.early else with_gradient(tensors)


def further_code_books(tensors: Iterable[ResidentTensor], optimizer: Optimizer) -> Iterator[ResidentTensors]:
    """Yield the code books of all parameters but one, for optimizers that update one parameter each."""
    counts = (
        tensor.count
        for tensor in tensors
        if tensor.gets_gradient and any(optimizer.shared_states([optimizer.shape_of_states(tensor.name, tensor.shape)]))
    )
    if further := sum(counts) - 1 if optimizer.storage == "8bit" else 0:
        count = further * len(optimizer.names)
        name = "qmaps of further optimizers"
        yield new_tensor(name=name, shape=(256,), dtype="float32", component="optimizer_states", count=count)


def gradients(tensors: Iterable[ResidentTensor]) -> PerParameter:
    """Return the gradients of all trained parameters that get one, in the parameters' dtypes."""
    trained = [
        # A gradient may be a view of a larger storage.
        tensor if tensor.gradient_base is None else replace(tensor, shape=tensor.gradient_base, bytes=0)
        for tensor in with_gradient(tensors)
    ]
    return PerParameter(trained, ("gradient",), "gradients")
