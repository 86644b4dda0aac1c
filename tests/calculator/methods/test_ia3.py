"""IA³: what PEFT refuses, and what a token costs."""

import pytest

from calculator.catalogue import models
from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate, model_of
from calculator.estimation.request import ModelReference, parse_request
from calculator.inference.inference import inference
from calculator.inference.request import parse_inference
from calculator.inputs.training import Training
from calculator.methods import IA3
from calculator.methods.ia3.targets import DEFAULT_FEEDFORWARD, DEFAULT_TARGETS

LLAMA = "meta-llama/Llama-3.1-8B"
#: A model of each family.
FAMILIES = {entry.model_type: entry.id for entry in reversed(models())}


def problems(model=LLAMA, **settings):
    with pytest.raises(PlanError) as caught:
        IA3(**settings).check(model_of(ModelReference(id=model)), Training())
    return {problem.loc: problem.msg for problem in caught.value.problems}


def estimated(**method):
    return estimate(parse_request({"model": LLAMA, "method": {"name": "ia3", **method}}))


def served(**serving):
    return inference(parse_inference({"model": LLAMA, "method": {"name": "ia3"}, "serving": serving}))


def test_a_vector_is_as_long_as_the_output_or_a_feed_forward_modules_input():
    assert estimated().parameters.added == 32 * (1024 + 1024 + 14_336)
    assert estimated(target_modules=["down_proj"], feedforward_modules=["down_proj"]).parameters.added == 32 * 14_336
    assert estimated(target_modules=["o_proj", "q_proj"]).parameters.added == 32 * (4096 + 4096)


def test_a_family_with_a_default_for_its_targets_has_one_for_its_feed_forward_modules():
    assert DEFAULT_TARGETS.keys() == DEFAULT_FEEDFORWARD.keys()
    assert all(set(DEFAULT_FEEDFORWARD[name]) <= set(DEFAULT_TARGETS[name]) for name in DEFAULT_TARGETS)


def test_feed_forward_modules_must_be_targets():
    found = problems(target_modules=("q_proj",), feedforward_modules=("down_proj",))
    assert found == {"method.feedforward_modules": "down_proj must be among target_modules too"}


def test_a_family_without_defaults_needs_both_lists():
    model = FAMILIES["phi3"]
    assert list(problems(model)) == ["method.target_modules"]
    assert list(problems(model, target_modules=("qkv_proj",))) == ["method.feedforward_modules"]
    IA3(target_modules=("qkv_proj", "down_proj"), feedforward_modules=("down_proj",)).check(
        model_of(ModelReference(id=model)), Training()
    )


def test_an_embedding_and_a_single_layer_are_refused():
    assert "no linear layer" in problems(target_modules=("embed_tokens",))["method.target_modules"]
    one = ("layers.3.mlp.down_proj",)
    assert (
        "picks one layer"
        in problems(target_modules="all-linear", feedforward_modules=one)["method.feedforward_modules"]
    )


def test_a_token_costs_one_operation_for_each_scaled_value():
    (operations,) = (cost for cost in served().costs if cost.unit == "operations")
    assert (operations.added, operations.formula) == (32 * (1024 + 1024 + 14_336), "added weights")
    assert all(cost.added == 0 for cost in served(merged=True).costs)


def test_merging_needs_the_product_and_its_copy_in_the_weights_dtype():
    merge = served(merged=True).merge
    assert [row.bytes for row in merge.rows] == [4 * 14_336 * 4096, 2 * 14_336 * 4096]


@pytest.mark.parametrize("merged", [True, False])
def test_a_base_in_4_bits_is_refused(merged):
    with pytest.raises(PlanError, match="4 bits"):
        served(storage="nf4", merged=merged)
