"""Copies of `modules_to_save` in float32, as LLaMA-Factory trains them. tests/cases/unfrozen.jsonl has traced steps."""

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request

MODEL = "Qwen/Qwen2.5-0.5B"
ELEMENTS = 151_936 * 896


def answer(dtype="float32", device=None, method=None, **training):
    method = {"name": "lora", "r": 4, "modules_to_save": ["embed_tokens"], "unfrozen_dtype": dtype, **(method or {})}
    training = {"trainer": "transformers", "autocast": "bfloat16", "sequence_length": 64, **training}
    body = {"model": MODEL, "method": method, "training": training, "device": device or {}, "reserved": "rule"}
    return estimate(parse_request(body))


def test_a_copy_in_float32_takes_two_more_bytes_for_each_of_its_elements():
    def adapters(dtype):
        return sum(row.bytes for row in answer(dtype).memory.components if row.name == "adapter_weights")

    assert adapters("float32") - adapters("model") == 2 * ELEMENTS


@pytest.mark.parametrize("sharding", ["fsdp", "zero2"])
def test_a_copy_has_the_same_memory_where_a_sharding_chooses_the_dtypes(sharding):
    device = {"count": 2, "sharding": sharding}
    method = {"modules_to_save": ["down_proj"]}
    float32, model = (answer(dtype, device, method).memory.peak_allocated_bytes for dtype in ("float32", "model"))
    assert float32 == model


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"method": {"modules_to_save": None}}, "name them in modules_to_save"),
        ({"autocast": None}, "set training.autocast"),
        ({"adapter_dtype": "model"}, "casts adapters to float32 too"),
        ({"trainer": "trl-dpo"}, "is modeled in the reference step and with transformers"),
        ({"method": {"bias": "all"}}, "use method.bias none"),
        ({"device": {"count": 2, "sharding": "zero3"}}, "LLaMA-Factory casts no copies under zero3"),
    ],
    ids=str,
)
def test_copies_in_float32_that_are_not_modeled_are_refused(changed, why):
    with pytest.raises(PlanError) as raised:
        answer(**changed)
    assert [problem.loc for problem in raised.value.problems if why in problem.msg] == ["method.unfrozen_dtype"]
