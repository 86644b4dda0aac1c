"""The tasks of transformers' auto classes, each with its model types."""

from __future__ import annotations

from typing import Any

from transformers.models.auto import modeling_auto as auto

#: The model types of each task.
TASKS: dict[str, Any] = {
    "causal LM": auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "seq2seq LM": auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "masked LM": auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "image-text to text": auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    "speech to text": auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
    "CTC": auto.MODEL_FOR_CTC_MAPPING_NAMES,
    "audio classification": auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES,
    "image classification": auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    "sequence classification": auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "token classification": auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "question answering": auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
}


def model_types() -> list[str]:
    """Return every model type of a task, in the order of the tasks."""
    return list(dict.fromkeys(name for types in TASKS.values() for name in types))


def tasks_of(model_type: str) -> list[str]:
    """Return the tasks of a model type."""
    return [task for task, types in TASKS.items() if model_type in types]
