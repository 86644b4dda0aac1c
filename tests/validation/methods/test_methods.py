"""The parameters that each method adds and trains equal those of PEFT, for every causal family."""

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.request import parse_request
from calculator.families import FAMILIES
from validation.comparison.counts import compared, compared_pair, modeled, real
from validation.random_grid.random_configs import random_config
from validation.reference.build import build_model
from validation.tracing.trace import trace

#: The libraries warn about their own deprecations, and about families that PEFT does not name yet.
pytestmark = [
    pytest.mark.trace,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::RuntimeWarning"),
]

LINEAR = {"name": "lora", "r": 3, "target_modules": "all-linear"}
METHODS = {
    "full": {"name": "full"},
    "lora": {"name": "lora"},
    "lora on all": LINEAR,
    "lora with biases": LINEAR | {"bias": "all", "use_rslora": True},
    "lora with its biases": LINEAR | {"bias": "lora_only", "r": 2},
    "dora": LINEAR | {"use_dora": True, "r": 1},
    "adapter": {"name": "adapter", "bottleneck_size": 5},
    "prefix": {"name": "prefix", "num_virtual_tokens": 3},
    "prefix with a projection": {"name": "prefix", "num_virtual_tokens": 3, "prefix_projection": True},
    "prompt": {"name": "prompt", "num_virtual_tokens": 7},
    "qlora": {"name": "qlora", "target_modules": "all-linear", "r": 2},
    "ia3": {"name": "ia3"},
    "ln tuning": {"name": "ln_tuning"},
    "ln tuning on all": {"name": "ln_tuning", "target_modules": "all-linear"},
    "ia3 on all": {"name": "ia3", "target_modules": "all-linear"},
}
SHORT = {"sequence_length": 8}  # fewer than the learned positions of any random config
CAUSAL = sorted(
    name
    for name, family in FAMILIES.items()
    if family.auto_class == "causal" and name not in ("baichuan", "internlm2")  # remote code, built as llama
)


#: Every family with a third of the methods, every method with a third of the families.
PAIRS = [
    (family, method)
    for row, family in enumerate(CAUSAL)
    for column, method in enumerate(METHODS)
    if (row + column) % 3 == 0
]


@pytest.mark.parametrize(("family", "method"), PAIRS)
def test_added_and_trainable_parameters_equal_those_of_the_real_modules(family, method):
    config = random_config(FAMILIES[family], seed=f"methods {family}")
    request = parse_request({"model": {"config": config}, "method": METHODS[method], "training": SHORT})
    try:
        expected = modeled(request)
    except PlanError as error:
        if "not modeled" not in str(error):
            # Some build, and fail when they run: a Falcon without parallel attention reads a variable that is not set.
            with pytest.raises((ValueError, TypeError, RuntimeError, AttributeError, UnboundLocalError)):
                trace(request)
        return
    assert real(build_model(request)) == expected


def test_a_request_with_other_parameters_is_found(monkeypatch):
    body = {"model": {"config": random_config(FAMILIES["llama"], seed="other")}, "method": LINEAR, "training": SHORT}
    assert compared(body).outcome == "equal"
    monkeypatch.setattr(
        "validation.comparison.counts.real",
        lambda _: modeled(parse_request(body | {"method": {"name": "lora", "r": 2}})),
    )
    found = compared(body)
    assert found.outcome == "different"
    assert found.detail.startswith("added (")


@pytest.mark.parametrize(
    ("family", "method"),
    [("llama", "glora"), ("llama", "oft"), ("gpt2", "boft"), ("gemma4_text", "prefix"), ("qwen2_moe", "vblora")],
)
def test_a_refusal_is_the_libraries_own_or_says_that_it_is_not_modeled(family, method):
    found = [pair.outcome for pair in compared_pair(19901, family, method, refusals=True)]
    assert set(found) <= {"equal", "both refuse", "not modeled"}


def test_names_of_modules_to_save_that_peft_ignores_are_no_refusal():
    config = random_config(FAMILIES["llama"], seed="other")
    method = LINEAR | {"modules_to_save": ["nothing"]}
    assert compared({"model": {"config": config}, "method": method, "training": SHORT}).outcome == "equal"
