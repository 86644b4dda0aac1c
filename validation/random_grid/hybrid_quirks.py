"""Keys that random configs with layers of Mamba, linear attention or convolutions need beyond their fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from validation.random_grid.random_configs import Draw


def with_convolutions(config: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """List the layers' types, or leave them to the layers that attend."""
    kept = {key: value for key, value in config.items() if key not in ("layer_types", "block_ff_dim")}
    types = [draw.rng.choice(["conv", "full_attention"]) for _ in range(draw.layers)]
    width = {"block_ff_dim": draw.rng.choice(draw.sizes.width)}
    return {**kept, **draw.rng.choice([{}, {"layer_types": types}]), **draw.rng.choice([{}, width])}


def with_listed_convolutions(config: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """List the layers' types."""
    return {**config, "layer_types": [draw.rng.choice(["conv", "full_attention"]) for _ in range(draw.layers)]}


def with_linear_attention(config: dict[str, Any], draw: Draw) -> dict[str, Any]:
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


def granite_hybrid(config: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Draw sizes of Mamba, and layers of both types."""
    rng = draw.rng
    types = [rng.choice(["mamba", "attention"]) for _ in range(draw.layers - 1)] + ["attention"]
    sizes = {
        "num_local_experts": rng.choice([0, 4]),
        "num_experts_per_tok": 2,
        "position_embedding_type": rng.choice(["rope", "nope", None]),
    }
    return {**_mamba(config, draw), **sizes, "layer_types": types}


def bamba(config: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Draw sizes of Mamba, and layers of both types, the last of attention."""
    sizes = {**_mamba(config, draw), "z_loss_coefficient": 0.0}
    attending = [index for index in range(draw.layers) if index == draw.layers - 1 or draw.rng.random() < 0.5]
    return {**sizes, "attn_layer_indices": attending}


def falcon_h1(config: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Draw sizes of Mamba, whose width is a multiple of the hidden size or its own."""
    sizes = _mamba(config, draw)
    width = draw.rng.choice([None, sizes["mamba_n_heads"] * 16])
    return {**sizes, "mamba_d_ssm": width}


def nemotron_h(config: dict[str, Any], draw: Draw) -> dict[str, Any]:
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
    spelled = {"layers_block_type": [names[kind] for kind in kinds]}
    return {**kept, **sizes, **rng.choice([spelled, {"hybrid_override_pattern": "".join(kinds)}])}


def mamba2(config: dict[str, Any], draw: Draw) -> dict[str, Any]:
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


def jamba(config: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """Draw sizes of Mamba, and which layers attend or have experts."""
    rng = draw.rng
    every, sparse = rng.randint(1, 3), rng.randint(1, 3)
    sizes = {
        "mamba_d_state": rng.choice([4, 8, 16]),
        "mamba_d_conv": rng.choice([2, 4]),
        "mamba_expand": rng.choice([1, 2]),
        "mamba_dt_rank": rng.choice(["auto", 5, 24]),
        "attn_layer_period": every,
        "attn_layer_offset": rng.randrange(every),
        "expert_layer_period": sparse,
        "expert_layer_offset": rng.randrange(sparse),
    }
    return {**config, **sizes}
