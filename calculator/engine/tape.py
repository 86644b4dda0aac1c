"""Symbolic tensors whose storages are freed when their last reference goes, as PyTorch frees them.

Nothing is computed: a tensor is a shape, a dtype and a storage of some bytes. Every allocation and every free is an
event on the tape, in order. Python's reference counting decides when a storage is freed, which is what decides it in
PyTorch too, so a program written with the locals that the real module holds frees what the real module frees.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from calculator.architecture.dimension import elements
from calculator.common.dtype import ITEMSIZE, DType, allocated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.architecture.dimension import Shape
    from calculator.common.names import ComponentName
    from calculator.engine.autocast import Autocast
    from calculator.engine.autograd import Node

#: Where a tensor's gradient goes: a node, which of its outputs the tensor is, and the tensor's shape and dtype.
Edge = tuple["Node", int, "Shape", DType]

#: One kind of storage: where it was born, its shape, dtype and component, and its rounded bytes.
Allocation = tuple[str, "Shape", DType, "ComponentName", int]


class Frame(Protocol):
    """A checkpoint, seen from a node inside it."""

    def pack(self, tensor: Tensor) -> Any:
        """Take a tensor that a node saves, and give what the node should hold instead."""

    def unpack(self, held: Sequence[Any]) -> Sequence[Any]:
        """Give the tensors back for what a node held."""


class Sizes(dict[tuple["Shape", DType], int]):
    """Rounded bytes by shape and dtype, each worked out once: a step makes many tensors of few sizes."""

    __slots__ = ()

    def __missing__(self, key: tuple[Shape, DType]) -> int:
        shape, dtype = key
        size = self[key] = allocated(elements(shape), ITEMSIZE[dtype])
        return size


class Tape:
    """The events of a step: `n` for the birth of row `n`, `~n` for its end, with marks between them.

    `trains` says whether the model trains: where not, nothing is dropped and no parameter gets a gradient. `frames` are
    the checkpoints that the running code lies in; the innermost is last. `autocast` is the region of autocast that it
    lies in, if any.
    """

    __slots__ = (
        "autocast",
        "component",
        "events",
        "frames",
        "marked_rows",
        "marks",
        "rows",
        "scope",
        "sequence_nr",
        "sizes",
        "trains",
    )

    def __init__(self, *, trains: bool = True) -> None:
        self.trains = trains
        self.rows: list[Allocation] = []
        self.events: list[int] = []
        self.frames: list[Frame] = []
        self.marks: list[tuple[int, str]] = []
        self.marked_rows: dict[str, int] = {}
        self.scope = ""
        self.autocast: Autocast | None = None
        self.component: ComponentName = "activations"
        self.sequence_nr = 0
        self.sizes = Sizes()

    def mark(self, label: str, passing: Tensor | None = None) -> None:
        """Name this point of the step, and keep the row of what passes by."""
        self.marks.append((len(self.events), label))
        if passing is not None and passing.storage is not None:
            self.marked_rows[label] = passing.storage.row

    def position(self, label: str) -> int:
        """Where a point that has been named lies."""
        return next(position for position, name in self.marks if name == label)

    def new(
        self, shape: Shape, dtype: DType, name: str, node: Node | None = None, component: ComponentName | None = None
    ) -> Tensor:
        """Allocate a tensor. Nothing is keyword-only, which would make every one of hundreds of calls slower."""
        rows = self.rows
        storage = Storage(len(rows), self.events)
        rows.append((self.scope + name, shape, dtype, component or self.component, self.sizes[shape, dtype]))
        return Tensor(self, storage, shape, dtype, node)

    def scratch(self, shape: Shape, dtype: DType, name: str) -> Tensor:
        """Allocate a transient that is counted as workspace."""
        return self.new(shape, dtype, name, component="workspace")


class Storage:
    """Bytes on the device, alive while something refers to them."""

    __slots__ = ("events", "row")

    def __init__(self, row: int, events: list[int]) -> None:
        self.row = row
        self.events = events
        events.append(row)

    def __del__(self) -> None:
        self.events.append(~self.row)


class Tensor:
    """A shape and dtype over a storage; `edge` leads to what made it, where a gradient flows back through it.

    `merged` says that batches and heads lie one after the other, so that a product of batches needs no copy of it.
    `viewed` says that it is a gradient seen through a view, whose base counts as another owner of the storage.
    `storage` is None for a parameter, whose bytes are counted with the model's state.
    """

    __slots__ = ("dtype", "edge", "merged", "shape", "storage", "tape", "viewed")

    def __init__(
        self, tape: Tape, storage: Storage | None, shape: Shape, dtype: DType, node: Node | None, index: int = 0
    ) -> None:
        self.tape = tape
        self.storage = storage
        self.shape = shape
        self.dtype = dtype
        self.edge: Edge | None = None if node is None else (node, index, shape, dtype)
        self.merged = False
        self.viewed = False

    def rename(self, name: str, component: ComponentName | None = None) -> None:
        """Give its storage a name that it has whatever made it."""
        if self.storage is not None:
            rows, row = self.tape.rows, self.storage.row
            _, shape, dtype, born_as, size = rows[row]
            rows[row] = (name, shape, dtype, component or born_as, size)

    def detach(self) -> Tensor:
        """The same storage without a gradient."""
        return Tensor(self.tape, self.storage, self.shape, self.dtype, None)
