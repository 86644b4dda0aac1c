"""GPTQ's storage: weights packed into 32-bit integers, with a scale and a zero point for each group of inputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import ceil
from typing import TYPE_CHECKING, ClassVar

from calculator.architecture.dimension import Dim, dim_name
from calculator.resident.stored_weight import Casts, Constant, StoredWeight

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType

#: The number of bits of an integer that holds packed weights.
WORD = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class GPTQWeight(StoredWeight):
    """The buffers of gptqmodel's TorchLinear and TritonV2Linear.

    Source: gptqmodel 7.7.0, nn_modules/qlinear/__init__.py (_register_gptq_buffers, _init_wf_unsqueeze_buffers).
    """

    tensor_name: ClassVar[str] = "qweight"
    names_constants_after_it: ClassVar[bool] = False
    is_in_checkpoint: ClassVar[bool] = True
    casts: ClassVar[Casts] = "sum"

    bits: int
    #: The number of inputs that share a scale. None for all.
    group_size: int | None
    #: Whether the dense weight is (in_features, out_features), like Conv1D's.
    transposed: bool = False

    def _features(self, shape: Shape) -> tuple[int, int]:
        """Return the inputs and outputs of a weight with this shape."""
        first, second = shape
        return (first, second) if self.transposed else (second, first)

    def packed(self, shape: Shape) -> tuple[Shape, DType]:
        """Return the weight: (in_features · bits / 32, out_features)."""
        inputs, outputs = self._features(shape)
        rows = Dim(ceil(inputs * self.bits / WORD), lambda: f"{dim_name(inputs)} · {self.bits} / {WORD}")
        return (rows, outputs), "int32"

    def constants(self, shape: Shape) -> tuple[Constant, ...]:
        """Return the zero points, scales, each input's group, and a range of shifts."""
        inputs, outputs = self._features(shape)
        size = self.group_size
        groups = 1 if size is None else Dim(ceil(inputs / size), lambda: f"{dim_name(inputs)} / {size}")
        words = Dim(ceil(outputs * self.bits / WORD), lambda: f"{dim_name(outputs)} · {self.bits} / {WORD}")
        return (
            ("qzeros", (groups, words), "int32"),
            ("scales", (groups, outputs), "float16"),
            ("g_idx", (inputs,), "int32"),
            ("wf_unsqueeze_zero", (1, 1, WORD // self.bits), "int32"),  # wf_unsqueeze_neg_one is a view of it
        )

    @property
    def bias_dtype(self) -> DType:
        """The dtype of the buffer, whatever the model's dtype is."""
        return "float16"


@cache
def gptq_weight(bits: int, group_size: int | None, *, transposed: bool = False) -> GPTQWeight:
    """Return a cached format, which all modules of a model share."""
    return GPTQWeight(bits=bits, group_size=group_size, transposed=transposed)
