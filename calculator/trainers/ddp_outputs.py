"""The outputs that DistributedDataParallel returns in place of its model's outputs.

Source: torch/nn/parallel/distributed.py, _DDPSink and _post_forward.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calculator.engine.autograd import NodeWithOutputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.engine.autograd import Node
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context


def returned(context: Context, loss: Tensor, outputs: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Return the model's outputs, or copies of them if DDP looks for unused parameters in their graph."""
    config = context.training.ddp
    if config is None or not config.copies_outputs:
        return loss, outputs
    context.tape.scope, component = "outputs: ", context.tape.component
    context.tape.component = "logits_and_loss"
    first, *others = _copied((loss, *outputs))
    context.tape.component = component
    return first, others


def _copied(outputs: Sequence[Tensor]) -> list[Tensor]:
    """Return copies of the outputs with a gradient, which are the outputs of one node.

    So the graph of every output is a part of the backward pass, and reads what it saved. Those that are not part of the
    loss get no gradient.
    """
    copied = [output for output in outputs if output.edge]
    node = NodeWithOutputs(outputs[0].tape, _sink_back, tuple(output.edge for output in copied), outputs=len(copied))
    copies = iter([output.tape.new(output.shape, output.dtype, "copied by DDP") for output in copied])
    returned = [next(copies) if output.edge else output for output in outputs]
    for place, copy in enumerate(copy for copy, output in zip(returned, outputs, strict=True) if output.edge):
        copy.edge = node, place, copy.shape, copy.dtype
    return returned


def _sink_back(_: Node, grads: Any) -> Sequence[Tensor | None]:
    """Return the gradients of the copies. One copy has one gradient, several have a list."""
    return grads if isinstance(grads, list) else [grads]
