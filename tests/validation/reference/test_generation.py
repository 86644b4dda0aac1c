"""The passes of `generate` by the calculator, held against real modules on the meta device."""

import random

import pytest

from calculator.common.errors import PlanError
from calculator.estimate.compatibility import check
from calculator.estimate.estimate import model_of
from calculator.estimate.request import Request, parse_method, parse_model
from calculator.families import FAMILIES_WITH_FORWARD
from calculator.inference.passes import peaks
from calculator.inference.served_method import served
from calculator.inference.settings import Serving
from calculator.inputs.training import Device
from calculator.methods.prepared_model import PreparedModel
from calculator.training_step.resident_state import ResidentState
from validation.random_grid.random_requests import random_request
from validation.reference.generation import trace

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]

LLAMA = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
}

#: Layers with and without a window.
GEMMA3 = {
    "model_type": "gemma3_text",
    "hidden_size": 192,
    "intermediate_size": 320,
    "num_hidden_layers": 7,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 517,
    "sliding_window": 32,
}

#: Experts, of which each has matrices of its own.
MIXTRAL = {
    "model_type": "mixtral",
    "hidden_size": 192,
    "intermediate_size": 320,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "vocab_size": 517,
}

METHODS = [
    {"name": "full"},
    {"name": "lora"},
    {"name": "lora", "use_dora": True, "lora_dropout": 0.1, "target_modules": "all-linear"},
    {"name": "lora", "modules_to_save": ["lm_head"]},
    {"name": "qlora", "target_modules": "all-linear"},
    {"name": "qlora", "double_quant": False, "quant_type": "fp4", "blocksize": 128},
    {"name": "adapter"},
    {"name": "prefix", "prefix_projection": True},
    {"name": "prompt", "num_virtual_tokens": 7},
]


def planned(config, method, **serving):
    """What a request comes to, once it is found to be answered."""
    reference, serving = parse_model({"config": config}), Serving(**serving)
    model, plan = model_of(reference), served(parse_method(method), serving)
    check(Request(model=reference, method=plan.method, training=serving.training), model)
    return reference, model, plan, serving


def by_the_calculator(config, method, **serving):
    _, model, plan, serving = planned(config, method, **serving)
    resident = ResidentState(PreparedModel(model, plan, serving.training, Device()))
    return {peak.name: peak.bytes for peak in peaks(resident, plan, serving)}


def held_against_the_trace(config, method, **serving):
    """Bytes of every pass, by the calculator and by the trace."""
    reference, _, plan, settings = planned(config, method, **serving)
    return by_the_calculator(config, method, **serving), trace(reference, plan, settings).peaks


@pytest.mark.parametrize("method", METHODS, ids=lambda method: "-".join(map(str, method.values())))
@pytest.mark.parametrize(
    "serving",
    [
        {"batch_size": 2, "context_length": 100, "max_new_tokens": 4},
        {"attention": "eager", "context_length": 64, "max_new_tokens": 3, "dtype": "float16"},
        {"padding": True, "batch_size": 3, "context_length": 64, "max_new_tokens": 2, "dtype": "float32"},
    ],
    ids=["sdpa", "eager", "padding"],
)
def test_every_method_is_served_as_the_real_modules_do(method, serving):
    told, traced = held_against_the_trace(LLAMA, method, **serving)
    assert told == traced


@pytest.mark.parametrize("config", [GEMMA3, MIXTRAL], ids=["windows", "experts"])
@pytest.mark.parametrize(
    "serving",
    [
        {"batch_size": 2, "context_length": 100, "max_new_tokens": 40},
        {"context_length": 20, "max_new_tokens": 20, "attention": "eager"},
        {"batch_size": 5, "context_length": 64, "max_new_tokens": 3, "padding": True, "storage": "nf4"},
    ],
    ids=["beyond the window", "into the window", "padding"],
)
def test_windows_and_experts_are_served_as_the_real_modules_do(config, serving):
    told, traced = held_against_the_trace(config, {"name": "lora", "target_modules": ["q_proj"]}, **serving)
    assert told == traced


@pytest.mark.parametrize("method", [{"name": "prefix"}, {"name": "prompt"}], ids=["prefix", "prompt"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_virtual_tokens_and_windows_go_together(method, attention):
    told, traced = held_against_the_trace(
        GEMMA3, method, batch_size=2, context_length=60, max_new_tokens=6, attention=attention
    )
    assert told == traced


@pytest.mark.parametrize("method", [METHODS[1], METHODS[4], METHODS[7], METHODS[8]], ids=lambda method: method["name"])
def test_several_tasks_lie_beside_one_base(method):
    method = {**method, "prefix_projection": False} if method["name"] == "prefix" else method
    told, traced = held_against_the_trace(LLAMA, method, tasks=3, context_length=64, max_new_tokens=2)
    assert told == traced


@pytest.mark.parametrize("storage", ["dtype", "nf4"])
def test_a_merged_model_is_a_plain_one(storage):
    told, traced = held_against_the_trace(
        LLAMA, METHODS[2], merged=True, storage=storage, context_length=64, max_new_tokens=2
    )
    assert told == traced


def drawn(count):
    """The first random requests that the calculator answers: a config, a method, and how it is served."""
    number, found = 0, []
    while len(found) < count:
        body, chance = random_request(2026, number, FAMILIES_WITH_FORWARD), random.Random(number)
        training = body["training"]
        serving = {
            "batch_size": training.get("micro_batch_size", 1),
            "context_length": training["sequence_length"],
            "max_new_tokens": chance.choice([1, 2, 3, 5]),
            "dtype": training.get("dtype", "bfloat16"),
            "adapter_dtype": training.get("adapter_dtype", "float32"),
            "attention": training.get("attention", "sdpa"),
            "padding": training.get("padding", False),
            "storage": chance.choice(["as_trained", "as_trained", "dtype", "nf4"]),
        }
        number += 1
        try:
            by_the_calculator(body["model"]["config"], body["method"], **serving)
        except PlanError:
            continue
        found.append((body["model"]["config"], body["method"], serving))
    return found


@pytest.mark.parametrize(("config", "method", "serving"), drawn(20))
def test_random_requests_are_served_as_the_real_modules_do(config, method, serving):
    told, traced = held_against_the_trace(config, method, **serving)
    assert told == traced
