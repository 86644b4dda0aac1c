"""The requests that reading one tensor of a checkpoint makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from calculator.architecture.dimension import elements
from calculator.common.dtype import ITEMSIZE, allocated, rounded

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from calculator.resident.tensor import ResidentTensor

#: The bytes of the value that a code book is divided by. It is rounded up.
_LARGEST = rounded(ITEMSIZE["float32"])


class Read(NamedTuple):
    """The requests that reading a tensor makes.

    Attributes:
        names, sizes: The names and sizes of what is allocated, in order: the dense form if the tensor is quantized
            (to 8 bits, also the dense form in float16), the tensor itself, and the float32 form of an 8-bit constant.
        row: The index of the tensor itself among `sizes`.
        events: The requests in order: `n` allocates an index, and `~n` frees it.
        freed: The indices that are freed when the next weight is read.
        is_constant: Whether the tensor is a part of the quantized form of the weight before it.
        is_recast: Whether the tensor is cast after all tensors are read.
        book: The position in `events` at which bitsandbytes needs the code book that it keeps. None if it does not.
    """

    names: list[str]
    sizes: list[int]
    row: int
    events: Sequence[int]
    freed: tuple[int, ...]
    is_constant: bool
    is_recast: bool
    book: int | None = None


def constants_of_4_bits(base: Iterable[ResidentTensor]) -> dict[str, dict[str, ResidentTensor]]:
    """Return the constants of the weights that bitsandbytes quantizes to 4 bits, by the weight and by their own name.

    Each of these weights has a code book.
    """
    found: dict[str, dict[str, ResidentTensor]] = {}
    for tensor in base:
        if tensor.component == "quantization_constants":
            weight, _, constant = tensor.name.rpartition(".")
            found.setdefault(weight, {})[constant] = tensor
    return {weight: constants for weight, constants in found.items() if {"absmax", "code"} <= constants.keys()}


def read_to_4_bits(weight: ResidentTensor, dense: int, packed: int, constants: Mapping[str, ResidentTensor]) -> Read:
    """Return how a weight is read and quantized. `dense` and `packed` are its bytes before and after.

    The constants in float32 are alive until they are quantized themselves, with what is left when their mean is
    subtracted.

    Source: bitsandbytes 0.50, functional.py (quantize_4bit, get_4bit_type, quantize_blockwise) and
    backends/cuda/ops.py (bitsandbytes::quantize_4bit, bitsandbytes::quantize_blockwise).
    """
    of = {name: rounded(tensor.bytes // tensor.count) for name, tensor in constants.items()}
    blocks = constants["absmax"]
    in_float32 = allocated(elements(blocks.shape), ITEMSIZE["float32"])
    names = [weight.name, blocks.name, weight.name, constants["code"].name, *[constants["code"].name] * 2]
    sizes = [rounded(dense), in_float32, rounded(packed), of["code"], of["code"], _LARGEST]
    events, book = [*range(6), ~4, ~5], None
    if "nested_absmax" in constants:
        nested = ("nested_offset", "absmax", "nested_absmax", "absmax", "nested_code")
        names += [constants[name].name for name in nested]
        sizes += [of["nested_offset"], in_float32, of["nested_absmax"], of["absmax"], of["nested_code"]]
        book = len(events) + 2
        events += [*range(6, 11), ~7, ~1]
    return Read(names, sizes, 2, events, (0,), is_constant=False, is_recast=False, book=book)
