"""Gradient checkpointing without re-entrance: a function that is run again when its first saved tensor is asked for.

Source: torch/utils/checkpoint.py, `_checkpoint_without_reentrant_generator`, with early stop.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from calculator.engine import autocast

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from calculator.common.dtype import DType
    from calculator.engine.tape import Tensor


class _StopRecomputation(Exception):  # noqa: N818  ends a recomputation at its last saved tensor; nothing went wrong
    """Everything that the backward pass asks for has been recomputed."""


class Holder:
    """What a node inside a checkpoint holds instead of a tensor: its number among the saved ones."""

    __slots__ = ("__weakref__", "number")

    def __init__(self, number: int) -> None:
        self.number = number


class Checkpoint:
    """A function's frame: it numbers the tensors that its nodes save, and recomputes those still wanted, once.

    It is recomputed under autocast where it was run so, in a region of its own.
    """

    __slots__ = ("captured", "dtype", "function", "holders", "inputs", "recomputed")

    def __init__(self, function: Callable[..., Tensor], inputs: tuple[Tensor, ...], captured: object) -> None:
        self.function = function
        self.inputs = inputs
        self.captured = captured
        region = inputs[0].tape.autocast
        self.dtype: DType | None = region.dtype if region is not None else None
        self.holders: list[weakref.ref[Holder]] = []
        self.recomputed: list[Tensor | None] | None = None

    def pack(self, tensor: Tensor) -> Holder:  # noqa: ARG002  only its place is kept
        """Number a saved tensor and let it go."""
        holder = Holder(len(self.holders))
        self.holders.append(weakref.ref(holder))
        return holder

    def unpack(self, held: Sequence[Any]) -> Sequence[Any]:
        """Hand recomputed tensors over; the first call recomputes."""
        if self.recomputed is None:
            self.recomputed = _Recomputation(self.holders).run(self.function, self.inputs, self.dtype)
        recomputed = self.recomputed
        given = [recomputed[holder.number] for holder in held]
        for holder in held:
            recomputed[holder.number] = None
        return given


class _Recomputation:
    """The second run of a checkpointed function, which keeps what nodes of the first run still hold."""

    __slots__ = ("holders", "kept")

    def __init__(self, holders: list[weakref.ref[Holder]]) -> None:
        self.holders = holders
        self.kept: list[Tensor | None] = []

    def run(
        self, function: Callable[..., Tensor], inputs: tuple[Tensor, ...], dtype: DType | None
    ) -> list[Tensor | None]:
        frames = inputs[0].tape.frames
        frames.append(self)
        try:
            with autocast.region(inputs[0].tape, dtype):
                function(*inputs)
        except _StopRecomputation:
            pass
        finally:
            frames.pop()
        return self.kept

    def pack(self, tensor: Tensor) -> Tensor:
        wanted = self.holders[len(self.kept)]() is not None
        saved = tensor.detach()
        self.kept.append(saved if wanted else None)
        if len(self.kept) == len(self.holders):
            raise _StopRecomputation
        return saved

    def unpack(self, held: Sequence[Any]) -> Sequence[Any]:
        return held


def checkpoint(function: Callable[..., Tensor], *inputs: Tensor, captured: object = None) -> Tensor:
    """Run a function so that its backward pass keeps its inputs only, and what is `captured` them."""
    frames = inputs[0].tape.frames
    frames.append(Checkpoint(function, inputs, captured))
    try:
        return function(*inputs)
    finally:
        frames.pop()
