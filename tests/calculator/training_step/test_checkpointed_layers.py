"""Layers under FSDP2 that are recorded again have the events that they have when each of them is interpreted."""

from itertools import groupby

import pytest

from calculator.common.garbage import without_collections
from calculator.engine.frame_snapshots import without_frame_snapshots
from calculator.estimation.estimate import resident_state
from calculator.estimation.request import parse_request
from calculator.training_step.causal_lm import micro_batch
from calculator.training_step.checkpointed_layers import EqualLayers, LayersDifferError
from calculator.training_step.run import interpreted
from calculator.training_step.training_context import training_context
from tests.calculator.training_step.test_whole_tape import GEMMA, LLAMA

GPT2 = {"model_type": "gpt2", "n_embd": 64, "n_layer": 6, "n_head": 4, "n_positions": 128, "vocab_size": 1000}
FULL, LORA = {"name": "full"}, {"name": "lora", "target_modules": "all-linear"}
QLORA = {"name": "qlora", "r": 2, "quant_storage": "bfloat16"}
#: A gradient of HiRA's transposed weight stays alive after the layer's backward pass.
HIRA = {"name": "hira"}

CASES = [
    (LLAMA, FULL, {}),
    (LLAMA, LORA, {"gradient_accumulation_steps": 4}),
    (LLAMA, QLORA, {"trainer": "trl-sft"}),
    (LLAMA, {**LORA, "lora_dropout": 0.1}, {"fsdp_config": {"reshard_after_forward": False}}),
    (LLAMA, {"name": "adapter"}, {}),
    (GEMMA, FULL, {"fsdp_config": {"cpu_offload": True}}),
    (GEMMA, QLORA, {}),
]


def contexts(config, method, training):
    """A function that returns a new context of a request's micro-batch."""
    settings = {"sequence_length": 48, "autocast": "bfloat16", "gradient_checkpointing": True, **training}
    body = {"model": {"config": config}, "method": method, "training": settings}
    prepared = resident_state(parse_request({**body, "device": {"count": 4, "sharding": "fsdp"}})).prepared
    return lambda: training_context(prepared)


def recorded(tape):
    """The rows, the events up to the end with frees in a row in one order, and the marks."""
    runs = groupby(tape.events[: tape.position("end")], key=lambda event: event < 0)
    events = [sorted(some) if is_free else [*some] for is_free, some in runs]
    return tape.rows, events, tape.marks, tape.marked_rows


@without_collections
def tape_of(context_of, *, records_again):
    """The tape of a micro-batch."""
    context = context_of()
    context.records_layers_again = records_again
    without_frame_snapshots(micro_batch)(context)
    return context.tape


@pytest.mark.parametrize(("config", "method", "training"), CASES)
def test_layers_that_are_recorded_again_have_their_own_events(config, method, training, monkeypatch):
    known, again = [], EqualLayers.record_again
    monkeypatch.setattr(EqualLayers, "record_again", lambda *given: known.append(1) or again(*given))
    context_of = contexts(config, method, training)
    assert recorded(tape_of(context_of, records_again=True)) == recorded(tape_of(context_of, records_again=False))
    assert known


def test_layers_are_interpreted_if_they_leave_something_else():
    context_of = contexts(GPT2, HIRA, {})
    with pytest.raises(LayersDifferError):
        tape_of(context_of, records_again=True)
    assert (
        interpreted(context_of(), whole=True, another=context_of).tape.rows
        == tape_of(context_of, records_again=False).rows
    )
