"""Phi (attention and MLP in parallel), Phi-3 (fused projections) and Phi-3.5-MoE."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.config import Check
from calculator.architecture.layer_kind import LayerKind
from calculator.architecture.model import stack
from calculator.architecture.module import embedding, linear, norm
from calculator.families.blocks import (
    PRE_NORMS,
    Owned,
    attention,
    decoder,
    fused_experts,
    norms,
    plain_mlp,
    uniform_layers,
)
from calculator.families.family import Family, Parts
from calculator.families.fields import (
    activation,
    dropouts,
    experts,
    flag,
    grouped_sizes,
    number,
    padding,
    positions,
    size,
    tie,
    uneven_heads,
)
from calculator.families.phi import forward
from calculator.families.rope import frequencies, rope
from calculator.families.windows import attention_type, window

if TYPE_CHECKING:
    from calculator.architecture.config import Config


def _without_scale(config: Config) -> str | None:
    """Return an error if the file lacks the factors by which Phi-3.5-MoE multiplies rotary embeddings."""
    rope_parameters = config["rope_parameters"]
    missing = [key for key in ("short_mscale", "long_mscale") if not isinstance(rope_parameters.get(key), int | float)]
    return f"needs {' and '.join(missing)}, numbers" if missing and rope_parameters["rope_type"] != "default" else None


def _uneven_long_rope(config: Config) -> str | None:
    """Return an error for a wrong number of LongRoPE factors.

    Phi-3 expects one for each pair of dimensions in an equal share of the hidden size.
    """
    return uneven_heads(config) if config["rope_type"] == "longrope" else None


def _uneven_head_norms(config: Config) -> str | None:
    """Return an error if the norms of queries and keys, as wide as equal shares of the hidden size, don't fit heads."""
    return uneven_heads(config) if config["qk_layernorm"] else None


def _phi(config: Config) -> Parts:
    vocabulary, hidden = config["vocab_size"], config["hidden_size"]

    def layer(_kind: LayerKind) -> Owned:
        normed = ("q", "k") if config["qk_layernorm"] else ()
        return (
            *attention(config, qkv_bias=True, o_bias=True, output="dense"),
            *(norm(f"self_attn.{letter}_layernorm", config["head_dim"], bias=True) for letter in normed),
            *plain_mlp(config, "mlp.fc1", "mlp.fc2"),
            *norms(config, "input_layernorm", bias=True),
        )

    return (
        embedding("model.embed_tokens", vocabulary, hidden),
        stack("model.layers", uniform_layers(config), layer),
        *frequencies("model.rotary_emb", config["rotary_dim"]),
        norm("model.final_layernorm", hidden, bias=True),
        linear("lm_head", hidden, vocabulary, bias=True),
    )


def _phi3(config: Config) -> Parts:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]

    def layer(_kind: LayerKind) -> Owned:
        return (
            linear("self_attn.o_proj", queries, hidden),
            linear("self_attn.qkv_proj", hidden, queries + 2 * keys),
            linear("mlp.gate_up_proj", hidden, 2 * inner),
            linear("mlp.down_proj", inner, hidden),
            *norms(config, *PRE_NORMS),
        )

    return decoder(config, uniform_layers(config, LayerKind(attention=attention_type(config))), layer)


def _phimoe(config: Config) -> Parts:
    def layer(_kind: LayerKind) -> Owned:
        bias = config["attention_bias"]
        return (
            *attention(config, qkv_bias=bias, o_bias=bias),
            linear("mlp.router", config["hidden_size"], config["num_experts"], quantizable=False),
            fused_experts(config, "intermediate_size"),
            *norms(config, *PRE_NORMS, bias=True),
        )

    kinds = uniform_layers(config, LayerKind(attention=attention_type(config), mlp="sparse"))
    return decoder(config, kinds, layer, norm_bias=True, head_bias=config["lm_head_bias"])


FAMILIES = (
    Family(
        model_type="phi",
        entries=(
            *grouped_sizes(head_nullable=False),
            positions(2048),
            *rope(share=0.5, always=True),
            activation("gelu_new"),
            number("layer_norm_eps", 1e-5),
            *dropouts("resid_pdrop", "embd_pdrop"),
            *dropouts("attention_dropout", nullable=True),
            flag("qk_layernorm", False),
            Check(name="head_dim", problem=_uneven_head_norms),
            tie(default=False),
            *padding(),
        ),
        parts=_phi,
        forward=forward.PHI,
    ),
    Family(
        model_type="phi3",
        entries=(
            *grouped_sizes(head_nullable=False),
            positions(4096),
            size("original_max_position_embeddings", 4096, minimum=2, maximum=1 << 31),
            *rope(
                always=True, types={"default": "default", "longrope": "longrope", "su": "longrope", "yarn": "longrope"}
            ),
            Check(name="head_dim", problem=_uneven_long_rope),
            window(None),
            activation(),
            number("rms_norm_eps", 1e-5),
            *dropouts("resid_pdrop", "embd_pdrop", "attention_dropout"),
            tie(default=False),
            *padding(32_000),
        ),
        parts=_phi3,
        forward=forward.PHI3,
    ),
    Family(
        model_type="phimoe",
        entries=(
            *grouped_sizes(kv=8, kv_nullable=False, head_nullable=False),
            positions(4096 * 32),
            *rope(theta=1e6),
            Check(name="rope_parameters", problem=_without_scale),
            window(None),
            activation(),
            number("rms_norm_eps", 1e-5),
            *dropouts("attention_dropout"),
            *experts(2, spelled="num_local_experts"),
            number("router_jitter_noise", 0.01),
            number("input_jitter_noise", 0.0),
            flag("attention_bias", False),
            flag("lm_head_bias", False),
            tie(default=False),
            *padding(),
        ),
        parts=_phimoe,
        forward=forward.PHIMOE,
        adds_router_loss=True,
    ),
)
