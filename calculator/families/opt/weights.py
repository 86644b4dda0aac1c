"""OPT: learned positions, LayerNorm before each sublayer (350m: after it, and embeddings narrower than the layers)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.layer_kind import LayerKind
from calculator.architecture.model import stack
from calculator.architecture.module import embedding, linear, norm
from calculator.families.blocks import Owned, uniform_layers
from calculator.families.family import Family, Parts
from calculator.families.fields import ONE_HEAD_SIZE, activation, dropouts, flag, layers, padding, positions, size, tie
from calculator.families.opt import forward

if TYPE_CHECKING:
    from calculator.architecture.config import Config
    from calculator.architecture.module import Module

#: The number of rows that the position table has before the first position.
#: Source: transformers/models/opt/modeling_opt.py, OPTLearnedPositionalEmbedding.
_OFFSET = 2


def _kinds(config: Config) -> tuple[LayerKind, ...]:
    """Return the kinds of layers. If the model's last weight is an fc2, the last layer has a kind of its own.

    The fc2 is then not quantized. This is the case with a tied head, without biases and with norms without weights.

    Source: transformers/quantizers/base.py, get_keys_to_not_convert.
    """
    ends = config["tie_word_embeddings"] and not config["enable_bias"] and not config["layer_norm_elementwise_affine"]
    kinds = uniform_layers(config)
    return (*kinds[:-1], LayerKind(end="last")) if ends else kinds


def _layer(config: Config, kind: LayerKind) -> Owned:
    hidden, bias = config["hidden_size"], config["enable_bias"]
    attends = (linear(f"self_attn.{name}_proj", hidden, hidden, bias=bias) for name in ("k", "v", "q", "out"))
    return (
        *attends,
        *_norm(config, "self_attn_layer_norm"),
        linear("fc1", hidden, config["intermediate_size"], bias=bias),
        linear("fc2", config["intermediate_size"], hidden, bias=bias, is_last=kind.end == "last"),
        *_norm(config, "final_layer_norm"),
    )


def _norm(config: Config, name: str) -> tuple[Module, ...]:
    affine = config["layer_norm_elementwise_affine"]
    return (norm(name, config["hidden_size"], bias=True),) if affine else ()


def _opt(config: Config) -> Parts:
    vocabulary, hidden, narrow = config["vocab_size"], config["hidden_size"], config["word_embed_proj_dim"]
    projected = (
        linear("model.decoder.project_out", hidden, narrow),
        linear("model.decoder.project_in", narrow, hidden),
    )
    last = config["do_layer_norm_before"] and not config["_remove_final_layer_norm"]
    return (
        embedding("model.decoder.embed_tokens", vocabulary, narrow),
        embedding("model.decoder.embed_positions", config["max_position_embeddings"] + _OFFSET, hidden),
        *(projected if narrow != hidden else ()),
        *(_norm(config, "model.decoder.final_layer_norm") if last else ()),
        stack("model.decoder.layers", _kinds(config), lambda kind: _layer(config, kind)),
        linear("lm_head", narrow, vocabulary),
    )


FAMILIES = (
    Family(
        model_type="opt",
        entries=(
            size("vocab_size"),
            size("hidden_size"),
            size("intermediate_size", spelled="ffn_dim"),
            layers(),
            size("num_attention_heads"),
            *ONE_HEAD_SIZE,
            size("word_embed_proj_dim", None, nullable=True, null=lambda config: config["hidden_size"]),
            flag("use_cache", True),
            positions(2048),
            activation("relu", spelled="activation_function"),
            *dropouts("dropout", default=0.1),
            *dropouts("attention_dropout", "layerdrop"),
            flag("do_layer_norm_before", True),
            flag("_remove_final_layer_norm", False),
            flag("enable_bias", True),
            flag("layer_norm_elementwise_affine", True),
            tie(default=True),
            *padding(1),
        ),
        parts=_opt,
        forward=forward.OPT,
        tied={"lm_head.weight": "model.decoder.embed_tokens.weight"},
    ),
)
