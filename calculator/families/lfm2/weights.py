"""LFM2: short convolutions in most layers, grouped attention in the others, with a gated MLP or experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.config import Computed, Field
from calculator.architecture.layer_kind import LayerKind
from calculator.architecture.model import stack
from calculator.architecture.module import Buffer, conv1d_of_channels, embedding, linear, norm
from calculator.families.blocks import Owned, attention, fused_experts, norms, router
from calculator.families.family import Family, Parts
from calculator.families.fields import (
    count,
    derived,
    experts,
    flag,
    head_dim,
    kv_heads,
    layers,
    listed_layer_types,
    number,
    padding,
    positions,
    size,
    tie,
)
from calculator.families.lfm2 import forward
from calculator.families.rope import frequencies, rope

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.architecture.config import Config
    from calculator.architecture.layer_kind import MixerType

_TYPES: tuple[MixerType, ...] = ("full_attention", "conv")

#: A note on other allocations of a GPU.
CONVOLUTIONS = (
    "Convolutions run as torch's own. cuDNN's workspace for them is not counted. With the package causal-conv1d they"
    " need less; an estimate of a training step counts it with training.kernels."
)


def _usual_types(config: Config) -> tuple[str, ...]:
    """Return attention for the layers in `full_attn_idxs` and convolutions for the others.

    Without `full_attn_idxs` all layers have attention.
    """
    count, attending = config["num_hidden_layers"], config["full_attn_idxs"]
    return tuple(_TYPES[attending is not None and index not in attending] for index in range(count))


def _inner_width(config: Config) -> int:
    """Return the width of the MLP. The class reduces it unless the file disables that (Lfm2MLP)."""
    width = int(config["intermediate_size"])
    if not config["block_auto_adjust_ff_dim"]:
        return width
    multiple = int(config["block_multiple_of"])
    return -(-int(config["block_ffn_dim_multiplier"] * int(2 * width / 3)) // multiple) * multiple


def _short_conv(config: Config) -> Owned:
    hidden, width, bias = config["hidden_size"], config["conv_L_cache"], config["conv_bias"]
    return (
        conv1d_of_channels("conv.conv", hidden, width, bias=bias),
        linear("conv.in_proj", hidden, 3 * hidden, bias=bias),
        linear("conv.out_proj", hidden, hidden, bias=bias),
    )


def _attention(config: Config) -> Owned:
    head = config["head_dim"]
    return (
        *attention(config, output="out_proj"),
        norm("self_attn.q_layernorm", head),
        norm("self_attn.k_layernorm", head),
    )


def _mlp(config: Config) -> Owned:
    hidden, inner = config["hidden_size"], config["inner_width"]
    return (
        linear("feed_forward.w1", hidden, inner),
        linear("feed_forward.w3", hidden, inner),
        linear("feed_forward.w2", inner, hidden),
    )


def _experts(config: Config) -> Owned:
    bias = Buffer(name="feed_forward.expert_bias", shape=(config["num_experts"],), dtype="float32", persistent=True)
    return (
        fused_experts(config, "moe_intermediate_size", "feed_forward.experts"),
        router(config, "feed_forward.gate"),
        *((bias,) if config["use_expert_bias"] else ()),
    )


def _decoder(config: Config, kinds: Sequence[LayerKind], rotary: str) -> Parts:
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]

    def layer(kind: LayerKind) -> Owned:
        return (
            *(_short_conv(config) if kind.attention == "conv" else _attention(config)),
            *(_experts(config) if kind.mlp == "sparse" else _mlp(config)),
            *norms(config, "operator_norm", "ffn_norm"),
        )

    return (
        embedding("model.embed_tokens", vocabulary, hidden),
        stack("model.layers", kinds, layer),
        *frequencies(rotary, config["rotary_dim"]),
        norm("model.embedding_norm", hidden),
        linear("lm_head", hidden, vocabulary),
    )


def _lfm2(config: Config) -> Parts:
    return _decoder(config, [LayerKind(attention=name) for name in config["layer_types"]], "model.rotary_emb")


def _lfm2_moe(config: Config) -> Parts:
    dense = config["num_dense_layers"]
    kinds = [
        LayerKind(attention=name, mlp="dense" if index < dense else "sparse")
        for index, name in enumerate(config["layer_types"])
    ]
    return _decoder(config, kinds, "model.pos_emb")


#: The fields of attention and of convolutions.
_MIXERS = (
    layers(),
    size("num_attention_heads"),
    *kv_heads(8, nullable=False),
    head_dim(nullable=False),
    flag("use_cache", True),
    positions(128_000),
    *rope(theta=1e6),
    number("norm_eps", 1e-5),
    size("conv_L_cache", 3),
    flag("conv_bias", False),
)

#: Whether the head shares the storage of the embedding, under both of its names, and a field that files never set.
_SHARED = (
    Computed(name="hidden_act", value=lambda _config: "silu"),
    flag("tie_embedding", None, nullable=True),
    tie(default=True),
    Computed(
        name="tie_word_embeddings",
        value=lambda c: c["tie_word_embeddings"] if c["tie_embedding"] is None else c["tie_embedding"],
    ),
    *padding(0),
)

FAMILIES = (
    Family(
        model_type="lfm2",
        entries=(
            size("vocab_size"),
            size("hidden_size"),
            size("block_ff_dim", None, nullable=True),
            size("intermediate_size", 12_288),
            derived("intermediate_size", lambda config: config["block_ff_dim"] or config["intermediate_size"]),
            flag("block_auto_adjust_ff_dim", True),
            number("block_ffn_dim_multiplier", 1.0, minimum=0),
            size("block_multiple_of", 256),
            *_MIXERS,
            Field(name="full_attn_idxs", type="indices", default=None, nullable=True),
            Field(name="layer_types", type="names", default=None, nullable=True, null=_usual_types),
            listed_layer_types(_TYPES),
            derived("inner_width", _inner_width),
            *_SHARED,
        ),
        parts=_lfm2,
        forward=forward.LFM2,
        notes=(CONVOLUTIONS,),
    ),
    Family(
        model_type="lfm2_moe",
        entries=(
            size("vocab_size"),
            size("hidden_size"),
            size("intermediate_size", 7168),
            derived("inner_width", lambda config: config["intermediate_size"]),
            *_MIXERS,
            size("moe_intermediate_size", 1792),
            count("num_dense_layers", 2),
            *experts(4, router_loss=None),
            flag("use_expert_bias", True),
            flag("norm_topk_prob", True),
            number("routed_scaling_factor", 1.0),
            Field(name="layer_types", type="names"),
            listed_layer_types(_TYPES),
            *_SHARED,
        ),
        parts=_lfm2_moe,
        forward=forward.LFM2,
        notes=(CONVOLUTIONS,),
    ),
)
