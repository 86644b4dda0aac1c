"""A unit of FSDP2 in a running micro-batch: its gathered weights, its gradients, and the nodes around its forward.

Source: torch/distributed/fsdp/_fully_shard/_fsdp_param_group.py and _fsdp_state.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import proxy

from calculator.common.dtype import FLOATS
from calculator.engine.autograd import AccumulateGrad, Mark
from calculator.engine.operations import cast, narrow
from calculator.engine.tape import ComplexTensor, Tensor
from calculator.layers.sharding_hooks import Unit

if TYPE_CHECKING:
    from calculator.common.dtype import DType
    from calculator.engine.autograd import Node
    from calculator.layers.bound_module import BoundModule
    from calculator.sharding.fsdp.micro_batch import MicroBatch
    from calculator.sharding.fsdp.units import UnitParameters


class FSDPUnit:
    """A unit of FSDP2. It is gathered before its forward and before its backward pass, and reduced after the latter."""

    __slots__ = (
        "buffer",
        "gathered",
        "in_backward",
        "is_done",
        "is_entered",
        "leaves",
        "micro_batch",
        "param_group",
        "position",
        "reshards",
        "shards",
        "whole",
    )

    def __init__(self, micro_batch: MicroBatch, param_group: UnitParameters, *, reshards: bool) -> None:
        #: A weak reference: the micro-batch refers to its units, and cycles would wait for the garbage collector.
        self.micro_batch: MicroBatch = proxy(micro_batch)
        self.param_group = param_group
        #: Whether its gathered weights are freed after its forward pass.
        self.reshards = reshards
        #: The output of an all-gather that has not been copied out yet.
        self.buffer: Tensor | None = None
        #: The gathered weights. Empty while they are sharded.
        self.gathered: list[Tensor] = []
        #: The whole gradients of earlier micro-batches.
        self.whole: list[Tensor] = []
        #: The AccumulateGrad nodes of its trained parameters.
        self.leaves: list[AccumulateGrad] = []
        #: The reduced gradients.
        self.shards: Tensor | None = None
        #: The index of the unit in the order of forward passes.
        self.position = 0
        self.is_entered = self.in_backward = self.is_done = False

    def before(self, x: Tensor) -> Tensor:
        """Gather the weights. Reduce their gradients when the gradient of the input is complete."""
        if not self.param_group.parameters:
            return x
        return self.before_reduction(x) if self.enter() else x

    def before_reduction(self, x: Tensor) -> Tensor:
        """Return an input that reduces the unit's gradients when its own gradient is complete."""
        if x.edge is None:
            return x
        return Tensor(x.tape, x.storage, x.shape, x.dtype, Mark(x.tape, _post_backward, (x.edge,), self))

    def enter(self) -> bool:
        """Gather the weights before the forward pass. Return whether the unit runs for the first time."""
        self.micro_batch.gather(self)
        self.micro_batch.copy_out(self, keeps_buffer=True)
        is_first, self.is_entered = not self.is_entered, True
        if is_first and self.micro_batch.is_begun:
            self.whole = self.micro_batch.whole_gradients(self.param_group)
        return is_first

    def after(self, x: Tensor) -> Tensor:
        """Free the gathered weights. Gather them again when the gradient of the output arrives."""
        if not self.param_group.parameters:
            return x
        self.micro_batch.leave(self)
        return self.before_gradient(x)

    @property
    def is_incomplete(self) -> bool:
        """Whether some of its modules do not run, so that its forward pass ends with that of the root."""
        return self.is_entered and self not in self.micro_batch.order

    def take_gradients(self) -> list[Tensor]:
        """Take the gradients from the unit, and return them."""
        grads, self.whole = self.whole, []
        for leaf in self.leaves:
            if leaf.grad is not None:
                grads.append(leaf.grad)
                leaf.grad = None
        return grads

    def before_gradient(self, x: Tensor) -> Tensor:
        """Return a tensor whose gradient gathers the weights when it arrives."""
        if x.edge is None or not self.param_group.parameters:
            return x
        leaf = x.edge[0]
        if isinstance(leaf, AccumulateGrad):
            # Autograd runs AccumulateGrad nodes before all other nodes that are ready.
            leaf.accumulation = leaf.accumulation._replace(release=_OfLeaf(self))
            return x
        return Tensor(x.tape, x.storage, x.shape, x.dtype, Mark(x.tape, _pre_backward, (x.edge,), self))


class _OfLeaf:
    """Gathers a unit's weights when the gradient of its output is ready.

    The output is a leaf that keeps its gradient.
    """

    __slots__ = ("_gradients", "_unit")

    def __init__(self, unit: FSDPUnit) -> None:
        self._unit = unit
        self._gradients: list[Tensor] = []

    def ready(self, grad: Tensor) -> None:  # noqa: ARG002  a hook's signature
        """Gather the weights."""
        self._unit.micro_batch.pre_backward(self._unit)

    def accumulated(self, name: str, grad_list: list[Tensor]) -> None:  # noqa: ARG002  a hook's signature
        """Keep the gradient."""
        self._gradients += grad_list


