"""Gradient checkpointing without re-entrance: the first saved tensor that is unpacked recomputes the function.

A recomputation runs the function again, or repeats the events of its first run (see `RepeatedCheckpoint`).

Source: torch/utils/checkpoint.py, `_checkpoint_without_reentrant_generator`, with early stop.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeVar

from calculator.engine import autocast
from calculator.engine.module_calls import saved_copy
from calculator.engine.tape import Storage, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.common.names import ComponentName
    from calculator.engine.autograd import Node
    from calculator.engine.tape import SavedTensorsHooks


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

    __slots__ = ("captured", "dtype", "follows_nodes", "function", "holders", "inputs", "outer", "recomputed")

    def __init__(
        self,
        function: Callable[..., object],
        inputs: tuple[Tensor, ...],
        captured: object,
        outer: SavedTensorsHooks | None = None,
    ) -> None:
        self.function = function
        #: The hooks around the checkpoint, which pack its inputs.
        self.outer, self.follows_nodes = outer, outer is not None
        self.inputs = _Inputs(inputs) if outer is None else _PackedInputs(inputs, outer)
        #: The objects that the function refers to in addition to its inputs.
        self.captured = captured
        region = inputs[0].tape.autocast
        self.dtype: DType | None = region.dtype if region is not None else None
        self.holders: list[Holder] = []
        #: The recomputed tensors that are not unpacked yet. None until the function is recomputed.
        self.recomputed: dict[Holder, Tensor] | None = None

    def pack(self, tensor: Tensor) -> Holder:  # noqa: ARG002  only its number is kept
        """Return a number in place of a saved tensor, and drop the tensor."""
        holder = _FIRST + len(self.holders)
        self.holders.append(holder)
        return holder

    def unpack(self, packed: Sequence[Any]) -> Sequence[Any]:
        """Return recomputed tensors and remove them from the checkpoint. The first call recomputes."""
        if self.recomputed is None:
            self.recomputed = self.recompute()
        return [*map(self.recomputed.pop, packed)]

    def recompute(self) -> dict[Holder, Tensor]:
        """Run the function again. Return the saved tensors that are still needed."""
        return _Recomputation(self.holders).run(self.function, self.inputs.read(), self.dtype)

    def after(self, node: Node) -> None:
        """Let the hooks around the checkpoint know that a node has run."""
        if self.outer is not None:
            self.outer.after(node)


class RepeatedCheckpoint(Checkpoint):
    """A checkpoint that recomputes by repeating the events of the function's first run.

    Up to the last saved tensor, a second run allocates what the first one allocated, and frees it at the same places,
    except the saved tensors. This is certain if every saved tensor is needed, the tape is in the same mode, and the
    first run freed everything that it allocated except its output, freed nothing else and marked nothing. Otherwise the
    function runs again.

    Only the order of tensors that are freed together at the end may differ. They are freed in the order of their rows.
    """

    __slots__ = ("_counts", "_end", "_first", "_mode", "_places", "_start", "_stop", "_tape", "repeats")

    def __init__(self, function: Callable[..., object], inputs: tuple[Tensor, ...], captured: object) -> None:
        super().__init__(function, inputs, captured)
        self._tape = tape = inputs[0].tape
        self._first, self._start = len(tape.rows), len(tape.events)
        self._mode, self._counts = tape.mode, (len(tape.marks), len(tape.loops))
        #: The place of each saved tensor, its shape and its dtype. The place is its row if the function allocated it,
        #: otherwise its storage.
        self._places: list[tuple[int | Storage | None, Shape, DType]] = []
        #: Where the last tensor is saved: the number of events, the scope and the component.
        self._stop: tuple[int, str, ComponentName] = self._start, tape.scope, tape.component
        #: The numbers of rows and of events when the function has returned, and the row of its output. None if a
        #: second run may differ.
        self._end: tuple[int, int, int] | None = None
        #: Is called when the first run is repeated, with the number of events before that.
        self.repeats: Callable[[int], None] | None = None

    def pack(self, tensor: Tensor) -> Holder:
        """Return a number in place of a saved tensor, and drop the tensor. Store its place."""
        tape, storage, holders = self._tape, tensor.storage, self.holders
        place = storage.row if storage is not None and storage.row >= self._first else storage
        self._places.append((place, tensor.shape, tensor.dtype))
        self._stop = len(tape.events), tape.scope, tape.component
        holder = _FIRST + len(holders)
        holders.append(holder)
        return holder

    def end(self, out: object) -> None:
        """Note what the first run returned."""
        tape = self._tape
        if isinstance(out, Tensor) and out.storage is not None and self._counts == (len(tape.marks), len(tape.loops)):
            self._end = len(tape.rows), len(tape.events), out.storage.row

    def recompute(self) -> dict[Holder, Tensor]:
        """Repeat the first run, or run the function again if that may differ. Return the saved tensors."""
        tape, end = self._tape, self._end
        is_like_first = (
            end is not None
            and tape.mode == self._mode
            and tape.added is None
            and min(map(sys.getrefcount, self.holders)) > _UNUSED
            and self._frees_all_but_output(*end)
        )
        saved = self._repeat() if is_like_first else super().recompute()
        self._places = []
        return saved

    def freed_without(self, holders: Container[Holder]) -> list[tuple[int, int]] | None:
        """Return the rows that a repetition does not keep if no node has some holders, each with where it is freed.

        Rows and events are counted from the beginning of the repetition. Return None if it would end earlier, or if
        other storages than its inputs would have fewer references.
        """
        kept: set[int | Storage | None] = {None, *[x.storage for x in self.inputs.read()]}
        places = {place for place, _, _ in self._places}
        kept.update(
            [saved[0] for holder, saved in zip(self.holders, self._places, strict=True) if holder not in holders]
        )
        rows = [place for place in places - kept if isinstance(place, int)]
        if self.holders[-1] in holders or not kept.issuperset(places.difference(rows)):
            return None
        position, freed = 0, dict.fromkeys(rows, -1)
        for event in self._tape.events[self._start : self._stop[0]]:
            if event >= 0 or ~event not in places:
                position += 1
            elif ~event in freed:
                freed[~event] = position
        return [(row - self._first, position if at < 0 else at) for row, at in freed.items()]

    def _frees_all_but_output(self, rows: int, end: int, output: int) -> bool:
        events = self._tape.events[self._start : end]
        frees = {*range(-rows, -self._first)}
        return len(events) == 2 * len(frees) - 1 and frees.difference(events) == {~output}

    def _repeat(self) -> dict[Holder, Tensor]:
        tape, first, (stop, scope, component) = self._tape, self._first, self._stop
        events = tape.events[self._start : stop]
        kept = {~place for place, _, _ in self._places if isinstance(place, int)}
        freed = {event for event in events if event < 0}
        rows, ahead = len(events) - len(freed), len(tape.rows) - first
        if self.repeats is not None:
            self.repeats(len(tape.events))
        tape.rows += tape.rows[first : first + rows]
        tape.events += [
            event + ahead if event >= 0 else event - ahead for event in events if event >= 0 or event not in kept
        ]
        tape.events += [
            free - ahead for free in range(-first - 1, -first - rows - 1, -1) if free not in freed and free not in kept
        ]
        tape.scope, tape.component = scope, component
        storages = {~free: Storage.from_row(ahead + ~free, tape.events) for free in kept}
        saved = [
            Tensor(tape, storages[place] if isinstance(place, int) else place, shape, dtype, None)
            for place, shape, dtype in self._places
        ]
        return dict(zip(self.holders, saved, strict=True))


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
    follows_nodes = False

    def __init__(self, holders: list[Holder]) -> None:
        self.holders = holders
        self.kept: list[Tensor | None] = []

    def run(
        self, function: Callable[..., object], inputs: tuple[Tensor, ...], dtype: DType | None
    ) -> dict[Holder, Tensor]:
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
        kept, self.kept = zip(self.holders, self.kept, strict=False), []
        return {holder: saved for holder, saved in kept if saved is not None}

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
    tape, hooks = inputs[0].tape, inputs[0].tape.hooks
    if tape.repeats_checkpoints and not hooks and tape.autocast is None:
        return _repeated(function, inputs, captured)
    hooks.append(Checkpoint(function, inputs, captured, hooks[-1] if hooks else None))
    try:
        return function(*inputs)
    finally:
        hooks.pop()


def _repeated(function: Callable[..., T], inputs: tuple[Tensor, ...], captured: object) -> T:
    hooks, own = inputs[0].tape.hooks, RepeatedCheckpoint(function, inputs, captured)
    hooks.append(own)
    try:
        out = function(*inputs)
    finally:
        hooks.pop()
    own.end(out)
    return out
