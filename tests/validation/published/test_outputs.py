"""Outputs that a caller keeps are left at the end of a step, and nothing else changes."""

from calculator.estimate.estimate import model_of, resident_state
from calculator.estimate.request import parse_request
from calculator.training_step.unrolled import events
from validation.published.outputs import held

REQUEST = parse_request(
    {
        "model": "meta-llama/Llama-3.2-1B",
        "method": {"name": "lora"},
        "training": {"sequence_length": 64, "micro_batch_size": 2},
    }
)


def test_logits_and_cache_are_left():
    model = model_of(REQUEST.model)
    told = events(resident_state(REQUEST).prepared)
    kept = held(told, model)
    more = [told.rows[row] for row in set(kept.left) - set(told.left)]
    logits = [row for row in more if row[0] == "lm_head: output"]
    cache = [row for row in more if row[0].endswith("cached")]
    assert sum(row[4] for row in logits) == 2 * 64 * 128_256 * 2
    assert sum(row[4] for row in cache) == 16 * 2 * (2 * 64 * 8 * 64 * 2)
    assert len(more) == len(logits) + len(cache)


def test_births_stay_as_they_were():
    model = model_of(REQUEST.model)
    told = events(resident_state(REQUEST).prepared)
    kept = held(told, model)
    assert [event for event in kept.forward if event >= 0] == [event for event in told.forward if event >= 0]
    assert kept.gradients == told.gradients
