"""Experts whose grouped matrix product fails on CUDA.

On the stub of an A100, PyTorch 2.14 fails with "strides should be multiple of 16 bytes" for rows of 20, 12, 10, 60 and
66 values in half precision, and of 10 and 66 values in float32.
"""

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request

EXPERTS = {
    "model_type": "qwen3_moe",
    "hidden_size": 64,
    "intermediate_size": 128,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "num_experts": 4,
    "num_experts_per_tok": 2,
}
LLAMA4 = {
    "model_type": "llama4_text",
    "hidden_size": 64,
    "intermediate_size": 20,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 64,
    "num_local_experts": 4,
}
ATTENTION = {"name": "lora", "target_modules": ["q_proj"]}


def answer(config, *, kind="cuda", method=None, gpu=None, **training):
    training = {"micro_batch_size": 1, "sequence_length": 16, **training}
    device = {"type": kind, **({"gpu": gpu} if gpu else {})}
    body = {"model": {"config": config}, "method": method or ATTENTION, "training": training, "device": device}
    return estimate(parse_request({**body, "reserved": "rule"}))


@pytest.mark.parametrize(
    ("sizes", "dtype", "width"),
    [
        ({"moe_intermediate_size": 20}, "bfloat16", 20),
        ({"moe_intermediate_size": 12}, "float16", 12),
        ({"hidden_size": 60}, "bfloat16", 60),
        ({"moe_intermediate_size": 10}, "float32", 10),
    ],
)
def test_rows_that_are_no_multiples_of_16_bytes_are_refused_on_cuda(sizes, dtype, width):
    with pytest.raises(PlanError) as raised:
        answer({**EXPERTS, "head_dim": 16, **sizes}, dtype=dtype)
    (problem,) = raised.value.problems
    assert problem.loc == "model.config"
    assert f"a row of {width} values in {dtype}" in problem.msg
    assert f"multiples of {4 if dtype == 'float32' else 8}" in problem.msg


def test_a_trace_runs_them_and_says_that_cuda_fails():
    lines = answer({**EXPERTS, "moe_intermediate_size": 20}, kind="meta").assumptions
    assert [line for line in lines if line.startswith("On CUDA, the grouped matrix product of experts fails")]


def test_other_rows_run():
    for config, options in (
        (EXPERTS, {}),
        ({**EXPERTS, "moe_intermediate_size": 20}, {"dtype": "float32"}),
        ({**EXPERTS, "moe_intermediate_size": 20}, {"gpu": "t4"}),  # multiplies group by group
        ({**EXPERTS, "moe_intermediate_size": 20}, {"method": {**ATTENTION, "name": "qlora"}}),  # casts to float32
        (LLAMA4, {}),  # multiplies all experts at once
    ):
        assert not [
            line for line in answer(config, **options).assumptions if "grouped matrix product of experts fails" in line
        ]
