"""DeBERTa v2 and v3, without a head or with the head of a task: disentangled attention over relative positions."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from calculator.architecture.config import Computed, Field
from calculator.architecture.dimension import named
from calculator.architecture.model import stack
from calculator.architecture.module import Buffer, Module, bare, embedding, linear, norm
from calculator.families.bert.weights import encoder_layer
from calculator.families.blocks import Owned, uniform_layers
from calculator.families.classifiers import base_model
from calculator.families.deberta import forward
from calculator.families.family import Family, Parts, TaskModel
from calculator.families.fields import (
    ACTIVATIONS,
    DIVISIBLE,
    activation,
    count,
    derived,
    divisible,
    dropouts,
    flag,
    heads,
    layers,
    number,
    padding,
    positions,
    share_of_hidden,
    size,
    tie,
)
from calculator.families.token_heads import with_head_dropout

if TYPE_CHECKING:
    from calculator.architecture.config import Config
    from calculator.architecture.model import Model
    from calculator.architecture.task import Task

_TERMS = ("c2p", "p2c")


def _split(value: Any) -> tuple[str, ...]:
    """Split `"p2c|c2p"` into a list. Lists are returned unchanged."""
    listed = value.lower().split("|") if isinstance(value, str) else value or ()
    return tuple(term.strip() for term in listed)


def _relative_positions(config: Config) -> int:
    """Return the number of rows of the table of relative positions, for one direction."""
    if config["position_buckets"] > 0:
        return int(config["position_buckets"])
    furthest = config["max_relative_positions"]
    return int(furthest if furthest >= 1 else config["max_position_embeddings"])


def _layer(config: Config) -> Owned:
    base = encoder_layer(config, ("query_proj", "key_proj", "value_proj"))
    queries = config["num_attention_heads"] * config["head_dim"]
    has_position_weights = config["relative_attention"] and not config["share_att_key"]
    relative = (
        linear(f"attention.self.{name}", config["hidden_size"], queries, bias=True)
        for term, name in zip(_TERMS, ("pos_key_proj", "pos_query_proj"), strict=True)
        if has_position_weights and term in config["pos_att_type"]
    )
    return (*base[:3], *relative, *base[3:])


def _embeddings(config: Config, base: str) -> Parts:
    hidden, narrow, longest = config["hidden_size"], config["embedding_size"], config["max_position_embeddings"]
    kinds = config["type_vocab_size"]
    parts: tuple[tuple[bool, Module], ...] = (
        (True, embedding(f"{base}embeddings.word_embeddings", config["vocab_size"], narrow)),
        (config["position_biased_input"], embedding(f"{base}embeddings.position_embeddings", longest, narrow)),
        (kinds > 0, embedding(f"{base}embeddings.token_type_embeddings", kinds, narrow)),
        (narrow != hidden, linear(f"{base}embeddings.embed_proj", narrow, hidden)),
        (True, norm(f"{base}embeddings.LayerNorm", hidden, bias=True)),
    )
    return (
        *(module for there, module in parts if there),
        Buffer(name=f"{base}embeddings.position_ids", shape=(1, longest), dtype="int64"),
    )


def _convolution(config: Config, base: str) -> tuple[Module, ...]:
    hidden, kernel = config["hidden_size"], config["conv_kernel_size"]
    weight = (hidden, int(hidden) // int(config["conv_groups"]), kernel)
    return (
        bare(f"{base}encoder.conv.conv", "other", weight=weight, bias=(hidden,)),
        norm(f"{base}encoder.conv.LayerNorm", hidden, bias=True),
    )


def _deberta(config: Config, base: str = "") -> Parts:
    hidden, relative = config["hidden_size"], config["relative_attention"]
    table = embedding(f"{base}encoder.rel_embeddings", 2 * config["relative_positions"], hidden)
    return (
        *_embeddings(config, base),
        stack(f"{base}encoder.layer", uniform_layers(config), lambda _kind: _layer(config)),
        *((table,) if relative else ()),
        *((norm(f"{base}encoder.LayerNorm", hidden, bias=True),) if "layer_norm" in config["norm_rel_ebd"] else ()),
        *(_convolution(config, base) if config["conv_kernel_size"] else ()),
    )


def _with_head(model: Model, head: tuple[Module, ...], dropout: float) -> Model:
    """Return the encoder under the name `deberta`, with a head if one is given."""
    parts = _deberta(model.config, "deberta.")
    named_parts = tuple(part for part in parts if not isinstance(part, Buffer))
    buffers = tuple(part for part in parts if isinstance(part, Buffer))
    name = head[-1].name if head else None
    whole = replace(model, parts=(*named_parts, *head), buffers=buffers, head=name)
    return with_head_dropout(whole, dropout)


def _without_head(model: Model, task: Task) -> Model:
    """Return DebertaV2Model."""
    return base_model(_with_head(model, (), 0.0), task)


def _classifier(model: Model, task: Task) -> Model:
    """Return DebertaV2ForSequenceClassification, with a pooler and a classifier."""
    hidden, pooled = model.config["hidden_size"], model.config["pooler_hidden_size"]
    head = (
        linear("pooler.dense", pooled, pooled, bias=True),
        linear("classifier", hidden, named(task.num_labels, "num_labels"), bias=True),
    )
    return _with_head(model, head, 0.0)


def _token_model(model: Model, task: Task) -> Model:
    """Return DebertaV2ForTokenClassification or DebertaV2ForQuestionAnswering, whose head has no dropout."""
    hidden = model.config["hidden_size"]
    if task.name == "question_ans":
        return _with_head(model, (linear("qa_outputs", hidden, 2, bias=True),), 0.0)
    head = linear("classifier", hidden, named(task.num_labels, "num_labels"), bias=True)
    return _with_head(model, (head,), model.config["hidden_dropout_prob"])


_TOKENS = TaskModel(model=_token_model, forward=forward.TOKENS)

FAMILIES = (
    Family(
        model_type="deberta-v2",
        auto_class="base",
        entries=(
            size("vocab_size"),
            size("hidden_size"),
            size("intermediate_size"),
            layers(),
            size("num_attention_heads"),
            DIVISIBLE,
            derived("num_key_value_heads", heads),
            size("head_dim", None, spelled="attention_head_size", nullable=True, null=share_of_hidden),
            size("embedding_size", None, nullable=True, null=lambda config: config["hidden_size"]),
            positions(512),
            count("type_vocab_size", 0),
            flag("position_biased_input", True),
            flag("relative_attention", False),
            count("max_relative_positions", -1, minimum=-1),
            count("position_buckets", -1, minimum=-1),
            derived("relative_positions", _relative_positions),
            Field(name="pos_att_type", type="terms", default=None, nullable=True),
            Computed(name="pos_att_type", value=lambda config: _split(config["pos_att_type"])),
            flag("share_att_key", False),
            Field(name="norm_rel_ebd", type="text", default="none"),
            Computed(name="norm_rel_ebd", value=lambda config: _split(config["norm_rel_ebd"])),
            count("conv_kernel_size", 0),
            size("conv_groups", 1),
            divisible("hidden_size", "conv_groups"),
            activation("gelu"),
            number("layer_norm_eps", 1e-7),
            *dropouts("hidden_dropout_prob", "attention_probs_dropout_prob", default=0.1),
            size("pooler_hidden_size", None, nullable=True, null=lambda config: config["hidden_size"]),
            Field(name="pooler_hidden_act", type="text", default="gelu", choices=ACTIVATIONS),
            *dropouts("pooler_dropout"),
            Field(name="cls_dropout", type="number", default=None, nullable=True, minimum=0, maximum=1),
            tie(default=True),
            *padding(0),
        ),
        parts=_deberta,
        forward=None,
        tasks={
            "seq_cls": TaskModel(model=_classifier, forward=forward.DEBERTA),
            "token_cls": _TOKENS,
            "question_ans": _TOKENS,
            "feature_extraction": TaskModel(model=_without_head, forward=forward.TOKENS),
        },
        head=None,
        tied={},
    ),
)
