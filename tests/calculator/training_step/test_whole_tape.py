"""A tape whose third period is repeated is that of every layer interpreted."""

import pytest

from calculator.engine import module_calls
from calculator.estimation.estimate import resident_state
from calculator.estimation.request import parse_request
from calculator.training_step import whole_tape

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 9,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
}
GEMMA = {
    **LLAMA,
    "model_type": "gemma2",
    "num_hidden_layers": 12,
    "head_dim": 16,
    "sliding_window": 32,
    "query_pre_attn_scalar": 16,
}
MIXTRAL = {**LLAMA, "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
METHODS = ({"name": "full"}, {"name": "lora", "target_modules": "all-linear"}, {"name": "qlora", "r": 2})


def prepared(sharding, config, method, training):
    body = {"model": {"config": config}, "method": method, "training": {"sequence_length": 48, **training}}
    return resident_state(parse_request({**body, "device": {"count": 4, "sharding": sharding}})).prepared


def recorded(tape):
    """The rows, the events and the marks up to the end, with views numbered in the order in which they come."""
    end, numbers = tape.position("end"), {}
    events = tape.events[:end]
    marks = []
    for at, label in tape.marks:
        if label.startswith((module_calls.PINNED, module_calls.UNPINNED)):
            kind, view, name = label.split(maxsplit=2)
            marks.append((at, kind, numbers.setdefault(view, len(numbers)), name))
        elif at <= end:
            marks.append((at, label))
    return [tape.rows[event] for event in events if event >= 0], events, marks


@pytest.mark.parametrize("sharding", ["zero1", "zero2", "zero3"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method["name"])
@pytest.mark.parametrize("config", [LLAMA, GEMMA, MIXTRAL], ids=lambda config: config["model_type"])
@pytest.mark.parametrize("checkpoints", [False, True])
def test_a_tape_of_periods_is_that_of_every_layer(sharding, method, config, checkpoints):
    model = prepared(sharding, config, method, {"gradient_checkpointing": checkpoints, "autocast": "bfloat16"})
    found = whole_tape._repeat_third_period(model)
    assert found is not None
    every, repetition = whole_tape.whole_tape(model)
    assert recorded(found) == recorded(every) == recorded(whole_tape._interpreted(model, repetition))


def test_every_layer_is_interpreted_if_the_periods_share_a_loss():
    with_loss = {**MIXTRAL, "output_router_logits": True}
    assert whole_tape._repeat_third_period(prepared("zero2", with_loss, {"name": "full"}, {})) is None
    assert whole_tape._repeat_third_period(prepared("zero2", MIXTRAL, {"name": "full"}, {})) is not None
