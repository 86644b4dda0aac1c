"""If requests for different tasks alternate, every proposal has the unmerged modules of all tasks in memory."""

import pytest

from calculator.devices import Verdict
from calculator.estimation.request import ModelReference
from calculator.inference.inference import inference
from calculator.inference.request import parse_inference
from calculator.inputs.device import Device
from calculator.methods import USUAL_METHODS, Adapter, LoRA
from calculator.planning.evaluator import Candidate, Evaluator
from calculator.planning.needs import Needs
from calculator.planning.plan import plan
from calculator.planning.request import parse_plan
from tests.calculator.planning import plans

GIB = 1 << 30
LARGE = {"model": "meta-llama/Llama-3.1-70B", "device": {"gpu": "a100-sxm4-80gb"}}
USUAL = {"model": "meta-llama/Llama-3.1-8B", "device": {"gpu": "a100-sxm4-80gb"}}


def planned(body, tasks, **needs):
    return plans.planned({**body, "needs": {"tasks": tasks, "switch_per_request": True, **needs}})


def reasons(configuration, stance):
    return {reason.rule.name: reason.sentence for reason in configuration.reasons if reason.stance == stance}


def resident_bytes(configuration, tasks):
    """The bytes of the base and of every task's module."""
    parts = {component.name: component.bytes for component in configuration.estimate.memory.components}
    return parts["base_weights"] + parts.get("quantization_constants", 0) + tasks * configuration.task_bytes


@pytest.mark.parametrize("tasks", [20, 60, 300, 2000])
def test_every_configuration_fits_every_task(tasks):
    part = planned(LARGE, tasks)
    assert part.configurations
    for configuration in part.configurations:
        assert resident_bytes(configuration, tasks) < configuration.estimate.fit.usable_bytes
        assert "for the KV cache" in reasons(configuration, "for")["one_base"]


def test_an_inference_request_of_the_same_tasks_fits():
    for configuration in planned(LARGE, 60).configurations:
        method = configuration.request.method
        targets = method.target_modules if isinstance(method.target_modules, str) else list(method.target_modules)
        body = {
            "model": LARGE["model"],
            "method": {"name": "qlora", "r": method.r, "target_modules": targets},
            "serving": {"tasks": 60},
            "device": LARGE["device"],
        }
        assert inference(parse_inference(body)).fit.verdict is Verdict.FITS


