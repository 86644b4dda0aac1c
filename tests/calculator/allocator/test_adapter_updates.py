"""Updates of adapters: placed as their events one by one."""

from random import Random

import pytest

from calculator.allocator.adapter_updates import EVENTS, divided, play_divided, play_updates, updates
from calculator.allocator.flat_pool import FlatPool
from calculator.allocator.transients import MicroBatch
from calculator.estimation.estimate import resident_state
from calculator.estimation.request import parse_request
from calculator.training_step.unrolled import unrolled
from tests.calculator.allocator.test_replay import LLAMA_8B

SHIFT = 40
COUNT = 60
#: Multiples of a unit.
SIZES = (1, 1, 2, 2, 3, 4, 5, 6, 8, 12, 16)


class RandomPool:
    """A pool with live tensors, and an update of a module whose output is one of them."""

    def __init__(self, random, *, small):
        self.unit, self.least = random.choice((1, 16, 128) if small else (7, 1024, 4096)), 1 if small else 2049
        self.pool, self.places = FlatPool(SHIFT, small=small), ([0] * COUNT, [0] * COUNT)
        self.sizes = [self.size(random) for _ in range(COUNT)]
        alive, dead = [0], [*range(1, COUNT - 4)]
        self.pool.play(alive, self.sizes, self.places)
        for _ in range(random.randint(10, 110)):
            source, other = (alive, dead) if len(alive) > 1 and (random.random() < 0.5 or not dead) else (dead, alive)
            row = source.pop(random.randrange(len(source)))
            other.append(row)
            self.pool.play([~row if source is alive else row], self.sizes, self.places)
        output, (first, second, total, self.cast) = random.choice(alive), range(COUNT - 4, COUNT)
        own = self.sizes[output]
        self.sizes[first : self.cast] = [random.choice((own, max(own, 16 * self.unit), self.size(random)))] * 3
        self.sizes[self.cast] = own
        self.events = [first, second, ~first, total, ~second, ~output, self.cast, ~total]

    def size(self, random):
        return max(self.least, self.unit * random.choice((*SIZES, random.randint(1, 16))))


def _play_divided(pool, sizes, places, events, starts):
    play_divided(pool, sizes, places, divided(events, sizes, [len(events) + start for start in starts]))


@pytest.mark.parametrize("play_all", [play_updates, _play_divided])
@pytest.mark.parametrize("small", [True, False])
def test_an_update_leaves_what_its_events_leave_one_by_one(play_all, small, monkeypatch):
    played, play = [], FlatPool.play
    monkeypatch.setattr(
        FlatPool, "play", lambda self, events, *args: played.append(events) or play(self, events, *args)
    )
    skipped = 0
    for seed in range(1500):
        case = RandomPool(Random(seed), small=small)
        other, places = case.pool.copied(), tuple(of_rows.copy() for of_rows in case.places)
        played.clear()
        play_all(other, case.sizes, places, case.events, updates(case.events, case.sizes))
        skipped += not any(played)
        play(case.pool, case.events, case.sizes, case.places)
        assert all(getattr(other, slot) == getattr(case.pool, slot) for slot in FlatPool.__slots__), seed
        assert [of_rows[case.cast] for of_rows in places] == [of_rows[case.cast] for of_rows in case.places], seed
    assert skipped > 500


def test_events_are_divided_at_updates():
    update, sizes = [1, 2, ~1, 3, ~2, ~0, 4, ~3], [1, 2, 2, 2, 1, 1]
    (own,), after = divided([0, *update, 5], sizes, [1])
    assert (own.before, own.events, after) == ([0], update, [5])
    assert (own.size, own.wanted, own.freed, own.output) == (2, 1, 0, 4)


def test_updates_are_counted_from_the_end():
    update = [1, 2, ~1, 3, ~2, ~0, 4, ~3]
    assert updates([0, *update, 5], [1, 2, 2, 2, 1, 1]) == [-9]
    assert updates([0, *update, 5], [1, 2, 2, 2, 3, 1]) == []
    assert updates([0, *update[:-1]], [1, 2, 2, 2, 1]) == []


def test_every_adapted_module_of_a_llama_has_an_update():
    items = MicroBatch(unrolled(resident_state(parse_request(LLAMA_8B)).prepared), None).passes[1][0]
    assert sum(len(item.updates()) for item in items) == 7 * 32
    item = next(item for item in reversed(items) if item.updates())
    at = len(item.chunk.placed) + item.updates()[0]
    assert item.chunk.placed[at + EVENTS - 1] == ~item.chunk.placed[at + 3]
