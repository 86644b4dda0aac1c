"""AQLM (Egiazarian et al. 2024) as a base of LoRA: AqlmConfig of transformers, and the CUDA kernels of aqlm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from calculator.bases.base import Base
from calculator.common.errors import Problem
from calculator.resident.aqlm import GROUP, aqlm_weight

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.inputs.training import Training
    from calculator.methods.low_rank.method import LowRank
    from calculator.resident.stored_weight import StoredWeight

#: The numbers of code books, and the bits of a code, that have CUDA kernels.
#: Source: aqlm 1.1.7, inference_kernels/kernel_selector.py.
KERNELS = ((1, 16), (2, 8), (1, 8))

#: The largest number of tokens for which aqlm uses other kernels.
#: Source: aqlm 1.1.7, inference.py, QuantizedLinear.prepare_matmul_op.
FEW_TOKENS = 6

HEAD = (
    "The checkpoint's linear_weights_not_to_quantize lists lm_head, which published ones do not: transformers 5.24"
    " compares it with the paths of modules, and would replace the dense output head by an empty one in AQLM."
)
FROM_SOURCE = (
    "From source only: what the CUDA kernels of aqlm 1.1.7 allocate. Each pass dequantizes a layer's weight, multiplies"
    " with it and frees it; the backward pass also has a scaled copy of the gradient."
)
UNSCALED = (
    "The backward pass of aqlm 1.1.7 leaves the scales of codes of 8 bits out of the gradient"
    " (code2x8_matmat_dequant_transposed): layers before such a layer learn from a wrong one. Codes of 16 bits have it"
    " right."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AQLM(Base):
    """Linear layers except the output head, stored as codes. Source: transformers/quantizers/quantizer_aqlm.py."""

    label: ClassVar[str] = "AQLM"
    merges: ClassVar[bool] = False
    is_linear: ClassVar[bool] = False
    checkpoint_needs: ClassVar[str] = ", and add lm_head to linear_weights_not_to_quantize in its config.json"
    from_source: ClassVar[str] = FROM_SOURCE

    @property
    def in_bits(self) -> str:
        """The number of bits of a weight, in words."""
        bits = self.config.num_codebooks * self.config.nbits_per_codebook // GROUP
        return f"{bits} bit{'s' if bits > 1 else ''}"

    @property
    def title(self) -> str:
        """The label, with the number of code books and the bits of a code."""
        return f"AQLM {self.config.num_codebooks}x{self.config.nbits_per_codebook}"

    @property
    def loading(self) -> str:
        """The arguments of the config, which the checkpoint sets."""
        books, bits = self.config.num_codebooks, self.config.nbits_per_codebook
        return f"AqlmConfig(num_codebooks={books}, nbits_per_codebook={bits})"

    def stored(self, hidden: DType, module: Module | None = None) -> StoredWeight:  # noqa: ARG002
        """Return the format: codes, code books and scales."""
        return aqlm_weight(hidden, self.config.num_codebooks, self.config.nbits_per_codebook)

    def converts(self, path: str, module: Module, model: Model) -> bool:
        """Return whether a module is a torch.nn.Linear other than the head. Conv1D is not converted."""
        return module.kind == "linear" and Base.converts(self, path, module, model)

    def assumptions(self) -> tuple[str, ...]:
        """Return assumptions about the checkpoint and the kernels."""
        return (HEAD, FROM_SOURCE)

    def warnings(self, model: Model, training: Training) -> Iterator[str]:  # noqa: ARG002
        """Yield a warning if the backward pass computes a wrong gradient, which it does for codes of 8 bits."""
        if self.config.nbits_per_codebook == 8:
            yield UNSCALED

    def problems(self, method: LowRank, model: Model, training: Training) -> Iterator[Problem]:  # noqa: ARG002
        """Yield codes, data types, token counts, biases and sizes for which aqlm has no training kernel."""
        if (self.config.num_codebooks, self.config.nbits_per_codebook) not in KERNELS:
            kernels = ", ".join(f"{books} of {bits} bits" for books, bits in KERNELS)
            message = f"aqlm has CUDA kernels that train for these code books: {kernels}"
            yield Problem(loc=f"{self.loc}.num_codebooks", msg=message, input=self.config.num_codebooks)
        if training.dtype == "float32":
            message = "aqlm's CUDA kernels support only float16 and bfloat16: use one of them"
            yield Problem(loc="training.dtype", msg=message, input="float32")
        if training.autocast is not None:
            message = "a base in AQLM is modeled without autocast: leave it out"
            yield Problem(loc="training.autocast", msg=message, input=training.autocast)
        if training.micro_batch_size * training.sequence_length <= FEW_TOKENS:
            message = f"a base in AQLM is modeled for more than {FEW_TOKENS} tokens: use more"
            yield Problem(loc="training.sequence_length", msg=message, input=training.sequence_length)
        yield from self._subclasses(model)
        yield from self._module_problems(model)

    def _module_problems(self, model: Model) -> Iterator[Problem]:
        """Yield a problem for the first module whose backward pass fails."""
        for path, module in model.paths:
            if module.kind == "experts":
                message = f"transformers 5.24 has no {path} in AQLM, which checkpoints have: use gptq or qlora"
            elif not self.converts(path, module, model):
                continue
            elif module.bias is not None:
                message = (
                    f"{path} has a bias, which aqlm 1.1.7 adds to the gradient in the backward pass: use gptq or qlora"
                )
            elif module.in_features % GROUP:
                message = f"{path} has {module.in_features:,} inputs: AQLM takes multiples of {GROUP}"
            else:
                continue
            yield Problem(loc=f"{self.loc}.quant_method", msg=message, input="aqlm")
            return
