"""The models for token classification and question answering, whose head is a dropout and a linear layer."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from calculator.architecture.config import Field, read
from calculator.architecture.dimension import named
from calculator.architecture.module import linear

if TYPE_CHECKING:
    from collections.abc import Mapping

    from calculator.architecture.model import Model
    from calculator.architecture.task import Task
    from calculator.common.names import TaskName

#: The head of each decoder's model for token classification.
#: Source: transformers/models/auto/modeling_auto.py, MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES.
TOKEN_HEADS: dict[str, str] = {
    **dict.fromkeys(
        (
            "apertus", "arcee", "deepseek_v3", "exaone4", "gemma", "gemma2", "glm", "glm4", "gpt_oss", "llama",
            "ministral", "ministral3", "mistral", "mixtral", "nemotron", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3",
            "qwen3_moe", "seed_oss", "smollm3", "stablelm", "starcoder2",
        ),
        "score",
    ),
    **dict.fromkeys(("bloom", "falcon", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "mpt"), "classifier"),
}  # fmt: skip

#: The decoders whose model for question answering names its base model as their other models do.
#: Source: the same file, MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES. Llama's model, for example, names it
#: `transformer`.
ANSWERING = frozenset({"gptj", "ministral3", "mistral", "mixtral", "qwen2_moe"})

#: The model types for a task, without families that have models of their own.
TYPES: Mapping[TaskName, frozenset[str]] = MappingProxyType(
    {"token_cls": frozenset(TOKEN_HEADS), "question_ans": ANSWERING}
)

#: The default probability of dropout before the head.
_DROPOUT = 0.1
#: The families whose config class has `classifier_dropout`, with the default 0.1.
_WITH_OWN_DROPOUT = ("gpt_neo", "gpt_neox")


def with_task_head(model: Model, task: Task, raw: Mapping[str, Any]) -> Model:
    """Return a decoder's model for token classification or question answering.

    Raises:
        PlanError: if a dropout probability in the file is wrong.
    """
    hidden = model.embedding.out_features
    if task.name == "question_ans":
        return with_head_dropout(model.with_head(linear("qa_outputs", hidden, 2, bias=True)), 0.0)
    head = linear(TOKEN_HEADS[model.model_type], hidden, named(task.num_labels, "num_labels"), bias=True)
    given = read(tuple(map(_probability, ("classifier_dropout", "hidden_dropout"))), raw)
    dropouts = (
        given["classifier_dropout"],
        _DROPOUT if model.model_type in _WITH_OWN_DROPOUT else None,
        model.config.get("hidden_dropout", given["hidden_dropout"]),
        _DROPOUT,
    )
    return with_head_dropout(model.with_head(head), next(dropout for dropout in dropouts if dropout is not None))


def _probability(name: str) -> Field:
    return Field(name=name, type="number", default=None, nullable=True, minimum=0, maximum=1)


def with_head_dropout(model: Model, probability: float) -> Model:
    """Return the model with the dropout probability before its head in its config."""
    return replace(model, config=MappingProxyType({**model.config, "head_dropout": probability}))