@pytest.mark.parametrize("name", ["lora", "adapter"])
def test_the_stated_number_of_tasks_is_served_and_not_many_more(name):
    """To within 5 %: each task's tensors are rounded up."""
    card = {"gpu": "rtx-4090"}
    evaluator = Evaluator(
        ModelReference(id=USUAL["model"]),
        Device(**card),
        Needs(tasks=2, switch_per_request=True),
        length_given=True,
        reserved="rule",
    )
    method = {"lora": LoRA(r=16, target_modules="all-linear"), "adapter": Adapter()}[name]
    most = evaluator.footprint(Candidate(method=method)).max_tasks
    body = {**USUAL, "device": card, "method": {"name": name}}
    if name == "lora":
        body["method"] |= {"r": 16, "target_modules": "all-linear"}
    verdicts = [
        inference(parse_inference({**body, "serving": {"tasks": tasks}})).fit.verdict
        for tasks in (most * 19 // 20, most * 21 // 20)
    ]
    assert [verdict is Verdict.FITS for verdict in verdicts] == [True, False]


def test_a_smaller_adapter_replaces_one_whose_tasks_do_not_fit_and_the_reason_is_stated():
    """60 modules of r 16 on every linear layer, 46 GiB, do not fit next to a base of 37 GiB and a request of 2."""
    first = planned(LARGE, 60).configurations[0]
    assert (first.request.method.r, first.request.method.target_modules) == (8, "all-linear")
    sentence = reasons(first, "against")["held_at_once"]
    assert (
        "QLoRA, r 16 on every linear layer, not prepared, would need 85.5 GiB of 79.3 GiB for all 60 tasks" in sentence
    )
    assert "the GPU has room for 51" in sentence


def test_a_module_on_attention_is_offered_at_the_rank_to_begin_with():
    methods = [configuration.request.method for configuration in planned(LARGE, 60).configurations]
    assert [method.r for method in methods if method.target_modules != "all-linear"] == [16]


def test_a_preferred_adapter_that_fits_has_no_reason_against_it():
    assert all(
        "held_at_once" not in reasons(configuration, "against") for configuration in planned(USUAL, 20).configurations
    )


def test_ranks_go_down_to_one_if_the_tasks_require_it():
    (*_, last) = planned(LARGE, 2000).configurations
    assert last.request.method.r == 1


def test_a_plan_without_a_fitting_adapter_states_the_number_of_tasks_that_fits():
    part = planned(LARGE, 20_000)
    assert part.configurations == ()
    assert part.miss.request.method.name == "qlora"
    assert part.miss.estimate.fit.verdict is Verdict.FITS
    assert part.miss.short_bytes == part.miss.footprint.bytes - part.miss.estimate.fit.usable_bytes > 0
    assert {out.method: out.rule.name for out in part.ruled_out}["qlora"] == "held_at_once"
    fewer = next(change for change in part.changes if "tasks" in change.sets)
    most = fewer.sets["tasks"]
    assert fewer.sentence == f"With {most:,} tasks instead of 20,000 it fits."
    assert planned(LARGE, most).configurations
    assert not planned(LARGE, most + 1).configurations


def test_the_smallest_gpu_of_a_miss_fits_every_task():
    body = {"model": "meta-llama/Llama-2-13b-hf", "device": {"memory_bytes": 16 * GIB}}
    miss = planned(body, 4000).miss
    assert 16 * GIB < miss.footprint.bytes <= miss.card.usable_bytes
    assert planned({**body, "device": {"gpu": miss.card.id}}, 4000).configurations


def test_a_sequence_and_tasks_that_are_both_too_many_are_changed_together():
    body = {"model": "meta-llama/Llama-3.1-8B", "device": {"gpu": "rtx-3070"}}
    part = planned(body, 3000)
    (change,) = (change for change in part.changes if "sequence_length" in change.sets)
    assert set(change.sets) == {"sequence_length", "tasks"}
    assert planned(body, **change.sets).configurations


def test_every_unmerged_method_shares_a_batch_and_states_its_overhead():
    part = planned(USUAL, 20)
    assert {shown.request.method.name for shown in part.configurations} == set(USUAL_METHODS) - {"full"}
    for configuration in part.configurations:
        shares = "requests for 20 tasks can share a batch" in reasons(configuration, "for").get("mixed_batch", "")
        assert shares != configuration.request.method.facts.trains_copies
        against = reasons(configuration, "against")
        assert "more operations" in against.get("unmerged", against.get("stays_beside"))


def test_the_overhead_is_that_of_the_inference():
    adapter = next(
        configuration
        for configuration in planned(USUAL, 20).configurations
        if configuration.request.method.name == "adapter"
    )
    body = {**USUAL, "method": {"name": "adapter", "bottleneck_size": 64}, "serving": {"max_new_tokens": 1}}
    share = next(cost.share for cost in inference(parse_inference(body)).costs if cost.unit == "operations")
    assert f"at {share:.2%}".replace("%", " %") in reasons(adapter, "for")["mixed_batch"]


def test_added_products_are_counted_the_same_for_adapters_and_low_rank():
    """Llama-3.1-8B has 32 layers: two adapters each, or seven matrices, and two products in each."""
    sentences = {
        configuration.request.method.name: reasons(configuration, "against")
        for configuration in planned(USUAL, 20).configurations
    }
    assert f"{32 * 7 * 2} more small products" in sentences["lora"]["unmerged"]
    assert f"{32 * 2 * 2} small products" in sentences["adapter"]["stays_beside"]


def test_an_immutable_base_states_the_overhead_of_low_rank_too():
    body = {"model": "meta-llama/Llama-3.1-8B", "device": {"gpu": "l40s"}, "needs": {"frozen_base": True, "tasks": 3}}
    (part,) = plan(parse_plan(body)).plans
    for configuration in part.configurations:
        rule = "unmerged" if configuration.request.method.facts.mergeable else "stays_beside"
        assert rule in reasons(configuration, "against")
