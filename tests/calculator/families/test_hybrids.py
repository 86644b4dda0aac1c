"""Families whose layers mix tokens without attention, or share tensors: what of them is refused or stated."""

import pytest

from calculator.catalogue import model
from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.families import model_from_config
from calculator.families.lfm2.weights import CONVOLUTIONS
from calculator.families.qwen3_5.weights import WITHOUT_KERNELS
from calculator.inference.inference import inference
from calculator.inference.request import parse_inference
from calculator.run.request import parse_run
from calculator.run.run import whole_run

LFM2 = "LiquidAI/LFM2-350M"
PER_LAYER = "model.config.per_layer_config"
METHOD = {"name": "lora", "target_modules": "all-linear"}


def problem(answer):
    with pytest.raises(PlanError) as caught:
        answer()
    (found,) = caught.value.problems
    return found.loc, found.msg


def test_a_prefix_of_keys_and_values_is_refused():
    request = parse_request({"model": LFM2, "method": {"name": "prefix"}})
    loc, message = problem(lambda: estimate(request))
    assert loc == "method.name"
    assert "use another method" in message


def test_the_cache_of_a_convolution_does_not_depend_on_the_prompt():
    def costs(length):
        body = {"model": LFM2, "method": METHOD, "serving": {"context_length": length, "max_new_tokens": 2}}
        return {cost.name: cost.base for cost in inference(parse_inference(body)).costs}

    short, long, longer = (costs(length)["kv_cache_bytes"] for length in (64, 128, 192))
    assert longer - long == long - short
    assert short > long - short  # the states, and the keys and values of 64 tokens


