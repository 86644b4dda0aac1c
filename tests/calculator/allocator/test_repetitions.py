"""Repetitions that are placed at once: where the plain pool places them, one by one."""

from random import Random

import pytest

from calculator.allocator.fast_replay import FastReplay
from calculator.allocator.flat_pool import FlatPool
from calculator.allocator.repetitions import play_repetitions, repetitions_of
from calculator.estimation.estimate import resident_state
from calculator.estimation.request import parse_request
from tests.calculator.allocator.test_replay import LLAMA_8B

SHIFT = 44
#: Bytes of the matrix library's workspaces.
WORKSPACES = (8_519_680, 8_519_680)
SIZES = (1, 2, 3, 4, 5, 7, 8, 12, 16, 20, 24, 32, 48, 64, 100)


class Layers:
    """Random layers: each allocates tensors that it frees itself, and others, of which the next frees some."""

    def __init__(self, seed):
        random = Random(seed)
        self.large, self.times = random.random() < 0.6, random.randint(8, 60)
        unit = 2048 if self.large else 1
        sizes = [random.choice(SIZES) * unit + self.large * (2048 + random.choice((0, 1, 300))) for _ in range(4)]
        requests = [random.choice(sizes) for _ in range(random.randint(3, 12))]
        kept = [random.random() < 0.4 for _ in requests]
        self.lowest, self.step = kept.count(False), max(1, kept.count(True))
        rows = [self.lowest + sum(kept[:n]) if kept[n] else kept[:n].count(False) for n in range(len(requests))]
        self.sizes = [size for size, keeps in zip(requests, kept, strict=True) if not keeps]
        kept_sizes = [size for size, keeps in zip(requests, kept, strict=True) if keeps] or [1]
        self.sizes += kept_sizes * (self.times + 1)
        self.before = range(self.lowest, self.lowest + kept.count(True))
        self.events = self._events(random, rows, kept)
        self.holes = self._holes(random, requests)

    def _events(self, random, rows, kept):
        events, alive = [], []
        ending = [row for row, keeps in zip(rows, kept, strict=True) if keeps and random.random() < 0.3]
        for row, keeps in zip(rows, kept, strict=True):
            events.append(row + self.step if keeps else row)
            alive += [] if keeps else [row]
            while alive and random.random() < 0.45:
                events.append(~alive.pop(random.randrange(len(alive))))
            while ending and random.random() < 0.3:
                events.append(~ending.pop())
        return [*events, *(~row for row in [*alive, *ending])]

    def _holes(self, random, requests):
        """Earlier allocations and which of them were freed: tensors of about these sizes."""
        count = random.randint(0, 30)
        sizes = [random.choice(requests) + random.choice((0, 0, 1, 8, 2048)) for _ in range(count)]
        return sizes, [~row for row in range(count) if random.random() < 0.5]

    def of(self, number):
        by = number * self.step
        return [e + by if e >= self.lowest else e - by if ~e >= self.lowest else e for e in self.events]

    def played(self, *, at_once):
        """The pool and the places of rows that are alive after all, and how many repetitions were played."""
        pool, places = FlatPool(SHIFT, small=not self.large), ([0] * len(self.sizes), [0] * len(self.sizes))
        sizes, freed = self.holes
        pool.play([*range(len(sizes)), *freed], sizes, ([0] * len(sizes), [0] * len(sizes)))
        pool.play(self.before, self.sizes, places)
        numbers = []

        def play(first, last):
            for number in range(first, last):
                numbers.append(number)
                pool.play(self.of(number), self.sizes, places)

        repetitions = repetitions_of(self.events, self.sizes, self.times, self.step, self.lowest) if at_once else None
        if repetitions is None:
            play(0, self.times)
        else:
            play_repetitions(pool, repetitions, places, play)
        ended = {~event for number in range(self.times) for event in self.of(number) if event < 0}
        alive = [row for row in range(self.lowest, len(self.sizes)) if row not in ended]
        left = (
            pool.free_keys,
            pool.segments,
            pool.next_address,
            pool.edges,
            pool.reserved,
            [[place[row] for row in alive] for place in places],
        )
        return left, len(numbers)


@pytest.mark.parametrize("seed", range(8))
def test_repetitions_placed_together_have_the_addresses_of_those_placed_one_by_one(seed):
    skipped = 0
    for case_seed in range(100 * seed, 100 * seed + 100):
        layers = Layers(case_seed)
        (one_by_one, _), (at_once, played) = layers.played(at_once=False), layers.played(at_once=True)
        assert at_once == one_by_one, case_seed
        skipped += layers.times - played
    assert skipped > 300


def test_most_layers_of_a_llama_are_placed_together_in_its_first_forward_pass(monkeypatch):
    numbers = []

    def counted(pool, of, places, play):
        def layers(first, last):
            numbers.extend(range(first, last))
            play(first, last)

        play_repetitions(pool, of, places, layers if pool.waste else play)

    run = FastReplay(resident_state(parse_request(LLAMA_8B)), WORKSPACES)
    run.load()
    monkeypatch.setattr("calculator.allocator.fast_replay.play_repetitions", counted)
    run.step()
    assert len(numbers) < 16


def test_a_few_checkpointed_layers_are_placed_one_by_one():
    for model, layers in (("meta-llama/Llama-3.1-8B", 32), ("meta-llama/Llama-3.1-70B", 80)):
        request = parse_request({**LLAMA_8B, "model": model, "training": {"gradient_checkpointing": True}})
        run = FastReplay(resident_state(request), WORKSPACES)
        assert any(run.first.repetitions(1)) == (layers == 80)


def test_repetitions_are_few_or_free_what_others_allocated_one_by_one():
    assert repetitions_of([0, 1], [3, 3], times=5, step=2) is None
    assert repetitions_of([2, ~9], [3] * 100, times=20, step=1) is None
    assert repetitions_of([2, ~1], [3] * 100, times=20, step=1) is not None
