"""T5, FLAN-T5 and mT5: an encoder and a decoder with relative position biases, RMSNorm, gated or plain MLPs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.config import Check, Computed, Config, Field
from calculator.architecture.layer_kind import LayerKind
from calculator.architecture.model import stack
from calculator.architecture.module import embedding, linear, norm
from calculator.common.errors import shown
from calculator.families.classifiers import same_model
from calculator.families.family import Family, Parts, TaskModel
from calculator.families.fields import (
    ACTIVATIONS,
    MOST_LAYERS,
    count,
    derived,
    dropouts,
    flag,
    heads,
    layers,
    number,
    padding,
    size,
)
from calculator.families.t5 import forward

if TYPE_CHECKING:
    from calculator.architecture.config import Entry
    from calculator.architecture.module import Module
    from calculator.common.names import TaskName
    from calculator.families.blocks import Owned


def _unknown_projection(config: Config) -> str | None:
    projection = config["feed_forward_proj"]
    gated, dash, named = projection.rpartition("-")
    if named in ACTIVATIONS and (not dash or gated == "gated"):
        return None
    return f"must be an activation or gated-ACTIVATION, one of {', '.join(ACTIVATIONS)}, not {shown(projection)}"


def _activation(config: Config) -> str:
    projection: str = config["feed_forward_proj"]
    return "gelu_new" if projection == "gated-gelu" else projection.rpartition("-")[2]


def _attention(config: Config, name: str, *, biased: bool = False) -> tuple[Module, ...]:
    hidden, queries = config["hidden_size"], config["num_attention_heads"] * config["head_dim"]
    table = embedding(
        f"{name}.relative_attention_bias", config["relative_attention_num_buckets"], config["num_attention_heads"]
    )
    return (
        *(linear(f"{name}.{letter}", hidden, queries) for letter in ("q", "k", "v")),
        linear(f"{name}.o", queries, hidden),
        *((table,) if biased else ()),
    )


def _mlp(config: Config, name: str) -> tuple[Module, ...]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    up = ("wi_0", "wi_1") if config["is_gated_act"] else ("wi",)
    return (
        *(linear(f"{name}.{projection}", hidden, inner) for projection in up),
        # T5PreTrainedModel._keep_in_fp32_modules names wo, so it is not quantized
        linear(f"{name}.wo", inner, hidden, quantizable=False),
    )


def _layer(config: Config, kind: LayerKind, *, attends_to_encoder: bool) -> Owned:
    hidden = config["hidden_size"]
    cross = (*_attention(config, "layer.1.EncDecAttention"), norm("layer.1.layer_norm", hidden))
    last = 2 if attends_to_encoder else 1
    return (
        *_attention(config, "layer.0.SelfAttention", biased=kind.end == "first"),
        norm("layer.0.layer_norm", hidden),
        *(cross if attends_to_encoder else ()),
        *_mlp(config, f"layer.{last}.DenseReluDense"),
        norm(f"layer.{last}.layer_norm", hidden),
    )


def _t5(config: Config) -> Parts:
    vocabulary, hidden = config["vocab_size"], config["hidden_size"]

    def stack_of(name: str, depth: int, *, attends_to_encoder: bool) -> Parts:
        # only the first layer has the table of relative positions, and the others reuse its result
        kinds = (LayerKind(end="first"), *(LayerKind(),) * (depth - 1))
        return (
            embedding(f"{name}.embed_tokens", vocabulary, hidden),
            stack(f"{name}.block", kinds, lambda k: _layer(config, k, attends_to_encoder=attends_to_encoder)),
            norm(f"{name}.final_layer_norm", hidden),
        )

    return (
        embedding("shared", vocabulary, hidden),
        *stack_of("encoder", int(config["num_hidden_layers"]), attends_to_encoder=False),
        *stack_of("decoder", int(config["num_decoder_layers"]), attends_to_encoder=True),
        linear("lm_head", hidden, vocabulary),
    )


def _entries(projection: str, *last: Entry) -> tuple[Entry, ...]:
    """Return the fields of a config. `projection` is the MLP of files that name none."""
    return (
        size("vocab_size"),
        size("hidden_size", spelled="d_model", aliases=("hidden_size",)),
        size("intermediate_size", spelled="d_ff"),
        size("head_dim", spelled="d_kv", aliases=("head_dim",)),
        layers(spelled="num_layers"),
        size(
            "num_decoder_layers",
            None,
            nullable=True,
            null=lambda config: config["num_hidden_layers"],
            maximum=MOST_LAYERS,
        ),
        size("num_attention_heads", spelled="num_heads", aliases=("num_attention_heads",)),
        derived("num_key_value_heads", heads),
        size("relative_attention_num_buckets", 32),
        size("relative_attention_max_distance", 128),
        Field(name="feed_forward_proj", type="text", default=projection),
        Check(name="feed_forward_proj", problem=_unknown_projection),
        Computed(name="hidden_act", value=_activation),
        Computed(name="is_gated_act", value=lambda config: config["feed_forward_proj"].startswith("gated")),
        number("layer_norm_epsilon", 1e-6),
        *dropouts("dropout_rate", default=0.1),
        flag("use_cache", True),
        flag("tie_word_embeddings", True, nullable=True),
        *last,
        # The class ties the head, but from_pretrained keeps the head of a checkpoint (PreTrainedModel.tie_weights). The
        # checkpoints of T5 1.1, FLAN-T5 and mT5 have one, and their files say so.
        Computed(name="tie_word_embeddings", value=lambda config: config["tie_word_embeddings"] is not False),
        *padding(0),
    )


_TIED = {"lm_head.weight": "shared.weight"}
_ALWAYS_TIED = {"encoder.embed_tokens.weight": "shared.weight", "decoder.embed_tokens.weight": "shared.weight"}

_TASKS: dict[TaskName, TaskModel] = {"seq_2_seq_lm": TaskModel(model=same_model, forward=forward.T5)}

FAMILIES = (
    Family(
        model_type="mt5",
        auto_class="seq2seq",
        entries=_entries(
            "gated-gelu",
            count("decoder_start_token_id", 0, nullable=True),
            Computed(name="scale_decoder_outputs", value=lambda _config: False),
        ),
        parts=_t5,
        forward=None,
        tasks=_TASKS,
        tied=_TIED,
        always_tied=_ALWAYS_TIED,
    ),
    Family(
        model_type="t5",
        auto_class="seq2seq",
        entries=_entries(
            "relu",
            count("decoder_start_token_id", None, nullable=True),
            Computed(name="scale_decoder_outputs", value=lambda config: config["tie_word_embeddings"] is not False),
        ),
        parts=_t5,
        forward=None,
        tasks=_TASKS,
        tied=_TIED,
        always_tied=_ALWAYS_TIED,
    ),
)
