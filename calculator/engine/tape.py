"""Tensors without values, and the tape that records when their storages are allocated and freed.

Nothing is computed. A tensor is a shape, a dtype and a storage of some bytes. Every allocation and every free is an
event on the tape, in order. A storage is freed when its last reference goes, as in PyTorch. So a forward function that
has the local variables of the real module frees each tensor when the real module does.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from calculator.architecture.dimension import elements
from calculator.common.dtype import ITEMSIZE, DType, allocated
from calculator.devices.multiprocessors import ASSUMED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.architecture.dimension import Shape
    from calculator.common.names import ComponentName
    from calculator.engine.autocast import Autocast
    from calculator.engine.autograd import LeafModule, Node
    from calculator.engine.loops import Loop

if sys.implementation.name != "cpython":
    raise ImportError(
        f"Headroom needs CPython, which frees an object with its last reference: {sys.implementation.name}"
    )

#: Where a tensor's gradient goes: the node that created it, the index of that output, and the tensor's shape and dtype.
Edge = tuple["Node", int, "Shape", DType]

#: One allocation: its name, shape, dtype, component, and size in bytes as the allocator rounds it.
Allocation = tuple[str, "Shape", DType, "ComponentName", int]


_new = object.__new__


class SavedTensorsHooks(Protocol):
    """Hooks that pack what a node saves and unpack it again, as `torch.autograd.graph.saved_tensors_hooks`."""

    def pack(self, tensor: Tensor) -> Any:
        """Return the object that a node keeps in place of a tensor that it saves."""

    def unpack(self, packed: Sequence[Any]) -> Sequence[Any]:
        """Return the tensors from what a node kept."""

    @property
    def follows_nodes(self) -> bool:
        """Whether `after` does anything."""

    def after(self, node: Node) -> None:
        """Run when a node has run whose saved tensors were unpacked."""


class AddedRows(NamedTuple):
    """The rows that adapters allocate in a call of an adapted module.

    These are the rows from `first` up to `stop`. `output` is the row of the module's output, and `base_output` that of
    the frozen module's output. The latter is None if that is not known.
    """

    first: int
    stop: int
    output: int
    base_output: int | None


class Sizes(dict[tuple["Shape", DType], int]):
    """Rounded bytes by shape and dtype, cached because a step allocates many tensors of few sizes."""

    __slots__ = ()

    def __missing__(self, key: tuple[Shape, DType]) -> int:
        shape, dtype = key
        size = self[key] = allocated(elements(shape), ITEMSIZE[dtype])
        return size


#: The bytes of cuBLASLt's workspace. Source: aten/src/ATen/cuda/CublasHandlePool.cpp, getCUDABlasLtWorkspaceSize.
_LT_WORKSPACE = 1 << 20


class Tape:
    """The events of a step: `n` where row `n` is allocated, `~n` where it is freed, with marks between them."""

    __slots__ = (
        "_trains",
        "added",
        "autocast",
        "calls_modules",
        "capability",
        "component",
        "cuda",
        "efficient_state_on_gpu",
        "events",
        "flash_state_on_gpu",
        "folds_loops",
        "grad_enabled",
        "hooks",
        "in_leaf",
        "leaves",
        "loops",
        "marked_rows",
        "marks",
        "module_dropout",
        "multiprocessors",
        "product_workspace",
        "products",
        "reads_graph",
        "reads_trains",
        "recomputes",
        "repeats_checkpoints",
        "rotary_products",
        "rows",
        "scope",
        "sequence_nr",
        "shared_layers",
        "sizes",
        "tower_layer",
        "weight_views",
    )

    def __init__(self, *, trains: bool = True, cuda: bool = False) -> None:
        self._trains = trains
        #: The rows that adapters allocate. None unless they are listed.
        self.added: list[AddedRows] | None = None
        #: Whether anything has read `trains` since this was set to False.
        self.reads_trains = False
        #: Whether an operation has allocated other tensors because it records a graph since this was set to False.
        self.reads_graph = False
        #: The allocations in order.
        self.rows: list[Allocation] = []
        self.events: list[int] = []
        #: Whether the running code builds a graph that something keeps, as torch.is_grad_enabled.
        self.grad_enabled = True
        #: Whether torch.nn.Dropout modules drop elements.
        self.module_dropout = True
        #: The checkpoints around the running code, innermost last.
        self.hooks: list[SavedTensorsHooks] = []
        #: Named positions among the events.
        self.marks: list[tuple[int, str]] = []
        #: By label, the row of the tensor that was marked.
        self.marked_rows: dict[str, int] = {}
        #: The prefix of the names of new rows.
        self.scope = ""
        #: The autocast region around the running code.
        self.autocast: Autocast | None = None
        #: Whether calls of modules are marked, and linear layers run as DeepSpeed's stage 3 replaces them
        #: (module_calls.py).
        self.calls_modules = False
        #: Whether kernels allocate what they do on CUDA and not in traces, and over which multiprocessors they split
        #: their work (devices/kernels.py).
        self.cuda, self.multiprocessors = cuda, ASSUMED
        #: The compute capability of the GPU whose kernels run on CUDA.
        self.capability = (8, 0)
        #: Whether a checkpoint is recomputed, whose graph never runs backward.
        self.recomputes = False
        #: Whether a checkpoint repeats the events of its first run if it can, instead of running again.
        self.repeats_checkpoints = False
        #: Whether a module is running whose inner calls are not marked.
        self.in_leaf = False
        #: Modules whose inner calls are not marked, each with the gradients that wait for the end of its backward pass.
        self.leaves: dict[str, LeafModule] = {}
        #: The number of a tower's layer while it runs. Marks of its calls contain it, because towers mark no layers.
        self.tower_layer: int | None = None
        #: Whether hooks see the transposed weight that a linear layer saves as a view, not as the parameter, and what
        #: the weight's storage is: its own, or a part of a larger one.
        self.weight_views: Literal["own", "part"] | None = None
        #: Whether the states of the attention kernels' dropouts are on the GPU (devices/kernels.py).
        self.flash_state_on_gpu, self.efficient_state_on_gpu = True, False
        #: The bytes that each matrix product allocates while it runs (devices/overhead.py).
        self.product_workspace = 0
        #: Whether cuBLAS multiplies the positions and frequencies of rotary embeddings (devices/kernels.py).
        self.rotary_products = False
        #: The names of the results of cuBLAS's products.
        self.products: set[str] = set()
        #: The component that new rows count to.
        self.component: ComponentName = "activations"
        #: The sequence number of the latest node.
        self.sequence_nr = 0
        self.sizes = Sizes()
        #: Whether long loops are folded to a few iterations (loops.py), and the folded loops.
        self.folds_loops = False
        self.loops: list[Loop] = []
        #: The layers of no-grad passes that have run.
        self.shared_layers: list[Any] = []

    @property
    def trains(self) -> bool:
        """Whether the model trains. Otherwise, dropout does nothing and no parameter gets a gradient."""
        self.reads_trains = True
        return self._trains

    @trains.setter
    def trains(self, trains: bool) -> None:
        self._trains = trains

    @property
    def mode(self) -> tuple[object, ...]:
        """The state that operations depend on, except the scope, which each module sets first."""
        own = self.component, self.autocast, self.grad_enabled, self._trains, self.module_dropout, self.weight_views
        return *own, self.calls_modules, self.in_leaf, self.tower_layer

    def mark(self, label: str, tensor: Tensor | None = None) -> None:
        """Label this position of the step, and store the row of a tensor under the label."""
        self.marks.append((len(self.events), label))
        if tensor is not None and tensor.storage is not None:
            self.marked_rows[label] = tensor.storage.row

    def copy(self) -> Tape:
        """Return a tape of its own with the same rows, events and marks."""
        tape = Tape()
        tape.rows, tape.events = [*self.rows], [*self.events]
        tape.marks, tape.marked_rows = self.marks, self.marked_rows
        tape.products = self.products
        return tape

    def position(self, label: str) -> int:
        """Return the position that a label marks."""
        return next(position for position, name in self.marks if name == label)

    def new(
        self, shape: Shape, dtype: DType, name: str, node: Node | None = None, component: ComponentName | None = None
    ) -> Tensor:
        """Allocate a tensor.

        The arguments are positional, because keyword-only arguments would slow down each of the hundreds of calls.
        """
        rows = self.rows
        events = self.events
        row = len(rows)
        events.append(row)
        rows.append((self.scope + name, shape, dtype, component or self.component, self.sizes[shape, dtype]))
        storage = Storage()
        storage.row = row
        storage.events = events
        tensor = _new(Tensor)  # without its `__init__`, it takes half as long to create
        tensor.tape = self
        tensor.storage = storage
        tensor.shape = shape
        tensor.dtype = dtype
        tensor.edge = None if node is None else (node, 0, shape, dtype)
        tensor.merged = False
        tensor.viewed = False
        return tensor

    def reserve(self, name: str) -> Tensor:
        """Allocate a tensor of no bytes, whose shape is known later."""
        return self.new((0,), "bool", name)

    def multiply_angles(self) -> None:
        """Mark the newest row as the angles of rotary embeddings."""
        if self.rotary_products:
            self.products.add(self.rows[-1][0])

    def resize(self, tensor: Tensor, shape: Shape, dtype: DType) -> None:
        """Give a reserved tensor its shape, as if it had had it from the beginning."""
        assert tensor.storage is not None
        name, _, _, component, _ = self.rows[tensor.storage.row]
        self.rows[tensor.storage.row] = name, shape, dtype, component, self.sizes[shape, dtype]
        tensor.shape, tensor.dtype = shape, dtype

    def scratch(self, shape: Shape, dtype: DType, name: str) -> Tensor:
        """Allocate a temporary tensor that counts as workspace."""
        return self.new(shape, dtype, name, component="workspace")

    def multiply(self, *, adds_bias: bool = False) -> None:
        """Mark the newest row as a matrix product, and allocate and free the workspace that no thread keeps.

        The product is cuBLAS's or, if it adds a bias too, cuBLASLt's.
        """
        self.products.add(self.rows[-1][0])
        if self.product_workspace:
            size = min(self.product_workspace, _LT_WORKSPACE) if adds_bias else self.product_workspace
            self.scratch((size,), "uint8", "cuBLAS workspace")


class Storage:
    """Bytes on the device. They are freed when the last reference to them goes.

    It has no `__init__`, because creating one of hundreds would then take twice as long.
    """

    __slots__ = ("events", "row")

    row: int
    events: list[int]

    @classmethod
    def from_row(cls, row: int, events: list[int]) -> Storage:
        """Return the storage of a row whose allocation is already recorded."""
        storage = cls()
        storage.row, storage.events = row, events
        return storage

    def __del__(self) -> None:
        self.events.append(~self.row)


class Tensor:
    """A shape and dtype over a storage."""

    __slots__ = ("dtype", "edge", "merged", "shape", "storage", "tape", "viewed")

    def __init__(
        self, tape: Tape, storage: Storage | None, shape: Shape, dtype: DType, node: Node | None, index: int = 0
    ) -> None:
        self.tape = tape
        #: The storage. None for a parameter, whose bytes count with the resident tensors.
        self.storage = storage
        self.shape = shape
        self.dtype = dtype
        #: Where its gradient goes. None if no gradient flows back through the tensor.
        self.edge: Edge | None = None if node is None else (node, index, shape, dtype)
        #: Whether batches and heads can be flattened without a copy, as torch.bmm needs.
        self.merged = False
        #: Whether it is a gradient that is a view. Its base owns the storage too, so no gradient is added to it in
        #: place.
        self.viewed = False

    def rename(self, name: str, component: ComponentName | None = None) -> None:
        """Rename the storage, whatever operation made it."""
        if self.storage is not None:
            rows, row, products = self.tape.rows, self.storage.row, self.tape.products
            before, shape, dtype, allocated_as, size = rows[row]
            if before in products:
                products.add(name)
            rows[row] = (name, shape, dtype, component or allocated_as, size)

    def detach(self) -> Tensor:
        """Return a tensor on the same storage without a gradient."""
        return Tensor(self.tape, self.storage, self.shape, self.dtype, None)


class StridedTensor(Tensor):
    """A tensor whose layout is not contiguous. Hooks that copy a saved tensor make it contiguous first."""

    __slots__ = ()


class WeightView(StridedTensor):
    """A view of a weight whose storage hooks do not know."""

    __slots__ = ()


class SlicedTensor(StridedTensor):
    """A slice of each row of a batch.

    A product with a trained matrix first copies it, so that its rows form one matrix.
    """

    __slots__ = ()


class TransposedTensor(SlicedTensor):
    """A transposed tensor of several sequences. Elementwise operations keep its layout."""

    __slots__ = ()


def transposed(x: Tensor) -> Tensor:
    """Return the tensor marked as transposed, unless it is a single sequence."""
    if x.shape[0] == 1:
        return x
    out = TransposedTensor(x.tape, x.storage, x.shape, x.dtype, None)
    out.edge = x.edge
    return out


class ComplexTensor(Tensor):
    """Complex numbers, which count as two numbers of the dtype each. Mixed precision casts none."""

    __slots__ = ()


class LeafTensor(Tensor):
    """A tensor that requires a gradient, in code that records no graph. Autocast reads that property."""

    __slots__ = ("leaf",)

    def __init__(self, tape: Tape, storage: Storage | None, shape: Shape, dtype: DType) -> None:
        super().__init__(tape, storage, shape, dtype, None)
        #: The key of the tensor among the copies that autocast caches, in place of its AccumulateGrad node in a graph.
        self.leaf = object()
