"""Seeded random requests for tasks other than causal language modeling."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from calculator.families import FAMILIES
from calculator.families.tasks import families_of
from validation.random_grid.random_requests import Options, random_request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.common.names import TaskName

#: Lengths that fit learned positions.
LENGTHS = (16, 64, 100, 128, 200, 256, 333, 384, 512)

#: Methods that are refused for a task, in whose place LoRA is drawn.
UNMODELED: dict[TaskName, tuple[str, ...]] = {
    "causal_lm": (),
    "seq_cls": ("prefix",),
    "token_cls": ("prefix", "prompt", "qlora"),
    "question_ans": ("prefix", "qlora"),
    "seq_2_seq_lm": (),
    "feature_extraction": (),
    "image_cls": ("prefix", "prompt", "p_tuning", "trainable_tokens"),
}

#: Settings of a classifier.
CLASSIFIER: Options = {
    "num_labels": (0.6, (1, 3, 5, 28, 1000)),
    "problem_type": (0.2, ("multi_label_classification", "regression")),
}


def random_task_request(seed: int, number: int, task: TaskName, families: Sequence[str] = ()) -> dict[str, Any]:
    """Return the body of one request, of one of the families that have the task."""
    rng = random.Random(f"{task} {seed} {number}")
    request = random_request(seed, number, families or families_of(FAMILIES, task))
    request["training"]["sequence_length"] = rng.choice(LENGTHS)
    if request["method"]["name"] in UNMODELED[task]:
        request["method"] = {"name": "lora"}
    if task == "seq_2_seq_lm":
        request["training"] = _with_targets(rng, request["training"])
        if request["model"]["config"]["model_type"] == "whisper":
            request["training"] = _without_text_settings(request["training"])
            request["method"] = _audio_method(request["method"])
        if request["model"]["config"]["model_type"] in ("t5", "mt5"):
            request["model"]["config"]["decoder_start_token_id"] = 0
        return {**request, "task": task}
    if task == "feature_extraction":
        return {**request, "training": _with_texts(rng, request["training"]), "task": task}
    if task in ("token_cls", "question_ans") and request["method"].get("target_modules") == "all-linear":
        del request["method"]["target_modules"]
    if task == "question_ans":
        return {**request, "task": task}
    settings = CLASSIFIER if task == "seq_cls" else {"num_labels": CLASSIFIER["num_labels"]}
    if task == "image_cls":
        request["training"] = _without_text_settings(request["training"])
        settings = CLASSIFIER
    drawn = {name: rng.choice(values) for name, (share, values) in settings.items() if rng.random() < share}
    return {**request, "task": task, **drawn}


def _with_texts(rng: random.Random, training: dict[str, Any]) -> dict[str, Any]:
    """Return the training with a number of texts in each example, most often a pair."""
    more = {"texts_per_example": rng.choice((3, 4))} if rng.random() < 0.25 else {}
    return {**training, **more}


def _without_text_settings(training: dict[str, Any]) -> dict[str, Any]:
    """Return the training of images or audio without what only texts have."""
    return {name: value for name, value in training.items() if name not in ("sequence_length", "padding")}


def _audio_method(method: dict[str, Any]) -> dict[str, Any]:
    """Return the method, or LoRA for one with virtual tokens, on modules that PEFT has no default of."""
    method = method if method["name"] not in UNMODELED["image_cls"] else {"name": "lora"}
    chosen = {"target_modules": ["q_proj", "v_proj"]} if method["name"] in ("lora", "qlora", "dora") else {}
    return {**chosen, **method}


def _with_targets(rng: random.Random, training: dict[str, Any]) -> dict[str, Any]:
    """Return the training with a length of targets, and without settings that are refused for encoder-decoders."""
    kept = {name: value for name, value in training.items() if name != "attention" and value != "float16"}
    return {**kept, "target_length": rng.choice(LENGTHS)}
