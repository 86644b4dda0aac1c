"""GPT-2 and StarCoder's GPT-BigCode: learned positions, LayerNorm, fused queries, keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.model import stack
from calculator.architecture.module import Buffer, conv1d, embedding, linear, norm
from calculator.families.blocks import Owned, norms, uniform_layers
from calculator.families.family import Family, Parts
from calculator.families.fields import (
    GPT2_SIZES,
    ONE_HEAD_SIZE,
    activation,
    derived,
    dropouts,
    flag,
    heads,
    number,
    padding,
    positions,
    share_of_hidden,
    tie,
    unsupported_flag,
)
from calculator.families.gpt2 import forward

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.architecture.config import Config, Entry
    from calculator.architecture.layer_kind import LayerKind
    from calculator.architecture.module import Module

_COMMON: tuple[Entry, ...] = (
    *GPT2_SIZES,
    positions(1024, spelled="n_positions", aliases=("max_position_embeddings",)),
    number("layer_norm_epsilon", 1e-5),
    *dropouts("resid_pdrop", "embd_pdrop", "attn_pdrop", default=0.1),
    flag("scale_attn_weights", True),
    *unsupported_flag("add_cross_attention", "a decoder that attends to an encoder is not modeled"),
    tie(default=True),
    *padding(),
)


def outer(config: Config, kinds: tuple[LayerKind, ...], layer: Callable[[LayerKind], Owned]) -> Parts:
    """Return token and position embeddings, the layers, the final norm and the output head."""
    vocabulary, hidden = config["vocab_size"], config["hidden_size"]
    return (
        embedding("transformer.wte", vocabulary, hidden),
        embedding("transformer.wpe", config["max_position_embeddings"], hidden),
        stack("transformer.h", kinds, layer),
        norm("transformer.ln_f", hidden, bias=True),
        linear("lm_head", hidden, vocabulary),
    )


def _layer(config: Config, project: Callable[[str, int, int], Module]) -> Owned:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    fused = hidden + 2 * (config["num_key_value_heads"] * config["head_dim"])
    return (
        *norms(config, "ln_1", bias=True),
        project("attn.c_attn", hidden, fused),
        project("attn.c_proj", hidden, hidden),
        *norms(config, "ln_2", bias=True),
        project("mlp.c_fc", hidden, inner),
        project("mlp.c_proj", inner, hidden),
    )


def _gpt2(config: Config) -> Parts:
    return outer(config, uniform_layers(config), lambda _kind: _layer(config, conv1d))


def _gpt_bigcode(config: Config) -> Parts:
    longest = config["max_position_embeddings"]
    causal = Buffer(name="transformer.bias", shape=(longest, longest), dtype="bool")

    def biased(name: str, in_features: int, out_features: int) -> Module:
        return linear(name, in_features, out_features, bias=True)

    return (*outer(config, uniform_layers(config), lambda _kind: _layer(config, biased)), causal)


FAMILIES = (
    Family(
        model_type="gpt2",
        entries=(
            *_COMMON,
            *ONE_HEAD_SIZE,
            activation("gelu_new", spelled="activation_function"),
            flag("scale_attn_by_inverse_layer_idx", False),
            flag("reorder_and_upcast_attn", False),
        ),
        parts=_gpt2,
        forward=forward.GPT2,
        tied={"lm_head.weight": "transformer.wte.weight"},
    ),
    Family(
        model_type="gpt_bigcode",
        entries=(
            *_COMMON,
            flag("multi_query", True),
            derived("num_key_value_heads", lambda config: 1 if config["multi_query"] else heads(config)),
            derived("head_dim", share_of_hidden),
            activation("gelu_pytorch_tanh", spelled="activation_function"),
            flag("attention_softmax_in_fp32", True),
            flag("scale_attention_softmax_in_fp32", True),
        ),
        parts=_gpt_bigcode,
        forward=forward.GPT_BIGCODE,
        tied={"lm_head.weight": "transformer.wte.weight"},
    ),
)
