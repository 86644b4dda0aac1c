"""Reading a `config.json`: what is accepted, what is refused, and with which message."""

from __future__ import annotations

import random
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calculator.architecture.config import REQUIRED, Check, Computed, ContradictionError, Field, FieldType, read
from calculator.architecture.dimension import dim_name
from calculator.common.errors import PlanError, shown
from calculator.families import FAMILIES, model_from_config
from validation.random_grid.random_configs import random_config

LLAMA = {
    "model_type": "llama",
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
SHARED = {"vocab_size": 96, "intermediate_size": 48, "num_hidden_layers": 2}
GPT2 = {"model_type": "gpt2", "vocab_size": 96, "n_embd": 64, "n_layer": 2, "n_head": 4}
QWEN2_MOE = {
    **LLAMA,
    "model_type": "qwen2_moe",
    "num_key_value_heads": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 8,
    "shared_expert_intermediate_size": 8,
}
GEMMA2 = {**LLAMA, "model_type": "gemma2", "num_key_value_heads": 4}
GEMMA3 = {"model_type": "gemma3", "text_config": dict(GEMMA2), "vision_config": {"image_size": 896, "patch_size": 14}}
GPT_NEO = {**LLAMA, "model_type": "gpt_neo", "num_layers": 2, "num_heads": 4, "attention_types": [[["global"], 2]]}
PHI = {**LLAMA, "model_type": "phi"}
GPTJ = {**GPT2, "model_type": "gptj", "rotary_dim": 8}
DEEPSEEK = {
    **LLAMA,
    "model_type": "deepseek_v3",
    "num_key_value_heads": 4,
    "n_routed_experts": 8,
    "moe_intermediate_size": 8,
    "n_group": 2,
    "topk_group": 1,
}


def _refusals(config):
    with pytest.raises(PlanError) as caught:
        model_from_config(config)
    return caught.value.problems


def _refusal(config):
    (problem,) = _refusals(config)
    return problem


WITHOUT = object()


def _with(config, **changes):
    return {key: value for key, value in {**config, **changes}.items() if value is not WITHOUT}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.model_type)
def test_every_missing_required_field_is_named_as_the_config_class_spells_it(family):
    required = {f"model.config.{e.own_name}" for e in family.entries if isinstance(e, Field) and e.default is REQUIRED}
    config = {"model_type": family.model_type}
    if required:
        assert {problem.loc for problem in _refusals(config)} == required
    elif family.text is None:
        assert model_from_config(config).parameters


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.model_type)
@pytest.mark.parametrize("seed", range(3))
def test_every_size_is_a_dimension_under_its_canonical_name(family, seed):
    config = model_from_config(random_config(family, seed)).config
    sizes = [entry.name for entry in family.entries if isinstance(entry, Field) and entry.type == "size"]
    assert {name: dim_name(config[name]) for name in sizes if config[name]} == {n: n for n in sizes if config[n]}


@pytest.mark.parametrize("value", [True, 64.0, "64", [64], {"a": 1}, None, 0, -4, 10**9, 10**400])
def test_a_width_must_be_a_sane_whole_number(value):
    problem = _refusal(_with(LLAMA, hidden_size=value))
    assert problem.loc == "model.config.hidden_size"
    assert problem.input == value
    assert len(problem.msg) < 200


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, "0.1", 1.5, -0.1])
def test_a_dropout_must_be_a_probability(value):
    assert _refusal(_with(LLAMA, attention_dropout=value)).loc == "model.config.attention_dropout"


@pytest.mark.parametrize("value", [1, "true", None, []])
def test_a_switch_must_be_true_or_false(value):
    assert _refusal(_with(LLAMA, tie_word_embeddings=value)).loc == "model.config.tie_word_embeddings"


