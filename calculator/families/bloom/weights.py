"""BLOOM: ALiBi positions, a normed embedding, fused queries, keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.model import stack
from calculator.architecture.module import embedding, linear, norm
from calculator.families.blocks import Owned, norms, plain_mlp, uniform_layers
from calculator.families.bloom import forward
from calculator.families.family import Family, Parts
from calculator.families.fields import ONE_HEAD_SIZE, derived, dropouts, flag, layers, number, padding, size, tie

if TYPE_CHECKING:
    from calculator.architecture.config import Config
    from calculator.architecture.layer_kind import LayerKind


def _bloom(config: Config) -> Parts:
    vocabulary, hidden = config["vocab_size"], config["hidden_size"]

    def layer(_kind: LayerKind) -> Owned:
        return (
            *norms(config, "input_layernorm", bias=True),
            linear("self_attention.query_key_value", hidden, 3 * hidden, bias=True),
            linear("self_attention.dense", hidden, hidden, bias=True),
            *norms(config, "post_attention_layernorm", bias=True),
            *plain_mlp(config, "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
        )

    return (
        embedding("transformer.word_embeddings", vocabulary, hidden),
        norm("transformer.word_embeddings_layernorm", hidden, bias=True),
        stack("transformer.h", uniform_layers(config), layer),
        norm("transformer.ln_f", hidden, bias=True),
        linear("lm_head", hidden, vocabulary),
    )


FAMILIES = (
    Family(
        model_type="bloom",
        entries=(
            size("vocab_size"),
            size("hidden_size", aliases=("n_embed",)),
            layers(spelled="n_layer", aliases=("num_hidden_layers",)),
            size("num_attention_heads", spelled="n_head", aliases=("num_attention_heads",)),
            *ONE_HEAD_SIZE,
            derived("intermediate_size", lambda config: 4 * config["hidden_size"]),
            flag("use_cache", True),
            number("layer_norm_epsilon", 1e-5),
            *dropouts("hidden_dropout", "attention_dropout"),
            flag("apply_residual_connection_post_layernorm", False),
            flag("slow_but_exact", False),
            tie(default=True),
            *padding(),
        ),
        parts=_bloom,
        forward=forward.BLOOM,
        tied={"lm_head.weight": "transformer.word_embeddings.weight"},
    ),
)
