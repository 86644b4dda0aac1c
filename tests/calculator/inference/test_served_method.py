"""A served method forwards every hook that the step calls."""

import pytest

from calculator.estimation.request import parse_method
from calculator.inference.served_method import ServedMethod, served
from calculator.inference.settings import Serving
from calculator.methods.base import Method

#: Hooks that only training calls, and those of methods that are not served.
OF_TRAINING = {
    "after_loss",
    "after_no_grad_pass",
    "after_step",
    "before_no_grad_pass",
    "binds_forward",
    "check",
    "couples_layers",
    "drops_states",
    "empties_cache",
    "forward_in",
    "is_cast_to_float32",
    "keeps_inputs",
    "kept",
    "needs_no_cache",
    "nearest_targets",
    "optimized",
    "plain_shardings",
    "peft_arguments",
    "plain_steps_only",
    "runs_no_grad_first",
    "statistics",
    "steps_copies",
    "trains_biases",
    "trains_part",
    "warnings",
}

#: Hooks that classifiers call. Only models of causal_lm are served.
OF_TASKS = {"classifier_copy", "for_model"}

#: Hooks that plans, merging, and the checks of a 4-bit base and of unmerged serving read from the method itself.
OF_PLANS = {
    "assumptions",
    "differs_between_layers",
    "label",
    "label_parts",
    "merge_step",
    "quality_tier",
    "quantizes_base",
    "rank_multiple",
    "refuses_4_bits",
    "refuses_merging",
    "refuses_unmerged",
    "title",
}


def test_every_hook_of_the_step_is_passed_on():
    hooks = {name for name, hook in vars(Method).items() if not name.startswith("_") and name != "name"}
    assert hooks - set(vars(ServedMethod)) == OF_TRAINING | OF_TASKS | OF_PLANS


@pytest.mark.parametrize(
    ("method", "storage", "name", "quant_type"),
    [
        ("lora", "as_trained", "lora", None),
        ("lora", "nf4", "qlora", "nf4"),
        ("qlora", "as_trained", "qlora", "nf4"),
        ("qlora", "dtype", "lora", None),
        ("qlora", "fp4", "qlora", "fp4"),
        ("full", "nf4", "full", "nf4"),
        ("prefix", "fp4", "prefix", "fp4"),
    ],
)
def test_the_storage_decides_how_an_update_runs(method, storage, name, quant_type):
    plan = served(parse_method({"name": method}), Serving(storage=storage))
    assert plan.method.name == name
    assert (plan.quantization and plan.quantization.quant_type) == quant_type


def test_a_prefix_is_served_as_what_its_projection_made_of_it():
    plan = served(parse_method({"name": "prefix", "prefix_projection": True}), Serving())
    assert not plan.method.prefix_projection