class Part(Unit):
    """A module of a unit. The unit's forward pass ends with its last module."""

    __slots__ = ("first_leaf", "is_last", "unit")

    def __init__(self, unit: FSDPUnit, first_leaf: int, *, is_last: bool) -> None:
        self.unit = unit
        #: The number of AccumulateGrad nodes before the first of its own.
        self.first_leaf = first_leaf
        self.is_last = is_last

    def before(self, x: Tensor) -> Tensor:
        """Gather the unit's weights, unless another of its modules has gathered them."""
        return self.unit.before(x)

    def receive(self, x: Tensor) -> Tensor:
        """Return the input in the dtype of mixed precision."""
        return self._in_param_dtype(x, "input")

    def _in_param_dtype(self, x: Tensor, name: str) -> Tensor:
        """Return an input or an output of a module in the dtype of mixed precision (_cast_fp_tensor)."""
        dtype = self.unit.param_group.param_dtype
        return x if dtype is None or x.dtype not in FLOATS else cast(x, dtype, f"{name}, cast to {dtype} by FSDP")

    def cast(self, tables: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the tables in the dtype of mixed precision."""
        dtype = self.unit.param_group.param_dtype
        if dtype is None or all(_is_kept(x) or x.dtype == dtype for x in tables):
            return tables
        return tuple(x if _is_kept(x) else _cast_table(x, dtype) for x in tables)

    def read(self, module: BoundModule, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the gathered parameters. If the unit has not run, gather each by itself (`DTensor.full_tensor`)."""
        unit, micro_batch = self.unit, self.unit.micro_batch
        unit.leaves += micro_batch.parameters.leaves[self.first_leaf :]
        if unit.gathered or not unit.param_group.parameters:
            return module.own, x
        return micro_batch.full_tensors(unit.param_group), x

    def after(self, x: Tensor) -> Tensor:
        """Record the module's trained parameters. After the last module, end the unit's forward pass.

        Every output is cast.
        """
        self.unit.leaves += self.unit.micro_batch.parameters.leaves[self.first_leaf :]
        return self._in_param_dtype(self.unit.after(x) if self.is_last else x, "output")


class Nested(Part):
    """A unit inside a layer that may be checkpointed.

    A recomputation gathers its weights for the backward pass.

    Source: torch/distributed/fsdp/_fully_shard/_fsdp_param_group.py, post_forward.
    """

    __slots__ = ("_has_run", "_path")

    def __init__(self, unit: FSDPUnit, first_leaf: int, path: str) -> None:
        super().__init__(unit, first_leaf, is_last=True)
        #: The path of its module in the layer.
        self._path = f".{path}."
        self._has_run = False

    def before(self, x: Tensor) -> Tensor:
        """Gather the weights. Reduce their gradients when the gradient of the input is complete."""
        self.unit.enter()
        return self.unit.before_reduction(x)

    def after(self, x: Tensor) -> Tensor:
        """End the unit's forward pass. A recomputation only frees the buffer from which it copied the weights."""
        unit, micro_batch = self.unit, self.unit.micro_batch
        if self._has_run:
            micro_batch.kept_buffer = None
        else:
            leaves = micro_batch.parameters.leaves[self.first_leaf :]
            unit.leaves += [leaf for leaf in leaves if self._path in leaf.name]
            micro_batch.leave(unit)
        self._has_run = True
        return self._in_param_dtype(unit.before_gradient(x), "output")


class LayerAround(Unit):
    """A layer that is no unit, and whose attention module is one."""

    __slots__ = ("_attention",)

    def __init__(self, attention: Unit) -> None:
        self._attention = attention

    def attention(self) -> Unit:
        """Return the attention module."""
        return self._attention


def _is_kept(x: Tensor) -> bool:
    """Return whether mixed precision does not cast a table: it has no floating-point numbers."""
    return x.dtype not in FLOATS or isinstance(x, ComplexTensor)


def _cast_table(x: Tensor, dtype: DType) -> Tensor:
    """Return a table in another dtype.

    A table with the positions of every sequence is an expanded view of the first sequence's table.
    """
    name, whole = f"table in {dtype}", x.tape.rows[x.storage.row][1] if x.storage is not None else x.shape
    if whole == x.shape or whole[1:] != x.shape[1:]:
        return cast(x, dtype, name)
    return narrow(x.tape.new(whole, dtype, name), x.shape)


def _pre_backward(node: Node, grad: Tensor) -> tuple[Tensor]:
    node.context.micro_batch.pre_backward(node.context)
    return (grad,)


def _post_backward(node: Node, grad: Tensor) -> tuple[Tensor]:
    node.context.micro_batch.post_backward(node.context)
    return (grad,)
