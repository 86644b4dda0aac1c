"""PYTORCH_CUDA_ALLOC_CONF: what is accepted, what is refused, and how sizes are rounded."""

import pytest

from calculator.allocator.alloc_conf import DEFAULT, HARMLESS, AllocConf, parse_alloc_conf
from calculator.allocator.segments import MIB
from calculator.common.errors import PlanError


@pytest.mark.parametrize(
    ("text", "conf"),
    [
        ("", AllocConf()),
        ("expandable_segments:True", AllocConf(expandable_segments=True)),
        (
            " expandable_segments : True , max_split_size_mb:64,",
            AllocConf(expandable_segments=True, max_split_size=64 * MIB),
        ),
        ("garbage_collection_threshold:0.8", AllocConf(garbage_collection_threshold=0.8)),
        ("max_non_split_rounding_mb:40", AllocConf(max_non_split_rounding_size=40 * MIB)),
        ("per_process_memory_fraction:0.5", AllocConf(per_process_memory_fraction=0.5)),
        ("roundup_power2_divisions:8", AllocConf(roundup_power2_divisions=(8,) * 16)),
        ("backend:native", AllocConf()),
        ("max_split_size_mb:64,max_split_size_mb:32", AllocConf(max_split_size=32 * MIB)),
        ("throw_on_cudamalloc_oom:False", AllocConf()),
    ],
)
def test_a_value_of_the_variable_is_parsed_as_pytorch_parses_it(text, conf):
    assert parse_alloc_conf(text) == conf


def test_a_larger_segment_raises_what_depends_on_it_wherever_it_is_written():
    conf = parse_alloc_conf("max_split_size_mb:32,large_segment_size_mb:30")
    assert (conf.large_segment_size, conf.max_non_split_rounding_size) == (30 * MIB, 30 * MIB)
    with pytest.raises(PlanError, match="at least 30"):
        parse_alloc_conf("max_split_size_mb:20,large_segment_size_mb:30")


@pytest.mark.parametrize("key", HARMLESS)
def test_keys_that_cannot_change_device_memory_are_accepted(key):
    assert parse_alloc_conf(f"{key}:True") == DEFAULT


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("backend:cudaMallocAsync", "set backend:native"),
        ("backend:other", "set backend:native"),
        ("max_split_size:64", "is not a key of PYTORCH_CUDA_ALLOC_CONF; these are: backend, expandable_segments"),
        ("max_split_size_mb=64", "write key:value"),
        ("max_split_size_mb:64MB", "whole number"),
        ("max_split_size_mb:19", "at least 20"),
        ("max_non_split_rounding_mb:19", "at least 20"),
        ("large_segment_size_mb:10", "above 10"),
        ("expandable_segments:true", "write True or False"),
        ("garbage_collection_threshold:1.0", "between 0 and 1"),
        ("garbage_collection_threshold:high", "such as 0.8"),
        ("per_process_memory_fraction:1.5", "above 0, up to 1"),
        ("per_process_memory_fraction:0", "above 0, up to 1"),
        ("roundup_power2_divisions:3", "a power of 2"),
        ("roundup_power2_divisions:[256:3]", "a power of 2"),
        ("roundup_power2_divisions:[100:4]", "100 in roundup_power2_divisions"),
        ("roundup_power2_divisions:[256]", "whole number"),
        ("throw_on_cudamalloc_oom:True", "is not modeled"),
    ],
)
def test_a_refusal_names_the_field_and_a_solution(text, words):
    with pytest.raises(PlanError) as caught:
        parse_alloc_conf(text)
    (problem,) = caught.value.problems
    assert problem.loc == "device.alloc_conf"
    assert words in problem.msg
    assert problem.input


def test_divisions_differ_by_size():
    """The example of PyTorch's documentation: [256:1,512:2,1024:4,>:8]."""
    divisions = parse_alloc_conf("roundup_power2_divisions:[256:1,512:2,1024:4,>:8]").roundup_power2_divisions
    assert divisions == (1,) * 9 + (2, 4) + (8,) * 5
    assert parse_alloc_conf("roundup_power2_divisions:[>:8]").roundup_power2_divisions == (0,) + (8,) * 15


def test_a_size_is_rounded_to_a_division_of_its_power_of_two():
    """Divisions of 4 between 1,024 and 2,048 are 1,280, 1,536 and 1,792 (roundup_power2_next_division)."""
    conf = parse_alloc_conf("roundup_power2_divisions:4")
    assert conf.round_size(1200 * 1024) == 1280 * 1024
    assert conf.round_size(1024 * 1024) == 1024 * 1024
    assert conf.round_size(2048) == 2048, "up to 512 bytes a division, sizes are rounded to 512 bytes"
    assert conf.round_size(1) == DEFAULT.round_size(1) == 512
    assert DEFAULT.round_size(1200 * 1024 + 1) == 1200 * 1024 + 512


def test_an_oversized_block_serves_only_oversized_requests_that_nearly_fill_it():
    conf = parse_alloc_conf("max_split_size_mb:64")
    assert conf.oversized(63 * MIB, 64 * MIB)
    assert not conf.oversized(62 * MIB, 63 * MIB)
    assert not conf.oversized(64 * MIB, 83 * MIB)
    assert conf.oversized(64 * MIB, 84 * MIB)
    assert not DEFAULT.oversized(1, 1 << 40)
