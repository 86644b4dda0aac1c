"""Whisper: an audio encoder after two convolutions, a decoder that attends to it, and a norm before each sublayer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.architecture.config import Check, Computed, Config
from calculator.architecture.layer_kind import LayerKind
from calculator.architecture.model import stack
from calculator.architecture.module import Module, Parameter, bare, embedding, linear, norm
from calculator.common.errors import shown
from calculator.families.family import Family, Parts, TaskModel
from calculator.families.fields import (
    MOST_TOKENS,
    activation,
    count,
    dropouts,
    encoder_decoder_sizes,
    flag,
    padding,
    positions,
    size,
    tie,
    unsupported_flag,
)
from calculator.families.whisper import forward

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.architecture.task import Task
    from calculator.families.blocks import Owned


def _without_row(config: Config) -> str | None:
    token, rows = config["decoder_start_token_id"], config["vocab_size"]
    return None if token < rows else f"{shown(token)} has no row in a vocabulary of {shown(rows)} (vocab_size)"


def _attention(config: Config, name: str) -> tuple[Module, ...]:
    hidden = config["hidden_size"]
    projections = (
        linear(f"{name}.{letter}_proj", hidden, hidden, bias=letter != "k") for letter in ("k", "v", "q", "out")
    )
    return (*projections, norm(f"{name}_layer_norm", hidden, bias=True))


def _layer(config: Config, inner: int, *attends: str) -> Owned:
    hidden = config["hidden_size"]
    return (
        *(module for name in attends for module in _attention(config, name)),
        linear("fc1", hidden, inner, bias=True),
        linear("fc2", inner, hidden, bias=True),
        norm("final_layer_norm", hidden, bias=True),
    )


def _whisper(config: Config) -> Parts:
    vocabulary, hidden = config["vocab_size"], config["hidden_size"]
    encodes = _layer(config, config["intermediate_size"], "self_attn")
    decodes = _layer(config, config["decoder_ffn_dim"], "self_attn", "encoder_attn")
    # the class freezes the encoder's table of sinusoids
    table = Parameter(name="weight", shape=(config["max_source_positions"], hidden), frozen=True)
    return (
        bare("model.encoder.conv1", "other", weight=(hidden, config["num_mel_bins"], 3), bias=(hidden,)),
        bare("model.encoder.conv2", "other", weight=(hidden, hidden, 3), bias=(hidden,)),
        Module(name="model.encoder.embed_positions", kind="embedding", parameters=(table,)),
        stack("model.encoder.layers", (LayerKind(),) * int(config["num_hidden_layers"]), lambda _kind: encodes),
        norm("model.encoder.layer_norm", hidden, bias=True),
        embedding("model.decoder.embed_tokens", vocabulary, hidden),
        embedding("model.decoder.embed_positions", config["max_position_embeddings"], hidden),
        stack("model.decoder.layers", (LayerKind(),) * int(config["decoder_layers"]), lambda _kind: decodes),
        norm("model.decoder.layer_norm", hidden, bias=True),
        linear("proj_out", hidden, vocabulary),
    )


def _seq2seq(model: Model, _: Task) -> Model:
    """Return the model of the file. Its first embedding is that of audio, not of words."""
    return replace(model, towers=("model.encoder.embed_positions",))


FAMILIES = (
    Family(
        model_type="whisper",
        auto_class="speech-seq2seq",
        head="proj_out",
        entries=(
            size("vocab_size"),
            *encoder_decoder_sizes(),
            size("num_mel_bins", 80),
            size("max_source_positions", 1500, maximum=MOST_TOKENS),
            positions(448, spelled="max_target_positions"),
            activation("gelu", spelled="activation_function"),
            *dropouts("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop", "decoder_layerdrop"),
            *unsupported_flag(
                "apply_spec_augment", "what SpecAugment masks depends on random numbers, which is not modeled"
            ),
            flag("use_cache", True),
            tie(default=True),
            *padding(50256),
            count("decoder_start_token_id", 50257),
            Check(name="decoder_start_token_id", problem=_without_row),
            Computed(name="tokens_of_audio", value=lambda config: int(config["max_source_positions"])),
        ),
        parts=_whisper,
        forward=None,
        tasks={"seq_2_seq_lm": TaskModel(model=_seq2seq, forward=forward.WHISPER)},
        tied={"proj_out.weight": "model.decoder.embed_tokens.weight"},
    ),
)
