"""HQQ (Badri and Shaji 2023) as a base of LoRA: the package hqq quantizes a model after transformers has loaded it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from calculator.bases.base import Base
from calculator.common.errors import Problem
from calculator.resident.hqq import PACKED_ROWS, hqq_weight

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.inputs.training import Training
    from calculator.methods.low_rank.method import LowRank
    from calculator.resident.stored_weight import StoredWeight

LOADED = (
    "The package hqq quantizes the model once it is loaded (AutoHQQHFModel.quantize_model), with axis 1 and its backend"
    " of PyTorch's operations: transformers 5.24 does not load HqqConfig. What quantizing takes is not counted."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HQQ(Base):
    """Linear layers except the output head in 2, 3, 4 or 8 bits. Source: hqq 0.2.8, models/base.py."""

    label: ClassVar[str] = "HQQ"
    is_linear: ClassVar[bool] = False
    keeps_biases_as_buffers: ClassVar[bool] = True

    @property
    def imports(self) -> str:
        """The import of the package's config and of its model class."""
        return "from hqq.core.quantize import BaseQuantizeConfig\nfrom hqq.models.hf.base import AutoHQQHFModel"

    @property
    def loading(self) -> str:
        """An empty string, as transformers does not quantize the model."""
        return ""

    @property
    def quantizing(self) -> str:
        """The call that quantizes the loaded model."""
        config = f"BaseQuantizeConfig(nbits={self.config.bits}, group_size={self.group_size}, axis=1)"
        return f"AutoHQQHFModel.quantize_model(model, quant_config={config}, compute_dtype=DTYPE, device=str(DEVICE))"

    @property
    def group_size(self) -> int | None:
        """The number of inputs that share a scale, or None for all. The default is 64 (HqqConfig)."""
        size = 64 if self.config.group_size is None else self.config.group_size
        return None if size == -1 else size

    def stored(self, hidden: DType, module: Module | None = None) -> StoredWeight:  # noqa: ARG002
        """Return the format: packed integers, and scales in the data type of the product."""
        return hqq_weight(hidden, self.config.bits, self.group_size)

    def converts(self, path: str, module: Module, model: Model) -> bool:
        """Return whether a module is a torch.nn.Linear other than the head. Conv1D is not converted."""
        return module.kind == "linear" and Base.converts(self, path, module, model)

    def assumptions(self) -> tuple[str, ...]:
        """Return assumptions about the package and its backend."""
        return (LOADED,)

    def problems(self, method: LowRank, model: Model, training: Training) -> Iterator[Problem]:
        """Yield bits and groups that hqq can't pack, models whose layers it can't find, LoRA biases, and autocast."""
        if self.config.bits not in PACKED_ROWS:
            message = f"hqq packs {', '.join(map(str, sorted(PACKED_ROWS)))} bits: use one of them"
            yield Problem(loc=f"{self.loc}.bits", msg=message, input=self.config.bits)
            return
        if self.group_size is not None and (self.group_size < 8 or self.group_size % 8):
            message = "hqq takes groups of multiples of 8, or -1 for all inputs"
            yield Problem(loc=f"{self.loc}.group_size", msg=message, input=self.group_size)
            return
        if not any(path.startswith("model.layers.") for path, _ in model.paths):
            message = (
                f"hqq quantizes models whose blocks are model.layers, and {model.model_type} has none there: use gptq"
            )
            yield Problem(loc=f"{self.loc}.quant_method", msg=message, input="hqq")
        for path, module in model.paths:
            if any(parameter.dtype != "model" for parameter in module.parameters):
                message = f"hqq casts {path} to the model's dtype, where transformers has its own: use gptq"
                yield Problem(loc=f"{self.loc}.quant_method", msg=message, input="hqq")
                break
        if method.lora_bias:
            message = "PEFT has no bias of B over HQQ: use false"
            yield Problem(loc="method.lora_bias", msg=message, input=True)
        if training.autocast is not None:
            message = "a base in HQQ is modeled without autocast: leave it out"
            yield Problem(loc="training.autocast", msg=message, input=training.autocast)
        yield from self._group_problems(model)

    def _group_problems(self, model: Model) -> Iterator[Problem]:
        """Yield a problem for the first module whose groups can't be packed."""
        together = 1 if self.config.bits == 3 else PACKED_ROWS[self.config.bits]
        for path, module in model.paths:
            if not self.converts(path, module, model):
                continue
            size = self.group_size or module.in_features
            if module.weight.elements % (size * together):
                message = (
                    f"{path} has {module.weight.elements:,} weights: hqq packs multiples of {size * together:,} in"
                    f" {self.config.bits} bits"
                )
                yield Problem(loc=f"{self.loc}.group_size", msg=message, input=self.config.group_size)
                return
