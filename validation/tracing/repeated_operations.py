"""Operations on the meta device, whose kernels run once for the same layouts.

PyTorch's kernels for the meta device are mostly written in Python, and take most of a trace's time. On the meta device
an operation computes the layout of its outputs only. It follows from the layouts of the inputs and the other arguments.
Source: torch/_meta_registrations.py, activate_meta; torch/_subclasses/fake_tensor.py, _cached_dispatch_impl, has the
same cache for fake tensors.
"""

from __future__ import annotations

from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch._ops import OpOverload
from torch.utils._pytree import tree_flatten

if TYPE_CHECKING:
    from collections.abc import Iterable

#: The most operations to keep. A trace of a large model has some thousand.
LARGEST = 100_000

#: Namespaces of operations that change nothing but tensors. Those of collectives also start communication.
NAMESPACES = frozenset({"aten", "bitsandbytes"})

#: Types of arguments that equal no argument of another type. A number has its type in the key, since 1 == 1.0 == True.
CONSTANTS = (type(None), str, torch.dtype, torch.device, torch.layout, torch.memory_format)

#: Shape, strides and dtype of a tensor.
Layout = tuple[torch.Size, tuple[int, ...], torch.dtype]


class Repeated(Enum):
    """What an operation does whenever it is repeated, if it returns no new tensors."""

    RETURNS_FIRST_ARGUMENT = "returns its first argument, whose layout stays"
    RUNS = "runs: its outputs share storage with its inputs, or are no plain tensors on the meta device"


_KNOWN: dict[Any, list[Layout] | Repeated] = {}


def run(func: Any, args: Any, kwargs: Any) -> Any:
    """Run an operation, without its kernel if its outputs are known."""
    key = _key(func, args, kwargs) if _is_known_by_layouts(func) and not _is_observed() else None
    if key is None:
        return func(*args, **kwargs)
    known = _KNOWN.get(key)
    if known is None:
        return _run_first(key, func, args, kwargs)
    if known is Repeated.RETURNS_FIRST_ARGUMENT:
        return args[0]
    if known is Repeated.RUNS:
        return func(*args, **kwargs)
    outputs_on_meta = [torch.empty_strided(shape, stride, dtype=dtype, device="meta") for shape, stride, dtype in known]
    return outputs_on_meta[0] if len(outputs_on_meta) == 1 else tuple(outputs_on_meta)


def _is_observed() -> bool:
    """Return whether another dispatch mode sees this operation, which would not see a new tensor as its output."""
    return bool(torch._C._len_torch_dispatch_stack())


@cache
def _is_known_by_layouts(func: Any) -> bool:
    """Return whether an operation returns new tensors, or changes its first argument alone and returns it."""
    if not isinstance(func, OpOverload) or func.namespace not in NAMESPACES:
        return False
    schema = func._schema
    if not schema.returns or any(str(returned.type) != "Tensor" for returned in schema.returns):
        return False
    aliases = [argument.alias_info for argument in schema.arguments]
    if not schema.is_mutable:
        return not any(aliases)
    resizes = "resize" in schema.name or "set_" in schema.name
    return len(schema.returns) == 1 and aliases[0] is not None and not any(aliases[1:]) and not resizes


def _key(func: OpOverload, args: Any, kwargs: Any) -> tuple[Any, ...] | None:
    """Return what the outputs follow from; none if they may follow from values too."""
    parts: list[Any] = [func, torch.get_default_dtype()]
    if not _append(parts, args):
        return None
    if kwargs:
        parts += kwargs
        if not _append(parts, kwargs.values()):
            return None
    return tuple(parts)


def _append(parts: list[Any], args: Iterable[Any]) -> bool:
    """Append what identifies arguments; returns whether each is a tensor on the meta device or a constant."""
    for arg in args:
        kind = type(arg)
        if kind is torch.Tensor or kind is torch.nn.Parameter:
            if not _is_plain(arg):
                return False
            parts += (arg.shape, arg.stride(), arg.dtype)
        elif kind is int or kind is float or kind is bool:
            parts += (kind, arg)
        elif kind is list or kind is tuple:
            parts += (kind, len(arg))
            if not _append(parts, arg):
                return False
        elif isinstance(arg, CONSTANTS):
            parts.append(arg)
        else:
            return False
    return True


def _is_plain(tensor: torch.Tensor) -> bool:
    return tensor.is_meta and tensor.layout is torch.strided and not tensor.is_neg() and not tensor.is_conj()


def _run_first(key: tuple[Any, ...], func: OpOverload, args: Any, kwargs: Any) -> Any:
    """Run an operation, and keep what it does."""
    given = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]
    before = list(map(_described, given))
    out = func(*args, **kwargs)
    if len(_KNOWN) >= LARGEST:
        _KNOWN.clear()
    if func._schema.is_mutable:
        same = out is args[0] and list(map(_described, given)) == before
        _KNOWN[key] = Repeated.RETURNS_FIRST_ARGUMENT if same else Repeated.RUNS
    else:
        outputs = out if isinstance(out, tuple) else (out,)
        _KNOWN[key] = _layouts(outputs) if _are_new(outputs, given) else Repeated.RUNS
    return out


def _described(tensor: torch.Tensor) -> tuple[Any, ...]:
    storage = tensor.untyped_storage()
    return tensor.shape, tensor.stride(), tensor.dtype, storage._cdata, storage.nbytes()


def _are_new(outputs: tuple[Any, ...], given: list[torch.Tensor]) -> bool:
    """Return whether outputs are plain tensors, each in a storage of its own that is no larger than the tensor."""
    if not all(type(output) is torch.Tensor and _is_plain(output) for output in outputs):
        return False
    storages = {tensor.untyped_storage()._cdata for tensor in (*given, *outputs)}
    sizes = [output.untyped_storage().nbytes() for output in outputs]
    outputs_on_meta = [torch.empty_strided(*layout[:2], dtype=layout[2], device="meta") for layout in _layouts(outputs)]
    return (
        len(storages) == len({tensor.untyped_storage()._cdata for tensor in given}) + len(outputs)
        and not any(output.storage_offset() for output in outputs)
        and sizes == [tensor.untyped_storage().nbytes() for tensor in outputs_on_meta]
    )


def _layouts(outputs: tuple[torch.Tensor, ...]) -> list[Layout]:
    return [(output.shape, output.stride(), output.dtype) for output in outputs]
