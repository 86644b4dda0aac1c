from dataclasses import replace

import pytest
import torch

from validation.measure.layer import measured
from validation.measure.layer_cases import CPU_TOKENS, MATRICES, layer_cases
from validation.measure.subjects import Subject

pytestmark = pytest.mark.filterwarnings("ignore")

CPU = torch.device("cpu")
CASES = layer_cases(CPU_TOKENS)

#: Sizes of a model an eighth as wide as that of the cases, which a CPU initializes in no time.
NARROW = {"hidden_size": 512, "intermediate_size": 1792, "num_attention_heads": 4, "num_key_value_heads": 1}


def narrow(case):
    """A case with matrices an eighth as wide and high."""
    return replace(case, body={**case.body, "model": {"config": {**case.body["model"]["config"], **NARROW}}})


def allocated(row):
    """Predicted and measured bytes of every moment."""
    return [[row["moments"][m][side]["allocated"] for m in row["moments"]] for side in ("predicted", "measured")]


@pytest.mark.parametrize("case", [case for case in CASES if case.quick], ids=lambda case: case.name)
def test_a_real_layer_allocates_what_the_calculator_predicts_and_computes_its_formula(case):
    row = measured(narrow(case), CPU)
    predicted, allocations = allocated(row)
    assert allocations == predicted
    assert min(allocations) > 0
    if "dropout" in case.name:
        assert row["output_error"] is None
    else:
        assert row["output_error"] < 0.005


def test_the_quick_cases_cover_every_method_and_both_4_bit_types():
    quick = [case for case in CASES if case.quick]
    methods = {case.body["method"]["name"] for case in quick}
    assert methods == {"full", "lora", "qlora", "adapter", "prefix", "prompt"}
    assert {case.request.method.quant_type for case in quick if case.body["method"]["name"] == "qlora"} == {
        "nf4",
        "fp4",
    }
    assert CASES[: len(quick)] == quick


def test_every_matrix_size_is_measured_in_4_bits_and_with_lora():
    for size in MATRICES:
        methods = [case.body["method"]["name"] for case in CASES if size in case.name.replace("14336x4096", "")]
        assert size == "14336x4096" or {"lora", "qlora"} <= set(methods)
    assert len({case.name for case in CASES}) == len(CASES)


def test_a_case_leaves_no_state():
    double = narrow(next(case for case in CASES if case.name == "nf4, double quantization, 4096x4096"))
    assert measured(double, CPU)["moments"] == measured(double, CPU)["moments"]


@pytest.mark.parametrize(("name", "kind"), [("lora", "Linear"), ("qlora", "Linear4bit")])
def test_the_lora_layer_is_pefts_for_its_base(name, kind):
    case = next(case for case in CASES if case.name == f"{name}, 4096x4096")
    assert type(Subject(narrow(case), CPU).module).__name__ == kind
