"""The histories of PEFT's method comparison: buckets of sorted rows, with the published number of tokens."""

import pytest

from calculator.allocator.history import Padded
from calculator.estimation.estimate import model_of, resident_state
from calculator.estimation.request import parse_request
from validation.published.buckets import BUCKET, LONGEST, ROWS, TOKENS, UNIT, bucketed, histogram, mean_allocated
from validation.published.rules import measurements


def test_the_histogram_has_the_published_rows_and_tokens_and_the_assumed_longest():
    lengths, counts = zip(*histogram(), strict=True)
    assert sum(counts) == ROWS
    assert sum(length * count for length, count in histogram()) == pytest.approx(TOKENS, rel=0.002)
    assert (max(lengths), {length % UNIT for length in lengths}) == (LONGEST, {0})


def test_a_bucket_is_sorted_from_long_to_short_and_the_last_begins_with_the_longest_row():
    body = {"model": "meta-llama/Llama-3.2-3B", "method": {"name": "lora"}}
    training = {"micro_batch_size": 4, "sequence_length": 768, "sequence_lengths": [[*pair] for pair in histogram()]}
    request = parse_request(body | {"training": training})
    steps = bucketed(request, 0)
    size = BUCKET // 4
    assert len(steps) == 3 * size
    assert all(len(step) == 1 for step in steps)
    lengths = [step[0].length for step in steps]
    assert all(lengths[at : at + size] == sorted(lengths[at : at + size], reverse=True) for at in (0, size, 2 * size))
    assert steps[2 * size] == (Padded(LONGEST, padding=True),)
    assert max(lengths[: 2 * size]) < LONGEST
    assert bucketed(request, 1) != steps


def test_the_requests_state_the_lengths_and_when_the_cache_is_emptied():
    runs = [
        measurement
        for measurement in measurements()
        if measurement.source == "peft_metamathqa" and measurement.run.request
    ]
    assert len(runs) >= 10
    for run in runs:
        training = parse_request(run.run.request).training
        every = 1 if (run.date or "") < "2025-11-13" else 10
        assert (training.torch_empty_cache_steps, training.empty_cache_at) == (every, "after_step")
        assert training.sequence_lengths == histogram()


def test_after_a_step_weights_states_gradients_and_outputs_are_alive():
    body = {"model": "meta-llama/Llama-3.2-1B", "method": {"name": "full"}}
    training = {"micro_batch_size": 4, "sequence_length": 256, "sequence_lengths": [[128, 50], [256, 50]]}
    request = parse_request(body | {"training": training})
    resident = resident_state(request)
    always = (*resident.tensors, *resident.optimizer_states, *resident.gradients)
    found = mean_allocated(request, model_of(request.model), (1 << 20, 1 << 20))
    outputs = found - sum(tensor.bytes for tensor in always)
    # Logits in bfloat16, and the keys and values of 16 layers with 8 heads of 64 dimensions.
    of_a_token = 2 * (128_256 + 16 * 2 * 8 * 64)
    assert 4 * 128 * of_a_token < outputs < 4 * 256 * of_a_token
