"""ModernBERT with its masked-language-model head: rotary embeddings, alternating windows, gated MLPs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.architecture.config import Field
from calculator.architecture.dimension import named
from calculator.architecture.model import stack
from calculator.architecture.module import embedding, linear, norm
from calculator.families.blocks import Owned, kinds_by_attention, norms
from calculator.families.classifiers import base_model, with_classifier
from calculator.families.family import Family, Parts, TaskModel
from calculator.families.fields import (
    ACTIVATIONS,
    ONE_HEAD_SIZE,
    activation,
    derived,
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
from calculator.families.modernbert import forward
from calculator.families.rope import frequencies_per_type, rope_per_type
from calculator.families.token_heads import with_head_dropout
from calculator.families.windows import layer_types

if TYPE_CHECKING:
    from calculator.architecture.config import Config
    from calculator.architecture.layer_kind import LayerKind
    from calculator.architecture.model import Model
    from calculator.architecture.task import Task


def _layer(config: Config, kind: LayerKind) -> Owned:
    hidden, inner, bias = config["hidden_size"], config["intermediate_size"], config["norm_bias"]
    return (
        # the first layer has no norm before its attention
        *(() if kind.end == "first" else norms(config, "attn_norm", bias=bias)),
        linear("attn.Wqkv", hidden, 3 * hidden, bias=config["attention_bias"]),
        linear("attn.Wo", hidden, hidden, bias=config["attention_bias"]),
        *norms(config, "mlp_norm", bias=bias),
        linear("mlp.Wi", hidden, 2 * inner, bias=config["mlp_bias"]),
        linear("mlp.Wo", inner, hidden, bias=config["mlp_bias"]),
    )


def _modernbert(config: Config) -> Parts:
    vocabulary, hidden, bias = config["vocab_size"], config["hidden_size"], config["norm_bias"]
    first, *rest = kinds_by_attention(config)
    return (
        embedding("model.embeddings.tok_embeddings", vocabulary, hidden),
        norm("model.embeddings.norm", hidden, bias=bias),
        stack("model.layers", (replace(first, end="first"), *rest), lambda kind: _layer(config, kind)),
        norm("model.final_norm", hidden, bias=bias),
        *frequencies_per_type(config, "model.rotary_emb"),
        linear("head.dense", hidden, hidden, bias=config["classifier_bias"]),
        norm("head.norm", hidden, bias=bias),
        linear("decoder", hidden, vocabulary, bias=config["decoder_bias"]),
    )


def _task_model(model: Model, task: Task) -> Model:
    """Return ModernBertForSequenceClassification, ForTokenClassification or ForQuestionAnswering."""
    config = model.config
    hidden, outputs = config["hidden_size"], 2 if task.name == "question_ans" else named(task.num_labels, "num_labels")
    head = (
        linear("head.dense", hidden, hidden, bias=config["classifier_bias"]),
        norm("head.norm", hidden, bias=config["norm_bias"]),
        linear("classifier", hidden, outputs, bias=True),
    )
    return with_head_dropout(with_classifier(model, "model.", head), 0.0)


_TOKENS = TaskModel(model=_task_model, forward=forward.TOKENS)

FAMILIES = (
    Family(
        model_type="modernbert",
        auto_class="masked-lm",
        entries=(
            size("vocab_size"),
            size("hidden_size"),
            size("intermediate_size"),
            layers(),
            size("num_attention_heads"),
            *ONE_HEAD_SIZE,
            positions(8192),
            size("local_attention", 128, maximum=1 << 31),
            derived("sliding_window", lambda config: int(config["local_attention"]) // 2),
            size("global_attn_every_n_layers", 3),
            *layer_types(lambda config, index: index % config["global_attn_every_n_layers"]),
            *rope_per_type(
                theta=160_000.0,
                theta_key="global_rope_theta",
                local_theta=10_000.0,
                local_theta_key="local_rope_theta",
                scaled=("full_attention", "sliding_attention"),
                only_by_type=True,
            ),
            *given_head_dim(),
            activation("gelu", spelled="hidden_activation"),
            number("norm_eps", 1e-5),
            *dropouts("attention_dropout", "embedding_dropout", "mlp_dropout"),
            flag("attention_bias", False),
            flag("mlp_bias", False),
            flag("norm_bias", False),
            flag("decoder_bias", True),
            flag("classifier_bias", False),
            flag("sparse_prediction", False),
            Field(name="classifier_pooling", type="text", default="cls", choices=("cls", "mean")),
            Field(name="classifier_activation", type="text", default="gelu", choices=ACTIVATIONS),
            *dropouts("classifier_dropout"),
            tie(default=True),
            *padding(50_283),
        ),
        parts=_modernbert,
        forward=None,
        tasks={
            "seq_cls": TaskModel(model=_task_model, forward=forward.MODERNBERT),
            "token_cls": _TOKENS,
            "question_ans": _TOKENS,
            "feature_extraction": TaskModel(model=base_model, forward=forward.TOKENS),
        },
        head="decoder",
        tied={"decoder.weight": "model.embeddings.tok_embeddings.weight"},
    ),
)
