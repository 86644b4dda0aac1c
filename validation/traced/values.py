"""Values that models read from their tensors: known ones are computed on the host, and routing is spread evenly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from validation.tracing.host_values import LIMIT, UNKNOWN, HostValues

if TYPE_CHECKING:
    from collections.abc import Sequence

_ATEN = torch.ops.aten

#: Operations that choose among values that are not known, and the position of the chosen indices in their outputs.
CHOICES: dict[Any, int] = {
    _ATEN.topk.default: 1,
    _ATEN.sort.default: 1,
    _ATEN.sort.stable: 1,
    _ATEN.argsort.default: 0,
    _ATEN.argmax.default: 0,
    _ATEN.max.dim: 1,
    _ATEN.multinomial.default: 0,
}

#: The engine's sentence about an answer in which a choice was spread.
SPREAD = "Routers choose experts, and indexers tokens, by values that a trace does not have: choices are spread evenly."

#: The engine's sentence if a model read a single value that is not known.
READ = (
    "The model reads values that a trace does not have: a comparison with such a value is taken as false, and other"
    " values as 1."
)


class SpreadValues(HostValues):
    """The values of a traced step. `guesses` are the sentences about values that it had to guess."""

    def __init__(self) -> None:
        super().__init__()
        self._guesses: dict[str, None] = {}

    @property
    def guesses(self) -> tuple[str, ...]:
        """Sentences about guessed values."""
        return tuple(self._guesses)

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run one operation; a choice by values that are not known is spread over all that can be chosen."""
        out = super().run(func, args, kwargs)
        if func in CHOICES and isinstance(args[0], torch.Tensor) and self.value(args[0]) is None:
            chosen = out[CHOICES[func]] if isinstance(out, tuple | list) else out
            self._spread(chosen, args[0], _dim(func, args, kwargs))
        return out

    def _run_on_both(self, func: Any, args: Any, kwargs: Any) -> Any:
        try:
            return super()._run_on_both(func, args, kwargs)
        except NotImplementedError:  # the host lacks some kernels, such as histc of whole numbers
            return func(*args, **kwargs)

    def _read(self, tensor: torch.Tensor) -> Any:
        if self.value(tensor) is None:
            self._guesses[READ] = None
            return UNKNOWN.get(tensor.dtype, 1)
        return super()._read(tensor)

    def _spread(self, chosen: torch.Tensor, among: torch.Tensor, dim: int | None) -> None:
        if chosen.device.type != "meta" or not 0 < chosen.numel() <= LIMIT:
            return
        self._guesses[SPREAD] = None
        if dim is None or chosen.dim() < among.dim():
            self.know(chosen, evenly(chosen.shape, among.numel() if dim is None else among.shape[dim]))
            return
        last = [*chosen.shape]
        last.append(last.pop(dim))
        self.know(chosen, evenly(last, among.shape[dim]).movedim(-1, dim))


def evenly(shape: Sequence[int], count: int) -> torch.Tensor:
    """Return indices below `count` in turn: each row of the last dimension goes on where the one before it ends."""
    indices = torch.arange(torch.Size(shape).numel()) % count
    return indices.reshape(*shape)


def _dim(func: Any, args: Any, kwargs: Any) -> int | None:
    """Return the dimension that an operation chooses along; None if it chooses among all elements."""
    names = [argument.name for argument in func._schema.arguments]
    defaults = {argument.name: argument.default_value for argument in func._schema.arguments}
    given = {**defaults, **dict(zip(names, args, strict=False)), **kwargs}
    dim = given.get("dim", -1)
    return dim if dim is None else dim % max(1, args[0].dim())
