"""BART: an encoder and a decoder with learned positions and LayerNorm after each sublayer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.architecture.layer_kind import LayerKind
from calculator.architecture.model import stack
from calculator.architecture.module import Buffer, embedding, linear, norm
from calculator.families.bart import forward
from calculator.families.family import Family, Parts, TaskModel
from calculator.families.fields import (
    activation,
    dropouts,
    encoder_decoder_sizes,
    flag,
    padding,
    positions,
    size,
    tie,
)

if TYPE_CHECKING:
    from calculator.architecture.config import Config
    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.architecture.task import Task
    from calculator.families.blocks import Owned

#: The number of rows that the position tables have before the first position.
#: Source: transformers/models/bart/modeling_bart.py, BartLearnedPositionalEmbedding.
_OFFSET = 2


def _attention(config: Config, name: str) -> tuple[Module, ...]:
    hidden = config["hidden_size"]
    projections = (linear(f"{name}.{letter}_proj", hidden, hidden, bias=True) for letter in ("k", "v", "q", "out"))
    return (*projections, norm(f"{name}_layer_norm", hidden, bias=True))


def _layer(config: Config, inner: int, *attends: str) -> Owned:
    hidden = config["hidden_size"]
    return (
        *(module for name in attends for module in _attention(config, name)),
        linear("fc1", hidden, inner, bias=True),
        linear("fc2", inner, hidden, bias=True),
        norm("final_layer_norm", hidden, bias=True),
    )


def _stack(config: Config, name: str, depth: int, layer: Owned) -> Parts:
    hidden = config["hidden_size"]
    return (
        embedding(f"model.{name}.embed_tokens", config["vocab_size"], hidden),
        embedding(f"model.{name}.embed_positions", config["max_position_embeddings"] + _OFFSET, hidden),
        stack(f"model.{name}.layers", (LayerKind(),) * depth, lambda _kind: layer),
        norm(f"model.{name}.layernorm_embedding", hidden, bias=True),
    )


def _bart(config: Config) -> Parts:
    vocabulary, hidden = config["vocab_size"], config["hidden_size"]
    encodes = _layer(config, config["intermediate_size"], "self_attn")
    decodes = _layer(config, config["decoder_ffn_dim"], "self_attn", "encoder_attn")
    return (
        embedding("model.shared", vocabulary, hidden),
        *_stack(config, "encoder", int(config["num_hidden_layers"]), encodes),
        *_stack(config, "decoder", int(config["decoder_layers"]), decodes),
        Buffer(name="final_logits_bias", shape=(1, vocabulary), dtype="model", persistent=True),
        linear("lm_head", hidden, vocabulary),
    )


def _seq2seq(model: Model, _: Task) -> Model:
    """Return the model of the file. The shared embedding is never called: encoder and decoder have their own."""
    return model if model.tied else replace(model, idle=("model.shared",))


FAMILIES = (
    Family(
        model_type="bart",
        auto_class="seq2seq",
        entries=(
            size("vocab_size"),
            *encoder_decoder_sizes(),
            positions(1024),
            activation("gelu", spelled="activation_function"),
            *dropouts("dropout", default=0.1, nullable=True),
            *dropouts(
                "attention_dropout", "activation_dropout", "encoder_layerdrop", "decoder_layerdrop", nullable=True
            ),
            flag("scale_embedding", False, nullable=True),
            flag("use_cache", True),
            tie(default=True),
            *padding(1),
        ),
        parts=_bart,
        forward=None,
        tasks={"seq_2_seq_lm": TaskModel(model=_seq2seq, forward=forward.BART)},
        tied={
            "lm_head.weight": "model.shared.weight",
            "model.encoder.embed_tokens.weight": "model.shared.weight",
            "model.decoder.embed_tokens.weight": "model.shared.weight",
        },
    ),
)
