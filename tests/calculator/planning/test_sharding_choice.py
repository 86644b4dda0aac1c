"""Plans of several GPUs without a sharding choose one. Most are by the rule, for their time."""

from dataclasses import replace

import pytest

from calculator.common.errors import PlanError
from calculator.devices import Verdict
from calculator.estimation.estimate import estimate
from calculator.planning.request import SHARDINGS
from tests.calculator.planning.plans import planned

SMALL = {"model": "meta-llama/Llama-3.2-1B", "device": {"gpu": "rtx-4090", "count": 2}, "reserved": "rule"}


@pytest.fixture(scope="module")
def small():
    return planned(SMALL)


def of_sharding(name, body=SMALL):
    return planned({**body, "device": {**body["device"], "sharding": name}})


def test_every_sharding_is_an_option_and_the_chosen_one_is_first(small):
    first = small.configurations[0]
    assert small.shardings[0].sharding == first.request.device.sharding
    assert small.shardings[0].estimate == first.estimate
    assert sorted(option.sharding for option in small.shardings) == sorted(SHARDINGS)


def test_an_option_is_among_the_configurations_of_a_plan_with_that_sharding(small):
    first = small.configurations[0]
    for option in small.shardings:
        under = of_sharding(option.sharding)
        same = [
            configuration
            for configuration in under.configurations
            if configuration.request.method.name == first.request.method.name
        ]
        assert option.request in [evaluation.request for evaluation in same], option.sharding


def test_no_sharding_has_a_configuration_of_the_first_method_that_is_cheaper_at_the_same_quality(small):
    first = small.configurations[0]
    for name in SHARDINGS:
        others = [
            configuration.cost.relative
            for configuration in of_sharding(name).configurations
            if configuration.request.method == first.request.method
            and configuration.request.training.optimizer == "adamw_torch"
        ]
        assert all(round(cost * 20) >= round(first.cost.relative * 20) for cost in others), name


def test_full_fine_tuning_that_one_gpu_has_no_room_for_is_sharded():
    body = {"model": "Qwen/Qwen2.5-7B", "device": {"gpu": "a100-sxm4-80gb", "count": 8}, "reserved": "rule"}
    full = next(
        configuration for configuration in planned(body).configurations if configuration.request.method.name == "full"
    )
    assert full.request.device.sharding in ("zero2", "zero3", "fsdp")
    assert full.fewest_gpus > 1


def test_fewer_gpus_fit_and_still_fewer_do_not():
    body = {"model": "Qwen/Qwen2.5-7B", "device": {"gpu": "a100-sxm4-80gb", "count": 8, "sharding": "fsdp"}}
    full = next(
        configuration
        for configuration in planned({**body, "reserved": "rule"}).configurations
        if configuration.request.method.name == "full"
    )
    assert 1 < full.fewest_gpus <= 8

    def fits(count):
        request = full.request
        training = replace(request.training, micro_batch_size=1, gradient_accumulation_steps=16 // count)
        device = replace(request.device, count=count)
        return estimate(replace(request, training=training, device=device)).fit.verdict is Verdict.FITS

    assert fits(full.fewest_gpus)
    assert full.fewest_gpus == 2 or not fits(full.fewest_gpus // 2)


def test_one_gpu_has_no_sharding_to_choose_and_needs_one():
    part = planned({**SMALL, "device": {"gpu": "rtx-4090"}})
    assert part.shardings == ()
    assert {configuration.fewest_gpus for configuration in part.configurations} == {1}


def test_a_named_sharding_is_not_replaced():
    part = of_sharding("ddp")
    assert {configuration.request.device.sharding for configuration in part.configurations} == {"ddp"}
    assert part.shardings == ()


def test_a_plan_in_which_nothing_fits_proposes_more_gpus_that_fit():
    body = {"model": "meta-llama/Llama-3.1-70B", "device": {"gpu": "a100-pcie-40gb"}, "reserved": "rule"}
    part = planned(body)
    assert not part.configurations
    (sets,) = [change.sets for change in part.changes if "count" in change.sets]
    more = planned({**body, "device": {**body["device"], **sets}})
    assert more.configurations


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(PlanError) as raised:
        planned({**SMALL, "device": {"gpu": "rtx-4090", "count": 3}})
    assert [problem.loc for problem in raised.value.problems] == ["needs.effective_batch_size"]


def test_a_task_of_a_sharded_training_adds_an_unsharded_adapter():
    """In 16 bits under ZeRO, which casts what it trains."""
    of = {name: of_sharding(name).configurations for name in ("ddp", "fsdp", "zero3")}
    adapters = {
        configuration.task_bytes
        for part in of.values()
        for configuration in part
        if configuration.label.startswith("LoRA, r 16")
    }
    assert adapters == {11_272_192 * 4, 11_272_192 * 2}


def test_the_smallest_gpu_of_a_miss_is_one_of_as_many_gpus():
    device = {"gpu": "rtx-4090", "count": 8, "sharding": "zero3"}
    miss = planned({"model": "meta-llama/Llama-3.1-405B", "device": device, "reserved": "rule"}).miss
    assert (miss.card_request.device.count, miss.card_request.device.sharding) == (8, "zero3")
    assert miss.card_fit.verdict is Verdict.FITS
    assert (
        estimate(replace(miss.card_request, device=miss.card_request.device.on_one_gpu)).fit.verdict is not Verdict.FITS
    )


def test_shardings_are_compared_by_the_rule_and_the_chosen_one_is_replayed():
    part = planned({**SMALL, "reserved": "replay"})
    assert {configuration.estimate.reserved for configuration in part.configurations} == {"replay"}
    assert all(configuration.estimate.fit.verdict is Verdict.FITS for configuration in part.configurations)
