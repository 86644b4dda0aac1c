"""torchao's 8-bit weights as a base of LoRA: transformers' TorchAoConfig, with integers or floats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from calculator.bases.base import Base
from calculator.common.errors import Problem
from calculator.resident.torchao_8bit import torchao_float8, torchao_int8

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.inputs.training import Training
    from calculator.methods.low_rank.method import LowRank
    from calculator.resident.stored_weight import StoredWeight

ONLY = (
    "torchao's base is in 8 bits, with a scale for each output. transformers and PEFT do not train over its 4 bits."
    " What quantizing takes while the model is loaded is not counted."
)
SAVED = (
    "torchao multiplies with the weight cast to the input's dtype, which autograd saves until the backward pass:"
    " without gradient checkpointing, every layer's dense weight is in memory at the end of the forward pass."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchAO(Base):
    """Linear layers except the output head in 8 bits. Source: transformers/quantizers/quantizer_torchao.py."""

    label: ClassVar[str] = "torchao"

    @property
    def title(self) -> str:
        """The label, with the kind of numbers."""
        return f"torchao {'int8' if self.config.quant_type == 'Int8WeightOnlyConfig' else 'float8'}"

    @property
    def imports(self) -> str:
        """The import of torchao's config."""
        return f"from torchao.quantization import {self.config.quant_type}"

    @property
    def in_bits(self) -> str:
        """The number of bits of a weight, in words."""
        return "8 bits"

    @property
    def loading(self) -> str:
        """The config that quantizes the model while loading it."""
        return f"TorchAoConfig(quant_type={self.config.quant_type}())"

    def stored(self, hidden: DType, module: Module | None = None) -> StoredWeight:  # noqa: ARG002
        """Return the format: one byte per element, and one scale per output."""
        return torchao_int8(hidden) if self.config.quant_type == "Int8WeightOnlyConfig" else torchao_float8(hidden)

    def adapter_dtype(self, hidden: DType) -> DType:
        """Return the data type that torchao's tensors report: that of the dense weight."""
        return hidden

    def converts(self, path: str, module: Module, model: Model) -> bool:
        """Return whether transformers quantizes the module: a torch.nn.Linear, not a Conv1D."""
        return module.kind == "linear" and Base.converts(self, path, module, model)

    def assumptions(self) -> tuple[str, ...]:
        """Return the assumption about the format."""
        return (ONLY,)

    def warnings(self, model: Model, training: Training) -> Iterator[str]:  # noqa: ARG002
        """Yield a warning about dense weights that autograd saves."""
        if not training.gradient_checkpointing:
            yield SAVED

    def problems(self, method: LowRank, model: Model, training: Training) -> Iterator[Problem]:
        """Yield LoRA biases, which PEFT refuses (TorchaoLoraLinear), autocast, and groups, which are not modeled."""
        if method.lora_bias:
            message = "PEFT has no bias of B over torchao: use false"
            yield Problem(loc="method.lora_bias", msg=message, input=True)
        yield from self._subclasses(model)
        if training.autocast is not None:
            message = "a base in torchao's 8 bits is modeled without autocast: leave it out"
            yield Problem(loc="training.autocast", msg=message, input=training.autocast)
        if self.config.group_size is not None:
            message = "torchao's 8 bits are modeled with a scale for each output: leave it out"
            yield Problem(loc=f"{self.loc}.group_size", msg=message, input=self.config.group_size)
