"""The parameters that each method adds and trains equal those of PEFT, for every causal family."""

from collections import Counter

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import resident_state
from calculator.estimation.request import parse_request
from calculator.families import FAMILIES, model_from_config
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


def modelled(request):
    """The shapes of the added parameters and of the trained ones."""
    model = model_from_config(request.model.config)
    request.method.check(model, request.training)
    added, trained = Counter(), Counter()
    for tensor in resident_state(request).tensors:
        shape = tuple(map(int, tensor.shape))
        if not tensor.base and tensor.parameters:
            added[shape] += tensor.count
        if tensor.trained:
            trained[shape] += tensor.count
    return added, trained


def real(request):
    """The same of the real modules."""
    reference = build_model(request)
    base = {id(parameter) for name, parameter in reference.model.named_parameters() if _is_base(name, reference)}
    parameters = [*reference.model.parameters()]
    return (
        Counter(tuple(each.shape) for each in parameters if id(each) not in base),
        Counter(tuple(each.shape) for each in parameters if each.requires_grad),
    )


def _is_base(name, reference):
    own = name.removeprefix(f"{reference.root}.").replace(".base_layer.", ".").replace(".original_module.", ".")
    return own.replace(".sublayer.", ".") in reference.base


@pytest.mark.parametrize(("family", "method"), PAIRS)
def test_added_and_trainable_parameters_equal_those_of_the_real_modules(family, method):
    config = random_config(FAMILIES[family], seed=f"methods {family}")
    request = parse_request({"model": {"config": config}, "method": METHODS[method], "training": SHORT})
    try:
        expected = modelled(request)
    except PlanError as error:
        if "not modelled" not in str(error):
            with pytest.raises((ValueError, TypeError, RuntimeError, AttributeError)):
                trace(request)  # some build, and fail when they run
        return
    assert real(request) == expected
