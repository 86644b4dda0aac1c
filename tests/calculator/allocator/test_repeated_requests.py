"""Requests of layers that are never freed: placed as one by one, and most of them at once."""

from random import Random

import pytest

from calculator.allocator.flat_pool import FlatPool
from calculator.allocator.repeated_requests import _repeat

SHIFT = 40
SIZES = {True: (1, 2, 16, 128, 512, 1024, 1792, 2048), False: (2049, 4096, 7168, 16384, 20480, 65536, 229376)}


def pool_with_holes(random, *, small):
    """A pool in which some tensors were freed again."""
    pool = FlatPool(SHIFT, small=small)
    sizes = [random.choice(SIZES[small]) for _ in range(random.randint(0, 60))]
    places = [0] * len(sizes), [0] * len(sizes)
    pool.play(range(len(sizes)), sizes, places)
    pool.play([~row for row in range(len(sizes)) if random.random() < 0.4], sizes, places)
    return pool


@pytest.mark.parametrize("small", [True, False])
def test_layers_that_are_never_freed_are_placed_as_their_requests_one_by_one(small, monkeypatch):
    placed = [0]

    def counted(*args):
        found = _repeat(*args)
        placed[0] += found
        return found

    monkeypatch.setattr("calculator.allocator.repeated_requests._repeat", counted)
    for seed in range(400):
        random = Random(seed)
        pool = pool_with_holes(random, small=small)
        kinds = random.sample(SIZES[small], random.randint(1, 4))
        sizes, times = [random.choice(kinds) for _ in range(random.randint(1, 20))], random.randint(1, 40)
        other, rows = pool.copied(), range(len(sizes) * times)
        other.allocate(sizes, times)
        pool.play(rows, sizes * times, ([0] * len(rows), [0] * len(rows)))
        assert all(getattr(other, slot) == getattr(pool, slot) for slot in FlatPool.__slots__), seed
    assert placed[0] > 400


@pytest.mark.parametrize("small", [True, False])
def test_layers_that_are_freed_together_add_the_segments_of_their_requests_one_by_one(small, monkeypatch):
    placed, unserved = [], FlatPool._unserved
    monkeypatch.setattr(FlatPool, "_unserved", lambda *args: placed.append(args) or unserved(*args))
    repeated = 0
    for seed in range(400):
        random = Random(seed)
        pool = pool_with_holes(random, small=small)
        pool.allocate_and_free([([SIZES[small][-1]] * random.randint(1, 60), 1)])
        kinds = random.sample(SIZES[small], random.randint(1, 4))
        layers = [
            ([random.choice(kinds) for _ in range(random.randint(1, 9))], random.randint(1, 40))
            for _ in range(random.randint(1, 3))
        ]
        sizes = [size for of_layer, times in layers for size in of_layer * times]
        other, rows, places = pool.copied(), range(len(sizes)), ([0] * len(sizes), [0] * len(sizes))
        placed.clear()
        other.allocate_and_free(layers)
        repeated += sum(times for _, times in layers) - len(placed)
        pool.play([*rows, *(~row for row in rows)], sizes, places)
        assert all(getattr(other, slot) == getattr(pool, slot) for slot in FlatPool.__slots__), seed
    assert repeated > 2000
