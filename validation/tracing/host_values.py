"""Values of tensors on the meta device that follow from a batch: each such storage has a copy in host memory.

A trainer counts labeled tokens, compares them with 0 and selects by them. Batches have values on the host, so
whatever is computed from them alone is computed on the host too. Weights have none.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_flatten, tree_map

from validation.tracing import repeated_operations

if TYPE_CHECKING:
    from collections.abc import Iterator

_ATEN = torch.ops.aten

#: Elements of the largest tensor that is computed on the host too; attention masks are larger.
LIMIT = 1 << 22

#: Functions that make known values.
FACTORIES = frozenset({"aten::arange", "aten::full", "aten::ones", "aten::scalar_tensor", "aten::zeros"})

#: Operations whose shape depends on values, and whose meta kernels raise another error than NotImplementedError.
SHAPED_BY_VALUES = frozenset({_ATEN.repeat_interleave.Tensor})

#: Operations that are not computed on the host, which has no kernel for a half-precision input with a float32 output or
#: with float32 statistics.
ON_DEVICE_ALONE = frozenset({_ATEN._softmax.default, _ATEN.native_layer_norm_backward.default})

#: Collectives whose output has the input of each process. In a trace, every process has the same batch.
REPEATED = frozenset({torch.ops.c10d._allgather_base_.default})

#: Read in place of a value that is not known: a loss is neither infinite nor NaN, and no comparison with it holds.
UNKNOWN = {torch.bool: False}


class HostValues:
    """Runs operations on the meta device, and on the host where every input's value is known.

    `unknown` is read in place of a number that is not known. `device` is the type of the device.
    """

    def __init__(self, unknown: float = 1, device: str = "meta") -> None:
        self._unknown, self._device = unknown, device
        self._copies: dict[int, torch.UntypedStorage] = {}
        self._finalizers: dict[int, weakref.ref] = {}

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run one operation; reading a value, and operations whose shape depends on one, use the host's copy."""
        if func is _ATEN._local_scalar_dense.default:
            return self._read(args[0])
        if func is _ATEN._to_copy.default and _is_on_meta(args[0]) and str(kwargs.get("device")) == "cpu":
            return self._copied_to_host(args[0], kwargs.get("dtype"))
        leaves = tree_flatten((args, kwargs))[0]
        inputs = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        if not any(map(_is_on_meta, leaves)) or "sparse" in func._schema.name or any(map(_is_sparse, inputs)):
            return func(*args, **kwargs)
        is_known = self._all_known(inputs) if inputs else func._schema.name in FACTORIES
        if is_known and func not in ON_DEVICE_ALONE:
            return self._run_on_both(func, args, kwargs)
        if func is _ATEN.nonzero.default and self.value(inputs[0]) is not None:  # a mask, expanded over a width
            return self._run_on_both(func, args, kwargs)
        if func is _ATEN.equal.default:
            return False
        out = repeated_operations.run(func, args, kwargs)
        self._forget(inputs, func)
        if func in REPEATED:
            self._repeat(*args[:2])
        return out

    def know(self, tensor: torch.Tensor, host: torch.Tensor) -> None:
        """Make the values of a tensor known."""
        self._keep(tensor, host)

    def value(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """Return the values of a tensor, if they are known."""
        if tensor.device.type != self._device:
            return tensor
        copy = self._copies.get(tensor.untyped_storage()._cdata)
        if copy is None:
            return None
        host = torch.empty(0, dtype=tensor.dtype)
        return host.set_(copy, tensor.storage_offset(), tensor.shape, tensor.stride())

    def forget(self, tensor: torch.Tensor) -> None:
        """Drop the values of a tensor."""
        self._drop(tensor.untyped_storage()._cdata)

    def _repeat(self, gathered: torch.Tensor, rank_tensor: torch.Tensor) -> None:
        """Keep the values of a tensor that is gathered from all processes, whose values are those of this one."""
        value = self.value(rank_tensor)
        if value is not None:
            self._keep(gathered, value.flatten().repeat(gathered.numel() // rank_tensor.numel()).view(gathered.shape))

    def _read(self, tensor: torch.Tensor) -> Any:
        value = self.value(tensor)
        return UNKNOWN.get(tensor.dtype, self._unknown) if value is None else value.item()

    def _copied_to_host(self, tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
        """Return a copy on the host, of zeros if the values are not known."""
        value = self.value(tensor)
        host = torch.zeros(tensor.shape, dtype=tensor.dtype) if value is None else value.clone()
        return host.to(dtype or tensor.dtype)

    def _run_on_both(self, func: Any, args: Any, kwargs: Any) -> Any:
        host_args, host_kwargs = tree_map(self._to_host, (args, kwargs))
        on_host = func(*host_args, **host_kwargs)
        if not list(tensors(on_host)):
            return on_host
        try:
            out = None if func in SHAPED_BY_VALUES else func(*args, **kwargs)
        except NotImplementedError:  # its shape depends on values, such as that of nonzero
            out = None
        if out is None:
            out = tree_map(lambda leaf: torch.empty_like(leaf, device="meta"), on_host)
        for ours, theirs in zip(tensors(out), tensors(on_host), strict=True):
            self._keep(ours, theirs)
        return out

    def _to_host(self, leaf: Any) -> Any:
        if isinstance(leaf, torch.device):
            return torch.device("cpu")
        return self.value(leaf) if isinstance(leaf, torch.Tensor) else leaf

    def _keep(self, tensor: torch.Tensor, host: torch.Tensor) -> None:
        """Keep a new storage's values, laid out as the tensor is."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if tensor.device.type != self._device or key in self._copies or tensor.numel() > LIMIT:
            return
        laid_out = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype).copy_(host)
        self._copies[key] = laid_out.untyped_storage()
        self._finalizers[key] = weakref.ref(storage, lambda _: self._drop(key))

    def _drop(self, key: int) -> None:
        self._copies.pop(key, None)
        self._finalizers.pop(key, None)

    def _all_known(self, tensors: list[torch.Tensor]) -> bool:
        return all(
            tensor.numel() <= LIMIT
            and (tensor.device.type != self._device or tensor.untyped_storage()._cdata in self._copies)
            for tensor in tensors
        )

    def _forget(self, inputs: list[torch.Tensor], func: Any) -> None:
        """Drop the values of a tensor that an operation overwrites with unknown ones."""
        if func._schema.is_mutable and inputs:
            self.forget(inputs[0])


def _is_sparse(tensor: torch.Tensor) -> bool:
    """Return whether it is a sparse COO tensor, which has no storage of its own."""
    return tensor.layout is torch.sparse_coo


def _is_on_meta(leaf: Any) -> bool:
    """Return whether an argument is on the meta device, or is that device."""
    device = leaf.device if isinstance(leaf, torch.Tensor) else leaf
    return isinstance(device, torch.device) and device.type == "meta"


def tensors(out: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors among what an operation returns."""
    return (leaf for leaf in tree_flatten(out)[0] if isinstance(leaf, torch.Tensor))
