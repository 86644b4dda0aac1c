"""Keys that random configs of models with images need beyond the fields of their text model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from validation.random_grid import hybrid_quirks, text_quirks

if TYPE_CHECKING:
    from validation.random_grid.random_configs import Draw


def _siglip(draw: Draw) -> dict[str, Any]:
    """Draw the sizes of a small SigLIP."""
    rng = draw.rng
    return {
        "hidden_size": 2 * rng.randint(1, 9),
        "intermediate_size": rng.randint(1, 9),
        "num_hidden_layers": rng.randint(1, 2),
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 7,
    }


def _qwen_tower(draw: Draw) -> dict[str, Any]:
    """Draw the sizes that the towers of Qwen's models have in common."""
    rng = draw.rng
    return {
        "depth": rng.randint(1, 2),
        "hidden_size": 8 * rng.randint(1, 4),
        "intermediate_size": rng.randint(1, 9),
        "num_heads": 2,
        "patch_size": rng.randint(2, 5),
        "out_hidden_size": draw.hidden,
    }


def with_vision(text: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Add SigLIP to a text model of Gemma 3."""
    rng = draw.rng
    vision = {**_siglip(draw), "vision_use_head": rng.random() < 0.5}
    outer = {"mm_tokens_per_image": 4, "tie_word_embeddings": rng.random() < 0.5}
    return {"text_config": text_quirks.per_type_rope(text, draw), "vision_config": vision, **outer}


def with_qwen_vision(text: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Add the tower of Qwen2-VL, Qwen2.5-VL or Qwen3-VL to their text model."""
    rng = draw.rng
    pairs = (text.get("head_dim") or draw.hidden // draw.heads) // 2
    side = rng.randint(1, (pairs - 1) // 2)
    rotary = {
        "rope_parameters": {
            "type": "default" if "head_dim" in draw.fields else rng.choice(["mrope", "default"]),
            "mrope_section": [pairs - 2 * side, side, side],
        }
    }
    left_out = ("rope_parameters", "rope_scaling", "partial_rotary_factor")
    kept = {key: value for key, value in text.items() if key not in left_out}
    vision = {**_qwen_tower(draw), "deepstack_visual_indexes": [0]}
    return {"text_config": kept | rotary, "vision_config": vision, "tie_word_embeddings": rng.random() < 0.5}


def with_qwen2_vision(text: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Add the tower of Qwen2-VL, whose `hidden_size` is the width of the text model."""
    config = with_qwen_vision(text, draw)
    vision = config["vision_config"]
    sizes = {"embed_dim": vision["hidden_size"], "hidden_size": draw.hidden, "mlp_ratio": draw.rng.randint(1, 4)}
    kept = {key: vision[key] for key in ("depth", "num_heads", "patch_size")}
    return {**config, "vision_config": kept | sizes}


def with_pixtral(text: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Add Pixtral's tower to a text model of Mistral or Ministral 3."""
    rng = draw.rng
    vision = {
        "hidden_size": 8 * rng.randint(1, 4),
        "intermediate_size": rng.randint(1, 9),
        "num_hidden_layers": rng.randint(1, 2),
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": rng.randint(2, 7),
    }
    kind = rng.choice(["mistral", "ministral3"])
    outer = {"spatial_merge_size": rng.randint(1, 3), "multimodal_projector_bias": rng.random() < 0.5}
    text_config = {"model_type": kind, **(text_quirks.scaled_queries(text, draw) if kind == "ministral3" else text)}
    return {"text_config": text_config, "vision_config": vision, **outer, "tie_word_embeddings": rng.random() < 0.5}


def with_clip(text: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Add CLIP to a text model of Llama or Mistral."""
    rng = draw.rng
    layers = rng.randint(1, 4)
    vision = {
        "hidden_size": 2 * rng.randint(1, 9),
        "intermediate_size": rng.randint(1, 9),
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 7,
    }
    layer = rng.choice([-1, -2, 1, layers]) if layers > 1 else -1
    outer = {
        "vision_feature_layer": layer,
        "vision_feature_select_strategy": rng.choice(["default", "full"]),
        "projector_hidden_act": rng.choice(["gelu", "quick_gelu"]),
        "multimodal_projector_bias": rng.random() < 0.5,
        "tie_word_embeddings": rng.random() < 0.5,
    }
    kind = rng.choice(["llama", "mistral"])
    return {"text_config": {"model_type": kind, **text}, "vision_config": vision, **outer}


def with_tiles(text: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Add CLIP, and the resolutions of images in tiles."""
    config = with_clip(text, draw)
    side = config["vision_config"]["image_size"]
    return {**config, "image_grid_pinpoints": [[side, 2 * side], [side, side]]}


def with_linear_attention_and_vision(text: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Add the tower of Qwen 3.5 to its text model."""
    rng = draw.rng
    vision = _qwen_tower(draw)
    outer = {"vision_config": vision, "tie_word_embeddings": rng.random() < 0.5}
    return {"text_config": hybrid_quirks.with_linear_attention(text, draw), **outer}


def with_tiled_siglip(text: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Add the encoder of Idefics 3."""
    rng = draw.rng
    vision = _siglip(draw)
    outer = {"scale_factor": rng.choice([1, 2]), "use_cache": rng.random() < 0.5}
    return {"text_config": text, "vision_config": vision, **outer, "tie_word_embeddings": rng.random() < 0.5}


def with_towers(text: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Add a vision tower to a text model of Gemma 4, and an audio tower to some."""
    rng = draw.rng
    groups = rng.randint(1, 2)
    vision = {
        "hidden_size": rng.randint(3, 40),
        "intermediate_size": rng.randint(1, 9),
        "num_hidden_layers": rng.randint(1, 2),
        "num_attention_heads": 2 * groups,
        "num_key_value_heads": groups,
        "head_dim": rng.choice([8, 16]),
        "patch_size": rng.choice([4, 16]),
        "position_embedding_size": 512,
        "use_clipped_linears": rng.random() < 0.5,
        "standardize": rng.random() < 0.5,
    }
    audio = {
        "hidden_size": 2 * rng.randint(2, 9),
        "num_hidden_layers": rng.randint(1, 2),
        "num_attention_heads": 2,
        "subsampling_conv_channels": [8, 4],
        "output_proj_dims": rng.randint(4, 20),
    }
    attention_setting = {"use_bidirectional_attention": rng.choice([None, "vision"])}
    outer = {"audio_config": rng.choice([None, audio]), "tie_word_embeddings": rng.random() < 0.5}
    return {
        "text_config": {**text_quirks.with_shared_keys(text, draw), **attention_setting},
        "vision_config": vision,
        **outer,
    }


def with_embedders(text: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Add what embeds images to a text model of Gemma 4 12B, and what embeds sound to some."""
    rng, width = draw.rng, draw.rng.randint(3, 40)
    vision = {
        "patch_size": rng.choice([2, 4]),
        "pooling_kernel_size": rng.randint(1, 3),
        "mm_embed_dim": width,
        "output_proj_dims": width,
    }
    outer = {
        "vision_config": vision,
        "audio_config": rng.choice([None, {"audio_embed_dim": rng.randint(4, 20)}]),
        "tie_word_embeddings": rng.random() < 0.5,
    }
    attention_setting = {"use_bidirectional_attention": rng.choice([None, "vision"])}
    return {"text_config": {**text_quirks.with_shared_keys(text, draw), **attention_setting}, **outer}


def with_scaled_tower(text: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Add InternVL's tower to a text model of Qwen 2, 3 or 3 with experts."""
    rng = draw.rng
    vision = {
        **_siglip(draw),
        "attention_bias": rng.random() < 0.5,
        "use_qk_norm": rng.random() < 0.3,
        "norm_type": rng.choice(["layer_norm", "layer_norm", "rms_norm"]),
        "use_mask_token": rng.random() < 0.2,
        "use_absolute_position_embeddings": rng.random() < 0.8,
        "use_mean_pooling": rng.random() < 0.7,
    }
    kind = rng.choice(["qwen2", "qwen3", "qwen3_moe"])
    outer = {"downsample_ratio": rng.choice([0.5, 1.0]), "tie_word_embeddings": rng.random() < 0.5}
    return {"text_config": {"model_type": kind, **text}, "vision_config": vision, **outer}


def with_prefix(text: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Add SigLIP to a text model of Gemma."""
    rng = draw.rng
    vision = {"model_type": "siglip_vision_model", **_siglip(draw), "vision_use_head": rng.random() < 0.3}
    image = rng.choice([text["vocab_size"] - 1, text["vocab_size"] + 5])
    outer = {"projection_dim": draw.hidden, "image_token_index": image, "tie_word_embeddings": rng.random() < 0.5}
    return {"text_config": {"model_type": "gemma", **text}, "vision_config": vision, **outer}
