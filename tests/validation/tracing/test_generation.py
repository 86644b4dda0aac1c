"""The calculator's passes of `generate` equal those of real modules on the meta device."""

import random
from itertools import cycle

import pytest

from calculator.common.errors import PlanError, refusal
from calculator.estimation.compatibility import check
from calculator.estimation.estimate import model_of
from calculator.estimation.request import Request, parse_method, parse_model
from calculator.families import FAMILIES_WITH_FORWARD, has_no_length
from calculator.inference.passes import peaks
from calculator.inference.served_method import served
from calculator.inference.settings import Serving
from calculator.inputs.device import Device
from calculator.methods.prepared_model import PreparedModel
from calculator.training_step.resident_state import ResidentState
from validation.random_grid.random_requests import random_request
from validation.tracing.generation import trace

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]

LLAMA = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_hidden_layers": 2,
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

#: A mixture of experts.
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

SMALL = {
    "hidden_size": 128,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 517,
}

#: Layers whose cache has states, with attention in other layers or in the same; layers that reuse keys and values, and
#: that attend in chunks.
CACHES = {
    "gated DeltaNet": SMALL
    | {
        "model_type": "qwen3_5_text",
        "head_dim": 32,
        "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 32,
    },
    "convolutions": SMALL | {"model_type": "lfm2", "layer_types": ["conv", "full_attention", "conv", "conv"]},
    "Mamba 2": SMALL
    | {
        "model_type": "granitemoehybrid",
        "layer_types": ["mamba", "attention", "mamba", "mamba"],
        "num_local_experts": 0,
        "shared_intermediate_size": 160,
        "mamba_n_heads": 8,
        "mamba_d_head": 32,
        "mamba_d_state": 16,
        "mamba_n_groups": 2,
        "mamba_chunk_size": 32,
    },
    "Mamba 2 and attention at once": SMALL
    | {
        "model_type": "falcon_h1",
        "mamba_d_ssm": 256,
        "mamba_n_heads": 8,
        "mamba_d_head": 32,
        "mamba_d_state": 16,
        "mamba_n_groups": 8,
        "mamba_chunk_size": 32,
        "mamba_rms_norm": False,
    },
    "shared keys and values": SMALL
    | {
        "model_type": "gemma4_text",
        "head_dim": 32,
        "global_head_dim": 64,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        "num_kv_shared_layers": 2,
        "hidden_size_per_layer_input": 16,
        "vocab_size_per_layer_input": 517,
        "sliding_window": 32,
    },
    "chunks": SMALL
    | {
        "model_type": "llama4_text",
        "head_dim": 32,
        "num_local_experts": 4,
        "intermediate_size_mlp": 160,
        "attention_chunk_size": 32,
    },
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
    {"name": "ia3"},
    {"name": "ia3", "target_modules": "all-linear", "modules_to_save": ["lm_head"]},
    {"name": "ln_tuning"},
    {"name": "ln_tuning", "target_modules": ["input_layernorm", "ln_1", "lm_head", "embed_tokens", "wte"]},
]


def prepared(config, method, **serving):
    """The calculator's objects for a request that it does not refuse."""
    reference, serving = parse_model({"config": config}), Serving(**serving)
    model, plan = model_of(reference), served(parse_method(method), serving)
    check(Request(model=reference, method=plan.method, training=serving.training), model)
    if has_no_length(model):
        raise refusal("model", "no layer attends", model.id)
    unmerged = parse_method(method).for_model(model).refuses_unmerged
    if unmerged and not serving.merged:
        raise refusal("serving.merged", unmerged, False)
    why = plan.method.refuses_4_bits(model) if plan.quantization is not None else None
    if why:
        raise refusal("serving.storage", why, serving.storage)
    return reference, model, plan, serving


def estimated(config, method, **serving):
    _, model, plan, serving = prepared(config, method, **serving)
    resident = ResidentState(PreparedModel(model, plan, serving.training, Device()))
    return {peak.name: peak.bytes for peak in peaks(resident, plan, serving)}


