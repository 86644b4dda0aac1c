"""The caching allocator's rules, one by one, and a plain transcription of PyTorch's to hold the fast one against."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calculator.allocator.caching_allocator import BLOCK, MIB, CachingAllocator, segment_bytes


class Block:
    """A block as c10/cuda/CUDACachingAllocator.cpp has it."""

    def __init__(self, address, size, before=None, after=None):
        self.address, self.size, self.before, self.after = address, size, before, after
        self.allocated = False


class Plain:
    """Its malloc and free for one stream, line by line; the driver puts each segment above those before it."""

    def __init__(self):
        self.free_blocks = {True: [], False: []}
        self.reserved = 0
        self.tops = {True: BLOCK, False: BLOCK}

    def malloc(self, size):
        size = (size + 511) // 512 * 512
        small = size <= MIB
        fitting = [block for block in self.free_blocks[small] if block.size >= size]
        if fitting:
            block = min(fitting, key=lambda b: (b.size, b.address))
            self.free_blocks[small].remove(block)
        else:
            segment = 2 * MIB if small else 20 * MIB if size < 10 * MIB else (size + 2 * MIB - 1) // (2 * MIB) * 2 * MIB
            block = Block(self.tops[small], segment)
            self.tops[small] += segment + BLOCK
            self.reserved += segment
        rest = block.size - size
        if rest >= 512 if small else rest > MIB:
            remaining = Block(block.address + size, rest, block, block.after)
            if block.after:
                block.after.before = remaining
            block.after, block.size = remaining, size
            self.free_blocks[small].append(remaining)
        block.allocated, block.small = True, small
        return block

    def free(self, block):
        block.allocated = False
        pool = self.free_blocks[block.small]
        if block.before and not block.before.allocated:
            other = block.before
            pool.remove(other)
            block.address, block.size, block.before = other.address, block.size + other.size, other.before
            if block.before:
                block.before.after = block
        if block.after and not block.after.allocated:
            other = block.after
            pool.remove(other)
            block.size, block.after = block.size + other.size, other.after
            if block.after:
                block.after.before = block
        pool.append(block)


SIZES = st.one_of(
    st.integers(1, 8 * BLOCK),
    st.integers(1, MIB),
    st.sampled_from([MIB - 1, MIB, MIB + 1, 10 * MIB - 1, 10 * MIB, 10 * MIB + 1, 19 * MIB, 20 * MIB]),
    st.integers(MIB, 40 * MIB),
)


@given(st.lists(st.one_of(SIZES, st.integers(-30, -1)), max_size=60))
def test_it_places_every_block_where_pytorchs_own_steps_do(actions):
    allocator, plain, alive = CachingAllocator(), Plain(), []
    for action in actions:
        if action > 0:
            (pool, served), block = allocator.allocate(action), plain.malloc(action)
            assert (served.address, served.size, pool is allocator.small) == (block.address, block.size, block.small)
            alive.append((pool, served, block))
        elif alive:
            pool, served, block = alive.pop(action % len(alive))
            pool.free(served)
            plain.free(block)
        assert allocator.reserved == plain.reserved


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
def test_a_request_takes_a_segment_of_its_kind(size, segment):
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


def test_a_large_blocks_rest_is_kept_apart_only_if_it_is_above_a_mebibyte():
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


def test_the_smallest_block_that_fits_is_taken_and_the_lowest_of_several():
    allocator = CachingAllocator()
    blocks = [allocator.allocate(size * MIB) for size in (40, 30, 30, 50)]
    for pool, block in blocks:
        pool.free(block)
    addresses = [block.address for _, block in blocks]
    assert allocator.allocate(29 * MIB + 512 * 1024)[1].address == addresses[1]
    assert allocator.allocate(30 * MIB)[1].address == addresses[2]
    assert allocator.allocate(30 * MIB)[1].address == addresses[0]


def test_freed_neighbours_are_merged_within_a_segment_and_never_across_segments():
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
    allocator = CachingAllocator(expandable_segments=True)
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
    allocator = CachingAllocator(expandable_segments=True)
    pool, hole = allocator.allocate(10 * MIB)
    allocator.allocate(2 * MIB)
    pool.free(hole)
    assert allocator.reserved == 20 * MIB
    assert allocator.allocate(8 * MIB)[1].address == hole.address, "though the 8 MiB at the end would fit more tightly"


def test_an_expandable_segments_blocks_are_split_to_the_last_512_bytes():
    allocator = CachingAllocator(expandable_segments=True)
    allocator.allocate(20 * MIB - 512 * 1024)
    pool, block = allocator.allocate(2 * MIB)
    assert (pool, block.address) == (allocator.large, 20 * MIB - 512 * 1024)
