"""The fewest GPUs on which a sharded run fits: that number does, and no smaller one."""

import pytest

from calculator.allocator.out_of_memory import format_size
from calculator.common.errors import PlanError
from calculator.devices import Verdict
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.limit_search import fewest
from calculator.limit_search.limits import limit, parse_limit


def body(sharding, memory_bytes=1 << 40, **changes):
    return {
        "model": "meta-llama/Llama-3.2-1B",
        "method": {"name": "full"},
        "training": {"sequence_length": 64, "autocast": "bfloat16", "dtype": "float32"},
        "device": {"sharding": sharding, "memory_bytes": memory_bytes},
        "reserved": "rule",
        **changes,
    }


def solved(request):
    return limit(parse_limit({**request, "solve_for": "count"}))


def estimated(request, count):
    return estimate(parse_request({**request, "device": {**request["device"], "count": count}}))


@pytest.fixture(scope="module", params=["fsdp", "zero1", "zero2"])
def required(request):
    """A sharding, and the required memory of each number of GPUs."""
    counts = range(2, 41)
    return request.param, {n: estimated(body(request.param), n).memory.required_bytes for n in counts}


@pytest.mark.parametrize("count", [3, 5, 12, 23, 40])
def test_the_fewest_is_that_of_all_estimates(required, count):
    sharding, sizes = required
    expected = next(n for n, size in sizes.items() if size <= sizes[count])
    answer = solved(body(sharding, sizes[count]))
    assert answer.value == expected
    assert answer.at.estimate == estimated(body(sharding, sizes[count]), expected)


def test_the_memory_of_a_gpu_is_not_monotonic_in_the_number_of_gpus():
    counts = [estimated(body("fsdp"), count).memory.required_bytes for count in (16, 17)]
    assert counts[0] < counts[1]


def test_one_gpu_fewer_does_not_fit():
    request = {
        **body("fsdp"),
        "model": "meta-llama/Llama-3.1-8B",
        "device": {"gpu": "rtx-4090", "sharding": "fsdp", "count": 64},
        "training": {"gradient_checkpointing": True, "autocast": "bfloat16", "dtype": "float32"},
    }
    answer = solved(request)
    assert (answer.below.value, answer.bound.by, answer.above) == (answer.value - 1, "memory", None)
    assert (answer.at.fits, answer.below.fits) == (True, False)
    assert answer.below.estimate == estimated(request, answer.value - 1)
    more = answer.below.estimate.memory.required_bytes - answer.bound.limit
    assert f"would require {format_size(more)} more than the" in answer.bound.reason
    assert answer.guarantee.startswith(f"{answer.value} fits and {answer.value - 1} does not.")


def test_a_run_that_fits_two_gpus_is_bounded_by_the_sharding():
    answer = solved(body("zero2"))
    assert (answer.value, answer.bound.by, answer.bound.limit, answer.below) == (2, "sharding", 2, None)
    assert answer.bound.reason == "zero2 needs 2 GPUs or more"


def test_more_gpus_do_not_help_ddp_and_a_solution_is_named():
    answer = solved(body("ddp", 1 << 20))
    least = estimated(body("ddp", 1 << 20), 2)
    assert (answer.value, answer.at, answer.below.estimate) == (None, None, least)
    assert answer.guarantee == "Every number of GPUs requires the same of each."
    assert f"{least.memory.required_bytes / 2**30:,.2f} GiB on each of 2 GPUs" in answer.bound.reason
    assert "set device.sharding to fsdp, zero1 or zero2" in answer.bound.reason


@pytest.mark.parametrize("sharding", ["fsdp", "zero1", "zero2"])
def test_memory_that_no_number_of_gpus_divides_is_found_without_trying_all(sharding):
    answer = solved(body(sharding, 1 << 20))
    assert (answer.value, answer.below.estimate.fit.verdict) == (None, Verdict.DOES_NOT_FIT)
    assert "With any larger number, not even the live tensors fit" in answer.guarantee
    assert fewest.WAYS_OUT[sharding] in answer.bound.reason


def test_of_many_numbers_multiples_are_tried(monkeypatch):
    request = body("fsdp", estimated(body("fsdp"), 40).memory.required_bytes)
    every = solved(request)
    monkeypatch.setattr(fewest, "ALL", 0)
    answer = solved(request)
    assert "multiple of 64" in answer.guarantee
    assert (answer.at.fits, answer.below.fits) == (True, False)
    assert answer.value >= every.value


def test_the_verdict_is_that_of_a_replay_if_the_sharding_is_replayed():
    request = {**body("ddp"), "reserved": "replay"}
    needed = estimated(request, 2).memory.required_bytes
    for memory in (needed, needed - 1):
        verdict = estimated({**request, "device": {"sharding": "ddp", "memory_bytes": memory}}, 2).fit.verdict
        answer = solved({**request, "device": {"sharding": "ddp", "memory_bytes": memory}})
        assert (answer.value == 2) == (verdict is Verdict.FITS)


@pytest.mark.parametrize(
    ("changes", "loc", "message"),
    [
        ({"device": {"memory_bytes": 1 << 30}}, "device.sharding", "set device.sharding to one of ddp, zero1"),
        ({"device": {"sharding": "fsdp"}}, "device", "a limit needs a GPU"),
        ({"accounting": "textbook"}, "accounting", "divides nothing"),
    ],
)
def test_a_number_of_gpus_that_has_no_meaning_is_refused(changes, loc, message):
    with pytest.raises(PlanError) as refused:
        solved({**body("fsdp"), **changes})
    (problem,) = refused.value.problems
    assert problem.loc == loc
    assert message in problem.msg
