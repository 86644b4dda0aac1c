"""The size of a file that `torch.save` writes: a pickle and the storages, in an uncompressed ZIP archive.

Sources: PyTorch 2.13, torch/serialization.py (_save), caffe2/serialize/inline_container.cc (getPadding,
PyTorchStreamWriter) and its miniz, which writes ZIP64 fields where a size or an offset needs more than 32 bits.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from calculator.common.dtype import ITEMSIZE, DType

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_LOCAL_HEADER, _CENTRAL_HEADER = 30, 46
#: The sizes of the end records: the 64-bit end of the directory, its locator, and the 32-bit end. PyTorch writes all
#: three.
_END_OF_DIRECTORY = 56 + 20 + 22
#: The size of the data descriptor after each record that is not empty, with 32-bit and with 64-bit sizes.
_DESCRIPTOR, _ZIP64_DESCRIPTOR = 16, 24
#: The alignment of a record's data. An extra field of at least 4 bytes pads the header.
_ALIGNMENT, _PADDING = 64, 4
#: The smallest size or offset that needs a ZIP64 field, whose extra field has a header of 4 bytes.
_ZIP64, _ZIP64_HEADER = 0xFFFFFFFF, 4

_STORAGES: dict[DType, str] = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "bfloat16": "BFloat16Storage",
    "float16": "HalfStorage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "uint8": "ByteStorage",
    "int8": "CharStorage",
    "bool": "BoolStorage",
}


@dataclass(frozen=True, slots=True, eq=False)
class TorchTensor:
    """A contiguous tensor that is saved, with its own storage."""

    shape: tuple[int, ...]
    dtype: DType
    #: The device: `cpu`, or `cuda:0`.
    location: str = "cpu"

    @property
    def bytes(self) -> int:
        """The size of the elements in bytes."""
        return prod(self.shape) * ITEMSIZE[self.dtype]


@dataclass(frozen=True, slots=True, eq=False)
class _Global:
    """A class or a function, which a pickle refers to by module and name."""

    module: str
    name: str


class _Storage:
    """The storage of a tensor."""

    def __init__(self, tensor: TorchTensor) -> None:
        self.tensor = tensor


_REBUILD = _Global("torch._utils", "_rebuild_tensor_v2")
_OF_DTYPE = {dtype: _Global("torch", name) for dtype, name in _STORAGES.items()}


#: The pickler written in Python. Its methods can be overridden, unlike those of the C pickler.
_PythonPickler: Any = pickle._Pickler  # noqa: SLF001


class _Pickler(_PythonPickler):  # type: ignore[misc]  # the standard library's stubs lack it
    """PyTorch's pickler for tensors without values. It writes functions by name without importing them."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=2)
        #: The saved tensors, in the order of their keys.
        self.tensors: list[TorchTensor] = []

    def persistent_id(self, obj: Any) -> Any:
        """Return the description of a storage."""
        if not isinstance(obj, _Storage):
            return None
        tensor, key = obj.tensor, str(len(self.tensors))
        self.tensors.append(tensor)
        # PyTorch creates the string of a CUDA device for each storage, so that the pickle repeats it.
        location = "cpu" if tensor.location == "cpu" else "".join([*tensor.location])
        return "storage", _OF_DTYPE[tensor.dtype], key, location, prod(map(int, tensor.shape))

    def reducer_override(self, obj: Any) -> Any:
        """Return the call that rebuilds a tensor."""
        if not isinstance(obj, TorchTensor):
            return NotImplemented
        shape = tuple(map(int, obj.shape))
        return _REBUILD, (_Storage(obj), 0, shape, _strides(shape), False, OrderedDict())

    def save(self, obj: Any, save_persistent_id: bool = True) -> Any:  # noqa: FBT001, FBT002  pickle's signature
        """Write an object. Globals are written by name."""
        if isinstance(obj, _Global) and id(obj) not in self.memo:
            self.write(f"c{obj.module}\n{obj.name}\n".encode())
            self.memoize(obj)
            return None
        return super().save(obj, save_persistent_id)

    def save_reduce(self, func: Any, args: Any, *rest: Any, obj: Any = None) -> None:
        """Write a call, also of a function that is not imported."""
        if not isinstance(func, _Global):
            super().save_reduce(func, args, *rest, obj=obj)
            return
        self.save(func)
        self.save(args)
        self.write(pickle.REDUCE)
        self.memoize(obj)


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of a contiguous tensor."""
    return tuple(prod(shape[place + 1 :]) for place in range(len(shape)))


def file_bytes(value: Any, stem: str) -> int:
    """Return the size of the file `stem`.pt that `torch.save(value, ...)` writes.

    Tensors in `value` are `TorchTensor`s.
    """
    buffer = io.BytesIO()
    pickler = _Pickler(buffer)
    pickler.dump(value)
    return _archive_bytes(_records(stem, buffer.tell(), pickler.tensors))


def _records(stem: str, pickled: int, tensors: Iterable[TorchTensor]) -> Iterator[tuple[int, int]]:
    """Yield the length of each record's name, and its size."""
    yield len(f"{stem}/data.pkl"), pickled
    yield len(f"{stem}/.format_version"), 1
    yield len(f"{stem}/.storage_alignment"), len(str(_ALIGNMENT))
    yield len(f"{stem}/byteorder"), len("little")
    for key, tensor in enumerate(tensors):
        yield len(f"{stem}/data/{key}"), tensor.bytes
    yield len(f"{stem}/version"), len("3\n")
    yield len(f"{stem}/.data/serialization_id"), 40


def _archive_bytes(records: Iterable[tuple[int, int]]) -> int:
    """Return the size of an archive with these records."""
    position = directory = 0
    for name, size in records:
        extra = _zip64_extra(size, position)
        directory += _CENTRAL_HEADER + name + extra
        header = position + _LOCAL_HEADER + name + _PADDING + extra
        descriptor = 0 if not size else _ZIP64_DESCRIPTOR if extra else _DESCRIPTOR
        position = header + -header % _ALIGNMENT + size + descriptor
    return position + directory + _END_OF_DIRECTORY


def _zip64_extra(size: int, position: int) -> int:
    """Return the size of the extra field of a record whose sizes or position need 64 bits."""
    fields = 16 * (size >= _ZIP64) + 8 * (position >= _ZIP64)
    return _ZIP64_HEADER + fields if fields else 0
