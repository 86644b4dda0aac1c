"""The layers of a load that are placed at once: where the plain pool places them, one by one."""

from random import Random

import pytest

from calculator.allocator.equal_layers import EqualLayers, play_equal_layers
from calculator.allocator.flat_pool import FlatPool
from calculator.allocator.loading import Loading, LoadingOptions
from calculator.allocator.played_load import load, parts_by_pool
from calculator.allocator.segments import BLOCK
from calculator.estimation.estimate import resident_state
from calculator.estimation.request import parse_request

SHIFT = 48
SIZES = (1, 2, 3, 4, 6, 7, 8, 14, 16, 28, 32, 64, 112)
LLAMA_70B = {"model": "meta-llama/Llama-3.1-70B", "method": {"name": "qlora", "target_modules": "all-linear"}}


class Layers:
    """Random layers: each reads weights. What a read needs in addition is freed when the next one begins."""

    def __init__(self, seed):
        random = Random(seed)
        unit = random.choice((2049, 2560, 4096))
        reads = [
            [random.choice(SIZES) * unit for _ in range(random.randint(1, 3))] for _ in range(random.randint(1, 5))
        ]
        self.layer = [size for sizes in reads for size in sizes]
        self.times = random.randint(3, 60)
        self.sizes = self.layer * (self.times + 1)
        step = start = len(self.layer)
        events, dense = [], range(step - len(reads[-1]), step - 1)
        for sizes in reads:
            rows = [*range(start, start + len(sizes))]
            events += [*(~row for row in dense), *rows]
            start, dense = start + len(sizes), rows[:-1]
        self.layers = EqualLayers(events, step, self.times)
        self.after = [~row for row in range(step * (self.times + 1) - len(reads[-1]), step * (self.times + 1) - 1)]
        self.warmup = sum(self.layer) * random.choice((self.times // 2, self.times, self.times + 4, 2 * self.times))
        self.holes = [random.choice(SIZES) * unit for _ in range(random.randint(0, 6))]

    def played(self, *, at_once):
        """Return the pool after a warmup, the layers and the frees of what the last one left."""
        pool, places = FlatPool(SHIFT, small=False), ([0] * len(self.sizes), [0] * len(self.sizes))
        before = [self.warmup, *self.holes]
        pool.play([0, ~0, *range(1, len(before)), *(~n for n in range(1, len(before), 2))], before, ([0] * 9, [0] * 9))
        pool.play(range(len(self.layer)), self.sizes, places)
        if at_once:
            play_equal_layers(pool, self.layers, self.sizes, places, ())
        else:
            pool.play(self.layers.every(), self.sizes, places)
        pool.play(self.after, self.sizes, places)
        return pool


def state(pool):
    return {name: getattr(pool, name) for name in FlatPool.__slots__}


@pytest.mark.parametrize("seed", range(4))
def test_layers_placed_together_have_the_addresses_of_layers_placed_one_by_one(monkeypatch, seed):
    numbers = []
    monkeypatch.setattr(EqualLayers, "of", lambda self, n, of=EqualLayers.of: numbers.append(n) or of(self, n))
    skipped = 0
    for case_seed in range(100 * seed, 100 * seed + 100):
        layers = Layers(case_seed)
        one_by_one = layers.played(at_once=False)
        numbers.clear()
        at_once = layers.played(at_once=True)
        assert state(at_once) == state(one_by_one), case_seed
        skipped += layers.layers.times - len(numbers)
    assert skipped > 250


def test_layers_of_which_others_free_rows_are_placed_one_by_one():
    layers, sizes = EqualLayers([1, 2], 2, 40), [3000] * 90
    pools = FlatPool(SHIFT, small=False), FlatPool(SHIFT, small=False)
    for pool in pools:
        pool.play([0, ~0], [3000 * 1000], ([0], [0]))
    places = [0] * 90, [0] * 90
    play_equal_layers(pools[0], layers, sizes, places, [41])
    pools[1].play(layers.every(), sizes, ([0] * 90, [0] * 90))
    assert places[0][41]
    assert state(pools[0]) == state(pools[1])


@pytest.mark.parametrize("empties", [False, True])
@pytest.mark.parametrize("large", [False, True])
def test_a_load_is_placed_where_its_events_are_one_by_one(monkeypatch, large, empties):
    resident = resident_state(parse_request(LLAMA_70B))
    loading = Loading(resident.tensors, resident.prepared.training, LoadingOptions(empties_cache=empties))
    sizes = [size // BLOCK for size in loading.sizes]
    parts = parts_by_pool(loading.parts, sizes)[large]
    pools = FlatPool(SHIFT, small=not large), FlatPool(SHIFT, small=not large)
    places, reserved = ([0] * len(sizes), [0] * len(sizes)), 0
    for n, part in enumerate(parts):
        if n == loading.parts_before:
            reserved = pools[1].reserved
            pools[1].release()
        pools[1].play(part.every(), sizes, places)
    numbers = []
    monkeypatch.setattr(EqualLayers, "of", lambda self, n, of=EqualLayers.of: numbers.append(n) or of(self, n))
    before = load(pools[0], parts, sizes, ([0] * len(sizes), [0] * len(sizes)), loading.parts_before)
    assert before == reserved
    assert state(pools[0]) == state(pools[1])
    assert not large or len(numbers) < 40


@pytest.mark.parametrize("model", ["nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "meta-llama/Llama-3.1-70B"])
def test_a_row_of_a_load_is_allocated_once_and_freed_at_most_once(model):
    resident = resident_state(parse_request({**LLAMA_70B, "model": model}))
    alive = set()
    for event in Loading(resident.tensors, resident.prepared.training).events:
        if event >= 0:
            assert event not in alive
            alive.add(event)
        else:
            alive.remove(~event)
