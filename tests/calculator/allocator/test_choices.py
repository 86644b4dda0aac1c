"""Events that choose free blocks as they did before: what they leave, and when they choose otherwise."""

from random import Random

import pytest

from calculator.allocator.flat_pool import FlatPool
from calculator.allocator.recorded_choices import Recorder, Start

SHIFT = 44
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


class Events:
    """Random events: tensors that they free themselves, others that they leave, and frees of earlier tensors."""

    def __init__(self, seed):
        random = Random(seed)
        self.large = random.random() < 0.6
        unit, least = (2048, 2048 * random.randint(1, 2)) if self.large else (1, 0)
        sizes = [random.choice(SIZES) * unit + least + self.large * random.choice((0, 0, 1, 3000)) for _ in range(4)]
        self.before = [random.choice(sizes) for _ in range(random.randint(0, 3))]
        requests = [random.choice(sizes) for _ in range(random.randint(1, 10))]
        self.sizes = [*self.before, *requests]
        alive, self.events = [*range(len(self.before))], []
        for row in range(len(self.before), len(self.sizes)):
            self.events.append(row)
            alive.append(row)
            while alive and random.random() < 0.45:
                self.events.append(~alive.pop(random.randrange(len(alive))))
        self.alive = [row for row in alive if row >= len(self.before)]
        self.freed = [row for row in range(len(self.before)) if ~row in self.events]
        self.others = sizes

    def state(self, seed):
        """A pool with random free blocks, and the places of the earlier tensors."""
        random, pool = Random(seed), FlatPool(SHIFT, small=not self.large)
        places = [0] * len(self.sizes), [0] * len(self.sizes)
        sizes = [random.choice(self.others) + random.choice((0, 0, 0, 1, 2048)) for _ in range(random.randint(0, 16))]
        events = [*range(len(sizes)), *(~row for row in range(len(sizes)) if random.random() < 0.5)]
        at = random.randint(0, len(events))
        other = [0] * len(sizes), [0] * len(sizes)
        pool.play(events[:at], sizes, other)
        pool.play(range(len(self.before)), self.sizes, places)
        pool.play(events[at:], sizes, other)
        if random.random() < 0.5 and self.large:
            largest = ([random.randint(4, 40) * 32 * 4096 + random.choice((0, 100))], ([0], [0]))
            pool.play([0, ~0], *largest)
        return pool, places

    def recorded(self, pool, places, unplayed=()):
        """What the events choose when they are played. The rows in `unplayed` are not followed."""
        start = Start.from_pool(pool)
        pool.play(self.events, self.sizes, places)
        placed = [(0, 0) if row in unplayed else place for row, place in enumerate(zip(*places, strict=True))]
        recorder = Recorder(pool, start, min(self.sizes[event] for event in self.events if event >= 0))
        steps = [(event, self.sizes[event]) if event >= 0 else (~event, 0) for event in self.events]
        recorder.follow(steps, placed, {row: row for row in self.freed})
        return recorder.choices({row: placed[row] for row in self.alive})


def left(pool, places, rows):
    """The state of a pool, and the places of rows."""
    state = [getattr(pool, slot) for slot in FlatPool.__slots__]
    return [part.copy() if isinstance(part, (list, dict)) else part for part in state], [
        [place[row] for row in rows] for place in places
    ]


@pytest.mark.parametrize("seed", range(4))
def test_events_that_choose_alike_leave_what_they_leave_when_they_are_played(seed):
    alike = 0
    for number in range(200 * seed, 200 * seed + 200):
        events = Events(number)
        choices = events.recorded(*events.state(number))
        if choices is None:
            continue
        for other in (number, *range(10 * number, 10 * number + 8)):
            (pool, places), (played, of_played) = events.state(other), events.state(other)
            before = left(pool, places, events.alive)
            played.play(events.events, events.sizes, of_played)
            is_alike = choices.repeat(pool, places, 0)
            expected = left(played, of_played, events.alive) if is_alike else before
            assert left(pool, places, events.alive) == expected, (number, other)
            assert is_alike or other != number
            alike += is_alike and other != number
    assert alike > 30


def test_of_equal_blocks_the_first_is_chosen_and_others_do_not_matter():
    pool, places = FlatPool(SHIFT, small=False), ([0] * 9, [0] * 9)
    sizes = [40960] * 6 + [20480, 4096, 40960]
    pool.play([0, 1, 2, 3, 4, 5, ~1, ~3], sizes, places)
    start, steps = Start.from_pool(pool), [(6, sizes[6]), (7, sizes[7]), (6, 0)]
    pool.play([6, 7, ~6], sizes, places)
    recorder = Recorder(pool, start, 4096)
    recorder.follow(steps, [*zip(*places, strict=True)], {})
    choices = recorder.choices({7: (places[0][7], places[1][7])})
    assert choices is not None
    # One part of the first block is free now. It would be chosen.
    assert not choices.repeat(pool, places, 0)
    pool.play([~7, ~0, ~4], sizes, places)
    assert choices.repeat(pool, places, 0)


@pytest.mark.parametrize("has_unplayed", [False, True])
def test_temporaries_that_were_not_played_need_as_many_free_blocks_of_each_size(has_unplayed):
    """What is played needs only the blocks that it uses."""
    pool, places = FlatPool(SHIFT, small=False), ([0] * 8, [0] * 8)
    sizes = [40960, 40960, 81920, 40960, 40960, 81920, 81920, 40960]
    pool.play([0, 1, 2, 3, ~0, ~2], sizes, places)
    start, other = Start.from_pool(pool), pool.copied()
    pool.play([4], sizes, places)
    recorder = Recorder(pool, start, 40960)
    recorder.follow([(4, 40960), *[(5, 81920), (5, 0)][: 2 * has_unplayed]], [*zip(*places, strict=True)], {})
    choices = recorder.choices({4: (places[0][4], places[1][4])})
    other.play([6], sizes, places)
    assert choices.repeat(other.copied(), places, 0) != has_unplayed
    other.play([~6], sizes, places)
    assert choices.repeat(other, places, 0)
