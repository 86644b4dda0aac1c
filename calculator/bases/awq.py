"""AWQ (Lin et al. 2023) as a base of LoRA: transformers' AwqConfig, with gptqmodel's GEMM kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from calculator.bases.base import GPTQModelBase
from calculator.common.errors import Problem
from calculator.resident.awq import IN_A_WORD, awq_weight

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.inputs.training import Training
    from calculator.methods.low_rank.method import LowRank
    from calculator.resident.stored_weight import StoredWeight

#: The group sizes of the kernel.
#: Source: gptqmodel 7.7.0, AwqGEMMLinear.SUPPORTS_GROUP_SIZE.
GROUP_SIZES = (-1, 16, 32, 64, 128)

#: The number of outputs that the fused kernel computes together.
TILE = 64

#: The families whose activations transformers scales.
#: Source: integrations/awq.py, AWQ_SCALES_MAPPINGS.
SCALED = frozenset({"starcoder2", "falcon", "gptj", "gpt_neox", "gpt_bigcode", "bloom"})

TRAINABLE = (
    'The base is loaded with AwqConfig(..., backend="auto_trainable"). The kernels that backend "auto" chooses on a'
    " GPU (Machete, Marlin, ExLlama V2) have no backward pass."
)
FROM_SOURCE = (
    "From source only: what gptqmodel's CUDA kernels of AWQ allocate. Up to 1,024 tokens are multiplied in eight parts"
    " that are summed in float32; more are multiplied with the dequantized weight."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AWQ(GPTQModelBase):
    """Linear layers except the output head in 4 bits. Source: transformers/quantizers/quantizer_awq.py."""

    label: ClassVar[str] = "AWQ"
    is_cast_by_preparation: ClassVar[bool] = True
    takes_bfloat16: ClassVar[bool] = False

    @property
    def loading(self) -> str:
        """The config with a backend that trains. The checkpoint sets the other arguments."""
        return 'AwqConfig(backend="auto_trainable")'

    def stored(self, hidden: DType, module: Module | None = None) -> StoredWeight:  # noqa: ARG002
        """Return the format: packed integers, and scales in the data type of the product.

        The product is in the data type of the hidden states, but in float16 if that is float32.
        """
        compute: DType = "float16" if hidden == "float32" else hidden
        return awq_weight(compute, None if self.group_size == -1 else self.group_size)

    def converts(self, path: str, module: Module, model: Model) -> bool:
        """Return whether transformers replaces the module: torch.nn.Linear, not Conv1D (replace_with_awq_linear)."""
        return module.kind == "linear" and GPTQModelBase.converts(self, path, module, model)

    def assumptions(self) -> tuple[str, ...]:
        """Return assumptions about the backend and the kernels."""
        return (TRAINABLE, FROM_SOURCE)

    def problems(self, method: LowRank, model: Model, training: Training) -> Iterator[Problem]:  # noqa: ARG002
        """Yield data types that transformers replaces, families with scaled activations, and sizes without a kernel."""
        if training.dtype == "bfloat16":
            message = "transformers loads AWQ in float16 where bfloat16 is set (AwqQuantizer.update_dtype): use float16"
            yield Problem(loc="training.dtype", msg=message, input="bfloat16")
        if training.autocast is not None:
            message = "a base in AWQ is modeled without autocast: leave it out"
            yield Problem(loc="training.autocast", msg=message, input=training.autocast)
        if model.model_type in SCALED:
            message = f"transformers scales activations of {model.model_type} in AWQ, which is not modeled: use gptq"
            yield Problem(loc=f"{self.loc}.quant_method", msg=message, input="awq")
        if self.config.bits != 4:
            message = "AWQ's trainable kernel is for 4 bits: use 4"
            yield Problem(loc=f"{self.loc}.bits", msg=message, input=self.config.bits)
        if self.group_size not in GROUP_SIZES:
            group_sizes = ", ".join(map(str, GROUP_SIZES))
            message = f"gptqmodel has no kernel of AWQ for groups of {self.group_size}: use one of {group_sizes}"
            yield Problem(loc=f"{self.loc}.group_size", msg=message, input=self.group_size)
        yield from self._sizes(model)

    def _sizes(self, model: Model) -> Iterator[Problem]:
        """Yield a problem for the first module whose sizes the kernel does not support."""
        group = 1 if self.group_size == -1 else self.group_size
        for path, module in model.paths:
            if self.converts(path, module, model) and (module.in_features % group or module.out_features % TILE):
                message = (
                    f"{path} has {module.in_features:,} inputs and {module.out_features:,} outputs: the kernel of AWQ"
                    f" takes multiples of {max(group, IN_A_WORD)} and {TILE}"
                )
                yield Problem(loc=f"{self.loc}.quant_method", msg=message, input="awq")
                return
