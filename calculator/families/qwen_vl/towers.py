"""The vision towers of Qwen 2, 2.5 and 3 VL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.config import Check, Computed, Field
from calculator.architecture.dimension import Dim
from calculator.architecture.model import stack
from calculator.architecture.module import bare, embedding, linear, norm
from calculator.common.errors import shown
from calculator.families.blocks import gated_mlp, uniform_layers
from calculator.families.fields import MOST_LAYERS, activation, divisible, size
from calculator.families.rope import frequencies

if TYPE_CHECKING:
    from calculator.architecture.config import Config, Entry
    from calculator.architecture.module import Module
    from calculator.families.blocks import Owned
    from calculator.families.family import Parts

_PATH = "model.visual"


def _entries(*, depth: int, hidden: int, inner: int, patch: int) -> tuple[Entry, ...]:
    return (
        size("num_hidden_layers", depth, spelled="depth", aliases=("num_hidden_layers",), maximum=MOST_LAYERS),
        size("hidden_size", hidden),
        size("intermediate_size", inner),
        size("num_attention_heads", 16, spelled="num_heads", aliases=("num_attention_heads",)),
        divisible("hidden_size", "num_attention_heads"),
        size("in_channels", 3),
        size("patch_size", patch),
        size("spatial_merge_size", 2),
        size("temporal_patch_size", 2),
        size("out_hidden_size", 3584),
    )


#: `hidden_size` is the width of the text model, and `embed_dim` that of the tower.
QWEN2_VISION: tuple[Entry, ...] = (
    size("num_hidden_layers", 32, spelled="depth", aliases=("num_hidden_layers",), maximum=MOST_LAYERS),
    size("embed_dim", 1280),
    size("hidden_size", 3584),
    size("mlp_ratio", 4),
    size("num_attention_heads", 16, spelled="num_heads", aliases=("num_attention_heads",)),
    divisible("embed_dim", "num_attention_heads"),
    size("in_channels", 3),
    size("patch_size", 14),
    size("spatial_merge_size", 2),
    size("temporal_patch_size", 2),
    activation("quick_gelu"),
    Computed(name="out_hidden_size", value=lambda config: config["hidden_size"]),
    Computed(
        name="intermediate_size", value=lambda config: Dim(config["embed_dim"] * config["mlp_ratio"], "mlp width")
    ),
    Computed(name="hidden_size", value=lambda config: config["embed_dim"]),
)

QWEN2_5_VISION: tuple[Entry, ...] = (
    *_entries(depth=32, hidden=3584, inner=3420, patch=14),
    activation("silu"),
    size("window_size", 112),
    Field(name="fullatt_block_indexes", type="indices", default=(7, 15, 23, 31)),
)


def _missing_layers(config: Config) -> str | None:
    last = config["num_hidden_layers"] - 1
    beyond = next((index for index in config["deepstack_visual_indexes"] if index > last), None)
    return None if beyond is None else f"{shown(beyond)} is behind the last of depth's layers, {shown(last)}"


QWEN3_VISION: tuple[Entry, ...] = (
    *_entries(depth=27, hidden=1152, inner=4304, patch=16),
    activation("gelu_pytorch_tanh"),
    size("num_position_embeddings", 2304),
    Field(name="deepstack_visual_indexes", type="indices", default=(8, 16, 24)),
    Check(name="deepstack_visual_indexes", problem=_missing_layers),
)


def _patches(config: Config, *, bias: bool) -> Module:
    hidden, patch = config["hidden_size"], config["patch_size"]
    weight = (hidden, config["in_channels"], config["temporal_patch_size"], patch, patch)
    if bias:
        return bare(f"{_PATH}.patch_embed.proj", "other", weight=weight, bias=(hidden,))
    return bare(f"{_PATH}.patch_embed.proj", "other", weight=weight)


def _rotary(config: Config) -> Parts:
    """Return the frequencies of one axis, for half of the pairs of a head."""
    return frequencies(f"{_PATH}.rotary_pos_emb", int(config["hidden_size"]) // int(config["num_attention_heads"]) // 2)


def _attention(config: Config) -> Owned:
    hidden = config["hidden_size"]
    return (linear("attn.qkv", hidden, 3 * hidden, bias=True), linear("attn.proj", hidden, hidden, bias=True))


def _merged(config: Config) -> Dim:
    """Return the total width of the patches that form one token."""
    return Dim(int(config["hidden_size"]) * int(config["spatial_merge_size"]) ** 2, "hidden_size · spatial_merge_size²")


def qwen2_tower(config: Config) -> Parts:
    """Return the patches, layers with LayerNorm and a plain MLP, and the merger."""
    hidden, inner, merged = config["hidden_size"], config["intermediate_size"], _merged(config)

    def layer(_kind: object) -> Owned:
        return (
            norm("norm1", hidden, bias=True),
            norm("norm2", hidden, bias=True),
            *_attention(config),
            linear("mlp.fc1", hidden, inner, bias=True),
            linear("mlp.fc2", inner, hidden, bias=True),
        )

    return (
        _patches(config, bias=False),
        *_rotary(config),
        stack(f"{_PATH}.blocks", uniform_layers(config), layer),
        norm(f"{_PATH}.merger.ln_q", hidden, bias=True),
        linear(f"{_PATH}.merger.mlp.0", merged, merged, bias=True),
        linear(f"{_PATH}.merger.mlp.2", merged, config["out_hidden_size"], bias=True),
    )


def qwen2_5_tower(config: Config) -> Parts:
    """Return the patches, layers with RMSNorm and a gated MLP, and the merger."""
    hidden, merged = config["hidden_size"], _merged(config)

    def layer(_kind: object) -> Owned:
        return (
            norm("norm1", hidden),
            norm("norm2", hidden),
            *_attention(config),
            *gated_mlp(config, bias=True),
        )

    return (
        _patches(config, bias=False),
        *_rotary(config),
        stack(f"{_PATH}.blocks", uniform_layers(config), layer),
        norm(f"{_PATH}.merger.ln_q", hidden),
        linear(f"{_PATH}.merger.mlp.0", merged, merged, bias=True),
        linear(f"{_PATH}.merger.mlp.2", merged, config["out_hidden_size"], bias=True),
    )


def qwen3_tower(config: Config) -> Parts:
    """Return patches with learned positions, layers with LayerNorm and a plain MLP, and the mergers."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]

    def layer(_kind: object) -> Owned:
        return (
            norm("norm1", hidden, bias=True),
            norm("norm2", hidden, bias=True),
            *_attention(config),
            linear("mlp.linear_fc1", hidden, inner, bias=True),
            linear("mlp.linear_fc2", inner, hidden, bias=True),
        )

    mergers = range(len(config["deepstack_visual_indexes"]))
    return (
        _patches(config, bias=True),
        embedding(f"{_PATH}.pos_embed", config["num_position_embeddings"], hidden),
        *_rotary(config),
        stack(f"{_PATH}.blocks", uniform_layers(config), layer),
        *_merger(config, f"{_PATH}.merger", hidden),
        *(m for n in mergers for m in _merger(config, f"{_PATH}.deepstack_merger_list.{n}", _merged(config))),
    )


def _merger(config: Config, path: str, normed: int) -> tuple[Module, ...]:
    merged = _merged(config)
    return (
        norm(f"{path}.norm", normed, bias=True),
        linear(f"{path}.linear_fc1", merged, merged, bias=True),
        linear(f"{path}.linear_fc2", merged, config["out_hidden_size"], bias=True),
    )
