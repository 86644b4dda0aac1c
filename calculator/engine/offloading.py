"""Offloading of saved tensors to pinned host memory, and the parts of them that stay on the device.

A saved tensor of 1 kB or more is copied on a stream of its own. The device's tensor is kept until five further tensors
are saved; the last ones until the first node of the backward pass that reads an offloaded tensor has run. A tensor that
returns is kept until the next such node has run. A tensor that is saved twice while it is kept stays on the device.
Which tensors are alive depends on the order of these calls alone, not on the time that the copies take.

Source: trl/models/activation_offloading.py, OffloadActivations, of TRL 1.16.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from calculator.architecture.dimension import elements
from calculator.common.dtype import ITEMSIZE
from calculator.engine.autograd import AccumulateGrad, Node
from calculator.engine.saved_layout import Part, is_contiguous, part_of
from calculator.engine.tape import Tensor, WeightView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tape

#: The minimum size of an offloaded tensor in bytes, and the number of saved tensors that wait for their copies.
MIN_OFFLOAD_SIZE, MAX_FWD_STASH_SIZE = 1024, 5

#: The name of a tensor that returns to the device, which is allocated on the stream of the copies.
RETURNED = "saved tensor, copied back"

#: The names of tensors that an earlier micro-batch allocated and that this one frees.
PREVIOUS = ("input embeddings of the last micro-batch", "gradient of the last micro-batch's embeddings")

#: The prefix of the labels of rows that outlive the step: they are freed in the next one.
OUTLIVES = "outlives the step: "

#: The prefix of the labels of rows that the next step frees in its backward pass.
CARRIED = "until the next backward pass: "

#: The references to the storage of a single tensor: the tensor's, and the argument of `getrefcount`.
_OF_ONE = 2

#: The storages of the weights whose views are copied, because they are not those that TRL has found, which are on the
#: host.
WEIGHT_VIEWS: dict[str, Literal["own", "part"]] = {"fsdp": "own", "zero1": "part", "zero2": "part", "zero3": "part"}


#: What TRL tells tensors apart by: the storage, the part of it, and the dtype.
_Key = tuple[int, Part, "DType"]


class OnHost(NamedTuple):
    """A tensor in host memory. It returns to the device with the elements of its whole storage."""

    shape: Shape
    storage_shape: Shape
    dtype: DType

    @property
    def block_bytes(self) -> int:
        """The bytes of its block of pinned memory: the next power of two.

        Source: aten/src/ATen/core/CachingHostAllocator.h, allocate.
        """
        return 1 << (elements(self.storage_shape) * ITEMSIZE[self.dtype] - 1).bit_length()


class OffloadedActivations:
    """The hooks that offload what nodes save, as `OffloadActivations`."""

    __slots__ = (
        "_begins_backward",
        "_begins_forward",
        "_count",
        "_freeing",
        "_graph",
        "_graphs",
        "_kept",
        "_key_of",
        "_keys",
        "_last_node",
        "_nodes",
        "_pinned",
        "_previous",
        "_previous_rows",
        "_read",
        "_reenters",
        "_returned",
        "_saved",
        "most_pinned",
        "tape",
    )

    follows_nodes = True

    def __init__(self, tape: Tape, *, leaves_inputs: bool, reenters: bool = False) -> None:
        self.tape = tape
        self._count = 0
        #: The number of the graph that runs, the count of graphs, and the graph whose nodes free what has returned.
        #: Those of the others, which re-entrant checkpoints run inside a node, free none.
        self._graph = self._graphs = self._freeing = 0
        #: Whether no tensor is saved, and whether none has been read since one was saved.
        self._begins_forward = self._begins_backward = True
        self._reenters = reenters
        #: What each number stands for.
        self._saved: dict[int, Tensor | OnHost] = {}
        #: What made the saved tensors on the device. In their graph, re-entrant checkpoints keep what they captured.
        self._nodes: dict[int, Node] = {}
        #: Offloaded tensors that are kept until their copies have ended, and those that have returned, by number.
        self._kept: dict[int, Tensor] = {}
        self._returned: dict[int, Tensor] = {}
        #: The number that last had each part of a storage and dtype, and the key of each number.
        self._keys: dict[_Key, int] = {}
        self._key_of: dict[int, _Key] = {}
        #: For each offloaded tensor that the running node has read: its number, whether it was copied back, and the
        #: numbers of tensors that had returned before.
        self._read: list[tuple[int, bool, list[int]]] = []
        #: The last node that read an offloaded tensor. It refers to the graph before it.
        self._last_node: Node | None = None
        #: The tensors that the last node of the previous micro-batch refers to. They are on the device from the
        #: beginning of this one. Their shapes are known once it has saved a tensor.
        self._previous = [tape.reserve(name) for name in PREVIOUS] if leaves_inputs else []
        #: Their rows: that of a leaf, then that of its gradient.
        self._previous_rows = [*_rows_of(self._previous)]
        #: The bytes of pinned host memory in use, and the most so far.
        self._pinned = self.most_pinned = 0

    def pack(self, tensor: Tensor) -> int:
        """Return a number in place of a saved tensor."""
        if self._begins_forward:
            self._begins_forward, self._begins_backward = False, True
            self._keys.clear()
            self._key_of.clear()
        self._count = number = self._count + 1
        key = None if tensor.storage is None else (tensor.storage.row, part_of(tensor), tensor.dtype)
        is_known = key is not None and key in self._keys
        if is_known or not _is_offloaded(tensor):
            self._saved[number] = tensor.detach()
            if self._reenters and tensor.edge is not None:
                self._nodes[number] = tensor.edge[0]
        else:
            if not self.most_pinned:
                self._previous = [*self._left_by_the_last(tensor)] or self._previous
                self._previous_rows = [*_rows_of(self._previous)]
            kept = self._contiguous(tensor)
            self._drop_kept(number - MAX_FWD_STASH_SIZE)
            self._saved[number] = on_host = OnHost(tensor.shape, _storage_shape(tensor), tensor.dtype)
            self._pinned += on_host.block_bytes
            self.most_pinned = max(self.most_pinned, self._pinned)
            self._kept[number] = kept
        if key is not None and (is_known or number in self._kept):
            self._keys[key], self._key_of[number] = number, key
        return number

    def unpack(self, packed: Sequence[Any]) -> Sequence[Any]:
        """Return the saved tensors. Those in host memory are copied back."""
        if self._begins_backward:
            self._freeing, self._begins_backward = self._graph, False
        return [self._unpacked(number) for number in packed]

    def after(self, node: Node) -> None:
        """Free what is not needed once a node has run that read offloaded tensors."""
        if not self._read:
            return
        for number, is_copied_back, earlier in self._read:
            if is_copied_back and number in self._returned and _is_shared(self._returned[number]):
                del self._returned[number]  # the block waits for the stream instead (record_stream)
            self._drop_kept(self._count)
            for other in earlier:
                self._returned.pop(other, None)
        self._read.clear()
        if self._graph == self._freeing:
            self._last_node = node

    @contextmanager
    def graph_inside(self) -> Iterator[None]:
        """Run a graph inside the running node."""
        outer = self._graph, self._read
        self._graphs += 1
        self._graph, self._read = self._graphs, []
        yield
        if self._graph == self._freeing:
            self.end()
        self._graph, self._read = outer

    def keeps(self, leaf: AccumulateGrad) -> bool:
        """Return whether the last node that has read an offloaded tensor refers to a leaf."""
        return any(kept_leaf is leaf for kept_leaf in _leaves(self._last_node))

    def end(self) -> None:
        """Free what has returned, at the end of the backward pass."""
        self._returned.clear()

    def label_left(self) -> None:
        """Label the rows that stay until the next step: those that no node has read, and those of the last node.

        A re-entrant checkpoint keeps what its function has captured.
        """
        leaves = [*_leaves(self._last_node)]
        for tensor in (*self._saved.values(), *(part for leaf in leaves for part in (leaf.context, leaf.grad))):
            if isinstance(tensor, Tensor) and tensor.storage is not None:
                self.tape.marked_rows[f"{OUTLIVES}{tensor.storage.row}"] = tensor.storage.row
        for tensor in _tensors(self._last_node.context if self._last_node is not None and self._reenters else None):
            if tensor.storage is not None:
                self.tape.marked_rows[f"{CARRIED}{tensor.storage.row}"] = tensor.storage.row
        self._resize_previous(leaves)

    def drop_graph(self) -> None:
        """Drop what refers to the graph, which refers to these hooks."""
        self.tape.hooks.clear()
        self._nodes.clear()

    def _resize_previous(self, leaves: Sequence[AccumulateGrad]) -> None:
        """Give the gradients of the previous micro-batch the storages of this one's, which can be larger than they.

        A gradient that is stored without a copy can be a slice. A leaf inside a re-entrant checkpoint is first known
        here.
        """
        rows = self.tape.rows
        tensors = [tensor for leaf in leaves for tensor in (leaf.context if self._reenters else None, leaf.grad)]
        for row, tensor in zip(self._previous_rows, tensors, strict=False):
            if tensor is not None and tensor.storage is not None:
                name, _, _, component, _ = rows[row]
                _, shape, dtype, _, size = rows[tensor.storage.row]
                rows[row] = name, shape, dtype, component, size

    def _contiguous(self, tensor: Tensor) -> Tensor:
        """Return the tensor that is copied to host memory: a contiguous copy of one that is not."""
        if isinstance(tensor, WeightView) and self.tape.weight_views == "own" and 1 in tensor.shape:
            return tensor.detach()
        if not is_contiguous(tensor) and _storage_shape(tensor) == tensor.shape:
            return self.tape.new(tensor.shape, tensor.dtype, "saved tensor, contiguous")
        return tensor.detach()

    def _left_by_the_last(self, first: Tensor) -> Iterator[Tensor]:
        """Yield tensors like those that the previous micro-batch left: leaves of its graph, and their gradients.

        The manager refers to the last node that read an offloaded tensor until the next backward pass reads one. The
        node that saves the first tensor is the last to run.
        """
        reserved = iter(self._previous)
        for leaf in _leaves(None if first.edge is None else first.edge[0]):
            for name in PREVIOUS:
                tensor = next(reserved, None) or self.tape.reserve(name)
                self.tape.resize(tensor, leaf.context.shape, leaf.context.dtype)
                yield tensor

    def _unpacked(self, number: int) -> Tensor:
        saved, earlier = self._saved.pop(number), list[int]()
        self._nodes.pop(number, None)
        kept = self._kept.get(number)
        self._release_key(number)
        self._begins_forward = not self._saved
        if isinstance(saved, Tensor):
            return saved
        self._pinned -= saved.block_bytes
        if not self._read and self._graph == self._freeing:
            earlier, self._last_node, self._previous = [*self._returned], None, []
        self._read.append((number, kept is None, earlier))
        if kept is not None:
            return kept.detach()
        returned = self._returned[number] = self.tape.new(saved.storage_shape, saved.dtype, RETURNED)
        return Tensor(self.tape, returned.storage, saved.shape, saved.dtype, None)

    def _drop_kept(self, last: int) -> None:
        """Drop the kept tensors up to a number."""
        for number in [*self._kept]:
            if number > last:
                break
            del self._kept[number]
            self._release_key(number)

    def _release_key(self, number: int) -> None:
        key = self._key_of.pop(number, None)
        if key is not None and self._keys.get(key) == number:
            del self._keys[key]


def _is_offloaded(tensor: Tensor) -> bool:
    """Return whether a tensor is large enough, and no parameter. Tensors of the batch have no storage either."""
    if tensor.storage is None and tensor.dtype != "int64" and not isinstance(tensor, WeightView):
        return False
    return elements(tensor.shape) * ITEMSIZE[tensor.dtype] >= MIN_OFFLOAD_SIZE


def _storage_shape(tensor: Tensor) -> Shape:
    """Return the shape in which a tensor is copied. Of an expanded one, only the storage is."""
    if tensor.storage is None:
        return tensor.shape
    whole = tensor.tape.rows[tensor.storage.row][1]
    return whole if elements(whole) < elements(tensor.shape) else tensor.shape


def _is_shared(tensor: Tensor) -> bool:
    """Return whether another tensor has the storage too."""
    return sys.getrefcount(tensor.storage) > _OF_ONE


def _tensors(context: object) -> Iterator[Tensor]:
    """Yield the tensors in nested lists and tuples."""
    if isinstance(context, Tensor):
        yield context
    elif isinstance(context, list | tuple):
        for part in context:
            yield from _tensors(part)


def _rows_of(tensors: Iterable[Tensor]) -> Iterator[int]:
    """Yield the rows of tensors with storages of their own."""
    for tensor in tensors:
        assert tensor.storage is not None
        yield tensor.storage.row


def _leaves(node: Node | None) -> Iterator[AccumulateGrad]:
    """Yield the ends of a node's graph at tensors that are no parameters."""
    nodes = [] if node is None else [node]
    seen = set(map(id, nodes))
    for reached in nodes:
        if isinstance(reached, AccumulateGrad) and reached.context is not None:
            yield reached
        for edge in reached.edges:
            if edge is not None and id(edge[0]) not in seen:
                seen.add(id(edge[0]))
                nodes.append(edge[0])


def previous_rows(tape: Tape) -> frozenset[int]:
    """Return the rows that stand for tensors of an earlier micro-batch."""
    return frozenset(row for row, (name, *_) in enumerate(tape.rows) if name.endswith(PREVIOUS))


def without_previous(tape: Tape) -> Callable[[int, int], Sequence[int]]:
    """Return a function that slices the events, without those of rows that stand for tensors of an earlier micro-batch.

    A replay runs the earlier micro-batch too, which leaves these tensors.
    """
    previous = previous_rows(tape)
    if not previous:
        return lambda start, end: tape.events[start:end]
    return lambda start, end: [event for event in tape.events[start:end] if max(event, ~event) not in previous]
