"""The models for which older releases of transformers are verified, and the releases of which steps were traced."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calculator.stack.releases import Release

#: The first verified release of transformers, by model type.
FIRST: dict[str, Release] = {
    "gemma": (4, 45),
    "gemma2": (4, 45),
    "gemma3_text": (4, 52),
    "glm": (4, 53),
    "gpt2": (4, 48),
    "gpt_bigcode": (4, 45),
    "gpt_neox": (4, 52),
    "granite": (4, 48),
    "llama": (4, 45),
    "mistral": (4, 39),
    "olmo2": (4, 52),
    "phi": (4, 48),
    "phi3": (4, 48),
    "qwen2": (4, 45),
    "qwen3": (4, 51),
    "smollm3": (4, 53),
    "starcoder2": (4, 48),
}

#: The older releases of transformers of which steps were traced (tests/calculator/stack/traced.json), by model type.
TRACED: dict[str, tuple[Release, ...]] = {
    "gemma": ((4, 45), (4, 47), (4, 48), (4, 53), (4, 57)),
    "gemma2": ((4, 45), (4, 48), (4, 52), (4, 53), (4, 57)),
    "gemma3_text": ((4, 52), (4, 53), (4, 57)),
    "glm": ((4, 53), (4, 57)),
    "gpt2": ((4, 48), (4, 52), (4, 57)),
    "gpt_bigcode": ((4, 45), (4, 47), (4, 48), (4, 52), (4, 53), (4, 57)),
    "gpt_neox": ((4, 52), (4, 53), (4, 57)),
    "granite": ((4, 48), (4, 52), (4, 53), (4, 57)),
    "llama": ((4, 45), (4, 48), (4, 52), (4, 53), (4, 55), (4, 56), (4, 57)),
    "mistral": ((4, 45), (4, 46), (4, 47), (4, 48), (4, 57)),
    "olmo2": ((4, 52), (4, 53), (4, 57)),
    "phi": ((4, 48), (4, 53), (4, 57)),
    "phi3": ((4, 48), (4, 52), (4, 53), (4, 57)),
    "qwen2": ((4, 45), (4, 48), (4, 57)),
    "qwen3": ((4, 52), (4, 53), (4, 57)),
    "smollm3": ((4, 53), (4, 57)),
    "starcoder2": ((4, 48), (4, 52), (4, 53), (4, 57)),
}
