"""Micro-batches that are traced with a symbolic length, compared with those interpreted with their numbers."""

from dataclasses import replace

import pytest

from calculator.estimation.estimate import resident_state
from calculator.estimation.request import parse_request
from calculator.training_step.batch_trace import BatchTraces
from calculator.training_step.unrolled import events

LENGTHS = (300, 17, 2, 900, 64, 1023)
MODELS = (
    "meta-llama/Llama-3.2-1B",
    "openai-community/gpt2",
    "google/gemma-2-2b",
    "mistralai/Mistral-7B-v0.1",
    "mistralai/Mixtral-8x7B-v0.1",
    "bigscience/bloom-560m",
    "tiiuae/falcon-7b",
)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("padding", [False, True], ids=["no padding", "padding"])
@pytest.mark.parametrize("method", ["full", "lora", "prompt"])
def test_a_traced_micro_batch_has_the_events_and_bytes_of_an_interpreted_one(model, padding, method):
    checkpointing = method != "lora"
    training = {"micro_batch_size": 2, "padding": padding, "gradient_checkpointing": checkpointing}
    body = {"model": model, "method": {"name": method}, "training": {"sequence_length": 512, **training}}
    request = parse_request(body)
    prepared = resident_state(request).prepared
    traces = BatchTraces(prepared)
    for length in LENGTHS:
        program, sizes = traces.sized(length)
        of_length = prepared.for_run(replace(request.training, sequence_length=length), request.device)
        expected = events(of_length)
        empty = {row for row, kind in enumerate(expected.rows) if not kind[4]}
        assert sizes == [row[4] for row in expected.rows]
        assert program.names == [row[0] for row in expected.rows]
        for passed, own_pass in zip(program.passes, (expected.forward, expected.backward), strict=True):
            assert [*passed] == [event for event in own_pass if max(event, ~event) not in empty]
        assert program.gradients == [row for row in expected.gradients if row not in empty]
        assert program.left == [row for row in expected.left if row not in empty]


def test_lengths_that_run_other_operations_are_traced_again():
    body = {"model": "mistralai/Mistral-7B-v0.1", "method": {"name": "lora"}, "training": {"sequence_length": 512}}
    traces = BatchTraces(resident_state(parse_request(body)).prepared)
    # Above the window of 4,096 tokens, sdpa needs a mask.
    assert traces.sized(4000)[0] is traces.sized(3000)[0]
    assert traces.sized(5000)[0] is not traces.sized(3000)[0]
