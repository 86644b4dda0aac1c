"""The rules of autocast, one at a time; tests/cases/autocast.jsonl has whole steps."""

import pytest

from calculator.engine import operations as ops
from calculator.engine import products
from calculator.engine.autocast import COPY, region
from calculator.engine.autograd import AccumulateGrad
from calculator.engine.result_types import result_type
from calculator.engine.tape import Tape, Tensor
from calculator.estimation.answer import Row
from calculator.estimation.estimate import estimate
from calculator.estimation.ledger import AUTOCAST
from calculator.estimation.request import parse_request

CONFIG = {
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def answer(method, **training):
    body = {"model": {"config": CONFIG}, "method": method, "training": {"sequence_length": 64, **training}}
    return estimate(parse_request(body))


def rows(method, **training) -> list[Row]:
    return [row for part in answer(method, **training).memory.components for row in part.rows]


def parameter(tape, *shape, dtype="float32", trained=True):
    leaf = AccumulateGrad(tape, "weight") if trained else None
    return Tensor(tape, None, shape, dtype, leaf)


def names_and_dtypes(tape):
    return [(name, dtype) for name, _, dtype, *_ in tape.rows]


def test_a_product_casts_its_arguments_from_the_last_to_the_first():
    tape = Tape()
    x = tape.new((4, 8), "float32", "x")
    with region(tape, "bfloat16"):
        out = products.matmul(x, parameter(tape, 8, 8), parameter(tape, 8), 8, "product")
    copies = [(name + COPY, "bfloat16") for name in ("bias", "weight", "input")]
    assert names_and_dtypes(tape) == [("x", "float32"), *copies, ("product", "bfloat16")]
    assert out.dtype == "bfloat16"


def test_a_trained_float32_weight_is_cast_once_and_cached_to_the_end_of_autocast():
    tape = Tape()
    weight = parameter(tape, 8, 8)
    with region(tape, "bfloat16"):
        copy = tape.autocast.cached_cast(weight, "weight")
        assert tape.autocast.cached_cast(weight, "weight") is copy
        row = copy.storage.row
        del copy
        assert ~row not in tape.events
    assert ~row in tape.events


@pytest.mark.parametrize(("dtype", "trained"), [("float32", False), ("float16", True)])
def test_a_frozen_or_half_precision_weight_is_cast_at_every_use(dtype, trained):
    tape = Tape()
    weight = parameter(tape, 8, 8, dtype=dtype, trained=trained)
    with region(tape, "bfloat16"):
        assert tape.autocast.cached_cast(weight, "weight") is not tape.autocast.cached_cast(weight, "weight")
        assert not tape.autocast.copies


def test_powers_and_sums_run_in_float32_and_activations_in_their_own_dtype():
    tape = Tape()
    x = tape.new((4, 8), "bfloat16", "x")
    with region(tape, "bfloat16"):
        assert ops.unary(x, "cubed", saves="input", fp32_in_autocast=True).dtype == "float32"
        assert ops.unary(x, "silu", saves="input").dtype == "bfloat16"
        assert ops.softmax(x).dtype == "float32"
        assert ops.softmax(x, "bfloat16").dtype == "bfloat16"
    assert ops.unary(x, "cubed", saves="input", fp32_in_autocast=True).dtype == "bfloat16"
    assert ops.softmax(x).dtype == "bfloat16"


def test_float16_and_bfloat16_promote_to_float32():
    assert result_type("bfloat16", "float16") == result_type("float16", "bfloat16") == "float32"
    assert result_type("bfloat16", "bfloat16") == "bfloat16"


def test_an_inner_region_applies_until_it_ends():
    tape = Tape()
    with region(tape, "bfloat16"):
        outer = tape.autocast
        with region(tape, None):
            assert tape.autocast is None
        assert tape.autocast is outer
    assert tape.autocast is None


def test_copies_are_rows_with_autocast_as_their_source():
    alive = rows({"name": "full"}, dtype="float32", autocast="bfloat16", optimizer="sgd", max_grad_norm=None)
    copies = [row for row in alive if row.name.endswith(COPY)]
    weights = [row for row in copies if row.name.endswith("_proj: weight" + COPY)]
    assert sum(row.count for row in weights) == 3 * 7
    assert {row.source for row in copies} == {AUTOCAST}
    assert {row.dtype for row in copies} == {"bfloat16"}


def test_a_checkpointed_step_frees_the_copies_of_the_forward_pass_before_it_recomputes():
    phases = {}
    for autocast in (None, "bfloat16"):
        result = answer(
            {"name": "full"}, dtype="float32", autocast=autocast, gradient_checkpointing=True, optimizer="sgd"
        )
        phases[autocast] = {phase.name: phase.peak_bytes for phase in result.memory.phases}
    weights = 2 * 3 * (2 * 128 * 128 + 2 * 64 * 128 + 3 * 128 * 256)
    assert phases["bfloat16"]["forward"] - phases[None]["forward"] > weights
    assert phases["bfloat16"]["backward"] - phases[None]["backward"] < weights


def test_no_warning_about_float32_attention_if_autocast_casts_it():
    method = {"name": "qlora", "target_modules": "all-linear"}
    assert any("2.14" in warning for warning in answer(method).warnings)
    assert not any("2.14" in warning for warning in answer(method, autocast="bfloat16").warnings)


def test_only_float16_mentions_a_grad_scaler():
    assumptions = {
        dtype: answer({"name": "full"}, dtype="float32", autocast=dtype).assumptions for dtype in (None, "bfloat16")
    }
    assumptions["float16"] = answer({"name": "full"}, dtype="float32", autocast="float16").assumptions
    assert [any("GradScaler" in line for line in lines) for lines in assumptions.values()] == [False, False, True]
    assert [any("Autocast" in line for line in lines) for lines in assumptions.values()] == [False, True, True]
