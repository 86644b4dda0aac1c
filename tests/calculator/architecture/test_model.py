"""A model: its weights in order, repeated layers, modules that quantization skips, and how fast it is built."""

import timeit
from math import prod

import pytest

from calculator.architecture.layer_kind import LayerKind
from calculator.architecture.model import Stack
from calculator.catalogue import model as catalogue_model
from calculator.families import FAMILIES, model_from_config
from validation.random_grid.random_configs import random_config

LLAMA_70B = catalogue_model("meta-llama/Llama-3.1-70B").config
TINY = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}

SLIDING = LayerKind(attention="sliding_attention")


def _stack(model):
    return next(part for part in model.parts if isinstance(part, Stack))


def _skipped_linears(model):
    """The linear weights that quantization skips, without the head."""
    linears = (w.name for w in model.weights() if w.kind in ("linear", "conv1d") and w.name.endswith("weight"))
    converted = {w.name for w in model.weights() if w.quantizable}
    return [name for name in linears if name not in converted and name != f"{model.head}.weight"]


def test_llama_70b_is_built_in_a_fraction_of_a_millisecond():
    seconds = min(timeit.repeat(lambda: model_from_config(LLAMA_70B), number=10, repeat=30)) / 10
    assert seconds < 0.000_3


def test_equal_layers_are_one_object():
    layers = _stack(model_from_config(LLAMA_70B)).layers
    assert len(layers) == 80
    assert all(layer is layers[0] for layer in layers)


def test_weights_are_generated_one_at_a_time():
    weights = model_from_config({**LLAMA_70B, "num_hidden_layers": 4096}).weights()
    assert next(weights).name == "model.embed_tokens.weight"
    assert next(weights).name == "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.model_type)
@pytest.mark.parametrize("seed", range(3))
def test_the_count_is_the_sum_over_the_weights(family, seed):
    model = model_from_config(random_config(family, seed))
    assert model.parameters == sum(prod(map(int, weight.shape)) for weight in model.weights())


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.model_type)
def test_no_two_weights_share_a_name(family):
    names = [weight.name for weight in model_from_config(random_config(family, 1)).weights()]
    assert len(names) == len(set(names))


def test_weights_have_the_index_of_their_layer():
    model = model_from_config({"model_type": "llama", **TINY})
    layers = {weight.name.split(".")[2]: weight.layer for weight in model.weights() if weight.layer is not None}
    assert layers == {"0": 0, "1": 1, "2": 2}


def test_tied_heads_are_counted_once_and_not_listed():
    untied = model_from_config({"model_type": "llama", **TINY})
    tied = model_from_config({"model_type": "llama", **TINY, "tie_word_embeddings": True})
    assert untied.parameters - tied.parameters == 96 * 64
    assert tied.tied == {"lm_head.weight": "model.embed_tokens.weight"}
    assert "lm_head.weight" not in {weight.name for weight in tied.weights()}


def test_layers_of_several_kinds_keep_their_order():
    window = {"sliding_window": 8, "sliding_window_pattern": 2, "num_key_value_heads": 4, "pad_token_id": 0}
    stack = _stack(model_from_config({"model_type": "cohere2", **TINY, **window}))
    assert [layer.kind for layer in stack.layers] == [SLIDING, LayerKind(rotated=False), SLIDING]


def test_distinct_layers_are_counted():
    moe = {"num_key_value_heads": 4, "num_experts": 4, "moe_intermediate_size": 8, "num_experts_per_tok": 1}
    model = model_from_config({"model_type": "qwen3_moe", **TINY, **moe, "mlp_only_layers": [1]})
    kinds = {layer.kind.mlp: times for layer, times in model.distinct_layers}
    assert kinds == {"sparse": 2, "dense": 1}


def test_the_owner_of_the_last_weight_is_not_converted():
    tied = model_from_config({"model_type": "olmo", **TINY, "pad_token_id": 0, "tie_word_embeddings": True})
    assert _skipped_linears(tied) == ["model.layers.2.mlp.down_proj.weight"]
    assert tied.modules_to_not_convert == {"lm_head", "model.embed_tokens", "model.layers.2.mlp.down_proj"}
    assert _skipped_linears(model_from_config({"model_type": "olmo", **TINY, "pad_token_id": 0})) == []


def test_a_linear_of_the_familys_own_class_is_not_converted():
    model = model_from_config({"model_type": "falcon", **TINY})
    assert {name.split(".", 3)[-1] for name in _skipped_linears(model)} == {
        "self_attention.query_key_value.weight",
        "self_attention.dense.weight",
        "mlp.dense_h_to_4h.weight",
        "mlp.dense_4h_to_h.weight",
    }


@pytest.mark.parametrize("extra", [{"model_type": "internlm2", "bias": False}, {"model_type": "baichuan"}])
def test_remote_code_is_counted_as_llama_with_a_note(extra):
    model = model_from_config({**TINY, **extra, "pad_token_id": 0})
    assert list(model.weights()) == list(model_from_config({"model_type": "llama", **TINY}).weights())
    assert model.model_type == "llama"
    assert "not part of transformers" in model.notes[0]


def test_sizes_keep_their_names_for_formulas():
    weight = next(w for w in model_from_config({"model_type": "llama", **TINY}).weights() if "k_proj" in w.name)
    assert [size.name for size in weight.shape] == ["num_key_value_heads × head_dim", "hidden_size"]
