"""The models for which older releases of transformers are verified, and the releases of which steps were traced."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calculator.stack.releases import Release

#: The first verified release of transformers, by model type.
FIRST: dict[str, Release] = {
    "apertus": (5, 4),
    "cohere": (5, 0),
    "cohere2": (5, 0),
    "cwm": (5, 4),
    "ernie4_5": (5, 0),
    "ernie4_5_moe": (5, 8),
    "exaone4": (5, 0),
    "falcon": (5, 6),
    "gemma": (4, 45),
    "gemma2": (4, 45),
    "gemma3_text": (4, 52),
    "glm": (4, 53),
    "glm4": (5, 0),
    "gpt2": (4, 48),
    "gpt_bigcode": (4, 45),
    "gpt_neo": (5, 4),
    "gpt_neox": (4, 52),
    "gpt_oss": (5, 8),
    "granite": (4, 48),
    "hunyuan_v1_dense": (5, 0),
    "jais2": (5, 4),
    "llama": (4, 45),
    "ministral": (5, 4),
    "ministral3": (5, 4),
    "mistral": (4, 39),
    "mixtral": (5, 8),
    "mpt": (5, 4),
    "olmo": (5, 0),
    "olmo2": (4, 52),
    "olmoe": (5, 8),
    "opt": (5, 4),
    "phi": (4, 48),
    "phi3": (4, 48),
    "phimoe": (5, 8),
    "qwen2": (4, 45),
    "qwen2_moe": (5, 8),
    "qwen3": (4, 51),
    "qwen3_moe": (5, 8),
    "seed_oss": (5, 0),
    "smollm3": (4, 53),
    "stablelm": (5, 4),
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
