"""The losses of regression, and of several labels for each sequence.

Source: tools/autograd/derivatives.yaml and torch/csrc/autograd/FunctionsManual.cpp for what is saved and computed;
aten/src/ATen/native/Loss.cpp for the temporaries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine.autocast import cast_to
from calculator.engine.autograd import Node

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor


def mse_loss(x: Tensor, target: Tensor) -> Tensor:
    """Return torch.nn.functional.mse_loss, averaged. Both inputs are saved."""
    return _loss(x, target, ("squared errors",), temporaries=0)


def binary_cross_entropy_with_logits(x: Tensor, target: Tensor) -> Tensor:
    """Return torch.nn.functional.binary_cross_entropy_with_logits, averaged. Both inputs are saved."""
    return _loss(x, target, ("log-sigmoid", "losses"), temporaries=1)


def _loss(x: Tensor, target: Tensor, scratch: tuple[str, ...], *, temporaries: int) -> Tensor:
    """Return a loss that saves its input and its target, in float32 under autocast."""
    if x.tape.autocast is not None:
        target, x = cast_to(target, "float32", "target"), cast_to(x, "float32", "input")
    node = Node(x.tape, _loss_back, (x.edge,), temporaries) if x.edge else None
    if node is not None:
        node.save(x)
        node.save(target)
    inner = [x.tape.scratch(x.shape, x.dtype, f"loss: {name}") for name in scratch]
    loss = x.tape.new((), x.dtype, "loss", node)
    del inner
    return loss


def _loss_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    scores = node.saved[0]
    before = [grad.tape.scratch(scores.shape, scores.dtype, "sigmoid of the scores") for _ in range(node.context)]
    out = grad.tape.new(scores.shape, scores.dtype, "gradient of the scores")
    del before
    return (out,)
