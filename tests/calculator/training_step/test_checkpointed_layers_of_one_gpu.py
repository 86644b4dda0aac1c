"""Checkpointed layers on one GPU that are recorded again have the events that they have when each is interpreted."""

from itertools import groupby

import pytest

from calculator.common.garbage import without_collections
from calculator.engine.repetition import every_layer
from calculator.estimation.estimate import resident_state
from calculator.estimation.request import parse_request
from calculator.training_step.checkpointed_layers import CheckpointedLayers, EqualLayers
from calculator.training_step.training_context import training_context
from calculator.training_step.unrolled import every_event, unrolled
from tests.calculator.training_step.test_checkpointed_layers import GPT2, HIRA, recorded, tape_of
from tests.calculator.training_step.test_whole_tape import GEMMA, LLAMA

LORA = {"name": "lora", "r": 4, "target_modules": "all-linear"}
QLORA = {"name": "qlora", "r": 4, "target_modules": "all-linear"}
#: The second layer is the only one that attends to all positions, and the last one that refers to its mask.
LLAMA_4 = {
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 128,
    "intermediate_size_mlp": 128,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts_per_tok": 2,
    "attention_chunk_size": 7,
    "interleave_moe_layer_step": 1,
    "layer_types": ["chunked_attention", "full_attention", *["chunked_attention"] * 4],
}

#: Every third layer attends to all positions.
GEMMA_3 = {**GEMMA, "model_type": "gemma3_text", "sliding_window_pattern": 3}

CASES = [
    (LLAMA, {"name": "full"}, {"gradient_accumulation_steps": 4}),
    (LLAMA, {**LORA, "lora_dropout": 0.1}, {"max_grad_norm": 0.3}),
    (GEMMA_3, QLORA, {}),
    (GEMMA_3, LORA, {"padding": True}),
    ({"model_type": "llama4", "text_config": LLAMA_4}, LORA, {"padding": True, "dtype": "float32"}),
]


@pytest.fixture
def recorded_layers(monkeypatch):
    """The layers that were recorded again."""
    layers, again = [], EqualLayers.record_again
    monkeypatch.setattr(EqualLayers, "record_again", lambda *given: layers.append(1) or again(*given))
    return layers


def prepared(config, method, training):
    settings = {"sequence_length": 48, "gradient_checkpointing": True, **training}
    body = {"model": {"config": config}, "method": method, "training": settings}
    return resident_state(parse_request(body)).prepared


def ordered(passes):
    """The events of both passes, with frees in a row in one order."""
    runs = groupby([*passes.forward, *passes.backward], key=lambda event: event < 0)
    return [sorted(run) if is_free else [*run] for is_free, run in runs]


@pytest.mark.parametrize(("config", "method", "training"), CASES)
def test_layers_that_are_recorded_again_have_their_own_events(config, method, training, recorded_layers):
    model = prepared(config, method, training)

    def context_of():
        context = training_context(model)
        context.repetition = every_layer(len(context.layers))
        return context

    assert recorded(tape_of(context_of, records_again=True)) == recorded(tape_of(context_of, records_again=False))
    assert recorded_layers


@pytest.mark.parametrize(("config", "method", "training"), [CASES[0], CASES[2]])
def test_a_replay_records_layers_again(config, method, training, recorded_layers, monkeypatch):
    model = prepared(config, method, training)
    found = without_collections(unrolled)(model).events()
    assert recorded_layers
    monkeypatch.setattr(CheckpointedLayers, "from_context", lambda _: None)
    every = without_collections(unrolled)(model).events()
    assert (found.rows, ordered(found)) == (every.rows, ordered(every))


def test_a_replay_interprets_layers_that_leave_something_else(recorded_layers):
    model = prepared({**GPT2, "n_layer": 3}, HIRA, {})
    found, every = without_collections(unrolled)(model).events(), without_collections(every_event)(model)
    assert recorded_layers
    assert (found.rows, ordered(found)) == (every.rows, ordered(every))
