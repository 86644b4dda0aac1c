"""Histograms of sample lengths, and what changes to the samples would save."""

from itertools import product
from random import Random

import pytest

from calculator.data_lengths.histogram import Lengths, lengths_of
from calculator.data_lengths.savings import advice
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.inputs.sample_lengths import MOST_LENGTHS, problem_of_lengths

SAMPLES = [5, 2, 5, 9, 1, 3, 9]
RUN = {
    "model": "openai-community/gpt2",
    "method": {"name": "full"},
    "training": {"micro_batch_size": 2},
    "reserved": "rule",
}


def test_a_histogram_names_the_first_longest_sample_and_leaves_out_what_predicts_nothing():
    lengths = lengths_of(SAMPLES)
    assert lengths.pairs == ((2, 1), (3, 1), (5, 2), (9, 2))
    assert (lengths.longest, lengths.longest_sample, lengths.left_out) == (9, 4, 1)
    assert (lengths.samples, lengths.tokens, lengths.rounded_to) == (6, 33, 1)
    assert lengths_of([1, 0]) is None


def test_too_many_distinct_lengths_are_rounded_up_and_accepted():
    lengths = lengths_of(range(2, 40_000))
    assert lengths.rounded_to == 64
    assert len(lengths.pairs) <= MOST_LENGTHS
    assert problem_of_lengths(lengths.pairs) is None
    assert lengths.samples == 39_998


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.99, 1.0])
def test_a_percentile_is_the_shortest_length_that_a_share_does_not_exceed(share):
    chance = Random(1)
    samples = sorted(chance.randint(2, 60) for _ in range(500))
    found = lengths_of(samples).percentile(share)
    assert sum(length <= found for length in samples) >= share * 500
    assert sum(length < found for length in samples) < share * 500


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_the_padded_tokens_are_those_of_every_possible_batch(batch):
    samples = [2, 3, 3, 7]
    batches = [*product(samples, repeat=batch)]
    mean = sum(max(lengths) for lengths in batches) / len(batches)
    assert lengths_of(samples).padded_tokens(batch) == round(mean * len(samples))


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 7])
def test_the_bucketed_tokens_are_those_of_sorted_batches(batch):
    chance = Random(batch)
    samples = sorted((chance.randint(2, 30) for _ in range(50)), reverse=True)
    batches = [samples[start : start + batch] for start in range(0, 50, batch)]
    assert lengths_of(samples).bucketed_tokens(batch) == sum(len(lengths) * lengths[0] for lengths in batches)


def test_packed_rows_hold_all_tokens():
    lengths = Lengths(pairs=((4, 3), (10, 1)), longest_sample=1, rounded_to=1, left_out=0)
    assert (lengths.packed_rows(10), lengths.packed_rows(8)) == (3, 3)


def test_each_saving_is_the_difference_of_two_estimates():
    lengths = lengths_of([64] * 90 + [256] * 9 + [1024])
    body = {**RUN, "training": {**RUN["training"], "sequence_lengths": [list(pair) for pair in lengths.pairs]}}
    found = advice(parse_request(body), lengths)
    before = estimate(parse_request(body)).memory.required_bytes
    assert found.estimate.memory.required_bytes == before
    cut = [change for change in found.changes if change.kind == "truncation"]
    assert [change.changes["training.sequence_length"] for change in cut] == [64, 256]
    for change in cut:
        length = change.changes["training.sequence_length"]
        changed = {**body, "training": {**body["training"], "sequence_length": length}}
        required = estimate(parse_request(changed)).memory.required_bytes
        assert (change.required_bytes, change.saved_bytes) == (required, before - required)
    (bucketing,) = [change for change in found.changes if change.kind == "bucketing"]
    assert (bucketing.saved_bytes, bucketing.tokens < found.tokens) == (0, True)


def test_packing_is_estimated_if_the_trainer_packs_and_refused_with_the_reason():
    lengths = lengths_of([64] * 9 + [512])
    body = {**RUN, "model": "facebook/opt-125m", "training": {"trainer": "trl-sft"}}
    (packing,) = [change for change in advice(parse_request(body), lengths).changes if change.kind == "packing"]
    assert (packing.saved_bytes, "packing is not modeled" in packing.refusal) == (None, True)
    qwen = {**body, "model": "Qwen/Qwen2.5-0.5B", "training": {"trainer": "trl-sft", "attention": "flash_attention_2"}}
    (packing,) = [change for change in advice(parse_request(qwen), lengths).changes if change.kind == "packing"]
    assert packing.required_bytes > 0
    assert packing.tokens == 3 * 512
