"""The older loss copies the logits in the forward pass; the Trainer keeps nothing of a step alive."""

import pytest

from calculator.estimate.estimate import model_of, training_step
from calculator.estimate.request import parse_request
from validation.published.trainer import OlderLoss, peaks

B, S, V = 2, 256, 32_000
REQUEST = parse_request(
    {
        "model": "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
        "method": {"name": "lora"},
        "training": {"sequence_length": S, "micro_batch_size": B, "gradient_checkpointing": True},
    }
)
MODEL = model_of(REQUEST.model)


def older(*, keeps_half):
    return OlderLoss(REQUEST, MODEL, keeps_half=keeps_half).events()


@pytest.mark.parametrize("keeps_half", [False, True])
def test_every_row_but_the_gradients_is_allocated_and_freed_once(keeps_half):
    step = older(keeps_half=keeps_half)
    passes = [*step.forward, *step.backward]
    allocated = [event for event in passes if event >= 0]
    frees = [~event for event in passes if event < 0]
    assert len(set(allocated)) == len(allocated)
    assert sorted(frees + list(step.gradients)) == sorted(allocated)
    assert step.left == ()


def test_nothing_is_freed_before_its_allocation():
    alive = set()
    step = older(keeps_half=False)
    for event in (*step.forward, *step.backward):
        if event >= 0:
            alive.add(event)
        else:
            alive.remove(~event)


def test_the_forward_peak_has_a_shifted_copy_and_nothing_of_the_previous_step():
    peak = training_step(REQUEST).peaks()[0]
    left = sum(row[4] * count for row, count in peak.left.items())
    copy = B * (S - 1) * V * 4
    found = peaks(REQUEST, older(keeps_half=True))["forward"]
    assert found == peak.bytes + copy - left


def test_half_precision_logits_are_dropped_before_4_46():
    kept, dropped = (peaks(REQUEST, older(keeps_half=half))["forward"] for half in (True, False))
    assert kept - dropped == B * S * V * 2
