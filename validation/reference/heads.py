"""The class of transformers that builds the model of a type for a task, as its auto classes list them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import transformers
from transformers.models.auto import modeling_auto

from calculator.families import FAMILIES
from calculator.families.family import TASK_MODELS

if TYPE_CHECKING:
    from calculator.common.names import TaskName

#: Each auto class that has a language modeling loss, with its mapping from model types; the first that fits is used.
MAPPINGS: dict[str, Any] = {
    "AutoModelForCausalLM": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "AutoModelForSeq2SeqLM": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "AutoModelForMaskedLM": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "AutoModelForImageTextToText": modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
}


def head_of(model_type: str, task: TaskName = "causal_lm") -> str | None:
    """Return the name of the auto class for a model type and a task; None if transformers has no such model of it."""
    if model_type in FAMILIES:
        return FAMILIES[model_type].auto_model_for(task)
    if task in TASK_MODELS:
        name = TASK_MODELS[task]
        return name if model_type in getattr(transformers, name)._model_mapping._model_mapping else None
    return next((name for name, types in MAPPINGS.items() if model_type in types), None)


def language_model(model_type: str, task: TaskName = "causal_lm") -> Any:
    """Return the auto class that builds the model of a type for a task.

    Raises:
        ValueError: if transformers has none.
    """
    name = head_of(model_type, task)
    if name is None:
        raise ValueError(f"transformers has no model of the type {model_type} for the task {task}")
    return getattr(transformers, name)
