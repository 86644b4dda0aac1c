"""The storages that a library allocates before the traced step and still keeps when it begins."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from collections.abc import Iterator


class Survivors(TorchDispatchMode):
    """Remembers every storage that is allocated on a device, by the operation that allocated it, while it is alive."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self._device = device
        self._alive: dict[int, tuple[weakref.ref[torch.UntypedStorage], str, torch.dtype]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and remember its outputs."""
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            # A wrapper of other tensors, as a state of torchao's, has no memory of its own.
            is_plain = isinstance(tensor, torch.Tensor) and not is_traceable_wrapper_subclass(tensor)
            if is_plain and tensor.device.type == self._device:
                self._remember(tensor, func._schema.name.removeprefix("aten::"))
        return out

    def _remember(self, tensor: torch.Tensor, op: str) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._alive:
            self._alive[key] = weakref.ref(storage, lambda _: self._alive.pop(key)), op, tensor.dtype

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the operation and a flat tensor of each storage that is alive."""
        for reference, op, dtype in list(self._alive.values()):
            storage = reference()
            if storage is not None:
                size = storage.nbytes() // dtype.itemsize
                yield op, torch.empty(0, dtype=dtype, device=self._device).set_(storage, 0, (size,))
