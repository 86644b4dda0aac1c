"""The frequencies that Unsloth's rotary embedding keeps.

Source: unsloth/models/llama.py, LlamaRotaryEmbedding and LongRopeRotaryEmbedding; models/gemma.py,
GemmaFixedRotaryEmbedding.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.architecture.per_model import per_model

if TYPE_CHECKING:
    from calculator.architecture.model import Model


@per_model
def with_frequencies(model: Model) -> Model:
    """Return the model with the frequencies that Unsloth keeps: those of a length, and none for Gemma."""
    kept = [buffer for buffer in model.buffers if not buffer.name.endswith("inv_freq")]
    frequency_buffers = [buffer for buffer in model.buffers if buffer.name == "model.rotary_emb.inv_freq"]
    if not frequency_buffers:
        return model
    if model.model_type.startswith("gemma"):
        return replace(model, buffers=tuple(kept))
    names = ("short_inv_freq", "long_inv_freq") if model.config.get("rope_type") == "longrope" else ("inv_freq",)
    frequencies = [replace(buffer, name=f"model.rotary_emb.{name}") for buffer in frequency_buffers for name in names]
    return replace(model, buffers=(*kept, *frequencies))
