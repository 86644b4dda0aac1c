"""The caching allocator's rules, one by one, and compared with a plain transcription of PyTorch's."""

from itertools import cycle
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calculator.allocator.alloc_conf import AllocConf, parse_alloc_conf
from calculator.allocator.caching_allocator import CachingAllocator
from calculator.allocator.out_of_memory import OutOfMemoryError
from calculator.allocator.segments import BLOCK, MIB, segment_bytes
from tests.calculator.allocator.plain_allocator import Plain, PlainOutOfMemoryError

SIZES = st.one_of(
    st.integers(1, 8 * BLOCK),
    st.integers(1, MIB),
    st.sampled_from([MIB - 1, MIB, MIB + 1, 10 * MIB - 1, 10 * MIB, 10 * MIB + 1, 19 * MIB, 20 * MIB]),
    st.integers(MIB, 40 * MIB),
)


#: The streams of requests in turn, most often one.
STREAMS = st.lists(st.integers(0, 2), min_size=1, max_size=5)
ACTIONS = st.lists(st.one_of(SIZES, st.integers(-30, -1)), max_size=60)
#: Settings as PYTORCH_CUDA_ALLOC_CONF spells them, and as the transcription does.
CONFS = {
    "": {},
    "expandable_segments:True": {"expandable": True},
    "max_split_size_mb:20": {"max_split": 20 * MIB},
    "max_split_size_mb:24,max_non_split_rounding_mb:32": {"max_split": 24 * MIB, "max_non_split": 32 * MIB},
    "max_split_size_mb:20,expandable_segments:True": {"max_split": 20 * MIB, "expandable": True},
    "roundup_power2_divisions:4": {"divisions": 4},
    "large_segment_size_mb:13": {"large_buffer": 13 * MIB, "max_non_split": 13 * MIB},
    "large_segment_size_mb:14,expandable_segments:True": {"large_buffer": 14 * MIB, "expandable": True},
    "per_process_memory_fraction:0.75": {"allowed": 0.75},
    "per_process_memory_fraction:0.75,expandable_segments:True": {"allowed": 0.75, "expandable": True},
    "per_process_memory_fraction:0.9,garbage_collection_threshold:0.5": {"allowed": 0.9, "threshold": 0.5},
    "per_process_memory_fraction:0.9,garbage_collection_threshold:0.3,max_split_size_mb:20": {
        "allowed": 0.9,
        "threshold": 0.3,
        "max_split": 20 * MIB,
    },
    "garbage_collection_threshold:0.5": {"threshold": 0.5},
}


def served(allocator, size, stream):
    try:
        return allocator.allocate(size, stream)
    except OutOfMemoryError:
        return None


def served_plainly(plain, size, stream):
    try:
        return plain.malloc(size, stream)
    except PlainOutOfMemoryError:
        return None


@pytest.mark.parametrize("conf", CONFS)
@given(ACTIONS, STREAMS, st.one_of(st.none(), st.integers(1, 80)))
def test_every_block_is_placed_where_pytorchs_steps_place_it(conf, actions, streams, pages):
    capacity, settings = pages and pages * 2 * MIB, dict(CONFS[conf])
    if "allowed" in settings:
        settings["allowed"] = int(settings["allowed"] * capacity) if capacity else None
    allocator = CachingAllocator(parse_alloc_conf(conf), capacity=capacity)
    plain, alive = Plain(capacity=capacity or inf, total=capacity or 1 << 97, **settings), []
    for action, stream in zip(actions, cycle(streams), strict=False):
        if action > 0:
            placed, block = served(allocator, action, stream), served_plainly(plain, action, stream)
            assert (placed is None) == (block is None)
            if placed is not None:
                pool, fast = placed
                assert (fast.address, fast.size) == (block.address, block.size)
                assert pool is allocator.pools(block.stream)[not block.pool.is_small]
                alive.append((pool, fast, block))
        elif alive:
            pool, fast, block = alive.pop(action % len(alive))
            pool.free(fast)
            plain.free(block)
        assert (allocator.reserved, allocator.retries) == (plain.reserved, plain.retries)
        assert allocator.reserved == sum(pool.reserved for pool in allocator.every_pool())


@pytest.mark.parametrize(
    ("size", "segment"),
    [
        (1, 2 * MIB),
        (MIB, 2 * MIB),
        (MIB + 1, 20 * MIB),
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB),
        (10 * MIB + 1, 12 * MIB),
        (33 * MIB, 34 * MIB),
    ],
)
def test_a_request_allocates_a_segment_of_its_kind(size, segment):
    allocator = CachingAllocator()
    allocator.allocate(size)
    assert allocator.reserved == segment


