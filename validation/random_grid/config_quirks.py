"""What random configs of single families need beyond their fields: keys that depend on each other."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from validation.random_grid.random_configs import Draw


def _with_vision(text: dict[str, Any], draw: Draw) -> dict[str, Any]:
    rng = draw.rng
    vision = {
        "hidden_size": 2 * rng.randint(1, 9),
        "intermediate_size": rng.randint(1, 9),
        "num_hidden_layers": rng.randint(1, 2),
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 7,
        "vision_use_head": rng.random() < 0.5,
    }
    outer = {"mm_tokens_per_image": 4, "tie_word_embeddings": rng.random() < 0.5}
    return {"text_config": _per_type_rope(text, draw), "vision_config": vision, **outer}


def _per_type_rope(config: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Add rotary parameters for each attention type, in the older spelling, or none."""
    kept = {key: value for key, value in config.items() if key not in ("rope_parameters", "rope_scaling")}
    older = {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    linear = {"rope_type": "linear", "factor": 2.0}
    nested = {"rope_parameters": {"full_attention": linear, "sliding_attention": {"rope_type": "default"}}}
    return {**kept, **deepcopy(draw.rng.choice([{}, older, nested]))}


def _long_rope_only(config: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Add LongRoPE, which has as many factors as equal heads have rotated pairs, or none."""
    kept = {key: value for key, value in config.items() if key not in ("rope_parameters", "rope_scaling")}
    share = config.get("partial_rotary_factor", 1.0)
    head = config.get("head_dim", draw.hidden // draw.heads)
    pairs = [1.0] * (int(head * share) // 2)
    long = {"type": "longrope", "short_factor": pairs, "long_factor": pairs, "short_mscale": 1.0, "long_mscale": 1.1}
    return kept if draw.free else draw.rng.choice([kept, {**kept, "rope_scaling": long}])


def _with_head_dim(config: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Add a head_dim, which some rotary types read only from the file."""
    return {"head_dim": draw.hidden // draw.heads, **config}


def _even_norms(config: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Switch off norms of queries and keys unless heads share the hidden size equally."""
    return {**config, "qk_layernorm": False} if draw.free else config


def _of_audio(config: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Set the length of audio, and nothing that masks it at random."""
    kept = {key: value for key, value in config.items() if key != "apply_spec_augment"}
    tokens = draw.rng.choice((1, 7, 24) if max(draw.sizes.vocab) < 1000 else (100, 375, 750, 1001, 1500))
    return {
        **kept,
        "max_source_positions": tokens,
        "num_mel_bins": draw.rng.choice((80, 128)),
        "decoder_start_token_id": 0,
    }


def _whole_patches(config: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Add an image of some patches, with a rest at its edges or without one."""
    kept = {key: value for key, value in config.items() if key not in ("image_size", "patch_size", "num_channels")}
    patch = draw.rng.choice((2, 7, 14, 16))
    return {**kept, "patch_size": patch, "image_size": patch * draw.rng.randint(1, 6) + draw.rng.choice((0, 1))}


def _equal_heads(config: dict[str, Any], draw: Draw) -> dict[str, Any]:
    return {**config, "hidden_size": draw.heads * draw.head}


def _scaled_queries(config: dict[str, Any], _draw: Draw) -> dict[str, Any]:
    """Leave rotary parameters to the class: others lack what scales the queries."""
    return {key: value for key, value in config.items() if key not in ("rope_parameters", "rope_scaling")}


def _same_biases(config: dict[str, Any], _draw: Draw) -> dict[str, Any]:
    biases = ("attention_bias", "qkv_bias", "mlp_bias", "bias")
    return {**{key: value for key, value in config.items() if key not in biases}, "bias": True, "qkv_bias": True}


def _with_window(config: dict[str, Any], _draw: Draw) -> dict[str, Any]:
    return {**config, "sliding_window": config["sliding_window"] or 5}


def _without_window(config: dict[str, Any], _draw: Draw) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "use_sliding_window"}


def _listed_layers(config: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """List the layers' types: the class derives them only from a window and a number."""
    return {**config, "layer_types": draw.types(), "sliding_window_pattern": draw.rng.choice([None, 4, "LLLG"])}


def _with_qwen_vision(text: dict[str, Any], draw: Draw) -> dict[str, Any]:
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
    vision = {
        "depth": rng.randint(1, 2),
        "hidden_size": 8 * rng.randint(1, 4),
        "intermediate_size": rng.randint(1, 9),
        "num_heads": 2,
        "patch_size": rng.randint(2, 5),
        "out_hidden_size": draw.hidden,
        "deepstack_visual_indexes": [0],
    }
    return {"text_config": kept | rotary, "vision_config": vision, "tie_word_embeddings": rng.random() < 0.5}


def _with_pixtral(text: dict[str, Any], draw: Draw) -> dict[str, Any]:
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
    own = {"model_type": kind, **(_scaled_queries(text, draw) if kind == "ministral3" else text)}
    return {"text_config": own, "vision_config": vision, **outer, "tie_word_embeddings": rng.random() < 0.5}


def _with_clip(text: dict[str, Any], draw: Draw) -> dict[str, Any]:
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


def _with_tiles(text: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Add CLIP, and the resolutions of images in tiles."""
    config = _with_clip(text, draw)
    side = config["vision_config"]["image_size"]
    return {**config, "image_grid_pinpoints": [[side, 2 * side], [side, side]]}


def _with_linear_attention_and_vision(text: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Add the tower of Qwen 3.5 to its text model."""
    rng = draw.rng
    vision = {
        "depth": rng.randint(1, 2),
        "hidden_size": 8 * rng.randint(1, 4),
        "intermediate_size": rng.randint(1, 9),
        "num_heads": 2,
        "patch_size": rng.randint(2, 5),
        "out_hidden_size": draw.hidden,
    }
    outer = {"vision_config": vision, "tie_word_embeddings": rng.random() < 0.5}
    return {"text_config": _with_linear_attention(text, draw), **outer}


def _with_tiled_siglip(text: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Add the encoder of Idefics 3."""
    rng = draw.rng
    vision = {
        "hidden_size": 2 * rng.randint(1, 9),
        "intermediate_size": rng.randint(1, 9),
        "num_hidden_layers": rng.randint(1, 2),
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 7,
    }
    outer = {"scale_factor": rng.choice([1, 2]), "use_cache": rng.random() < 0.5}
    return {"text_config": text, "vision_config": vision, **outer, "tie_word_embeddings": rng.random() < 0.5}


def _with_convolutions(config: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """List the layers' types, or leave them to the layers that attend."""
    kept = {key: value for key, value in config.items() if key not in ("layer_types", "block_ff_dim")}
    types = [draw.rng.choice(["conv", "full_attention"]) for _ in range(draw.layers)]
    width = {"block_ff_dim": draw.rng.choice(draw.sizes.width)}
    return {**kept, **draw.rng.choice([{}, {"layer_types": types}]), **draw.rng.choice([{}, width])}


def _with_shared_keys(config: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Let the last layers share keys and values, and give some models experts, or inputs of each layer."""
    rng = draw.rng
    left_out = ("rope_parameters", "use_bidirectional_attention", "output_router_logits", "sliding_window")
    kept = {key: value for key, value in config.items() if key not in left_out}
    types = [*(rng.choice(["full_attention", "sliding_attention"]) for _ in range(draw.layers - 1)), "full_attention"]
    own = types[: draw.layers - rng.randint(0, draw.layers - 1)]
    shared = draw.layers - len(own) if set(own) == set(types) else 0
    inputs = rng.choice([16, 24]) if shared else rng.choice([0, 8])
    among = {"num_experts": draw.experts, "top_k_experts": rng.randint(1, 2), "moe_intermediate_size": 24}
    sizes = {"global_head_dim": 2 * draw.head, "num_global_key_value_heads": rng.choice([None, 1, draw.kv])}
    return {
        **kept,
        **sizes,
        **among,
        "layer_types": types,
        "sliding_window": draw.window or 7,
        "num_kv_shared_layers": shared,
        "hidden_size_per_layer_input": inputs,
        "vocab_size_per_layer_input": draw.vocab,
        "final_logit_softcapping": rng.choice([None, 30.0]),
    }


def _with_towers(text: dict[str, Any], draw: Draw) -> dict[str, Any]:
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
    both = {"use_bidirectional_attention": rng.choice([None, "vision"])}
    outer = {"audio_config": rng.choice([None, audio]), "tie_word_embeddings": rng.random() < 0.5}
    return {"text_config": {**_with_shared_keys(text, draw), **both}, "vision_config": vision, **outer}


def _with_linear_attention(config: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """List the layers' types or leave them to an interval, with heads of linear attention that divide."""
    rng = draw.rng
    kept = {key: value for key, value in config.items() if key not in ("layer_types", "rope_scaling")}
    types = [rng.choice(["linear_attention", "full_attention"]) for _ in range(draw.layers)]
    keys, width = rng.randint(1, 3), rng.choice([8, 16, 32])
    sizes = {
        "linear_num_key_heads": keys,
        "linear_num_value_heads": keys * rng.randint(1, 3),
        "linear_key_head_dim": width,
        "linear_value_head_dim": rng.choice([width, 24]),
        "linear_conv_kernel_dim": rng.choice([2, 4]),
        "rope_parameters": {"rope_type": "default", "mrope_section": [3, 3, 2], "mrope_interleaved": True},
    }
    return {**kept, **sizes, **rng.choice([{"full_attention_interval": 2}, {"layer_types": types}])}


def _with_chunks(config: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """List the layers' types or leave them to those that rotate, with chunks that are shorter than some sequences."""
    rng = draw.rng
    kept = {key: value for key, value in config.items() if key != "layer_types"}
    chunk = rng.choice([None, draw.window or 7, 8192])
    types = [rng.choice(["chunked_attention", "full_attention"]) for _ in range(draw.layers)]
    listed: dict[str, Any] = rng.choice([{}, {"layer_types": types}]) if chunk else {}
    sparse: dict[str, Any] = rng.choice(
        [{"interleave_moe_layer_step": rng.randint(1, 2)}, {"moe_layers": [draw.layers - 1]}]
    )
    sizes = {"intermediate_size_mlp": rng.choice(draw.sizes.width), "no_rope_layer_interval": rng.randint(2, 4)}
    return {**kept, **sizes, "attention_chunk_size": chunk, **listed, **sparse}


def _mamba(config: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Draw heads of Mamba whose widths make up the inner size, and groups that divide them."""
    rng = draw.rng
    kept = {key: value for key, value in config.items() if key not in ("layer_types", "mamba_d_head", "mamba_d_ssm")}
    groups = rng.randint(1, 3)
    heads = groups * rng.randint(1, 3)
    sizes = {
        "hidden_size": heads * 8 * rng.randint(1, 8),
        "mamba_expand": rng.choice([1, 2]),
        "mamba_n_heads": heads,
        "mamba_n_groups": groups,
        "mamba_d_state": rng.choice([8, 16, 32]),
        "mamba_d_conv": rng.choice([2, 4]),
        "mamba_chunk_size": rng.choice([16, 64, 256]),
        "head_dim": 16 * rng.randint(1, 4),
    }
    return {**kept, **sizes}


def _granite_hybrid(config: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Draw sizes of Mamba, and layers of both types."""
    rng = draw.rng
    types = [rng.choice(["mamba", "attention"]) for _ in range(draw.layers - 1)] + ["attention"]
    sizes = {
        "num_local_experts": rng.choice([0, 4]),
        "num_experts_per_tok": 2,
        "position_embedding_type": rng.choice(["rope", "nope", None]),
    }
    return {**_mamba(config, draw), **sizes, "layer_types": types}


def _bamba(config: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Draw sizes of Mamba, and layers of both types, the last of attention."""
    sizes = {**_mamba(config, draw), "z_loss_coefficient": 0.0}
    attending = [index for index in range(draw.layers) if index == draw.layers - 1 or draw.rng.random() < 0.5]
    return {**sizes, "attn_layer_indices": attending}


def _falcon_h1(config: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Draw sizes of Mamba, whose width is a multiple of the hidden size or its own."""
    sizes = _mamba(config, draw)
    own = draw.rng.choice([None, sizes["mamba_n_heads"] * 16])
    return {**sizes, "mamba_d_ssm": own}


def _nemotron_h(config: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Draw kinds of layers, in one of two spellings, sizes of Mamba, and a latent size of the experts."""
    rng = draw.rng
    groups = rng.randint(1, 3)
    kinds = [rng.choice("M*-E") for _ in range(draw.layers - 1)] + ["*"]
    names = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
    aliases = ("layer_types", "layers_block_type", "mamba_n_groups", "mamba_d_conv", "mamba_chunk_size")
    kept = {key: value for key, value in config.items() if key not in aliases}
    sizes = {
        "n_groups": groups,
        "mamba_num_heads": groups * rng.randint(1, 3),
        "mamba_head_dim": 8 * rng.randint(1, 8),
        "ssm_state_size": rng.choice([8, 16, 32]),
        "conv_kernel": rng.choice([2, 4]),
        "chunk_size": rng.choice([16, 64, 256]),
        "moe_latent_size": rng.choice([None, 24]),
    }
    spelled = {"layers_block_type": [names[each] for each in kinds]}
    return {**kept, **sizes, **rng.choice([spelled, {"hybrid_override_pattern": "".join(kinds)}])}


def _mamba2(config: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Draw heads that make up a multiple of the hidden size, and groups that divide them."""
    rng = draw.rng
    groups, head, expand = rng.randint(1, 3), 8 * rng.randint(1, 8), rng.choice([1, 2])
    sizes = {
        "expand": expand,
        "num_heads": expand * groups * rng.randint(1, 4),
        "head_dim": head,
        "n_groups": groups,
        "state_size": rng.choice([8, 16, 32]),
        "conv_kernel": rng.choice([2, 4]),
        "chunk_size": rng.choice([16, 64, 256]),
    }
    kept = {key: value for key, value in config.items() if key != "use_cache"}
    return {**kept, **sizes, "hidden_size": sizes["num_heads"] * head // expand}


#: Changes that a family's configs need beyond its fields.
QUIRKS: dict[str, Callable[[dict[str, Any], Draw], dict[str, Any]]] = {
    "cwm": _with_window,
    "exaone4": _listed_layers,
    "bamba": _bamba,
    "falcon_h1": _falcon_h1,
    "granitemoehybrid": _granite_hybrid,
    "idefics3": _with_tiled_siglip,
    "internlm3": _same_biases,
    "iquestcoder": _without_window,
    "lfm2": _with_convolutions,
    "llama4": lambda config, draw: {"text_config": _with_chunks(config, draw)},
    "llama4_text": _with_chunks,
    "mamba2": _mamba2,
    "ministral3": _scaled_queries,
    "llava": _with_clip,
    "llava_next": _with_tiles,
    "mistral3": _with_pixtral,
    "mixtral": _with_head_dim,
    "qwen2_5_vl": _with_qwen_vision,
    "qwen3_vl": _with_qwen_vision,
    "phi": _even_norms,
    "olmoe": _equal_heads,
    "phi3": _long_rope_only,
    "phimoe": _long_rope_only,
    "gemma3": _with_vision,
    "gemma3_text": _per_type_rope,
    "gemma4": _with_towers,
    "gemma4_text": _with_shared_keys,
    "olmo3": _per_type_rope,
    "nemotron_h": _nemotron_h,
    "modernbert": _per_type_rope,
    "qwen3_5": _with_linear_attention_and_vision,
    "qwen3_5_moe": _with_linear_attention_and_vision,
    "qwen3_5_moe_text": _with_linear_attention,
    "qwen3_5_text": _with_linear_attention,
    "qwen3_next": _with_linear_attention,
    "smolvlm": _with_tiled_siglip,
    "vit": _whole_patches,
    "whisper": _of_audio,
}
