"""The verdict by replay on the device's usable memory, and what an answer states about the device's limit."""

import pytest

from calculator.common.errors import PlanError
from calculator.devices import Verdict
from calculator.estimation.device_replay import DeviceReplay
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.estimation.series import SeriesCache
from calculator.inference.request import parse_inference
from calculator.planning.request import parse_plan

MIB, GIB = 1 << 20, 1 << 30
SMALL = {"model": "meta-llama/Llama-3.2-1B", "method": {"name": "lora", "r": 16, "target_modules": "all-linear"}}
#: Published runs of this plan on an 80 GB A100 took 70 to 77 GiB; what an unlimited GPU would give it is more.
MISTRAL = {
    "model": "mistralai/Mistral-7B-v0.1",
    "method": {"name": "full"},
    "training": {"gradient_checkpointing": True, "micro_batch_size": 8, "sequence_length": 4096},
    "device": {"gpu": "a100-sxm4-80gb"},
}
EXPANDABLE = "expandable_segments:True"


def answered(body, **changes):
    return estimate(parse_request({**body, **changes}))


def on(memory_bytes, **device):
    return answered(SMALL, device={"memory_bytes": memory_bytes, **device})


@pytest.fixture(scope="module")
def large():
    return on(48 * GIB)


def test_the_replay_is_the_default():
    assert parse_request(SMALL).reserved == "replay"


def test_on_a_large_device_the_run_fits_without_a_retry(large):
    fit = large.fit
    assert (fit.verdict, fit.retries, fit.retries_per_step, fit.out_of_memory) == (Verdict.FITS, 0, 0, None)
    assert fit.with_expandable_segments is None


def test_a_run_that_certainly_fits_equals_its_replay_on_the_device(large, monkeypatch):
    """Without a replay on the device, if what it reserves without a limit is less than the device has."""
    result = large.fit.outcome.result()
    request = parse_request({**SMALL, "device": {"memory_bytes": 48 * GIB}})
    monkeypatch.setattr(DeviceReplay, "_verdict_without_replay", lambda *_: None)
    assert estimate(request, SeriesCache()).fit.outcome.result() == result


def test_the_margin_is_usable_memory_less_the_minimum(large):
    fit = large.fit
    assert fit.margin_bytes == fit.usable_bytes - fit.minimum_bytes
    assert fit.headroom_bytes <= fit.margin_bytes


def test_the_minimum_has_the_context_and_does_not_depend_on_the_device(large):
    memory = large.memory
    context = memory.required_bytes - memory.peak_reserved_bytes
    assert memory.peak_allocated_bytes + memory.library_workspace_bytes + context <= large.fit.minimum_bytes
    assert large.fit.minimum_bytes <= memory.required_bytes
    assert on(4 * GIB).fit.minimum_bytes == large.fit.minimum_bytes


def test_the_run_runs_on_its_minimum_and_not_on_2_mib_less(large):
    least = large.fit.minimum_bytes
    assert on(least).fit.verdict is not Verdict.DOES_NOT_FIT
    assert on(least - 2 * MIB).fit.verdict is Verdict.DOES_NOT_FIT


def test_more_memory_is_never_worse_than_what_is_reserved_without_a_limit(large):
    required = large.memory.required_bytes
    assert [on(required + more * GIB).fit.verdict for more in range(3)] == [Verdict.FITS] * 3


def test_a_tight_run_runs_with_retries_where_published_runs_did():
    fit = answered(MISTRAL).fit
    assert fit.headroom_bytes < 0
    assert fit.verdict is Verdict.TIGHT
    assert (fit.retries, fit.out_of_memory, fit.gpus_needed) == (1, None, 1)
    assert 60 * GIB < fit.minimum_bytes < fit.usable_bytes
    assert fit.with_expandable_segments.verdict is Verdict.FITS
    assert fit.with_expandable_segments.minimum_bytes < fit.minimum_bytes


def test_by_the_rule_there_are_no_replayed_figures():
    fit = answered(MISTRAL, reserved="rule").fit
    assert fit.outcome is None
    found = (fit.minimum_bytes, fit.margin_bytes, fit.retries, fit.retries_per_step)
    assert found == (None, None, None, None)
    assert (fit.out_of_memory, fit.with_expandable_segments) == (None, None)


def test_a_run_out_of_memory_has_step_phase_tensor_and_pytorchs_message(large):
    fit = on(large.fit.minimum_bytes - 2 * MIB).fit
    event = fit.out_of_memory
    assert event.step >= 1
    assert event.phase in {"forward", "backward", "optimizer_step"}
    assert event.tensor
    assert f"GPU 0 has a total capacity of {fit.usable_bytes / GIB:.2f} GiB of which " in event.message
    assert (fit.margin_bytes, fit.gpus_needed) == (-2 * MIB, 2)


def test_weights_that_do_not_fit_end_the_run_while_it_loads():
    fit = on(2 * GIB).fit
    assert (fit.verdict, fit.out_of_memory.step, fit.out_of_memory.phase) == (Verdict.DOES_NOT_FIT, 0, "load")


def test_allocator_settings_change_reserved_memory_and_the_verdict():
    fit = answered(MISTRAL, device={**MISTRAL["device"], "alloc_conf": EXPANDABLE}).fit
    assert fit.verdict is Verdict.FITS
    assert fit.with_expandable_segments is None
    assert on(48 * GIB, alloc_conf="roundup_power2_divisions:4").memory.peak_reserved_bytes > (
        on(48 * GIB).memory.peak_reserved_bytes
    )


def test_a_fraction_of_the_device_limits_the_run(large):
    share = large.fit.minimum_bytes / (48 * GIB) * 0.9
    fit = on(48 * GIB, alloc_conf=f"per_process_memory_fraction:{share:.3f}").fit
    assert fit.verdict is Verdict.DOES_NOT_FIT
    assert "allowed; " in fit.out_of_memory.message


def test_allocator_settings_with_the_rule_are_a_warning():
    answer = answered(SMALL, reserved="rule", device={"alloc_conf": EXPANDABLE})
    assert any("device.alloc_conf changes nothing" in line for line in answer.warnings)
    assert not any("alloc_conf" in line for line in answered(SMALL, device={"alloc_conf": EXPANDABLE}).warnings)


@pytest.mark.parametrize("conf", ["segments:True", "expandable_segments", "backend:cudaMallocAsync"])
def test_unknown_allocator_settings_are_refused_at_their_path(conf):
    requests = [
        (parse_request, {**SMALL, "device": {"alloc_conf": conf}}, "device.alloc_conf"),
        (parse_inference, {"model": SMALL["model"], "device": {"alloc_conf": conf}}, "device.alloc_conf"),
        (
            parse_plan,
            {"model": SMALL["model"], "devices": [{"memory_bytes": 8 * GIB, "alloc_conf": conf}], "needs": {}},
            "devices.0.alloc_conf",
        ),
    ]
    for parse, body, loc in requests:
        with pytest.raises(PlanError) as caught:
            parse(body)
        assert [(problem.loc, problem.input) for problem in caught.value.problems] == [(loc, conf)]


def test_a_series_replays_each_run_once(monkeypatch):
    series, request = SeriesCache(), parse_request({**SMALL, "device": {"gpu": "rtx-4090"}})
    first = estimate(request, series)
    least = first.fit.minimum_bytes
    monkeypatch.setattr(DeviceReplay, "_peak_reserved", lambda _: pytest.fail("replayed again"))
    again = estimate(request, series)
    assert (again.memory, again.fit.minimum_bytes) == (first.memory, least)
