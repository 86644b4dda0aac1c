"""Estimates of runs whose micro-batches differ in length, and of runs that empty their cache."""

import pytest

from calculator import catalogue
from calculator.devices import Verdict
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.estimation.sample_lengths import SEEDS

GIB = 1 << 30
#: SmolLM2-135M with few of its layers.
CONFIG = dict(catalogue.model("HuggingFaceTB/SmolLM2-135M").config, num_hidden_layers=5)
BODY = {"model": {"config": CONFIG}, "method": {"name": "lora", "target_modules": "all-linear"}}
LENGTHS = [[100, 400], [300, 200], [700, 50], [1000, 1]]
TRAINING = {"micro_batch_size": 4, "gradient_checkpointing": True}


def answered(device=None, reserved="replay", **training):
    body = BODY | {"training": TRAINING | training, "device": device or {}, "reserved": reserved}
    return estimate(parse_request(body))


@pytest.fixture(scope="module")
def free():
    return answered(sequence_lengths=LENGTHS)


def test_the_worst_history_sets_the_reserved_memory(free):
    history = free.memory.history
    peaks = [seed.peak_reserved_bytes for seed in history.seeds]
    assert [seed.seed for seed in history.seeds] == [*SEEDS]
    assert free.memory.peak_reserved_bytes == max(peaks) == peaks[history.worst_seed] == max(history.reserved_by_step)
    assert history.reserved_by_step[history.peak_step - 1] == max(peaks)
    assert history.added_bytes == max(peaks) - history.constant_reserved_bytes > 0
    assert len(history.micro_batches) == len(history.reserved_by_step)


def test_a_run_fits_if_no_history_frees_a_cached_block(free):
    needed = free.memory.required_bytes
    fits = answered({"memory_bytes": needed + 2 * GIB}, sequence_lengths=LENGTHS).fit
    assert (fits.verdict, fits.retries, fits.with_expandable_segments) == (Verdict.FITS, 0, None)


def test_a_run_is_tight_between_its_smallest_memory_and_what_the_worst_history_reserves(free):
    least = answered({"memory_bytes": 64 * GIB}, sequence_lengths=LENGTHS).fit.minimum_bytes
    assert least < free.memory.required_bytes
    tight = answered({"memory_bytes": least}, sequence_lengths=LENGTHS).fit
    assert (tight.verdict, tight.out_of_memory, tight.minimum_bytes) == (Verdict.TIGHT, None, least)
    assert tight.retries >= tight.retries_per_step > 0


def test_a_run_that_ends_out_of_memory_ends_at_a_longer_micro_batch(free):
    live = free.memory.required_bytes - free.memory.peak_reserved_bytes + free.memory.peak_allocated_bytes
    fit = answered({"memory_bytes": live - GIB // 4}, sequence_lengths=LENGTHS).fit
    assert fit.verdict is Verdict.DOES_NOT_FIT
    assert fit.out_of_memory.step > 1
    assert fit.minimum_bytes > fit.usable_bytes


def test_an_emptied_cache_reserves_less(free):
    emptied = answered(sequence_lengths=LENGTHS, torch_empty_cache_steps=1)
    after = answered(sequence_lengths=LENGTHS, torch_empty_cache_steps=1, empty_cache_at="after_step")
    assert emptied.memory.peak_reserved_bytes < free.memory.peak_reserved_bytes
    assert after.memory.peak_reserved_bytes < free.memory.peak_reserved_bytes
    assert emptied.memory.peak_allocated_bytes == free.memory.peak_allocated_bytes


def test_a_cache_can_be_emptied_with_batches_of_one_length():
    plain, emptied = answered(), answered(torch_empty_cache_steps=10)
    assert (plain.memory.history, len(emptied.memory.history.seeds)) == (None, 1)
    assert emptied.memory.history.constant_reserved_bytes == plain.memory.peak_reserved_bytes
    assert emptied.memory.components == plain.memory.components
    assert emptied.memory.peak_reserved_bytes != plain.memory.peak_reserved_bytes


def test_settings_of_the_allocator_change_what_a_history_reserves(free):
    expandable = answered({"alloc_conf": "expandable_segments:True"}, sequence_lengths=LENGTHS)
    assert expandable.memory.peak_reserved_bytes < free.memory.peak_reserved_bytes


def test_the_rule_is_that_of_the_longest_micro_batch_which_is_stated():
    ruled = answered(reserved="rule", sequence_lengths=LENGTHS)
    longest = answered(reserved="rule", sequence_length=1000, padding=True)
    assert ruled.memory.history is None
    assert ruled.memory.peak_reserved_bytes == longest.memory.peak_reserved_bytes
    assert any("sequence_lengths and torch_empty_cache_steps" in line for line in ruled.warnings)


def test_an_answer_states_the_drawn_batches(free):
    text = " ".join(free.assumptions)
    assert "1,000 tokens, with padding" in text
    assert "the worst of 3 replayed histories" in text
    assert not any("replayed histories" in line for line in answered().assumptions)
