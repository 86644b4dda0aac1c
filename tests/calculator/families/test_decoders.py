"""Decoders with learned positions, ALiBi or experts, compared with traces of small models (tests/cases/README.md)."""

import json

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate, training_step
from calculator.estimation.remarks import EXPERTS
from calculator.estimation.request import parse_request
from tests.paths import CASE_FILES

CASES = [json.loads(line) for line in (CASE_FILES / "decoders.jsonl").read_text().splitlines()]

#: A small model of each kind, 6 layers deep.
SHAPES = {
    "bloom": {"hidden_size": 192, "n_layer": 6, "n_head": 6},
    "falcon": {"hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 6},
    "gpt2": {"n_embd": 192, "n_layer": 6, "n_head": 6, "n_positions": 256},
    "mpt": {"d_model": 192, "n_layers": 6, "n_heads": 6, "max_seq_len": 256},
    "opt": {
        "hidden_size": 192,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "ffn_dim": 768,
        "max_position_embeddings": 256,
        "word_embed_proj_dim": 192,
    },
    "mixtral": {
        "hidden_size": 192,
        "intermediate_size": 320,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    },
    "phimoe": {
        "hidden_size": 192,
        "intermediate_size": 320,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    },
    "deepseek_v3": {
        "hidden_size": 192,
        "intermediate_size": 320,
        "moe_intermediate_size": 64,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 6,
        "n_routed_experts": 8,
        "n_group": 2,
        "topk_group": 1,
        "num_experts_per_tok": 2,
    },
}


def parsed(family, *, method, training, **config):
    whole = {"model_type": family, "vocab_size": 517, **SHAPES[family], **config}
    training = {"sequence_length": 128, "micro_batch_size": 2, **training}
    return parse_request({"model": {"config": whole}, "method": method or {"name": "full"}, "training": training})


def step(family, method=None, training=None, **config):
    request = parsed(family, method=method, training=training or {}, **config)
    return training_step(request)


def phases(family, method=None, training=None, **config):
    return {peak.phase: peak.bytes for peak in step(family, method, training, **config).peaks()}


def answer(family, method=None, training=None, **config):
    return estimate(parsed(family, method=method, training=training or {}, **config))


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_every_phase_is_the_traced_one_to_the_byte(case):
    request = parse_request(case["request"])
    peaks = training_step(request).peaks()
    assert {peak.phase: peak.bytes for peak in peaks} == case["expected"]["phases"]


@pytest.mark.parametrize("family", ["bloom", "mpt"])
def test_a_family_without_sdpa_runs_eager_if_sdpa_is_requested(family):
    assert phases(family, training={"attention": "sdpa"}) == phases(family, training={"attention": "eager"})


@pytest.mark.parametrize(("family", "config"), [("bloom", {}), ("mpt", {}), ("falcon", {"alibi": True})])
def test_alibi_is_refused_under_flash_attention_2(family, config):
    with pytest.raises(PlanError, match="FlashAttention 2"):
        answer(family, training={"attention": "flash_attention_2"}, **config)


def test_falcons_alibi_makes_a_mask_for_each_head():
    rows = step("falcon", alibi=True, multi_query=False).run.rows
    assert (2, 6, 128, 128) in [tuple(map(int, shape)) for name, shape, *_ in rows if name.endswith("with ALiBi")]


def test_falcon_with_a_single_key_head_runs_the_math_kernel():
    def softmaxes(**config):
        return [name for name, *_ in step("falcon", **config).run.rows if name.endswith("softmax")]

    assert softmaxes(multi_query=True)
    assert not softmaxes(multi_query=False)


@pytest.mark.parametrize("family", ["gpt2", "opt", "mpt"])
def test_a_sequence_longer_than_the_positions_is_refused(family):
    answer(family, training={"sequence_length": 256})
    with pytest.raises(PlanError, match="257 positions are needed; the model has 256 only"):
        answer(family, training={"sequence_length": 257})


def test_a_prompt_as_wide_as_the_layers_is_refused_before_narrower_embeddings():
    answer("opt", {"name": "prompt"})
    with pytest.raises(PlanError, match="192 wide, the embeddings are 96"):
        answer("opt", {"name": "prompt"}, word_embed_proj_dim=96)


@pytest.mark.parametrize(("family", "config"), [("falcon", {"multi_query": True}), ("deepseek_v3", {})])
def test_a_prefix_is_refused_if_the_cache_has_a_single_head(family, config):
    with pytest.raises(PlanError, match="caches one head"):
        answer(family, {"name": "prefix"}, **config)


def test_a_prefix_with_padding_is_refused_if_there_is_a_router_loss():
    answer("mixtral", {"name": "prefix"}, output_router_logits=True)
    with pytest.raises(PlanError, match="longer than the input"):
        answer("mixtral", {"name": "prefix"}, {"padding": True}, output_router_logits=True)


def test_lora_cannot_target_the_router_of_phimoe():
    answer("phimoe", {"name": "lora", "target_modules": ["q_proj"]})
    with pytest.raises(PlanError, match="returns a tuple"):
        answer("phimoe", {"name": "lora", "target_modules": "all-linear"})


def test_an_answer_with_experts_states_that_routing_does_not_change_memory():
    assert EXPERTS in answer("mixtral").assumptions
    assert EXPERTS not in answer("gpt2").assumptions


def test_a_warning_names_a_switch_that_is_not_counted():
    assert any("layerdrop" in warning for warning in answer("opt", layerdrop=0.1).warnings)
    assert not answer("opt").warnings


def test_more_experts_and_more_experts_per_token_need_more_memory():
    few = phases("mixtral")["backward"]
    assert phases("mixtral", num_experts_per_tok=4)["backward"] > few
    assert phases("mixtral", num_local_experts=8)["backward"] > few