def test_a_model_without_attention_generates_nothing():
    config = {**model(LFM2).config, "full_attn_idxs": [], "use_cache": False}
    body = {"model": {"config": config}, "method": METHOD}
    loc, message = problem(lambda: inference(parse_inference(body)))
    assert loc == "model"
    assert "no layer attends" in message


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_nemotron_h_without_attention_needs_use_cache_false(checkpointed):
    config = {
        "model_type": "nemotron_h",
        "hybrid_override_pattern": "M-M",
        "num_hidden_layers": 3,
        "mamba_num_heads": 8,
    }
    config |= {"vocab_size": 512, "hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2}
    training = {"gradient_checkpointing": checkpointed, "sequence_length": 64}
    body = {"method": {"name": "full"}, "training": training}
    request = parse_request({**body, "model": {"config": config}})
    assert problem(lambda: estimate(request))[0] == "model.config.use_cache"
    assert estimate(parse_request({**body, "model": {"config": {**config, "use_cache": False}}}))
    with_trainer = {**training, "trainer": "transformers"}
    assert estimate(parse_request({**body, "model": {"config": config}, "training": with_trainer}))


def test_an_evaluation_of_convolutions_is_answered():
    body = {
        "model": LFM2,
        "method": METHOD,
        "training": {"trainer": "transformers", "sequence_length": 64},
        "run": {"eval_strategy": "epoch"},
    }
    phases = {phase.name for phase in whole_run(parse_run(body)).phases}
    assert "evaluation" in phases


def test_an_answer_states_what_is_not_counted_of_convolutions():
    body = {"model": LFM2, "method": {"name": "full"}, "training": {"sequence_length": 64}, "reserved": "rule"}
    assert CONVOLUTIONS in estimate(parse_request(body)).assumptions


GEMMA_4 = {
    "model_type": "gemma4_text",
    "vocab_size": 1000,
    "vocab_size_per_layer_input": 1000,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "global_head_dim": 64,
    "hidden_size_per_layer_input": 16,
    "num_kv_shared_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}


def gemma_4(method="lora", config=(), device=None, **training):
    targets = {"target_modules": "all-linear"} if method == "lora" else {}
    body = {
        "model": {"config": GEMMA_4 | dict(config)},
        "method": {"name": method, **targets},
        "training": {"sequence_length": 64} | training,
        "reserved": "rule",
    }
    return estimate(parse_request(body | ({"device": device} if device else {})))


@pytest.mark.parametrize(
    ("changed", "loc"),
    [
        ({"method": "prompt"}, "method.name"),
        ({"method": "prefix"}, "method.name"),
        ({"device": {"count": 2, "sharding": "fsdp"}}, "device.sharding"),
        ({"config": {"use_bidirectional_attention": "all"}}, "model.config.use_bidirectional_attention"),
        ({"config": {"num_kv_shared_layers": 3}}, "model.config.num_kv_shared_layers"),
        ({"config": {"hidden_size_per_layer_input": 0}}, "model.config.hidden_size_per_layer_input"),
        ({"config": {"enable_moe_block": True}}, "model.config.enable_moe_block"),
        ({"config": {"output_router_logits": True}}, "model.config.output_router_logits"),
        ({"config": {"global_head_dim": 512}, "attention": "flash_attention_2"}, "training.attention"),
        ({"config": {"per_layer_config": {"1": {"head_dim": 64}, "3": {"head_dim": 32}}}}, PER_LAYER),
        ({"config": {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}}, "model.config.rope_parameters"),
    ],
)
def test_gemma_4_models_that_are_not_modeled_are_refused(changed, loc):
    assert problem(lambda: gemma_4(**changed))[0] == loc


def test_sizes_that_transformers_saves_by_layer_are_read():
    saved = {key: value for key, value in GEMMA_4.items() if key != "global_head_dim"}
    saved["per_layer_config"] = {"1": {"head_dim": 64}, "3": {"head_dim": 64}}
    assert model_from_config(saved).parameters == model_from_config(GEMMA_4).parameters


def test_re_entrant_checkpointing_of_layers_that_share_keys_is_refused():
    training = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
    loc, _ = problem(lambda: gemma_4(trainer="transformers", **training))
    assert loc == "training.gradient_checkpointing_kwargs.use_reentrant"


QWEN_3_5 = "Qwen/Qwen3.5-0.8B"


def qwen_3_5(**training):
    body = {"model": QWEN_3_5, "method": METHOD, "training": training, "reserved": "rule"}
    return estimate(parse_request(body))


def test_an_answer_states_that_gated_delta_net_runs_without_kernel_packages():
    assert WITHOUT_KERNELS in qwen_3_5(sequence_length=64).assumptions


def test_an_unknown_type_of_layer_is_refused_by_its_name():
    granite = model("ibm-granite/granite-4.0-h-tiny").config
    changed = {**granite, "layer_types": [*granite["layer_types"][:-1], "mambo"]}
    loc, message = problem(lambda: model_from_config(changed))
    assert (loc, "mambo" in message) == ("model.config.layer_types", True)


def test_a_cache_of_a_model_without_attention_is_refused():
    changed = {**model(QWEN_3_5).config, "layer_types": ["linear_attention"] * 24}
    body = {"model": {"config": changed}, "method": METHOD, "training": {"sequence_length": 64}, "reserved": "rule"}
    assert problem(lambda: estimate(parse_request(body)))[0] == "model.config.use_cache"
    body["training"]["gradient_checkpointing"] = True
    assert estimate(parse_request(body)).parameters.base > 0


def test_heads_of_values_that_do_not_divide_are_refused():
    changed = {**model(QWEN_3_5).config, "linear_num_value_heads": 17}
    assert problem(lambda: model_from_config(changed))[0] == "model.config.linear_num_value_heads"


def test_padding_to_full_chunks_costs_as_much_as_the_tokens():
    """The delta rule pads a sequence to chunks of 64 positions: one token more costs a chunk in its tensors."""
    short, even, longer = (qwen_3_5(sequence_length=n).memory.peak_allocated_bytes for n in (127, 128, 129))
    assert even - short < longer - even


def test_fsdp_of_a_text_model_whose_class_names_a_layer_of_the_tower_is_refused():
    body = {"model": QWEN_3_5, "method": METHOD, "device": {"count": 2, "sharding": "fsdp"}}
    loc, message = problem(lambda: estimate(parse_request(body)))
    assert loc == "device.sharding"
    assert "Qwen3_5VisionBlock" in message
