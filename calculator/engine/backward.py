"""The backward pass through autograd's graph: in which order nodes run, and how gradients meet.

Sources: torch/csrc/autograd/engine.cpp (order of nodes, release of saved variables, validate_outputs),
input_buffer.cpp (accumulation).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from calculator.architecture.dimension import elements
from calculator.engine.autograd import AccumulateGrad, by_sequence_nr

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.engine.autograd import Node
    from calculator.engine.tape import Edge, Tape, Tensor


def backward(
    tape: Tape, out: Tensor, gradient: Tensor | None = None, seen: Callable[[list[Node]], None] | None = None
) -> None:
    """Run the backward pass from a scalar, or from any tensor whose gradient the caller gives and holds.

    `seen` is shown the graph beforehand, its nodes in the order of their making.
    """
    if out.edge is None:
        return
    root = out.edge[0]
    given = gradient or tape.new((), out.dtype, "loss: gradient", component="logits_and_loss")
    if isinstance(root.incoming, list):
        root.incoming[out.edge[1]] = given
    else:
        root.incoming = given
    ahead = _in_order(root)
    if seen is not None:
        seen(ahead)
    while ahead:
        node = ahead.pop()
        tape.scope, tape.component = node.scope, node.component
        _run(node)
    tape.component = "activations"
    del given


def _in_order(root: Node) -> list[Node]:
    """Every node that the root's gradient reaches but leaves, the last made last.

    The engine runs of those that are ready the last made, and an input is made before what it goes into: so all run in
    the reverse order of their making.
    """
    reached = [root]
    for node in reached:
        for edge in node.edges:
            if edge is not None:
                target = edge[0]
                if not target.pending and not isinstance(target, AccumulateGrad):
                    reached.append(target)
                target.pending += 1
    reached.sort(key=by_sequence_nr)
    return reached


def _run(node: Node) -> None:
    """Apply a node's rule, let go of what it saved, and hand its gradients on."""
    if node.frame is not None:
        node.saved = node.frame.unpack(node.saved)
    incoming, node.incoming = node.incoming, None
    passed = [*node.apply(node, incoming)]
    if node.frame is not None:
        node.saved = ()  # what was recomputed is only the rule's own
    given = None
    for index, edge in enumerate(node.edges):
        given = passed[index]
        if edge is not None and given is not None and (given.dtype != edge[3] or given.shape != edge[2]):
            given = None
            _fit(passed, index, edge[2], edge[3])
    del given, incoming
    node.saved = ()
    node.frame = None
    _hand_on(passed, node.edges)


def _hand_on(passed: list[Tensor | None], edges: tuple[Edge | None, ...]) -> None:
    """Give each gradient to the node that it belongs to; then those leaves run that wait for no other."""
    leaves: list[AccumulateGrad] = []
    for index, edge in enumerate(edges):
        if edge is not None:
            target = edge[0]
            if target.incoming is None:
                target.incoming = passed[index]
                passed[index] = None
            else:
                _deposit(target, edge[1], passed, index)
            target.pending -= 1
            if not target.pending and isinstance(target, AccumulateGrad):
                leaves.append(target)
    for leaf in leaves:
        leaf.accumulate()


def _fit(passed: list[Any], index: int, shape: Shape, dtype: DType) -> None:
    """Sum a gradient to a shape and cast it, by when what was summed is gone.

    Leading dimensions are summed even where they are 1 (ATen/ExpandUtils.h, sum_to).
    """
    given = passed[index].shape
    if given != shape and (len(given) > len(shape) or elements(given) != elements(shape)):
        passed[index] = passed[index].tape.new(shape, passed[index].dtype, "gradient, summed")
        passed[index].viewed = len(given) > len(shape)
    if passed[index].dtype != dtype:
        passed[index] = passed[index].tape.new(shape, dtype, "gradient, cast")


def _deposit(target: Node, slot: int, passed: list[Tensor | None], index: int) -> None:
    """Move a gradient to where others are; it is added in place to what is there where that is nobody else's.

    Tensors are looked at inside their lists only, so that no other name adds to their reference counts.
    """
    if passed[index] is None:
        return
    several = isinstance(target.incoming, list)
    parts, target.incoming = (target.incoming, target.incoming) if several else ([target.incoming], None)
    if parts[slot] is None:
        parts[slot] = passed[index]
    elif not _own(parts, slot):
        parts[slot] = _fresh(parts[slot])
    passed[index] = None
    if not several:
        target.incoming = parts.pop()


def _own(tensors: list[Any], index: int) -> bool:
    if tensors[index].viewed:
        return False
    return sys.getrefcount(tensors[index]) == 2 and sys.getrefcount(tensors[index].storage) == 2


def _fresh(like: Any) -> Tensor:
    new: Tensor = like.tape.new(like.shape, like.dtype, "gradient, added")
    return new
