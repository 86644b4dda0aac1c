"""The outputs that DistributedDataParallel returns in place of its model's outputs.

Source: torch/nn/parallel/distributed.py, _DDPSink and _post_forward.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine.operations import clone

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context


def returned(context: Context, loss: Tensor, outputs: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Return the model's outputs, or copies of them if DDP looks for unused parameters in their graph."""
    config = context.training.ddp
    if config is None or not config.copies_outputs:
        return loss, outputs
    context.tape.scope, component = "outputs: ", context.tape.component
    context.tape.component = "logits_and_loss"
    copies = [clone(each, "copied by DDP") if each.edge else each for each in (loss, *outputs)]
    context.tape.component = component
    return copies[0], copies[1:]
