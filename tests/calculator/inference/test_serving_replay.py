"""An inference answer whose reserved memory and verdict are by replay."""

import pytest

from calculator.common.errors import PlanError
from calculator.devices import Verdict
from calculator.inference.inference import inference
from calculator.inference.request import parse_inference

BODY = {
    "model": "meta-llama/Llama-3.2-1B",
    "method": {"name": "lora"},
    "serving": {"context_length": 256, "max_new_tokens": 16},
}


def answered(memory=None, **body):
    device = {} if memory is None else {"device": {"memory_bytes": memory}}
    return inference(parse_inference({**BODY, **device, **body}))


def test_replay_is_the_default():
    assert answered().reserved == "replay"
    assert answered(reserved="rule").reserved == "rule"
    assert answered().memory.peak_reserved_bytes != answered(reserved="rule").memory.peak_reserved_bytes


def test_other_values_are_refused():
    with pytest.raises(PlanError) as error:
        answered(reserved="guess")
    assert error.value.problems[0].loc == "reserved"


def test_answer_fits_what_it_reserves_and_runs_on_the_least_memory():
    required = answered().memory.required_bytes
    fit = answered(memory=required + (4 << 30)).fit
    assert (fit.verdict, fit.retries) == (Verdict.FITS, 0)
    assert fit.minimum_bytes <= required
    assert answered(memory=fit.minimum_bytes).fit.verdict in (Verdict.FITS, Verdict.TIGHT)


def test_answer_that_ends_names_its_pass():
    fit = answered(memory=3_100_000_000, serving={"context_length": 4096, "max_new_tokens": 4, "batch_size": 16}).fit
    assert fit.verdict is Verdict.DOES_NOT_FIT
    assert (fit.out_of_memory.step, fit.out_of_memory.phase) == (1, "prefill")
    assert fit.out_of_memory.message.startswith("CUDA out of memory.")


def test_long_answer_is_by_the_rule_and_the_reason_is_stated():
    serving = {"context_length": 256, "max_new_tokens": 100_000}
    long = answered(serving=serving)
    assert long.reserved == "rule"
    assert "can be replayed" in long.reserved_reason
    assert long.memory == answered(serving=serving, reserved="rule").memory


@pytest.mark.parametrize(
    ("conf", "by"), [("expandable_segments:True", "replay"), ("max_split_size_mb:128", "rule"), (None, "replay")]
)
def test_allocator_settings(conf, by):
    assert answered(device={"memory_bytes": 10**10, "alloc_conf": conf}).reserved == by
