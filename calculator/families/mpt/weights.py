"""MPT: ALiBi positions, LayerNorm without bias, fused queries, keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calculator.architecture.config import Computed, Field, read
from calculator.architecture.model import stack
from calculator.architecture.module import embedding, linear, norm
from calculator.families.blocks import Owned, norms, plain_mlp, uniform_layers
from calculator.families.family import Family, Parts
from calculator.families.fields import ONE_HEAD_SIZE, derived, dropouts, flag, layers, number, padding, size, tie
from calculator.families.mpt import forward

if TYPE_CHECKING:
    from calculator.architecture.config import Config
    from calculator.architecture.layer_kind import LayerKind

_ATTENTION = (
    *dropouts("attn_pdrop"),
    number("clip_qkv", None, nullable=True),
    number("softmax_scale", None, nullable=True),
    size("alibi_bias_max", 8),
)


def _inner(config: Config) -> Any:
    return read(_ATTENTION, config["attn_config"] or {}, "model.config.attn_config")


def _mpt(config: Config) -> Parts:
    vocabulary, hidden = config["vocab_size"], config["hidden_size"]

    def layer(_kind: LayerKind) -> Owned:
        return (
            *norms(config, "norm_1"),
            linear("attn.Wqkv", hidden, 3 * hidden),
            linear("attn.out_proj", hidden, hidden),
            *norms(config, "norm_2"),
            *plain_mlp(config, "ffn.up_proj", "ffn.down_proj", bias=False),
        )

    return (
        embedding("transformer.wte", vocabulary, hidden),
        stack("transformer.blocks", uniform_layers(config), layer),
        norm("transformer.norm_f", hidden),
        linear("lm_head", hidden, vocabulary),
    )


FAMILIES = (
    Family(
        model_type="mpt",
        entries=(
            size("vocab_size"),
            size("hidden_size", spelled="d_model", aliases=("hidden_size",)),
            layers(spelled="n_layers", aliases=("num_hidden_layers",)),
            size("num_attention_heads", spelled="n_heads", aliases=("num_attention_heads",)),
            *ONE_HEAD_SIZE,
            derived("intermediate_size", lambda config: 4 * config["hidden_size"]),
            size("max_position_embeddings", 2048, spelled="max_seq_len", maximum=1 << 31),
            flag("use_cache", False),
            number("layer_norm_epsilon", 1e-5),
            Field(name="attn_config", type="object", default=None, nullable=True),
            Computed(name="attn_config", value=_inner),
            Computed(name="attn_pdrop", value=lambda config: config["attn_config"]["attn_pdrop"]),
            tie(default=True),
            *padding(),
        ),
        parts=_mpt,
        forward=forward.MPT,
        tied={"lm_head.weight": "transformer.wte.weight"},
        notes=(
            "transformers makes MPT's MLP 4 · d_model wide, whatever expansion_ratio is, and its norms without bias",
        ),
    ),
)
