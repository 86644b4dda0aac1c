"""Virtual tokens in checkpoints of several GPUs: the bytes of their file, and where PEFT cannot save them."""

import pytest

from calculator.common.errors import PlanError
from calculator.run.request import parse_run
from calculator.run.run import whole_run

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
}

#: The header of a file with one tensor, with its length.
HEADER = 120


def saved(method, sharding, **zero):
    body = {
        "model": {"config": CONFIG},
        "method": {"name": method, "num_virtual_tokens": 10},
        "training": {"sequence_length": 32, "autocast": "bfloat16", "trainer": "transformers"},
        "device": {"count": 2, "sharding": sharding},
        "run": {"save_strategy": "steps", "save_only_model": True},
    }
    body["training"] |= {"deepspeed": {"zero_optimization": zero}} if zero else {}
    (file,) = whole_run(parse_run(body)).files
    return file.bytes


@pytest.mark.parametrize(
    ("method", "sharding", "elements", "itemsize"),
    [
        ("prompt", "ddp", 640, 4),
        ("prompt", "zero2", 640, 2),
        ("p_tuning", "zero1", 640, 2),
        ("prefix", "zero2", 1280, 2),
    ],
)
def test_the_file_has_the_dtype_to_which_deepspeed_casts_parameters(method, sharding, elements, itemsize):
    # Measured: python -m validation checkpoints, two processes on the CPU.
    assert saved(method, sharding) == elements * itemsize + HEADER


@pytest.mark.parametrize("method", ["prompt", "p_tuning", "prefix"])
def test_fsdp2_has_sharded_the_encoder_that_peft_runs(method):
    with pytest.raises(PlanError, match="encoder while FSDP2 has it sharded"):
        saved(method, "fsdp")


def test_under_zero3_the_encoder_must_stay_whole():
    with pytest.raises(PlanError, match="or a stage3_param_persistence_threshold of at least 640"):
        saved("prompt", "zero3", stage3_param_persistence_threshold=639)
    # Measured as above. Under deepspeed.zero.Init, the table stays in float32.
    assert saved("prompt", "zero3", stage3_param_persistence_threshold=640) == 640 * 4 + HEADER
