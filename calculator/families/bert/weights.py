"""BERT and RoBERTa with a masked-language-model head: learned positions, LayerNorm after each sublayer."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from calculator.architecture.config import Check, Computed, Field
from calculator.architecture.dimension import named
from calculator.architecture.model import stack
from calculator.architecture.module import Buffer, bare, embedding, linear, norm
from calculator.common.errors import shown
from calculator.families.bert import forward
from calculator.families.blocks import Owned, uniform_layers
from calculator.families.classifiers import base_model, with_classifier, with_token_head
from calculator.families.family import Family, Parts, TaskModel
from calculator.families.fields import (
    ONE_HEAD_SIZE,
    activation,
    dropouts,
    flag,
    layers,
    number,
    padding,
    positions,
    size,
    tie,
    unsupported_flag,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from calculator.architecture.config import Config, Entry
    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.architecture.task import Task
    from calculator.common.names import TaskName
    from calculator.layers.decoder_forward import DecoderForward

_HEAD = (
    activation("gelu"),
    number("layer_norm_eps", 1e-12),
    *dropouts("hidden_dropout_prob", "attention_probs_dropout_prob", default=0.1),
)

#: The fields of BERT and RoBERTa. RoBERTa only differs in its padding token.
ENTRIES: tuple[Entry, ...] = (
    size("vocab_size"),
    size("hidden_size"),
    size("intermediate_size"),
    layers(),
    size("num_attention_heads"),
    *ONE_HEAD_SIZE,
    size("type_vocab_size", 2),
    positions(512),
    *_HEAD,
    flag("use_cache", True),
    flag("is_decoder", False),
    *unsupported_flag("add_cross_attention", "a decoder that attends to an encoder is not modeled"),
    Field(name="classifier_dropout", type="number", default=None, nullable=True, minimum=0, maximum=1),
    tie(default=True),
)


def encoder_layer(config: Config, names: tuple[str, str, str] = ("query", "key", "value")) -> Owned:
    """Return the modules of attention and of the MLP, each followed by a norm."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    queries = config["num_attention_heads"] * config["head_dim"]
    return (
        *(linear(f"attention.self.{name}", hidden, queries, bias=True) for name in names),
        linear("attention.output.dense", hidden, hidden, bias=True),
        norm("attention.output.LayerNorm", hidden, bias=True),
        linear("intermediate.dense", hidden, inner, bias=True),
        linear("output.dense", inner, hidden, bias=True),
        norm("output.LayerNorm", hidden, bias=True),
    )


def _encoder(config: Config, name: str, embeddings: tuple[str, ...]) -> Parts:
    hidden, longest = config["hidden_size"], config["max_position_embeddings"]
    tables = {
        "word_embeddings": embedding(f"{name}.embeddings.word_embeddings", config["vocab_size"], hidden),
        "position_embeddings": embedding(f"{name}.embeddings.position_embeddings", longest, hidden),
        "token_type_embeddings": embedding(
            f"{name}.embeddings.token_type_embeddings", config["type_vocab_size"], hidden
        ),
        "LayerNorm": norm(f"{name}.embeddings.LayerNorm", hidden, bias=True),
    }
    ids = ("position_ids", "token_type_ids")
    return (
        *(tables[embedding] for embedding in embeddings),
        *(Buffer(name=f"{name}.embeddings.{id_}", shape=(1, longest), dtype="int64") for id_ in ids),
        stack(f"{name}.encoder.layer", uniform_layers(config), lambda _kind: encoder_layer(config)),
    )


def _bert(config: Config) -> Parts:
    vocabulary, hidden = config["vocab_size"], config["hidden_size"]
    tables = ("word_embeddings", "position_embeddings", "token_type_embeddings", "LayerNorm")
    return (
        *_encoder(config, "bert", tables),
        bare("cls.predictions", "other", bias=(vocabulary,)),
        linear("cls.predictions.transform.dense", hidden, hidden, bias=True),
        norm("cls.predictions.transform.LayerNorm", hidden, bias=True),
        linear("cls.predictions.decoder", hidden, vocabulary, bias=True),
    )


_ROBERTA_TABLES = ("word_embeddings", "token_type_embeddings", "LayerNorm", "position_embeddings")


def _without_position(config: Config) -> str | None:
    """Return an error if the table of positions has no row for the id of the padding token.

    RoBERTa's positions begin after that id.
    """
    token, rows = config["pad_token_id"], config["max_position_embeddings"]
    return f"{shown(token)} has no row among {shown(rows)} positions" if token is not None and token >= rows else None


_ROBERTA = (
    *ENTRIES,
    *padding(1),
    Check(name="pad_token_id", problem=_without_position),
    Computed(
        name="usable_positions",
        value=lambda config: int(config["max_position_embeddings"]) - (config["pad_token_id"] or 0) - 1,
    ),
)


