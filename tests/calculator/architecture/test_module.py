"""Modules: the names and shapes of their parameters."""

import pytest

from calculator.architecture.dimension import Dim
from calculator.architecture.module import Module, bare, conv1d, embedding, linear, norm


def _shapes(module: Module):
    return {parameter.name: parameter.shape for parameter in module.parameters}


def test_a_linears_weight_has_the_output_first():
    module = linear("up_proj", 4, 6, bias=True)
    assert _shapes(module) == {"weight": (6, 4), "bias": (6,)}
    assert (module.in_features, module.out_features) == (4, 6)


def test_a_conv1ds_weight_has_the_input_first():
    module = conv1d("c_fc", 4, 6)
    assert _shapes(module) == {"weight": (4, 6), "bias": (6,)}
    assert (module.in_features, module.out_features) == (4, 6)


def test_an_embedding_has_a_row_for_each_token():
    module = embedding("wte", 10, 4)
    assert (module.in_features, module.out_features) == (10, 4)


def test_a_norm_can_be_over_several_dimensions():
    assert _shapes(norm("q_norm", 2, 8, bias=True)) == {"weight": (2, 8), "bias": (2, 8)}


def test_bare_parameters_keep_their_order_and_dtype():
    module = bare("experts", "experts", "float32", gate_up_proj=(2, 8, 4), down_proj=(2, 4, 4))
    assert [(p.name, p.elements, p.dtype) for p in module.parameters] == [
        ("gate_up_proj", 64, "float32"),
        ("down_proj", 32, "float32"),
    ]


def test_a_module_without_bias_returns_none():
    assert linear("q_proj", 4, 4).bias is None
    assert linear("q_proj", 4, 4, bias=True).bias.shape == (4,)


@pytest.mark.parametrize(
    ("module", "quantizable"),
    [
        (linear("q_proj", 4, 4), True),
        (linear("query_key_value", 4, 4, quantizable=False), False),
        (conv1d("c_attn", 4, 4), True),
        (embedding("wte", 4, 4), False),
        (norm("ln_f", 4), False),
        (bare("experts", "experts", down_proj=(2, 4, 4)), False),
    ],
)
def test_quantization_converts_only_linears_and_conv1ds(module, quantizable):
    assert module.quantizable is quantizable


def test_elements_of_named_dimensions_are_a_plain_number():
    assert linear("q_proj", Dim(4, "hidden_size"), 2 * Dim(3, "head_dim")).weight.elements == 24
