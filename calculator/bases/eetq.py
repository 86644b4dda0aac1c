"""EETQ as a base of LoRA: transformers' EetqConfig, which quantizes linear layers to 8 bits while loading them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from calculator.bases.base import Base
from calculator.common.errors import Problem
from calculator.resident.eetq import eetq_weight

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.inputs.training import Training
    from calculator.methods.low_rank.method import LowRank
    from calculator.resident.stored_weight import StoredWeight

#: The sizes of a weight must be multiples of this.
#: Source: kernels-community/quantization-eetq, cutlass_kernels/cutlass_preprocessors.cc, interleave_column_major_tensor
#: and subbyte_transpose_impl.
TILE = 64

INSTALLED = (
    "PEFT takes EETQ's layers where the package eetq is installed, too, though transformers runs the kernels of"
    " kernels-community/quantization-eetq. Weights are quantized on the CPU as they are loaded."
)
FROM_SOURCE = "From source only: EETQ's CUDA kernel allocates its output and nothing else (w8_a16_gemm_forward_cuda)."
IDENTITY = (
    "EETQ dequantizes a weight in the backward pass by multiplying it with an identity matrix of as many rows as the"
    " layer has inputs, which is first in float32, then in float16."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EETQ(Base):
    """Linear layers except the output head in 8 bits. Source: transformers/quantizers/quantizer_eetq.py."""

    label: ClassVar[str] = "EETQ"
    merges: ClassVar[bool] = False
    is_linear: ClassVar[bool] = False
    #: Source: kernels-community/quantization-eetq, cutlass_kernels/cutlass_preprocessors.cc,
    #: getLayoutDetailsForTransform.
    compute_capability: ClassVar[tuple[int, int]] = (7, 0)
    unsupported_from: ClassVar[tuple[int, int] | None] = (9, 0)
    from_source: ClassVar[str] = FROM_SOURCE

    @property
    def in_bits(self) -> str:
        """The number of bits of a weight, in words."""
        return "8 bits"

    @property
    def loading(self) -> str:
        """The config that quantizes the model while loading it."""
        return "EetqConfig()"

    def stored(self, hidden: DType, module: Module | None = None) -> StoredWeight:  # noqa: ARG002
        """Return the format: one byte per element, and one scale per output."""
        return eetq_weight()

    def converts(self, path: str, module: Module, model: Model) -> bool:
        """Return whether transformers replaces the module: torch.nn.Linear, not Conv1D (replace_with_eetq_linear)."""
        return module.kind == "linear" and Base.converts(self, path, module, model)

    def assumptions(self) -> tuple[str, ...]:
        """Return assumptions about the packages, the kernel and the backward pass."""
        return (INSTALLED, FROM_SOURCE, IDENTITY)

    def problems(self, method: LowRank, model: Model, training: Training) -> Iterator[Problem]:
        """Yield data types that the kernel can't read, biases without a gradient, and sizes that tiles don't divide."""
        if training.dtype != "float16":
            message = "EETQ's kernel reads its inputs as float16, whatever their dtype: use float16"
            yield Problem(loc="training.dtype", msg=message, input=training.dtype)
        if training.autocast is not None:
            message = "EETQ's kernel takes no other dtype than float16: leave autocast out"
            yield Problem(loc="training.autocast", msg=message, input=training.autocast)
        if method.bias != "none":
            message = "transformers computes no gradient of a bias in EETQ (EetqLinearMMFunction): use none"
            yield Problem(loc="method.bias", msg=message, input=method.bias)
        yield from self._subclasses(model)
        for path, module in model.paths:
            if self.converts(path, module, model) and (module.in_features % TILE or module.out_features % TILE):
                message = (
                    f"{path} has {module.in_features:,} inputs and {module.out_features:,} outputs: EETQ takes"
                    f" multiples of {TILE}"
                )
                yield Problem(loc=f"{self.loc}.quant_method", msg=message, input="eetq")
                return
