"""The size of a .safetensors file: an 8-byte length, a JSON header, and the tensors.

Source: safetensors 0.8, safetensors/src/tensor.rs (prepare, serialize_to_file).
"""

from __future__ import annotations

import json
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from calculator.common.dtype import ITEMSIZE, DType

if TYPE_CHECKING:
    from collections.abc import Iterable

#: The names of data types in a header, in the order of alignment. Tensors of later types are written first.
_DTYPES: dict[DType, str] = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "float16": "F16",
    "bfloat16": "BF16",
    "int32": "I32",
    "float32": "F32",
    "float64": "F64",
    "int64": "I64",
}
_ORDER = {dtype: place for place, dtype in enumerate(_DTYPES)}

#: The header is padded with spaces to a multiple of this, in bytes.
ALIGNMENT = 8


class SavedTensor(NamedTuple):
    """A tensor of a checkpoint."""

    name: str
    shape: tuple[int, ...]
    dtype: DType

    @property
    def bytes(self) -> int:
        """The size of the elements in bytes."""
        return prod(self.shape) * ITEMSIZE[self.dtype]


def file_bytes(tensors: Iterable[SavedTensor]) -> int:
    """Return the size of the file that `save_file(tensors, metadata={"format": "pt"})` writes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in sorted(tensors, key=lambda other: (-_ORDER[other.dtype], other.name)):
        begin, end = end, end + tensor.bytes
        header[tensor.name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": [*map(int, tensor.shape)],
            "data_offsets": [begin, end],
        }
    length = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + length + -length % ALIGNMENT + end
