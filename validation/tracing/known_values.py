"""The numbers that models ask of their tensors, known though the meta device holds none: how long a sequence is.

Rotary embeddings that scale with the length look for the largest position and go on from there.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

_ATEN = torch.ops.aten

#: Operations by which a known number becomes another.
FOLLOWED: dict[Any, Callable[[Any, Any], Any]] = {
    _ATEN.add.Tensor: operator.add,
    _ATEN.gt.Scalar: operator.gt,
    _ATEN.gt.Tensor: operator.gt,
    _ATEN.lt.Scalar: operator.lt,
    _ATEN.lt.Tensor: operator.lt,
}

#: The attribute of a tensor that holds its number.
_KNOWN = "known"


class Values:
    """Follows the largest position of `tokens` through a step's operations."""

    def __init__(self, tokens: int) -> None:
        self._last = tokens - 1

    def grow(self, tokens: int) -> None:
        """Let the sequence be so many tokens longer."""
        self._last += tokens

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operation; where it asks for a number that is known, answer."""
        if func is _ATEN._local_scalar_dense.default and hasattr(args[0], _KNOWN):
            return getattr(args[0], _KNOWN)
        out = func(*args, **kwargs)
        if func is _ATEN.max.default and args[0].dtype == torch.int64:
            setattr(out, _KNOWN, self._last)
        elif func in FOLLOWED and hasattr(args[0], _KNOWN):
            other = getattr(args[1], _KNOWN, args[1])
            if not isinstance(other, torch.Tensor):
                setattr(out, _KNOWN, FOLLOWED[func](getattr(args[0], _KNOWN), other))
        return out
