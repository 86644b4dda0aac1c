"""Unrolled layers of which three periods are interpreted, and those for which three are not enough."""

import pytest

from calculator.allocator.fast_replay import peak_reserved
from calculator.allocator.replay import full_peak_reserved
from calculator.estimation.estimate import resident_state
from calculator.estimation.request import parse_request
from calculator.training_step import equal_periods, periods
from calculator.training_step.unrolled import every_event, unrolled
from tests.calculator.allocator.test_replay import WORKSPACES, in_order

LORA = {"name": "lora", "r": 16, "target_modules": "all-linear"}
QLORA = {**LORA, "name": "qlora"}
CHECKPOINTED = {"gradient_checkpointing": True}
DEEP = [
    ("meta-llama/Llama-3.2-1B", LORA, {}),
    ("meta-llama/Llama-3.2-1B", QLORA, {**CHECKPOINTED, "trainer": "trl-sft"}),
    ("meta-llama/Llama-3.2-1B", {"name": "full"}, {**CHECKPOINTED, "autocast": "bfloat16"}),
    ("google/gemma-3-270m", QLORA, CHECKPOINTED),
    ("openai-community/gpt2", {"name": "full"}, {}),
    ("Qwen/Qwen3-0.6B", LORA, {"trainer": "trl-dpo"}),
]


def resident(model, method, training):
    return resident_state(parse_request({"model": model, "method": method, "training": training}))


@pytest.mark.parametrize(("model", "method", "training"), DEEP)
def test_three_periods_have_the_events_of_every_layer(monkeypatch, model, method, training):
    monkeypatch.delattr(periods.Periods, "_partners")
    state = resident(model, method, training)
    assert in_order(unrolled(state.prepared).events()) == in_order(every_event(state.prepared))
    assert peak_reserved(state, WORKSPACES) == full_peak_reserved(state, WORKSPACES)


def test_the_last_layer_is_listed_apart_if_it_has_the_first_product_of_the_backward_pass():
    """The loss of `trl-sft` computes the head's gradients in the forward pass."""
    states = [resident(*DEEP[0][:2], {**CHECKPOINTED, **training}) for training in ({}, {"trainer": "trl-sft"})]
    assert [len(unrolled(state.prepared).backward) for state in states] == [3, 4]
    assert peak_reserved(states[1], WORKSPACES) == full_peak_reserved(states[1], WORKSPACES)
    assert in_order(unrolled(states[1].prepared).events()) == in_order(every_event(states[1].prepared))


def test_layers_that_free_masks_of_an_attention_type_need_four_periods():
    state = resident("google/gemma-2-2b", LORA, CHECKPOINTED)
    assert len(unrolled(state.prepared).backward) == 5
    assert in_order(unrolled(state.prepared).events()) == in_order(every_event(state.prepared))


def test_every_layer_is_interpreted_if_periods_free_different_numbers_of_tensors():
    """The last of five layers is of the type of the first, so that its masks are freed with it."""
    config = {
        "model_type": "gemma3_text",
        "hidden_size": 96,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 48,
        "intermediate_size": 128,
        "vocab_size": 320,
        "num_hidden_layers": 5,
        "sliding_window": 1024,
        "sliding_window_pattern": 2,
    }
    training = {"trainer": "trl-dpo", "micro_batch_size": 4, "gradient_accumulation_steps": 3, "sequence_length": 64}
    state = resident({"config": config}, {"name": "adapter", "bottleneck_size": 64}, training)
    assert in_order(unrolled(state.prepared).events()) == in_order(every_event(state.prepared))


def test_rows_of_neighboring_periods_have_to_adjoin():
    """Only then is it certain where the rows of the periods between them are freed."""
    assert equal_periods._are_adjacent([7, ~1, ~2, ~3, ~4, 8], {1: 3, 2: 4})
    assert equal_periods._are_adjacent([7, ~3, ~4, ~1, ~2, 8], {1: 3, 2: 4})
    assert not equal_periods._are_adjacent([~1, 7, ~3], {1: 3})
    assert not equal_periods._are_adjacent([~1, ~2, ~4, ~3], {1: 3, 2: 4})
