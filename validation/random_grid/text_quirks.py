"""Keys that random configs of text, encoder and audio models need beyond their fields."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from validation.random_grid.random_configs import Draw


def per_type_rope(config: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Add rotary parameters for each attention type, in the older spelling, or none."""
    kept = {key: value for key, value in config.items() if key not in ("rope_parameters", "rope_scaling")}
    older = {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    linear = {"rope_type": "linear", "factor": 2.0}
    nested = {"rope_parameters": {"full_attention": linear, "sliding_attention": {"rope_type": "default"}}}
    return {**kept, **deepcopy(draw.rng.choice([{}, older, nested]))}


def long_rope_only(config: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Add LongRoPE, with one factor per pair of rotated features if all heads are equal."""
    kept = {key: value for key, value in config.items() if key not in ("rope_parameters", "rope_scaling")}
    share = config.get("partial_rotary_factor", 1.0)
    head = config.get("head_dim", draw.hidden // draw.heads)
    pairs = [1.0] * (int(head * share) // 2)
    long = {"type": "longrope", "short_factor": pairs, "long_factor": pairs, "short_mscale": 1.0, "long_mscale": 1.1}
    return kept if draw.free else draw.rng.choice([kept, {**kept, "rope_scaling": long}])


def with_head_dim(config: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Add a head_dim, which some rotary types read only from the file."""
    return {"head_dim": draw.hidden // draw.heads, **config}


def even_norms(config: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Switch off norms of queries and keys unless heads share the hidden size equally."""
    return {**config, "qk_layernorm": False} if draw.free else config


def set_audio_length(config: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Set the length of audio, and nothing that masks it at random."""
    kept = {key: value for key, value in config.items() if key != "apply_spec_augment"}
    tokens = draw.rng.choice((1, 7, 24) if max(draw.sizes.vocab) < 1000 else (100, 375, 750, 1001, 1500))
    return {
        **kept,
        "max_source_positions": tokens,
        "num_mel_bins": draw.rng.choice((80, 128)),
        "decoder_start_token_id": 0,
    }


def whole_patches(config: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Add an image of some patches, with a rest at its edges or without one."""
    kept = {key: value for key, value in config.items() if key not in ("image_size", "patch_size", "num_channels")}
    patch = draw.rng.choice((2, 7, 14, 16))
    return {**kept, "patch_size": patch, "image_size": patch * draw.rng.randint(1, 6) + draw.rng.choice((0, 1))}


def equal_heads(config: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Make the hidden size the heads times their width."""
    return {**config, "hidden_size": draw.heads * draw.head}


def scaled_queries(config: dict[str, Any], _draw: Draw) -> dict[str, Any]:
    """Leave rotary parameters to the class: others lack what scales the queries."""
    return {key: value for key, value in config.items() if key not in ("rope_parameters", "rope_scaling")}


def same_biases(config: dict[str, Any], _draw: Draw) -> dict[str, Any]:
    """Set both biases, and leave out those of other classes."""
    biases = ("attention_bias", "qkv_bias", "mlp_bias", "bias")
    return {**{key: value for key, value in config.items() if key not in biases}, "bias": True, "qkv_bias": True}


def with_window(config: dict[str, Any], _draw: Draw) -> dict[str, Any]:
    """Add a window where none is drawn."""
    return {**config, "sliding_window": config["sliding_window"] or 5}


def without_window(config: dict[str, Any], _draw: Draw) -> dict[str, Any]:
    """Leave out the switch of the window."""
    return {key: value for key, value in config.items() if key != "use_sliding_window"}


def listed_layers(config: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """List the layers' types: the class derives them only from a window and a number."""
    return {**config, "layer_types": draw.types(), "sliding_window_pattern": draw.rng.choice([None, 4, "LLLG"])}


def with_shared_keys(config: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Let the last layers share keys and values, and give some models experts, or inputs of each layer."""
    rng = draw.rng
    left_out = (
        "rope_parameters",
        "rope_scaling",
        "use_bidirectional_attention",
        "output_router_logits",
        "sliding_window",
    )
    kept = {key: value for key, value in config.items() if key not in left_out}
    types = [*(rng.choice(["full_attention", "sliding_attention"]) for _ in range(draw.layers - 1)), "full_attention"]
    storing = types[: draw.layers - rng.randint(0, draw.layers - 1)]
    shared = draw.layers - len(storing) if set(storing) == set(types) else 0
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


def with_chunks(config: dict[str, Any], draw: Draw) -> dict[str, Any]:
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
