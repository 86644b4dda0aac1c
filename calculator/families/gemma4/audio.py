"""The weights of Gemma 4's audio tower, which only runs for sound.

Source: transformers/models/gemma4/modeling_gemma4.py, Gemma4AudioModel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.config import Field
from calculator.architecture.model import stack
from calculator.architecture.module import Buffer, bare, conv1d_of_channels, linear, norm
from calculator.families.blocks import uniform_layers
from calculator.families.fields import DIVISIBLE, MOST_LAYERS, flag, size
from calculator.families.gemma4.clipped import clippable

if TYPE_CHECKING:
    from calculator.architecture.config import Config, Entry
    from calculator.families.blocks import Owned
    from calculator.families.family import Parts

#: Source: transformers/models/gemma4/configuration_gemma4.py, Gemma4AudioConfig.
AUDIO: tuple[Entry, ...] = (
    size("hidden_size", 1024),
    size("num_hidden_layers", 12, maximum=MOST_LAYERS),
    size("num_attention_heads", 8),
    DIVISIBLE,
    Field(name="subsampling_conv_channels", type="indices", default=(128, 32)),
    size("conv_kernel_size", 5),
    flag("use_clipped_linears", True),
    size("output_proj_dims", 1536),
)


def _feed_forward(config: Config, name: str) -> Owned:
    hidden = config["hidden_size"]
    return (
        *clippable(config, f"{name}.ffw_layer_1", hidden, 4 * hidden),
        *clippable(config, f"{name}.ffw_layer_2", 4 * hidden, hidden),
        norm(f"{name}.pre_layer_norm", hidden),
        norm(f"{name}.post_layer_norm", hidden),
    )


def _attention(config: Config) -> Owned:
    hidden, name = config["hidden_size"], "self_attn"
    return (
        bare(name, "other", per_dim_scale=(int(hidden) // int(config["num_attention_heads"]),)),
        Buffer(name=f"{name}.softcap", shape=(), dtype="model"),
        *(
            module
            for part in ("q_proj", "k_proj", "v_proj", "post")
            for module in clippable(config, f"{name}.{part}", hidden, hidden)
        ),
        linear(f"{name}.relative_k_proj", hidden, hidden),
    )


def _convolution(config: Config) -> Owned:
    hidden, name = config["hidden_size"], "lconv1d"
    return (
        *clippable(config, f"{name}.linear_start", hidden, 2 * hidden),
        *clippable(config, f"{name}.linear_end", hidden, hidden),
        conv1d_of_channels(f"{name}.depthwise_conv1d", hidden, config["conv_kernel_size"], bias=False),
        norm(f"{name}.pre_layer_norm", hidden),
        norm(f"{name}.conv_norm", hidden),
    )


def _layer(config: Config) -> Owned:
    return (
        *_feed_forward(config, "feed_forward1"),
        *_feed_forward(config, "feed_forward2"),
        *_attention(config),
        *_convolution(config),
        *(norm(name, config["hidden_size"]) for name in ("norm_pre_attn", "norm_post_attn", "norm_out")),
    )


def audio_tower(config: Config, path: str) -> Parts:
    """Return the modules of Gemma4AudioModel."""
    hidden, (first, second) = config["hidden_size"], config["subsampling_conv_channels"]
    start = f"{path}.subsample_conv_projection"
    return (
        bare(f"{start}.layer0.conv", "other", weight=(first, 1, 3, 3)),
        norm(f"{start}.layer0.norm", first),
        bare(f"{start}.layer1.conv", "other", weight=(second, first, 3, 3)),
        norm(f"{start}.layer1.norm", second),
        linear(f"{start}.input_proj_linear", first // 4 * second, hidden),
        Buffer(name=f"{path}.rel_pos_enc.inv_timescales", shape=(1, 1, int(hidden) // 2), dtype="model"),
        stack(f"{path}.layers", uniform_layers(config), lambda _kind: _layer(config)),
        linear(f"{path}.output_proj", hidden, config["output_proj_dims"], bias=True),
    )