CONTRADICTIONS = {
    "hidden_size": [
        _with(LLAMA, hidden_size=66),
        _with(LLAMA, hidden_size=66, head_dim=16),
        _with(LLAMA, hidden_size=66, model_type="mistral", num_key_value_heads=4),
        _with(LLAMA, hidden_size=66, model_type="bloom", n_layer=2, n_head=4),
    ],
    "n_embd": [_with(GPT2, n_embd=66), _with(GPT2, hidden_size=128)],
    "num_key_value_heads": [
        _with(LLAMA, num_key_value_heads=3),
        _with(LLAMA, num_key_value_heads=8),
        _with(LLAMA, model_type="mistral"),
    ],
    "num_kv_heads": [_with(LLAMA, model_type="falcon", new_decoder_architecture=True, num_kv_heads=3)],
    "head_dim": [_with(LLAMA, head_dim=15), _with(PHI, hidden_size=24), _with(PHI, head_dim=32, qk_layernorm=True)],
    "rotary_dim": [_with(GPTJ, rotary_dim=7), _with(GPTJ, rotary_dim=64)],
    "num_experts_per_tok": [_with(QWEN2_MOE, num_experts_per_tok=5)],
    "n_group": [_with(DEEPSEEK, n_group=3), _with(DEEPSEEK, n_group=8)],
    "topk_group": [_with(DEEPSEEK, topk_group=3)],
    "layer_types": [
        _with(GEMMA2, layer_types=["full_attention"]),
        _with(GEMMA2, layer_types=["full_attention", "chunked_attention"]),
        _with(GEMMA2, layer_types="full_attention"),
    ],
    "sliding_window": [_with(GEMMA2, sliding_window=None), _with(GEMMA2, sliding_window=0)],
    "no_rope_layers": [_with(LLAMA, model_type="smollm3", no_rope_layers=[1], pad_token_id=0)],
    "attention_types": [
        _with(GPT_NEO, attention_types=[[["global"], 3]]),
        _with(GPT_NEO, attention_types=[[["global"], 10**12]]),
        _with(GPT_NEO, attention_types=[[["distant"], 2]]),
        _with(GPT_NEO, attention_types=[[["global", "local"] * 5000, 4000]]),
        _with(GPT_NEO, attention_types=["global", "local"]),
    ],
    "pad_token_id": [_with(LLAMA, pad_token_id=96), _with(LLAMA, pad_token_id=-97)],
    "hidden_act": [_with(LLAMA, hidden_act="swosh"), _with(LLAMA, hidden_act="prelu")],
    "rope_scaling": [
        _with(LLAMA, rope_scaling={"rope_type": "spiral"}),
        _with(LLAMA, rope_scaling={"type": "linear"}),
        _with(LLAMA, rope_scaling={"type": "linear", "factor": "4"}),
        _with(LLAMA, rope_scaling={"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}),
        _with(LLAMA, rope_scaling={"full_attention": {"rope_type": "default"}}),
    ],
    "rope_parameters": [
        _with(LLAMA, model_type="gemma3_text", num_key_value_heads=4, rope_parameters={"full_attention": 3})
    ],
    "feed_forward_proj": [
        {**SHARED, "model_type": "t5", "d_model": 8, "d_ff": 8, "d_kv": 4, "num_layers": 1, "num_heads": 2}
        | {"feed_forward_proj": "gated-swosh"}
    ],
    "per_layer_config": [_with(LLAMA, per_layer_config={"0": {"intermediate_size": 8}})],
    "add_cross_attention": [_with(GPT2, add_cross_attention=True)],
    "text_config.head_dim": [_with(GEMMA3, text_config=_with(GEMMA2, head_dim=15))],
    "text_config": [_with(GEMMA3, text_config=[])],
    "vision_config.hidden_size": [_with(GEMMA3, vision_config={"hidden_size": 13})],
}


@pytest.mark.parametrize(
    ("loc", "config"), [(loc, config) for loc, configs in CONTRADICTIONS.items() for config in configs]
)
def test_a_contradiction_names_the_field_as_the_file_spells_it(loc, config):
    assert _refusal(config).loc == f"model.config.{loc}"


@pytest.mark.parametrize("config", [LLAMA, GPT2, QWEN2_MOE, GEMMA2, GEMMA3, GPT_NEO, PHI, GPTJ, DEEPSEEK])
def test_the_configs_that_contradictions_are_made_from_are_valid(config):
    assert model_from_config(config).parameters > 0


def test_a_refusal_shows_the_values_and_a_solution():
    (problem,) = _refusals(_with(LLAMA, num_key_value_heads=3))
    assert problem.msg == "4 attention heads do not divide into 3 groups"
    (problem,) = _refusals(_with(GPT2, hidden_size=128))
    assert problem.msg == "n_embd is 64, but hidden_size, another name for it, is 128; keep one of them"


def test_all_mistakes_are_reported_together():
    locs = {problem.loc for problem in _refusals(_with(LLAMA, hidden_size=-1, vocab_size="many", mlp_bias=3))}
    assert locs == {"model.config.hidden_size", "model.config.vocab_size", "model.config.mlp_bias"}


def test_all_contradictions_are_reported_together():
    locs = {problem.loc for problem in _refusals(_with(LLAMA, num_key_value_heads=3, pad_token_id=99))}
    assert locs == {"model.config.num_key_value_heads", "model.config.pad_token_id"}


@pytest.mark.parametrize("model_type", ["mamba", "", "LLAMA", 7, ["llama"], {"llama": 1}])
def test_an_unknown_family_is_refused_with_the_known_ones(model_type):
    problem = _refusal(_with(LLAMA, model_type=model_type))
    assert problem.loc == "model.config.model_type"
    assert all(family in problem.msg for family in FAMILIES)


@pytest.mark.parametrize("config", [{}, {"model_type": None}, {"hidden_size": 64}])
def test_a_file_without_its_family_is_refused(config):
    problem = _refusal(config)
    assert problem.loc == "model.config.model_type"
    assert "llama" in problem.msg


@pytest.mark.parametrize("config", [None, [], "llama", 7])
def test_a_value_that_is_not_an_object_is_refused(config):
    assert _refusal(config).loc == "model.config"


def test_keys_that_the_family_does_not_read_are_ignored():
    quirky = model_from_config(_with(LLAMA, torch_dtype="bfloat16", auto_map={}, quirk=float("nan")))
    assert quirky.config == model_from_config(LLAMA).config


def test_the_resolved_config_cannot_be_changed():
    with pytest.raises(TypeError):
        model_from_config(LLAMA).config["hidden_size"] = 8


def test_both_names_of_a_field_are_accepted_if_the_class_accepts_both():
    other = model_from_config(_with(GPT2, n_embd=WITHOUT, hidden_size=64))
    assert other.config == model_from_config(GPT2).config


def test_null_means_the_value_that_the_class_derives():
    config = model_from_config(_with(LLAMA, num_key_value_heads=None, head_dim=None)).config
    assert (config["num_key_value_heads"], config["head_dim"]) == (4, 16)


@pytest.mark.parametrize("kind", get_args(FieldType))
def test_every_type_of_field_refuses_values_of_another_type(kind):
    wrong = object()
    with pytest.raises(PlanError):
        read((Field(name="x", type=kind),), {"x": wrong})


def test_a_contradiction_in_a_computed_value_names_its_field():
    def impossible(_config):
        raise ContradictionError("x", "cannot be")

    with pytest.raises(PlanError, match=r"model\.config\.x: cannot be"):
        read((Field(name="x", type="count", default=0), Computed(name="y", value=impossible)), {})


def test_a_check_receives_the_values_computed_before_it():
    entries = (
        Field(name="x", type="size"),
        Computed(name="y", value=lambda config: config["x"] + 1),
        Check(name="x", problem=lambda config: f"y is {config['y']}"),
    )
    with pytest.raises(PlanError, match="y is 4"):
        read(entries, {"x": 3})


@pytest.mark.parametrize(
    ("value", "expected"),
    [(4096, "4,096"), (True, "True"), (10**400, "a number of 1,329 bits"), ([1] * 9, "a list"), ({}, "an object")],
)
def test_values_are_quoted_briefly(value, expected):
    assert shown(value) == expected
    assert len(shown("x" * 10_000)) < 100


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=400, deadline=None)
@given(model_type=st.sampled_from(sorted(FAMILIES)), seed=st.integers(0, 9), changes=st.lists(JSON, max_size=4))
def test_any_file_gives_a_model_or_a_refusal(model_type, seed, changes):
    config = random_config(FAMILIES[model_type], seed)
    keys = random.Random(seed).sample(sorted(config), k=min(len(changes), len(config)))
    problems = ()
    try:
        parameters = model_from_config({**config, **dict(zip(keys, changes, strict=False))}).parameters
    except PlanError as error:
        parameters, problems = 0, error.problems
    assert parameters or problems
    assert all(problem.loc.startswith("model.config") and problem.msg for problem in problems)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(max_size=9), JSON, max_size=5))
def test_a_random_object_is_refused(config):
    with pytest.raises(PlanError):
        model_from_config({"model_type": "llama", **config})
