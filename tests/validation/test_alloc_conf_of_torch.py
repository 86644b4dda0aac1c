"""The parser of PYTORCH_CUDA_ALLOC_CONF, compared with the one in the installed PyTorch's libc10."""

import ctypes
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from calculator.allocator.alloc_conf import parse_alloc_conf
from calculator.common.errors import PlanError

PATH = Path(torch.__file__).parent / "lib" / "libc10.so"
if not PATH.exists():
    pytest.skip("only the Linux build names its library so", allow_module_level=True)
LIBRARY = ctypes.CDLL(str(PATH))
DIVISIONS = LIBRARY._ZN3c1016CachingAllocator26AcceleratorAllocatorConfig24roundup_power2_divisionsEm
DIVISIONS.argtypes, DIVISIONS.restype = [ctypes.c_size_t], ctypes.c_size_t


def in_pytorch(text):
    """The divisions that PyTorch reads, or None if it refuses the value."""
    try:
        torch._C._accelerator_setAllocatorSettings(f"large_segment_size_mb:20,{text}")
    except (RuntimeError, ValueError):
        return None
    return tuple(DIVISIONS(1 << (20 + n)) for n in range(16))


def here(text):
    try:
        return parse_alloc_conf(text).roundup_power2_divisions
    except PlanError:
        return None


SIZES = st.one_of(st.just(">"), st.sampled_from([1 << n for n in range(18)]), st.integers(1, 5000))
ENTRIES = st.lists(st.tuples(SIZES, st.sampled_from([0, 1, 2, 3, 4, 8, 16])), min_size=1, max_size=5)


@given(ENTRIES)
def test_divisions_by_size_are_those_of_pytorch(entries):
    text = "roundup_power2_divisions:[" + ",".join(f"{size}:{count}" for size, count in entries) + "]"
    assert here(text) == in_pytorch(text)


@pytest.mark.parametrize("value", ["0.5", "0", "1", "1.0", ".5", "0.999"])
def test_a_threshold_is_accepted_if_pytorch_accepts_it(value):
    text = f"garbage_collection_threshold:{value}"
    assert here(text) == in_pytorch(text)


@pytest.mark.parametrize("key", ["max_split_size_mb", "max_non_split_rounding_mb", "large_segment_size_mb"])
@given(st.integers(0, 64))
def test_a_size_is_accepted_if_pytorch_accepts_it(key, size):
    assert here(f"{key}:{size}") == in_pytorch(f"{key}:{size}")


@pytest.mark.parametrize(
    "text",
    [
        "expandable_segments:true",
        "expandable_segments:False,",
        "pinned_max_cached_size_mb:64",
        "roundup_power2_divisions:6",
    ],
)
def test_other_values_are_accepted_if_pytorch_accepts_them(text):
    assert here(text) == in_pytorch(text)
