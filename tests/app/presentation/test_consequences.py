"""Statements of the pages and the command line about a run that fills its GPU or runs out of memory."""

import dataclasses

import pytest

from app.cli.estimate import lines
from app.presentation.consequences import consequences
from calculator.common.deferred import Deferred
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from tests.calculator.estimation.test_device_replay import MISTRAL, SMALL

TIGHT = "/?model=mistralai%2FMistral-7B-v0.1&gpu=a100-sxm4-80gb&method=full&micro_batch_size=8&sequence_length=4096"
OUT = "/?method=lora&gradient_checkpointing=false&micro_batch_size=16"


@pytest.fixture(scope="module")
def tight():
    return estimate(parse_request(MISTRAL))


def test_a_run_that_fits_has_no_consequences():
    assert [*consequences(estimate(parse_request({**SMALL, "device": {"gpu": "rtx-4090"}})).fit)] == []


def test_a_tight_run_is_shown_with_its_retries_its_dangers_and_what_helps(tight):
    retries, dangers, help_ = consequences(tight.fit)
    assert retries.startswith(
        "The allocator frees its cached blocks and tries again once in the first steps (num_alloc_retries"
    )
    assert dangers.startswith("With another process on the GPU")
    assert help_.startswith("With PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True it fits without a retry")


def test_a_run_whose_tensors_do_not_fit_is_not_replayed_with_expandable_segments():
    fit = estimate(parse_request({**SMALL, "device": {"memory_bytes": 4 << 30}})).fit
    never = dataclasses.replace(fit.outcome, with_expandable_segments=Deferred(lambda: pytest.fail("replayed")))
    _, help_ = consequences(dataclasses.replace(fit, outcome=never))
    assert help_ == "No setting of the allocator helps: the live tensors alone need more memory than the GPU has."


def test_the_rule_has_its_advice_instead():
    fit = estimate(parse_request({**MISTRAL, "reserved": "rule"})).fit
    assert [*consequences(fit)] == []


def test_the_command_line_prints_them_and_pytorchs_message():
    answer = estimate(parse_request({**SMALL, "device": {"memory_bytes": 4 << 30}}))
    text = "\n".join(lines("LoRA", answer))
    assert "It runs out of memory in step 1, in the forward pass, at a request of " in text
    assert "CUDA out of memory. Tried to allocate " in text


def test_the_page_of_a_tight_plan_shows_them(client, tight):
    text = client.get(TIGHT).text
    assert 'data-verdict="tight"' in text
    for line in consequences(tight.fit):
        assert line in text
    assert f'title="{tight.fit.margin_bytes:,} bytes"' in text


def test_the_page_of_a_plan_out_of_memory_shows_pytorchs_message(client):
    text = client.get(OUT).text
    assert "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate " in text
    assert "It runs out of memory in step 1, in the forward pass, at a request of " in text
