"""The states of torchao's optimizers in 8 and 4 bits (Dettmers et al. 2022; Li et al. 2023).

Source: torchao/optim/adam.py, _AdamBase._new_buffer; subclass_8bit.py and subclass_4bit.py, zeros.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType

#: Parameters with fewer elements keep states in their own dtype.
SMALLEST = 4096
#: The number of elements that share a scale, as transformers sets it for 8 and for 4 bits. Source:
#: transformers/trainer_optimizer.py, _get_torchao_optimizer.
BLOCK_SIZE = 256


def is_quantized(size: int) -> bool:
    """Return whether the states for that many elements are stored in blocks."""
    return size >= SMALLEST and size % BLOCK_SIZE == 0


def states(names: tuple[str, ...], shape: Shape, dtype: DType, *, bits: int) -> Iterator[tuple[str, Shape, DType]]:
    """Yield the states of one parameter: codes, a scale for each block, and a code book of their own."""
    size = elements(shape)
    if not is_quantized(size):
        yield from ((name, shape, dtype) for name in names)
        return
    for name in names:
        yield f"{name}.codes", shape if bits == 8 else (size // 2,), "uint8"
        yield f"{name}.scale", (size // BLOCK_SIZE,), "float32"
        yield f"{name}.qmap", (2**bits,), "float32"