def estimated_and_traced(config, method, **serving):
    """The bytes of every pass, estimated and traced."""
    reference, _, plan, settings = prepared(config, method, **serving)
    return estimated(config, method, **serving), trace(reference, plan, settings).peaks


SERVINGS = [
    {"batch_size": 2, "context_length": 100, "max_new_tokens": 3},
    {"attention": "eager", "context_length": 64, "max_new_tokens": 2, "dtype": "float16"},
    {"padding": True, "batch_size": 3, "context_length": 64, "max_new_tokens": 2, "dtype": "float32"},
]


@pytest.mark.parametrize(
    ("method", "serving"),
    [*zip(METHODS, cycle(SERVINGS))],
    ids=["-".join(map(str, method.values())) for method in METHODS],
)
def test_every_methods_passes_equal_the_trace(method, serving):
    estimate, traced = estimated_and_traced(LLAMA, method, **serving)
    assert estimate == traced


@pytest.mark.parametrize("config", [GEMMA3, MIXTRAL], ids=["windows", "experts"])
@pytest.mark.parametrize(
    "serving",
    [
        {"batch_size": 2, "context_length": 100, "max_new_tokens": 3},
        {"context_length": 29, "max_new_tokens": 6, "attention": "eager"},
        {"batch_size": 5, "context_length": 64, "max_new_tokens": 3, "padding": True, "storage": "nf4"},
    ],
    ids=["beyond the window", "into the window", "padding"],
)
def test_passes_with_windows_and_experts_equal_the_trace(config, serving):
    estimate, traced = estimated_and_traced(config, {"name": "lora", "target_modules": ["q_proj"]}, **serving)
    assert estimate == traced


@pytest.mark.parametrize("config", CACHES.values(), ids=CACHES)
@pytest.mark.parametrize(
    "serving",
    [
        {"batch_size": 2, "context_length": 70, "max_new_tokens": 3},
        {"context_length": 31, "max_new_tokens": 3, "padding": True, "dtype": "float32", "attention": "eager"},
    ],
    ids=["sdpa", "eager, padded"],
)
def test_passes_with_other_caches_equal_the_trace(config, serving):
    estimate, traced = estimated_and_traced(config, {"name": "lora", "target_modules": ["q_proj"]}, **serving)
    assert estimate == traced


@pytest.mark.parametrize("method", [{"name": "prefix"}, {"name": "prompt"}], ids=["prefix", "prompt"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_passes_with_virtual_tokens_and_windows_equal_the_trace(method, attention):
    estimate, traced = estimated_and_traced(
        GEMMA3, method, batch_size=2, context_length=60, max_new_tokens=3, attention=attention
    )
    assert estimate == traced


@pytest.mark.parametrize("method", [METHODS[1], METHODS[4], METHODS[7], METHODS[8]], ids=lambda method: method["name"])
def test_passes_with_several_adapters_equal_the_trace(method):
    method = {**method, "prefix_projection": False} if method["name"] == "prefix" else method
    estimate, traced = estimated_and_traced(LLAMA, method, tasks=3, context_length=64, max_new_tokens=2)
    assert estimate == traced


@pytest.mark.parametrize("storage", ["dtype", "nf4"])
def test_passes_of_a_merged_model_equal_the_trace(storage):
    estimate, traced = estimated_and_traced(
        LLAMA, METHODS[2], merged=True, storage=storage, context_length=64, max_new_tokens=2
    )
    assert estimate == traced


def answered_requests(count):
    """The first random requests that the calculator answers: config, method and serving settings."""
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
            estimated(body["model"]["config"], body["method"], **serving)
        except PlanError:
            continue
        found.append((body["model"]["config"], body["method"], serving))
    return found


@pytest.mark.parametrize(("config", "method", "serving"), answered_requests(8))
def test_passes_of_random_requests_equal_the_trace(config, method, serving):
    estimate, traced = estimated_and_traced(config, method, **serving)
    assert estimate == traced
