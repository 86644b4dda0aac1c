"""The log-probabilities of given tokens, from all logits, as TRL before 1.0 computes them.

Source: trl/trainer/utils.py, selective_log_softmax, of TRL 0.15 to 0.24.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import indexing
from calculator.engine import operations as ops
from calculator.engine.autograd import Node
from calculator.engine.tape import Tensor
from calculator.layers.loss import log_softmax

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.architecture.dimension import Shape


def selected_log_probs(logits: Tensor, index: Tensor) -> Tensor:
    """Return the log-probabilities of the tokens in `index`: (sequences, length).

    float32 logits are gathered, and the logarithms of summed exponentials subtracted, which needs no log-probabilities
    of other tokens. Those of half-precision logits are computed and saved, a sequence at a time.

    logits: (sequences, length, vocab_size); index: (sequences, length).
    """
    shape = index.shape
    if logits.dtype == "float32":
        selected = indexing.gather(logits, index, "logits of the labels")
        summed = _stack([_logsumexp(row) for row in _rows(logits)], shape, "log of summed exponentials")
        return ops.subtract(selected, summed, "log-probabilities of the labels")
    parts = []
    for row, labels in zip(_rows(logits), _rows(index), strict=True):
        log_probabilities = log_softmax(row)
        parts.append(indexing.gather(log_probabilities, labels, "log-probabilities of a sequence's labels"))
    return _stack(parts, shape, "log-probabilities of the labels")


def roll(x: Tensor, name: str) -> Tensor:
    """Return torch.roll(x), and the same of its gradient."""
    return ops.scale(x, name)


def fill_(x: Tensor, mask: Tensor) -> Tensor:
    """Compute `x[mask] = 0`. The mask is saved, and the gradient is copied.

    Source: tools/autograd/derivatives.yaml, index_put_.
    """
    node = Node(x.tape, _fill_back, (x.edge,)) if x.edge else None
    if node is not None:
        node.save(mask)
    return Tensor(x.tape, x.storage, x.shape, x.dtype, node)


def _fill_back(_: Node, grad: Tensor) -> tuple[Tensor]:
    zero = grad.tape.scratch((), grad.dtype, "zero")
    out = grad.tape.new(grad.shape, grad.dtype, "filled: gradient")
    del zero
    return (out,)


def _rows(x: Tensor) -> list[Tensor]:
    """Return views of each sequence (torch.unbind)."""
    return ops.split(x, [x.shape[1:]] * int(x.shape[0]), stacks=True)


def _stack(parts: Sequence[Tensor], shape: Shape, name: str) -> Tensor:
    """Return torch.stack. The gradients of the parts are views."""
    return ops.cat(parts, shape, name)


def _logsumexp(x: Tensor) -> Tensor:
    """Return x.logsumexp(-1). x and the result are saved.

    Source: aten/src/ATen/native/ReduceOps.cpp, logsumexp_out_impl.
    """
    tape, rows = x.tape, x.shape[:-1]
    maxima = tape.scratch(rows, x.dtype, "maxima")
    exponentials = tape.scratch(x.shape, x.dtype, "exponentials")
    node = Node(tape, _logsumexp_back, (x.edge,)) if x.edge else None
    out = tape.new(rows, x.dtype, "log of summed exponentials of a sequence", node)
    if node is not None:
        node.save(x)
        node.save(out)
    del maxima, exponentials
    return out


def _logsumexp_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    """Return grad · exp(x - result)."""
    tape, x = grad.tape, node.saved[0]
    differences = tape.scratch(x.shape, x.dtype, "logits - log of summed exponentials")
    probabilities = tape.scratch(x.shape, x.dtype, "probabilities")
    out = tape.new(x.shape, x.dtype, "gradient of a sequence's logits")
    del differences, probabilities
    return (out,)
