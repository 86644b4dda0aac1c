"""A trainer's script that Headroom writes is read with the rows that it makes, and files with their launcher."""

import dataclasses

import pytest

from app.api.export import answer
from app.interop.imports import read
from calculator.estimation.request import parse_request
from calculator.inputs.training_settings import CheckpointingKwargs

SMALL = {"model": "Qwen/Qwen3-0.6B", "method": {"name": "lora", "r": 8}}


def plan(trainer, **training):
    return {**SMALL, "training": {"trainer": trainer, "micro_batch_size": 4, "sequence_length": 600, **training}}


@pytest.mark.parametrize(
    "body",
    [
        plan("transformers"),
        plan("transformers", padding=True, autocast="bfloat16", gradient_checkpointing=True),
        plan("transformers", adapter_dtype="model"),
        plan("trl-sft", autocast="bfloat16"),
        plan("trl-sft", padding=True, autocast="bfloat16"),
        plan("trl-dpo", padding=True, autocast="bfloat16"),
        plan("trl-grpo", max_completion_length=400, num_generations=4, autocast="bfloat16"),
        {
            **plan("transformers", dtype="float32", sequence_length=300),
            "model": "google-bert/bert-base-uncased",
            "task": "seq_cls",
            "num_labels": 3,
            "method": {"name": "lora", "r": 8, "target_modules": ["query"]},
        },
    ],
)
def test_a_script_of_a_trainer_survives_the_round_trip(body):
    found = read(answer({**body, "format": "peft"}).content)
    assert (found.not_understood, found.warnings) == ((), ())
    expected = parse_request(body)
    if expected.training.gradient_checkpointing:
        kwargs = CheckpointingKwargs(use_reentrant=False)
        training = dataclasses.replace(expected.training, gradient_checkpointing_kwargs=kwargs)
        expected = dataclasses.replace(expected, training=training)
    assert parse_request(found.request) == expected


@pytest.mark.parametrize("tool", ["axolotl", "llama-factory"])
def test_a_file_for_several_gpus_states_their_number_in_its_command(tool):
    body = {**plan("transformers", autocast="bfloat16"), "device": {"count": 4, "sharding": "ddp"}}
    found = read(answer({**body, "format": tool}).content)
    assert found.request["device"] == {"count": 4, "sharding": "ddp"}


def test_a_file_that_another_file_distributes_says_so():
    body = {**plan("transformers", autocast="bfloat16", dtype="float32"), "device": {"count": 4, "sharding": "fsdp"}}
    found = read(answer({**body, "format": "llama-factory"}).content)
    assert "Import that file too" in found.warnings[0]
    zero = {**plan("transformers", autocast="bfloat16"), "device": {"count": 4, "sharding": "zero2"}}
    script = read(answer({**zero, "format": "peft"}).content)
    assert any("deepspeed.json" in warning for warning in script.warnings)
