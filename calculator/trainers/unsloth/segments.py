"""PyTorch's own attention within the samples of a row without padding, in Unsloth 2026.10.

Source: unsloth/utils/attention_dispatch.py, _sdpa_packed_segments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine.autograd import Node
from calculator.engine.tape import Tensor
from calculator.layers.kernels import flash

if TYPE_CHECKING:
    from collections.abc import Sequence


def segments(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Run attention on the samples of one length, and join the outputs in a copy."""
    out = flash(_selected(query), _selected(key), _selected(value))
    node = Node(out.tape, _joined_back, (out.edge,)) if out.edge else None
    return out.tape.new(out.shape, out.dtype, "attention output, joined", node)


def _selected(x: Tensor) -> Tensor:
    """Return the only row of a batch, a view. Its gradient is copied into a new tensor."""
    node = Node(x.tape, _selected_back, (x.edge,)) if x.edge else None
    return Tensor(x.tape, x.storage, x.shape, x.dtype, node)


def _selected_back(_: Node, grad: Tensor) -> Sequence[Tensor]:
    return (grad.tape.new(grad.shape, grad.dtype, "row: gradient"),)


def _joined_back(_: Node, grad: Tensor) -> Sequence[Tensor]:
    out = Tensor(grad.tape, grad.storage, grad.shape, grad.dtype, None)
    out.viewed = True
    return (out,)