def _bert_classifier(model: Model, task: Task) -> Model:
    """Return the model with a pooler and a classifier as its head.

    Source: transformers' BertForSequenceClassification.
    """
    hidden = model.config["hidden_size"]
    head = (
        linear("bert.pooler.dense", hidden, hidden, bias=True),
        linear("classifier", hidden, named(task.num_labels, "num_labels"), bias=True),
    )
    return with_classifier(model, "bert.", head)


def _roberta_classifier(model: Model, task: Task) -> Model:
    """Return the model with RobertaClassificationHead as its head."""
    hidden = model.config["hidden_size"]
    head = (
        linear("classifier.dense", hidden, hidden, bias=True),
        linear("classifier.out_proj", hidden, named(task.num_labels, "num_labels"), bias=True),
    )
    return with_classifier(model, "roberta.", head)


def _token_model(model: Model, task: Task, base: str) -> Model:
    """Return BertForTokenClassification or BertForQuestionAnswering, or RoBERTa's classes."""
    classifier_dropout, hidden_dropout = model.config["classifier_dropout"], model.config["hidden_dropout_prob"]
    return with_token_head(model, base, task, hidden_dropout if classifier_dropout is None else classifier_dropout)


def _with_pooler(model: Model, task: Task, base: str) -> Model:
    """Return BertModel or RobertaModel with the pooler that AutoModel adds."""
    hidden = model.config["hidden_size"]
    return base_model(model, task, (linear(f"{base}pooler.dense", hidden, hidden, bias=True),))


def _tasks(
    base: str,
    classifier: Callable[[Model, Task], Model],
    sequence_forward: DecoderForward,
    token_forward: DecoderForward,
    text_forward: DecoderForward,
) -> Mapping[TaskName, TaskModel]:
    tokens = TaskModel(model=partial(_token_model, base=base), forward=token_forward)
    return {
        "seq_cls": TaskModel(model=classifier, forward=sequence_forward),
        "token_cls": tokens,
        "question_ans": tokens,
        "feature_extraction": TaskModel(model=partial(_with_pooler, base=base), forward=text_forward),
    }


def _xlm_roberta_classifier(model: Model, task: Task) -> Model:
    """Return the model with RobertaClassificationHead. XLM-RoBERTa's class creates it before its base model."""
    classifier = _roberta_classifier(model, task)
    return replace(classifier, parts=(*classifier.parts[-2:], *classifier.parts[:-2]))


def _roberta_head(config: Config) -> tuple[Module, ...]:
    vocabulary, hidden = config["vocab_size"], config["hidden_size"]
    return (
        bare("lm_head", "other", bias=(vocabulary,)),
        linear("lm_head.dense", hidden, hidden, bias=True),
        norm("lm_head.layer_norm", hidden, bias=True),
        linear("lm_head.decoder", hidden, vocabulary, bias=True),
    )


def _roberta(config: Config) -> Parts:
    return (*_encoder(config, "roberta", _ROBERTA_TABLES), *_roberta_head(config))


def _xlm_roberta(config: Config) -> Parts:
    return (*_roberta_head(config), *_encoder(config, "roberta", _ROBERTA_TABLES))


FAMILIES = (
    Family(
        model_type="bert",
        auto_class="masked-lm",
        entries=(*ENTRIES, *padding(0)),
        parts=_bert,
        forward=None,
        tasks=_tasks("bert.", _bert_classifier, forward.BERT, forward.BERT_TOKENS, forward.BERT_TEXTS),
        head="cls.predictions.decoder",
        tied={
            "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
            "cls.predictions.decoder.bias": "cls.predictions.bias",
        },
    ),
    Family(
        model_type="roberta",
        auto_class="masked-lm",
        entries=_ROBERTA,
        parts=_roberta,
        forward=None,
        tasks=_tasks("roberta.", _roberta_classifier, forward.ROBERTA, forward.ROBERTA_TOKENS, forward.ROBERTA_TEXTS),
        head="lm_head.decoder",
        tied={
            "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
            "lm_head.decoder.bias": "lm_head.bias",
        },
    ),
    Family(
        model_type="xlm-roberta",
        auto_class="masked-lm",
        entries=_ROBERTA,
        parts=_xlm_roberta,
        forward=None,
        tasks=_tasks(
            "roberta.", _xlm_roberta_classifier, forward.ROBERTA, forward.ROBERTA_TOKENS, forward.ROBERTA_TEXTS
        ),
        head="lm_head.decoder",
        # named_parameters() lists a tied parameter under its first name, which is the head's here
        tied={
            "roberta.embeddings.word_embeddings.weight": "lm_head.decoder.weight",
            "lm_head.decoder.bias": "lm_head.bias",
        },
    ),
)
