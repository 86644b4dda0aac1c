"""GPTQ (Frantar et al. 2022) as a base of LoRA: transformers' GPTQConfig, with the kernels of gptqmodel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from calculator.bases.base import GPTQModelBase
from calculator.common.errors import Problem
from calculator.resident.gptq import WORD, gptq_weight

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.inputs.training import Training
    from calculator.methods.low_rank.method import LowRank
    from calculator.resident.stored_weight import StoredWeight

#: The bits for which gptqmodel's compiled function dequantizes a weight into one tensor without temporaries.
BITS = (2, 4, 8)

#: The group sizes of the kernels.
#: Source: gptqmodel 7.7.0, TorchLinear.SUPPORTS_GROUP_SIZE.
GROUP_SIZES = (-1, 16, 32, 64, 128, 256, 512, 1024)

TRAINABLE = (
    'The base is loaded with GPTQConfig(..., backend="auto_trainable"). The kernels that backend "auto" chooses on a'
    " GPU (Machete, Marlin, ExLlama V2) have no backward pass."
)
COMPILED = (
    "From source only: gptqmodel compiles the dequantization of a GPTQ weight (torch.compile), whose kernel is counted"
    " as one that writes the dense float16 weight and allocates nothing else, as Inductor's code for CPUs does."
)
SAVED = (
    "In training, gptqmodel multiplies with the dequantized weight, which autograd saves until the backward pass:"
    " without gradient checkpointing, every layer's dense weight is in memory at the end of the forward pass."
)
CAST = (
    "gptqmodel dequantizes GPTQ weights into float16 and casts them to the dtype of the hidden states: use float16 to"
    " spare a copy."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GPTQ(GPTQModelBase):
    """Linear layers of the decoder layers, in integers of 2, 4 or 8 bits. Source: optimum 2.3, gptq/quantizer.py."""

    label: ClassVar[str] = "GPTQ"

    @property
    def loading(self) -> str:
        """The config with a backend that trains. The checkpoint sets the other arguments."""
        return f'GPTQConfig(bits={self.config.bits}, backend="auto_trainable")'

    def stored(self, hidden: DType, module: Module | None = None) -> StoredWeight:  # noqa: ARG002
        """Return the format: packed integers, and scales in float16 for hidden states of any data type."""
        size = None if self.group_size == -1 else self.group_size
        return gptq_weight(self.config.bits, size, transposed=module is not None and module.kind == "conv1d")

    def adapter_dtype(self, hidden: DType) -> DType:  # noqa: ARG002
        """Return the data type of the scales, which gptqmodel reports as that of the weight."""
        return "float16"

    def converts(self, path: str, module: Module, model: Model) -> bool:  # noqa: ARG002
        """Return whether a module is a linear layer inside a decoder layer (GPTQQuantizer.convert_model)."""
        return (module.quantizable or module.is_last) and "*" in path

    def assumptions(self) -> tuple[str, ...]:
        """Return assumptions about the backend and the compiled dequantization."""
        return (TRAINABLE, COMPILED)

    def warnings(self, model: Model, training: Training) -> Iterator[str]:  # noqa: ARG002
        """Yield warnings about dense weights that autograd saves, and about their second copy."""
        if not training.gradient_checkpointing:
            yield SAVED
        if training.dtype != "float16" and training.autocast is None:
            yield CAST

    def problems(self, method: LowRank, model: Model, training: Training) -> Iterator[Problem]:  # noqa: ARG002
        """Yield bits and group sizes without a modeled kernel, and sizes that do not fill the packed integers."""
        if self.config.bits not in BITS:
            message = "a GPTQ base is modeled in 2, 4 and 8 bits: use one of them"
            yield Problem(loc=f"{self.loc}.bits", msg=message, input=self.config.bits)
        if self.group_size not in GROUP_SIZES:
            group_sizes = ", ".join(map(str, GROUP_SIZES))
            message = f"gptqmodel has no kernel for groups of {self.group_size}: use one of {group_sizes}"
            yield Problem(loc=f"{self.loc}.group_size", msg=message, input=self.group_size)
        for path, module in model.paths:
            if self.converts(path, module, model) and (module.in_features % WORD or module.out_features % WORD):
                message = (
                    f"{path} has {module.in_features:,} inputs and {module.out_features:,} outputs: a GPTQ base is"
                    f" modeled where {WORD} divides both"
                )
                yield Problem(loc=f"{self.loc}.quant_method", msg=message, input="gptq")
                return
