"""GPT-NeoX and Pythia: partial rotary embeddings, attention and MLP in parallel, fused queries, keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.model import stack
from calculator.architecture.module import embedding, linear, norm
from calculator.families.blocks import PRE_NORMS, Owned, norms, plain_mlp, uniform_layers
from calculator.families.family import Family, Parts
from calculator.families.fields import (
    ONE_HEAD_SIZE,
    activation,
    dropouts,
    flag,
    given_head_dim,
    layers,
    number,
    padding,
    positions,
    size,
    tie,
)
from calculator.families.gpt_neox import forward
from calculator.families.rope import frequencies, rope

if TYPE_CHECKING:
    from calculator.architecture.config import Config
    from calculator.architecture.layer_kind import LayerKind


def _gpt_neox(config: Config) -> Parts:
    vocabulary, hidden = config["vocab_size"], config["hidden_size"]

    def layer(_kind: LayerKind) -> Owned:
        bias = config["attention_bias"]
        return (
            *norms(config, *PRE_NORMS, bias=True),
            linear("attention.query_key_value", hidden, 3 * hidden, bias=bias),
            linear("attention.dense", hidden, hidden, bias=bias),
            *plain_mlp(config, "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
        )

    return (
        embedding("gpt_neox.embed_in", vocabulary, hidden),
        stack("gpt_neox.layers", uniform_layers(config), layer),
        norm("gpt_neox.final_layer_norm", hidden, bias=True),
        *frequencies("gpt_neox.rotary_emb", config["rotary_dim"]),
        linear("lm_head", hidden, vocabulary),
    )


FAMILIES = (
    Family(
        model_type="gpt_neox",
        entries=(
            size("vocab_size"),
            size("hidden_size"),
            size("intermediate_size"),
            layers(),
            size("num_attention_heads"),
            *ONE_HEAD_SIZE,
            flag("use_cache", True),
            positions(2048),
            *rope(theta_key="rotary_emb_base", share=0.25, share_key="rotary_pct", always=True),
            *given_head_dim(),
            activation("gelu"),
            number("layer_norm_eps", 1e-5),
            *dropouts("attention_dropout", "hidden_dropout"),
            flag("attention_bias", True),
            flag("use_parallel_residual", True),
            tie(default=False),
            *padding(),
        ),
        parts=_gpt_neox,
        forward=forward.GPT_NEOX,
        tied={"lm_head.weight": "gpt_neox.embed_in.weight"},
    ),
)
