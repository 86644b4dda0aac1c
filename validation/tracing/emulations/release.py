"""The differences between releases of PyTorch: dropout states of attention, and the workspace of a product."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from calculator.devices.kernels import Kernels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ATEN = torch.ops.aten
#: The matrix products, with the position of the first of their two factors.
_PRODUCTS = {_ATEN.mm.default: 0, _ATEN.bmm.default: 0, _ATEN.addmm.default: 1, _ATEN.baddbmm.default: 1}
#: The bytes of cuBLASLt's workspace, which adds a bias.
_LT_WORKSPACE = 1 << 20

#: The kernels of the emulated release, innermost last.
_releases = [Kernels()]


@contextmanager
def release_of(kernels: Kernels, *, has_flash_package: bool) -> Iterator[None]:
    """Emulate the kernels of a release. The package flash-attn has the state of its dropout on the GPU in each."""
    if has_flash_package:
        kernels = replace(kernels, flash_state_on_gpu=True)
    _releases.append(kernels)
    try:
        yield
    finally:
        _releases.pop()


def flash_state(query: Tensor) -> tuple[Tensor, Tensor]:
    """Return the state of flash's dropout."""
    device = query.device if _releases[-1].flash_state_on_gpu else torch.device("cpu")
    return torch.empty((2,), dtype=torch.uint64, device=device), torch.empty((), dtype=torch.uint64, device=device)


def efficient_state(query: Tensor, dropout_p: float) -> tuple[Tensor, Tensor]:
    """Return the seed and the offset of the memory-efficient kernel's dropout."""
    on_gpu = _releases[-1].efficient_state_on_gpu and not dropout_p
    device = query.device if on_gpu else torch.device("cpu")
    return torch.empty((), dtype=torch.long, device=device), torch.empty((), dtype=torch.long, device=device)


def product_of(func: Any) -> Callable[..., Tensor] | None:
    """Return the emulation of a product that allocates its workspace; None if a thread keeps it."""
    if func not in _PRODUCTS or not _releases[-1].product_workspace:
        return None
    return partial(_product, _PRODUCTS[func])


def _product(first: int, *args: Tensor, **_: object) -> Tensor:
    left, right = args[first : first + 2]
    out = left.new_empty((*left.shape[:-1], right.shape[-1]))
    adds_bias = first == 1 and args[0].dim() == 1
    size = _releases[-1].product_workspace
    left.new_empty((min(size, _LT_WORKSPACE) if adds_bias else size,), dtype=torch.uint8)
    return out
