"""Where targets are refused, what is offered instead is of this very model, and is accepted."""

from dataclasses import replace

import pytest

from calculator.common.errors import PlanError
from calculator.comparison.methods import compare, parse_comparison
from calculator.estimation.estimate import estimate, model_of
from calculator.estimation.request import ModelReference, parse_request
from calculator.estimation.traced.check import modeled_models
from calculator.methods import LoRA
from calculator.methods.targeted.matching import attention_projections
from calculator.methods.targeted.refusals import check

#: A model of each family.
FAMILIES = {entry.model_type: entry.id for entry in reversed(modeled_models())}

#: A model of each family whose experts or router can't be adapted.
MIXTURES = ("deepseek_v2", "deepseek_v3", "mixtral", "olmoe", "phimoe", "qwen3_moe")

LATENT = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")


def family(model_type):
    return model_of(ModelReference(id=FAMILIES[model_type]))


def refused(model_type, targets):
    with pytest.raises(PlanError) as caught:
        check(LoRA(target_modules=targets), family(model_type))
    return "; ".join(problem.msg for problem in caught.value.problems)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_family_has_usual_projections_that_can_be_adapted(model_type):
    model = family(model_type)
    names = LoRA().usual_targets(model)
    assert names
    check(LoRA(target_modules=names), model)
    for name in names:
        check(LoRA(target_modules=(name,)), model)


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("targets", [None, "all-linear", ("nothing_of_this_name",), ("gate", "router", "w1")], ids=str)
def test_the_nearest_targets_to_refused_ones_are_accepted(model_type, targets):
    method, model = LoRA(target_modules=targets), family(model_type)
    check(replace(method, target_modules=method.nearest_targets(model)), model)


@pytest.mark.parametrize("model_type", MIXTURES)
@pytest.mark.parametrize("targets", ["all-linear", ("gate", "router", "w1")], ids=str)
def test_the_refusal_of_experts_names_projections_that_the_model_has(model_type, targets):
    message = refused(model_type, targets)
    assert all(name in message for name in attention_projections(family(model_type)))
    assert "all-linear" not in message


@pytest.mark.parametrize("model_type", MIXTURES)
def test_all_linear_is_offered_without_a_default_only_if_it_is_accepted(model_type):
    assert "all-linear" not in refused(model_type, None)
    assert 'or use "all-linear"' in refused("phi3", None)


def test_the_names_that_can_be_adapted_are_not_among_those_that_are_refused():
    message = refused("deepseek_v3", ("q_proj", "v_proj"))
    assert message == (
        "no module is named q_proj or v_proj; those that can be adapted are "
        "embed_tokens, kv_a_proj_with_mqa, kv_b_proj, lm_head, o_proj, q_a_proj, q_b_proj"
    )


@pytest.mark.parametrize(
    ("model_type", "targets", "near"),
    [
        ("deepseek_v3", "all-linear", LATENT),
        ("deepseek_v3", ("q_proj", "v_proj"), LATENT),
        ("deepseek_v3", None, LATENT),
        ("mixtral", ("q_proj", "w1", "v_proj"), ("q_proj", "v_proj")),
        ("llama", ("q_porj", "v_proj", "layers.3.q_proj"), ("v_proj",)),
        ("llama", ("q_porj",), "all-linear"),
        ("phi3", None, "all-linear"),
    ],
)
def test_nearest_keeps_the_requested_targets_that_can_be_adapted(model_type, targets, near):
    assert LoRA(target_modules=targets).nearest_targets(family(model_type)) == near


def test_there_is_no_nearest_miss_if_something_else_is_refused():
    method = LoRA(target_modules=("q_porj",), layers_to_transform=(99,))
    assert method.nearest_targets(family("llama")) is None


@pytest.mark.parametrize("model_type", ["deepseek_v2", "olmoe", "phimoe"])
def test_a_comparison_has_the_nearest_plan_of_a_mixture_whose_router_is_not_modeled(model_type):
    methods = [{"name": "full"}, {"name": "lora", "target_modules": "all-linear"}]
    _, row = compare(parse_comparison({"model": FAMILIES[model_type], "methods": methods}))
    names = list(attention_projections(family(model_type)))
    assert row.estimate is None
    assert row.alternative.changes == {"method.target_modules": names}
    assert list(row.alternative.estimate.method.target_modules) == names


def test_a_target_without_a_module_is_a_warning():
    body = {"model": "meta-llama/Llama-3.1-8B", "reserved": "rule"}
    method = {"name": "lora", "target_modules": ["q_proj,", "self_attn.v_proj"]}
    found = estimate(parse_request({**body, "method": method}))
    assert found.warnings == ("PEFT ignores q_proj, in method.target_modules: no module's name ends in it.",)
    right = {**method, "target_modules": ["q_proj", "v_proj", "lm_head"]}
    assert estimate(parse_request({**body, "method": right})).warnings == ()
