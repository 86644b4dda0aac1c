"""The kernels of scaled_dot_product_attention by GPU, dtype and release, as PyTorch selects them."""

import pytest

from calculator.estimation.estimate import resident_state
from calculator.estimation.request import parse_request
from calculator.training_step.unrolled import every_event

LLAMA = {
    "model_type": "llama",
    "vocab_size": 300,
    "num_hidden_layers": 2,
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_attention_heads": 4,
}
MARKS = {
    "flash attention: dq_accum": "flash",
    "memory-efficient attention: delta": "efficient",
    "masked scores": "math",
}


def kernels(gpu, torch, groups, **training):
    request = parse_request(
        {
            "model": {"config": {**LLAMA, "num_key_value_heads": groups}},
            "method": {"name": "full"},
            "training": {"sequence_length": 64, **training},
            "device": {"gpu": gpu},
            "stack": {"torch": torch},
        }
    )
    rows = every_event(resident_state(request).prepared).rows
    return {kernel for mark, kernel in MARKS.items() if any(row[0].endswith(mark) for row in rows)}


@pytest.mark.parametrize(
    ("gpu", "torch", "dtype", "groups", "kernel"),
    [
        ("t4", "2.14", "bfloat16", 4, "math"),
        ("t4", "2.14", "bfloat16", 2, "math"),
        ("t4", "2.14", "float16", 4, "efficient"),
        ("t4", "2.14", "float16", 2, "efficient"),
        ("t4", "2.12", "float16", 2, "math"),
        ("t4", "2.14", "float32", 4, "efficient"),
        ("rtx-4090", "2.14", "bfloat16", 2, "flash"),
        ("rtx-4090", "2.12", "float32", 2, "math"),
        ("rtx-4090", "2.14", "float32", 2, "efficient"),
    ],
)
def test_each_gpu_runs_the_kernel_that_pytorch_selects(gpu, torch, dtype, groups, kernel):
    assert kernels(gpu, torch, groups, dtype=dtype) == {kernel}


def test_a_gpu_without_flash_takes_a_mask_in_bfloat16_to_the_math_kernel():
    assert kernels("t4", "2.14", 4, dtype="bfloat16", padding=True) == {"math"}
    assert kernels("t4", "2.14", 4, dtype="float16", padding=True) == {"efficient"}
