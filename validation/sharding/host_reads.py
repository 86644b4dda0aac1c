"""The host's reads of tensors on the meta device, which have no values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from validation.tracing.known_values import VALUE

if TYPE_CHECKING:
    from torch import Tensor

_ATEN = torch.ops.aten


class HostReads(TorchDispatchMode):
    """Reads 0 from a number on meta, and skips copies from meta to a host tensor.

    A process reads the order of DDP's buckets that it sent itself; whether gradients overflow (0: they do not); norms;
    and the mean of quantization constants, which `state_dict` puts in words.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation."""
        kwargs = kwargs or {}
        if func is _ATEN._local_scalar_dense.default and _is_meta(args[0]) and not hasattr(args[0], VALUE):
            return 0.0
        if func is _ATEN.copy_.default and _is_meta(args[1]) and not _is_meta(args[0]):
            return args[0]
        if func is _ATEN._to_copy.default and _to_host(args[0], kwargs.get("device")):
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if func is _ATEN.embedding.default and _is_meta(args[0]) and args[1].device.type == "cpu":
            # What a GPU raises; meta does not compare devices here.
            raise RuntimeError("Expected all tensors to be on the same device: the token ids are on the host")
        return func(*args, **kwargs)


def _to_host(tensor: Tensor, device: torch.device | None) -> bool:
    return _is_meta(tensor) and device is not None and device.type == "cpu"


def _is_meta(tensor: Tensor) -> bool:
    """Return whether a tensor is on meta, also where FSDP offloads and `is_meta` is false."""
    return tensor.device.type == "meta"
