"""Values that models read from their tensors, supplied on the meta device, which has none.

Rotary embeddings that scale with the length compute the largest position and compare it with a limit. Models with
convolutions or recurrent layers ask whether a mask has only ones; a step that is given a mask has padding. VB-LoRA asks
whether any of its logits is infinite; none is. WaveFT selects the positions that are within a matrix; all are.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import torch

from validation.tracing import repeated_operations

if TYPE_CHECKING:
    from collections.abc import Callable

_ATEN = torch.ops.aten

#: Operations that make a known value from a known value.
PROPAGATED: dict[Any, Callable[..., Any]] = {
    _ATEN.add.Tensor: operator.add,
    _ATEN.gt.Scalar: operator.gt,
    _ATEN.gt.Tensor: operator.gt,
    _ATEN.lt.Scalar: operator.lt,
    _ATEN.lt.Tensor: operator.lt,
    _ATEN.mul.Tensor: operator.mul,
    _ATEN.neg.default: operator.neg,
}

#: The tensor attribute that contains its value.
VALUE = "known_value"


class KnownValues:
    """Propagates the largest position of `tokens` through a step's operations; a mask has zeros."""

    def __init__(self, tokens: int) -> None:
        self._last = tokens - 1

    def grow(self, tokens: int) -> None:
        """Make the sequence longer by `tokens`."""
        self._last += tokens

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operation, and return the value of a tensor if it is known."""
        if func is _ATEN._local_scalar_dense.default and hasattr(args[0], VALUE):
            return getattr(args[0], VALUE)
        if func is _ATEN.nonzero.default:
            return args[0].new_empty((args[0].numel(), args[0].dim()), dtype=torch.int64)
        out = repeated_operations.run(func, args, kwargs)
        if func is _ATEN.max.default and args[0].dtype == torch.int64:
            setattr(out, VALUE, self._last)
        elif func in (_ATEN.all.default, _ATEN.any.default) and args[0].dtype == torch.bool:
            setattr(out, VALUE, False)
        elif func in PROPAGATED and hasattr(args[0], VALUE):
            given = [getattr(arg, VALUE, arg) for arg in args]
            if not any(isinstance(value, torch.Tensor) for value in given):
                setattr(out, VALUE, PROPAGATED[func](*given))
        return out
