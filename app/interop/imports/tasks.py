"""The task of a script, by the class of transformers that loads its model."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from calculator.estimation.trainer_settings import OF_TRAINERS
from calculator.families.family import TASK_MODELS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from app.interop.imports.keys import Keys
    from calculator.common.names import TaskName

#: The task of each call that loads a model for one.
#: AutoModel alone does not say what a model is trained for.
LOADS: dict[str, TaskName] = {
    f"{name}.from_pretrained": task for task, name in TASK_MODELS.items() if task != "feature_extraction"
}

#: The call that loads a model without a head, whose task type is that of PEFT's config.
WITHOUT_HEAD = "AutoModel.from_pretrained"

#: The call that loads the model of RewardTrainer, which has one output.
OF_REWARD = "AutoModelForSequenceClassification.from_pretrained"

#: The calls that load a model that writes the text of audio.
OF_AUDIO = ("AutoModelForSpeechSeq2Seq.from_pretrained", "WhisperForConditionalGeneration.from_pretrained")
LOADS.update(dict.fromkeys(OF_AUDIO, "seq_2_seq_lm"))

#: Tasks by parts of the names of model classes with a head: `LlamaForCausalLM`, `GPT2LMHeadModel`.
_CLASS = re.compile(r"(?P<family>\w+?)(?:For(?P<head>\w+)|LMHeadModel)\.from_pretrained")

#: The heads of models that also read images or audio, which write text.
_OF_IMAGES = ("ConditionalGeneration", "ImageTextToText", "MultimodalLM", "Vision2Seq")

#: The families whose class for conditional generation has an encoder of text.
_ENCODER_DECODERS = ("T5", "MT5", "UMT5", "Bart", "MBart", "Pegasus", "Marian", "LongT5", "M2M100")

#: The argument of Unsloth's FastModel that names the class to load.
AUTO_MODEL = "auto_model"

#: The tasks whose model has as many outputs as labels.
_CLASSIFIERS: tuple[TaskName, ...] = ("seq_cls", "token_cls", "image_cls")

_PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")


def trains_for(calls: Iterable[str], auto_model: str | None = None) -> str | None:
    """Return the call that loads the model of a task; None if a script trains a language model.

    A script of TRL, or one that loads a language model too, scores answers with a classifier. `auto_model` is the class
    that Unsloth's FastModel loads.
    """
    names = tuple(calls)
    if auto_model is not None and is_read(auto_model):
        return f"{auto_model}.from_pretrained"
    others = ("AutoModelForCausalLM", "Fast", "SFT", "DPO", "KTO", "Reward", "ORPO", "GRPO", "RLOO")
    if any(name.startswith(others) for name in names):
        return None
    return next((name for name in names if name in LOADS), None)


def loads(call: str) -> str:
    """Return the call of transformers' Auto class that loads what a call of a model's own class loads."""
    match = _CLASS.fullmatch(call)
    if match is None or call in LOADS:
        return call
    family, head = match["family"], match["head"] or "CausalLM"
    if family in _ENCODER_DECODERS and head == "ConditionalGeneration":
        head = "Seq2SeqLM"
    return f"AutoModelFor{'CausalLM' if head in _OF_IMAGES else head}.from_pretrained"


def may_read_images(calls: Iterable[str]) -> bool:
    """Return whether a script loads a model with a class of those that also read images."""
    heads = [match["head"] for match in map(_CLASS.fullmatch, calls) if match is not None]
    return any(head in _OF_IMAGES for head in heads)


def is_read(auto_model: str) -> bool:
    """Return whether a class that FastModel loads is that of a task."""
    return f"{auto_model}.from_pretrained" in LOADS


def embeds(arguments: Mapping[str, Any], unread: Mapping[str, str]) -> bool:
    """Return whether a script's PEFT config has the task type of models without a head."""
    stated = arguments.get("task_type", unread.get("task_type"))
    return isinstance(stated, str) and stated.rpartition(".")[2] == "FEATURE_EXTRACTION"


def own_loop_training(keys: Keys, training: dict[str, Any]) -> dict[str, Any]:
    """Return the training of a script that embeds texts, whose model computes no loss: in the reference step."""
    keys.warn(
        "task_type FEATURE_EXTRACTION",
        "The model computes no loss, so the script has one of its own.",
        "the reference step with in-batch negatives",
    )
    return {name: value for name, value in training.items() if name != "trainer" and name not in OF_TRAINERS}


def task_of(keys: Keys) -> dict[str, Any]:
    """Return the task of a script's model, and its labels; nothing for a language model."""
    load = trains_for(keys.script.calls, keys.script.unread.get(AUTO_MODEL))
    if load is None:
        return {}
    task = LOADS[load]
    if task not in _CLASSIFIERS:
        return {"task": task}
    request: dict[str, Any] = {"task": task, "num_labels": _labels(keys)}
    if task != "token_cls":
        problem = keys.choice("problem_type", {name: name for name in _PROBLEM_TYPES}, None, "that of the labels")
        request |= {"problem_type": problem} if problem else {}
    return request


def _labels(keys: Keys) -> int:
    """Return the number of labels: `num_labels`, or those that `id2label` names."""
    names = keys.take("id2label")
    if keys.left.get("num_labels") is not None:
        keys.not_understood = [entry for entry in keys.not_understood if entry.key != "id2label"]
    return keys.integer("num_labels", len(names) if isinstance(names, dict) and names else 2)


def has_fixed_length(keys: Keys, task: Mapping[str, Any]) -> bool:
    """Return whether the config of a script's model decides its length: that of images, or of audio."""
    load = trains_for(keys.script.calls, keys.script.unread.get(AUTO_MODEL)) if task else None
    return task.get("task") == "image_cls" or load in OF_AUDIO or any(name in OF_AUDIO for name in keys.script.calls)


def without_length(keys: Keys, training: dict[str, Any]) -> dict[str, Any]:
    """Return the training of a model of images or audio, which has no length to choose and no padding."""
    keys.not_understood = [entry for entry in keys.not_understood if entry.key != "max_length"]
    return {name: value for name, value in training.items() if name not in ("padding", "sequence_length")}
