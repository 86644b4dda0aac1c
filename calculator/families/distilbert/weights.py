"""DistilBERT with its masked-language-model head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.architecture.model import stack
from calculator.architecture.module import Buffer, embedding, linear, norm
from calculator.families.blocks import Owned, uniform_layers
from calculator.families.classifiers import base_model, with_classifier, with_token_head
from calculator.families.distilbert import forward
from calculator.families.family import Family, Parts, TaskModel
from calculator.families.fields import ONE_HEAD_SIZE, activation, dropouts, flag, layers, padding, positions, size, tie

if TYPE_CHECKING:
    from calculator.architecture.config import Config
    from calculator.architecture.model import Model
    from calculator.architecture.task import Task


def _layer(config: Config) -> Owned:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    return (
        *(linear(f"attention.{name}_lin", hidden, hidden, bias=True) for name in ("q", "k", "v", "out")),
        norm("sa_layer_norm", hidden, bias=True),
        linear("ffn.lin1", hidden, inner, bias=True),
        linear("ffn.lin2", inner, hidden, bias=True),
        norm("output_layer_norm", hidden, bias=True),
    )


def _distilbert(config: Config) -> Parts:
    vocabulary, hidden, longest = config["vocab_size"], config["hidden_size"], config["max_position_embeddings"]
    return (
        embedding("distilbert.embeddings.word_embeddings", vocabulary, hidden),
        embedding("distilbert.embeddings.position_embeddings", longest, hidden),
        norm("distilbert.embeddings.LayerNorm", hidden, bias=True),
        Buffer(name="distilbert.embeddings.position_ids", shape=(1, longest), dtype="int64"),
        stack("distilbert.transformer.layer", uniform_layers(config), lambda _kind: _layer(config)),
        linear("vocab_transform", hidden, hidden, bias=True),
        norm("vocab_layer_norm", hidden, bias=True),
        linear("vocab_projector", hidden, vocabulary, bias=True),
    )


def _classifier(model: Model, task: Task) -> Model:
    """Return the model with two linear layers as its head.

    Source: transformers' DistilBertForSequenceClassification.
    """
    hidden = model.config["hidden_size"]
    head = (
        linear("pre_classifier", hidden, hidden, bias=True),
        linear("classifier", hidden, named(task.num_labels, "num_labels"), bias=True),
    )
    return with_classifier(model, "distilbert.", head)


def _token_model(model: Model, task: Task) -> Model:
    """Return DistilBertForTokenClassification or DistilBertForQuestionAnswering."""
    return with_token_head(model, "distilbert.", task, model.config["dropout"], model.config["qa_dropout"])


_TOKENS = TaskModel(model=_token_model, forward=forward.TOKENS)

FAMILIES = (
    Family(
        model_type="distilbert",
        auto_class="masked-lm",
        entries=(
            size("vocab_size"),
            size("hidden_size", spelled="dim", aliases=("hidden_size",)),
            size("intermediate_size", spelled="hidden_dim"),
            layers(spelled="n_layers", aliases=("num_hidden_layers",)),
            size("num_attention_heads", spelled="n_heads", aliases=("num_attention_heads",)),
            *ONE_HEAD_SIZE,
            positions(512),
            flag("sinusoidal_pos_embds", False),
            activation("gelu", spelled="activation"),
            *dropouts("dropout", "attention_dropout", default=0.1),
            *dropouts("seq_classif_dropout", default=0.2),
            *dropouts("qa_dropout", default=0.1),
            tie(default=True),
            *padding(0),
        ),
        parts=_distilbert,
        forward=None,
        tasks={
            "seq_cls": TaskModel(model=_classifier, forward=forward.DISTILBERT),
            "token_cls": _TOKENS,
            "question_ans": _TOKENS,
            "feature_extraction": TaskModel(model=base_model, forward=forward.TOKENS),
        },
        head="vocab_projector",
        tied={"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"},
    ),
)
