"""TRL's kernel for the log-probabilities of given tokens, from all logits. Only a gradient has the size of the logits.

Source: trl/kernels/logprob_entropy.py, _LogProbEntropyFunction, of TRL 1.16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine.autograd import Node

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor


def log_probs(logits: Tensor, index: Tensor) -> Tensor:
    """Return float32 log-probabilities in the shape of the index.

    logits: (batch, sequence, vocab_size); index: (batch, sequence).
    """
    tape, shape = logits.tape, index.shape
    node = Node(tape, _back, (logits.edge,)) if logits.edge else None
    out = tape.new(shape, "float32", "log-probabilities", node)
    entropy = tape.new(shape, "float32", "entropy")
    kept = [tape.new(shape, "float32", name) for name in ("log Z", "expected logit")]
    if node is not None:
        for saved in (logits, index, *kept):
            node.save(saved)
    del entropy
    return out


def _back(node: Node, grad: Tensor) -> tuple[Tensor]:
    logits = node.saved[0]
    dense = grad.tape.new(grad.shape, grad.dtype, "gradient, contiguous") if grad.viewed else None
    out = grad.tape.new(logits.shape, logits.dtype, "gradient of the logits")
    del dense
    return (out,)
