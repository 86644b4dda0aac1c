"""The dtype and the shape of the result of an operation on two tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType

_RANK: dict[DType, int] = {
    "bool": 0,
    "uint8": 1,
    "int8": 1,
    "int32": 2,
    "int64": 3,
    "bfloat16": 4,
    "float16": 4,
    "float32": 5,
}


def result_type(a: DType, b: DType) -> DType:
    """Return the dtype of an operation on two tensors (torch.result_type): float16 and bfloat16 give float32."""
    if a == b:
        return a
    if _RANK[a] == _RANK[b] == _RANK["float16"]:
        return "float32"
    return a if _RANK[a] > _RANK[b] else b


def broadcast_shapes(a: Shape, b: Shape) -> Shape:
    """Return the shape that two shapes broadcast to (torch.broadcast_shapes)."""
    if len(a) == len(b) and a == b:  # no dimension is compared if their numbers differ
        return a
    longer, shorter = (a, b) if len(a) >= len(b) else (b, a)
    padded = (1,) * (len(longer) - len(shorter)) + shorter
    return tuple([x if x is y or y == 1 or x != 1 else y for x, y in zip(longer, padded, strict=True)])
