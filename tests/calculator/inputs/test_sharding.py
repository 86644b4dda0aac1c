"""The fields of sharding: their defaults, and what contradicts the run."""

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.sharded_request import parse_sharded_request


def body(sharding="fsdp", count=2, method=None, **training):
    device = {"count": count, "sharding": sharding}
    return {
        "model": "meta-llama/Llama-3.1-8B",
        "method": method or {"name": "full"},
        "training": training,
        "device": device,
    }


def parsed(*args, **kwargs):
    return parse_sharded_request(body(*args, **kwargs)).sharding


def problems(*args, **kwargs):
    with pytest.raises(PlanError) as caught:
        parsed(*args, **kwargs)
    return {problem.loc: problem.msg for problem in caught.value.problems}


def test_a_request_of_one_gpu_has_no_sharding():
    sharded = parse_sharded_request({"model": "meta-llama/Llama-3.1-8B", "method": {"name": "full"}})
    assert (sharded.sharding.name, sharded.sharding.count, sharded.sharding.offloads) == ("none", 1, False)


def test_the_defaults_are_those_of_the_libraries():
    sharding = parsed("zero3", count=8)
    zero = sharding.zero_optimization
    assert (sharding.stage, sharding.quant_storage) == (3, "uint8")
    assert (sharding.ddp.bucket_cap_mb, sharding.ddp.gradient_as_bucket_view) == (25, False)
    assert (sharding.fsdp_config.reshard_after_forward, sharding.fsdp_config.cpu_offload) == (True, False)
    assert (zero.reduce_bucket_size, zero.stage3_param_persistence_threshold) == (500_000_000, 100_000)
    assert (zero.overlap_comm, zero.offload_optimizer) == (None, None)


def test_the_fields_of_each_sharding_are_read():
    assert parsed("ddp", ddp={"bucket_cap_mb": 50}).ddp.bucket_cap_mb == 50
    assert parsed("fsdp", fsdp_config={"cpu_offload": True}).offloads
    assert parsed("fsdp", method={"name": "qlora", "quant_storage": "bfloat16"}).quant_storage == "bfloat16"
    config = {"zero_optimization": {"stage": 3, "reduce_bucket_size": "auto", "offload_param": {"device": "cpu"}}}
    zero = parsed("zero3", deepspeed=config).zero_optimization
    assert (zero.reduce_bucket_size, zero.offload_param.device, zero.offload_param.pin_memory) == ("auto", "cpu", True)


def test_the_request_of_the_step_keeps_every_other_field():
    sharded = parse_sharded_request(body("fsdp", fsdp_config={"cpu_offload": False}, sequence_length=512))
    assert sharded.request.training.sequence_length == 512
    assert sharded.request.device.count == 2


@pytest.mark.parametrize(
    ("loc", "kwargs"),
    [
        ("device.sharding", {"sharding": "none"}),
        ("device.count", {"count": 1}),
        ("training.ddp", {"ddp": {}}),
        ("training.deepspeed", {"deepspeed": {}}),
        ("training.fsdp_config", {"sharding": "zero3", "fsdp_config": {}}),
        ("training.fsdp_config.sharding_strategy", {"fsdp_config": {"sharding_strategy": "FULL_SHARD"}}),
        ("training.fsdp_config.cpu_offload", {"fsdp_config": {"cpu_offload": "yes"}}),
        ("training.deepspeed.bf16", {"sharding": "zero2", "deepspeed": {"bf16": {}}}),
        (
            "training.deepspeed.zero_optimization.stage",
            {"sharding": "zero2", "deepspeed": {"zero_optimization": {"stage": 3}}},
        ),
        (
            "training.deepspeed.zero_optimization.zero_hpz_partition_size",
            {"sharding": "zero3", "deepspeed": {"zero_optimization": {"zero_hpz_partition_size": 8}}},
        ),
        (
            "training.deepspeed.zero_optimization.offload_param",
            {"sharding": "zero2", "deepspeed": {"zero_optimization": {"offload_param": {"device": "cpu"}}}},
        ),
        (
            "training.deepspeed.zero_optimization.offload_optimizer.device",
            {"sharding": "zero2", "deepspeed": {"zero_optimization": {"offload_optimizer": {"device": "nvme"}}}},
        ),
        ("method.quant_storage", {"method": {"name": "lora", "quant_storage": "bfloat16"}}),
    ],
)
def test_settings_that_contradict_the_run_are_refused_at_their_field(loc, kwargs):
    assert loc in problems(**kwargs)


def test_a_config_of_deepspeed_must_be_an_object():
    assert problems("zero2", deepspeed="ds_config.json") == {"training.deepspeed": "must be an object or null"}


def test_zero_optimization_is_read_as_deepspeeds_files_write_it():
    written = {"reduce_bucket_size": 2e8, "max_live_parameters": 1e9, "sub_group_size": 1e9}
    zero = parsed("zero3", deepspeed={"zero_optimization": written}).zero_optimization
    assert (zero.reduce_bucket_size, zero.stage3_max_live_parameters) == (200_000_000, 1_000_000_000)
    both = {"max_live_parameters": 1e9, "stage3_max_live_parameters": 5}
    assert [*problems("zero3", deepspeed={"zero_optimization": both})] == [
        "training.deepspeed.zero_optimization.max_live_parameters"
    ]


@pytest.mark.parametrize(
    ("config", "loc", "way_out"),
    [
        ({"bf16": {"enabled": True}}, "bf16", "training.autocast"),
        ({"optimizer": {"type": "AdamW"}}, "optimizer", "training.optimizer"),
        ({"zero_optimization": {"cpu_offload": True}}, "zero_optimization.cpu_offload", "offload_optimizer"),
        (
            {"zero_optimization": {"offload_optimizer": {"device": "cpu", "buffer_count": 4}}},
            "zero_optimization.offload_optimizer.buffer_count",
            "NVMe",
        ),
    ],
)
def test_other_keys_of_deepspeeds_files_are_refused_with_a_solution(config, loc, way_out):
    assert way_out in problems("zero2", deepspeed=config)[f"training.deepspeed.{loc}"]
