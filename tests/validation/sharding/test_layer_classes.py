"""The classes of FSDP2's units compared with transformers."""

import pytest

pytest.importorskip("accelerate")

from accelerate.utils.dataclasses import get_module_class_from_name

from calculator.estimation.request import parse_request
from calculator.sharding.fsdp.layer_classes import LAYER_CLASSES
from validation.reference.build import build_base


@pytest.mark.parametrize("model", ["openai-community/gpt2", "facebook/opt-125m", "Qwen/Qwen3.5-0.8B", "gemma-3-270m"])
def test_the_classes_are_those_that_the_model_contains(model):
    request = parse_request({"model": model, "method": {"name": "full"}, "training": {"sequence_length": 64}})
    built = build_base(request).model
    names = {name for name in built._no_split_modules if get_module_class_from_name(built, name) is not None}
    assert {*LAYER_CLASSES[built.config.model_type]} == names
