"""Sample lengths of a request, and the micro-batches that are drawn from them."""

from collections import Counter
from itertools import islice
from random import Random

import pytest

from calculator import catalogue
from calculator.allocator.history import Padded
from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.estimation.sample_lengths import AFTER, BEFORE, SEEDS, sample_lengths
from calculator.inputs.sample_lengths import MOST_LENGTHS
from calculator.inputs.training import Training

#: SmolLM2-135M with few of its layers.
CONFIG = dict(catalogue.model("HuggingFaceTB/SmolLM2-135M").config, num_hidden_layers=5)
BODY = {"model": {"config": CONFIG}, "method": {"name": "lora"}}
PAIRS = [[100, 50], [200, 30], [400, 20]]


def request(**training):
    return parse_request(BODY | {"training": training})


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([], "must be a list of pairs"),
        ([[100]], "must be a list of pairs"),
        ([[100, 2, 3]], "must be a list of pairs"),
        ([[100, 1.5]], "must be a list of pairs"),
        ([100, 200], "must be a list of pairs"),
        ("100:2", "must be a list of pairs"),
        ([[1, 5]], "has the length 1: a sample has 2 to 16,777,216 tokens"),
        ([[-8, 5]], "has the length -8"),
        ([[8, 0]], "has 0 samples of 8 tokens: a length has 1 to"),
        ([[8, 1], [8, 2]], "has a length twice: add up its samples"),
        ([[length, 1] for length in range(2, MOST_LENGTHS + 3)], "has 4,097 pairs, at most 4,096 are read: round"),
    ],
)
def test_a_histogram_that_cannot_be_read_is_refused(lengths, message):
    with pytest.raises(PlanError) as refused:
        request(sequence_lengths=lengths)
    (problem,) = refused.value.problems
    assert problem.loc == "training.sequence_lengths"
    assert message in problem.msg


def test_as_many_lengths_as_allowed_are_read():
    lengths = [[length, 1] for length in range(2, MOST_LENGTHS + 2)]
    assert len(request(sequence_lengths=lengths).training.sequence_lengths) == MOST_LENGTHS


def test_samples_are_cut_to_the_sequence_length_if_it_is_given():
    cut = sample_lengths(request(sequence_lengths=PAIRS, sequence_length=200).training)
    assert cut.pairs == ((100, 50), (200, 50))


def drawn(training, count, seed=0):
    return list(islice(sample_lengths(training)._random_batches(training, Random(seed)), count))


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_micro_batches_are_drawn_as_the_longest_of_their_samples(batch):
    training = Training(micro_batch_size=batch, sequence_lengths=((100, 50), (200, 30), (400, 20)))
    count, random = 40_000, Random(7)
    found = Counter(drawn(training, count))
    samples = [random.choices((100, 200, 400), (50, 30, 20), k=batch) for _ in range(count)]
    expected = Counter(Padded(max(sample), len(set(sample)) > 1) for sample in samples)
    assert set(found) == set(expected)
    assert all(abs(found[shape] - expected[shape]) < 6 * count**0.5 for shape in expected)


def test_a_history_has_the_longest_micro_batch_at_its_place_and_is_the_same_for_a_seed():
    training = Training(micro_batch_size=4, sequence_lengths=((100, 10**9), (3000, 1)), sequence_length=4096)
    lengths = sample_lengths(training)
    steps = lengths.history(training, 0)
    assert len(steps) == BEFORE + 1 + AFTER
    assert steps[-AFTER - 1] == (Padded(3000, padding=True),)
    assert steps == lengths.history(training, 0)
    varied = sample_lengths(Training(sequence_lengths=tuple((length, 1) for length in range(2, 500))))
    assert len({varied.history(training, seed) for seed in SEEDS}) == len(SEEDS)


@pytest.mark.parametrize(("accumulated", "per_step", "steps"), [(1, 1, 37), (4, 4, 13), (100, 8, 9)])
def test_a_step_has_its_micro_batches_and_ends_with_the_longest(accumulated, per_step, steps):
    training = Training(gradient_accumulation_steps=accumulated, sequence_lengths=((100, 9), (300, 1)))
    history = sample_lengths(training).history(training, 1)
    assert (len(history), {len(step) for step in history}) == (steps, {per_step})
    assert history[-AFTER - 1][-1] == Padded(300, padding=False)


@pytest.mark.parametrize(
    ("batch", "lengths", "padding", "expected"),
    [
        (1, PAIRS, False, Padded(400, padding=False)),
        (4, PAIRS, False, Padded(400, padding=True)),
        (4, [[400, 7]], False, Padded(400, padding=False)),
        (1, PAIRS, True, Padded(400, padding=True)),
    ],
)
def test_a_micro_batch_has_padding_if_its_samples_may_differ(batch, lengths, padding, expected):
    training = request(micro_batch_size=batch, sequence_lengths=lengths, padding=padding).training
    assert sample_lengths(training).longest_batch(training) == expected


def test_figures_are_those_of_the_longest_micro_batch():
    sampled = estimate(request(micro_batch_size=4, sequence_lengths=PAIRS))
    longest = estimate(request(micro_batch_size=4, sequence_length=400, padding=True))
    assert sampled.memory.components == longest.memory.components
    assert sampled.memory.peak_allocated_bytes == longest.memory.peak_allocated_bytes
    assert sampled.memory.history.constant_reserved_bytes == longest.memory.peak_reserved_bytes
    assert longest.memory.history is None


def test_positions_that_a_model_lacks_are_refused():
    body = {"model": "openai-community/gpt2", "method": {"name": "lora"}}
    with pytest.raises(PlanError, match="1,500 positions are needed"):
        estimate(parse_request(body | {"training": {"sequence_lengths": [[1500, 3]]}}))
    cut = parse_request(body | {"training": {"sequence_lengths": [[1500, 3]], "sequence_length": 1024}})
    assert estimate(cut).memory.peak_reserved_bytes


def test_flash_attention_is_refused_if_micro_batches_have_padding():
    flash = {"attention": "flash_attention_2", "sequence_lengths": PAIRS}
    with pytest.raises(PlanError, match="use sdpa, or micro_batch_size 1, which pads no sample"):
        estimate(request(micro_batch_size=2, **flash))
    assert estimate(request(**flash)).memory.history is not None
