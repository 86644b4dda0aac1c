"""Full fine-tuning of chosen parameters. tests/cases/unfrozen.jsonl has traced steps."""

import re

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate, model_of
from calculator.estimation.request import parse_request
from calculator.speed.step_cost import step_cost

#: Sixteen layers, with one table for embeddings and head.
TIED = "meta-llama/Llama-3.2-1B"


def answer(patterns, model=TIED, device=None, dtype="model", **training):
    method = {"name": "full", "unfrozen_parameters": patterns, "unfrozen_dtype": dtype}
    body = {"model": model, "method": method, "training": {"sequence_length": 64, **training}, "device": device or {}}
    return estimate(parse_request({**body, "reserved": "rule"}))


def test_the_trained_parameters_are_those_that_a_pattern_matches_from_the_start_of_their_name():
    layer = 60_821_504
    assert answer(["model.layers.1."]).parameters.trainable == layer
    assert answer(["model.layers.1"]).parameters.trainable == 7 * layer  # 1 and 10 to 15
    assert answer(["model.layers.(3|4)."]).parameters.trainable == 2 * layer
    assert answer(["model.layers.[0-9]+.mlp.down_proj", "^model.norm.weight$"]).parameters.trainable == (
        16 * 8192 * 2048 + 2048
    )
    assert answer(["model.embed_tokens.weight$[:1000]"]).parameters.trainable == 128_256 * 2048


def test_layers_below_the_first_trained_one_save_nothing():
    every, first, last = (
        answer(patterns, sequence_length=2048).memory.peak_allocated_bytes
        for patterns in (None, ["model.layers.0."], ["model.layers.15."])
    )
    assert every > first > last + 2**30


def test_a_checkpoint_has_the_full_model():
    assert answer(["model.norm"]).saved_bytes == answer(None).saved_bytes


@pytest.mark.parametrize(
    ("patterns", "changed", "loc", "why"),
    [
        (["layers.3"], {}, "unfrozen_parameters", "matches no parameter: names are matched from their start"),
        (["lm_head"], {}, "unfrozen_parameters", "is the same tensor as model.embed_tokens.weight: name that"),
        (["(a+)+"], {}, "unfrozen_parameters", "is not read"),
        (["model.layers.3"] * 1001, {}, "unfrozen_parameters", "at most 1,000 are read"),
        (["model.norm"], {"dtype": "float32"}, "unfrozen_dtype", "set training.autocast"),
        (None, {"dtype": "float32"}, "unfrozen_dtype", "name them in unfrozen_parameters"),
    ],
    ids=str,
)
def test_choices_that_train_nothing_or_cannot_run_are_refused(patterns, changed, loc, why):
    with pytest.raises(PlanError) as raised:
        answer(patterns, **changed)
    (problem,) = raised.value.problems
    assert (problem.loc, why in problem.msg) == (f"method.{loc}", True)


def test_a_bias_alone_is_not_cast_to_float32():
    with pytest.raises(PlanError, match=re.escape("is modeled for whole modules")):
        answer(["transformer.h.[0-9]+.mlp.c_fc.bias"], "openai-community/gpt2", dtype="float32", autocast="bfloat16")


@pytest.mark.parametrize(
    ("changed", "loc"),
    [
        ({"trainer": "torchtune", "attention": "sdpa"}, "method.unfrozen_parameters"),
        ({"optimizer": "galore_adamw", "optim_target_modules": "all-linear"}, "training.optimizer"),
    ],
    ids=str,
)
def test_runs_that_are_not_modeled_with_it_are_refused(changed, loc):
    with pytest.raises(PlanError) as raised:
        answer(["model.layers.3."], **changed)
    assert loc in [problem.loc for problem in raised.value.problems]


def test_the_cost_of_a_step_counts_the_gradients_of_trained_weights():
    def gradients(patterns):
        method = {"name": "full", "unfrozen_parameters": patterns}
        request = parse_request({"model": TIED, "method": method, "training": {"sequence_length": 64}})
        terms = step_cost(model_of(request.model), request, estimate(request)).terms
        return sum(term.amount for term in terms if term.name == "gradients of the weights") // (64 * 2)

    assert gradients(["model.layers.3.mlp.down_proj"]) == 8192 * 2048
    assert gradients(["model.embed_tokens"]) == 128_256 * 2048
    assert gradients(["model.norm"]) == 0
    assert gradients(["model."]) == gradients(None)


def test_parameters_of_a_tower_that_does_not_run_are_refused_by_themselves():
    tower = "model.vision_tower."
    with pytest.raises(PlanError, match="nothing that is trained is used for text"):
        answer([tower], model="google/gemma-3-4b-it")
    assert answer([tower, "model.language_model.norm"], model="google/gemma-3-4b-it")
