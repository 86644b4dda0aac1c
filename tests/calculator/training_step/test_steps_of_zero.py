"""Steps under ZeRO that replays list: the last one of a series is cached, and shares its cuts with other sizes."""

import pytest

from calculator.estimation.estimate import estimate
from calculator.estimation.recent_series import MAX_STEPS, RECENT_SERIES
from calculator.estimation.request import parse_request
from calculator.estimation.series import SeriesCache
from calculator.training_step import replayed_step

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
}


def request(sharding, length, count=2, r=2):
    return parse_request(
        {
            "model": {"config": LLAMA},
            "method": {"name": "lora", "r": r},
            "training": {"sequence_length": length, "gradient_checkpointing": True, "autocast": "bfloat16"},
            "device": {"gpu": "rtx-4090", "count": count, "sharding": sharding},
            "reserved": "replay",
        }
    )


def reserved(requested, series):
    answer = estimate(requested, series)
    return answer.memory.peak_reserved_bytes, answer.fit.minimum_bytes


@pytest.fixture
def listed(monkeypatch):
    """The trainings whose layers are all interpreted."""
    found = []
    whole_tape = replayed_step.whole_tape
    monkeypatch.setattr(
        replayed_step, "whole_tape", lambda prepared: (found.append(prepared.training), whole_tape(prepared))[1]
    )
    return found


@pytest.mark.parametrize("sharding", ["zero1", "zero2", "zero3"])
def test_a_later_step_of_other_sizes_reserves_what_it_would_alone(sharding, listed):
    series = SeriesCache()
    lengths = (48, 160, 1500, 160, 160)
    by_itself = [reserved(request(sharding, length), SeriesCache()) for length in lengths]
    listed.clear()
    assert [reserved(request(sharding, length), series) for length in lengths] == by_itself
    assert len(listed) == len({*lengths})


@pytest.mark.parametrize("sharding", ["zero2", "zero3"])
def test_a_later_step_on_more_gpus_reserves_what_it_would_alone(sharding):
    series = SeriesCache()
    found = [reserved(request(sharding, 48, count), series) for count in (2, 8, 2)]
    assert found == [reserved(request(sharding, 48, count), SeriesCache()) for count in (2, 8, 2)]


def test_few_recent_series_keep_a_step():
    RECENT_SERIES.clear()
    for number in range(MAX_STEPS + 2):
        body = request("zero2", 48, 2 + number)
        estimate(body)
    kept = [series.unrolled._step for series in RECENT_SERIES._kept.values()]
    assert [step is not None for step in kept] == [False] * 2 + [True] * MAX_STEPS
