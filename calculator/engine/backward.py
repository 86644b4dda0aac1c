"""The backward pass: the order in which nodes run, and how their gradients accumulate.

Sources: torch/csrc/autograd/engine.cpp (order of nodes, release of saved variables, validate_outputs),
input_buffer.cpp (accumulation).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from calculator.architecture.dimension import elements
from calculator.common.budget import check_budget
from calculator.engine.autograd import AccumulateGrad, by_sequence_nr
from calculator.engine.cuda_reductions import sum_to

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.engine.autograd import Node
    from calculator.engine.tape import Edge, Tape, Tensor


#: The number of nodes between two checks of the budget.
_NODES_A_CHECK = 1024


def backward(
    tape: Tape,
    out: Tensor,
    gradient: Tensor | None = None,
    seen: Callable[[list[Node]], None] | None = None,
    callback: Callable[[], None] | None = None,
) -> None:
    """Run the backward pass from a scalar loss, or from a tensor with a gradient that the caller passes and keeps.

    `seen` is called first, with the nodes of the graph in the order in which they were created. `callback` is called at
    the end, like a callback that `queue_callback` queues.
    """
    if out.edge is None:
        return
    root = out.edge[0]
    grad = gradient or tape.new((), out.dtype, "loss: gradient", component="logits_and_loss")
    if isinstance(root.incoming, list):
        root.incoming[out.edge[1]] = grad
    else:
        root.incoming = grad
    ready = _reachable(root)
    if seen is not None:
        seen(ready)
    while ready:
        for _ in range(min(len(ready), _NODES_A_CHECK)):
            node = ready.pop()
            tape.scope, tape.component = node.scope, node.component
            if len(node.edges) == 1 and node.hooks is None and node.incoming is not None:
                _run_with_one_edge(node)
            else:
                _run(node)
        if ready:
            check_budget()
    tape.component = "activations"
    if callback is not None:
        callback()
    del grad


def _reachable(root: Node) -> list[Node]:
    """Return every node that the root's gradient reaches, except AccumulateGrad, in the order of creation.

    Of the nodes that are ready, the engine runs the one that was created last. A node is created after the nodes of its
    inputs. So all nodes run in the reverse order of creation.
    """
    reached, seen = [root], {root}
    for node in reached:
        for edge in node.edges:
            if edge is not None:
                target = edge[0]
                if isinstance(target, AccumulateGrad):
                    target.pending += 1
                elif target not in seen:
                    seen.add(target)
                    reached.append(target)
    reached.sort(key=by_sequence_nr)
    return reached


#: The number of edges of a linear layer with a bias, and the index of its weight among them. The transposition of the
#: weight is a node of its own. So the bias has its gradient before the weight's gradient is accumulated.
_WITH_BIAS, _WEIGHT = 3, 1

#: The dimensions of a linear layer's weight.
_DIMENSIONS_OF_LINEAR = 2


def _run(node: Node) -> None:
    """Apply a node's backward formula, release its saved tensors, and pass its gradients on.

    A node without a gradient reads its saved tensors too, and passes none on.
    """
    edges = node.edges
    if node.hooks is not None:
        node.saved = node.hooks.unpack(node.saved)
    incoming, node.incoming = node.incoming, None
    grads: list[Tensor | None] = [None] * len(edges) if incoming is None else [*node.apply(node, incoming)]
    if node.hooks is not None:
        node.saved = ()  # so that only the formula refers to recomputed tensors
    grad = None
    for index, edge in enumerate(edges):
        grad = grads[index]
        if edge is not None and grad is not None and (grad.dtype != edge[3] or grad.shape != edge[2]):
            grad = None
            _validate_output(grads, index, edge[2], edge[3])
    del grad, incoming
    if node.hooks is not None:
        if node.hooks.follows_nodes:
            node.hooks.after(node)
        node.hooks = None
    node.saved = ()
    _pass_on(grads, edges)


def _run_with_one_edge(node: Node) -> None:
    """Run a node with one edge, a gradient and no hooks, as `_run` does, but faster. Most nodes are of this kind."""
    grads: list[Tensor | None]
    edge, incoming, node.incoming = node.edges[0], node.incoming, None
    (grad,) = node.apply(node, incoming)
    if edge is not None and grad is not None and (grad.dtype != edge[3] or grad.shape != edge[2]):
        grads = [grad]
        grad = None
        _validate_output(grads, 0, edge[2], edge[3])
        grad = grads.pop()
    incoming, node.saved = None, ()
    if edge is None:
        return
    target = edge[0]
    is_leaf = isinstance(target, AccumulateGrad)
    if target.incoming is None and not is_leaf:
        target.incoming = grad
        return
    grads = [grad]
    del grad
    if is_leaf:
        _pass_on(grads, node.edges)
    else:
        _accumulate(target, edge[1], grads, 0)


def _pass_on(grads: list[Tensor | None], edges: tuple[Edge | None, ...]) -> None:
    """Pass each gradient to its node. Then run each AccumulateGrad that has received all of its gradients."""
    complete: list[AccumulateGrad] = []
    last: AccumulateGrad | None = None
    for index, edge in enumerate(edges):
        if edge is not None:
            target = edge[0]
            if target.incoming is None:
                target.incoming = grads[index]
                grads[index] = None
            elif index == _WEIGHT and len(edges) == _WITH_BIAS and isinstance(target, AccumulateGrad):
                last = target
                continue
            else:
                _accumulate(target, edge[1], grads, index)
            if isinstance(target, AccumulateGrad):
                target.pending -= 1
                if not target.pending:
                    complete.append(target)
    if not complete and last is None:
        return
    reverses = len(complete) > 1 and len(edges) == _WITH_BIAS and _bias_is_first(complete[0], edges[_WEIGHT])
    for leaf in reversed(complete) if reverses else complete:
        leaf.accumulate()
    if last is not None:
        _accumulate(last, 0, grads, _WEIGHT)
        last.pending -= 1
        if not last.pending:
            last.accumulate()


def _bias_is_first(leaf: AccumulateGrad, weight: Edge | None) -> bool:
    """Return whether the bias of a layer has its gradient before the weight has.

    The transposition of a linear layer's weight is a node of its own, which runs later. The linear layers of
    DeepSpeed's stage 3, norms and convolutions transpose nothing. The order only matters if it is marked, or if the
    optimizer updates each parameter then.
    """
    _, _, marked, release = leaf.accumulation
    if not (marked or release is not None) or weight is None or len(weight[2]) != _DIMENSIONS_OF_LINEAR:
        return False
    return leaf.incoming is not None and not leaf.incoming.tape.calls_modules


def _validate_output(grads: list[Any], index: int, shape: Shape, dtype: DType) -> None:
    """Sum a gradient to a shape, free the original, then cast the sum.

    Leading dimensions are summed even if they are 1 (ATen/ExpandUtils.h, sum_to).
    """
    given = grads[index].shape
    if given != shape and (len(given) > len(shape) or elements(given) != elements(shape)):
        summed = grads[index].tape.new(shape, grads[index].dtype, "gradient, summed")
        summed.viewed = len(given) > len(shape)
        if summed.tape.cuda:
            sum_to(summed.tape, given, shape, summed.dtype)
        grads[index] = summed
        del summed
    if grads[index].dtype != dtype:
        grads[index] = grads[index].tape.new(shape, dtype, "gradient, cast")


def _accumulate(target: Node, slot: int, grads: list[Tensor | None], index: int) -> None:
    """Add a gradient to the one that a node already has, in place if nothing else refers to that one.

    The tensors stay in their lists here, because a local variable would add to their reference counts.
    """
    if grads[index] is None:
        return
    several = isinstance(target.incoming, list)
    parts, target.incoming = (target.incoming, target.incoming) if several else ([target.incoming], None)
    if parts[slot] is None:
        parts[slot] = grads[index]
    elif not _is_sole_reference(parts, slot):
        parts[slot] = _new_sum(parts[slot])
    grads[index] = None
    if not several:
        target.incoming = parts.pop()


def _is_sole_reference(tensors: list[Any], index: int) -> bool:
    if tensors[index].viewed:
        return False
    return sys.getrefcount(tensors[index]) == 2 and sys.getrefcount(tensors[index].storage) == 2


def _new_sum(like: Any) -> Tensor:
    new: Tensor = like.tape.new(like.shape, like.dtype, "gradient, added")
    new.merged = like.merged
    return new
