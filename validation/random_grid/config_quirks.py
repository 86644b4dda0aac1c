"""Keys that random configs of single families need beyond their fields, because keys depend on each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from validation.random_grid import hybrid_quirks, text_quirks, vision_quirks

if TYPE_CHECKING:
    from collections.abc import Callable

    from validation.random_grid.random_configs import Draw

#: Changes that a family's configs need beyond its fields.
QUIRKS: dict[str, Callable[[dict[str, Any], Draw], dict[str, Any]]] = {
    "cwm": text_quirks.with_window,
    "exaone4": text_quirks.listed_layers,
    "bamba": hybrid_quirks.bamba,
    "falcon_h1": hybrid_quirks.falcon_h1,
    "granitemoehybrid": hybrid_quirks.granite_hybrid,
    "idefics3": vision_quirks.with_tiled_siglip,
    "internvl": vision_quirks.with_scaled_tower,
    "internlm3": text_quirks.same_biases,
    "iquestcoder": text_quirks.without_window,
    "jamba": hybrid_quirks.jamba,
    "lfm2": hybrid_quirks.with_convolutions,
    "lfm2_moe": hybrid_quirks.with_listed_convolutions,
    "llama4": lambda config, draw: {"text_config": text_quirks.with_chunks(config, draw)},
    "llama4_text": text_quirks.with_chunks,
    "mamba2": hybrid_quirks.mamba2,
    "ministral3": text_quirks.scaled_queries,
    "llava": vision_quirks.with_clip,
    "llava_next": vision_quirks.with_tiles,
    "mistral3": vision_quirks.with_pixtral,
    "mixtral": text_quirks.with_head_dim,
    "qwen2_5_vl": vision_quirks.with_qwen_vision,
    "qwen2_vl": vision_quirks.with_qwen2_vision,
    "qwen3_vl": vision_quirks.with_qwen_vision,
    "qwen3_vl_moe": vision_quirks.with_qwen_vision,
    "paligemma": vision_quirks.with_prefix,
    "phi": text_quirks.even_norms,
    "olmoe": text_quirks.equal_heads,
    "phi3": text_quirks.long_rope_only,
    "phimoe": text_quirks.long_rope_only,
    "gemma3": vision_quirks.with_vision,
    "gemma3_text": text_quirks.per_type_rope,
    "gemma4": vision_quirks.with_towers,
    "gemma4_text": text_quirks.with_shared_keys,
    "gemma4_unified": vision_quirks.with_embedders,
    "gemma4_unified_text": text_quirks.with_shared_keys,
    "olmo3": text_quirks.per_type_rope,
    "nemotron_h": hybrid_quirks.nemotron_h,
    "modernbert": text_quirks.per_type_rope,
    "qwen3_5": vision_quirks.with_linear_attention_and_vision,
    "qwen3_5_moe": vision_quirks.with_linear_attention_and_vision,
    "qwen3_5_moe_text": hybrid_quirks.with_linear_attention,
    "qwen3_5_text": hybrid_quirks.with_linear_attention,
    "qwen3_next": hybrid_quirks.with_linear_attention,
    "smolvlm": vision_quirks.with_tiled_siglip,
    "vit": text_quirks.whole_patches,
    "whisper": text_quirks.set_audio_length,
}
