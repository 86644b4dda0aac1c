"""Values of a batch on the stub, whose kernels do nothing: they are computed on the host, where Python reads them.

A trainer asks whether a mask has padding, counts labeled tokens, and selects by them. Batches have values on the host,
so whatever Python computes from them alone is computed on the host too. Weights, losses and gradients have none.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

from validation.tracing.host_values import HostValues, tensors

if TYPE_CHECKING:
    from collections.abc import Callable

#: Functions that return values.
READS = frozenset(
    {"item", "tolist", "numpy", "cpu", "equal", "__bool__", "__int__", "__float__", "__index__", "__contains__"}
)

#: Functions that make known values of none.
FACTORIES = frozenset({"arange", "full", "ones", "tensor", "zeros"})


class BatchValues(TorchFunctionMode):
    """Runs what Python calls on the stub, and on the host where the values of every tensor are known.

    `device` is the type of the device whose kernels do nothing.
    """

    def __init__(self, device: str = "cuda") -> None:
        super().__init__()
        self._device, self._values = device, HostValues(device=device)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one function."""
        kwargs, name = kwargs or {}, func.__name__
        leaves = tree_flatten((args, kwargs))[0]
        inputs = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        if name == "__get__" or not any(map(self._is_on_stub, leaves)):
            return func(*args, **kwargs)
        known = all(map(self._is_known, inputs)) if inputs else name in FACTORIES
        if known and name in READS:
            return self._on_host(func, args, kwargs)
        count = self._selected(args[1]) if name == "__getitem__" and not known else None
        out = func(*args, **kwargs) if count is None else _Selected.apply(*args, count)
        changes = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
        if known:
            return self._known(out, partial(self._on_host, func, args, kwargs), changes=changes)
        if changes:
            self._values.forget(inputs[0])
        return out

    def _is_known(self, tensor: torch.Tensor) -> bool:
        return self._values.value(tensor) is not None

    def _on_host(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        host_args, host_kwargs = tree_map(self._to_host, (args, kwargs))
        with torch.no_grad():
            return func(*host_args, **host_kwargs)

    def _known(self, out: Any, on_host: Callable[[], Any], *, changes: bool) -> Any:
        """Return the output, whose values are known, in the shape that follows from them."""
        tensors_out = list(tensors(out))
        if not changes and all(
            self._is_on_stub(tensor) and self._is_known(tensor) for tensor in tensors_out
        ):  # views, or none
            return out
        theirs = on_host()
        if not any(map(self._is_on_stub, tensors_out)):
            return theirs
        values = list(tensors(theirs))
        if [tensor.shape for tensor in tensors_out] != [value.shape for value in values]:  # such as that of nonzero
            out = tree_map(
                lambda leaf: torch.empty_like(leaf, device=self._device) if _is_tensor(leaf) else leaf, theirs
            )
        for tensor, value in zip(tensors(out), values, strict=True):
            self._values.know(tensor, value)
        return out

    def _to_host(self, leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return self._values.value(leaf)
        return "cpu" if self._is_on_stub(leaf) else leaf

    def _is_on_stub(self, leaf: Any) -> bool:
        """Return whether an argument is on the stub, or is that device."""
        if isinstance(leaf, str):
            return leaf.partition(":")[0] == self._device
        device = leaf.device if isinstance(leaf, torch.Tensor) else leaf
        return isinstance(device, torch.device) and device.type == self._device

    def _selected(self, index: Any) -> int | None:
        """Return how many positions a mask selects; None for another index, or a mask whose values are not known."""
        value = self._values.value(index) if _is_tensor(index) and index.dtype is torch.bool else None
        return None if value is None else int(value.sum())


class _Selected(torch.autograd.Function):
    """A tensor indexed by a mask, whose positions `nonzero` finds in each pass; that of the stub finds none."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, mask: torch.Tensor, count: int) -> torch.Tensor:
        """Return `count` rows."""
        ctx.save_for_backward(mask)
        ctx.shape, ctx.count = tensor.shape, count
        return tensor[_positions(mask, count)]

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        """Put the gradient into zeros, as index_backward does (torch/csrc/autograd/FunctionsManual.cpp)."""
        (mask,) = ctx.saved_tensors
        zeros = grad.new_zeros(ctx.shape)
        return torch.ops.aten._index_put_impl_(zeros, _positions(mask, ctx.count), grad, True, True), None, None


def _positions(mask: torch.Tensor, count: int) -> tuple[torch.Tensor, ...]:
    """Return the indices that `nonzero` makes of a mask."""
    return torch.empty((mask.ndim, count), dtype=torch.long, device=mask.device).unbind()


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor)
