"""Trainers of models that also read images. tests/cases/trainers.jsonl has traced steps."""

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request

CONFIG = {
    "model_type": "mistral3",
    "text_config": {
        "model_type": "mistral",
        "vocab_size": 517,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "sliding_window": None,
    },
    "vision_config": {
        "model_type": "pixtral",
        "hidden_size": 64,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": 7,
        "image_size": 28,
    },
}


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({"trainer": "trl-reward"}, "also reads images, is modeled with transformers, .* and trl-rloo"),
        ({"trainer": "trl-sft", "use_liger_kernel": True}, "is not modeled with a trainer for mistral3"),
    ],
)
def test_settings_that_are_not_modeled_are_refused(training: dict, words: str) -> None:
    body = {"model": {"config": CONFIG}, "method": {"name": "full"}, "training": {"sequence_length": 64, **training}}
    with pytest.raises(PlanError, match=words):
        estimate(parse_request(body))


@pytest.mark.parametrize(("trainer", "warns"), [("trl-dpo", True), ("trl-kto", True), ("trl-sft", False)])
def test_a_processor_that_needs_images_is_warned_about_if_answers_are_processed_without(
    trainer: str, warns: bool
) -> None:
    training = {"trainer": trainer, "micro_batch_size": 2, "sequence_length": 512, "images": {"images_per_sequence": 1}}
    body = {
        "model": "google/paligemma-3b-pt-224",
        "method": {"name": "lora", "target_modules": ["q_proj"]},
        "training": training,
        "reserved": "rule",
    }
    warnings = estimate(parse_request(body)).warnings
    assert any("which the processor of paligemma refuses" in warning for warning in warnings) is warns