def test_a_size_between_two_multiples_of_512_is_rounded_up_before_its_segment_is_chosen():
    assert segment_bytes(MIB) == 2 * MIB
    allocator = CachingAllocator()
    assert allocator.allocate(MIB - 100)[0] is allocator.small
    assert allocator.allocate(MIB + 100)[0] is allocator.large


def test_small_requests_share_a_segment_to_its_last_block():
    allocator = CachingAllocator()
    for _ in range(2 * MIB // BLOCK):
        allocator.allocate(1)
    assert allocator.reserved == 2 * MIB
    allocator.allocate(1)
    assert allocator.reserved == 4 * MIB


def test_a_large_block_is_split_only_if_more_than_a_mebibyte_remains():
    allocator = CachingAllocator()
    pool, block = allocator.allocate(19 * MIB)
    assert allocator.reserved == 20 * MIB
    pool.free(block)
    allocator.allocate(18 * MIB)
    allocator.allocate(2 * MIB)
    assert allocator.reserved == 20 * MIB, "a rest of 2 MiB is split off"
    allocator = CachingAllocator()
    pool, block = allocator.allocate(20 * MIB)
    pool.free(block)
    allocator.allocate(19 * MIB)
    assert allocator.reserved == 20 * MIB
    allocator.allocate(MIB + 512)
    assert allocator.reserved == 40 * MIB, "a rest of 1 MiB goes with the block"


def test_the_smallest_block_that_fits_is_used_and_the_lowest_of_several():
    allocator = CachingAllocator()
    blocks = [allocator.allocate(size * MIB) for size in (40, 30, 30, 50)]
    for pool, block in blocks:
        pool.free(block)
    addresses = [block.address for _, block in blocks]
    assert allocator.allocate(29 * MIB + 512 * 1024)[1].address == addresses[1]
    assert allocator.allocate(30 * MIB)[1].address == addresses[2]
    assert allocator.allocate(30 * MIB)[1].address == addresses[0]


def test_freed_neighbors_are_merged_within_a_segment_and_never_across_segments():
    allocator = CachingAllocator()
    parts = [allocator.allocate(5 * MIB) for _ in range(4)]
    assert allocator.reserved == 20 * MIB
    for pool, block in (parts[0], parts[2], parts[1], parts[3]):
        pool.free(block)
    allocator.allocate(20 * MIB)
    assert allocator.reserved == 20 * MIB
    allocator = CachingAllocator()
    for pool, block in [allocator.allocate(10 * MIB) for _ in range(2)]:
        pool.free(block)
    allocator.allocate(20 * MIB)
    assert allocator.reserved == 40 * MIB


def test_small_and_large_requests_never_share_a_segment():
    allocator = CachingAllocator()
    pool, block = allocator.allocate(20 * MIB)
    pool.free(block)
    allocator.allocate(512)
    assert allocator.reserved == 22 * MIB


def test_an_emptied_cache_gives_back_what_is_wholly_free_and_the_maximum_remains():
    allocator = CachingAllocator()
    kept, _ = allocator.allocate(5 * MIB), allocator.allocate(5 * MIB)
    whole = allocator.allocate(100 * MIB)
    for pool, block in (kept, whole):
        pool.free(block)
    allocator.empty_cache()
    assert (allocator.reserved, allocator.max_reserved) == (20 * MIB, 120 * MIB)
    allocator.allocate(100 * MIB)
    assert (allocator.reserved, allocator.max_reserved) == (120 * MIB, 120 * MIB)


def test_an_expandable_segment_grows_by_pages_from_the_free_block_at_its_end():
    allocator = CachingAllocator(AllocConf(expandable_segments=True))
    pool, first = allocator.allocate(30 * MIB)
    assert allocator.reserved == 40 * MIB
    pool.free(first)
    assert allocator.allocate(50 * MIB)[1].address == first.address
    assert allocator.reserved == 60 * MIB
    allocator.allocate(3 * MIB)
    assert allocator.reserved == 60 * MIB
    allocator.allocate(512)
    assert allocator.reserved == 62 * MIB, "small requests have a segment of their own, with pages of 2 MiB"


def test_an_expandable_segments_end_is_spared_while_another_block_fits():
    allocator = CachingAllocator(AllocConf(expandable_segments=True))
    pool, hole = allocator.allocate(10 * MIB)
    allocator.allocate(2 * MIB)
    pool.free(hole)
    assert allocator.reserved == 20 * MIB
    assert allocator.allocate(8 * MIB)[1].address == hole.address, "though the 8 MiB at the end would fit more tightly"


def test_an_expandable_segments_blocks_are_split_to_the_last_512_bytes():
    allocator = CachingAllocator(AllocConf(expandable_segments=True))
    allocator.allocate(20 * MIB - 512 * 1024)
    pool, block = allocator.allocate(2 * MIB)
    assert (pool, block.address) == (allocator.large, 20 * MIB - 512 * 1024)


def test_a_full_device_gets_its_wholly_free_segments_back_before_a_request_is_repeated():
    """release_cached_blocks in malloc: segments of both pools, split ones not; the retry is counted."""
    allocator = CachingAllocator(capacity=100 * MIB)
    part, _, whole, small = (allocator.allocate(size) for size in (5 * MIB, 5 * MIB, 40 * MIB, 512))
    for pool, block in (part, whole, small):
        pool.free(block)
    allocator.allocate(60 * MIB)
    assert allocator.reserved == (20 + 60) * MIB, "the segment with a block in use stays, whole"
    assert (allocator.retries, allocator.max_reserved) == (1, 80 * MIB)


def test_a_retry_that_frees_too_little_is_counted():
    allocator = CachingAllocator(capacity=30 * MIB)
    allocator.allocate(20 * MIB)
    with pytest.raises(OutOfMemoryError, match=r"Tried to allocate 12\.00 MiB"):
        allocator.allocate(11 * MIB)
    assert (allocator.retries, allocator.reserved) == (1, 20 * MIB)


def test_the_figures_of_a_failure_are_those_after_all_that_could_be_freed_was_freed():
    allocator = CachingAllocator(capacity=40 * MIB)
    (pool, block), _ = allocator.allocate(4 * MIB), allocator.allocate(8 * MIB)
    pool.free(block)
    with pytest.raises(OutOfMemoryError) as caught:
        allocator.allocate(30 * MIB)
    error = caught.value
    assert (error.requested, error.segment) == (30 * MIB, 30 * MIB)
    assert (error.allocated, error.reserved, error.free) == (8 * MIB, 20 * MIB, 20 * MIB)


def test_a_segment_needs_full_pages_of_the_device():
    """cudaMalloc maps pages of 2 MiB, so that a segment of 11 MiB needs 12."""
    allocator = CachingAllocator(parse_alloc_conf("large_segment_size_mb:11"), capacity=21 * MIB)
    allocator.allocate(2 * MIB)
    assert allocator.reserved == 11 * MIB
    with pytest.raises(OutOfMemoryError):
        allocator.allocate(10 * MIB)


def test_an_oversized_block_is_neither_split_nor_used_for_a_smaller_request():
    """get_free_block and should_split under max_split_size_mb."""
    allocator = CachingAllocator(parse_alloc_conf("max_split_size_mb:30"))
    pool, block = allocator.allocate(40 * MIB)
    pool.free(block)
    allocator.allocate(20 * MIB)
    assert allocator.reserved == 60 * MIB, "20 MiB do not come from the block of 40"
    assert allocator.allocate(31 * MIB)[1].size == 40 * MIB, "31 MiB do, and get all of it"
    assert allocator.reserved == 60 * MIB


def test_a_request_that_would_leave_too_much_of_an_oversized_block_gets_a_segment():
    allocator = CachingAllocator(parse_alloc_conf("max_split_size_mb:30,max_non_split_rounding_mb:24"))
    pool, block = allocator.allocate(60 * MIB)
    pool.free(block)
    allocator.allocate(36 * MIB)
    assert allocator.reserved == 96 * MIB
    allocator.allocate(38 * MIB)
    assert allocator.reserved == 96 * MIB


def test_oversized_blocks_are_freed_first_and_no_retry_is_counted():
    """release_available_cached_blocks: one block that is large enough, or else the largest ones."""
    allocator = CachingAllocator(parse_alloc_conf("max_split_size_mb:30"), capacity=200 * MIB)
    blocks = [allocator.allocate(size * MIB) for size in (32, 34, 100, 12)]
    for pool, block in blocks:
        pool.free(block)
    allocator.allocate(62 * MIB)
    assert (allocator.reserved, allocator.retries) == ((32 + 34 + 12 + 62) * MIB, 0)
    allocator.allocate(65 * MIB)
    assert (allocator.reserved, allocator.retries) == ((12 + 62 + 66) * MIB, 0)


def test_the_fraction_of_a_process_limits_what_it_reserves():
    """alloc_block compares total_allocated_memory and the segment with allowed_memory_maximum."""
    allocator = CachingAllocator(
        parse_alloc_conf("per_process_memory_fraction:0.5"), capacity=90 * MIB, total=100 * MIB
    )
    allocator.allocate(50 * MIB)
    with pytest.raises(OutOfMemoryError) as caught:
        allocator.allocate(512)
    assert (caught.value.allowed, caught.value.free) == (50 * MIB, 40 * MIB)


def test_garbage_collection_frees_the_segments_that_were_cached_longest():
    """garbage_collect_cached_blocks: above the threshold, those of at least the average age."""
    text = "per_process_memory_fraction:0.5,garbage_collection_threshold:0.5"
    allocator = CachingAllocator(parse_alloc_conf(text), capacity=200 * MIB)
    old, new = allocator.allocate(20 * MIB), allocator.allocate(30 * MIB)
    old[0].free(old[1])
    for _ in range(3):
        allocator.allocate(2 * MIB)
    new[0].free(new[1])
    allocator.allocate(40 * MIB)
    assert allocator.reserved == (30 + 20 + 40) * MIB, "the older segment is gone, of 20 MiB; one of 20 is in use"
    assert allocator.retries == 0


def test_garbage_collection_is_off_if_the_process_may_use_the_whole_device():
    """malloc and get_free_block read the threshold only where allowed_memory_maximum is set."""
    allocator = CachingAllocator(parse_alloc_conf("garbage_collection_threshold:0.1"), capacity=200 * MIB)
    pool, block = allocator.allocate(90 * MIB)
    pool.free(block)
    allocator.allocate(100 * MIB)
    assert allocator.reserved == 190 * MIB


def test_an_expandable_segment_gives_its_free_pages_back_and_fills_the_hole_later():
    """unmap_block and find_expandable_block: whole pages between blocks in use, the lowest hole first."""
    allocator = CachingAllocator(AllocConf(expandable_segments=True), capacity=120 * MIB)
    first, hole, last = (allocator.allocate(size * MIB) for size in (30, 50, 30))
    hole[0].free(hole[1])
    assert allocator.reserved == 120 * MIB
    allocator.empty_cache()
    assert allocator.reserved == 80 * MIB, "pages 2 and 3 of six"
    assert allocator.allocate(45 * MIB)[1].address == first[1].size
    assert last[1].address == 80 * MIB
    assert allocator.reserved == 120 * MIB


def test_pages_are_mapped_all_or_not_at_all():
    """try_allocate_expandable_block: the pages of a hole are mapped all or not at all."""
    allocator = CachingAllocator(AllocConf(expandable_segments=True), capacity=60 * MIB)
    allocator.allocate(20 * MIB)
    with pytest.raises(OutOfMemoryError) as caught:
        allocator.allocate(50 * MIB)
    assert caught.value.free == 40 * MIB
    allocator.allocate(40 * MIB)
    assert allocator.reserved == 60 * MIB


def test_the_split_limit_does_not_keep_a_request_from_the_end_of_an_expandable_segment():
    """get_free_block refuses the oversized block, and find_expandable_block finds it all the same."""
    allocator = CachingAllocator(parse_alloc_conf("expandable_segments:True,max_split_size_mb:20"))
    pool, block = allocator.allocate(60 * MIB)
    pool.free(block)
    assert allocator.allocate(10 * MIB)[1].address == block.address
    assert allocator.reserved == 60 * MIB


def test_each_stream_has_its_own_pools():
    """BlockComparatorSize orders by stream first, so that get_free_block never crosses it."""
    allocator = CachingAllocator(capacity=100 * MIB)
    pool, block = allocator.allocate(40 * MIB, stream=7)
    pool.free(block)
    assert allocator.allocate(40 * MIB)[0] is allocator.large
    assert allocator.reserved == 80 * MIB
    allocator.allocate(50 * MIB)
    assert (allocator.reserved, allocator.retries) == (90 * MIB, 1)
    assert allocator.pools(7)[1].reserved == 0


def test_sizes_are_rounded_to_divisions_before_their_pool_is_chosen():
    allocator = CachingAllocator(parse_alloc_conf("roundup_power2_divisions:4"))
    pool, block = allocator.allocate(1025 * 1024)
    assert (pool, block.size) == (allocator.large, 1280 * 1024)
