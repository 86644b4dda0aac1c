"""Gradient checkpointing without re-entrance: the first saved tensor that is unpacked recomputes the function.

Source: torch/utils/checkpoint.py, `_checkpoint_without_reentrant_generator`, with early stop.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeVar

from calculator.engine import autocast
from calculator.engine.module_calls import saved_copy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from calculator.common.dtype import DType
    from calculator.engine.autograd import Node
    from calculator.engine.tape import SavedTensorsHooks, Tensor


T = TypeVar("T")


class _StopRecomputation(Exception):  # noqa: N818  ends a recomputation at its last saved tensor; it is no error
    """Every saved tensor has been recomputed."""


#: What a node inside a checkpoint keeps in place of a saved tensor: `_FIRST` plus the number of the tensor. Python
#: caches small integers only, so each holder is an object of its own with its own reference count. An integer is
#: cheaper than other objects, because the garbage collector does not track it.
Holder = int
_FIRST = 1 << 20
#: The references to a holder that do not belong to a node: one in its checkpoint, and the argument of `getrefcount`.
_UNUSED = 2


class Checkpoint:
    """Numbers the tensors that a function saves, and recomputes the ones that are still needed.

    A function that ran under autocast is recomputed in a new autocast region.
    """

    __slots__ = ("captured", "dtype", "function", "holders", "inputs", "outer", "recomputed")

    def __init__(
        self,
        function: Callable[..., object],
        inputs: tuple[Tensor, ...],
        captured: object,
        outer: SavedTensorsHooks | None = None,
    ) -> None:
        self.function = function
        #: The hooks around the checkpoint, which pack its inputs.
        self.outer = outer
        self.inputs = _Inputs(inputs) if outer is None else _PackedInputs(inputs, outer)
        #: The objects that the function refers to in addition to its inputs.
        self.captured = captured
        region = inputs[0].tape.autocast
        self.dtype: DType | None = region.dtype if region is not None else None
        self.holders: list[Holder] = []
        self.recomputed: list[Tensor | None] | None = None

    def pack(self, tensor: Tensor) -> Holder:  # noqa: ARG002  only its number is kept
        """Return a number in place of a saved tensor, and drop the tensor."""
        holder = _FIRST + len(self.holders)
        self.holders.append(holder)
        return holder

    def unpack(self, packed: Sequence[Any]) -> Sequence[Any]:
        """Return recomputed tensors and remove them from the checkpoint. The first call recomputes."""
        if self.recomputed is None:
            self.recomputed = _Recomputation(self.holders).run(self.function, self.inputs.read(), self.dtype)
        recomputed = self.recomputed
        tensors = [recomputed[holder - _FIRST] for holder in packed]
        for holder in packed:
            recomputed[holder - _FIRST] = None
        return tensors

    def after(self, node: Node) -> None:
        """Let the hooks around the checkpoint know that a node has run."""
        if self.outer is not None:
            self.outer.after(node)


class _Inputs:
    """The inputs of a checkpoint, which it refers to."""

    __slots__ = ("_tensors",)

    def __init__(self, tensors: tuple[Tensor, ...]) -> None:
        self._tensors = tensors

    def read(self) -> tuple[Tensor, ...]:
        """Return the inputs."""
        return self._tensors


class _PackedInputs:
    """The inputs of a checkpoint, which the hooks around it have packed.

    Source: torch/utils/checkpoint.py, `_NoopSaveInputs`.
    """

    __slots__ = ("_hooks", "_packed")

    def __init__(self, tensors: tuple[Tensor, ...], hooks: SavedTensorsHooks) -> None:
        self._hooks = hooks
        self._packed = [(hooks.pack(tensor), tensor.edge, tensor.merged) for tensor in tensors]

    def read(self) -> tuple[Tensor, ...]:
        """Return the inputs, unpacked."""
        tensors = tuple(self._hooks.unpack([packed for packed, *_ in self._packed]))
        for tensor, (_, edge, merged) in zip(tensors, self._packed, strict=True):
            tensor.edge, tensor.merged = edge, merged
        return tensors


class _Recomputation:
    """The second run of a checkpointed function. It keeps only the tensors whose holders are still alive."""

    __slots__ = ("holders", "kept")

    def __init__(self, holders: list[Holder]) -> None:
        self.holders = holders
        self.kept: list[Tensor | None] = []

    def run(
        self, function: Callable[..., object], inputs: tuple[Tensor, ...], dtype: DType | None
    ) -> list[Tensor | None]:
        tape = inputs[0].tape
        outer, tape.recomputes = tape.recomputes, True
        tape.hooks.append(self)
        try:
            with autocast.region(tape, dtype):
                function(*inputs)
        except _StopRecomputation:
            pass
        finally:
            tape.hooks.pop()
            tape.recomputes = outer
        return self.kept

    def pack(self, tensor: Tensor) -> Tensor:
        needed = sys.getrefcount(self.holders[len(self.kept)]) > _UNUSED
        saved = saved_copy(tensor)
        self.kept.append(saved if needed else None)
        if len(self.kept) == len(self.holders):
            raise _StopRecomputation
        return saved

    def unpack(self, packed: Sequence[Any]) -> Sequence[Any]:
        return packed

    def after(self, node: Node) -> None:
        """Do nothing. Nodes of the recomputed graph do not run."""


def checkpoint(function: Callable[..., T], *inputs: Tensor, captured: object = None) -> T:
    """Run a function, and save only its inputs and the tensors that it captures for the backward pass."""
    hooks = inputs[0].tape.hooks
    hooks.append(Checkpoint(function, inputs, captured, hooks[-1] if hooks else None))
    try:
        return function(*inputs)
    finally:
        hooks.pop()
