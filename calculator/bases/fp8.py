"""FP8 as a base of LoRA: transformers' FineGrainedFP8Config. Its layers can compute the gradient of their inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from calculator.bases.base import Base
from calculator.common.errors import Problem
from calculator.resident.fp8 import fp8_weight

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.inputs.training import Training
    from calculator.methods.low_rank.method import LowRank
    from calculator.resident.stored_weight import StoredWeight

NATIVE = (
    "The base stays in FP8 (FineGrainedFP8Config without dequantize), which needs a GPU of compute capability 8.9 or"
    " higher: on an older one transformers dequantizes it. What quantizing takes while the model is loaded is not"
    " counted."
)
FROM_SOURCE = (
    "From source only: what the Triton kernels of kernels-community/finegrained-fp8 allocate. On Hopper and Blackwell"
    " with nvcc, transformers prefers DeepGEMM for blocks of 128 × 128 and inputs in half precision, which also"
    " allocates copies of each layer's input: set TRANSFORMERS_DISABLE_DEEPGEMM_LINEAR=1 for these figures."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FP8(Base):
    """Linear layers except the output head in float8_e4m3fn.

    PEFT has no LoRA layer of its own for FP8Linear, which is a torch.nn.Linear.

    Source: transformers/quantizers/quantizer_finegrained_fp8.py.
    """

    label: ClassVar[str] = "FP8"
    is_cast_by_preparation: ClassVar[bool] = True
    merges: ClassVar[bool] = False
    #: Source: transformers/quantizers/quantizer_finegrained_fp8.py, validate_environment.
    compute_capability: ClassVar[tuple[int, int]] = (8, 9)
    from_source: ClassVar[str] = FROM_SOURCE

    @property
    def in_bits(self) -> str:
        """The number of bits of a weight, in words."""
        return "8 bits"

    @property
    def loading(self) -> str:
        """The config that keeps an FP8 checkpoint, or quantizes the model while loading it."""
        size, scheme = self.config.weight_block_size, self.config.activation_scheme
        arguments = [] if size == (128, 128) else [f"weight_block_size={size}"]
        arguments += [] if scheme == "dynamic" else [f'activation_scheme="{scheme}"']
        return f"FineGrainedFP8Config({', '.join(arguments)})"

    @property
    def block(self) -> tuple[int, int] | None:
        """The number of outputs and of inputs that share a scale. None if the whole weight shares one."""
        size = self.config.weight_block_size
        return None if size is None else (size[0], size[-1])

    def stored(self, hidden: DType, module: Module | None = None) -> StoredWeight:  # noqa: ARG002
        """Return the format: one byte per element, and scales."""
        return fp8_weight(hidden, self.block, static=self.config.activation_scheme == "static")

    def converts(self, path: str, module: Module, model: Model) -> bool:
        """Return whether transformers replaces the module: torch.nn.Linear, not Conv1D (replace_with_fp8_linear)."""
        return module.kind == "linear" and Base.converts(self, path, module, model)

    def assumptions(self) -> tuple[str, ...]:
        """Return assumptions about the GPU and the kernels."""
        return (NATIVE, FROM_SOURCE)

    def problems(self, method: LowRank, model: Model, training: Training) -> Iterator[Problem]:
        """Yield blocks that do not divide a weight, experts, biases without a gradient, and adapters in 8 bits."""
        size = self.config.weight_block_size
        if size is not None and (len(size) != 2 or min(size) < 1):
            message = "must be two positive numbers, the outputs and inputs of a block, or null"
            yield Problem(loc=f"{self.loc}.weight_block_size", msg=message, input=list(size))
            return
        if any(module.kind == "experts" for _, module in model.paths):
            message = "fused experts in FP8 are not modeled: leave quantization_config out, which dequantizes them"
            yield Problem(loc=f"{self.loc}.quant_method", msg=message, input="fp8")
        if training.adapter_dtype == "model":
            message = "PEFT gives adapters the dtype of the base, in which FP8 has no products: use float32"
            yield Problem(loc="training.adapter_dtype", msg=message, input="model")
        if method.bias != "none":
            message = "transformers computes no gradient of a bias in FP8 (FP8LinearFunction): use none"
            yield Problem(loc="method.bias", msg=message, input=method.bias)
        yield from self._block_problems(model)

    def _block_problems(self, model: Model) -> Iterator[Problem]:
        """Yield a problem for the first module that blocks do not divide. transformers would leave it dense."""
        outputs, inputs = self.block or (1, 1)
        for path, module in model.paths:
            if self.converts(path, module, model) and (module.out_features % outputs or module.in_features % inputs):
                message = (
                    f"{path} has {module.out_features:,} outputs and {module.in_features:,} inputs: FP8 is modeled"
                    f" where blocks of {outputs} and {inputs} divide them; null means one scale for each weight"
                )
                yield Problem(loc=f"{self.loc}.weight_block_size", msg=message, input=[outputs, inputs])
                return
