"""The older loss copies the logits in the forward pass; the Trainer leaves nothing of a step behind."""

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
def test_every_row_is_born_once_and_freed_once_but_the_gradients(keeps_half):
    told = older(keeps_half=keeps_half)
    passes = [*told.forward, *told.backward]
    births = [event for event in passes if event >= 0]
    frees = [~event for event in passes if event < 0]
    assert len(set(births)) == len(births)
    assert sorted(frees + list(told.gradients)) == sorted(births)
    assert told.left == ()


def test_nothing_is_freed_before_it_is_born():
    alive = set()
    told = older(keeps_half=False)
    for event in (*told.forward, *told.backward):
        if event >= 0:
            alive.add(event)
        else:
            alive.remove(~event)


def test_the_forward_pass_holds_a_shifted_copy_more_and_not_the_step_before():
    step = training_step(REQUEST).peaks()[0]
    left = sum(row[4] * count for row, count in step.left.items())
    copy = B * (S - 1) * V * 4
    found = peaks(REQUEST, older(keeps_half=True))["forward"]
    assert found == step.bytes + copy - left


def test_half_precision_logits_are_dropped_before_4_46():
    kept, dropped = (peaks(REQUEST, older(keeps_half=half))["forward"] for half in (True, False))
    assert kept - dropped == B * S * V * 2
