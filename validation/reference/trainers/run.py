"""A trainer that is ready to train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers.quantizers import AutoHfQuantizer
from transformers.trainer_callback import PrinterCallback

if TYPE_CHECKING:
    from validation.reference.build import ReferenceModel


@dataclass(frozen=True, slots=True)
class Run:
    """A trainer, the model that it trains, and the one that it compares it with."""

    trainer: Any
    reference: ReferenceModel
    frozen: ReferenceModel | None = None

    def __post_init__(self) -> None:
        self.trainer.remove_callback(PrinterCallback)


def with_quantizer(model: Any) -> Any:
    """Give a 4-bit model the quantizer that `from_pretrained` leaves in it; the Trainer reads whether it can train."""
    if getattr(model, "is_quantized", False):
        model.hf_quantizer = AutoHfQuantizer.from_config(model.config.quantization_config, pre_quantized=False)
    return model
