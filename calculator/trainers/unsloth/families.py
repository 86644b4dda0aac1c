"""The families that Unsloth's FastLanguageModel patches, and what differs between them.

Source: unsloth/models/loader.py, dispatch_model; models/gemma.py, FastGemmaModel; models/gemma2.py, FastGemma2Model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.trainers.unsloth.releases import is_rewritten

if TYPE_CHECKING:
    from calculator.inputs.stack import StackVersions


@dataclass(frozen=True, slots=True, kw_only=True)
class UnslothFamily:
    """The differences from Llama in a family that Unsloth patches.

    `head_norms`: whether each head of queries and keys has a norm. `copied_gradients`: whether a norm's gradient is a
    new tensor, because the weight's offset of one makes it a kernel of its own. `float32_tables`: whether the tables of
    the rotary embedding are in float32 whatever the model's dtype. `needs_flash_attn`: whether attention without
    flash-attn is one function of torch.compile. `has_positions`: whether rows without padding have positions of their
    own.
    """

    head_norms: bool = False
    copied_gradients: bool = False
    float32_tables: bool = False
    needs_flash_attn: bool = False
    has_positions: bool = True


_LLAMA = UnslothFamily()
_GEMMA = UnslothFamily(copied_gradients=True, float32_tables=True)

#: The families by model type. Source of Gemma 2's positions: unsloth/trainer.py, PADDING_FREE_BLOCKLIST.
UNSLOTH_FAMILIES = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": UnslothFamily(head_norms=True),
    "gemma": _GEMMA,
    "gemma2": UnslothFamily(copied_gradients=True, float32_tables=True, needs_flash_attn=True, has_positions=False),
}


def has_rows(stack: StackVersions, model_type: str) -> bool:
    """Return whether the sequences of a micro-batch are one row without padding, as from 2026.10 on."""
    family = UNSLOTH_FAMILIES.get(model_type)
    return is_rewritten(stack) and family is not None and family.has_positions
