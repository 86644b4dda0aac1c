"""Every quantization of transformers has a base, or a reason why it has none."""

from transformers.utils.quantization_config import QuantizationMethod

from calculator.bases import BASES, config_json
from calculator.layers.stored_products import PRODUCTS
from calculator.resident.int8 import Int8
from calculator.resident.quantization import Quantization
from calculator.resident.torchao_nf4 import TorchAONF4
from validation.random_grid.base_requests import OPTIONS
from validation.reference.bases import BUILDERS


def test_the_registry_has_every_quant_method_of_transformers():
    named = (*(BASES.keys() | config_json.DEQUANTIZED), *config_json.CHOSEN_BY_METHOD, *config_json.REFUSED)
    assert sorted(named) == sorted(method.value for method in QuantizationMethod)


def test_every_base_has_a_product_a_reference_and_random_requests():
    assert PRODUCTS.keys() == {Quantization, Int8, TorchAONF4, *BUILDERS}
    assert len(BUILDERS) == len(BASES) + 1  # torchao has two formats
    assert OPTIONS.keys() == BASES.keys()
