"""The parameters that each method adds and trains equal those of PEFT, for every causal family."""

from collections import Counter

import pytest

from calculator.common.errors import PlanError
from calculator.estimate.estimate import resident_state
from calculator.estimate.request import parse_request
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


def modelled(request, *, trained):
    model = model_from_config(request.model.config)
    request.method.check(model, request.training)
    counts = Counter()
    for tensor in resident_state(request).tensors:
        if tensor.trained if trained else not tensor.base and tensor.parameters:
            counts[tuple(map(int, tensor.shape))] += tensor.count
    return counts


def real(request, *, trained):
    reference = build_model(request)
    names = {id(parameter) for name, parameter in reference.model.named_parameters() if _is_base(name, reference)}
    return Counter(
        tuple(parameter.shape)
        for parameter in reference.model.parameters()
        if (parameter.requires_grad if trained else id(parameter) not in names)
    )


def _is_base(name, reference):
    own = name.removeprefix(f"{reference.root}.").replace(".base_layer.", ".").replace(".original_module.", ".")
    return own.replace(".sublayer.", ".") in reference.base


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", CAUSAL)
def test_added_and_trainable_parameters_equal_those_of_the_real_modules(family, method):
    config = random_config(FAMILIES[family], seed=f"methods {family}")
    request = parse_request({"model": {"config": config}, "method": METHODS[method], "training": SHORT})
    try:
        added, trained = modelled(request, trained=False), modelled(request, trained=True)
    except PlanError as error:
        if "not modelled" not in str(error):
            with pytest.raises((ValueError, TypeError, RuntimeError, AttributeError)):
                trace(request)  # some build, and fail when they run
        return
    assert real(request, trained=False) == added
    assert real(request, trained=True) == trained
