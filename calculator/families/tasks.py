"""The models for tasks other than causal language modeling."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from calculator.common.errors import refusal
from calculator.families import token_heads
from calculator.families.classifiers import base_model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from calculator.architecture.model import Model
    from calculator.architecture.task import Task
    from calculator.common.names import TaskName
    from calculator.families.family import Family

#: The decoders whose model for sequence classification has the head `score`.
#: Source: transformers/models/auto/modeling_auto.py, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.
SCORED = frozenset(
    {
        "arcee", "bloom", "deepseek_v2", "deepseek_v3", "exaone4", "falcon", "gemma", "gemma2", "gemma3_text", "glm",
        "glm4", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gpt_oss", "gptj", "hunyuan_v1_dense", "llama",
        "ministral", "ministral3", "mistral", "mixtral", "mpt", "nemotron", "olmo", "olmo2", "olmo3", "opt", "phi",
        "phi3", "phimoe", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "seed_oss", "smollm3", "stablelm", "starcoder2",
    }
)  # fmt: skip


#: The decoders whose base model is not modeled: AutoModel gives Llama 4 a vision tower, and the base model of
#: LLaVA-NeXT has an additional parameter.
OTHER_BASES = frozenset({"llama4", "llava_next"})


def families_of(families: Mapping[str, Family], task: TaskName) -> tuple[str, ...]:
    """Return the sorted model types whose step for a task is modeled."""
    if task == "causal_lm":
        return tuple(sorted(name for name, family in families.items() if family.forward is not None))
    without_own = _decoders(families) if task == "feature_extraction" else _without_own(task)
    return tuple(sorted(without_own.union(name for name, family in families.items() if task in family.tasks)))


def _without_own(task: TaskName) -> frozenset[str]:
    """Return the model types whose head for a task is one that many decoders have."""
    return SCORED if task == "seq_cls" else token_heads.TYPES.get(task, frozenset())


def _decoders(families: Mapping[str, Family]) -> frozenset[str]:
    """Return the types of decoders whose base model is the language model without its head."""
    return frozenset(
        name
        for name, family in families.items()
        if family.forward is not None and family.built_as is None and name not in OTHER_BASES
    )


def for_task(model: Model, families: Mapping[str, Family], task: Task, raw: Mapping[str, Any]) -> Model:
    """Convert the model of a file to the model for a task. `raw` is the file.

    Raises:
        PlanError: if transformers has no such model, or its step is not modeled.
    """
    if task.name == "causal_lm":
        return replace(model.with_images, task=task) if task.has_images else model
    if task.name == "seq_cls" and model.model_type in SCORED:
        return replace(model.with_score(task.num_labels), task=task)
    if task.embeds and model.model_type in _decoders(families):
        return replace(base_model(model, task), task=task)
    if model.model_type in _without_own(task.name):
        return replace(token_heads.with_task_head(model, task, raw), task=task)
    modeled = families[model.model_type].tasks.get(task.name)
    if modeled is None:
        message = (
            f"{task.name} of {model.model_type} is not modeled: leave task out, or use a model of another type:"
            f" {', '.join(families_of(families, task.name))}"
        )
        raise refusal("task", message, task.name)
    return replace(modeled.model(model, task), task=task)
