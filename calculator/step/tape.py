"""Symbolic tensors whose storages are freed when their last reference goes, as PyTorch frees them.

Nothing is computed: a tensor is a shape, a dtype and a storage of some bytes. Every allocation and every free is an
event on the tape, in order. Python's reference counting decides when a storage is freed, which is what decides it in
PyTorch too, so a program written with the locals that the real module holds frees what the real module frees.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, Protocol

from calculator.dtype import ITEMSIZE, DType

if TYPE_CHECKING:
    from calculator.answer import ComponentName
    from calculator.dimension import Shape
    from calculator.step.autocast import Autocast
    from calculator.step.autograd import Node

#: One kind of storage: where it was born, its shape, dtype and component, and its rounded bytes.
Born = tuple[str, "Shape", DType, "ComponentName", int]


class Frame(Protocol):
    """A checkpoint, seen from a node inside it."""

    def pack(self, tensor: Tensor) -> Any:
        """Take a tensor that a node saves, and give what the node should hold instead."""

    def unpack(self, held: list[Any]) -> list[Any]:
        """Give the tensors back for what a node held."""


class Tape:
    """The events of a step: `n` for the birth of row `n`, `~n` for its end, with marks between them.

    `frames` are the checkpoints that the running code lies in; the innermost is last. `autocast` is the region of
    autocast that it lies in, if any.
    """

    __slots__ = ("autocast", "component", "events", "frames", "marks", "rows", "scope", "sequence")

    def __init__(self) -> None:
        self.rows: list[Born] = []
        self.events: list[int] = []
        self.frames: list[Frame] = []
        self.marks: list[tuple[int, str]] = []
        self.scope = ""
        self.autocast: Autocast | None = None
        self.component: ComponentName = "activations"
        self.sequence = 0

    def mark(self, label: str) -> None:
        """Name this point of the step."""
        self.marks.append((len(self.events), label))

    def new(
        self, shape: Shape, dtype: DType, name: str, *, component: ComponentName | None = None, node: Node | None = None
    ) -> Tensor:
        """Allocate a tensor."""
        size = (prod(map(int, shape)) * ITEMSIZE[dtype] + 511) & -512
        storage = Storage(self, (self.scope + name, shape, dtype, component or self.component, size))
        return Tensor(self, storage, shape, dtype, node)

    def scratch(self, shape: Shape, dtype: DType, name: str) -> Tensor:
        """Allocate a transient that is counted as workspace."""
        return self.new(shape, dtype, name, component="workspace")


class Storage:
    """Bytes on the device, alive while something refers to them."""

    __slots__ = ("row", "tape")

    def __init__(self, tape: Tape, born: Born) -> None:
        self.row = len(tape.rows)
        self.tape = tape
        tape.rows.append(born)
        tape.events.append(self.row)

    def __del__(self) -> None:
        self.tape.events.append(~self.row)


class Tensor:
    """A shape and dtype over a storage; `node` is what made it, where a gradient flows back through it.

    `merged` says that batches and heads lie one after the other, so that a product of batches needs no copy of it.
    `viewed` says that it is a gradient seen through a view, whose base counts as another owner of the storage.
    `storage` is None for a parameter, whose bytes are counted with the model's state.
    """

    __slots__ = ("dtype", "index", "merged", "node", "shape", "storage", "tape", "viewed")

    def __init__(
        self, tape: Tape, storage: Storage | None, shape: Shape, dtype: DType, node: Node | None, index: int = 0
    ) -> None:
        self.tape = tape
        self.storage = storage
        self.shape = shape
        self.dtype = dtype
        self.node = node
        self.index = index
        self.merged = False
        self.viewed = False

    def detach(self) -> Tensor:
        """The same storage without a gradient."""
        return Tensor(self.tape, self.storage, self.shape, self.dtype, None)
